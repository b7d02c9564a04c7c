"""FakeClock."""

import itertools

import pytest

from treering.testing import FakeClock

SECOND = 1_000_000_000


def test_it_stands_still():
    clock = FakeClock()
    assert clock() == clock()
    assert isinstance(clock(), int)


def test_it_moves_when_told_to():
    clock = FakeClock(5 * SECOND)
    clock.advance(1.5)
    assert clock() == 6_500_000_000
    clock.jump(-3600)
    assert clock() == 6_500_000_000 - 3600 * SECOND
    clock.jump(10 * 365 * 86400)
    clock.set(7)
    assert clock() == 7


def test_time_does_not_pass_backwards():
    with pytest.raises(ValueError):
        FakeClock().advance(-1)


def test_it_may_advance_with_each_reading():
    clock = FakeClock(100, step=5)
    assert [clock(), clock(), clock()] == [100, 105, 110]


def test_jitter_goes_both_ways_but_does_not_drift():
    clock = FakeClock(100 * SECOND, jitter_seconds=1, seed=7)
    again = FakeClock(100 * SECOND, jitter_seconds=1, seed=7)
    readings = [clock() for _ in range(200)]
    assert len(set(readings)) > 100
    assert any(later < earlier for earlier, later in itertools.pairwise(readings))
    assert all(abs(reading - 100 * SECOND) <= SECOND for reading in readings)
    assert readings == [again() for _ in readings]
    clock.jitter_seconds = 0
    assert clock() == 100 * SECOND
