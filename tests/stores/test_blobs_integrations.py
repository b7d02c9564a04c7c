"""The blob store with another hash, and with its objects elsewhere."""

from __future__ import annotations

import hashlib
import importlib
import os
import random
import sys

import pytest

from tests.stores._opening import SMALL
from treering import (
    DamageError,
    DiskFullError,
    MissingExtraError,
    NotThereError,
    StorageError,
    UsageError,
)
from treering.stores.blobs import BlobStore

fsspec = pytest.importorskip("fsspec")
blake3 = pytest.importorskip("blake3")

BIG = random.Random(4).randbytes((2 << 20) + 3)


def test_blake3_names_blobs_and_is_kept(tmp_path):
    from treering.integrations.blake3 import BLAKE3

    with BlobStore(tmp_path / "b", hashing=BLAKE3, **SMALL) as store:
        ref = store.put(BIG)
        assert str(ref) == "blake3:" + blake3.blake3(BIG).hexdigest()
        assert store.get(ref) == BIG
        store.check()
    with pytest.raises(UsageError, match="blake3"):
        BlobStore(tmp_path / "b", **SMALL)
    store = BlobStore(tmp_path / "b", hashing=BLAKE3, **SMALL)
    with store, store.open(str(ref)) as file:
        assert file.read() == BIG


@pytest.fixture(params=["file", "memory"])
def elsewhere(request, tmp_path):
    """Objects in a file system of fsspec, and their directory there."""
    from treering.integrations.fsspec import FsspecObjects

    fs = fsspec.filesystem(request.param)
    root = str(tmp_path / "far") if request.param == "file" else f"/far{os.getpid()}"
    yield lambda: FsspecObjects(fs, root)
    if fs.exists(root):
        fs.rm(root, recursive=True)


def test_objects_in_another_file_system(tmp_path, elsewhere):
    with BlobStore(tmp_path / "b", objects=elsewhere(), **SMALL) as store:
        ref, small = store.put(BIG, name="big"), store.put(b"small")
        empty = store.put(b"")
        assert store.get(ref) == BIG
        assert store.get(empty) == b""
        assert b"".join(store.chunks(ref)) == BIG
        assert store.read(ref, 70_000, 9) == BIG[70_000:70_009]
        with store.open(ref) as file:
            file.seek(-4, 2)
            assert file.read() == BIG[-4:]
        assert store.put(BIG) == ref
        assert not (tmp_path / "b" / "objects").exists()
        assert list((tmp_path / "b" / "incoming").iterdir()) == []
        store.delete(small)
        assert store.collect(grace_seconds=0) == (1, 5, 0)
        assert store.collect(grace_seconds=0) == (0, 0, 0)
        with pytest.raises(NotThereError):
            store.get(small)
        store.check()
    with pytest.raises(UsageError, match="fsspec"):
        BlobStore(tmp_path / "b", **SMALL)
    with BlobStore(tmp_path / "b", objects=elsewhere(), **SMALL) as store:
        assert store.get("sha256:" + ref.digest.hex()) == BIG


def test_damage_and_leftovers_elsewhere(tmp_path, elsewhere):
    objects = elsewhere()
    with BlobStore(tmp_path / "b", objects=objects, **SMALL) as store:
        ref = store.put(BIG)
        path, fs = objects.where(ref.digest.hex()), objects._fs
        fs.pipe_file(path, BIG[:-1] + b"?")
        with pytest.raises(DamageError, match="was changed") as caught:
            store.get(ref)
        assert caught.value.path == path
        fs.rm_file(path)
        with pytest.raises(DamageError, match="lost its file"):
            store.get(ref)
        assert store.verify().missing == [ref]
        store.put(BIG)
        assert store.verify().ok
        root = path[: path.index("/objects/")]
        fs.makedirs(root + "/incoming", exist_ok=True)
        fs.pipe_file(root + "/incoming/1-dead.tmp", b"half")
        orphan = objects.where("ab" + "0" * 62)
        fs.makedirs(orphan.rpartition("/")[0], exist_ok=True)
        fs.pipe_file(orphan, b"nobody's")
        assert store.verify().orphaned == [orphan]
        assert store.collect() == (0, 0, 1)  # it is young
        assert store.collect(grace_seconds=0) == (1, 8, 0)
        assert store.verify().orphaned == []


def test_an_upload_that_fails_leaves_nothing_in_the_log(tmp_path, elsewhere, monkeypatch):
    objects = elsewhere()
    with BlobStore(tmp_path / "b", objects=objects, **SMALL) as store:
        position = store.position

        def refuse(number):
            def mv(*_, **__):
                raise OSError(number, os.strerror(number))

            return mv

        for number, kind in ((28, DiskFullError), (5, StorageError)):
            monkeypatch.setattr(objects._fs, "mv", refuse(number))
            with pytest.raises(kind, match="cannot upload"):
                store.put(BIG)
        monkeypatch.undo()
        assert store.position == position
        assert list((tmp_path / "b" / "incoming").iterdir()) == []
        assert store.collect(grace_seconds=0).leftovers == 2
        assert store.get(store.put(BIG)) == BIG


def test_wrong_file_systems_are_refused():
    from treering.integrations.fsspec import FsspecObjects

    for fs, root in ((None, "x"), (fsspec.filesystem("memory"), ""), ("s3", "x")):
        with pytest.raises(UsageError, match="fsspec"):
            FsspecObjects(fs, root)


@pytest.mark.parametrize("library", ["blake3", "fsspec"])
def test_a_library_that_is_missing_is_named(library, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.delitem(sys.modules, f"treering.integrations.{library}", raising=False)
    with pytest.raises(MissingExtraError, match=rf"treering\[{library}\]"):
        importlib.import_module(f"treering.integrations.{library}")


@pytest.fixture
def remembering(tmp_path):
    """Objects in a file system that remembers listings, as those of object storage do, and answers
    from them what it was asked about a file; as another process each time."""
    from fsspec.implementations.local import LocalFileSystem

    from treering.integrations.fsspec import FsspecObjects

    class Remembering(LocalFileSystem):
        cachable = False

        def __init__(self, **options):
            super().__init__(**options)
            self.seen = {}

        def ls(self, path, detail=False, **options):
            path = self._strip_protocol(path)
            if path not in self.seen:
                self.seen[path] = super().ls(path, detail=True, **options)
            return self.seen[path] if detail else [each["name"] for each in self.seen[path]]

        def info(self, path, **options):
            path = self._strip_protocol(path)
            parent = self._parent(path)
            if parent in self.seen:
                for each in self.seen[parent]:
                    if each["name"] == path:
                        return each
                raise FileNotFoundError(path)
            return super().info(path, **options)

        def invalidate_cache(self, path=None):
            if path is None:
                self.seen.clear()
            else:
                self.seen.pop(self._strip_protocol(path), None)

    return lambda: FsspecObjects(Remembering(), str(tmp_path / "far"))


def test_what_another_process_put_is_there_whatever_the_file_system_remembers(
    tmp_path, remembering
):
    mine, others = remembering(), remembering()
    store = BlobStore(tmp_path / "b", objects=mine, **SMALL)
    other = BlobStore(tmp_path / "b", objects=others, **SMALL)
    with store, other:
        # All in one directory of theirs.
        found = (b"%d" % n for n in range(10_000))
        datas = [d for d in found if hashlib.sha256(d).hexdigest().startswith("ab")][:4]
        gone = store.put(datas[0])
        assert store.verify().ok and other.verify().ok  # which list everything
        for data in datas[1:]:
            assert store.get(other.put(data)) == data
        os.truncate(mine.where(gone.digest.hex()), 0)
        assert not store.verify().ok
        other.put(datas[0])
        assert store.get(gone) == datas[0]
        other.delete(gone)
        assert other.collect(grace_seconds=0).files == 1
        assert store.verify().orphaned == []
        assert store.collect(grace_seconds=0) == (0, 0, 0)


def test_what_a_service_says_is_a_storage_error(tmp_path, elsewhere, monkeypatch):
    class ClientError(Exception):
        pass

    def refuse(*_, **__):
        raise ClientError("no such bucket")

    objects = elsewhere()
    with BlobStore(tmp_path / "b", objects=objects, **SMALL) as store:
        ref = store.put(BIG)
        monkeypatch.setattr(objects._fs, "open", refuse)
        for call in (lambda: store.get(ref), lambda: store.put(b"other")):
            with pytest.raises(StorageError, match="no such bucket"):
                call()
        monkeypatch.undo()
        assert store.get(ref) == BIG


def test_what_has_no_age_gets_the_grace(tmp_path, elsewhere, monkeypatch):
    objects = elsewhere()

    def unknown(path):
        raise NotImplementedError

    with BlobStore(tmp_path / "b", objects=objects, **SMALL) as store:
        store.put(b"known")
        orphan = objects.where("ab" + "0" * 62)
        objects._fs.makedirs(orphan.rpartition("/")[0], exist_ok=True)
        objects._fs.pipe_file(orphan, b"nobody's")
        monkeypatch.setattr(objects._fs, "modified", unknown)
        assert store.collect().files == 0
        assert store.collect(grace_seconds=0).files == 1
