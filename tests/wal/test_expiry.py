"""Clocks decide when a record expires and what retention removes, and nothing else (G19)."""

import time

import pytest

from tests._logs import contents, fill, told
from treering import Record, Wal
from treering.testing import FakeClock, MemoryFiles

SECOND = 10**9
HOUR, YEAR = 3600, 365 * 86_400


def test_a_ttl_is_stored_as_an_absolute_time(log):
    clock = FakeClock()
    wal = log.open(clock=clock)
    wal.put(b"k", b"v", ttl=60)
    wal.delete(b"k", ttl=0.5)
    with wal.batch() as batch:
        batch.put(b"k", b"v", ttl=7)
        batch.delete(b"k", ttl=8)
    wal.put(b"k", b"v")
    assert [record.expires_at_ns and record.expires_at_ns - clock() for record in wal] == [
        60 * SECOND,
        SECOND // 2,
        7 * SECOND,
        8 * SECOND,
        None,
    ]


def test_an_absolute_expiry_is_kept_to_the_nanosecond(log):
    wal = log.open()
    exact = 1_900_000_000_123_456_789
    wal.append(Record.put(b"k", b"v", expires_at_ns=exact))
    log.kill()
    (record,) = log.open()
    assert record.expires_at_ns == exact


def test_the_log_itself_keeps_what_has_expired(log):
    clock = FakeClock()
    wal = log.open(clock=clock)
    wal.put(b"k", b"v", ttl=1)
    clock.advance(YEAR)
    assert contents(wal) == [(0, b"k", b"v")]
    wal.close()
    assert contents(log.open(clock=clock)) == [(0, b"k", b"v")]


@pytest.mark.parametrize("call", ["put", "delete", "batch"])
def test_a_clock_that_steps_back_makes_no_ttl_end_before_it_began(few, call):
    """Compared with the newest time seen in the log, also after a restart."""
    clock = FakeClock()
    wal = few.open(clock=clock)
    fill(wal, 40)
    seen = clock()
    clock.jump(-HOUR)
    for death in ("none", "close", "kill"):
        if death == "kill":
            few.kill()
        elif death == "close":
            wal.close()
        if death != "none":
            wal = few.open(clock=clock)
        if call == "put":
            position = wal.put(b"k", b"v", ttl=60)
        elif call == "delete":
            position = wal.delete(b"k", ttl=60)
        else:
            with wal.batch() as batch:
                batch.put(b"k", b"v", ttl=60)
            position = batch.positions[0]
        assert wal.read(position).expires_at_ns == seen + 60 * SECOND
        assert wal.read(position).timestamp_ns == clock()


@pytest.mark.parametrize("change", ["roll", "truncate_before", "truncate_after"])
def test_the_newest_time_outlives_a_death_before_a_full_segment_has_its_footer(few, change):
    """G19: nobody scans a full segment when the log is opened again, and its records count."""
    clock = FakeClock()
    wal = few.open(clock=clock)
    wal._engine.writer.chores.seal = lambda header, end: None
    fill(wal, 40)
    seen = clock()
    clock.jump(-HOUR)
    while len(few.segments()) < 4:
        fill(wal, 1)
    if change == "truncate_before":
        wal.truncate_before(wal.current_position())
    elif change == "truncate_after":
        wal.truncate_after(20)
    few.kill()
    wal = few.open(clock=clock)
    position = wal.put(b"k", b"v", ttl=60)
    assert wal.read(position).expires_at_ns == seen + 60 * SECOND


def test_a_record_from_the_end_of_time_keeps_no_other_from_expiring_some_day(few):
    """Its time counts as now, and no expiry is later than the last moment there is."""
    last = 2**63 - 1
    wal = few.open()
    wal.append(Record(b"k", b"v", timestamp_ns=last))
    wal.put(b"k", b"v", ttl=5)
    wal.close()
    wal = few.open()
    wal.delete(b"k", ttl=365 * 86_400)
    assert [record.expires_at_ns for record in wal] == [None, last, last]


def test_another_handles_clock_counts_too(shared):
    ahead, behind = FakeClock(), FakeClock(FakeClock()() - HOUR * SECOND)
    wal, other = shared.open(clock=ahead), shared.open(clock=behind)
    wal.put(b"k", b"v")
    other.put(b"k", b"v", ttl=60)
    assert other.read(1).expires_at_ns == ahead() + 60 * SECOND


CLOCKS = {
    "back an hour": lambda clock: clock.jump(-HOUR),
    "forward ten years": lambda clock: clock.jump(10 * YEAR),
    "frozen": lambda clock: None,
    "jittering": lambda clock: setattr(clock, "jitter_seconds", 5.0),
    "at the beginning of time": lambda clock: clock.set(0),
    "before the beginning": lambda clock: clock.set(-(10**18)),
    "at the end of time": lambda clock: clock.set((1 << 63) - 1),
}


@pytest.mark.parametrize("change", CLOCKS.values(), ids=CLOCKS)
def test_no_clock_changes_what_is_in_the_log(few, change):
    clock = FakeClock()
    wal = few.open(clock=clock)
    fill(wal, 50)
    change(clock)
    fill(wal, 20)
    wal.append_batch([(b"key-%d" % n, b"value-%d" % n) for n in range(70, 80)])
    few.kill()
    wal = few.open(clock=clock)
    fill(wal, 20)
    wal.truncate_after(95)
    change(clock)
    first = wal.truncate_before(60)
    wal.close()
    wal = few.open(clock=clock)
    assert contents(wal) == told(first, 95)
    wal.check()
    fill(wal, 50)
    assert contents(wal.read_from(time=0)) == told(first, 145)


@pytest.mark.parametrize("change", CLOCKS.values(), ids=CLOCKS)
def test_a_new_log_can_be_made_at_any_time(change):
    clock = FakeClock()
    change(clock)
    files = MemoryFiles()
    with Wal.open("/log", files=files, clock=clock, segment_bytes_max=2048) as wal:
        fill(wal, 100)
    with Wal.open("/log", files=files, clock=clock, segment_bytes_max=2048) as wal:
        assert contents(wal) == told(0, 100)


def test_the_real_clock_is_the_default(wal):
    before = time.time_ns()
    wal.put(b"k", b"v")
    wal.put(b"k", b"v", ttl=60)
    plain, timed = wal
    assert before <= plain.timestamp_ns <= timed.timestamp_ns <= time.time_ns()
    assert 60 * SECOND <= timed.expires_at_ns - before <= time.time_ns() - before + 60 * SECOND
