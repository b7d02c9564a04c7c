"""The blob store on bad days: files mended, discs that cannot be read, impatient collectors."""

from __future__ import annotations

import errno
import threading
import time
import tracemalloc
import zipfile
import zlib
from contextlib import suppress

import pytest

from tests.stores._opening import SMALL, opener
from tests.stores.test_blobs import _forge
from treering import DamageError, DiskFullError, LockedError, StorageError, UsageError
from treering.stores.blobs import BlobStore, LocalObjects, collecting
from treering.testing import FaultyFiles, MemoryFiles, PowerCutFiles

DATA = b"precious" * 1000
ELSEWHERE = "blake3:" + "0" * 64


@pytest.fixture
def files():
    return MemoryFiles()


@pytest.fixture
def opened(files):
    with opener(BlobStore, "/blobs", files=files) as open_store:
        yield open_store


def place(files, ref):
    return next(p for p in files.contents() if p.replace("/", "").endswith(ref.digest.hex()))


def lost(files):
    """A durable store in which a blob has lost its file, for good."""
    with BlobStore("/blobs", files=files, **SMALL) as store:
        ref = store.put(DATA, name="n", durable=True)
        path = place(files, ref)
        files.remove(path)
        files.sync_directory(path.rpartition("/")[0])
    return ref


class Broken(Exception):
    pass


# --- mending ---


def _nothing_but_the_log(thing):
    return "/log/" in thing.path


@pytest.mark.parametrize("how", ["beside it", "after it died", "after it failed"])
def test_a_put_does_not_rely_on_a_file_that_another_one_has_not_yet_made_durable(how):
    files = PowerCutFiles()
    ref = lost(files)
    images = []

    def put_again():
        with BlobStore("/blobs", files=files, **SMALL) as other:
            other.put(DATA, name="n", durable=True)
            images.append(files.cut(_nothing_but_the_log))

    def after_the_rename(name, path):
        if name == "rename" and "/log/" not in path:
            files.on_operation = None
            if how == "beside it":
                put_again()
            else:
                raise Broken if how == "after it died" else OSError(errno.EIO, "no")

    with BlobStore("/blobs", files=files, **SMALL) as store:
        files.on_operation = after_the_rename
        with suppress(Broken, OSError):
            store.put(DATA, name="n")
        if how != "beside it":
            put_again()
    assert len(images) == 1
    with BlobStore("/blobs", files=images[0], **SMALL) as store:
        assert store.get(ref) == DATA
    with BlobStore("/blobs", files=files, **SMALL) as store:
        assert [p for p in files.contents() if p.startswith("/blobs/incoming/")] == []
        position, written = store.position, place(files, ref)
        node = files.contents()[written]
        store.put(DATA, name="n")
        assert files.contents()[written] == node and store.position == position + 1


def test_what_the_hint_of_damage_says_is_what_helps(opened, files):
    store = opened()
    ref = store.put(DATA)
    path = place(files, ref)
    files.put_file(path, DATA[:-1] + b"?")
    with pytest.raises(DamageError) as caught:
        store.get(ref)
    assert "remove it" in caught.value.hint  # a put alone does not look at the bytes
    files.remove(path)
    store.put(DATA)
    assert store.get(ref) == DATA


# --- looking ---


def test_verify_goes_on_behind_what_cannot_be_read(files, tmp_path):
    faulty = FaultyFiles(files)
    with BlobStore("/blobs", files=faulty, **SMALL) as store:
        refs = [store.put(b"%d" % n * 1000) for n in range(5)]
        paths = [place(files, ref) for ref in refs]
        faulty.unreadable(paths[1], 500, 1)
        files.put_file(paths[3], b"?" * 1000)
        report = store.verify()
        assert report.blobs == 5 and not report.ok
        assert {damage.path for damage in report.damaged} == {paths[1], paths[3]}
        with pytest.raises((DamageError, StorageError)):
            store.check_state()
    with BlobStore(tmp_path / "b", **SMALL) as store:
        refs = [store.put(b"%d" % n) for n in range(5)]
        names = [ref.digest.hex() for ref in refs]
        paths = [tmp_path / "b" / "objects" / name[:2] / name[2:] for name in names]
        paths[0].unlink()
        paths[0].symlink_to(paths[1])
        paths[2].with_suffix(".copy").hardlink_to(paths[2])
        report = store.verify()
        assert report.blobs == 5
        assert {damage.path for damage in report.damaged} == {str(paths[0]), str(paths[2])}
        store.close()
        with pytest.raises(UsageError):  # that is no damage
            store.verify()


def test_a_blob_of_another_hash_is_not_in_the_store(opened):
    store = opened()
    assert store.count(ELSEWHERE) == 0
    assert ELSEWHERE not in store


def test_a_kind_that_could_not_be_read_again_is_refused(files):
    class Mine(LocalObjects):
        pass

    for kind in ("my own objects", "", "\n", None, "ü"):
        Mine.kind = kind
        with pytest.raises(UsageError, match="kind"):
            BlobStore("/blobs", files=files, objects=Mine(files, "/blobs"), **SMALL)
    with pytest.raises(UsageError, match="kind"):
        BlobStore("/blobs", files=files, objects="bucket", **SMALL)
    Mine.kind = "my-own/objects"
    for _ in range(2):
        with BlobStore("/blobs", files=files, objects=Mine(files, "/blobs"), **SMALL) as store:
            assert store.get(store.put(DATA)) == DATA


# --- writing ---


@pytest.mark.parametrize("bad", ["text", None, DATA * 200])
def test_after_an_error_a_writer_puts_nothing(opened, files, monkeypatch, bad):
    monkeypatch.setattr("treering.stores.blobs.staging.BLOB_BYTES_MAX", 1 << 20)
    store = opened()
    with pytest.raises(UsageError, match="not whole"), store.writer(name="n") as writer:
        writer.write(b"some")
        with pytest.raises(UsageError):
            writer.write(memoryview(bad) if isinstance(bad, bytes) else bad)
    assert store.names() == {}
    assert [p for p in files.contents() if p.startswith("/blobs/incoming/")] == []


def test_pieces_of_nothing_take_no_memory(opened):
    store = opened()
    with store.writer() as writer:
        for piece in [b"", b"ab", b"", bytearray(), b"c"]:
            writer.write(piece)
        assert len(writer._staging._kept) == 2
    assert store.get(writer.ref) == b"abc"


# --- collecting ---


class Slow(LocalObjects):
    """Objects far away: each removal takes its time."""

    seconds = 0.005

    def remove(self, name):
        time.sleep(self.seconds)
        super().remove(name)


@pytest.mark.parametrize("files_a_turn", [1, 1000])
def test_a_put_does_not_wait_for_the_end_of_a_long_collection(files, monkeypatch, files_a_turn):
    monkeypatch.setattr(collecting, "_TURN_FILES", files_a_turn)
    monkeypatch.setattr(collecting, "_TURN_SECONDS", 0.02, raising=False)
    slow = Slow(files, "/blobs")
    with BlobStore("/blobs", files=files, objects=slow, **SMALL) as store:
        for n in range(60):
            store.delete(store.put(b"%d" % n))
        collected = []
        thread = threading.Thread(
            target=lambda: collected.append(store.collect(grace_seconds=0)), daemon=True
        )
        thread.start()
        time.sleep(0.05)
        puts = 0
        while thread.is_alive():
            with suppress(LockedError):
                store.put(b"put %d" % puts, name=f"{puts}")
                puts += thread.is_alive()
        thread.join()
        assert collected[0].files == 60
        assert puts >= 5
        assert store.verify().ok and len(store) >= puts


def test_disk_full_leaves_a_lost_blob_lost(files):
    faulty = FaultyFiles(files)
    ref = lost(files)
    with BlobStore("/blobs", files=faulty, **SMALL) as store:
        faulty.fail(
            lambda call: "/incoming/" in call.path and call.name == "write",
            number=errno.ENOSPC,
        )
        with pytest.raises(DiskFullError):
            store.put(DATA)
        store.put(DATA)
        assert store.get(ref) == DATA


def test_a_temporary_file_that_cannot_be_removed_makes_no_failure_of_a_put(files):
    faulty = FaultyFiles(files)
    big = DATA * 100
    with BlobStore("/blobs", files=faulty, **SMALL) as store:
        ref = store.put(big)
        fault = faulty.fail(lambda call: call.name == "remove" and "/incoming/" in call.path)
        assert store.put(iter([big]), name="again") == ref
        assert fault.hits == 1
        assert store.ref("again") == ref
        faulty.fail(lambda call: call.name == "remove" and "/incoming/" in call.path)
        with pytest.raises(Broken), store.writer() as writer:
            writer.write(big)
            raise Broken
        assert store.collect().leftovers == 2
        assert store.verify().ok and store.get(ref) == big


def test_small_pieces_take_no_more_memory_than_large_ones(files):
    with BlobStore("/blobs", files=files, **SMALL) as store:
        store.put(b"x")
        tracemalloc.start()
        try:
            with store.writer() as writer:
                for n in range(100_000):
                    writer.write(b"%02d" % (n % 100))
                peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 2 << 20
        assert store.get(writer.ref) == b"".join(b"%02d" % n for n in range(100)) * 1000


def test_an_archive_that_is_none_is_told_by_its_own_library(opened):
    store = opened()
    with store.open(store.put(b"short")) as file:
        assert not zipfile.is_zipfile(file)
        with pytest.raises(zipfile.BadZipFile):
            zipfile.ZipFile(file)
        with pytest.raises(UsageError, match="no offset"):
            file.seek(-9, 2)


def test_an_empty_directory_that_was_cleared_away_is_made_again(tmp_path):
    with BlobStore(tmp_path / "b", **SMALL) as store:
        ref = store.put(DATA)
        store.delete(ref)
        store.collect(grace_seconds=0)
        (tmp_path / "b" / "objects" / ref.digest.hex()[:2]).rmdir()
        assert store.get(store.put(DATA)) == DATA


def _full_for_the_log(faulty):
    """From now on the disk has no room for another segment, but for blobs."""
    faulty.fail(
        lambda call: "/log/" in call.path and call.name == "allocate",
        number=errno.ENOSPC,
        lasting=True,
    )


def _put_until_full(store):
    for n in range(10_000):
        data = b"%d" % n
        try:
            store.put(data, metadata={"for": "x" * 500})
        except DiskFullError:
            return data
    raise AssertionError("it is never full")


def test_a_put_whose_reference_finds_no_room_leaves_no_file(files):
    faulty = FaultyFiles(files)
    with BlobStore("/blobs", files=faulty, **SMALL) as store:
        _full_for_the_log(faulty)
        _put_until_full(store)
        for n in range(5):
            with pytest.raises(DiskFullError):
                store.put(b"more %d" % n, metadata={"for": "x" * 500})
        report = store.verify()
        assert report.ok and report.orphaned == []
        faulty.heal()
        assert store.get(store.put(b"more 1")) == b"more 1"


def test_a_file_that_was_there_before_stays_when_its_reference_finds_no_room(files):
    faulty = FaultyFiles(files)
    with BlobStore("/blobs", files=faulty, **SMALL) as store:
        waiting = store.put(b"waits for its grace")
        path = place(files, waiting)
        store.delete(waiting)
        _full_for_the_log(faulty)
        _put_until_full(store)
        with pytest.raises(DiskFullError):
            store.put(b"waits for its grace", metadata={"for": "x" * 500})
        assert path in files.contents()


def test_wrong_bytes_are_not_given_to_one_who_asks_again_either(opened, files):
    store, data = opened(), bytearray(b"a" * 100_000)
    ref = store.put(bytes(data))
    data[0] ^= 1
    _forge(data, zlib.crc32(b"a" * 65_536))
    files.put_file(place(files, ref), bytes(data))
    with store.open(ref) as file:
        assert len(file.read(65_536)) == 65_536  # its checksum is right
        for _ in range(3):
            with pytest.raises(DamageError, match="digest"):
                file.read(1000)


def test_a_link_in_the_place_of_a_new_blob_is_replaced(tmp_path):
    with BlobStore(tmp_path / "b", **SMALL) as store:
        ref = store.put(DATA)
        store.delete(ref)
        path = tmp_path / "b" / "objects" / ref.digest.hex()[:2] / ref.digest.hex()[2:]
        path.unlink()
        path.symlink_to(tmp_path / "elsewhere")
        assert store.get(store.put(DATA)) == DATA
        assert not path.is_symlink() and not (tmp_path / "elsewhere").exists()
