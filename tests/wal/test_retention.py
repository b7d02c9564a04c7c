"""Retention: the log forgets by itself what is too much or too old, and nothing else."""

import pytest

from tests._logs import contents, fill, told
from treering import DamageError, Record
from treering._core import chores
from treering._core import format as fmt
from treering.testing import FakeClock

DAY = 86_400


def fill_and_close(wal, count):
    """Closing waits for the footers of full segments, which tell how old they are."""
    fill(wal, count)
    wal.close()


def used(wal, log):
    """What the records of each segment take, without what is reserved in the newest one."""
    *full, _ = (len(log.get(name)) for name in log.segments())
    return [*full, wal._engine.control.load(fmt.WORD_END_OFFSET)]


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
    assert 300 - first >= 100
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
    assert 0 < sum(used(wal, log)) <= limit
    assert contents(wal) == told(first, 300)
    assert len(log.segments()) >= 2


def test_retention_by_size_does_not_count_what_is_only_reserved(log):
    """A log that is below the limit keeps everything, though its newest segment has room for
    more than that; one that is over it loses no more than it has to."""
    limit = log.options["segment_bytes_max"] * 18 // 10
    wal = log.open(retention_bytes_max=limit)
    while len(log.segments()) < 2:
        fill(wal, 1)
    wal.close()  # which waits for what full segments have asked for
    wal = log.open(retention_bytes_max=limit)
    assert wal.apply_retention() == 0
    sizes = used(wal, log)
    while sum(sizes) <= limit:
        assert wal.apply_retention() == 0
        fill(wal, 1)
        sizes = used(wal, log)
    assert wal.apply_retention() == newest_base(log)


def test_retention_by_size_does_not_count_what_full_segments_left_unused(memory, monkeypatch):
    """Also before they have their footers, when they are still as large as was reserved."""
    monkeypatch.setattr(chores, "seal_segment", lambda *_: None)
    wal = memory.open(retention_bytes_max=6000)
    for _ in range(4):
        wal.put(b"k", bytes(1200))
    assert len(memory.segments()) == 4
    assert sum(len(memory.get(name)) for name in memory.segments()) > 6000
    assert wal.apply_retention() == 0
    wal.put(b"k", bytes(1200))
    assert wal.apply_retention() == 1


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
    wal.close()  # which waits for what full segments have asked for
    wal = few.open()
    assert wal.first_position > 0
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
    fill_and_close(memory.open(clock=clock), 300)
    wal = memory.open(clock=clock, retention_seconds_max=DAY)
    clock.jump(-DAY)
    assert wal.apply_retention() == 0
    clock.jump(2 * DAY - 1)
    assert wal.apply_retention() == 0
    clock.jump(2)
    assert wal.apply_retention() == newest_base(memory)


def test_a_record_from_the_future_keeps_its_segment(memory):
    clock = FakeClock()
    wal = memory.open(clock=clock)
    fill(wal, 10)
    wal.append(Record.put(b"k", b"v", timestamp=(clock() / 1e9) + 30 * DAY))
    fill_and_close(wal, 200)
    wal = memory.open(clock=clock, retention_seconds_max=DAY)
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
