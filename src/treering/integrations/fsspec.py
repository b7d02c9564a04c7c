"""The blobs of a blob store in any file system of fsspec (extra `fsspec`): object storage, say.

    import fsspec
    from treering.integrations.fsspec import FsspecObjects

    objects = FsspecObjects(fsspec.filesystem("s3"), "bucket/attachments")
    store = BlobStore("attachments", objects=objects)   # the log, and puts under way, stay here

An object is uploaded under another name, then moved. It is as durable as the file system makes it:
object storage keeps what it has acknowledged; fsspec's local one does not fsync, so leave
`objects=` out for a directory of this machine.
"""

from __future__ import annotations

import contextlib
import errno
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

from treering import DiskFullError, MissingExtraError, StorageError, TreeringError, UsageError
from treering.stores.blobs import Source, Staged

try:
    from fsspec import AbstractFileSystem
except ImportError as error:
    raise MissingExtraError(
        "fsspec is not installed", hint="pip install 'treering[fsspec]'"
    ) from error

_STEP_BYTES = 1 << 20
_DIGITS = frozenset("0123456789abcdef")


class FsspecObjects:
    """The objects of one blob store, below the path `root` of an fsspec file system, which is that
    store's alone. Thread-safe as far as the file system is."""

    kind = "fsspec"

    def __init__(self, fs: AbstractFileSystem, root: str) -> None:
        if not isinstance(fs, AbstractFileSystem) or not isinstance(root, str) or not root:
            raise UsageError(
                "give a file system of fsspec and a path in it",
                hint='FsspecObjects(fsspec.filesystem("s3"), "bucket/attachments")',
            )
        self._fs, self._root = fs, root.rstrip("/")

    def place(self, staged: Staged, name: str) -> None:
        """Upload it under another name, then move it: nobody sees half of it."""
        final = self.where(name)
        on_the_way = f"{self._root}/incoming/{staged.name.rpartition('/')[2]}"
        with _told("upload", final):
            for path in (on_the_way, final):
                self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
            with self._fs.open(on_the_way, "wb") as file:
                _copy(staged, file)
            self._fs.mv(on_the_way, final)

    def open(self, name: str) -> Source | None:
        """The object; None if there is none."""
        path = self.where(name)
        with _told("open", path):
            self._fs.invalidate_cache()  # of listings: other processes put and remove, too
            try:
                return _Source(self._fs, path)
            except FileNotFoundError:
                return None

    def modified_ns(self, name: str) -> int:
        """When it came. If the file system does not say, it is as young as can be: `collect` with a
        grace leaves it."""
        path = self.where(name)
        with _told("look at", path):
            try:
                return int(self._fs.modified(path).timestamp() * 1e9)
            except FileNotFoundError:
                return 0
            except NotImplementedError:
                return time.time_ns()

    def remove(self, name: str) -> None:
        """Remove the object, if it is there."""
        path = self.where(name)
        with _told("remove", path), contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(path)

    def names(self) -> Iterable[str]:
        """One listing of everything. What has another kind of name is not ours, and stays."""
        for path in self._find("objects"):
            name = "".join(path.split("/")[-2:])
            if len(name) == 64 and set(name) <= _DIGITS:
                yield name

    def sweep(self) -> int:
        """Remove what uploads that were broken off left; how many."""
        left = self._find("incoming")
        for path in left:
            with _told("remove", path), contextlib.suppress(FileNotFoundError):
                self._fs.rm_file(path)
        return len(left)

    def where(self, name: str) -> str:
        """The path."""
        return f"{self._root}/objects/{name[:2]}/{name[2:]}"

    def _find(self, folder: str) -> list[str]:
        path = f"{self._root}/{folder}"
        with _told("list", path):
            self._fs.invalidate_cache()
            try:
                return list(self._fs.find(path))
            except FileNotFoundError:
                return []


class _Source:
    """An open object."""

    def __init__(self, fs: AbstractFileSystem, path: str) -> None:
        self._path = path
        self._size = int(fs.info(path)["size"])
        self._file = fs.open(path, "rb")
        self._lock = threading.Lock()

    def size(self) -> int:
        """Its bytes."""
        return self._size

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """Fill the buffer; fewer bytes only at the end."""
        done = 0
        with _told(f"read at offset {offset}", self._path), self._lock:
            self._file.seek(offset)
            while done < len(buffer):
                piece = self._file.read(min(len(buffer) - done, _STEP_BYTES))
                if not piece:
                    break
                buffer[done : done + len(piece)] = piece
                done += len(piece)
        return done

    def close(self) -> None:
        """Let go of it; idempotent."""
        self._file.close()


def _copy(staged: Staged, file: Any) -> None:
    buffer = bytearray(min(_STEP_BYTES, max(staged.size, 1)))
    with memoryview(buffer) as view:
        at = 0
        while count := staged.read_into(view, at):
            file.write(view[:count])
            at += count


@contextlib.contextmanager
def _told(doing: str, path: str) -> Iterator[None]:
    """What the file system says, as treering's errors. Not all of them raise OSErrors only: some
    let through what the library says with which they speak to the service."""
    try:
        yield
    except TreeringError:
        raise
    except Exception as error:
        number = error.errno if isinstance(error, OSError) else None
        kind = DiskFullError if number in (errno.ENOSPC, errno.EDQUOT) else StorageError
        raise kind(
            f"cannot {doing}: {getattr(error, 'strerror', None) or error}",
            number=number,
            path=path,
            hint="Look at the file system below: what it says is the cause",
        ) from error
