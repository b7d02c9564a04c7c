"""The Raft log under the eyes of somebody who wants to break it."""

from __future__ import annotations

import sys
import threading

import pytest

from tests.stores._opening import opener
from treering import FsyncPolicy
from treering.stores.raft import CompactedError, Entry, HardState, RaftLog, ReplacedError


@pytest.fixture
def opened(files):
    with opener(RaftLog, "/raft", files=files, exclusive=False) as opened:
        yield opened


def run(first, count, term=1, size=3):
    """So many entries of one term."""
    return [Entry(i, term, b"%d" % i * size) for i in range(first, first + count)]


def first_read(log, act):
    """Let `act` happen within the next read from the log beneath, before it looks."""
    read = log._fold.wal.read_many

    def reading(positions):
        del log._fold.wal.read_many
        act()
        return read(positions)

    log._fold.wal.read_many = reading


# --- Durable when the call returns ---


def test_a_snapshot_that_is_there_already_is_durable_too_when_the_call_returns(opened):
    written, durable = opened(), opened(fsync_policy=FsyncPolicy.ALWAYS)
    written.install_snapshot(5, 1, b"state")
    end = written.position
    assert written.stats()["durable_position"] < end
    assert durable.install_snapshot(5, 1, b"state") is False
    assert durable.stats()["durable_position"] == end


# --- Followers ---


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
def test_a_follower_gets_no_entry_that_was_replaced_before_it_asked(opened, cache_bytes):
    """Those that follow on what it was given are the new ones."""
    log = opened(cache_bytes=cache_bytes)
    log.append(run(1, 50))
    entries = log.replicate_from(1, timeout=0)
    assert [next(entries) for _ in range(10)] == run(1, 10)
    log.append(run(21, 50, term=2), overwrite=True)
    assert [next(entries) for _ in range(15)] == [*run(11, 10), *run(21, 5, term=2)]
    log.append(run(25, 9, term=3), overwrite=True)
    with pytest.raises(ReplacedError) as found:
        next(entries)
    assert (found.value.index, entries.next_index) == (25, 26)


def test_a_follower_goes_on_with_entries_that_are_being_compacted(opened):
    log = opened()
    log.append(run(1, 50))
    entries = log.replicate_from(1, timeout=0)
    assert next(entries) == run(1, 1)[0]
    log.compact(50, b"")
    log.append(run(51, 5))
    assert list(entries) == run(2, 54)


def test_a_follower_gets_no_entry_that_a_snapshot_took_the_place_of(opened):
    log = opened()
    log.append(run(1, 50))
    entries = log.replicate_from(1, timeout=0)
    assert next(entries) == run(1, 1)[0]
    log.install_snapshot(100, 7, b"")
    with pytest.raises(CompactedError):
        next(entries)


# --- Reads beside changes ---


def test_entries_that_are_replaced_and_removed_within_a_read(opened):
    log = opened(cache_bytes=0)
    log.append(run(1, 300))
    newer = run(1, 300, term=2)

    def replace():
        log.append(newer, overwrite=True)
        for _ in range(3):
            log.append(run(log.last_index + 1, 300, 2))
            log.checkpoint()

    first_read(log, replace)
    assert log.entries(1, 301) == newer
    log.check()


def test_entries_that_are_replaced_and_removed_within_a_check(opened):
    log = opened(cache_bytes=0)
    log.append(run(1, 300))

    def replace():
        log.append(run(1, 300, term=2), overwrite=True)
        for _ in range(3):
            log.append(run(log.last_index + 1, 300, 2))
            log.checkpoint()

    first_read(log, replace)
    log.check_state()


def test_the_end_of_the_log_is_never_one_of_within_a_save(opened):
    log = opened()
    log.append(run(1, 65))
    seen, over = set(), threading.Event()

    def look():
        while not over.is_set():
            seen.add(log.last_index)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    looker = threading.Thread(target=look)
    looker.start()
    try:
        for term in range(2, 1500):
            log.append(run(2, 64, term), overwrite=True)
    finally:
        over.set()
        looker.join()
        sys.setswitchinterval(interval)
    assert seen == {65}


def test_a_few_bytes_asked_for_do_not_read_many_large_entries(opened):
    log = opened(cache_bytes=0, segment_bytes_max=1 << 22)
    for i in range(1, 65):
        log.append([Entry(i, 1, bytes(1 << 19))])
    read, most = log._fold.wal.read_many, []

    def reading(positions):
        found = read(positions)
        most.append(sum(len(record.value) for record in found))
        return found

    log._fold.wal.read_many = reading
    try:
        assert len(log.entries(1, bytes_max=1)) == 1
        assert len(list(zip(log.replicate_from(1), range(3), strict=False))) == 3
        log.check_state()
    finally:
        del log._fold.wal.read_many
    assert max(most) <= 4 << 20


# --- Snapshots ---


def test_a_log_of_small_records_takes_snapshots_of_any_size(opened):
    log = opened(record_bytes_max=1000, batch_bytes_max=2000)
    log.append(run(1, 5))
    data = bytes(range(256)) * 20
    log.compact(2, data)
    log.compact(3, iter([data, data]))
    assert log.snapshot().read() == data * 2
    log.check()


def test_a_snapshot_that_is_there_already_is_called_so(opened):
    log = opened()
    log.append(run(1, 20))
    log.compact(10, b"", keep=4)
    for index in (8, 10):
        with pytest.raises(CompactedError, match="a snapshot up to index 10 already") as found:
            log.compact(index, b"")
        assert found.value.oldest == log.first_index == 7


def test_the_hard_state_outlasts_what_is_beneath_it(opened, files):
    """Terms and votes that were returned are there after all that truncates and compacts."""
    log = opened(fsync_policy=FsyncPolicy.ALWAYS)
    log.append(run(1, 300))
    log.save_hard_state(term=3, voted_for="a")
    log.append(run(2, 300, term=3), overwrite=True)
    log.install_snapshot(1000, 3, b"x" * 5000)
    for _ in range(3):
        log.append(run(log.last_index + 1, 300, term=3))
        log.checkpoint()
    log.compact(log.last_index, b"")
    log.checkpoint()
    log.checkpoint()
    expected = HardState(3, "a", log.last_index)
    with RaftLog("/raft", files=files.crash()) as again:
        assert again.hard_state == expected
        again.check()


def test_the_log_may_end_with_the_entries_that_are_given(opened):
    """As etcd's MemoryStorage.Append wants it, also if these are there already."""
    log = opened()
    log.append(run(1, 9))
    log.save(entries=run(4, 2), overwrite=True)
    assert log.last_index == 9
    log.save(entries=run(4, 2), truncate_after=3)
    assert log.entries(1) == run(1, 5)
    log.save(entries=run(6, 2), truncate_after=5)
    assert log.entries(1) == run(1, 7)
