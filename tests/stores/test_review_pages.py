"""The page store, found by a hostile review."""

from __future__ import annotations

import gc
import os
import random
import threading

import pytest

from tests.stores._opening import SMALL, opener
from tests.stores._paging import BYTES, page, put, shown, text_of
from treering import DamageError, FsyncPolicy, PrunedError, ReadOnlyError, UsageError, Wal
from treering.fold import Fold
from treering.stores.pages import PageConflictError, PageStore, SnapshotTooOldError, folding
from treering.testing import FaultyFiles, MemoryFiles

LOG = "/pages/log"


@pytest.fixture
def opened(files):
    with opener(PageStore, "/pages", files=files, page_bytes=BYTES) as open_store:
        yield open_store


def cut(files, position):
    """As `treering truncate --after`, while others have the log open."""
    with Wal.open(LOG, files=files, segment_bytes_max=4096) as wal:
        wal.truncate_after(position)


# --- a log that was cut: its positions are given again ---


def test_what_was_taken_back_is_not_remembered(store, other, files):
    put(store, p1="a")
    position = store.position
    put(store, p1="gone")
    cut(files, position)
    put(other, p1="b")
    assert text_of(store.read(1)) == text_of(other.read(1)) == "b"


def test_a_change_is_not_laid_over_what_was_taken_back(store, other, opened, files):
    """A wrong page in the log, for ever."""
    rng = random.Random(1)
    gone, new = rng.randbytes(BYTES), rng.randbytes(BYTES)
    position = store.position
    store.run(lambda tx: tx.write(1, gone))
    cut(files, position)
    other.run(lambda tx: tx.write(1, new))
    mine = b"changed!" + gone[8:]
    store.run(lambda tx: tx.write(1, mine))
    for each in (store, other, opened(cache_bytes=0)):
        assert each.read(1) == mine


def test_a_transaction_from_before_a_cut_conflicts(store, other, files):
    put(store, p1="a")
    position = store.position
    put(store, p1="gone", p2="gone")
    mine, reader = store.begin(), store.begin()
    mine.write(1, page("mine"))
    cut(files, position)
    put(other, p1="theirs")
    with pytest.raises(PageConflictError, match="was cut"):
        mine.commit()
    with pytest.raises(SnapshotTooOldError):
        reader.read(2)
    with pytest.raises(SnapshotTooOldError):
        reader.read(1)
    assert shown(store, 3) == ["", "theirs", ""]
    assert store.run(lambda tx: text_of(tx.read(1))) == "theirs"
    store.checkpoint()
    assert store.stats()["dirty_pages"] == 0
    store.check()


def test_a_transaction_that_first_reads_after_a_cut(opened, files):
    store = opened(cache_bytes=0)
    put(store, p1="a")
    position = store.position
    put(store, p1="gone")
    tx = store.begin()
    cut(files, position)
    with pytest.raises(SnapshotTooOldError):
        tx.read(1)


def test_a_cut_in_the_middle_of_a_checkpoint(store, opened, files, monkeypatch):
    """What it would say in the log speaks of positions that are not there: nobody could open it."""
    put(store, p1="a")
    position = store.position
    put(store, p2="b", p3="b")
    put(store, p2="c", p3="c")
    write = store._fold._write

    def then_cut(writer, block):
        monkeypatch.undo()
        write(writer, block)
        cut(files, position)

    monkeypatch.setattr(store._fold, "_write", then_cut)
    store.checkpoint()
    for each in (store, opened()):
        assert shown(each, 4) == ["", "a", "", ""]
    put(store, p2="d")
    store.checkpoint()
    assert store.stats()["dirty_pages"] == 0
    store.check()
    opened().check()


# --- checkpoints ---


def test_a_checkpoint_does_not_read_a_large_transaction_for_each_page(files, monkeypatch):
    """A minute for 60 MB; as often as there are blocks is enough."""
    monkeypatch.setattr(folding, "_BLOCK_PAGES", 16)
    faulty, rng = FaultyFiles(files), random.Random(1)
    options = {**SMALL, "segment_bytes_max": 1 << 22}
    with PageStore("/pages", files=faulty, page_bytes=BYTES, cache_bytes=0, **options) as store:
        for number in range(3):
            pages = list(range(number, 3000, 3))
            rng.shuffle(pages)
            with store.begin() as tx:
                for each in pages:
                    tx.write(each, rng.randbytes(BYTES))
        faulty.calls.clear()
        store.checkpoint()
        reads = [c for c in faulty.calls if c.name == "read_into" and c.path.startswith(LOG)]
        assert len(reads) < 1000
        assert store.stats()["dirty_pages"] == 0
        store.check()


def test_a_checkpoint_while_others_remove_what_it_reads(store, opened, monkeypatch):
    """Their checkpoints may have newer versions of the pages, and not need these."""
    put(store, p1="a", p2="a")
    write, after = store._fold._write, []

    def late(writer, block):
        if not after:
            after.append(1)
            for number in range(60):
                put(store, p1=number, p2=number)
                Fold.checkpoint(store._fold)  # of a thread that has its flush behind it
            with pytest.raises(PrunedError):
                store._fold.wal.read(1)
        write(writer, block)

    monkeypatch.setattr(store._fold, "_write", late)
    store.checkpoint()
    assert store.stats()["dirty_pages"] == 0
    assert shown(opened(), 3) == ["", "59", "59"]


def test_reading_only_does_not_open_the_data_file_for_writing(opened, files):
    put(opened(), p1="a")
    faulty = FaultyFiles(files)
    reader = opened(files=faulty, read_only=True)
    faulty.calls.clear()
    with opened()._fold.file.writing(0), pytest.raises(ReadOnlyError):
        reader.checkpoint()  # at once, too
    assert not [call for call in faulty.calls if call.path == "/pages/pages"]


def test_a_forgotten_transaction_does_not_keep_the_log(store):
    put(store, p1="a")
    tx = store.begin()
    put(store, p1="b")
    tx.__init__(store._fold, False, None)  # one more, that the loop below does not end
    del tx
    gc.collect()
    assert store._fold.copy()[0]._kept_from is None


# --- isolation ---


def test_serializable_goes_for_the_page_that_allocate_gave(store, other):
    """It tells the number of pages: 'page 0 has it' before 'there are 21', and the other way round,
    was no order of the two."""
    put(store, p0="none", p9="")
    one, two = store.begin(serializable=True), other.begin(serializable=True)
    one.write(0, page(one.allocate()))
    assert text_of(two.read(0)) == "none"
    two.write(20, page("x"))
    two.commit()
    with pytest.raises(PageConflictError, match="the number of pages"):
        one.commit()


# --- the data file ---


@pytest.mark.parametrize("size", [10, 100, 10_000])
def test_a_file_that_is_no_page_stores_is_not_written_over(size):
    files = MemoryFiles()
    files.make_directory("/pages")
    files.put_file("/pages/pages", b"d" * size)
    for _ in range(2):
        with pytest.raises(UsageError, match="no page store's"):
            PageStore("/pages", files=files, fsync_policy=FsyncPolicy.OS)
    assert files.contents()["/pages/pages"] == b"d" * size
    files.remove("/pages/pages")
    PageStore("/pages", files=files).close()


def test_a_damaged_page_is_not_called_pruned(opened, files):
    """Whoever copies pages out of a view must learn that the page is damaged, not old."""
    store = opened(cache_bytes=0)
    for text in ("a", "b"):
        put(store, p1=text, p2=text)
        store.checkpoint()
    for number in range(60):
        put(store, p2=number)
        store.checkpoint()
    then = store.at(position=store.position)
    data = bytearray(files.contents()["/pages/pages"])
    data[store._fold.file.offset(1) + 100] ^= 1
    files.put_file("/pages/pages", bytes(data))
    with pytest.raises(DamageError, match="page 1"):
        then.read(1)
    put(store, p1="newer")
    with pytest.raises(PrunedError):
        then.read(1)


def test_a_sector_that_cannot_be_read_is_in_the_log(files, opened):
    faulty = FaultyFiles(files)
    store = opened(files=faulty, cache_bytes=0)
    put(store, p1="a")
    store.checkpoint()
    fault = faulty.fail("read_into", path="/pages/pages", lasting=True)
    assert text_of(store.read(1)) == "a"
    faulty.heal()
    for number in range(60):
        put(store, p2=number)
        store.checkpoint()
    faulty.fail("read_into", path="/pages/pages", lasting=True)
    with pytest.raises(OSError, match="read at offset"):
        store.read(1)
    faulty.heal()
    assert fault.hits


# --- fork ---


def test_a_forked_child_does_not_wait_for_transactions_of_the_parents_threads(tmp_path):
    """Their threads are gone, and nobody ends them: no checkpoint would bring pages anywhere."""
    with PageStore(tmp_path / "p", page_bytes=BYTES, checkpoint_bytes=None) as store:
        put(store, p1="a")
        begun, end = threading.Event(), threading.Event()

        def look():
            with store.begin() as tx:
                begun.set()
                end.wait(30)
                assert text_of(tx.read(1)) == "a"

        thread = threading.Thread(target=look)
        thread.start()
        assert begun.wait(30)
        mine = store.begin()
        mine.write(3, page("c"))
        pid = os.fork()
        if pid == 0:
            try:
                assert text_of(mine.read(1)) == "a"
                mine.commit()  # this thread's goes on
                put(store, p2="b")
                store.checkpoint()
                assert store.stats()["dirty_pages"] == 0
                os._exit(0)
            finally:
                os._exit(1)
        end.set()
        thread.join()
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        with pytest.raises(PageConflictError):
            mine.commit()
        assert shown(store, 4) == ["", "a", "b", "c"]
