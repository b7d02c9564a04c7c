"""Reading from the end, newest first."""

import pytest

from tests._logs import contents, fill, pairs, told
from treering import PrunedError, RewoundError


def backwards(start, stop):
    return told(start, stop)[::-1]


def test_backwards_is_forwards_reversed(log):
    wal = log.open()
    fill(wal, 60)
    wal.append_batch(pairs(60, 130))
    fill(wal, 20)
    assert contents(wal.read_backwards()) == backwards(0, 150)
    for position in range(0, 151, 3):
        assert contents(wal.read_backwards(position)) == backwards(0, position)


def test_backwards_stops_where_it_is_told(log):
    wal = log.open()
    fill(wal, 100)
    for start, stop in ((100, 0), (100, 99), (100, 100), (50, 25), (30, 70), (77, 76)):
        assert contents(wal.read_backwards(start, stop=stop)) == backwards(stop, max(start, stop))


def test_backwards_ends_at_the_oldest_record_there_is(log):
    wal = log.open()
    fill(wal, 200)
    first = wal.truncate_before(120)
    assert contents(wal.read_backwards()) == backwards(first, 200)
    assert contents(wal.read_backwards(stop=5)) == backwards(first, 200)
    assert contents(wal.read_backwards(first)) == []


def test_backwards_from_a_truncated_position_is_refused_not_empty(log):
    """D11: nothing is skipped silently."""
    wal = log.open()
    fill(wal, 200)
    first = wal.truncate_before(120)
    with pytest.raises(PrunedError) as caught:
        wal.read_backwards(first - 1)
    assert caught.value.oldest == first


def test_backwards_notices_truncation_that_overtakes_it(shared):
    wal, other = shared.open(), shared.open()
    fill(wal, 200)
    reader = wal.read_backwards()
    assert contents([next(reader)]) == backwards(199, 200)
    oldest = other.truncate_before(150)
    seen = []
    with pytest.raises(PrunedError) as caught:
        seen.extend(reader)
    assert caught.value.oldest == oldest
    assert contents(seen) == backwards(oldest, 199)


def test_backwards_notices_that_what_it_was_about_to_read_was_replaced(shared):
    """An ordinary cut is not taken for damage, and old and new records are not mixed."""
    wal, other = shared.open(), shared.open()
    fill(wal, 200)
    for regrown in (0, 150):
        reader = wal.read_backwards(199)
        next(reader)
        other.truncate_after(20)
        other.append_batch([(b"new", b"")] * regrown) if regrown else None
        with pytest.raises(RewoundError) as caught:
            list(reader)
        assert caught.value.end == 20
        other.truncate_after(20)
        fill(other, 180)


def test_backwards_goes_on_below_a_cut(shared):
    wal, other = shared.open(), shared.open()
    fill(wal, 200)
    reader = wal.read_backwards(100)
    assert contents([next(reader)]) == backwards(99, 100)
    other.truncate_after(150)
    assert contents(reader) == backwards(0, 99)


def test_backwards_shows_what_there_was_when_it_began(wal):
    fill(wal, 10)
    reader = wal.read_backwards()
    fill(wal, 10)
    assert contents(reader) == backwards(0, 10)


def test_backwards_over_large_records(log):
    wal = log.open(segment_bytes_max=1 << 20)
    values = [bytes([n]) * (n * 7_001 % 200_000) for n in range(50)]
    for value in values:
        wal.put(b"", value)
    assert [record.value for record in wal.read_backwards()] == values[::-1]
