"""The blob store, call by call."""

from __future__ import annotations

import io
import os
import random
import stat
import threading
import time
import tracemalloc
import zlib

import pytest

from tests.crash._scale import cases
from tests.stores._opening import SMALL, opener
from treering import (
    ClosedError,
    DamageError,
    DiskFullError,
    FsyncPolicy,
    LockedError,
    LogNotFoundError,
    NotThereError,
    PositionError,
    ReadOnlyError,
    Record,
    StorageError,
    TooLargeError,
    UsageError,
    VersionError,
)
from treering.stores.blobs import (
    SHA256,
    BlobRef,
    BlobStore,
    Hashing,
    LostFileError,
    StillLinkedError,
)
from treering.stores.blobs import sums as sums_module
from treering.stores.blobs.records import Content, new
from treering.stores.blobs.state import State
from treering.stores.blobs.sums import Sums
from treering.testing import FakeClock, FaultyFiles, MemoryFiles

SECOND = 1_000_000_000
MIB = 1 << 20
BIG = random.Random(1).randbytes(3 * MIB + 17)


@pytest.fixture
def clock():
    return FakeClock(1_000_000 * SECOND)


@pytest.fixture
def opened(files, clock):
    with opener(BlobStore, "/blobs", files=files, clock=clock) as open_store:
        yield open_store


def objects(files):
    """The files of blobs, by what their references would say."""
    return {
        path[-65:].replace("/", ""): data
        for path, data in files.contents().items()
        if path.startswith("/blobs/objects/")
    }


def incoming(files):
    return [path for path in files.contents() if path.startswith("/blobs/incoming/")]


def place(files, ref):
    return next(p for p in files.contents() if p.replace("/", "").endswith(ref.digest.hex()))


# --- putting and getting ---


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, 300_000, len(BIG)])
def test_what_was_put_comes_back_whole_in_parts_and_in_a_stream(store, other, size):
    data = BIG[:size]
    ref = store.put(data)
    assert ref.size == size
    assert str(ref) == "sha256:" + ref.digest.hex()
    for each in (store, other):
        assert each.get(ref) == each.get(str(ref)) == data
        assert b"".join(each.chunks(ref)) == data
        with each.open(ref) as file:
            assert file.read() == data
            assert file.read(1) == b""
        for offset, length in [(0, size), (1, 70_000), (65_530, 10), (size, 5), (size + 9, 5)]:
            assert each.read(ref, offset, length) == data[offset : offset + length]
    assert store.check() is None
    assert store.verify().ok


@pytest.mark.parametrize(
    "form",
    [
        bytes,
        bytearray,
        memoryview,
        io.BytesIO,
        lambda data: iter([data[:10], b"", data[10:]]),
        lambda data: (data[at : at + 7000] for at in range(0, len(data), 7000)),
    ],
    ids=["bytes", "bytearray", "memoryview", "file", "pieces", "small pieces"],
)
@pytest.mark.parametrize("size", [5, 2 * MIB + 1])
def test_every_form_of_the_same_bytes_is_the_same_blob(store, files, form, size):
    ref = store.put(BIG[:size], name="one")
    assert store.put(form(BIG[:size]), name="two") == ref
    assert len(objects(files)) == 1
    assert incoming(files) == []
    assert store.stats()["deduplicated_bytes"] == size
    store.unlink("one")
    store.unlink("two")
    store.collect(grace_seconds=0)
    assert store.put(form(BIG[:size])) == ref
    assert store.get(ref) == BIG[:size]


def test_bytes_that_are_there_are_not_written_again(store, other, files):
    ref = store.put(BIG)
    before = objects(files)
    seen = []
    files.on_operation = lambda name, path: seen.append((name, path))
    assert other.put(BIG) == ref
    files.on_operation = None
    assert [step for step in seen if step[0] in ("write", "rename") and "log" not in step[1]] == []
    assert objects(files) == before


def test_a_file_is_put_from_where_it_stands_and_a_writer_takes_pieces(store):
    file = io.BytesIO(b"head and tail")
    file.seek(5)
    assert store.get(store.put(file)) == b"and tail"
    with store.writer(name="w", metadata={"type": "text"}) as writer:
        assert writer.write(b"ab") == 2
        writer.write(memoryview(b"cd"))
        assert writer.tell() == 4
        assert writer.ref is None
    assert store.get(writer.ref) == b"abcd"
    assert store.ref("w") == writer.ref
    assert store.metadata("w") == {"type": "text"}
    with pytest.raises(ClosedError):
        writer.write(b"x")
    with pytest.raises(ClosedError):
        writer.commit()


def test_a_writer_whose_block_raises_leaves_nothing(store, files):
    position = store.position
    with pytest.raises(KeyError), store.writer() as writer:
        writer.write(BIG)
        assert len(incoming(files)) == 1
        raise KeyError
    assert incoming(files) == []
    assert objects(files) == {}
    assert store.position == position
    with store.writer() as writer:
        writer.write(BIG)
        writer.abort()
    assert incoming(files) == []
    assert len(store) == 0


def test_bytes_that_change_while_they_are_put_are_those_of_one_moment(store):
    data = bytearray(BIG)

    class Meddling(io.BytesIO):
        def read(self, size=-1):
            data[0] ^= 1
            return data if super().read(1) else b""

    ref = store.put(Meddling(b"x"))
    data[:] = bytes(len(data))
    assert store.get(ref)[1:] == BIG[1:]

    def pieces():
        buffer = bytearray(4)
        for number in range(5):
            buffer[:] = b"%d" % number * 4
            yield memoryview(buffer)

    assert store.get(store.put(pieces())) == b"00001111222233334444"
    store.check()


def test_a_file_is_read_with_seeks_as_any_other(store):
    ref = store.put(BIG)
    twin, rng = io.BytesIO(BIG), random.Random(3)
    with store.open(ref) as file:
        assert file.readable()
        assert file.seekable()
        assert not file.writable()
        for _ in range(200):
            whence, offset = rng.choice([(0, rng.randrange(len(BIG) + 9)), (1, 5), (2, -3)])
            assert file.seek(offset, whence) == twin.seek(offset, whence)
            length = rng.choice([0, 1, 100, 70_000, MIB])
            assert file.read(length) == twin.read(length)
            assert file.tell() == twin.tell()
        with pytest.raises(ValueError):
            file.seek(-1)
        file.seek(0)
        assert file.read() == BIG
        with pytest.raises(io.UnsupportedOperation):
            file.write(b"x")
    with pytest.raises(ValueError):
        file.read(1)
    assert list(store.open(store.put(b"a\nb\n"))) == [b"a\n", b"b\n"]


def test_an_open_file_can_be_read_though_its_blob_is_collected(store, other):
    ref = store.put(BIG)
    with store.open(ref) as file:
        head = file.read(10)
        pieces = store.chunks(ref)
        other.delete(ref)
        assert other.collect(grace_seconds=0).files == 1
        assert head + file.read() == BIG
        assert b"".join(pieces) == BIG
    with pytest.raises(NotThereError):
        store.get(ref)


# --- references ---


def test_names_stand_for_blobs_and_count(store, other):
    one, two = store.put(b"one", name="a/1"), store.put(b"two", name="a/2")
    assert store.count(one) == 1
    other.link("b", one, metadata={"k": "ü"})
    assert store.count(one) == 2
    assert store.names() == {"a/1": one, "a/2": two, "b": one}
    assert store.names("a/") == {"a/1": one, "a/2": two}
    assert store.metadata("b") == {"k": "ü"}
    assert store.metadata("a/1") == {}
    assert sorted(store.refs(), key=str) == sorted([one, two], key=str)
    assert list(store) == store.refs()
    assert len(store) == 2
    other.link("a/2", one)  # which leaves the other without a name
    assert store.count(one) == 3
    assert two not in store
    assert str(one) in store
    with pytest.raises(NotThereError, match="no such blob"):
        store.get(two)
    for name in ("a/1", "a/2", "b"):
        assert one in store
        other.unlink(name)
    assert one not in store
    assert store.count(one) == 0
    with pytest.raises(NotThereError, match="nothing has the name"):
        store.unlink("b")
    with pytest.raises(NotThereError):
        store.link("c", one)
    assert store.names() == {}


def test_metadata_belong_to_a_reference_and_stay_until_others_are_given(store, other):
    ref = store.put(b"x", metadata={"held": "1"})
    store.put(b"x", name="n", metadata={"n": "1"})
    other.put(b"x")
    other.put(b"x", name="n")
    other.link("n", ref)
    assert store.info(ref).metadata == {"held": "1"}
    assert store.metadata("n") == {"n": "1"}
    other.put(b"x", metadata={"held": "2"})
    other.link("n", ref, metadata={})
    assert store.info(ref).metadata == {"held": "2"}
    assert store.metadata("n") == {}
    store.put(b"y", name="n", metadata={"y": "1"})
    store.link("n", ref)
    assert store.metadata("n") == {}
    store.check()


def test_a_put_without_a_name_holds_until_it_is_deleted(store):
    ref = store.put(b"x", metadata={"from": "mail"})
    info = store.info(ref)
    assert (info.names, info.held, info.metadata) == (0, True, {"from": "mail"})
    assert info.stored_at == 1_000_000
    store.link("n", ref)
    with pytest.raises(StillLinkedError, match="'n'") as caught:
        store.delete(ref)
    assert caught.value.names == ("n",)
    store.unlink("n")
    assert store.get(ref) == b"x"
    store.link("n", ref)
    store.release(ref)
    info = store.info(ref)
    assert (info.names, info.held, info.metadata) == (1, False, {})
    with pytest.raises(NotThereError, match="does not hold"):
        store.release(ref)
    store.put(b"x")
    store.unlink("n")
    store.delete(ref)
    assert ref not in store
    with pytest.raises(NotThereError, match="no such blob"):
        store.release(ref)
    with pytest.raises(NotThereError):
        store.delete(ref)
    with pytest.raises(NotThereError):
        store.info(ref)


def test_a_name_does_not_hold_longer_than_it_lasts(store):
    ref = store.put(b"x", name="n")
    assert not store.info(ref).held
    store.put(b"y", name="n")
    assert ref not in store
    assert store.get(store.ref("n")) == b"y"
    with pytest.raises(NotThereError):
        store.ref("m")
    with pytest.raises(NotThereError):
        store.metadata("m")


def test_references_are_text_and_back(store):
    ref = store.put(b"x")
    assert BlobRef.parse(str(ref)) == ref
    assert hash(BlobRef.parse(str(ref))) == hash(ref)
    assert BlobRef.parse(str(ref)).size is None
    for wrong in ("", "sha256:", str(ref)[:-1], str(ref) + "0", str(ref).upper(), 5, None, b"x"):
        with pytest.raises(UsageError, match="no reference"):
            BlobRef.parse(wrong)
    other = BlobRef("blake3", ref.digest)
    with pytest.raises(NotThereError, match="sha256:"):
        store.get(other)
    with pytest.raises(UsageError):
        store.get(BlobRef("sha256", b"../../etc/passwd"))


def test_names_from_data_never_become_paths(store, files):
    for name in ("../../x", "/etc/passwd", "a\0b", "..", "x" * 1024, "ü\n"):
        store.put(b"data", name=name)
        assert store.get(store.ref(name)) == b"data"
    assert len(objects(files)) == 1
    known = ("/blobs/log/", "/blobs/objects/", "/blobs/gate.lock", "/blobs/objects.lock")
    assert all(path.startswith(known) for path in files.contents())


# --- collecting ---


def test_collect_removes_what_nothing_refers_to_after_the_grace(store, other, files, clock):
    one, two = store.put(b"one", name="n"), store.put(BIG)
    store.delete(two)
    assert store.stats()["unwanted_bytes"] == len(BIG)
    assert store.collect(grace_seconds=60) == (0, 0, 0)
    clock.advance(59)
    assert other.collect(grace_seconds=60).files == 0
    clock.advance(1)
    assert other.collect(grace_seconds=60) == (1, len(BIG), 0)
    assert objects(files) == {one.digest.hex(): b"one"}
    assert store.stats()["unwanted_files"] == 0
    assert store.collect(grace_seconds=0) == (0, 0, 0)
    assert store.get(one) == b"one"


def test_a_clock_that_steps_back_makes_no_file_young_again(store, other, clock):
    ref, kept = store.put(b"x"), store.put(b"kept")
    store.delete(ref)
    clock.advance(59)
    assert store.collect(grace_seconds=60).files == 0
    clock.advance(1)
    store.put(b"y")  # which is known to be this late
    clock.jump(-10_000)
    assert other.collect(grace_seconds=60).files == 1
    store.delete(kept)
    assert store.collect(grace_seconds=60).files == 0
    clock.jump(30_000)
    assert store.collect(grace_seconds=60).files == 1
    assert len(store) == 1


def test_put_again_after_delete_is_there_whether_collected_or_not(store, other):
    for collected in (False, True):
        ref = store.put(b"again")
        store.delete(ref)
        if collected:
            assert other.collect(grace_seconds=0).files == 1
        assert other.put(b"again") == ref
        assert other.collect(grace_seconds=0).files == 0
        assert store.get(ref) == b"again"
        store.delete(ref)


def test_files_that_no_put_finished_are_collected_at_once_and_strange_ones_stay(store, files):
    ref = store.put(b"kept")
    lost = "ab" + "0" * 62
    files.put_file(f"/blobs/objects/ab/{lost[2:]}", b"orphan")
    files.put_file("/blobs/objects/ab/README", b"somebody's")
    files.put_file("/blobs/incoming/1-2.tmp", b"half")
    report = store.verify()
    assert report.ok
    assert report.orphaned == [f"/blobs/objects/ab/{lost[2:]}"]
    assert store.collect() == (1, 6, 1)
    assert set(objects(files)) == {
        ref.digest.hex(),
        "/blobs/objects/ab/README"[-65:].replace("/", ""),
    }
    assert incoming(files) == []


def test_files_that_the_log_does_not_know_get_the_grace_by_their_own_age(tmp_path):
    with BlobStore(tmp_path / "b", **SMALL) as store:
        store.put(b"known")
        old, young = (tmp_path / "b" / "objects" / "ab" / (digit * 62) for digit in "01")
        old.parent.mkdir(exist_ok=True)
        for path in (old, young):
            path.write_bytes(b"orphan")
        hours_ago = time.time() - 2 * 3600
        os.utime(old, (hours_ago, hours_ago))
        assert len(store.verify().orphaned) == 2
        assert store.collect() == (1, 6, 0)
        assert young.exists()
        assert not old.exists()
        assert store.collect(grace_seconds=0).files == 1


def test_a_put_under_way_keeps_its_file(store, other, files):
    with store.writer() as writer:
        writer.write(BIG)
        assert other.collect(grace_seconds=0) == (0, 0, 0)
        assert len(incoming(files)) == 1
    assert other.get(writer.ref) == BIG


def test_a_put_waits_for_a_collector_no_longer_than_it_is_told(opened):
    store, other = opened(lock_timeout_seconds=0.01), opened()
    with other._turns.removing(), pytest.raises(LockedError, match="locked for"):
        store.put(b"x")
    assert len(store) == 0
    with other._turns.placing():
        with pytest.raises(LockedError):
            store.collect(grace_seconds=0)
        store.put(b"x")  # those that place do not wait for one another


# A moment at which one handle has just done something to a file; the log's own are left out: there
# locks of the log are held, which both handles need.
def _at_each_operation(files, nth, act):
    """Call act() right after the nth operation from now on; whether it came to that."""
    count = 0

    def look(name, path):
        nonlocal count
        if "/log/" in path or name in ("close", "status", "is_directory"):
            return
        count += 1
        if count == nth:
            files.on_operation = None
            act()

    files.on_operation = look
    return lambda: count >= nth


BEFORE = {
    "nothing": lambda store: None,
    "referred to": lambda store: store.put(b"same"),
    "unwanted": lambda store: store.delete(store.put(b"same")),
    "collected": lambda store: (store.delete(store.put(b"same")), store.collect(grace_seconds=0)),
    "named": lambda store: store.put(b"same", name="n"),
}


@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize("first", ["put", "collect", "delete and collect"])
def test_a_put_and_a_collection_at_every_moment_of_one_another(before, first):
    """Whatever a put returned is there: collected in the middle of it, or it in the middle of a
    collection."""
    calls = {
        "put": lambda store: store.put(b"same", name="n"),
        "collect": lambda store: store.collect(grace_seconds=0),
        "delete and collect": lambda store: _delete_and_collect(store),
    }
    second = "delete and collect" if first == "put" else "put"
    waited = done = 0
    for nth in range(1, 200):
        files, outcomes = MemoryFiles(), {}
        options = {**SMALL, "files": files, "lock_timeout_seconds": 0}
        with BlobStore("/blobs", **options) as one, BlobStore("/blobs", **options) as other:
            BEFORE[before](one)

            def act(name, store, outcomes=outcomes):
                try:
                    outcomes[name] = calls[name](store)
                except LockedError:
                    outcomes[name] = None

            reached = _at_each_operation(files, nth, lambda: act(second, other))
            act(first, one)
            files.on_operation = None
            waited += list(outcomes.values()).count(None)
            done += list(outcomes.values()).count(None) == 0
            for store in (one, other):
                assert store.verify().ok, f"moment {nth}"
                for ref in store.refs():
                    assert store.get(ref) == b"same"
            if outcomes.get("put") and not ("delete" in second or "delete" in first):
                assert outcomes["put"] in one, f"moment {nth}"
            one.check()
        if not reached():
            break
    assert nth > 3
    assert done > 1
    print(f"\n{before}, {first}: {nth} moments, {waited} had to wait")


def _delete_and_collect(store):
    for name in store.names():
        store.unlink(name)
    for ref in store.refs():
        store.delete(ref)
    return store.collect(grace_seconds=0)


@pytest.mark.parametrize("again", [False, True])
def test_a_reader_overtaken_by_delete_collect_and_put_sees_the_bytes_or_nothing(
    store, other, monkeypatch, again
):
    """Between its look at the state and its look at the file, or before it looks again."""
    ref = store.put(b"same")
    opened = store._objects.open

    def overtaken(name):
        monkeypatch.undo()
        other.delete(ref)
        other.collect(grace_seconds=0)
        found = opened(name)
        assert found is None
        if again:
            other.put(b"same")

    monkeypatch.setattr(store._objects, "open", overtaken)
    if again:
        assert store.get(ref) == b"same"
    else:
        with pytest.raises(NotThereError):
            store.get(ref)


# --- damage ---


@pytest.mark.parametrize("size", [0, 1, 64])
def test_every_changed_byte_is_found(store, files, size):
    data = BIG[:size]
    ref = store.put(data)
    path = place(files, ref)
    others = [data + b"x"]
    for at in range(size):
        for change in (1, 0x80, 0xFF):
            others.append(data[:at] + bytes([data[at] ^ change]) + data[at + 1 :])
        others.append(data[:at])
    for wrong in others:
        files.put_file(path, wrong)
        for call in (
            lambda: store.get(ref),
            lambda: store.read(ref, 0, 1 + size),
            lambda: list(store.chunks(ref)),
            lambda: store.open(ref).read(),
            store.check,
        ):
            with pytest.raises(DamageError) as caught:
                call()
            assert caught.value.path == path
            assert caught.value.offset is not None
        report = store.verify()
        assert not report.ok
        assert [found.ref for found in report.damaged] == [ref]
    files.put_file(path, data)
    assert store.verify().ok


def test_damage_names_its_chunk_and_spares_the_others(store, files):
    ref = store.put(BIG)
    path, at = place(files, ref), 2 * MIB + 70_000
    files.put_file(path, BIG[:at] + bytes([BIG[at] ^ 4]) + BIG[at + 1 :])
    start = at >> 16 << 16
    for call in (lambda: store.get(ref), lambda: store.read(ref, at + 100, 1)):
        with pytest.raises(DamageError, match="was changed") as caught:
            call()
        assert (caught.value.path, caught.value.offset) == (path, start)
    assert store.read(ref, start - 5, 5) == BIG[start - 5 : start]
    assert store.read(ref, start + 65536, 9) == BIG[start + 65536 : start + 65545]
    got = []
    with pytest.raises(DamageError):
        for piece in store.chunks(ref):
            got.append(piece)
    assert b"".join(got) == BIG[: 2 * MIB]
    with store.open(ref) as file:
        with pytest.raises(DamageError):
            file.read()
        file.seek(start + 65536)
        assert file.read(3) == BIG[start + 65536 : start + 65539]


def test_wrong_bytes_with_right_checksums_are_found_by_the_digest(store, files):
    """As somebody would make them who changes bytes on purpose."""
    data = bytearray(BIG[:100_000])
    ref = store.put(bytes(data))
    data[0] ^= 1
    _forge(data, zlib.crc32(BIG[:65536]))
    assert zlib.crc32(data[:65536]) == zlib.crc32(BIG[:65536])
    files.put_file(place(files, ref), bytes(data))
    with store.open(ref) as file, pytest.raises(DamageError, match="digest"):
        file.read()
    for call in (lambda: store.get(ref), lambda: list(store.chunks(ref)), store.check):
        with pytest.raises(DamageError, match="digest"):
            call()


def _forge(data, wanted):
    """Give the first chunk the wanted CRC by its bytes 100 to 103: solve 32 linear equations."""
    data[100:104] = bytes(4)
    base = zlib.crc32(data[:65536])
    rows = []
    for bit in range(32):
        data[100:104] = (1 << bit).to_bytes(4, "little")
        rows.append((zlib.crc32(data[:65536]) ^ base, 1 << bit))
    value, target = 0, wanted ^ base
    for bit in reversed(range(32)):
        pivot = next(row for row in rows if row[0] >> bit & 1 and row[0].bit_length() == bit + 1)
        rows = [
            (a ^ pivot[0], b ^ pivot[1]) if a >> bit & 1 and (a, b) != pivot else (a, b)
            for a, b in rows
            if (a, b) != pivot
        ]
        if target >> bit & 1:
            target, value = target ^ pivot[0], value ^ pivot[1]
    data[100:104] = value.to_bytes(4, "little")


def test_a_lost_or_short_file_is_told_and_mended_by_a_put(store, files):
    ref = store.put(b"precious", name="n")
    path = place(files, ref)
    files.remove(path)
    with pytest.raises(LostFileError, match="lost its file") as caught:
        store.get(ref)
    assert caught.value.path == path
    assert store.verify().missing == [ref]
    store.put(b"precious", name="n")
    assert store.get(ref) == b"precious"
    files.put_file(path, b"prec")
    with pytest.raises(DamageError, match="4 bytes, not 8"):
        store.read(ref, 0, 2)
    store.put(b"precious")
    assert store.verify().ok


def test_an_unreadable_sector_is_a_storage_error(files, clock):
    faulty = FaultyFiles(files)
    with BlobStore("/blobs", files=faulty, **SMALL) as store:
        ref = store.put(BIG)
        faulty.unreadable(place(files, ref), 70_000, 1)
        with pytest.raises(StorageError):
            store.get(ref)
        assert store.read(ref, 0, 100) == BIG[:100]
        with pytest.raises(StorageError):
            store.read(ref, 65_540, 1)


def test_links_and_odd_files_are_refused(tmp_path):
    with BlobStore(tmp_path / "b", **SMALL) as store:
        ref = store.put(b"x")
        name = ref.digest.hex()
        path = tmp_path / "b" / "objects" / name[:2] / name[2:]
        secret = tmp_path / "secret"
        secret.write_bytes(b"x")
        for make in (path.symlink_to, path.hardlink_to):
            path.unlink()
            make(secret)
            with pytest.raises((StorageError, UsageError)):
                store.get(ref)
        path.unlink()
        os.mkfifo(path)
        with pytest.raises((StorageError, UsageError)):
            store.get(ref)


def test_files_are_private(tmp_path):
    before = os.umask(0)
    try:
        with BlobStore(tmp_path / "b", **SMALL) as store:
            store.put(BIG)
            with store.writer() as writer:
                writer.write(BIG)
                writer.write(b"x")
                found = [p for p in (tmp_path / "b").rglob("*") if "log" not in p.parts]
                modes = {stat.S_IMODE(p.stat().st_mode) for p in found if p.is_file()}
                assert modes == {0o600}
                assert {stat.S_IMODE(p.stat().st_mode) for p in found if p.is_dir()} == {0o700}
    finally:
        os.umask(before)


# --- a full disk ---


def test_a_full_disk_in_the_middle_of_a_put_leaves_nothing(files, clock):
    with BlobStore("/blobs", files=files, **SMALL) as store:
        store.put(b"first")
        position, before = store.position, objects(files)
        files.capacity_bytes = files.used_bytes + MIB
        for data in (BIG, io.BytesIO(BIG), iter([BIG[:MIB], BIG[MIB:]])):
            with pytest.raises(DiskFullError):
                store.put(data)
            assert incoming(files) == []
            assert objects(files) == before
            assert store.position == position
        with store.writer() as writer:
            with pytest.raises(DiskFullError):
                writer.write(BIG)
            with pytest.raises(UsageError, match="earlier write failed"):
                writer.write(b"more")
            with pytest.raises(UsageError, match="earlier write failed"):
                writer.commit()
        assert len(store) == 1
        files.capacity_bytes = None
        ref = store.put(BIG)
        files.capacity_bytes = files.used_bytes
        with pytest.raises(DiskFullError):
            store.put(BIG[1:])
        store.delete(ref)
        assert store.collect(grace_seconds=0).files == 1  # which makes room
        assert store.get(store.put(BIG[1:])) == BIG[1:]


# --- checksums ---


def test_chunks_double_when_there_are_too_many(store, monkeypatch):
    monkeypatch.setattr(sums_module, "COUNT_MAX", 8)
    monkeypatch.setattr(sums_module, "SHIFT", 4)
    rng = random.Random(2)
    for size in (0, 1, 16, 127, 128, 129, 255, 256, 257, 1000, 5000):
        data, sums = rng.randbytes(size), Sums()
        sums.shift = 4
        at = 0
        while at < size:
            step = rng.randint(1, 50)
            sums.update(memoryview(data)[at : at + step])
            at += step
        chunk = 1 << sums.shift
        expected = [zlib.crc32(data[at : at + chunk]) for at in range(0, size, chunk)]
        assert sums.packed() == b"".join(crc.to_bytes(4, "little") for crc in expected)
        assert len(expected) <= 8
        assert sums.size == size


def test_larger_chunks_are_read_as_well(store, monkeypatch):
    monkeypatch.setattr(sums_module, "COUNT_MAX", 4)
    ref = store.put(BIG)
    assert store._find(ref)[1].shift == 20
    assert store.read(ref, 5, MIB) == BIG[5 : MIB + 5]
    with store.open(ref) as file:
        assert file.read() == BIG
    assert b"".join(store.chunks(ref)) == BIG
    store.check()


# --- memory ---


def test_memory_stays_flat_whatever_the_size(tmp_path):
    piece, count = os.urandom(MIB), min(1024, cases(64))
    with BlobStore(tmp_path / "b", **SMALL) as store:
        store.put(b"warm")
        tracemalloc.start()
        try:
            ref = store.put(piece for _ in range(count))
            with store.open(ref) as file:
                while file.read(100_000):
                    pass
            for _ in store.chunks(ref):
                pass
            store.read(ref, count * MIB - 200, 100)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < 5 * MIB


# --- the past, snapshots, other handles ---


def test_the_past_can_be_read_until_it_is_collected(store, clock):
    ref = store.put(b"x", name="n")
    position = store.position
    clock.advance(10)
    store.unlink("n")
    for then in (store.at(position=position), store.at(time=1_000_005)):
        assert then.names() == {"n": ref}
        assert then.get(ref) == b"x"
        assert then.position == position
    assert store.at(position=0).refs() == []
    store.collect(grace_seconds=0)
    with pytest.raises(NotThereError, match="collected"):
        then.get(ref)
    with pytest.raises(PositionError):
        store.at(position=999)


def test_a_store_is_the_same_from_a_snapshot(opened, clock, files):
    store = opened()
    refs = [store.put(b"%d" % n, name=f"n{n}", metadata={"n": str(n)}) for n in range(9)]
    store.put(b"3", metadata={"held": "yes"})
    store.put(b"3", name="n4")
    store.unlink("n5")
    stats = store.stats()
    store.checkpoint()
    clock.advance(5)
    again = opened()
    kept = ("blobs", "names", "bytes", "deduplicated_bytes", "unwanted_files", "unwanted_bytes")
    assert {key: again.stats()[key] for key in kept} == {key: stats[key] for key in kept}
    assert again.names() == store.names()
    assert [again.info(ref) for ref in again.refs()] == [store.info(ref) for ref in store.refs()]
    assert again.metadata("n3") == {"n": "3"}
    assert again.info(refs[3]).metadata == {"held": "yes"}
    again.check()
    assert again.collect(grace_seconds=5).files == 2


def test_stats_and_verify_say_how_far_they_are(store):
    store.put(b"12345", name="a")
    store.put(b"12345", name="b")
    ref = store.put(b"123")
    told = []
    report = store.verify(progress=lambda done, total: told.append((done, total)))
    assert (report.blobs, report.bytes) == (2, 8)
    assert told[-1] == (8, 8)
    assert len(told) == 2
    stats = store.stats()
    assert (stats["blobs"], stats["names"], stats["bytes"]) == (2, 2, 8)
    assert stats["deduplicated_bytes"] == 5
    assert store.name == "/blobs"
    assert "/blobs" in repr(store)
    assert not store.closed
    assert ref in store


def test_a_read_only_store_reads_and_changes_nothing(opened, files):
    with pytest.raises(LogNotFoundError):
        BlobStore("/blobs", files=files, read_only=True)
    assert files.contents() == {}
    ref = opened().put(b"x", name="n")
    before = set(files.contents())
    store = opened(read_only=True)
    assert store.get(ref) == b"x"
    assert store.verify().ok
    assert store.names() == {"n": ref}
    for call in (
        lambda: store.put(b"y"),
        store.writer,
        lambda: store.link("m", ref),
        lambda: store.unlink("n"),
        lambda: store.delete(ref),
        lambda: store.release(ref),
        store.collect,
    ):
        with pytest.raises((ReadOnlyError, StillLinkedError, NotThereError)):
            call()
    assert set(files.contents()) == before


def test_a_closed_store_says_so(store):
    ref = store.put(b"x")
    store.close()
    store.close()
    assert store.closed
    for call in (
        lambda: store.put(b"y"),
        lambda: store.get(ref),
        lambda: store.link("m", ref),
        store.writer,
        store.names,
        store.collect,
        store.verify,
    ):
        with pytest.raises(ClosedError):
            call()


def test_the_hash_is_chosen_once(opened, files):
    import hashlib

    sha3 = Hashing("sha3", hashlib.sha3_256)
    with opened(hashing=sha3) as store:
        ref = store.put(b"x")
        assert str(ref) == "sha3:" + hashlib.sha3_256(b"x").hexdigest()
    with pytest.raises(UsageError, match="made with sha3"):
        opened()
    with pytest.raises(UsageError, match="made with sha3"):
        opened(read_only=True)
    assert opened(hashing=sha3).get(ref) == b"x"
    for wrong in (None, "sha256", Hashing("SHA", hashlib.sha256), Hashing("md5", hashlib.md5)):
        with pytest.raises(UsageError):
            BlobStore("/other", files=files, hashing=wrong)
    assert SHA256.name == "sha256"


# --- bad input ---


@pytest.mark.parametrize(
    "data",
    ["text", None, 5, 1.5, object(), ["text"], [1], io.StringIO("text"), {"a": b"x"}],
    ids=lambda data: type(data).__name__,
)
def test_what_is_no_bytes_is_refused_and_changes_nothing(store, files, data):
    position = store.position
    with pytest.raises(UsageError):
        store.put(data)
    assert store.position == position
    assert incoming(files) == []
    assert objects(files) == {}


def test_wrong_arguments_are_refused_before_anything_is_read(store):
    ref = store.put(b"x")
    position = store.position
    source = io.BytesIO(b"unread")
    for name in ("", "x" * 1025, 5, b"n", "\ud800"):
        with pytest.raises(UsageError, match="name"):
            store.put(source, name=name)
        with pytest.raises(UsageError, match="name"):
            store.link(name, ref)
    for metadata in (5, "x", {"a": 1}, {1: "a"}, [("a", "b")], 0):
        with pytest.raises(UsageError, match="metadata"):
            store.put(source, metadata=metadata)
    with pytest.raises(TooLargeError, match="metadata"):
        store.put(source, metadata={"a": "x" * 60_000})
    assert source.tell() == 0
    for number in (-1, 1.5, None, True, 1 << 70, "1"):
        with pytest.raises(UsageError):
            store.read(ref, number, 1)
        with pytest.raises(UsageError):
            store.read(ref, 0, number)
        with pytest.raises(UsageError):
            store.get(ref, bytes_max=number)
    for seconds in (-1, None, "1", True, float("nan"), float("inf"), 1 << 80):
        with pytest.raises(UsageError):
            store.collect(grace_seconds=seconds)
    for path in ("", "a\0b", 5, None, b"x"):
        with pytest.raises(UsageError, match="path"):
            BlobStore(path)
    with pytest.raises(TooLargeError, match="bytes_max is 0"):
        store.get(ref, bytes_max=0)
    for wrong in (5, None, "x", b"x"):
        for call in (store.get, store.open, store.count, store.delete, store.info, store.chunks):
            with pytest.raises(UsageError):
                call(wrong)
    assert store.position == position


def test_a_blob_over_the_limit_is_refused(store, monkeypatch, files):
    from treering.stores.blobs import staging

    monkeypatch.setattr(staging, "BLOB_BYTES_MAX", 2 * MIB)
    for data in (BIG, io.BytesIO(BIG)):
        with pytest.raises(TooLargeError, match="at most"):
            store.put(data)
    assert incoming(files) == []
    assert store.get(store.put(BIG[: 2 * MIB])) == BIG[: 2 * MIB]


HELD = new(Content(b"d" * 32, 3, 16, b"\1\2\3\4"), b"", b"")


@pytest.mark.parametrize(
    "key, value",
    [
        (b"p" + b"d" * 31, b""),
        (b"p" + b"e" * 32, b"short"),
        (b"p" + b"e" * 32, bytes(HELD.value)[:-1]),
        (b"p" + b"e" * 32, bytes(HELD.value) + b"no json"),
        (b"p" + b"e" * 32, bytes(HELD.value) + b"[" * 100_000),
        (b"p" + b"e" * 32, bytes(HELD.value) + b'{"a":1}'),
        (b"p" + b"e" * 32, b"\xff" * 8 + bytes(HELD.value)[8:]),
        (b"p" + b"e" * 32, bytes(HELD.value)[:8] + b"\x3f" + bytes(HELD.value)[9:]),
        (b"p" + b"d" * 32, bytes(HELD.value)),
        (b"p" + b"e" * 32 + b"x" * 2000, bytes(HELD.value)),
        (b"l" + b"e" * 32, b"\0"),
        (b"l" + b"d" * 32, b""),
        (b"l" + b"d" * 32, b"\2"),
        (b"u" + b"no such", b""),
        (b"d" + b"e" * 32, b""),
        (b"d" + b"d" * 32 + b"x", b""),
        (b"c", b"x" * 33),
        (b"s", b"no settings at all"),
    ],
)
def test_records_that_are_not_the_stores_are_damage(key, value):
    state = State()
    state.apply(HELD)
    with pytest.raises(DamageError):
        state.apply(Record(key, value))
    for start in (b"B", b"U", b"H"):
        with pytest.raises(DamageError):
            state.load(Record(start + key[1:], value[:7]))


@pytest.mark.parametrize("key", [b"", b"?", b"zx"])
def test_records_of_a_newer_version_are_told(key):
    with pytest.raises(VersionError):
        State().apply(Record(key, b""))
    with pytest.raises(VersionError):
        State().load(Record(key, b""))


def test_another_stores_log_is_refused(files):
    from treering.stores.kv import KeyValueStore

    with KeyValueStore("/blobs/log", files=files, **SMALL):
        pass
    with pytest.raises(UsageError):
        BlobStore("/blobs", files=files, **SMALL)


# --- threads, forks ---


def test_many_threads_put_link_delete_and_collect(files):
    options = {**SMALL, "files": files}
    with BlobStore("/blobs", **options) as one, BlobStore("/blobs", **options) as other:
        wrong = []

        def work(number):
            rng, store = random.Random(number), (one, other)[number % 2]
            for step in range(60):
                data = b"%d" % rng.randrange(6)
                chance = rng.random()
                try:
                    if chance < 0.5:
                        mine = f"{number}/{step % 3}"
                        ref = store.put(data, name=mine)
                        if store.get(ref) != data or store.ref(mine) != ref:
                            wrong.append(mine)
                    elif chance < 0.7:
                        for name in store.names(f"{number}/"):
                            store.unlink(name)
                    elif chance < 0.9:
                        store.collect(grace_seconds=0)
                    else:
                        for ref in store.refs():
                            with_bytes = store.get(ref)
                            if not with_bytes.isdigit():
                                wrong.append(with_bytes)
                except NotThereError:
                    if chance < 0.5:
                        wrong.append("what was put is not there")

        threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert one.verify().ok
        one.check()
        one.collect(grace_seconds=0)
        assert len(objects(files)) == len(one)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_neither_keeps_locks_nor_touches_what_is_being_written(tmp_path):
    with BlobStore(tmp_path / "b", **SMALL, lock_timeout_seconds=5) as store:
        ref = store.put(b"before")
        read, write = os.pipe()
        with store.writer() as writer:
            writer.write(BIG)
            held = store._turns._lock("objects.lock", exclusive=False)
            pid = os.fork()
            if pid == 0:
                os._exit(_in_the_child(store, writer, ref, read, write))
            held._file.close()  # as if the parent were killed: it unlocks nothing
            assert store.collect(grace_seconds=0) == (0, 0, 0)  # the child lives, and keeps no lock
            os.close(write)
            assert os.waitpid(pid, 0)[1] == 0
            os.close(read)
        assert store.get(writer.ref) == BIG
        assert store.get(store.ref("child")) == b"child"
        assert store.collect(grace_seconds=0) == (0, 0, 0)


def _in_the_child(store, writer, ref, read, write):
    try:
        os.close(write)
        os.read(read, 1)  # until the parent closes its end
        with pytest.raises(ClosedError):
            writer.write(b"x")
        writer.abort()  # removes nothing of the parent's
        assert store.get(ref) == b"before"
        store.put(b"child", name="child")
    except BaseException:
        return 1
    return 0


def test_durable_at_return_under_always(tmp_path):
    with BlobStore(tmp_path / "b") as store:
        store.put(b"x", name="n")
        store.unlink("n")
        assert store._fold.wal.durable_position == store.position
    with BlobStore(tmp_path / "c", fsync_policy=FsyncPolicy.OS) as store:
        store.put(b"x", name="n", durable=True)
        assert store._fold.wal.durable_position == store.position
