"""Reading from a time on."""

import datetime
import random

import pytest

from tests._logs import fill
from treering import Record
from treering.testing import FakeClock

START = 1_700_000_000


def ticking(log, **options):
    """A log whose clock moves a second with each record; and the clock."""
    clock = FakeClock(START * 10**9)
    wal = log.open(clock=clock, **options)
    return wal, clock


def put_at(wal, *seconds):
    for moment in seconds:
        wal.append(Record.put(b"k", b"v" * 40, timestamp=moment))


def first_from(wal, moment):
    with wal.read_from(time=moment) as reader:
        return reader.position


def expected(times, moment, first=0):
    return next((n for n, time in enumerate(times) if n >= first and time >= moment), len(times))


@pytest.mark.parametrize("reopened", [False, True])
def test_a_time_finds_the_first_record_of_that_time_or_later(log, reopened):
    wal = log.open()
    times = [START + 10 * number for number in range(150)]
    put_at(wal, *times)
    if reopened:
        wal.close()
        wal = log.open()
    for moment in (0, START - 1, START, START + 1, START + 745, times[-1], times[-1] + 1, 9e9):
        assert first_from(wal, moment) == expected(times, moment)
    for number in range(150):
        assert first_from(wal, times[number]) == number
        assert first_from(wal, times[number] - 0.5) == number


def test_every_record_is_found_by_its_own_timestamp(few):
    """A timestamp in seconds is rounded; the record is found all the same."""
    clock = FakeClock(START * 10**9, step=1_000_003)
    wal = few.open(clock=clock)
    fill(wal, 300)
    for record in wal:
        assert first_from(wal, record.timestamp) == record.position
        moment = datetime.datetime.fromtimestamp(record.timestamp, datetime.UTC)
        assert first_from(wal, moment) in (record.position, record.position + 1)


def test_a_datetime_is_a_time(wal):
    put_at(wal, START, START + 60, START + 120)
    moment = datetime.datetime.fromtimestamp(START + 30, datetime.UTC)
    assert first_from(wal, moment) == 1
    east = datetime.timezone(datetime.timedelta(hours=9))
    assert first_from(wal, moment.astimezone(east)) == 1
    assert first_from(wal, moment.astimezone().replace(tzinfo=None)) == 1


def test_many_records_of_one_time_are_all_found(log):
    wal = log.open()
    put_at(wal, *[START] * 60, *[START + 5] * 120, *[START + 9] * 60)
    assert first_from(wal, START) == 0
    assert first_from(wal, START + 1) == first_from(wal, START + 5) == 60
    assert first_from(wal, START + 6) == 180
    assert first_from(wal, START + 10) == 240


@pytest.mark.parametrize("seed", range(5))
def test_the_first_such_record_is_found_though_clocks_went_back(few, seed):
    """G19: timestamps in any order; the answer is the first in the order of positions."""
    rng = random.Random(seed)
    times = [START + rng.randrange(1000) for _ in range(150)]
    wal = few.open()
    put_at(wal, *times)
    moments = [START + rng.randrange(-5, 1005) for _ in range(40)]
    assert [first_from(wal, m) for m in moments] == [expected(times, m) for m in moments]
    wal.close()
    wal = few.open(read_only=True)
    assert [first_from(wal, m) for m in moments] == [expected(times, m) for m in moments]


def test_truncated_records_are_passed_over(log):
    wal = log.open()
    times = [START + number for number in range(200)]
    put_at(wal, *times)
    first = wal.truncate_before(100)
    for moment in (0, START + 5, START + 99, START + first, START + 150):
        assert first_from(wal, moment) == expected(times, moment, first)


def test_records_behind_a_cut_are_passed_over(log):
    wal = log.open()
    put_at(wal, *[START + number for number in range(100)])
    wal.truncate_after(70)
    assert first_from(wal, START + 80) == 70
    put_at(wal, START + 85)
    assert first_from(wal, START + 80) == 70
    assert first_from(wal, START + 86) == 71
    assert first_from(wal, START + 69) == 69
    wal.close()
    wal = log.open()
    assert first_from(wal, START + 80) == 70
    assert first_from(wal, START + 86) == 71


def test_an_empty_log_starts_and_ends_at_any_time(wal):
    assert first_from(wal, 0) == first_from(wal, 9e9) == 0
    assert list(wal.read_from(time=5)) == []


def test_large_segments_are_searched_by_their_index(log):
    wal = log.open(segment_bytes_max=1 << 20)
    times = [START + number for number in range(300)]
    for moment in times:
        wal.append(Record.put(b"", bytes(5_000), timestamp=moment))
    for moment in (START, START + 13, START + 150.5, START + 299, START + 300):
        assert first_from(wal, moment) == expected(times, moment)
    wal.close()
    wal = log.open()
    for moment in (START, START + 13, START + 150.5, START + 299, START + 300):
        assert first_from(wal, moment) == expected(times, moment)


def test_a_segment_that_vanishes_during_the_search_is_passed_over(memory):
    """Truncation by somebody else, in the middle of the search."""
    wal, other = memory.open(), memory.open()
    put_at(wal, *[START + number for number in range(200)])
    oldest = []

    def truncate(name, path):
        if name == "open" and path.endswith(memory.segments()[1]) and not oldest:
            oldest.append(None)
            oldest[0] = other.truncate_before(150)

    memory.files.on_operation = truncate
    assert first_from(wal, START + 180) == 180
    assert oldest[0] > 100
    memory.files.on_operation = None
    assert first_from(wal, START + 5) == oldest[0]
