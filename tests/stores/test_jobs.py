"""The job queue, call by call."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime

import pytest

from tests.stores._opening import SMALL
from treering import (
    ClosedError,
    DamageError,
    Database,
    FsyncPolicy,
    NotThereError,
    ReadOnlyError,
    Record,
    TooLargeError,
    UsageError,
    VersionError,
    Wal,
)
from treering.stores.jobs import DuplicateJobError, JobQueue, LeaseLostError
from treering.stores.jobs.agenda import Entry
from treering.stores.jobs.state import State
from treering.testing import FakeClock, MemoryFiles

SECOND = 1_000_000_000


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def opened(files, clock):
    queues = []

    def open_queue(**options):
        given = {"files": files, "clock": clock, **SMALL, **options}
        queues.append(JobQueue("/jobs", **given))
        return queues[-1]

    yield open_queue
    for queue in queues:
        queue.check()
        queue.close()


@pytest.fixture
def queue(opened):
    return opened()


@pytest.fixture
def other(queue, opened):
    return opened(worker="other")


def bodies(jobs):
    return [job.body for job in jobs]


# --- put, get, ack ---


def test_a_job_goes_to_one_handle_and_is_gone_when_acknowledged(queue, other):
    id = queue.put(b"one")
    job = other.get()
    assert (job.id, job.body, job.attempt, job.status) == (id, b"one", 1, "leased")
    assert job == queue.job(id), "an inspection shows what the worker was given"
    assert queue.get() is None and other.get() is None
    assert queue.counts() == {"ready": 0, "delayed": 0, "leased": 1, "dead": 0}
    other.ack(job)
    assert len(queue) == 0 and queue.job(id) is None
    with pytest.raises(LeaseLostError, match="done, cancelled or purged"):
        other.ack(job)


def test_the_highest_priority_goes_first_then_what_was_due_first_then_the_id(queue, clock):
    queue.put(b"c")
    queue.put(b"d")
    queue.put(b"late", delay=5)
    queue.put(b"b", priority=1)
    queue.put(b"a", priority=2)
    queue.put(b"e", priority=-1)
    assert bodies(queue.peek(9)) == [b"a", b"b", b"c", b"d", b"e"]
    assert bodies(queue.get_many(2)) == [b"a", b"b"]
    clock.advance(6)
    queue.put(b"newest")
    assert bodies(queue.get_many(9)) == [b"c", b"d", b"late", b"newest", b"e"]


def test_a_put_that_has_not_seen_the_others_skips_none_of_them(queue, other):
    ids = [queue.put(b"1"), other.put(b"2"), other.put(b"3"), queue.put(b"4"), other.put(b"5")]
    for each in (queue, other):
        assert [(job.id, job.body) for job in each.jobs()] == [
            (id, b"%d" % n) for n, id in enumerate(ids, 1)
        ]


def test_put_many_is_one_frame(queue, other):
    ids = queue.put_many([b"a", b"b", bytearray(b"c")], headers={"x": b"1"}, priority=3)
    assert list(ids) == [0, 1, 2]
    assert queue.put_many([]) == range(0)
    jobs = other.get_many(5)
    assert bodies(jobs) == [b"a", b"b", b"c"]
    assert [job.headers for job in jobs] == [{"x": b"1"}] * 3
    other.ack_many(jobs[:2])
    with pytest.raises(LeaseLostError):
        other.ack_many(jobs)  # two are done, so nothing happens to the third
    assert queue.counts()["leased"] == 1
    with pytest.raises(UsageError, match="twice"):
        other.ack_many([jobs[2], jobs[2]])


def test_headers_survive_a_reopening_and_a_snapshot(queue, opened):
    headers = {"content-type": b"text", "n": b"\x00\xff"}
    queue.put(b"one", headers=headers)
    headers["n"] = b"changed afterwards"
    expected = {"content-type": b"text", "n": b"\x00\xff"}
    assert queue.peek()[0].headers == expected
    queue.checkpoint()
    assert opened().get().headers == expected


def test_a_key_is_put_once_while_its_job_is_there(queue, other):
    id = queue.put(b"one", key=b"k")
    assert other.put(b"two", key=b"k") == id
    job = other.get()
    assert job.key == b"k"
    assert queue.put(b"three", key=b"k") == id  # leased: still there
    other.ack(job)
    again = queue.put(b"four", key=b"k")
    assert again != id and other.get().body == b"four"


def test_a_dead_letter_leaves_its_key_free(opened):
    queue = opened(attempts_max=1)
    id = queue.put(b"one", key=b"k")
    assert not queue.nack(queue.get(), error="broken")
    new = queue.put(b"two", key=b"k")
    assert new != id
    with pytest.raises(DuplicateJobError, match=f"job {new} has"):
        queue.requeue(id)
    queue.ack(queue.get())
    queue.requeue(id)
    assert queue.put(b"three", key=b"k") == id


def test_durable_calls_wait_for_the_disk_and_leases_do_not(opened):
    queue = opened(fsync_policy=FsyncPolicy.ALWAYS)
    wal = queue._fold.wal
    for put in (
        lambda: queue.put(b"one"),
        lambda: queue.put(b"two", key=b"k"),
        lambda: queue.put_many([b"three", b"four"])[-1],
    ):
        id = put()
        assert wal.durable_position > id
    jobs = queue.get_many(4)
    assert wal.durable_position < wal.current_position(), "a lease is only written"
    durable = wal.durable_position
    queue.extend(jobs[0])
    queue.release(jobs[3])
    assert wal.durable_position == durable
    queue.ack(jobs[0], durable=False)
    assert wal.durable_position == durable
    queue.ack(jobs[1])
    assert wal.durable_position == wal.current_position()
    queue.nack(jobs[2])
    assert wal.durable_position == wal.current_position()


def test_a_key_that_is_there_is_durable_before_its_id_is_returned(opened):
    written, durable = opened(), opened(fsync_policy=FsyncPolicy.ALWAYS)
    id = written.put(b"one", key=b"k")
    assert written._fold.wal.durable_position <= id
    assert durable.put(b"two", key=b"k") == id
    assert written._fold.wal.durable_position > id


# --- time ---


def test_delays_and_moments(queue, clock):
    now = clock() / SECOND
    queue.put(b"delayed", delay=10)
    queue.put(b"at", run_at=now + 20)
    queue.put(b"zoned", run_at=datetime.fromtimestamp(now + 30, UTC))
    queue.put(b"past", run_at=0)
    assert queue.counts() == {"ready": 1, "delayed": 3, "leased": 0, "dead": 0}
    queue.ack(queue.get())
    for body in (b"delayed", b"at", b"zoned"):
        assert queue.get() is None
        clock.advance(10)
        assert queue.get(lease=1000).body == body


def test_a_lease_that_is_over_gives_the_job_to_the_next(queue, other, clock):
    queue.put(b"one")
    job = queue.get(lease=10)
    clock.advance(9.9)
    assert other.get() is None
    clock.advance(0.2)
    again = other.get(lease=10)
    assert (again.id, again.attempt) == (job.id, 2) and again.token > job.token
    for call in (queue.ack, queue.nack, queue.extend, queue.release):
        with pytest.raises(LeaseLostError):
            call(job)
    assert queue.job(job.id).worker == "other"
    other.ack(again)


def test_a_lease_that_is_over_but_not_given_away_still_holds(queue, clock):
    queue.put_many([b"one", b"two", b"three"])
    one, two, three = queue.get_many(3, lease=1)
    clock.advance(100)
    assert queue.counts()["ready"] == 3
    queue.ack(one)
    queue.extend(two, 10)
    queue.nack(three, 0)
    assert queue.get().id == three.id
    assert queue.get() is None
    queue.ack(two)


def test_an_extended_lease_holds(queue, other, clock):
    queue.put(b"one")
    job = queue.get(lease=10)
    for _ in range(5):
        clock.advance(8)
        assert other.get() is None
        queue.extend(job, 10)
    assert queue.job(job.id).expires_at == pytest.approx(clock() / SECOND + 10)
    clock.advance(11)
    assert other.get().id == job.id


def test_a_clock_that_steps_back_loses_no_job(queue, other, clock):
    queue.put(b"one")
    queue.put(b"two", delay=1)
    clock.advance(2)
    assert len(queue.peek(5)) == 2
    clock.jump(-3600)
    assert bodies(queue.peek(5)) == [b"one", b"two"]
    assert queue.counts()["ready"] == 2
    job = queue.get(lease=1)
    assert queue.get().body == b"two" and job.body == b"one"
    clock.advance(3600)
    assert queue.get().id == job.id


# --- nack, dead letters ---


def test_retries_are_delayed_longer_and_longer_up_to_the_cap(opened, clock):
    queue = opened(retry_delay=2, retry_delay_max=10, attempts_max=None)
    queue.put(b"one")
    for attempt, delay in enumerate((2, 4, 8, 10, 10), 1):
        job = queue.get()
        assert job.attempt == attempt
        assert queue.nack(job, error=f"try {attempt}")
        assert queue.get() is None and queue.counts()["delayed"] == 1
        assert queue.job(job.id).due_at == pytest.approx(clock() / SECOND + delay)
        clock.advance(delay)
    assert queue.get().error == "try 5"


def test_retry_in_overrules_the_delay(queue, clock):
    queue.put(b"one")
    queue.nack(queue.get(), 0)
    queue.nack(queue.get(), 100)
    clock.advance(99)
    assert queue.get() is None
    clock.advance(1)
    assert queue.get().attempt == 3


def test_failures_and_lost_leases_make_dead_letters(opened, clock):
    queue = opened(attempts_max=2, retry_delay=0)
    failing, dying = queue.put(b"failing"), queue.put(b"dying")
    assert queue.nack(queue.get(), error="first")
    job = next(job for job in queue.get_many(2, lease=5) if job.id == failing)
    assert not queue.nack(job, error="second")
    clock.advance(6)
    assert queue.get(lease=5).id == dying
    clock.advance(6)
    assert queue.get() is None
    first, second = queue.dead()
    assert (first.id, first.reason, first.error, first.attempt) == (failing, "failed", "second", 2)
    assert (second.id, second.reason, second.status) == (dying, "expired", "dead")
    assert second.died_at == pytest.approx(clock() / SECOND)
    assert queue.counts() == {"ready": 0, "delayed": 0, "leased": 0, "dead": 2}
    assert queue.jobs("dead") == queue.dead()
    with pytest.raises(LeaseLostError, match="dead letter"):
        queue.ack(job)


def test_get_goes_on_past_jobs_that_die(opened, clock):
    queue = opened(attempts_max=1)
    queue.put_many([b"%d" % n for n in range(5)])
    queue.get_many(4, lease=1)
    clock.advance(2)
    assert queue.get().body == b"4", "four died, and the fifth is there at once"
    assert queue.counts()["dead"] == 4


def test_requeue_and_purge_dead(opened):
    queue = opened(attempts_max=1)
    first, second = queue.put_many([b"one", b"two"])
    for job in queue.get_many(2):
        queue.nack(job)
    queue.requeue(first)
    job = queue.get()
    assert (job.id, job.attempt) == (first, 1)
    assert queue.purge_dead() == 1 and queue.purge_dead() == 0
    with pytest.raises(NotThereError):
        queue.requeue(second)
    queue.ack(job)


def test_an_error_text_is_kept_up_to_its_limit(opened):
    queue = opened(attempts_max=1)
    queue.put(b"one")
    queue.nack(queue.get(), error="ü" * 5000)
    assert queue.dead()[0].error == "ü" * 2048
    queue.checkpoint()
    assert opened().dead()[0].error == "ü" * 2048


def test_a_job_that_comes_back_is_in_line_once(queue):
    queue.put_many([b"one", b"two"])
    for _ in range(3):
        queue.release(queue.get())
        assert bodies(queue.peek(5)) == [b"one", b"two"]
    assert len(queue.get_many(5)) == 2


def test_a_release_counts_no_attempt(queue):
    queue.put(b"one")
    queue.release(queue.get())
    assert queue.get().attempt == 1


# --- cancel, purge, looking ---


def test_cancel_takes_a_job_away_from_everybody(queue, other, opened):
    queue.put_many([b"one", b"two", b"three"])
    job = other.get()
    assert queue.cancel(job.id) and not queue.cancel(job.id)
    with pytest.raises(LeaseLostError):
        other.ack(job)
    assert queue.cancel(1)
    assert other.get().body == b"three"


def test_purge_removes_jobs_and_leaves_letters(opened):
    queue = opened(attempts_max=1)
    queue.put_many([b"one", b"two", b"three"])
    queue.put(b"keyed", key=b"k", delay=9)
    queue.nack(queue.get())
    job = queue.get()
    assert queue.purge() == 3 and queue.purge() == 0
    assert queue.counts() == {"ready": 0, "delayed": 0, "leased": 0, "dead": 1}
    with pytest.raises(LeaseLostError):
        queue.ack(job)
    assert queue.put(b"again", key=b"k") == queue.get().id


def test_looking_takes_nothing(queue, other):
    queue.put_many([b"one", b"two"])
    queue.put(b"late", delay=60)
    for look in (queue.peek, queue.jobs, queue.counts, other.peek):
        look()
    assert [job.status for job in queue.jobs()] == ["ready", "ready", "delayed"]
    assert bodies(queue.jobs("delayed")) == [b"late"]
    assert queue.position == 3
    with pytest.raises(UsageError):
        queue.ack(queue.peek()[0])


def test_the_past(queue, clock):
    queue.put(b"one")
    position, then = queue.position, clock() / SECOND
    clock.advance(10)
    queue.ack(queue.get())
    for view in (queue.at(position), queue.at(time=then + 1)):
        assert bodies(view.peek()) == [b"one"] and len(view) == 1
        assert view.counts()["ready"] == 1
    assert len(queue) == 0


# --- waiting ---


def test_a_put_wakes_who_waits_and_so_does_a_due_time(opened):
    queue = opened(clock=time.time_ns)
    other = opened(clock=time.time_ns)
    found = []
    thread = threading.Thread(target=lambda: found.append(other.get(timeout=20)))
    thread.start()
    time.sleep(0.05)
    started = time.monotonic()
    queue.put(b"one", delay=0.2)
    thread.join(20)
    took = time.monotonic() - started
    assert found[0].body == b"one" and 0.19 < took < 5
    queue.release(found[0])
    assert queue.get(lease=0.2).body == b"one"
    assert other.get(timeout=20).attempt == 2


def test_no_wake_up_is_lost_when_another_thread_catches_up(queue, monkeypatch):
    """The job comes after the look and before the wait, and the handle's state has it already."""
    fold, wait = queue._fold, queue._fold.wait

    def late(timeout, **options):
        monkeypatch.undo()
        queue.put(b"one")
        return wait(timeout, **options)

    monkeypatch.setattr(fold, "wait", late)
    started = time.monotonic()
    assert queue.get(timeout=10).body == b"one"
    assert time.monotonic() - started < 5


def test_get_returns_after_its_timeout_and_at_close(opened):
    queue = opened(clock=time.time_ns)
    started = time.monotonic()
    assert queue.get(timeout=0.1) is None
    assert 0.09 < time.monotonic() - started < 5
    errors = []

    def wait():
        try:
            other.get(timeout=None)
        except ClosedError as error:
            errors.append(error)

    other = JobQueue("/other", files=MemoryFiles(), fsync_policy=FsyncPolicy.OS)
    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.05)
    other.close()
    thread.join(10)
    assert len(errors) == 1


# --- checkpoints, agendas ---


def test_a_job_that_is_stuck_holds_no_log(opened, files):
    queue = opened()
    queue.put(b"stuck", delay=1e9, key=b"s")
    for n in range(300):
        queue.put(b"x" * 50)
        queue.ack(queue.get())
        if n % 100 == 99:
            queue.checkpoint()
    assert queue._fold.wal.first_position > 100
    again = opened()
    assert bodies(again.jobs()) == [b"stuck"] and again.put(b"", key=b"s") == 0


def test_everything_is_the_same_from_a_snapshot(opened, clock):
    queue = opened(attempts_max=2, retry_delay=100)
    queue.put_many([b"%d" % n for n in range(6)], priority=2)
    queue.put(b"keyed", key=b"k", delay=50)
    jobs = queue.get_many(4)
    queue.ack(jobs[0])
    queue.nack(jobs[1], error="why")
    queue.extend(jobs[2], 1000)
    queue.put(b"poison", priority=9)
    for _ in range(2):
        queue.nack(queue.get(), 0, error="poisoned")
    shown, position = queue.jobs(), queue.position
    assert len(shown) == 7
    queue.checkpoint()
    again = opened()
    assert again.jobs() == shown and again.position == position
    again.ack(jobs[2])
    assert again.peek(9) == queue.peek(9)


def test_agendas_stay_small(queue, other):
    """Of a handle that only puts, of one that only takes, with one job stuck in front."""
    other.put(b"stuck", delay=5000)
    queue.peek()
    other.peek()
    for _ in range(3000):
        queue.put(b"x")
        job = other.get(lease=10)
        other.extend(job, 20)
        other.ack(job)
        queue.counts() if _ % 100 == 0 else None
    for each in (queue, other):
        agenda = each._fold.state().agenda
        assert len(agenda._later) < 3000 and len(agenda._ready) < 3000


@pytest.mark.parametrize(
    "spoil",
    [
        lambda state: state.jobs.clear(),
        lambda state: state.keys.clear(),
        lambda state: state.keys.update({b"z": 0}),
        lambda state: state.dead.update({0: None}),
        lambda state: state.agenda._ready.clear(),
        lambda state: state.agenda._later.clear(),
    ],
)
def test_a_check_notices_a_wrong_memory(spoil):
    with JobQueue("/wrong", files=MemoryFiles(), **SMALL) as queue:
        queue.put(b"one", key=b"k")
        queue.put(b"two", delay=60)
        queue.peek()
        queue.check()
        spoil(queue._fold.current)
        with pytest.raises(DamageError):
            queue._fold.current.check()


# --- records that cannot be ---


@pytest.mark.parametrize(
    ("record", "error"),
    [
        (Record(b"zoo", b""), VersionError),
        (Record(b"", b""), VersionError),
        (Record(b"p", b""), DamageError),
        (Record(b"a" + bytes(16), b""), DamageError),
        (Record(b"a" + bytes(15), b""), DamageError),
        (Record(b"l" + bytes(16), b""), DamageError),
        (Record(b"e" + bytes(24), b""), DamageError),
        (Record(b"n" + bytes(24), b""), DamageError),
        (Record(b"b" + bytes(16), b""), DamageError),
        (Record(b"d" + bytes(16) + b"f", b""), DamageError),
        (Record(b"r" + bytes(16), b""), DamageError),
        (Record(b"c" + bytes(8), b""), DamageError),
        (Record(b"w?", b""), VersionError),
        (Record(b"p" + bytes(12) + b"k" * 5000, b""), DamageError),
    ],
)
def test_a_foreign_record_is_refused(files, record, error):
    with Wal.open("/jobs", files=files, fsync_policy=FsyncPolicy.OS) as wal:
        wal.append(record)
    assert refusal(files, error)


def refusal(files, error):
    """The hint of the error. (pytest.raises would keep the frames, and with them the reader.)"""
    try:
        JobQueue("/jobs", files=files).close()
    except error as raised:
        return raised.hint
    return None


@pytest.mark.parametrize("key", [b"", b"j", b"j" + bytes(60), b"x" * 70, b"j" + b"\xff" * 70])
def test_a_foreign_snapshot_is_refused(key):
    with pytest.raises(DamageError):
        State().load(Record(key, b""))


@pytest.mark.parametrize(
    "call",
    [
        lambda queue: queue.put("text"),
        lambda queue: queue.put(b"", delay=-1),
        lambda queue: queue.put(b"", delay=float("nan")),
        lambda queue: queue.put(b"", delay="soon"),
        lambda queue: queue.put(b"", delay=1, run_at=2),
        lambda queue: queue.put(b"", run_at=datetime(2030, 1, 1)),
        lambda queue: queue.put(b"", run_at=1e300),
        lambda queue: queue.put(b"", priority=1 << 31),
        lambda queue: queue.put(b"", priority=1.5),
        lambda queue: queue.put(b"", priority=""),
        lambda queue: queue.put(b"", key="text"),
        lambda queue: queue.put(b"", key=b""),
        lambda queue: queue.put_many([b"a", "b"]),
        lambda queue: queue.get(timeout=-1),
        lambda queue: queue.get(lease=0),
        lambda queue: queue.get_many(0),
        lambda queue: queue.peek(0),
        lambda queue: queue.ack(7),
        lambda queue: queue.extend(7),
        lambda queue: JobQueue("/jobs", lease=0),
        lambda queue: JobQueue("/jobs", worker=7),
        lambda queue: JobQueue("/jobs", attempts_max=0),
        lambda queue: JobQueue("/jobs", retry_delay=-1),
        lambda queue: JobQueue("/jobs", retention_bytes=1),
    ],
)
def test_wrong_arguments_change_nothing(queue, call):
    with pytest.raises(UsageError):
        call(queue)
    assert queue.position == 0


def test_limits(queue):
    queue.put(b"", key=b"k" * 4096)
    with pytest.raises(TooLargeError):
        queue.put(b"", key=b"k" * 4097)
    queue.checkpoint()
    queue.put(b"at the end of time", run_at=4e9, priority=-(1 << 31) + 1)
    assert len(queue.jobs()) == 2


def test_a_reader_sees_and_changes_nothing(queue, opened):
    queue.put(b"one")
    reader = opened(read_only=True)
    assert bodies(reader.peek()) == [b"one"]
    with pytest.raises(ReadOnlyError):
        reader.get()
    with pytest.raises(ReadOnlyError):
        reader.put(b"two")
    reader.sync()
    assert bodies(reader.peek()) == [b"one"]


def test_a_handle_says_what_it_is(queue):
    queue.put(b"one")
    assert queue.stats()["jobs"]["ready"] == 1
    assert repr(queue) == "<treering.stores.jobs.JobQueue '/jobs'>"
    assert queue.name == "/jobs" and not queue.closed and bool(queue)


# --- as a part of a database ---


def test_put_ack_and_nack_in_a_transaction(files):
    with Database("/db", files=files, **SMALL) as db:
        queue = db.queue("mail", attempts_max=1)
        ids = queue.put_many([b"one", b"two", b"three"])
        one, two, _ = queue.get_many(3)
        [state] = db._fold.current.parts.values()
        before = state.copy()
        with db.transaction():
            queue.ack(one)
            assert not queue.nack(two, error="no")
            four = queue.put(b"four", key=b"k")
            assert queue.put(b"five", key=b"k") == four
            assert queue.put(b"six") == four + 1
            with pytest.raises(LeaseLostError):
                queue.ack(one)
            with pytest.raises(UsageError, match="transaction"):
                queue.get()
            assert len(queue) == 3 and queue.dead()[0].id == two.id
            assert (state.jobs, state.dead, state.keys) == (before.jobs, before.dead, before.keys)
        assert sorted(state.jobs) == [ids[2], four, four + 1]
        assert bodies(queue.get_many(5)) == [b"four", b"six"]
        queue.check()


# --- interrupts ---


def test_a_record_that_is_taken_in_again_changes_nothing(queue, clock):
    queue.put_many([b"one", b"two", b"three", b"four"])
    one, two, three, four = queue.get_many(4, lease=1)
    queue.ack(one)
    queue.nack(two, 5, error="why")
    queue.release(three)
    queue.extend(four, 9)
    again = State()
    for record in queue._fold.wal.read_from(0):
        again.apply(record)
        again.apply(record)
    assert list(map(repr, again.dump())) == list(map(repr, queue._fold.state().dump()))


@pytest.mark.parametrize("moment", ["before", "within", "after"])
def test_an_interrupted_put_is_there_once(queue, other, monkeypatch, moment):
    add = State.add

    def interrupted(state, id, *parts):
        if moment == "within":
            state.jobs[id] = Entry(parts[0], parts[1], b"", *parts[2:])
        elif moment == "after":
            add(state, id, *parts)
        raise KeyboardInterrupt

    queue.peek()
    monkeypatch.setattr(State, "add", interrupted)
    with pytest.raises(KeyboardInterrupt):
        queue.put(b"one")
    monkeypatch.undo()
    for each in (queue, other):
        assert bodies(each.peek(5)) == [b"one"] and len(each) == 1
    queue.ack(queue.get())
    assert queue.get() is None and len(other) == 0


def test_a_signal_handler_may_use_the_queue_within_a_put(queue, other, monkeypatch):
    add, taken = State.add, []

    def interrupted(state, id, *parts):
        monkeypatch.undo()
        add(state, id, *parts)
        taken.append(queue.get())

    monkeypatch.setattr(State, "add", interrupted)
    queue.put(b"one")
    assert queue.get() is None
    assert queue.job(0).attempt == other.job(0).attempt == 1
    queue.ack(taken[0])
    queue.check()
