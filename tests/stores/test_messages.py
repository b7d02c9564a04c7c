"""The message log, call by call."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
import traceback

import pytest

from tests.stores._opening import SMALL, opener
from treering import (
    ConflictError,
    DamageError,
    Database,
    FsyncPolicy,
    NotThereError,
    PositionError,
    PrunedError,
    ReadOnlyError,
    Record,
    TooLargeError,
    UsageError,
    VersionError,
)
from treering.stores.messages import LeaseLostError, Message, MessageLog
from treering.stores.messages import records as rec
from treering.stores.messages.index import CHUNK_MESSAGES, Index
from treering.stores.messages.state import State
from treering.testing import FakeClock

SECOND = 1_000_000_000


@pytest.fixture
def clock():
    return FakeClock(1_000_000 * SECOND)


@pytest.fixture
def opened(files, clock):
    with opener(MessageLog, "/log", files=files, clock=clock) as open_store:
        yield open_store


@pytest.fixture
def log(opened):
    return opened()


@pytest.fixture
def other(log, opened):
    return opened()


def values(messages):
    return [message.value for message in messages]


def fill(log, topic, start, stop):
    return [log.publish(topic, b"%d" % n) for n in range(start, stop)]


# --- publish and consume ---


def test_a_message_is_what_was_published(log, other, clock):
    clock.advance(0.5)
    position = log.publish("orders", b"two", b"ada", {"type": b"new"})
    assert list(other.consume_from("orders")) == [
        Message("orders", position, b"ada", b"two", {"type": b"new"}, 1_000_000.5)
    ]
    assert list(other.consume_from("order")) == []
    log.publish("orders", None)
    log.publish("orders", None, b"")
    log.publish("orders", bytearray(b"x"), b"k" * 65_000)
    found = list(other.consume_from("orders", position + 1))
    assert [(m.key, m.value) for m in found] == [(None, None), (b"", None), (b"k" * 65_000, b"x")]


def test_topics_do_not_see_each_other(log, other):
    names = ["a", "ab", "abc", "b", "ä", "m" * 249]
    wanted = {name: [] for name in names}
    for n in range(600):
        name = names[n * n % 6]
        wanted[name].append(b"%d" % n)
        (log if n % 2 else other).publish(name, b"%d" % n, b"b" if n % 3 else None)
    for each in (log, other):
        assert each.topics() == sorted(name for name in names if wanted[name])
        for name in names:
            assert values(each.consume_from(name)) == wanted[name]
            assert each.count(name) == len(wanted[name])
    log.check()


def test_many_at_once_are_one_frame(log, other):
    log.publish("b", b"0")
    assert log.publish_many("a", [b"%d" % n for n in range(10_000)]) == range(1, 10_001)
    mixed = [b"x", (b"k", b"y"), (None, None), (b"k", b"z", {"h": b"1"})]
    assert log.publish_many("a", mixed) == range(10_001, 10_005)
    assert len(log.publish_many("a", [])) == 0
    found = list(other.consume_from("a"))
    assert values(found[:10_000]) == [b"%d" % n for n in range(10_000)]
    assert [(m.key, m.value) for m in found[10_000:]] == [
        (None, b"x"),
        (b"k", b"y"),
        (None, None),
        (b"k", b"z"),
    ]
    assert found[-1].headers == {"h": b"1"}
    assert log.size("a") == other.size("a") == 38_895
    assert values(log.consume_from("a", 5000))[:2] == [b"4999", b"5000"]
    log.check()


def test_gaps_chunks_and_positions_between(log):
    positions = []
    for _ in range(3 * CHUNK_MESSAGES // 100):
        log.publish_many("noise", [b"n"] * 7)
        positions += log.publish_many("a", [b"v"] * 100)
    assert [m.position for m in log.consume_from("a")] == positions
    for at in (0, 1, 99, 100, 4095, 4096, len(positions) - 1):
        assert next(log.consume_from("a", positions[at])).position == positions[at]
        first = next(log.consume_from("a", max(positions[at] - 3, 0)))
        assert first.position == min(p for p in positions if p >= positions[at] - 3)
    assert list(log.consume_from("a", positions[-1] + 1)) == []


def test_bounds(log):
    assert log.bounds("a") == (0, 0)
    log.publish("b", b"")
    fill(log, "a", 0, 3)
    assert log.bounds("a") == (1, 4)
    log.set_retention("a", bytes=1)
    assert log.apply_retention() == 2
    assert log.bounds("a") == (3, 4)


@pytest.mark.parametrize("name", ["", "x" * 250, b"bytes", None, 5, "\ud800"])
def test_bad_names_are_refused(log, name):
    for call in (
        lambda: log.publish(name, b""),
        lambda: log.publish_many(name, [b""]),
        lambda: log.consumer("c", name),
        lambda: log.consumer(name, "t"),
        lambda: log.group(name, "t"),
        lambda: log.set_retention(name),
        lambda: log.count(name),
    ):
        with pytest.raises(UsageError):
            call()
    assert log.position == 0


def test_bad_messages_are_refused(log):
    for bad in ("text", 5, [b"x"]):
        with pytest.raises(UsageError):
            log.publish("a", bad)
        with pytest.raises(UsageError):
            log.publish_many("a", [b"good", bad])
        with pytest.raises(UsageError):
            log.publish("a", b"", bad)
    with pytest.raises(TooLargeError):
        log.publish("a", b"", b"k" * 65_001)
    assert log.position == 0
    for bad in (-1, "1", True):
        with pytest.raises(UsageError):
            log.consume_from("a", bad)
        with pytest.raises(UsageError):
            log.consume_from("a", timeout=bad)
    with pytest.raises(UsageError):
        log.consume_from("a", 0, time=5)


def test_from_a_time_on(log, clock):
    for n in range(50):
        log.publish("a" if n % 2 else "b", b"%d" % n)
        clock.advance(1)
    assert values(log.consume_from("a", time=1_000_040)) == [b"41", b"43", b"45", b"47", b"49"]
    assert values(log.consume_from("a", time=1_000_049.5)) == []
    assert len(values(log.consume_from("a", time=0.5))) == 25


def test_a_view_of_the_past(log):
    fill(log, "a", 0, 5)
    consumer = log.consumer("c", "a")
    then = log.position
    consumer.poll(3)
    consumer.commit()
    fill(log, "a", 5, 10)
    view = log.at(position=then)
    assert values(view.consume_from("a")) == [b"0", b"1", b"2", b"3", b"4"]
    assert view.consumers("a") == {"c": 0}
    assert log.consumers("a") == {"c": 3}
    assert (view.topics(), view.count("a"), view.bounds("a")) == (["a"], 5, (0, 5))
    with pytest.raises(PositionError):
        log.at(position=99)


# --- following ---


def test_following_wakes_up(log, other):
    got = []
    follower = other.consume_from("a", follow=True, timeout=5)

    def read():
        got.extend((message.value, time.perf_counter()) for message in follower)

    reader = threading.Thread(target=read)
    reader.start()
    for n in range(5):
        time.sleep(0.02)
        log.publish("b", b"noise")
        log.publish("a", b"%d" % n)
    time.sleep(0.05)
    follower.stop()
    reader.join(2)
    assert not reader.is_alive()
    assert [value for value, _ in got] == [b"0", b"1", b"2", b"3", b"4"]


def test_following_ends_after_its_time(log):
    began = time.monotonic()
    assert list(log.consume_from("a", follow=True, timeout=0.1)) == []
    assert 0.09 < time.monotonic() - began < 1


def test_a_follower_goes_on_when_there_is_more(log):
    messages = log.consume_from("a")
    assert list(messages) == []
    log.publish("a", b"1")
    assert values(messages) == [b"1"]
    assert messages.position == 1
    messages.close()
    log.publish("a", b"2")
    assert list(messages) == []


def test_async_for(log, other):
    async def publish():
        for n in range(5):
            await asyncio.sleep(0.01)
            await asyncio.to_thread(other.publish, "a", b"%d" % n)

    async def main():
        task = asyncio.create_task(publish())
        got = []
        async for message in log.consume_from("a", follow=True, timeout=5):
            got.append(message.value)
            if len(got) == 5:
                break
        await task
        return got

    assert asyncio.run(main()) == [b"0", b"1", b"2", b"3", b"4"]


def test_a_cancelled_step_loses_nothing_and_leaves_no_thread(log, other):
    async def main():
        messages = log.consume_from("a", follow=True)
        for n in range(3):
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(anext(messages), 0.03)
            other.publish("a", b"%d" % n)
            await asyncio.sleep(0.05 * n)
            assert (await asyncio.wait_for(anext(messages), 5)).value == b"%d" % n
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(anext(messages), 0.01)

    began = time.monotonic()
    asyncio.run(main())  # would hang at its end with a thread that waits for ever
    assert time.monotonic() - began < 5


# --- consumers ---


def test_a_consumer_goes_on_where_it_committed(log, opened):
    fill(log, "a", 0, 10)
    consumer = log.consumer("c", "a")
    assert values(consumer.poll(4)) == [b"0", b"1", b"2", b"3"]
    assert (consumer.position, consumer.committed, consumer.lag) == (4, 0, 10)
    consumer.commit()
    assert values(consumer.poll(2)) == [b"4", b"5"]  # and not committed
    again = opened().consumer("c", "a")
    assert (again.committed, again.lag) == (4, 6)
    assert values(again) == [b"4", b"5", b"6", b"7", b"8", b"9"]
    assert values(log.consumer("d", "a")) == [b"%d" % n for n in range(10)]
    assert log.consumers("a") == {"c": 4, "d": 0}


def test_iterating_commits_up_to_the_message_in_hand(log):
    fill(log, "a", 0, 10)
    consumer = log.consumer("c", "a")
    for message in consumer:
        consumer.commit()
        if message.value == b"6":
            break
    assert consumer.committed == 7
    assert values(consumer) == [b"7", b"8", b"9"]
    assert consumer.poll(5, 0) == []
    consumer.seek(2)
    assert values(consumer.poll(1)) == [b"2"]
    consumer.seek()
    assert values(consumer.poll(1)) == [b"0"]
    consumer.seek(time=1)
    assert len(values(consumer)) == 10
    consumer.resume()
    assert values(consumer.poll(1)) == [b"7"]


@pytest.mark.parametrize("error", [PrunedError("gone"), KeyboardInterrupt()])
def test_an_error_between_two_blocks_loses_no_message(log, error):
    fill(log, "a", 0, 600)
    consumer = log.consumer("c", "a")
    fetch, failing = consumer._shelf.fetch, [None, error]

    def fetch_or_fail(*arguments):
        wrong = failing.pop(0) if failing else None
        if wrong is not None:
            raise wrong
        return fetch(*arguments)

    consumer._shelf.fetch = fetch_or_fail
    if isinstance(error, PrunedError):
        got = consumer.poll(400)
        assert (len(got), consumer.position) == (256, 256)
    else:
        with pytest.raises(KeyboardInterrupt):
            consumer.poll(400)
        got = []
        assert consumer.position == 0
    got += consumer.poll(1000)
    assert values(got) == [b"%d" % n for n in range(600)]


def test_two_with_one_name_cannot_both_commit(log, other):
    fill(log, "a", 0, 10)
    one, two = log.consumer("c", "a"), other.consumer("c", "a")
    one.poll(5), two.poll(3)
    one.commit()
    end = log.position
    with pytest.raises(ConflictError, match="resume"):
        two.commit()
    with pytest.raises(ConflictError), other.batch() as batch:
        batch.publish("out", b"twice")
        batch.commit(two)
    assert (log.position, log.count("out"), one.committed) == (end, 0, 5)
    two.resume()
    assert values(two.poll(1)) == [b"5"]
    two.commit()
    with pytest.raises(ConflictError):
        one.commit()


def test_a_commit_of_the_same_position_by_another_is_a_conflict_too(log, other):
    """One goes ahead and comes back: the number is the same, the history is not."""
    fill(log, "a", 0, 10)
    one, two = log.consumer("c", "a"), other.consumer("c", "a")
    one.commit(5)
    one.commit(0)
    with pytest.raises(ConflictError):
        two.commit(3)


def test_a_batch_is_all_or_nothing(log, other):
    fill(log, "in", 0, 3)
    consumer = log.consumer("c", "in")
    for message in consumer:
        with log.batch() as batch:
            batch.publish("out", b"<" + message.value, b"k", {"h": b"1"})
            batch.publish("audit", message.value)
            batch.commit(consumer)
    assert values(other.consume_from("out")) == [b"<0", b"<1", b"<2"]
    assert (consumer.committed, consumer.lag) == (3, 0)
    with pytest.raises(ZeroDivisionError), log.batch() as batch:
        batch.publish("out", b"x")
        raise ZeroDivisionError
    with log.batch() as batch:
        assert len(batch) == 0
    assert log.count("out") == 3
    with log.batch() as batch:
        batch.publish("out", b"y")
    assert log.count("out") == 4


def test_commits_that_make_no_sense(log):
    fill(log, "a", 0, 3)
    consumer = log.consumer("c", "a")
    for bad in (-1, "x", True):
        with pytest.raises(UsageError):
            consumer.commit(bad)
    with pytest.raises(PositionError):
        consumer.commit(1000)
    log.delete_consumer("c", "a")
    log.delete_consumer("c", "a")
    with pytest.raises(NotThereError):
        consumer.commit(1)
    with pytest.raises(NotThereError):
        consumer.resume()
    assert log.consumer("c", "a", start=2).position == 2


def test_a_read_only_log_follows(log, opened):
    fill(log, "a", 0, 3)
    log.consumer("c", "a").commit(2)
    reader = opened(read_only=True)
    assert values(reader.consume_from("a")) == [b"0", b"1", b"2"]
    assert values(reader.consumer("c", "a")) == [b"2"]
    for call in (
        lambda: reader.publish("a", b""),
        lambda: reader.consumer("new", "a"),
        lambda: reader.group("g", "a"),
        lambda: reader.checkpoint(),
    ):
        with pytest.raises(ReadOnlyError):
            call()
    reader.sync()


# --- groups ---


def test_members_share_the_messages(log, other):
    fill(log, "a", 0, 10)
    one, two = log.group("g", "a"), other.group("g", "a")
    mine, yours = one.get(4), two.get(100)
    assert (values(mine), values(yours)) == (
        [b"0", b"1", b"2", b"3"],
        [b"4", b"5", b"6", b"7", b"8", b"9"],
    )
    assert one.get() == two.get() == []
    assert (one.pending, one.lag) == (10, 10)
    one.ack(*mine)
    two.ack(yours[0])
    assert (one.pending, two.lag) == (5, 5)
    assert log.groups("a") == {"g": 5}
    log.publish("a", b"10")
    assert values(one.get(3)) == [b"10"]


def test_a_lease_that_is_over_goes_to_another_in_order(log, other, clock):
    fill(log, "a", 0, 6)
    one, two = log.group("g", "a", lease=10), other.group("g", "a", lease=10)
    lost = one.get(4)
    assert {d.deliveries for d in lost} == {1}
    clock.advance(9.9)
    assert values(two.get(1)) == [b"4"]
    clock.advance(0.2)
    found = two.get(4)
    assert values(found) == [b"0", b"1", b"2", b"3"]
    assert [d.deliveries for d in found] == [2, 2, 2, 2]
    for call in (one.ack, one.nack, one.extend):
        with pytest.raises(LeaseLostError):
            call(lost[0])
    two.ack(*found)
    clock.advance(100)
    assert values(one.get(10)) == [b"4", b"5"]
    assert log.groups("a") == {"g": 4}


def test_an_ack_after_the_time_counts_if_nobody_else_got_it(log, clock):
    fill(log, "a", 0, 2)
    group = log.group("g", "a", lease=1)
    mine = group.get(1)
    clock.advance(5)
    group.ack(*mine)
    assert values(group.get(5)) == [b"1"]
    with pytest.raises(LeaseLostError):
        group.ack(*mine)


def test_acks_are_all_or_none(log, other, clock):
    fill(log, "a", 0, 3)
    group = log.group("g", "a", lease=1)
    one, two = group.get(1), group.get(1)
    group.ack(*one)
    with pytest.raises(LeaseLostError):
        group.ack(*two, *one)
    clock.advance(2)
    assert values(other.group("g", "a").get(5)) == [b"1", b"2"]
    with pytest.raises(UsageError):
        group.ack(b"no delivery")


def test_nack_gives_back_and_fences(log, clock):
    fill(log, "a", 0, 3)
    group = log.group("g", "a", lease=50)
    mine = group.get(3)
    group.nack(mine[1])
    with pytest.raises(LeaseLostError):
        group.ack(mine[1])
    group.nack(mine[0], delay=5)
    again = group.get(3)
    assert [(d.value, d.deliveries) for d in again] == [(b"1", 2)]
    clock.advance(6)
    assert [(d.value, d.deliveries) for d in group.get(3)] == [(b"0", 2)]


def test_extend_keeps(log, other, clock):
    fill(log, "a", 0, 1)
    one, two = log.group("g", "a", lease=10), other.group("g", "a", lease=10)
    mine = one.get()
    for _ in range(5):
        clock.advance(9)
        one.extend(*mine)
        assert two.get() == []
    one.extend(*mine, seconds=100)
    clock.advance(99)
    assert two.get() == []
    one.ack(*mine)
    clock.advance(1000)
    assert two.get() == []


def test_a_clock_that_steps_back_brings_no_lease_back(log, other, clock):
    fill(log, "a", 0, 1)
    one, two = log.group("g", "a", lease=10), other.group("g", "a", lease=10)
    one.get()
    clock.advance(11)
    log.consumer("any", "a")  # a record of that time
    clock.jump(-10)
    assert values(two.get()) == [b"0"]


def test_get_waits_for_messages_and_for_leases(opened, files):
    log = opened(clock=time.time_ns)
    other = opened(clock=time.time_ns)
    one, two = log.group("g", "a", lease=0.2), other.group("g", "a", lease=0.2)
    began = time.monotonic()
    assert one.get(1, 0.05) == []
    threading.Timer(0.05, lambda: log.publish("a", b"1")).start()
    assert values(one.get(1, 5)) == [b"1"]
    assert values(two.get(1, 5)) == [b"1"]  # when the first one's lease is over
    assert 0.2 < time.monotonic() - began < 2


def test_a_batch_acknowledges_too(log, other):
    fill(log, "in", 0, 2)
    group = log.group("g", "in")
    for delivery in group.get(2):
        with log.batch() as batch:
            batch.publish("out", delivery.value)
            batch.ack(group, delivery)
    assert (group.lag, values(other.consume_from("out"))) == (0, [b"0", b"1"])
    with pytest.raises(LeaseLostError), log.batch() as batch:
        batch.publish("out", b"twice")
        batch.ack(group, delivery)
    assert log.count("out") == 2


def test_a_group_begins_anew(log):
    fill(log, "a", 0, 5)
    group = log.group("g", "a", start=3)
    held = group.get(10)
    assert values(held) == [b"3", b"4"]
    group.seek(1)
    with pytest.raises(LeaseLostError):
        group.ack(*held)
    assert values(group.get(10)) == [b"1", b"2", b"3", b"4"]
    log.delete_group("g", "a")
    with pytest.raises(NotThereError):
        group.get()
    with pytest.raises(NotThereError):
        group.seek()
    assert log.groups("a") == {}


@pytest.mark.parametrize("bad", [0, -1, "5", True, None, float("nan")])
def test_bad_leases_are_refused(log, bad):
    with pytest.raises(UsageError):
        log.group("g", "a", lease=bad)


# --- retention ---


def test_by_age(log, other, clock):
    fill(log, "keep", 0, 5)
    for n in range(100):
        log.publish("a", b"%d" % n)
        clock.advance(1)
    log.set_retention("a", seconds=10)
    assert log.apply_retention() == 90
    assert values(other.consume_from("a")) == [b"%d" % n for n in range(90, 100)]
    assert other.count("keep") == 5
    assert log.apply_retention() == 0
    clock.advance(1000)
    assert log.apply_retention() == 10
    assert (log.count("a"), log.bounds("a")) == (0, (105, 105))
    log.publish("a", b"new")
    assert values(other.consume_from("a")) == [b"new"]
    log.checkpoint()
    log.check()


def test_by_bytes(log):
    log.publish_many("a", [b"x" * 10] * 10_000)
    log.set_retention("a", bytes=12_345)
    log.apply_retention()
    assert (log.count("a"), log.size("a")) == (1234, 12_340)
    log.publish("a", b"y" * 20_000)
    log.apply_retention()
    assert log.count("a") == 0


def test_by_the_slowest(log, opened):
    fill(log, "a", 0, 20)
    log.set_retention("a", consumed=True)
    assert log.apply_retention() == 0  # nobody consumes
    consumer, group = log.consumer("c", "a"), log.group("g", "a")
    consumer.commit(12)
    held = group.get(10)
    group.ack(*held[:3], *held[4:])
    assert log.apply_retention() == 3
    group.ack(held[3])
    assert log.apply_retention() == 7
    group.ack(*group.get(10))
    assert log.apply_retention() == 2
    log.delete_consumer("c", "a")
    assert log.apply_retention() == 8
    log.checkpoint()
    log.check()
    assert opened().count("a") == 0


def test_whoever_is_behind_is_told(log, other):
    fill(log, "a", 0, 10)
    consumer, group, sleeper = (
        log.consumer("c", "a"),
        log.group("g", "a"),
        other.consume_from("a"),
    )
    assert next(sleeper).value == b"0"
    held = group.get(8)
    group.ack(*held[:2])
    log.set_retention("a", bytes=4)
    log.apply_retention()
    with pytest.raises(PrunedError) as caught:
        consumer.poll()
    assert (caught.value.oldest, caught.value.position) == (6, 0)
    consumer.seek(caught.value.oldest)
    assert values(consumer) == [b"6", b"7", b"8", b"9"]
    for call in (
        lambda: other.consume_from("a", 5),
        lambda: consumer.seek(0),
        lambda: other.consume_from("a", time=1),
        lambda: group.get(),
    ):
        with pytest.raises(PrunedError) as caught:
            call()
        assert caught.value.oldest == 6
    with pytest.raises(LeaseLostError):
        group.ack(held[2])
    group.ack(held[6])
    group.skip_removed()
    assert values(group.get(5)) == [b"8", b"9"]
    assert log.groups("a") == {"g": 7}


def test_a_group_that_had_acknowledged_misses_nothing(log):
    fill(log, "a", 0, 10)
    group = log.group("g", "a")
    group.ack(*group.get(6))
    log.set_retention("a", bytes=4)
    log.apply_retention()
    assert values(group.get(10)) == [b"6", b"7", b"8", b"9"]


def test_the_disk_stays_bounded(log, opened):
    log.set_retention("a", bytes=3000)
    most = 0
    for _ in range(60):
        for n in range(100):
            log.publish("a", b"%050d" % n)
        log.checkpoint()
        most = max(most, log.stats()["bytes"])
    assert log.count("a") == 60
    assert most < 60_000
    assert log.stats()["first_position"] > 5000
    log.check()
    again = opened()
    assert values(again.consume_from("a")) == [b"%050d" % n for n in range(40, 100)]
    again.check()


def test_the_background_applies_retention(opened):
    log = opened(checkpoint_records=200)
    log.set_retention("a", bytes=500)
    until = time.monotonic() + 10
    while log.stats()["first_position"] == 0 and time.monotonic() < until:
        fill(log, "a", 0, 50)
    assert log.stats()["first_position"] > 0
    assert log.stats()["trouble"] == []


def test_what_a_topic_needs_stays(log, opened):
    fill(log, "old", 0, 3)
    for _ in range(5):
        fill(log, "a", 0, 200)
        log.checkpoint()
    log.set_retention("a", bytes=10)
    log.checkpoint()
    log.publish("a", b"")
    log.checkpoint()
    assert log.stats()["first_position"] == 0
    assert values(opened().consume_from("old")) == [b"0", b"1", b"2"]
    log.delete_topic("old")
    log.checkpoint()
    log.publish("a", b"")
    log.checkpoint()
    assert log.stats()["first_position"] > 900


def test_delete_topic(log, other):
    fill(log, "a", 0, 3)
    consumer, group = log.consumer("c", "a"), log.group("g", "a")
    log.set_retention("a", bytes=1)
    log.delete_topic("a")
    log.delete_topic("a")
    assert (other.topics(), other.count("a"), other.consumers("a")) == ([], 0, {})
    with pytest.raises(NotThereError):
        consumer.commit(2)
    with pytest.raises(NotThereError):
        group.get()
    fill(log, "a", 3, 6)
    assert log.apply_retention() == 0
    assert values(other.consume_from("a")) == [b"3", b"4", b"5"]


@pytest.mark.parametrize(
    "bad",
    [{"seconds": 0}, {"seconds": "1"}, {"bytes": 0}, {"bytes": 1.5}, {"tombstone_seconds": 0}],
)
def test_bad_retention_is_refused(log, bad):
    with pytest.raises(UsageError):
        log.set_retention("a", **bad)
    assert log.position == 0


# --- compaction ---


@pytest.fixture
def table(log):
    log.set_retention("t", compact=True)
    return log


def test_only_the_newest_of_each_key_stays(table, other, opened):
    for n in range(5000):
        (table if n % 2 else other).publish("t", b"%d" % n, b"k%d" % (n * 7 % 11))
    newest = {b"k%d" % (n * 7 % 11): n for n in range(5000)}
    for each in (table, other):
        found = list(each.consume_from("t"))
        assert {m.key: int(m.value) for m in found} == newest
        assert [m.position for m in found] == sorted(m.position for m in found)
        assert [m.position for m in found] == [int(m.value) + 1 for m in found]
        assert each.count("t") == 11
    table.checkpoint()
    table.publish("other", b"")
    table.checkpoint()
    assert table.stats()["first_position"] > 4900
    again = opened()
    assert list(again.consume_from("t")) == found
    again.check()
    assert len(table._fold.current.topics[b"t"].index) < 2000  # and memory is bounded


def test_deletions_stay_for_a_while(table, other, clock):
    table.publish("t", b"1", b"a", {"h": b"x"})
    table.publish("t", b"2", b"b")
    table.publish("t", None, b"a")
    assert [(m.key, m.value) for m in other.consume_from("t")] == [(b"b", b"2"), (b"a", None)]
    assert table.apply_retention() == 0
    clock.advance(86_401)
    assert table.apply_retention() == 1
    assert [(m.key, m.value) for m in other.consume_from("t")] == [(b"b", b"2")]
    table.publish("t", b"3", b"a")
    assert other.count("t") == 2
    table.checkpoint()
    table.check()


def test_compaction_is_chosen_before_the_first_message(table, log):
    log.publish("plain", b"1")
    with pytest.raises(UsageError, match="too late"):
        log.set_retention("plain", compact=True)
    table.publish("t", b"1", b"a")
    with pytest.raises(UsageError, match="too late"):
        table.set_retention("t", seconds=5)
    for call in (
        lambda: table.publish("t", b"1"),
        lambda: table.publish_many("t", [b"1"]),
        lambda: table.batch().publish("t", b"1"),
    ):
        with pytest.raises(UsageError, match="key"):
            call()
    assert table.count("t") == 1


def test_a_compacted_topic_can_age_and_be_bounded(table, clock):
    table.set_retention("t", compact=True, seconds=10)
    for n in range(10):
        table.publish("t", b"%d" % n, b"k%d" % n)
        clock.advance(2)
    assert table.apply_retention() == 5
    with pytest.raises(PrunedError):
        table.consume_from("t", 0)
    table.set_retention("t", compact=True, bytes=6)
    assert table.apply_retention() == 3
    assert values(table.consume_from("t")) == [b"8", b"9"]


def test_a_group_over_a_compacted_topic(table, other, clock):
    for n in range(4):
        table.publish("t", b"%d" % n, b"k%d" % n)
    one, two = table.group("g", "t", lease=5), other.group("g", "t", lease=5)
    held = one.get(3)
    table.publish("t", b"new", b"k0")
    one.ack(held[0])  # it was superseded, but it is this member's
    table.publish("t", b"newer", b"k1")
    clock.advance(6)
    assert values(two.get(10)) == [b"2", b"3", b"new", b"newer"]
    assert two.pending == 4
    consumer = table.consumer("c", "t")
    assert (consumer.lag, values(consumer)) == (4, [b"2", b"3", b"new", b"newer"])


# --- states and snapshots ---


def rich(log, clock):
    """A log with something of everything."""
    fill(log, "a", 0, 9000)
    log.set_retention("a", bytes=25_000)
    log.set_retention("t", compact=True)
    for n in range(20):
        log.publish("t", b"%d" % n, b"k%d" % (n % 7), {"n": b"%d" % n})
    log.publish("t", None, b"k1")
    log.consumer("c", "a").commit(30)
    group = log.group("g", "a", start=0, lease=5)
    held = group.get(10)
    group.ack(held[2])
    group.nack(held[3])
    log.group("empty", "t")
    log.apply_retention()
    other = log.group("h", "a", lease=7)
    held = other.get(5)
    other.ack(held[1])
    log.set_retention("a", seconds=1000)
    clock.advance(1.234567891)
    fill(log, "a", 0, 50)


def inside(state):
    """All that a state knows."""
    topics = {
        name: (
            topic.gone,
            topic.next,
            topic.rules,
            topic.kept,
            topic.newest,
            list(topic.index.each()) if topic.kept is None else None,
            (topic.index.start, topic.index.end, topic.size()) if topic.kept is None else None,
            topic.consumers,
            {
                name: (members.frontier, members.version, members.missed, members.leases)
                for name, members in topic.groups.items()
            },
        )
        for name, topic in state.topics.items()
    }
    return {"topics": topics, "newest_ns": state.newest_ns, "end": state.end}


def test_snapshots_hold_everything(log, opened, clock):
    rich(log, clock)
    log.checkpoint()  # which applies retention first
    before, known = list(log._fold.current.dump()), inside(log._fold.current)
    log.check()
    again = opened()
    assert list(again._fold.current.dump()) == before
    assert inside(again._fold.current) == known
    assert min(gone for gone, *_ in known["topics"].values()) == 0 < known["topics"][b"a"][0]
    groups = known["topics"][b"a"][-1]
    assert groups[b"g"][2] > 0 == len(groups[b"g"][3])  # it missed some
    assert [lease[0] > 0 for lease in groups[b"h"][3].values()] == [True] * 4
    fill(again, "a", 0, 5000)
    again.group("g", "t").get(3)
    again.checkpoint()
    again.checkpoint()
    log.check()
    again.check()
    assert log._fold.state().end == again._fold.current.end


def test_a_snapshot_of_many_messages_is_few_records(log):
    log.publish_many("a", [b"v"] * 100_000)
    dumped = list(log._fold.state().dump())
    assert len(dumped) < 40
    assert sum(len(record.value) for record in dumped) < 12.5 * 100_000


def test_a_copy_stays_and_a_scratch_leaves_all_as_it_is(log, clock):
    rich(log, clock)
    state = log._fold.state()
    before = list(state.dump())
    copy, scratch = state.copy(), state.scratch()
    position = state.end
    for record in (
        Record(rec.PLAIN + b"a", b"new"),
        Record(rec.named(rec.KEYED, b"t", b"k1"), b"new"),
        Record(rec.named(rec.DELETE, b"a")),
        Record(rec.PLAIN + b"a", b"new"),
    ):
        scratch.apply(record._placed(position, 5))
        position += 1
    assert list(state.dump()) == list(copy.dump()) == before
    assert scratch.topics[b"a"].count() == 1
    assert scratch.topics[b"t"].count() == 7
    fill(log, "a", 0, 10)
    log.group("g", "a").skip_removed()
    assert list(copy.dump()) == before != list(state.dump())


def test_taking_in_a_message_twice_is_no_harm():
    index = Index()
    for n in range(3 * CHUNK_MESSAGES):
        index.append(n, 1)
        index.append(n, 1)
        if n % 1000 == 0:
            index.chunks[-1].sizes.extend([7, 7])  # an interrupt came after the sizes
    assert (len(index), index.size(), index.rising()) == (
        3 * CHUNK_MESSAGES,
        3 * CHUNK_MESSAGES,
        True,
    )


class Stop(BaseException):
    pass


def stopped_at(step, action):
    """Whether the action was stopped at that line of the store's code, or was over before."""
    left = step

    def trace(frame, event, arg):
        nonlocal left
        if event == "line" and "stores/messages" in frame.f_code.co_filename:
            left -= 1
            if left == 0:
                raise Stop
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        action()
    except Stop:
        return True
    finally:
        sys.settrace(before)
    return False


def work_in_group(log):
    group = log.group("g", "a", lease=60)
    group.ack(*group.get(2))


def commit_some(log):
    consumer = log.consumer("c", "a")
    consumer.poll(2)
    with log.batch() as batch:
        batch.publish("out", b"did")
        batch.commit(consumer)


@pytest.mark.parametrize(
    "action",
    [
        lambda log: log.publish("a", b"1", b"key"),
        lambda log: log.publish_many("a", [b"1", b"22"]),
        lambda log: log.publish("t", b"1", b"key"),
        work_in_group,
        commit_some,
        lambda log: log.set_retention("a", bytes=5) or log.apply_retention(),
    ],
    ids=["publish", "publish_many", "compacted", "group", "batch", "retention"],
)
def test_an_interrupt_anywhere_harms_nothing(log, opened, action):
    """What was under way is in the log as a whole or not at all, and the handle knows which."""
    log.set_retention("t", compact=True)
    step = 1
    while stopped_at(step, lambda: action(log)):
        step += 1
        with opened() as fresh:
            assert inside(log._fold.state()) == inside(fresh._fold.state())
        if step % 60 == 0:
            fill(log, "a", 0, 3)
    assert step > 20
    log.check()


def test_records_of_others_are_refused():
    for record, error in (
        (Record(b"", b""), VersionError),
        (Record(b"?new", b""), VersionError),
        (Record(b"m", b""), DamageError),
        (Record(b"m\xff", b""), DamageError),
        (Record(b"k", b""), DamageError),
        (Record(b"k\x05ab", b""), DamageError),
        (Record(rec.named(rec.COMMIT, b"a", b"c"), b"123"), DamageError),
        (Record(rec.named(rec.LEASE, b"a", b"g"), b"12345678"), DamageError),
        (Record(rec.named(rec.TRIM, b"a"), b""), DamageError),
        (Record(rec.named(rec.RETENTION, b"a"), b"x"), DamageError),
        (Record(rec.named(rec.RETENTION, b"a"), bytes(24) + b"\x80"), VersionError),
        (Record(rec.HEADER, b""), VersionError),
    ):
        with pytest.raises(error):
            State().apply(record._placed(5, 5))
    for record in (
        Record(b"?", b""),
        Record(rec.HEADER, b"1"),
        Record(rec.named(rec.TOPIC, b"a"), b"1"),
        Record(rec.named(rec.CHUNK, b"a"), b"1" * 16),
        Record(rec.named(rec.CHUNK, b"a"), rec.PAIR.pack(0, 1 << 60) + b"x" * 24),
        Record(rec.named(rec.KEPT, b"a"), b""),
        Record(rec.named(rec.MEMBER, b"a", b"g"), b"12345678"),
        Record(rec.named(rec.LEASES, b"a", bytes(8) + b"g"), bytes(32)),
    ):
        with pytest.raises((DamageError, VersionError)):
            State().load(record)


def test_the_index_must_tell_the_truth(log):
    fill(log, "a", 0, 5)
    log.publish("b", b"x")
    log.check()
    log._fold.current.topic(b"a").index.append(5, 1)  # that is b's
    with pytest.raises(DamageError):
        log.check()


# --- as a part of a database ---


def test_the_store_works_on_a_part_of_a_fold(files):
    with Database("/shared", files=files, **SMALL) as db:
        log = db.messages("m")
        fill(log, "a", 0, 3)
        log.publish_many("a", [b"3", b"4"])
        consumer, group = log.consumer("c", "a"), log.group("g", "a")
        assert values(consumer) == values(group.get(9)) == [b"0", b"1", b"2", b"3", b"4"]
        consumer.commit()
        log.checkpoint()
        log.check()
    log.close()
    assert log.closed


def test_stats_and_names(log, tmp_path):
    fill(log, "a", 0, 3)
    assert (log.stats()["topics"], log.stats()["messages"]) == (1, 3)
    assert "MessageLog '/log'" in repr(log)
    log.close()
    log.close()
    assert log.closed
    assert "closed" in repr(log)


def test_a_forked_child_goes_on(tmp_path):
    with MessageLog(tmp_path, fsync_policy=FsyncPolicy.OS) as log:
        log.publish_many("a", [b"%d" % n for n in range(1000)])
        consumer, group = log.consumer("c", "a"), log.group("g", "a")
        consumer.poll(300)
        group.ack(*group.get(100))
        pid = os.fork()
        if pid == 0:
            try:
                assert values(consumer) == [b"%d" % n for n in range(300, 1000)]
                consumer.commit()
                group.ack(*group.get(200))
                log.publish("a", b"from the child")
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        assert os.waitpid(pid, 0)[1] == 0
        assert (consumer.committed, group.lag) == (1000, 701)
        assert values(consumer)[-1] == b"from the child"
        with pytest.raises(ConflictError):
            consumer.commit()
        log.check()


def test_many_threads(log, other):
    errors = []

    def publish(number):
        try:
            for n in range(200):
                (log if n % 2 else other).publish(f"t{number % 2}", b"%d %d" % (number, n))
                if n % 20 == 0:
                    log.checkpoint()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=publish, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    for each in (log, other):
        for topic in (0, 1):
            found = [
                tuple(map(int, value.split())) for value in values(each.consume_from(f"t{topic}"))
            ]
            for number in (topic, topic + 2):
                assert [n for who, n in found if who == number] == list(range(200))
    log.check()
