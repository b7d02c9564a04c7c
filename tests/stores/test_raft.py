"""The Raft log: what it keeps, what it refuses, what it gives back."""

from __future__ import annotations

import gc
import io
import os
import threading
import time

import pytest

from tests.stores._opening import opener
from treering import (
    ClosedError,
    ConflictError,
    DamageError,
    ForkedError,
    FsyncPolicy,
    LockedError,
    ReadOnlyError,
    Record,
    TooLargeError,
    TreeringError,
    UsageError,
    VersionError,
    Wal,
)
from treering.fold import Fold
from treering.stores.raft import (
    CommittedError,
    CompactedError,
    Entry,
    EntryConflictError,
    HardState,
    HardStateError,
    RaftLog,
    ReplacedError,
    UnavailableError,
)
from treering.stores.raft import records as rec
from treering.stores.raft.index import CHUNK_ENTRIES
from treering.stores.raft.snapshots import CHUNK_BYTES
from treering.stores.raft.state import State
from treering.testing import FakeClock, MemoryFiles


@pytest.fixture
def opened(files):
    with opener(RaftLog, "/raft", files=files, exclusive=False) as opened:
        yield opened


def run(first, count, term=1, size=3):
    """So many entries of one term."""
    return [Entry(i, term, b"%d" % i * size) for i in range(first, first + count)]


def shows(log):
    """All of it."""
    stored = log.snapshot()
    return (
        log.entries(log.first_index),
        log.hard_state,
        stored and (stored.index, stored.term, stored.metadata, stored.read()),
    )


# --- Entries ---


def test_a_new_log_is_empty(store):
    assert (store.first_index, store.last_index, len(store)) == (1, 0, 0)
    assert store.hard_state == HardState(0, None, 0)
    assert store.snapshot() is None
    assert store.term(0) == 0
    assert store.entries(1) == store.entries(1, 1) == []


def test_entries_come_back_as_they_were(store, other):
    entries = [Entry(1, 1, b""), Entry(2, 1, b"x" * 5000, 7), Entry(3, 4, bytes(range(256)), 255)]
    store.append(entries)
    for log in (store, other):
        assert log.entries(1, 4) == entries
        assert log.entry(2) == entries[1]
        assert [log.term(i) for i in range(4)] == [0, 1, 1, 4]
        assert len(log) == 3


@pytest.mark.parametrize("cache_bytes", [0, 2000, 1 << 20])
def test_entries_come_from_memory_or_from_the_log(opened, cache_bytes):
    log = opened(cache_bytes=cache_bytes)
    entries = run(1, 3000)
    for at in range(0, 3000, 500):
        log.append(entries[at : at + 500])
    assert log.stats()["cache_bytes"] <= cache_bytes
    assert log.entries(1) == entries
    assert log.entries(700, 2990) == entries[699:2989]
    assert log.entries(2990) == entries[2989:]
    log.check()


def test_as_many_entries_as_fit_but_at_least_one(opened):
    for cache_bytes in (0, 1 << 20):
        log = opened(cache_bytes=cache_bytes)
        log.append([Entry(i, 1, bytes(100)) for i in range(1, 501)])
        for limit, count in ((0, 1), (99, 1), (100, 1), (299, 2), (300, 3), (20_050, 200)):
            assert len(log.entries(1, bytes_max=limit)) == count
        assert len(log.entries(499, bytes_max=1 << 60)) == 2
        log.close()


def test_entries_that_are_there_are_passed_over(store):
    store.append(run(1, 5))
    store.compact(2, b"")
    position = store.position
    store.append(run(1, 4))
    assert store.position == position
    store.append(run(1, 7))
    assert store.last_index == 7
    assert store.position == position + 2


def test_another_term_is_a_conflict_that_the_caller_resolves(store, other):
    store.append(run(1, 5))
    before = shows(store)
    with pytest.raises(EntryConflictError, match="overwrite=True") as found:
        store.append([*run(2, 2), Entry(4, 2, b"new")])
    assert (found.value.index, found.value.term) == (4, 1)
    assert shows(store) == before
    store.append([*run(2, 2), Entry(4, 2, b"new")], overwrite=True)
    assert other.last_index == 4
    assert other.entries(1) == [*run(1, 3), Entry(4, 2, b"new")]
    store.truncate_after(2)
    store.append([Entry(3, 3, b"newer")])
    assert other.entries(1) == [*run(1, 2), Entry(3, 3, b"newer")]
    store.check()


def test_entries_follow_on_each_other(store):
    store.append(run(1, 3, term=2))
    before = shows(store)
    for entries, text in (
        ([Entry(5, 2, b"")], "leaves a gap"),
        ([Entry(4, 2, b""), Entry(6, 2, b"")], "index 6 comes after 4"),
        ([Entry(4, 3, b""), Entry(5, 2, b"")], "term 2 at index 5 comes after term 3"),
        ([Entry(4, 1, b"")], "term 1 at index 4 comes after term 2"),
    ):
        with pytest.raises(UsageError, match=text):
            store.append(entries)
    with pytest.raises(UsageError, match="term 1 at index 3"):
        store.save(entries=[Entry(3, 1, b"")], truncate_after=2)
    assert shows(store) == before


def test_what_is_committed_stays(store):
    store.append(run(1, 5), hard_state=HardState(1, None, 3))
    for call in (
        lambda: store.truncate_after(2),
        lambda: store.append([Entry(3, 2, b"")], overwrite=True),
        lambda: store.save(entries=run(3, 1, 2), truncate_after=2),
    ):
        with pytest.raises(CommittedError, match="committed"):
            call()
    store.truncate_after(3)
    assert store.last_index == 3
    store.truncate_after(3)
    with pytest.raises(UnavailableError):
        store.truncate_after(4)


def test_what_is_not_there_says_where_it_is(store):
    store.append(run(1, 5))
    store.compact(3, b"")
    for call in (
        lambda: store.entry(3),
        lambda: store.entries(3, 5),
        lambda: store.term(2),
        lambda: store.replicate_from(3),
    ):
        with pytest.raises(CompactedError, match="snapshot") as found:
            call()
        assert found.value.oldest == 4
    for call in (
        lambda: store.entry(6),
        lambda: store.entries(4, 7),
        lambda: store.entries(7),
        lambda: store.term(6),
        lambda: store.replicate_from(7),
    ):
        with pytest.raises(UnavailableError, match="the log ends at index 5"):
            call()
    assert store.entries(6) == []


# --- Hard state ---


def test_the_hard_state_is_kept(store, opened):
    for vote in (None, b"", b"node", "node-ä", 0, 2**64 - 1):
        term = store.hard_state.term + 1
        store.save_hard_state(term=term, voted_for=vote)
        store.close()
        store = opened()
        assert store.hard_state == HardState(term, vote, 0)
        assert type(store.hard_state.voted_for) is type(vote)


def test_what_is_not_given_of_the_hard_state_stays(store):
    store.append(run(1, 3))
    store.save_hard_state(term=3)
    store.save_hard_state(voted_for="a")
    store.save_hard_state(commit=2)
    assert store.hard_state == HardState(3, "a", 2)
    store.save_hard_state(term=4)
    assert store.hard_state == HardState(4, None, 2)
    position = store.position
    store.save_hard_state(commit=2)
    assert store.position == position


def test_the_hard_state_never_goes_back(store):
    store.append(run(1, 3), hard_state=HardState(5, "a", 2))
    for state, text in (
        (HardState(4, None, 2), "term would fall"),
        (HardState(5, "b", 2), "vote of term 5"),
        (HardState(5, b"a", 2), "vote of term 5"),
        (HardState(5, None, 2), "vote of term 5"),
        (HardState(5, "a", 1), "commit index would fall"),
        (HardState(6, None, 4), "beyond the last entry"),
    ):
        with pytest.raises(HardStateError, match=text) as found:
            store.save(hard_state=state)
        assert found.value.hint
    assert store.hard_state == HardState(5, "a", 2)
    store.save(hard_state=HardState(6, "b", 3))


def test_a_save_is_all_or_nothing(store, other):
    store.append(run(1, 4))
    before = shows(store)
    with pytest.raises(HardStateError):
        store.save(truncate_after=2, entries=run(3, 3, 2), hard_state=HardState(2, "a", 6))
    assert shows(other) == before
    position = store.position
    store.save(truncate_after=2, entries=run(3, 3, 2), hard_state=HardState(2, "a", 5))
    assert shows(other) == ([*run(1, 2), *run(3, 3, 2)], HardState(2, "a", 5), None)
    assert store.position == position + 5


def test_a_save_takes_one_fsync(tmp_path):
    with RaftLog(tmp_path / "raft") as log:
        log.append(run(1, 3))
        before = log.stats()["syncs"]
        log.save(truncate_after=1, entries=run(2, 64), hard_state=HardState(1, "a", 5))
        stats = log.stats()
        assert stats["syncs"] == before + 1
        assert stats["durable_position"] == stats["end_position"]


def test_what_is_there_already_is_durable_too_when_the_call_returns(opened):
    written = opened(fsync_policy=FsyncPolicy.OS)
    durable = opened(fsync_policy=FsyncPolicy.ALWAYS)
    written.append(run(1, 3))
    assert written.stats()["durable_position"] < 3
    durable.append(run(1, 3))
    assert written.stats()["durable_position"] == 3


# --- Snapshots ---


def test_a_compaction_puts_entries_into_a_snapshot(store, other):
    store.append([*run(1, 4), *run(5, 3, term=2)], hard_state=HardState(2, "a", 1))
    store.compact(5, b"the state", metadata=b"a, b, c")
    for log in (store, other):
        assert (log.first_index, log.last_index, log.term(5)) == (6, 7, 2)
        assert log.hard_state == HardState(2, "a", 5), "what is in a snapshot is committed"
        snapshot = log.snapshot()
        assert (snapshot.index, snapshot.term, snapshot.size) == (5, 2, 9)
        assert (snapshot.metadata, snapshot.read()) == (b"a, b, c", b"the state")
    store.compact(7, b"")
    assert (store.first_index, store.last_index, store.term(7)) == (8, 7, 2)
    assert store.snapshot().read() == b""
    store.append(run(8, 2, 2))
    assert other.entries(8) == run(8, 2, 2)
    store.check()


def test_a_compaction_may_leave_some_entries(store):
    store.append(run(1, 20))
    store.compact(10, b"", keep=4)
    assert (store.first_index, store.term(6), store.snapshot().index) == (7, 1, 10)
    store.compact(12, b"", keep=100)
    assert store.first_index == 7
    with pytest.raises(CommittedError):
        store.truncate_after(11)
    store.append(run(5, 20))
    assert store.last_index == 24
    store.check()


def test_a_compaction_needs_entries_and_a_newer_snapshot(store):
    store.append(run(1, 5))
    store.compact(3, b"old")
    before = shows(store)
    for index in (1, 3):
        with pytest.raises(CompactedError):
            store.compact(index, b"new")
    with pytest.raises(UnavailableError):
        store.compact(6, b"new")
    assert shows(store) == before


def test_snapshots_are_streamed(tmp_path):
    """Chunks of any size come in, chunks of at most 1 MiB go out."""
    data = bytes(range(256)) * 9000
    sizes = iter((0, 1, CHUNK_BYTES, 3, len(data)))

    def chunks():
        at = 0
        for size in sizes:
            yield data[at : at + size]
            at += size

    with RaftLog(tmp_path / "raft") as log:
        log.append(run(1, 3))
        for index, given in (
            (1, chunks()),
            (2, io.BytesIO(data)),
            (3, memoryview(data[::-1])[::-1]),
        ):
            log.compact(index, given)
            found = list(log.snapshot())
            assert b"".join(found) == data
            assert max(map(len, found)) <= 1 << 20
        log.check()


@pytest.mark.parametrize("kind", [OSError, KeyboardInterrupt])
def test_a_snapshot_that_breaks_off_leaves_all_as_it_was(store, kind):
    store.append(run(1, 5))
    store.compact(2, b"old", metadata=b"m")
    before = shows(store)

    def broken():
        yield bytes(CHUNK_BYTES + 1)
        assert shows(store) == before, "not before it is whole"
        raise kind("no more")

    with pytest.raises(kind):
        store.compact(4, broken())
    with pytest.raises(kind):
        store.install_snapshot(9, 9, broken())
    assert shows(store) == before
    assert store._fold.current.pending is None, "nothing holds the log back"
    store.check()


def test_what_a_crash_left_of_a_snapshot_is_let_go_of(files):
    with RaftLog("/raft", files=files, exclusive=False) as log:
        log.append(run(1, 5))

        def cut():
            yield bytes(CHUNK_BYTES)
            yield bytes(5)
            crashed.append(files.crash())

        crashed = []
        log.compact(4, cut())
    with RaftLog("/raft", files=crashed[0], read_only=True) as log:
        assert log._fold.current.pending is not None
        assert log.snapshot() is None
    with RaftLog("/raft", files=crashed[0]) as log:
        assert log._fold.current.pending is None
        assert shows(log) == (run(1, 5), HardState(), None)
        log.check()


def test_checkpoints_while_a_snapshot_is_stored_keep_what_is_there_of_it(opened):
    log = opened(segment_bytes_max=4096)
    log.append(run(1, 5))

    def slow():
        for n in range(3):
            yield b"%d" % n * CHUNK_BYTES
            log.truncate_after(0)
            log.append(run(1, 300))
            log.checkpoint()

    assert log.install_snapshot(400, 2, slow())
    log.checkpoint()
    assert log.snapshot().read() == b"".join(b"%d" % n * CHUNK_BYTES for n in range(3))
    again = opened()
    assert again.snapshot().size == 3 * CHUNK_BYTES
    again.check()


def test_of_two_snapshots_the_one_that_began_last_is_stored(store, other):
    store.append(run(1, 5))

    def slow():
        other.install_snapshot(4, 1, b"theirs")
        yield b"ours"

    with pytest.raises(ConflictError, match="begun meanwhile"):
        store.compact(3, slow())
    assert store.snapshot().read() == b"theirs"
    store.check()


def test_entries_that_are_replaced_while_their_snapshot_is_stored_are_not_compacted(store):
    store.append(run(1, 5))

    def slow():
        store.append(run(4, 2, term=2), overwrite=True)
        yield b"of the old ones"

    with pytest.raises(ConflictError, match="replaced while"):
        store.compact(4, slow())
    assert store.snapshot() is None
    assert store.last_index == 5
    store.check()


def test_an_installed_snapshot_replaces_a_log_that_is_behind(store, other):
    store.append(run(1, 5), hard_state=HardState(1, "a", 2))
    assert store.install_snapshot(8, 3, b"theirs", metadata=b"m") is True
    for log in (store, other):
        assert (log.first_index, log.last_index, log.term(8)) == (9, 8, 3)
        assert shows(log) == ([], HardState(1, "a", 8), (8, 3, b"m", b"theirs"))
    store.append(run(9, 2, term=3))
    store.check()


def test_an_installed_snapshot_keeps_a_suffix_that_matches(store):
    store.append([*run(1, 3), *run(4, 4, term=2)], hard_state=HardState(2, None, 3))
    assert store.install_snapshot(5, 2, b"theirs")
    assert (store.first_index, store.last_index) == (6, 7)
    assert store.entries(6) == run(6, 2, term=2)


def test_an_installed_snapshot_drops_a_suffix_that_does_not_match(store):
    store.append(run(1, 7), hard_state=HardState(1, None, 3))
    assert store.install_snapshot(5, 2, b"theirs")
    assert (store.first_index, store.last_index) == (6, 5)
    store.check()


def test_an_old_snapshot_is_not_installed(store):
    store.append(run(1, 7))
    store.compact(5, b"ours")
    before = shows(store)

    def never():
        raise AssertionError("nobody asks for it")
        yield

    for index in (3, 5):
        assert store.install_snapshot(index, 1, never()) is False
    assert shows(store) == before


def test_a_snapshot_that_contradicts_what_is_committed_is_refused(store):
    store.append(run(1, 7, term=3), hard_state=HardState(3, None, 5))
    before = shows(store)
    for index, term in ((4, 2), (4, 4), (9, 2)):
        with pytest.raises(ConflictError, match="contradicts"):
            store.install_snapshot(index, term, b"")
    assert shows(store) == before


def test_a_snapshot_that_is_being_read_survives_checkpoints(opened):
    log = opened(segment_bytes_max=4096)
    log.append(run(1, 3))
    log.compact(1, bytes(10_000))
    snapshot = log.snapshot()
    log.compact(3, b"newer")
    for _ in range(3):
        log.append(run(log.last_index + 1, 100))
        log.checkpoint()
    assert snapshot.read() == bytes(10_000)
    first = log.stats()["first_position"]
    del snapshot
    gc.collect()
    log.checkpoint()
    assert log.stats()["first_position"] > first


def test_a_snapshot_that_another_process_removed_says_so(store, other):
    store.append(run(1, 3))
    store.compact(1, bytes(10_000))
    snapshot = other.snapshot()
    store.append(run(4, 200))
    store.compact(203, b"newer")
    for _ in range(3):
        store.append(run(store.last_index + 1, 100))
        store.checkpoint()
    with pytest.raises(CompactedError, match="replaced by a newer one"):
        snapshot.read()
    assert other.snapshot().read() == b"newer"


# --- Replication ---


def test_a_follower_gets_all_and_what_is_to_come(store, other):
    store.append(run(1, 3000))
    with other.replicate_from(2, timeout=20) as entries:
        assert [next(entries) for _ in range(2999)] == run(2, 2999)
        threading.Timer(0.05, lambda: store.append(run(3001, 1))).start()
        assert next(entries) == run(3001, 1)[0]
        assert entries.next_index == 3002
    assert list(entries) == []


def test_a_follower_waits_so_long_and_goes_on(store):
    entries = store.replicate_from(1, timeout=0.02)
    assert list(entries) == []
    store.append(run(1, 2))
    assert list(entries) == run(1, 2)
    waiting = store.replicate_from(3)
    threading.Timer(0.05, waiting.stop).start()
    begun = time.monotonic()
    assert list(waiting) == []
    assert time.monotonic() - begun < 5


def test_a_follower_that_is_too_far_behind_gets_the_snapshot(store):
    store.append(run(1, 9))
    entries = store.replicate_from(1, timeout=0)
    store.compact(4, b"")
    with pytest.raises(CompactedError, match="snapshot"):
        next(entries)
    assert next(store.replicate_from(5)) == run(5, 1)[0]


@pytest.mark.parametrize("length", [2, 5, 9])
def test_a_follower_learns_that_entries_were_replaced(store, length):
    store.append(run(1, 5))
    entries = store.replicate_from(1, timeout=0)
    assert list(entries) == run(1, 5)
    store.append(run(2, length, term=2), overwrite=True)
    with pytest.raises(ReplacedError, match="index 5") as found:
        next(entries)
    assert found.value.index == 5


def test_entries_are_of_one_moment(opened):
    """Replaced between two blocks: all are the old ones, or all the new ones."""
    log = opened(cache_bytes=0)
    log.append(run(1, 3000))
    read, done = log._fold.wal.read_many, []

    def reading(positions):
        if not done:
            done.append(log.append(run(2, 2999, term=2), overwrite=True))
        return read(positions)

    log._fold.wal.read_many = reading
    try:
        found = log.entries(1, 3001)
    finally:
        del log._fold.wal.read_many
    assert found == [*run(1, 1), *run(2, 2999, term=2)]


@pytest.mark.parametrize("cache_bytes", [0, 5000])
def test_threads_read_while_another_one_replaces_and_compacts(opened, cache_bytes):
    log = opened(cache_bytes=cache_bytes)
    log.append(run(1, 300))
    over, wrong, seen = threading.Event(), [], []

    def look():
        while not over.is_set():
            try:
                found = log.entries(log.first_index)
                indices = [entry.index for entry in found]
                terms = [entry.term for entry in found]
                assert indices == list(range(indices[0], indices[0] + len(found)))
                assert terms == sorted(terms)
                assert all(e.data == b"%d" % e.index * 3 for e in found)
                assert log.snapshot() is None or log.snapshot().read()
                seen.append(len(found))
            except CompactedError:
                continue
            except BaseException as error:
                wrong.append(error)
                return

    readers = [threading.Thread(target=look) for _ in range(2)]
    for reader in readers:
        reader.start()
    for turn in range(2, 60):
        commit = log.hard_state.commit
        log.append(run(commit + 2, 300, term=turn), overwrite=True)
        if turn % 5 == 0:
            log.compact(commit + 100, b"state", keep=10)
            log.checkpoint()
    over.set()
    for reader in readers:
        reader.join()
    assert not wrong
    assert seen
    log.check()


def test_an_exclusive_log_belongs_to_its_process(tmp_path):
    with RaftLog(tmp_path / "raft") as log:
        log.append(run(1, 2))
        child = os.fork()
        if child == 0:
            try:
                log.append(run(3, 1))
            except ForkedError:
                os._exit(7)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        log.append(run(3, 1))
        assert log.entries(1) == run(1, 3)


# --- The log beneath ---


def test_what_is_not_needed_leaves_the_disk(opened):
    log = opened(segment_bytes_max=4096)
    for start in range(1, 4000, 200):
        log.append(run(start, 200, size=5))
        log.compact(start + 150, bytes(500))
        log.checkpoint()
    stats = log.stats()
    assert stats["first_position"] > 3000
    assert log.entries(log.first_index) == run(3952, 49, size=5)
    log.check()


def test_entries_outlast_checkpoints(opened):
    log = opened(segment_bytes_max=4096, cache_bytes=0)
    for start in range(1, 1000, 200):
        log.append(run(start, 200))
        log.checkpoint()
    assert log.entries(1) == run(1, 1000)
    log.check()


@pytest.mark.parametrize("extra", [0, 1, 700])
def test_opened_again_from_a_checkpoint_it_is_the_same(store, opened, extra):
    count = 2 * CHUNK_ENTRIES - 1
    for start in range(1, count, 1000):
        store.append(run(start, min(1000, count + 1 - start)))
    store.save_hard_state(term=4, voted_for="a", commit=7)
    store.compact(count - 4000, bytes(CHUNK_BYTES + 9), metadata=b"m", keep=200)
    store.append(run(count + 1, extra, 5))
    store.checkpoint()
    store.append(run(store.last_index + 1, 3, 6))
    before = shows(store)
    again = opened()
    assert shows(again) == before
    again.check()
    again.truncate_after(again.last_index - 3 - extra)
    again.append(run(again.last_index + 1, 5000, 9))
    assert shows(store) == shows(again)
    store.check()


def test_the_files_of_a_checkpoint_hold_the_index_in_blocks(store):
    for start in range(1, 20_000, 1000):
        store.append(run(start, 1000))
    assert len(list(store._fold.current.dump())) < 10


@pytest.mark.parametrize("last", [5, CHUNK_ENTRIES - 1, CHUNK_ENTRIES + 1])
@pytest.mark.parametrize("cut", [1, 3, None])
def test_a_copy_stays_as_it_was(store, last, cut):
    """What a checkpoint writes while other threads go on."""
    store.append(run(1, last))
    copy = store._fold.current.copy()
    before = list(copy.dump())
    if cut is None:
        store.compact(last - 1, b"x")
    else:
        store.truncate_after(last - cut)
    store.append(run(store.last_index + 1, 50, term=2))
    assert list(copy.dump()) == before
    store.check()


def test_the_cache_forgets_what_is_no_more_there(store):
    store.append(run(1, 100))
    full = store.stats()["cache_bytes"]
    store.truncate_after(60)
    assert store.stats()["cache_bytes"] < full * 0.7
    store.append(run(61, 5, term=2))
    assert store._fold.current.recent.first == 1, "the others are still there"
    store.compact(50, b"")
    assert store.stats()["cache_bytes"] < full * 0.2
    store.check()


def test_a_log_reads_beside_its_writer(tmp_path):
    with RaftLog(tmp_path / "raft") as log:
        log.append(run(1, 3))
        with pytest.raises(LockedError):
            RaftLog(tmp_path / "raft")
        with RaftLog(tmp_path / "raft", read_only=True) as reader:
            assert reader.entries(1) == run(1, 3)
            log.append(run(4, 1))
            assert reader.last_index == 4
            for call in (
                lambda: reader.append(run(5, 1)),
                lambda: reader.save_hard_state(term=1),
                lambda: reader.compact(1, b""),
            ):
                with pytest.raises(ReadOnlyError):
                    call()
            assert reader.sync() is None


def test_clocks_do_not_matter(files):
    clock = FakeClock()
    with RaftLog("/raft", files=files, clock=clock) as log:
        log.append(run(1, 1))
        for jump in (-1e9, 2e9):
            clock.jump(jump)
            log.append(run(log.last_index + 1, 1), hard_state=HardState(log.last_index + 1))
        log.check()
    with RaftLog("/raft", files=files, clock=clock) as log:
        assert log.last_index == 3


def test_another_kind_of_log_is_refused(files):
    with RaftLog("/raft", files=files) as log:
        log.append(run(1, 1))
    with pytest.raises(UsageError, match="another path"):
        Fold("/raft", _Other, own=True, files=files)


class _Other(State):
    label = b"another kind"


# --- What is wrong is refused ---


@pytest.mark.parametrize(
    "entry",
    [
        Entry(0, 1, b""),
        Entry(-1, 1, b""),
        Entry(True, 1, b""),
        Entry(1.0, 1, b""),
        Entry(1 << 63, 1, b""),
        Entry("1", 1, b""),
        Entry(1, -1, b""),
        Entry(1, 1 << 63, b""),
        Entry(1, None, b""),
        Entry(1, float("nan"), b""),
        Entry(1, 1, "text"),
        Entry(1, 1, None),
        Entry(1, 1, b"", 256),
        Entry(1, 1, b"", -1),
        Entry(1, 1, b"", True),
        (1, 1, b"", 0),
        None,
    ],
)
def test_what_is_no_entry_is_refused(store, entry):
    with pytest.raises(UsageError):
        store.append([entry])
    assert (store.position, store.last_index) == (0, 0)


@pytest.mark.parametrize(
    "call",
    [
        lambda log: log.append(5),
        lambda log: log.append(Entry(1, 1, b"")),
        lambda log: log.save(hard_state=(1, None, 0)),
        lambda log: log.save(hard_state=HardState(-1)),
        lambda log: log.save(hard_state=HardState(1.5)),
        lambda log: log.save(hard_state=HardState(1, 1.5)),
        lambda log: log.save(hard_state=HardState(1, True)),
        lambda log: log.save(hard_state=HardState(1, -1)),
        lambda log: log.save(hard_state=HardState(1, "\udc80")),
        lambda log: log.save(hard_state=HardState(1, "x" * 5000)),
        lambda log: log.save(hard_state=HardState(1, None, None)),
        lambda log: log.save_hard_state(term="1"),
        lambda log: log.save_hard_state(commit=-1),
        lambda log: log.save(truncate_after=-1),
        lambda log: log.truncate_after(True),
        lambda log: log.truncate_after(1 << 64),
        lambda log: log.compact(0, b""),
        lambda log: log.compact(1, "text"),
        lambda log: log.compact(1, 5),
        lambda log: log.compact(1, ["text"]),
        lambda log: log.compact(1, io.StringIO("text")),
        lambda log: log.compact(1, b"", metadata="text"),
        lambda log: log.compact(1, b"", metadata=bytes((1 << 20) + 1)),
        lambda log: log.compact(1, b"", keep=-1),
        lambda log: log.install_snapshot(0, 1, b""),
        lambda log: log.install_snapshot(1, -1, b""),
        lambda log: log.install_snapshot(1, None, b""),
        lambda log: log.entries(2, 1),
        lambda log: log.entries("1"),
        lambda log: log.entries(1, 2.0),
        lambda log: log.entries(1, bytes_max=-1),
        lambda log: log.entry(None),
        lambda log: log.term(-1),
        lambda log: log.replicate_from(0),
        lambda log: log.replicate_from(1, timeout=-1),
        lambda log: log.replicate_from(1, timeout=float("nan")),
    ],
)
def test_a_wrong_argument_is_refused_and_changes_nothing(store, call):
    store.append(run(1, 2), hard_state=HardState(0, None, 1))
    before = shows(store)
    with pytest.raises(UsageError):
        call(store)
    assert shows(store) == before
    store.check()


def test_too_much_at_once_is_refused(opened):
    log = opened(batch_bytes_max=10_000, record_bytes_max=5000)
    with pytest.raises(TooLargeError):
        log.append([Entry(1, 1, bytes(6000))])
    with pytest.raises(TooLargeError):
        log.append([Entry(i, 1, bytes(2000)) for i in range(1, 9)])
    assert (log.last_index, log.position) == (0, 0)


def test_a_closed_log_says_so(store):
    store.append(run(1, 2))
    snapshot, entries = store.compact(1, b"x") or store.snapshot(), store.replicate_from(2)
    store.close()
    store.close()
    for call in (
        lambda: store.append(run(3, 1)),
        lambda: store.last_index,
        lambda: store.term(1),
        lambda: snapshot.read(),
        lambda: next(entries),
    ):
        with pytest.raises(ClosedError):
            call()
    assert repr(store) == f"<treering.stores.raft.RaftLog {store.name!r} closed>"


def test_cache_bytes_must_be_a_number():
    for wrong in (-1, 1.5, None, True):
        with pytest.raises(UsageError):
            RaftLog("/raft", files=MemoryFiles(), cache_bytes=wrong)


NUMBER = (1 << 64) - 1


@pytest.mark.parametrize(
    ("key", "value", "error"),
    [
        (b"", b"", VersionError),
        (b"?", b"", VersionError),
        (b"e", b"", DamageError),
        (rec.ENTRY_KEY.pack(rec.ENTRY, 1, 1, 0) + b"x", b"", DamageError),
        (rec.ENTRY_KEY.pack(rec.ENTRY, 5, 1, 0), b"", DamageError),
        (rec.ENTRY_KEY.pack(rec.ENTRY, NUMBER, NUMBER, 0), b"", DamageError),
        (rec.ENTRY_KEY.pack(rec.ENTRY, 3, 0, 0), b"", DamageError),
        (rec.ONE.pack(rec.TRUNCATE, 0), b"", DamageError),
        (rec.ONE.pack(rec.TRUNCATE, NUMBER), b"", DamageError),
        (rec.TWO.pack(rec.HARD_STATE, 0, 1), b"", DamageError),
        (rec.TWO.pack(rec.HARD_STATE, 1, 0), b"", DamageError),
        (rec.TWO.pack(rec.HARD_STATE, 1, NUMBER), b"", DamageError),
        (rec.TWO.pack(rec.HARD_STATE, 1, 1), b"?x", DamageError),
        (rec.TWO.pack(rec.HARD_STATE, 1, 1), b"s\xff", DamageError),
        (rec.TWO.pack(rec.HARD_STATE, 1, 1), b"i123", DamageError),
        (rec.TWO.pack(rec.CHUNK, 3, 0), b"", DamageError),
        (rec.ONE.pack(rec.ABANDON, 9), b"", DamageError),
        (rec.DONE_KEY.pack(rec.DONE, 3, 0, 0, 1, 1, True), b"", DamageError),
        (b"b1", b"", DamageError),
    ],
)
def test_records_that_no_raft_log_wrote_are_never_skipped(files, key, value, error):
    with RaftLog("/raft", files=files) as log:
        log.append(run(1, 2), hard_state=HardState(1, None, 1))
    with Wal.open("/raft", files=files) as wal:
        wal.put(key, value)
    with pytest.raises(error) as found:
        RaftLog("/raft", files=files)
    assert found.value.position == 3
    assert found.value.hint


@pytest.mark.parametrize(
    ("chunks", "size", "before", "term", "retain"),
    [
        (0, 1, 2, 1, True),
        (2, 1, 2, 1, True),
        (1, 2, 2, 1, True),
        (1, 1, 3, 1, True),
        (1, 1, 2, 2, True),
        (1, 1, 1, 1, False),
        (1, 1, NUMBER, 1, True),
    ],
)
def test_a_snapshot_that_is_not_what_its_end_says_is_damage(
    files, chunks, size, before, term, retain
):
    with RaftLog("/raft", files=files) as log:
        log.append(run(1, 5))
    with Wal.open("/raft", files=files) as wal:
        wal.put(rec.TWO.pack(rec.BEGIN, 2, 1), b"")
        wal.put(rec.TWO.pack(rec.CHUNK, 5, 0), b"x")
        wal.put(rec.DONE_KEY.pack(rec.DONE, 5, chunks, size, before, term, retain), b"")
    with pytest.raises(DamageError) as found:
        RaftLog("/raft", files=files)
    assert found.value.position == 7


def test_a_tombstone_is_no_record_of_a_raft_log(files):
    with RaftLog("/raft", files=files) as log:
        log.append(run(1, 2))
    with Wal.open("/raft", files=files) as wal:
        wal.append(Record.delete(rec.ENTRY_KEY.pack(rec.ENTRY, 3, 1, 0)))
    with pytest.raises(DamageError):
        RaftLog("/raft", files=files)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (rec.HEADER_KEY.pack(rec.HEADER, 1, 1, 9, 1, 2), b""),
        (rec.HEADER_KEY.pack(rec.HEADER, 1, 1, 0, 1, NUMBER), b""),
        (rec.ONE.pack(rec.PIECE, 2), bytes(16)),
        (rec.ONE.pack(rec.PIECE, 1), bytes(15)),
        (rec.ONE.pack(rec.PIECE, 1), bytes(8)),
        (rec.ONE.pack(rec.PIECE, 1), bytes(16 * CHUNK_ENTRIES + 16)),
        (rec.TWO.pack(rec.CHUNK, 3, 0), bytes(8)),
        (b"S", b""),
    ],
)
def test_a_checkpoints_file_that_does_not_fit_is_damage(key, value):
    with pytest.raises(DamageError):
        State().load(Record(key, value))


def test_a_checkpoints_record_of_a_newer_version_is_refused():
    with pytest.raises(VersionError):
        State().load(Record(b"?", b""))


def test_check_finds_an_index_that_is_wrong(store):
    store.append(run(1, 10))
    for spoil in (
        lambda state: state.index._chunks[-1].__setitem__(5, 9),
        lambda state: setattr(state, "hard", HardState(1, None, 99)),
        lambda state: state.recent._entries.__setitem__(3, Entry(4, 1, b"other")),
    ):
        store._fold._reload()
        store.check_state()
        spoil(store._fold.current)
        with pytest.raises(TreeringError):
            store.check_state()
    store._fold._reload()
    store.check()
