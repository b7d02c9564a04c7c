"""The message log in several processes, some of which are killed."""

from __future__ import annotations

import time
from collections import Counter
from random import Random

import pytest

from tests.processes.messages_tasks import WRONG
from tests.processes.nursery import Nursery
from tests.processes.records import Words
from treering import FsyncPolicy
from treering.stores.messages import MessageLog

WORDS = 200_000
LEASE = 0.05


@pytest.fixture(scope="module")
def nursery():
    with Nursery() as nursery:
        yield nursery


def values(log, topic):
    return [message.value for message in log.consume_from(topic)]


def drained(log):
    """Everything copied and acknowledged; what the group still had."""
    consumer, group = log.consumer("c", "in"), log.group("g", "in", lease=30)
    for message in consumer:
        with log.batch() as batch:
            batch.publish("copy", message.value)
            batch.commit(consumer)
    time.sleep(2 * LEASE)  # what the dead have
    left = []
    while found := group.get(100):
        left += [delivery.position for delivery in found]
        for delivery in found:
            with log.batch() as batch:
                batch.publish("packed", delivery.value)
                batch.ack(group, delivery)
    assert group.lag == consumer.lag == 0
    return left


@pytest.mark.parametrize("consumed", [False, True])
def test_killed_processes_lose_and_repeat_nothing(nursery, tmp_path, consumed):
    """What was published is copied exactly once, in order, and acknowledged exactly once."""
    rng, words = Random(consumed), Words(tmp_path / "words", WORDS)
    options = {"segment_bytes_max": 16384, "checkpoint_records": 300 if consumed else None}
    path, used, kills = str(tmp_path / "log"), 0, 0
    workers = []
    with MessageLog(path, fsync_policy=FsyncPolicy.OS, **options) as log:
        if consumed:
            log.set_retention("in", consumed=True)
    for _ in range(10):
        while len(workers) < 4:
            settings = {"path": path, "words": words.path, "worker": used, "seed": consumed}
            workers.append(nursery.start("share_messages", lease=LEASE, **settings, **options))
            used += 1
        workers[-1].hear("open")
        time.sleep(rng.uniform(0.01, 0.15))
        for worker in rng.sample(workers, rng.randint(1, 4)):
            worker.kill()
            workers.remove(worker)
            kills += 1
    for worker in workers:
        worker.kill()
    with MessageLog(path, fsync_policy=FsyncPolicy.OS, **options) as log:
        left = drained(log)
        copied, packed = values(log, "copy"), values(log, "packed")
        numbers = {}
        for value in copied:
            worker, number = map(int, value.split(b"/"))
            numbers.setdefault(worker, []).append(number)
        for worker in range(used):
            found = numbers.get(worker, [])
            assert found == list(range(len(found))), "lost, repeated or out of order"
            assert words[2 * worker + 1] <= len(found) <= words[2 * worker]
        assert max(Counter(packed).values()) == 1, "acknowledged twice"
        assert words[WRONG] == 0, "an acknowledged message was delivered again"
        if not consumed:
            assert values(log, "in") == copied
        else:
            log.apply_retention()
            assert log.count("in") == 0
        log.check()
        assert log.stats()["trouble"] == []
    assert len(packed) > 20
    print(f"\n{kills} kills, {len(copied)} messages, {len(packed)} packed, {len(left)} at the end")


@pytest.mark.parametrize("seed", range(2))
def test_the_log_is_the_one_history_that_explains_all(nursery, tmp_path, seed):
    path = str(tmp_path / "log")
    with MessageLog(path, fsync_policy=FsyncPolicy.OS) as log:
        workers = [
            nursery.start("message_commands_at_random", path=path, worker=n, count=300, seed=seed)
            for n in range(4)
        ]
        said = [worker.hear("told")["told"] for worker in workers]
        for worker in workers:
            worker.finish()
        told = {kind: [] for kind in ("publish", "copy", "got", "ack")}
        for mine in said:
            positions = [result[0] for kind, result in mine if kind == "publish"]
            assert positions == sorted(positions)  # each process sees time go forwards
            for kind, result in mine:
                told[kind].append(result)
        messages = {m.position: m.value.decode() for m in log.consume_from("in")}
        assert messages == dict(told["publish"])
        copied = [value.decode() for value in values(log, "copy")]
        assert copied == list(messages.values())[: len(copied)]
        assert Counter(copied) == Counter(v for group in told["copy"] for v in group)
        acked = [position for position, won in told["ack"] if won]
        assert len(acked) == len(set(acked)) > 0, "two acknowledged the same"
        deliveries = [tuple(each) for group in told["got"] for each in group]
        assert {position for position, _ in deliveries} >= set(acked)
        group = log.group("g", "in")
        time.sleep(0.01)
        left = []
        while found := group.get(500):
            left += [delivery.position for delivery in found]
            group.ack(*found)
        assert sorted(left + acked) == sorted(messages), "lost, or delivered after its ack"
        log.check()


def test_a_follower_in_another_process_answers_quickly(nursery, tmp_path):
    path, count = str(tmp_path / "log"), 200
    worker = nursery.start("answer_messages", path=path, count=count)
    worker.hear("open")
    with MessageLog(path) as log:
        answers = log.consume_from("pong", follow=True, timeout=20)
        for n in range(count):
            log.publish("ping", b"%d" % n, durable=False)
            assert next(answers).value == b"%d" % n
    worker.finish()
