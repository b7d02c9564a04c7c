"""Retention: the log forgets by itself what is too much or too old, and nothing else."""

import contextlib
import threading

import pytest

from tests._logs import contents, fill, told
from treering import DamageError, Record
from treering.testing import FakeClock

DAY = 86_400


@contextlib.contextmanager
def settled(wal):
    """The background work that full segments ask for is done at the end of the block."""
    yield
    done = threading.Event()
    chores = wal._engine.writer.chores
    rolled = chores.rolled
    chores.rolled = lambda: (rolled(), done.set())
    fill_to_border(wal)
    assert done.wait(20)
    chores.rolled = rolled


def fill_to_border(wal):
    before = len(wal._engine.source.view().bases)
    while len(wal._engine.source.view().bases) == before:
        fill(wal, 1)
        if wal.stats()["segments"] <= before:
            before = min(before, wal.stats()["segments"])


def newest_base(log):
    return int(log.segments()[-1][:20])


def test_without_retention_everything_is_kept(log):
    wal = log.open()
    fill(wal, 300)
    assert wal.apply_retention() == 0
    assert contents(wal) == told(0, 300)


def test_retention_by_count_keeps_at_least_so_many(log):
    wal = log.open()
    fill(wal, 300)
    wal.close()
    wal = log.open(retention_records_max=100)
    first = wal.apply_retention()
    assert first == wal.first_position
    assert 100 <= 300 - first
    assert contents(wal) == told(first, 300)
    # One segment less would be too few.
    assert 300 - int(log.segments()[1][:20]) < 100


def test_retention_by_size_keeps_less_than_that(log):
    wal = log.open()
    fill(wal, 300)
    wal.close()
    limit = 3 * log.options["segment_bytes_max"]
    wal = log.open(retention_bytes_max=limit)
    first = wal.apply_retention()
    assert 0 < sum(len(log.get(name)) for name in log.segments()) <= limit
    assert wal.stats()["bytes"] <= limit
    assert contents(wal) == told(first, 300)
    assert len(log.segments()) >= 2


def test_retention_by_age_keeps_what_is_younger(log):
    clock = FakeClock()
    wal = log.open(clock=clock)
    for _ in range(300):
        fill(wal, 1)
        clock.advance(DAY / 100)
    wal.close()
    wal = log.open(clock=clock, retention_seconds_max=DAY)
    first = wal.apply_retention()
    assert contents(wal) == told(first, 300)
    # Everything younger than a day, and of the rest what shares a segment with it.
    assert first <= 200
    assert int(log.segments()[1][:20]) > 200


def test_the_newest_segment_is_always_kept(log):
    clock = FakeClock()
    wal = log.open(
        clock=clock, retention_bytes_max=1, retention_records_max=1, retention_seconds_max=1
    )
    fill(wal, 20)
    clock.advance(DAY)
    assert wal.apply_retention() == newest_base(log)
    assert contents(wal) == told(newest_base(log), 20)


@pytest.mark.parametrize(
    "options",
    [{"retention_records_max": 50}, {"retention_bytes_max": 6000}, {"retention_seconds_max": 1}],
    ids=lambda options: next(iter(options)),
)
def test_retention_happens_by_itself_when_a_segment_is_full(few, options):
    clock = FakeClock(step=10**9)
    wal = few.open(clock=clock, **options)
    fill(wal, 300)
    with settled(wal):
        pass
    assert 0 < wal.first_position
    assert wal.current_position() - wal.first_position < 200
    assert contents(wal) == told(wal.first_position, wal.current_position())
    wal.check()


def test_retention_applies_whatever_wants_most(memory):
    wal = memory.open()
    fill(wal, 300)
    wal.close()
    few = memory.open(retention_records_max=10, retention_bytes_max=1 << 30)
    assert few.apply_retention() > 200


def test_retention_respects_pins(log):
    wal = log.open(retention_records_max=10)
    wal.pin("consumer", 40)
    fill(wal, 300)
    first = wal.apply_retention()
    assert first <= 40
    assert wal.read(40).position == 40
    wal.unpin("consumer")
    assert wal.apply_retention() > 200


def test_a_clock_that_jumps_ahead_deletes_no_more_than_the_age_says(memory):
    """G19: retention goes by the clock, and by nothing else. The newest segment always stays."""
    clock = FakeClock()
    wal = memory.open(clock=clock, retention_seconds_max=DAY)
    fill(wal, 300)
    clock.jump(-DAY)
    assert wal.apply_retention() == 0
    clock.jump(2 * DAY - 1)
    assert wal.apply_retention() == 0
    clock.jump(2)
    assert wal.apply_retention() == newest_base(memory)


def test_a_record_from_the_future_keeps_its_segment(memory):
    clock = FakeClock()
    wal = memory.open(clock=clock, retention_seconds_max=DAY)
    fill(wal, 10)
    wal.append(Record.put(b"k", b"v", timestamp=(clock() / 1e9) + 30 * DAY))
    fill(wal, 200)
    clock.advance(2 * DAY)
    assert wal.apply_retention() == 0
    clock.advance(30 * DAY)
    assert wal.apply_retention() == newest_base(memory)


def test_trouble_with_pins_stops_retention_but_neither_appends_nor_closing(memory):
    """Nobody knows what consumers need, so nothing is deleted; the log goes on."""
    wal = memory.open(retention_records_max=10)
    fill(wal, 30)
    wal.pin("consumer", 5)
    memory.flip("pins.json", len(memory.get("pins.json")) // 2)
    fill(wal, 200)
    with pytest.raises(DamageError):
        wal.apply_retention()
    assert contents(wal) == told(0, 230)
    wal.close()
    assert memory.files.open_paths == []
    again = memory.open(exclusive=True)
    assert again.recovery.state == "clean"
    assert contents(again) == told(0, 230)
