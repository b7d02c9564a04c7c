"""Appends on the condition that nobody was faster."""

import pytest

from tests._logs import contents, fill, told
from treering import ConflictError, FsyncPolicy, UsageError


def test_an_append_at_the_end_gets_that_position(either):
    wal = either.open()
    fill(wal, 5)
    assert wal.append_batch([(b"k", b"v"), (b"l", b"w")], at=5) == range(5, 7)
    assert wal.current_position() == 7


@pytest.mark.parametrize("at", [0, 4, 6, 1000])
def test_an_append_elsewhere_is_refused_whole(either, at):
    wal = either.open()
    fill(wal, 5)
    with pytest.raises(ConflictError) as caught:
        wal.append_batch([(b"k", b"v"), (b"l", b"w")], at=at)
    assert caught.value.end == 5
    assert caught.value.hint
    assert contents(wal) == told(0, 5)
    fill(wal, 1)
    assert wal.current_position() == 6


def test_what_another_handle_appended_counts(shared):
    wal, other = shared.open(), shared.open()
    fill(wal, 3)
    end = wal.current_position()
    other.put(b"k", b"v")
    with pytest.raises(ConflictError):
        wal.append_batch([(b"k", b"v")], at=end)
    assert wal.append_batch([(b"k", b"v")], at=end + 1) == range(end + 1, end + 2)


def test_a_conditional_append_under_always_is_durable(log):
    wal = log.open(fsync_policy=FsyncPolicy.ALWAYS)
    wal.append_batch([(b"k", b"v")], at=0)
    assert wal.durable_position == 1


@pytest.mark.parametrize("at", [-1, 1 << 64, "0", 0.0, True])
def test_a_condition_that_is_no_position_is_refused(log, at):
    wal = log.open()
    with pytest.raises(UsageError):
        wal.append_batch([(b"k", b"v")], at=at)
    assert wal.current_position() == 0
