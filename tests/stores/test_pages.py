"""The page store, call by call."""

from __future__ import annotations

import gc
import itertools
import os
import stat
import struct
import threading
import time

import pytest

from tests.stores._opening import SMALL, opener
from tests.stores._paging import BYTES, page, put, shown, text_of
from treering import (
    ClosedError,
    ConflictError,
    DamageError,
    DiskFullError,
    FsyncPolicy,
    LockedError,
    LogNotFoundError,
    PositionError,
    PrunedError,
    ReadOnlyError,
    Record,
    TooLargeError,
    UsageError,
    VersionError,
    Wal,
)
from treering.stores.kv import KeyValueStore
from treering.stores.pages import (
    PageConflictError,
    PageStore,
    SnapshotTooOldError,
    datafile,
    folding,
)
from treering.stores.pages import records as kinds
from treering.testing import FakeClock, FaultyFiles, MemoryFiles

FILE, LOG = "/pages/pages", "/pages/log"


@pytest.fixture
def opened(files):
    with opener(PageStore, "/pages", files=files, page_bytes=BYTES) as open_store:
        yield open_store


# --- transactions ---


def test_a_transaction_is_seen_by_all_or_by_none(store, other):
    with store.begin() as tx:
        tx.write(1, page("one"))
        tx.write(2, page("two"))
        assert shown(other) == [""] * 6
        assert text_of(tx.read(1)) == "one"
    assert shown(other, 3) == shown(store, 3) == ["", "one", "two"]
    assert other.page_count == 3


def test_an_exception_rolls_back(store, opened):
    put(store, p1="before")
    with pytest.raises(KeyError), store.begin() as tx:
        tx.write(1, page("after"))
        raise KeyError
    assert not tx.active
    tx = store.begin()
    tx.write(1, page("after"))
    tx.rollback()
    tx.rollback()  # nothing happens
    position = store.position
    with store.begin():
        pass
    assert store.position == position  # nothing changed, nothing in the log
    assert text_of(store.read(1)) == text_of(opened().read(1)) == "before"


def test_allocate_gives_each_page_once(store, other):
    with store.begin() as tx:
        numbers = [tx.allocate() for _ in range(3)]
        assert numbers == [0, 1, 2]
        assert tx.read(1) == bytes(BYTES)
        assert tx.page_count == 3
    assert other.page_count == 3
    one, two = store.begin(), other.begin()
    assert one.allocate() == two.allocate() == 3
    one.commit()
    with pytest.raises(PageConflictError) as caught:
        two.commit()
    assert (caught.value.page, caught.value.transaction) == (3, two)
    assert other.run(lambda tx: tx.allocate()) == 4


def test_a_page_far_away_costs_nothing_in_between(store, files):
    put(store, p100000="far")
    store.checkpoint()
    assert store.page_count == 100_001
    assert shown(store, 2) == ["", ""]
    assert text_of(store.read(100_000)) == "far"
    assert store.read(99_999) == bytes(BYTES)
    store.check()


def test_savepoints_nest(store):
    put(store, p1="a")
    with store.begin() as tx:
        tx.write(1, page("b"))
        outer = tx.savepoint()
        tx.write(1, page("c"))
        new = tx.allocate()
        inner = tx.savepoint()
        tx.write(1, page("d"))
        tx.write(5, page("x"))
        tx.rollback_to(inner)
        assert (text_of(tx.read(1)), tx.page_count) == ("c", new + 1)
        tx.rollback_to(outer)
        assert (text_of(tx.read(1)), tx.page_count) == ("b", new)
        with pytest.raises(UsageError, match="rolled back over"):
            tx.rollback_to(inner)
        tx.write(2, page("e"))
        tx.rollback_to(outer)  # as often as you like
        with pytest.raises(KeyError), tx.savepoint():
            tx.write(3, page("f"))
            raise KeyError
        with tx.savepoint():
            tx.write(4, page("g"))
    assert shown(store) == ["", "b", "", "", "g", ""]
    with store.begin() as tx, pytest.raises(UsageError):
        tx.rollback_to(outer)


# --- isolation ---


def test_a_transaction_sees_one_moment(store, other):
    put(store, p1="a", p2="a")
    with store.begin() as tx:
        assert text_of(tx.read(1)) == "a"
        put(store, p1="b", p2="b")
        put(other, p1="c", p2="c", p9="c")
        assert text_of(store.read(2)) == "c"
        assert (text_of(tx.read(2)), tx.page_count) == ("a", 3)
        assert text_of(tx.read(1)) == "a"
    assert store.stats()["open_transactions"] == 0


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
def test_what_an_open_transaction_sees_survives_our_checkpoints(opened, cache_bytes):
    store = opened(cache_bytes=cache_bytes)
    put(store, p1="old", p2="old")
    store.checkpoint()
    put(store, p2="in the log")
    tx = store.begin()
    for number in range(40):
        put(store, p1=f"new {number}", p2=f"new {number}", p3="new")
        store.checkpoint()
    assert [text_of(tx.read(n)) for n in range(1, 4)] == ["old", "in the log", ""]
    tx.rollback()
    store.checkpoint()
    assert store.stats()["dirty_pages"] == 0
    assert shown(store, 4) == ["", "new 39", "new 39", "new"]
    assert store.stats()["first_position"] > 60  # nobody needs the log any more
    store.check()


def test_what_waits_for_an_open_transaction_stays_in_the_log(opened):
    store = opened(cache_bytes=0)
    tx = store.begin()
    for number in range(60):
        put(store, **{f"p{number}": number})
        store.checkpoint()
    assert store.stats()["dirty_pages"] == 60
    for each in (store, opened()):
        assert shown(each, 60) == [str(number) for number in range(60)]
    tx.rollback()
    store.checkpoint()
    assert store.stats()["dirty_pages"] == 0


def test_what_changed_for_an_open_transaction_waits_as_a_whole(store, opened):
    with store.begin() as tx:
        tx.write(0, bytes(range(256)) * 2)
        tx.write(9, page("not changed"))
    tx = store.begin()
    with store.begin() as later:
        later.write(0, bytes(range(256)) + b"changed!" + bytes(range(8, 256)))
        later.write(1, page("once"))
    for number in range(60):
        put(store, p2=number)
        store.checkpoint()
    assert store.stats()["dirty_pages"] == 3
    assert store._fold.current.dirty[0] == (1, 3)
    again = opened(cache_bytes=0)
    for each in (store, again):
        assert each.read(0)[256:264] == b"changed!"
        assert text_of(each.read(1)) == "once"
    assert tx.read(0) == bytes(range(256)) * 2
    tx.rollback()
    store.checkpoint()
    assert store.stats()["dirty_pages"] == 0
    assert again.read(0)[256:264] == b"changed!"
    again.check()


def test_another_processs_checkpoint_may_end_what_a_transaction_sees(store, opened):
    """Never a wrong page: the one that it should see, or an error that says so."""
    put(store, p1="old", p2="old", p3="old")
    store.checkpoint()
    other = opened(cache_bytes=0)
    tx = other.begin()
    assert text_of(tx.read(2)) == "old"
    for number in range(60):
        put(store, p1=f"new {number}")
        store.checkpoint()
    with pytest.raises(SnapshotTooOldError, match="Begin again") as caught:
        tx.read(1)
    assert isinstance(caught.value, ConflictError)
    assert caught.value.transaction is tx
    assert text_of(tx.read(2)) == "old"  # these are still as they were
    assert text_of(tx.read(3)) == "old"
    tx.rollback()
    tries = []

    def work(tx):
        tries.append(1)
        if len(tries) == 1:
            for number in range(60):
                put(store, p1=f"newer {number}")
                store.checkpoint()
        return text_of(tx.read(1))

    assert other.run(work) == "newer 59"
    assert len(tries) == 2


def test_the_first_to_commit_wins(store, other):
    put(store, p1="a", p2="a")
    one, two, three = store.begin(), other.begin(), store.begin()
    one.write(1, page("one"))
    two.write(1, page("two"))
    three.write(2, page("three"))
    one.commit()
    with pytest.raises(PageConflictError, match="page 1 was changed") as caught:
        two.commit()
    assert "run" in caught.value.hint
    assert not two.active
    three.commit()
    assert shown(other, 3) == ["", "one", "three"]


def test_a_page_that_came_back_to_the_data_file_still_conflicts(store, other):
    tx = other.begin()
    tx.write(1, page("late"))
    put(store, p1="early")
    store.checkpoint()
    with pytest.raises(PageConflictError):
        tx.commit()
    assert text_of(other.read(1)) == "early"


@pytest.mark.parametrize("serializable", [False, True])
def test_write_skew(store, other, serializable):
    """Each takes its own away because the other one is there."""
    put(store, p1="on", p2="on")
    one, two = store.begin(serializable=serializable), other.begin(serializable=serializable)
    for tx, mine, yours in ((one, 1, 2), (two, 2, 1)):
        assert text_of(tx.read(yours)) == "on"
        tx.write(mine, page("off"))
    one.commit()
    if serializable:
        with pytest.raises(PageConflictError):
            two.commit()
    else:
        two.commit()
    assert shown(store, 3).count("on") == serializable


def test_serializable_goes_for_the_number_of_pages_too(store, other):
    tx = store.begin(serializable=True)
    tx.write(0, page(tx.page_count))
    put(other, p5="more")
    with pytest.raises(PageConflictError, match="the number of pages"):
        tx.commit()


def test_run_begins_again_until_nobody_came_in_between(store, other):
    put(store, p1="0")
    tries = []

    def increment(tx):
        number = int(text_of(tx.read(1)))
        if len(tries) < 3:
            put(other, p1=str(number + 10))
        tries.append(number)
        tx.write(1, page(number + 1))
        return number

    assert store.run(increment) == 30
    assert tries == [0, 10, 20, 30]
    assert text_of(store.read(1)) == "31"
    with pytest.raises(ZeroDivisionError):
        store.run(lambda tx: 1 / 0)


def test_run_does_not_swallow_another_transactions_conflict(store):
    def work(tx):
        inner = store.begin()
        inner.write(1, page("x"))
        put(store, p1="y")
        inner.commit()

    with pytest.raises(PageConflictError):
        store.run(work)


def test_threads_count_every_increment(opened):
    stores = [opened(checkpoint_records=50), opened(cache_bytes=0)]

    def increment(tx):
        tx.write(1, page(int(text_of(tx.read(1)) or 0) + 1))

    def work(store):
        for _ in range(40):
            store.run(increment)

    threads = [threading.Thread(target=work, args=(stores[n % 2],)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for store in stores:
        assert text_of(store.read(1)) == "160"
        assert store.stats()["open_transactions"] == 0
    stores[0].check()
    assert stores[0].stats()["trouble"] == []


def test_a_forgotten_transaction_holds_nothing_up(store):
    put(store, p1="a")
    tx = store.begin()
    put(store, p1="b")
    store.checkpoint()
    assert store.stats()["dirty_pages"] == 1
    del tx
    gc.collect()
    store.checkpoint()
    assert store.stats()["dirty_pages"] == 0


# --- what goes into the log ---


def changes(files, first=1):
    with Wal.open(LOG, files=files, read_only=True) as wal:
        return [(record.key[:1], len(record.value)) for record in wal.read_from(first)]


def test_small_changes_are_small_in_the_log(store, files):
    """Whole at the first change after a checkpoint, then the bytes that differ; whole again after
    eight of them."""
    data = bytearray(os.urandom(BYTES))
    for number in range(12):
        data[100:104] = number.to_bytes(4, "little")
        with store.begin() as tx:
            tx.write(1, data)
        assert store.read(1) == data
    found = changes(files)
    assert [kind for kind, _ in found] == [b"I", *[b"D"] * 8, b"I", b"D", b"D"]
    assert all(size == 12 for kind, size in found if kind == b"D")
    store.checkpoint()
    with store.begin() as tx:
        data[0] ^= 1
        tx.write(1, data)
    assert changes(files, store.position - 1) == [(b"I", BYTES)]


def test_a_checkpoint_in_the_middle_of_a_commit(store, other, files, monkeypatch):
    """The page is whole in the log again, though a difference would have done a moment ago."""
    put(store, p1="a")
    command = store._fold.command

    def after_a_checkpoint(decide, **options):
        monkeypatch.undo()
        other.checkpoint()
        return command(decide, **options)

    monkeypatch.setattr(store._fold, "command", after_a_checkpoint)
    put(store, p1="b")
    assert changes(files)[-1][0] == b"I"
    assert text_of(other.read(1)) == "b"
    store.check()


@pytest.mark.parametrize("seed", range(40))
def test_any_change_is_put_together_again(opened, seed):
    import random

    rng, store = random.Random(seed), opened(cache_bytes=1 << 20)
    reader = opened(cache_bytes=0)
    data = bytearray(rng.randbytes(BYTES) if seed % 2 else bytes(BYTES))
    for _ in range(12):
        for _ in range(rng.randrange(4)):
            start = rng.randrange(BYTES)
            length = min(rng.choice((1, 1, 8, 60, 400)), BYTES - start)
            data[start : start + length] = rng.choice((rng.randbytes(length), bytes(length)))
        with store.begin() as tx:
            tx.write(1, data)
        assert reader.read(1) == data


def test_zeros_at_the_end_take_no_room(store, files):
    put(store, p1="")
    with store.begin() as tx:
        tx.write(2, b"x".ljust(BYTES, b"\0"))
    assert changes(files) == [(b"I", 0), (b"I", 1)]


# --- checkpoints and the data file ---


def test_a_checkpoint_moves_pages_and_truncates_the_log(store, opened):
    for number in range(50):
        put(store, **{f"p{number}": number})
    assert store.stats()["dirty_pages"] == 50
    store.checkpoint()
    assert store.stats()["dirty_pages"] == 0
    for number in range(50, 60):
        put(store, **{f"p{number}": number})
    store.checkpoint()
    assert store.stats()["first_position"] > 30
    for each in (store, opened(), opened(read_only=True, cache_bytes=0)):
        assert [int(text_of(each.read(n))) for n in range(60)] == list(range(60))
        each.check()


def test_a_checkpoint_by_itself(opened):
    store = opened(checkpoint_records=20)
    until = time.monotonic() + 20
    for number in itertools.count():
        put(store, p1=number)
        if store.stats()["flushed_position"] > 20:
            break
        assert time.monotonic() < until
    store.close()
    again = opened()
    assert text_of(again.read(1)) == str(number)
    assert again.stats()["trouble"] == []


@pytest.mark.parametrize("checkpoint_bytes", [1 << 40, None])
def test_after_a_large_transaction_a_checkpoint_is_due(opened, monkeypatch, checkpoint_bytes):
    """For its pages are slow to read from the log."""
    monkeypatch.setattr(folding, "_LARGE_BYTES", 5 * BYTES)
    store = opened(checkpoint_bytes=checkpoint_bytes)
    put(store, **{f"p{number}": number for number in range(5)})
    put(store, **{f"p{number}": number for number in range(6)})
    until = time.monotonic() + (20 if checkpoint_bytes else 0.1)
    while time.monotonic() < until and not store.stats()["flushed_position"]:
        time.sleep(0.002)
    assert bool(store.stats()["flushed_position"]) == bool(checkpoint_bytes)


def test_nothing_reaches_the_data_file_before_the_log_is_durable(files):
    """The write-ahead rule, by the calls of the disk."""
    faulty = FaultyFiles(files)
    with PageStore("/pages", files=faulty, **SMALL, page_bytes=BYTES) as store:
        put(store, p1="a")
        faulty.calls.clear()
        store.checkpoint()
        calls = [(call.name, call.path) for call in faulty.calls if call.name in ("sync", "write")]
    before = calls[: calls.index(("write", FILE))]
    assert any(name == "sync" and path.startswith(LOG) for name, path in before)
    assert ("sync", FILE) in calls


def test_the_data_files_fsync_comes_before_the_log_says_so(files):
    faulty = FaultyFiles(files)
    with PageStore("/pages", files=faulty, **SMALL, page_bytes=BYTES) as store:
        put(store, p1="a")
        faulty.fail("sync", path=FILE)
        with pytest.raises(OSError, match="fsync"):
            store.checkpoint()
        assert store.stats()["flushed_position"] == 0
        assert store.stats()["dirty_pages"] == 1
        faulty.heal()
        store.checkpoint()  # writes all of it again
        assert store.stats()["dirty_pages"] == 0
        store.check()


def test_a_full_disk_ends_a_checkpoint_and_nothing_else():
    files = MemoryFiles()
    with PageStore("/pages", files=files, **SMALL, page_bytes=BYTES) as store:
        for number in range(20):
            put(store, **{f"p{number}": number})
        files.capacity_bytes = files.used_bytes
        with pytest.raises(DiskFullError):
            store.checkpoint()
        assert [int(text_of(store.read(n))) for n in range(20)] == list(range(20))
        files.capacity_bytes = None
        store.checkpoint()
        store.check()


def test_two_never_write_the_data_file_at_once(store, other, opened):
    put(store, p1="a")
    impatient = opened(lock_timeout_seconds=0.02)
    with store._fold.file.writing(0):
        with pytest.raises(LockedError, match="another process"):
            impatient.checkpoint()
        assert text_of(impatient.read(1)) == "a"
    impatient.checkpoint()
    assert other.stats()["dirty_pages"] == 0


# --- damage ---


def flipped(files, offset):
    data = bytearray(files.contents()[FILE])
    data[offset] ^= 1
    files.put_file(FILE, bytes(data))


def settled(opened):
    """A store whose pages 0 to 4 are in the data file alone."""
    store = opened()
    for _ in range(2):
        put(store, p0="zero", p1="one", p2="two", p3="three", p4="four")
        store.checkpoint()
    for number in range(30):
        put(store, p9=number)
        store.checkpoint()
    store.close()
    return opened(cache_bytes=0)


@pytest.mark.parametrize("at", [0, 8, 16, 24, 300, 24 + BYTES - 1])
def test_a_damaged_page_is_reported_with_its_place(opened, files, at):
    store = settled(opened)
    offset = store._fold.file.offset(2)
    flipped(files, offset + at)
    for call in (lambda: store.read(2), store.check, lambda: store.begin().read(2)):
        with pytest.raises(DamageError) as caught:
            call()
        assert (caught.value.path, caught.value.offset) == (FILE, offset)
        assert "page 2" in str(caught.value)
    assert text_of(store.read(1)) == "one"
    assert text_of(store.read(3)) == "three"


def test_a_lost_write_is_damage_too(opened, files):
    """A slot that is whole, but of an older version, or another page's."""
    store = settled(opened)
    offset, size = store._fold.file.offset(2), BYTES + 24
    old = files.contents()[FILE][offset : offset + size]
    put(store, p2="newer")
    for number in range(30):
        put(store, p9=number)
        store.checkpoint()
    data = bytearray(files.contents()[FILE])
    data[offset : offset + size] = old
    data[offset + 2 * size : offset + 3 * size] = data[offset + size : offset + 2 * size]
    files.put_file(FILE, bytes(data))
    for number in (2, 4):
        with pytest.raises(DamageError, match=f"page {number}"):
            store.read(number)


def test_with_a_damaged_snapshot_the_one_before_it_and_the_log_do(opened, files):
    store = opened()
    for number in range(60):
        put(store, **{f"p{number}": number, "p1": number})
        if number % 7 == 0:
            store.checkpoint()
    store.close()
    newest = max(path for path in files.contents() if path.endswith(".snap"))
    data = bytearray(files.contents()[newest])
    data[len(data) // 2] ^= 1
    files.put_file(newest, bytes(data))
    again = opened(cache_bytes=0)
    assert again.stats()["trouble"] != []
    assert shown(again, 60) == ["0", "59", *[str(number) for number in range(2, 60)]]
    again.check_state()
    for text in ("a", "b"):  # the damaged one goes with the second
        put(again, p1=text)
        again.checkpoint()
    again.check()


def test_what_the_log_still_has_is_read_from_there(opened, files):
    store = opened(cache_bytes=0)
    put(store, p1="a")
    put(store, p1="b")
    store.checkpoint()
    flipped(files, store._fold.file.offset(1) + 100)
    assert text_of(store.read(1)) == "b"
    with pytest.raises(DamageError, match="write it again"):
        store.check()
    store.run(lambda tx: tx.write(1, tx.read(1)))  # as it says
    store.checkpoint()
    store.check()


def test_the_data_file_of_another_log_is_refused(opened, files):
    settled(opened).close()
    mine = files.contents()[FILE]
    with PageStore("/other", files=files, **SMALL, page_bytes=BYTES) as other:
        put(other, p1="x")
        other.checkpoint()
    files.put_file(FILE, files.contents()["/other/pages"])
    with pytest.raises(DamageError, match="another log"):
        opened()
    files.put_file(FILE, b"\0" * 4096)
    with pytest.raises(DamageError, match="header"):
        opened()
    files.remove(FILE)
    for options in ({}, {"read_only": True}):
        with pytest.raises(DamageError, match="not there"):
            opened(**options)
    newer = datafile.DataFile(files, "/pages")
    with Wal.open(LOG, files=files, read_only=True) as wal:
        newer.belong(wal.log_id, BYTES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datafile, "VERSION", 2)
        files.put_file(FILE, newer.header())
    with pytest.raises(VersionError, match="version 2"):
        opened()
    files.put_file(FILE, mine)
    opened().check()


def test_a_new_log_does_not_take_over_an_old_data_file(opened, files):
    settled(opened).close()
    before = files.contents()[FILE]
    for name in files.list_directory(LOG):
        files.remove(f"{LOG}/{name}")
    with pytest.raises(DamageError, match="another log"):
        opened()
    assert files.contents()[FILE] == before


GOOD = kinds.format_record(BYTES)
HOSTILE = {
    "no format first": [kinds.image_record(0, 0, b"x")],
    "two formats": [GOOD, GOOD],
    "odd page size": [Record(b"F", b"\1\0\1\2\0\0")],
    "a short format": [Record(b"F", b"\1\0")],
    "a page far out": [GOOD, kinds.image_record(1 << 60, 0, b"x")],
    "a change of nothing": [GOOD, kinds.delta_record(1, 0, 0, b"")],
    "a change of another": [
        GOOD,
        kinds.image_record(1, 0, b""),
        kinds.image_record(2, 0, b""),
        kinds.delta_record(1, 0, 2, b""),
    ],
    "a key too short": [GOOD, Record(b"I123", b"")],
    "a checkpoint of later": [GOOD, kinds.checkpoint_record(99)],
    "a checkpoint of earlier": [GOOD, *[kinds.checkpoint_record(n) for n in (1, 0)]],
    "endless changes": [GOOD, kinds.image_record(1, 0, b"")]
    + [kinds.delta_record(1, 0, n, b"") for n in range(1, 400)],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_log_of_nonsense_is_refused(files, opened, name):
    with Wal.open(LOG, files=files, fsync_policy=FsyncPolicy.OS) as wal:
        wal.append_batch(HOSTILE[name])
    with pytest.raises(DamageError):
        opened()


@pytest.mark.parametrize(
    "change",
    [
        kinds.image_record(1, 0, b"x" * (BYTES + 1)),
        kinds.delta_record(1, 0, 1, b"\xf0\x01\x20\x00" + b"x" * 32),
        kinds.delta_record(1, 0, 1, b"\0\0\4\0x"),
        kinds.delta_record(1, 0, 1, b"\0\0\0\0"),
        kinds.delta_record(1, 0, 1, b"\0"),
    ],
)
def test_a_page_of_nonsense_is_refused_when_it_is_read(files, opened, change):
    with Wal.open(LOG, files=files, fsync_policy=FsyncPolicy.OS) as wal:
        wal.append_batch([GOOD, kinds.image_record(1, 0, b"a"), change])
    store = opened()
    for call in (lambda: store.read(1), store.check, store.checkpoint):
        with pytest.raises(DamageError):
            call()


ABOUT = Record(b"A", struct.pack("<IQQ", BYTES, 1, 0))


@pytest.mark.parametrize(
    "records",
    [
        [Record(b"A", b"short")],
        [Record(b"A", struct.pack("<IQQ", 1000, 1, 0))],
        [Record(b"P" + bytes(8), bytes(4096))],  # before the page size
        [ABOUT, Record(b"P" + bytes(8), bytes(4095))],
        [ABOUT, Record(b"P" + b"\xff" * 8, bytes(4096))],
        [ABOUT, Record(b"V" + b"\xff" * 8, bytes(8))],
        [ABOUT, Record(b"V" + bytes(8), b"")],
        [ABOUT, Record(b"V" + bytes(8), bytes(12))],
        [ABOUT, Record(b"V" + bytes(8), bytes(16))],
        [ABOUT, Record(b"V" + bytes(8), struct.pack("<400Q", *range(400)))],
        [ABOUT, Record(b"X" + bytes(8), bytes(8))],
    ],
)
def test_a_snapshot_of_nonsense_is_passed_over(files, opened, records):
    store = opened()
    put(store, p1="a")
    store.sync()
    store._fold.wal.snapshots.write(store.position, store._fold.current.label, records)
    store.close()
    again = opened()
    assert text_of(again.read(1)) == "a"
    assert "not in its form" in again.stats()["trouble"][0]


def test_records_of_a_newer_version_are_refused(files, opened):
    for records in ([Record(b"F", b"\2\0\0\2\0\0")], [GOOD, Record(b"Z", b"")]):
        files = MemoryFiles()
        with Wal.open(LOG, files=files, fsync_policy=FsyncPolicy.OS) as wal:
            wal.append_batch(records)
        with pytest.raises(VersionError):
            opened(files=files)


# --- the past ---


def test_the_past_while_the_log_reaches_back(store):
    positions = []
    for number in range(5):
        put(store, p1=number, p2=number)
        positions.append(store.position)
    store.checkpoint()
    put(store, p1="new")
    store.checkpoint()
    for number, position in enumerate(positions):
        view = store.at(position=position)
        assert shown(view, 3) == ["", str(number), str(number)]
        assert (view.position, view.page_count) == (position, 3)
    # In the middle of a transaction: as it was before.
    assert shown(store.at(position=positions[3] - 1), 3) == ["", "2", "2"]
    with pytest.raises(PositionError):
        store.at(position=10_000)
    with pytest.raises(UsageError):
        store.at(position="now")
    with pytest.raises(UsageError):
        store.at()


def test_a_view_never_shows_a_wrong_page(opened):
    store = opened(cache_bytes=0)
    put(store, p1="a", p2="a")
    view = store.at(position=store.position)
    for number in range(60):
        put(store, p1=number)
        store.checkpoint()
    with pytest.raises(PrunedError, match="page 1"):
        view.read(1)
    assert text_of(view.read(2)) == "a"  # the data file has just this one
    with pytest.raises(PrunedError):
        store.at(position=2)


def test_clocks_that_jump_change_nothing(opened):
    clock = FakeClock()
    store = opened(clock=clock)
    put(store, p1="a")
    clock.jump(-3600)
    put(store, p1="b")
    clock.jump(10 * 365 * 86400)
    then = clock() / 1e9
    put(store, p1="c")
    clock.jump(-86400 * 7)
    put(store, p1="d")
    store.checkpoint()
    assert text_of(store.at(time=then).read(1)) == "b"
    assert text_of(opened().read(1)) == "d"
    store.check()


# --- opening ---


def test_the_page_size_stays(opened, files):
    store = opened(page_bytes=None)
    assert store.page_bytes == 4096
    with pytest.raises(UsageError, match="4096 bytes, not 512"):
        opened()
    assert opened(page_bytes=4096).page_bytes == opened(page_bytes=None).page_bytes == 4096


@pytest.mark.parametrize("size", [512, 1024, 65536])
def test_every_size_of_pages(files, size):
    with PageStore("/p", files=files, page_bytes=size, checkpoint_bytes=None) as store:
        data = bytearray(os.urandom(size))
        for at in (0, size - 1, size // 2):
            data[at] ^= 1
            store.run(lambda tx: tx.write(0, data))
        store.checkpoint()
    with PageStore("/p", files=files) as store:
        assert (store.page_bytes, store.read(0)) == (size, data)
        store.check()


def test_another_kinds_log_is_refused(files, opened):
    with KeyValueStore(LOG, files=files, **SMALL) as kv:
        kv[b"a"] = b"b"
    with pytest.raises(UsageError, match="page"):
        opened()


def test_reading_only(opened, files):
    with pytest.raises(LogNotFoundError):
        opened(read_only=True)
    store = opened()
    put(store, p1="a")
    reader = opened(read_only=True, page_bytes=None)
    store.checkpoint()
    put(store, p1="b")
    assert text_of(reader.read(1)) == "b"
    with reader.begin() as tx:
        assert text_of(tx.read(1)) == "b"
        with pytest.raises(ReadOnlyError):
            tx.write(1, page("c"))
        with pytest.raises(ReadOnlyError):
            tx.allocate()
    with pytest.raises(ReadOnlyError):
        reader.checkpoint()
    reader.sync()  # nothing to do
    reader.check()


def test_files_are_private(tmp_path):
    old = os.umask(0)
    try:
        with PageStore(tmp_path / "p", page_bytes=BYTES) as store:
            put(store, p1="a")
            store.checkpoint()
            assert store.name == str(tmp_path / "p")
            assert store.name in repr(store)
    finally:
        os.umask(old)
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in tmp_path.rglob("*")}
    assert (modes["p"], modes["log"], modes["pages"]) == (0o700, 0o700, 0o600)
    os.rename(tmp_path / "p" / "pages", tmp_path / "elsewhere")
    os.symlink(tmp_path / "elsewhere", tmp_path / "p" / "pages")
    with pytest.raises(OSError, match="symbolic"):
        PageStore(tmp_path / "p")


def test_a_forked_child_has_handles_of_its_own(tmp_path):
    with PageStore(tmp_path / "p", page_bytes=BYTES, checkpoint_bytes=None) as store:
        put(store, p1="parent")
        store.checkpoint()
        pid = os.fork()
        if pid == 0:
            try:
                put(store, p2=text_of(store.read(1)) + "'s child")
                store.checkpoint()
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert shown(store, 3) == ["", "parent", "parent's child"]
        store.checkpoint()
        store.check()


def test_a_forked_child_does_not_keep_the_parents_lock(tmp_path):
    options = {"page_bytes": BYTES, "checkpoint_bytes": None}
    with PageStore(tmp_path / "p", **options) as store:
        put(store, p1="a")
        ours, theirs = os.pipe()
        with store._fold.file.writing(0):
            pid = os.fork()
            if pid == 0:
                os.close(theirs)
                os.read(ours, 1)  # until the parent closes its end
                os._exit(0)
        os.close(ours)
        try:
            with PageStore(tmp_path / "p", lock_timeout_seconds=5.0, **options) as other:
                other.checkpoint()
                assert other.stats()["dirty_pages"] == 0
        finally:
            os.close(theirs)
            os.waitpid(pid, 0)


# --- what is refused ---


@pytest.mark.parametrize("number", [-1, 1.5, "1", None, True, 1 << 40, 1 << 70, float("nan")])
def test_what_is_no_page_number(store, number):
    with store.begin() as tx:
        for call in (store.read, tx.read, lambda n: tx.write(n, page("x"))):
            with pytest.raises(UsageError, match="a page is a whole number"):
                call(number)
    assert store.page_count == 0


@pytest.mark.parametrize("data", [b"", b"x" * 511, b"x" * 513, "x" * 512, None, 512, [0] * 512])
def test_what_is_no_page(store, data):
    with store.begin() as tx, pytest.raises(UsageError, match="a page"):
        tx.write(0, data)
    assert store.page_count == 0


@pytest.mark.parametrize("size", [0, 256, 1000, 1 << 17, -512, "512", 512.0, True])
def test_what_is_no_page_size(files, size):
    with pytest.raises(UsageError, match="page_bytes"):
        PageStore("/x", files=files, page_bytes=size)
    assert files.contents() == {}


@pytest.mark.parametrize("options", [{"cache_bytes": -1}, {"cache_bytes": "1"}, {"colour": 1}])
def test_what_is_no_option(files, options):
    with pytest.raises(UsageError):
        PageStore("/x", files=files, **options)
    for path in ("", None, 3, "a\0b"):
        with pytest.raises(UsageError, match="path"):
            PageStore(path, files=files)


def test_a_transaction_that_is_over(store):
    tx = store.begin()
    tx.commit()
    calls = [tx.commit, tx.savepoint, tx.allocate, tx.__enter__, lambda: tx.read(0)]
    for call in [*calls, lambda: tx.write(0, page("")), lambda: tx.page_count]:
        with pytest.raises(UsageError, match="is over"):
            call()


def test_a_closed_store(opened):
    store = opened(cache_bytes=0)
    put(store, p1="a")
    store.checkpoint()
    tx, view = store.begin(), store.at(position=store.position)
    store.close()
    store.close()
    with pytest.raises(ClosedError):
        view.read(1)
    assert store.closed
    for call in (lambda: store.read(2), store.begin, store.checkpoint, store.check):
        with pytest.raises(ClosedError):
            call()
    for call in (tx.allocate, lambda: tx.read(1), lambda: tx.write(1, page("")), tx.commit):
        with pytest.raises(ClosedError):
            call()
    tx.rollback()


def test_too_large_a_transaction_changes_nothing_and_can_be_made_smaller(opened):
    store = opened(batch_bytes_max=4096)
    with store.begin() as tx:
        tx.write(0, b"x" * BYTES)
        point = tx.savepoint()
        for number in range(20):
            tx.write(number, b"y" * BYTES)
        with pytest.raises(TooLargeError):
            tx.commit()
        assert store.read(0) == bytes(BYTES)
        tx.rollback_to(point)
    assert store.read(0) == b"x" * BYTES
    assert store.page_count == 1


def test_durable_when_asked_for(opened):
    store = opened(fsync_policy=FsyncPolicy.OS)
    with store.begin(durable=True) as tx:
        tx.write(0, page("a"))
    assert store.stats()["durable_position"] == store.position
    with store.begin() as tx:
        tx.write(0, page("b"))
    assert store.stats()["durable_position"] < store.position
    store.run(lambda tx: tx.write(0, page("c")), durable=True)
    assert store.stats()["durable_position"] == store.position
