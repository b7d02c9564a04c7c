"""What worker processes do with a message log."""

from __future__ import annotations

import time
from random import Random

from tests.processes.records import Words
from tests.processes.talk import say
from treering import ConflictError, FsyncPolicy, PrunedError
from treering.stores.messages import LeaseLostError, MessageLog

# In the words: two for each worker, then what went wrong, then for each message where the log
# ended when its ack had returned.
WRONG, ACKED = 200, 201


def _log(path, policy="os", **options) -> MessageLog:
    log = MessageLog(path, fsync_policy=FsyncPolicy.parse(policy), **options)
    say("open", messages=log.count("in"))
    return log


def share_messages(path, words, worker, seed, lease, **options):
    """Publish, copy exactly once, and work in a group, for ever; noting each publish, and which
    messages were acknowledged."""
    log, counters, rng = _log(path, **options), Words(words), Random(f"{seed} {worker}")
    group, consumer = log.group("g", "in", lease=lease), log.consumer("c", "in")
    while True:
        chance = rng.random()
        if chance < 0.4:
            _publish(log, counters, worker, rng.choice((1, 1, 3)))
        elif chance < 0.6:
            copy(log, consumer)
        elif chance < 0.97:
            _pack(log, group, counters)
        else:
            log.checkpoint()


def _publish(log, counters, worker, count):
    number = counters[2 * worker]
    counters[2 * worker] += count
    values = [b"%d/%d" % (worker, number + n) for n in range(count)]
    if count == 1:
        log.publish("in", values[0])
    else:
        log.publish_many("in", values)
    counters[2 * worker + 1] = counters[2 * worker]


def copy(log, consumer) -> list[bytes]:
    """Copy some messages, unless another process does; those that were."""
    try:
        found = consumer.poll(3)
        with log.batch() as batch:
            for message in found:
                batch.publish("copy", message.value)
            batch.commit(consumer)
    except (ConflictError, PrunedError):  # another one was faster, and retention after it
        consumer.resume()
        return []
    return [message.value for message in found]


def _pack(log, group, counters):
    """Every second one with a message about it."""
    for delivery in group.get(3):
        # Not after an ack that was over before. (Another member may get it, and acknowledge it,
        # while we are still on our way here with a lease that is over.)
        counters[WRONG] += 0 < counters[ACKED + delivery.position] <= delivery.lease
        try:
            if delivery.position % 2:
                with log.batch() as batch:
                    batch.publish("packed", delivery.value)
                    batch.ack(group, delivery)
            else:
                group.ack(delivery)
        except LeaseLostError:
            continue
        counters[ACKED + delivery.position] = log.position


def message_commands_at_random(path, worker, count, seed, **options):
    """Random commands; says what each of them returned."""
    rng, told = Random(f"{seed} {worker}"), []
    with _log(path, **options) as log:
        group, consumer = log.group("g", "in", lease=0.005), log.consumer("c", "in")
        held = []
        for number in range(count):
            chance = rng.random()
            if chance < 0.45:
                value = f"{worker}/{number}"
                told.append(("publish", [log.publish("in", value.encode()), value]))
            elif chance < 0.55:
                values = [value.decode() for value in copy(log, consumer)]
                told.append(("copy", values))
            elif chance < 0.75:
                held += group.get(2)
                told.append(("got", [[d.position, d.deliveries] for d in held[-2:]]))
            elif chance < 0.95 and held:
                delivery = held.pop(rng.randrange(len(held)))
                told.append(("ack", [delivery.position, _acked(group, delivery)]))
            elif chance < 0.98:
                time.sleep(0.005)
            else:
                log.checkpoint()
    say("told", told=told)


def _acked(group, delivery) -> bool:
    try:
        group.ack(delivery)
    except LeaseLostError:
        return False
    return True


def answer_messages(path, count):
    """Follow "ping", and answer each message with one of "pong"."""
    with _log(path) as log:
        for message in log.consume_from("ping", follow=True, timeout=30):
            log.publish("pong", message.value, durable=False)
            count -= 1
            if not count:
                return
