"""What a hostile review of the job queue and the message log found."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import sys
import threading
import time
import tracemalloc

import pytest

from tests.stores._opening import SMALL
from treering import ConflictError, Database, FsyncPolicy, PositionError, UsageError
from treering.stores.jobs import JobQueue, LeaseLostError, WorkersDieError, work_processes
from treering.stores.messages import MessageLog
from treering.testing import FakeClock

DAY = 86_400


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def log(files, clock):
    with MessageLog("/log", files=files, clock=clock, **SMALL) as log:
        yield log


@pytest.fixture
def queue(files, clock):
    with JobQueue("/jobs", files=files, clock=clock, **SMALL) as queue:
        yield queue


@pytest.fixture
def databases(files):
    """Two, as of two processes."""
    with Database("/db", files=files, **SMALL) as one, Database("/db", files=files, **SMALL) as two:
        yield one, two


def values(messages):
    return [message.value for message in messages]


# --- message log: consumers in transactions ---


def test_a_commit_that_came_to_nothing_is_not_taken_for_anothers_in_its_place(databases):
    one, two = databases
    log, others = one.messages("m"), two.messages("m")
    log.publish("in", b"1")
    mine, theirs = log.consumer("c", "in"), others.consumer("c", "in")
    (message,), _ = mine.poll(), theirs.poll()
    tries = 0

    def work():
        nonlocal tries
        tries += 1
        mine.commit(message.position + 1)  # would be the next record of the log…
        log.publish("out", b"mine")
        if tries == 1:
            with others.batch() as batch:  # … which is now this commit
                batch.commit(theirs, message.position + 1)
                batch.publish("out", b"theirs")

    with pytest.raises(ConflictError, match="another process has committed"):
        one.run(work)
    assert values(log.consume_from("out")) == [b"theirs"], "the effect, exactly once"
    mine.resume()
    assert mine.poll() == []


@pytest.mark.parametrize("how", ["commit", "batch"])
def test_a_transaction_that_runs_again_reads_and_commits_again(databases, how):
    one, two = databases
    log, table = one.messages("m"), two.kv("k")
    log.publish_many("in", [b"1", b"2", b"3"])
    consumer = log.consumer("c", "in")
    tries = 0

    def work():
        nonlocal tries
        tries += 1
        for message in [next(consumer), *consumer.poll(1)]:
            log.publish("out", b"for " + message.value)
        if how == "commit":
            consumer.commit()
        else:
            with log.batch() as batch:
                batch.commit(consumer)
        if tries == 1:
            table[b"x"] = b"y"

    one.run(work)
    assert tries == 2
    assert values(log.consume_from("out")) == [b"for 1", b"for 2"]
    assert (consumer.lag, values(consumer)) == (1, [b"3"])
    consumer.commit()
    assert consumer.lag == 0


def test_a_block_that_raises_takes_back_what_a_consumer_read(databases):
    log = databases[0].messages("m")
    log.publish("in", b"1")
    consumer = log.consumer("c", "in")
    with pytest.raises(ZeroDivisionError), databases[0].transaction():
        consumer.poll()
        consumer.commit()
        raise ZeroDivisionError
    assert (consumer.lag, values(consumer.poll())) == (1, [b"1"])
    consumer.commit()
    with databases[0].transaction():
        assert consumer.poll() == []  # nothing is written, and nothing taken back
    assert consumer.lag == 0


def test_reading_in_a_transaction_shows_nobody_elses_records_as_its_own(databases):
    one, two = databases
    log, table = one.messages("m"), two.kv("k")
    log.publish("t", b"0")
    with pytest.raises(ConflictError), one.transaction():
        log.publish("t", b"1")
        table[b"x"] = b"y"  # at the position that the message would have
        assert values(log.consume_from("t")) == [b"0"]
    one.check()


# --- message log: retention and compaction ---


def test_a_clock_that_was_ahead_for_a_while_makes_no_message_old(files, clock, log):
    log.set_retention("t", seconds=7 * DAY)
    log.publish("t", b"before")
    consumer = log.consumer("c", "t")
    clock.jump(365 * DAY)
    consumer.poll()
    consumer.commit()
    clock.jump(-365 * DAY)
    log.publish_many("t", [b"after"] * 3)
    clock.advance(60)
    assert log.apply_retention() == 0
    assert log.count("t") == 4
    clock.advance(8 * DAY)
    log.apply_retention()
    assert log.count("t") < 4


def test_what_was_superseded_does_not_come_back_with_another_rule(files, log, clock):
    log.set_retention("t", compact=True)
    log.publish("t", b"1", key=b"k")
    log.publish("t", None, key=b"k")
    clock.advance(2 * DAY)
    assert log.apply_retention() == 1 and log.count("t") == 0
    log.set_retention("t")
    assert log.count("t") == 0 and list(log.consume_from("t")) == []
    log.checkpoint()
    log.publish("t", b"new")
    assert values(log.consume_from("t")) == [b"new"]
    log.check()


def test_headers_of_a_compacted_topic_are_not_the_states_own(files, log):
    log.set_retention("t", compact=True)
    log.publish("t", b"1", key=b"k", headers={"a": b"1"})
    group = log.group("g", "t")
    for found in (*log.consume_from("t"), *group.get()):
        found.headers["more"] = b"x"
    (message,) = log.consume_from("t")
    assert message.headers == {"a": b"1"}
    log.check()


# --- message log: bounds ---


def test_a_block_of_large_messages_is_not_fetched_as_a_whole(tmp_path):
    size = 512 << 10
    with MessageLog(tmp_path / "log", fsync_policy=FsyncPolicy.OS) as log:
        for _ in range(60):
            log.publish("large", bytes(size))
            log.publish_many("small", [b"x"] * 2)
        tracemalloc.start()
        try:
            assert sum(len(each.value) for each in log.consume_from("large")) == 60 * size
            assert len(list(log.consume_from("small"))) == 120
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < 12 << 20


def test_a_member_gets_256_at_most_also_of_those_that_come_again(clock, log):
    log.publish_many("t", [b"x"] * 600)
    group = log.group("g", "t", lease=30)
    assert [len(group.get(1000)) for _ in range(3)] == [256, 256, 88]
    clock.advance(31)
    assert [len(group.get(1000)) for _ in range(3)] == [256, 256, 88]


def test_numbers_out_of_range_are_refused_in_words(log):
    log.publish("t", b"1")
    for call in (
        lambda: log.consumer("c", "t", start=1 << 64),
        lambda: log.group("g", "t", start=1 << 70),
        lambda: log.consumer("d", "t").poll(-1),
    ):
        with pytest.raises(UsageError):
            call()


# --- job queue: time ---


def test_a_clock_that_steps_back_ends_no_lease(files, clock, queue):
    with JobQueue("/jobs", files=files, clock=clock, worker="other", **SMALL) as other:
        assert queue.get() is None  # an idle worker has seen how late it was
        clock.jump(-3600)
        other.put(b"job")
        job = other.get(lease=30)
        for _ in range(5):
            assert queue.get() is None and other.get() is None
            clock.advance(20)
            other.extend(job, 30)
        other.ack(job)
    assert not queue.jobs() and queue.dead() == []


def test_a_lease_that_is_extended_after_a_step_back_holds(clock, queue):
    assert queue.get() is None
    clock.jump(-3600)
    queue.put(b"job")
    job = queue.get(lease=30)
    clock.advance(10)
    queue.extend(job)
    assert queue.get() is None
    assert queue.counts()["leased"] == 1
    queue.check()
    clock.advance(40)
    assert queue.get().id == job.id
    with pytest.raises(LeaseLostError):
        queue.ack(job)


def test_time_does_not_go_back_behind_ones_own_put(clock, queue):
    id = queue.put(b"job")
    clock.jump(-60)
    assert queue.get().id == id


def test_a_waiting_get_notices_a_clock_that_jumps(clock, queue):
    queue.put(b"job", delay=3600)
    timer = threading.Timer(0.2, clock.advance, (3601,))
    timer.start()
    began = time.monotonic()
    assert queue.get(timeout=20).body == b"job"
    assert time.monotonic() - began < 10
    timer.join()


def test_headers_are_kept_as_they_were_given(queue):
    value = bytearray(b"1")
    queue.put(b"job", headers={"a": value})
    value[0] = ord("2")
    assert queue.get().headers == {"a": b"1"}
    queue.check()


# --- job queue: loops ---


class NoTextError(Exception):
    def __str__(self):
        raise ValueError("no text")


def test_an_exception_without_a_text_is_a_failure_like_others(files):
    def handle(job):
        if job.body == b"bad":
            raise NoTextError

    with JobQueue("/q", files=files, retry_delay=0, **SMALL) as queue:
        queue.put_many([b"bad", b"good"])
        assert queue.work(handle, until_empty=True) == 1
        (letter,) = queue.dead()
    assert (letter.reason, letter.error) == ("failed", "NoTextError")


def test_idle_tasks_do_not_keep_the_acks_waiting(tmp_path):
    taken = []

    async def handle(job):
        await asyncio.sleep(0.3)  # until the others wait
        taken.append(time.monotonic())

    with JobQueue(tmp_path / "q", fsync_policy=FsyncPolicy.OS) as queue:
        queue.put(b"job")

        async def main():
            stop = threading.Event()
            loop = asyncio.create_task(queue.work_async(handle, concurrency=200, stop=stop))
            while len(queue):
                await asyncio.sleep(0.01)
            taken.append(time.monotonic())
            stop.set()
            await loop
            taken.append(time.monotonic())

        asyncio.run(main())
    assert taken[1] - taken[0] < 1.5
    assert taken[2] - taken[1] < 1.5


def work_nothing(job):
    pass


def leave(job):
    sys.exit(0)


def fork_and_end(job):
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    child.start()
    time.sleep(0.1)
    child.terminate()
    child.join(5)
    code = child.exitcode
    child.kill()
    if code is None:
        raise RuntimeError("it does not end")


def processes_on(path, handler, **options):
    with JobQueue(path, fsync_policy=FsyncPolicy.OS, attempts_max=1) as queue:
        queue.put_many([b"1", b"2"])
        try:
            return work_processes(path, handler, processes=2, grace=20, **options)
        finally:
            assert not queue.dead(), queue.dead()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_workers_of_a_fork_server_work(tmp_path):
    processes_on(tmp_path, work_nothing, start_method="forkserver", until_empty=True)
    with JobQueue(tmp_path) as queue:
        assert len(queue) == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_workers_hear_of_a_stop_that_comes_at_once(tmp_path):
    stop, began = threading.Event(), time.monotonic()
    stop.set()
    for _ in range(5):
        processes_on(tmp_path, work_nothing, start_method="fork", stop=stop)
    assert time.monotonic() - began < 15


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_handler_that_ends_the_process_is_no_worker_that_went_home(tmp_path):
    with pytest.raises(WorkersDieError):
        processes_on(tmp_path, leave, start_method="fork", until_empty=True)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_process_that_a_handler_forks_can_be_ended(tmp_path):
    processes_on(tmp_path, fork_and_end, start_method="fork", until_empty=True)


def test_wrong_ids_and_places_are_said_in_words(files):
    with JobQueue("/jobs", files=files) as queue, MessageLog("/log", files=files) as log:
        for wrong in (0.0, "1", -1, True, 1 << 64):
            with pytest.raises(UsageError):
                queue.cancel(wrong)
            with pytest.raises(UsageError):
                queue.requeue(wrong)
        log.publish("t", b"1")
        for make in (log.consumer, log.group):
            with pytest.raises(PositionError):
                make("c", "t", start=10)
            assert make("c", "t", start=1).lag == 0


def test_a_group_takes_nothing_within_a_transaction(files):
    with Database("/db", files=files) as db:
        log = db.messages("news")
        log.publish("t", b"1")
        group = log.group("g", "t")
        with db.transaction(), pytest.raises(UsageError, match="transaction"):
            group.get()
        assert [each.value for each in group.get()] == [b"1"]
