"""Bytes on their way in: counted, hashed, and written to a file of their own before anybody knows
whether the store has them already."""

from __future__ import annotations

import errno
import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any

from treering import ClosedError, StorageError, TooLargeError, UsageError
from treering.fold import CREATE, CREATE_NEW, WRITE, Directory, File, SystemFiles

from .records import Content
from .refs import Hashing
from .sums import COUNT_MAX, SHIFT_MAX, Sums

# So much is kept in memory before a file is made: small blobs that are there already need none.
KEPT_BYTES, PIECES_MAX = 256 << 10, 4096
STEP_BYTES = 1 << 20
BLOB_BYTES_MAX = (COUNT_MAX - 1) << SHIFT_MAX

_FOLDER, _SUFFIX, _MARK = "incoming", ".tmp", ".mending"


class Incoming:
    """The directory of files that are being written. Each is locked by its writer, so that what a
    dead one left can be told from what is under way."""

    def __init__(self, files: SystemFiles, path: str) -> None:
        self._files, self._path = files, os.path.join(path, _FOLDER)
        self._begin()
        _all_incoming.add(self)

    def _begin(self) -> None:
        self._directory = Directory(self._files, self._path)

    def after_fork(self) -> None:
        """In the child: the parent's files are not ours to write."""
        self._directory.abandon()
        self._begin()

    def new_file(self) -> tuple[str, File]:
        """A locked file of our own, and its name beside the log."""
        directory = self._directory
        directory.make()
        while True:
            name = f"{os.getpid()}-{os.urandom(8).hex()}{_SUFFIX}"
            try:
                file = directory.open(name, CREATE_NEW)
            except StorageError as error:
                if error.errno != errno.EEXIST:
                    raise
                continue
            # Between the two steps somebody may have taken it for what a dead process left.
            if file.try_lock(exclusive=True) and file.links():
                return f"{_FOLDER}/{name}", file
            file.close()

    def remove(self, name: str) -> None:
        """Remove a file, by its name beside the log."""
        self._directory.remove(os.path.basename(name))

    @contextmanager
    def mending(self, name: str) -> Iterator[None]:
        """While an object gets its name to which the log refers already. Until that is durable no
        put must rely on it: a mark says so, and stays if this fails or the process dies, until
        another put has mended it."""
        self._directory.open(name + _MARK, CREATE).close()
        yield
        self.unmark(name)

    def unmark(self, name: str) -> None:
        """The object is durable, or gone."""
        self._directory.remove(name + _MARK)

    def is_mending(self, name: str) -> bool:
        """Whether the object of this name may not be durable. To be asked once it was seen."""
        try:
            self._directory.open(name + _MARK).close()
        except StorageError as error:
            if error.errno != errno.ENOENT:
                raise
            return False
        return True

    def leftovers(self) -> list[str]:
        """The files that are being written, or were when their process died."""
        if not self._directory.exists():
            return []
        return [name for name in self._directory.names() if name.endswith(_SUFFIX)]

    def sweep(self) -> int:
        """Remove what dead processes left; how many files."""
        return sum(self._swept(name) for name in self.leftovers())

    def _swept(self, name: str) -> bool:
        try:
            file = self._directory.open(name, WRITE)
        except StorageError as error:
            if error.errno == errno.ENOENT:
                return False  # it was just renamed, or removed
            raise
        with file:
            if not file.try_lock(exclusive=True):
                return False
            # Ours now, whatever it is: renamed files are not touched, for they are gone from here.
            self._directory.remove(name)
            return True


class Staging:
    """One blob on its way in. Write, `finish`, then `settle` if its file is needed; `close` removes
    what is left of it. For one thread at a time."""

    def __init__(self, incoming: Incoming, hashing: Hashing) -> None:
        self._incoming = incoming
        self._hash, self._sums = hashing.new(), Sums()
        self._kept: list[bytes] = []
        self._file: File | None = None
        self._written = 0
        self._whole = True  # nothing was lost between the hash and the file
        self._settled = False
        self._name = ""

    @property
    def name(self) -> str:
        """Where its file lies, from the store's directory on."""
        return self._name

    @property
    def size(self) -> int:
        """The bytes so far."""
        return self._sums.size

    def write(self, data: Any) -> int:
        """Take in more bytes; how many. UsageError for what is not bytes."""
        if isinstance(data, bytes) and len(data) <= STEP_BYTES:
            self._add(data)
            return len(data)
        view = _view(data)
        for at in range(0, len(view), STEP_BYTES):
            # A copy: nobody can change it between the hash and the file.
            self._add(bytes(view[at : at + STEP_BYTES]))
        return len(view)

    def spoil(self) -> None:
        """Not all of it came in: what is there must not be put."""
        self._whole = False

    def _add(self, data: bytes) -> None:
        if not data:
            return
        self.take(data)
        if len(self._kept) > PIECES_MAX:  # small ones take more room than their bytes
            self._kept = [b"".join(self._kept)]
        if self._sums.size - self._written > KEPT_BYTES:
            self._spill()

    def take(self, data: bytes) -> None:
        """Take in bytes that stay in memory up to `settle`: of one who has them there anyway."""
        self.check()
        if self.size + len(data) > BLOB_BYTES_MAX:
            raise TooLargeError(
                f"a blob has at most {BLOB_BYTES_MAX} bytes", hint="Put it in several blobs"
            )
        self._whole = False
        self._hash.update(data)
        self._sums.update(memoryview(data))
        self._kept.append(data)
        self._whole = True

    def check(self) -> None:
        """UsageError once a write failed: bytes may be missing. ClosedError in a forked child."""
        if not self._whole:
            raise UsageError(
                "an earlier write failed, so the blob is not whole", hint="Begin a new one"
            )
        if self._file is not None and self._file.descriptor < 0:
            raise ClosedError("the writer belongs to the parent process", hint="Begin a new one")

    def _spill(self) -> None:
        self._whole = False
        if self._file is None:
            self._name, self._file = self._incoming.new_file()
        data = self._kept[0] if len(self._kept) == 1 else b"".join(self._kept)
        self._file.write(data, self._written)
        self._written += len(data)
        self._kept = []
        self._whole = True

    def finish(self) -> Content:
        """What is known of all bytes."""
        sums = self._sums
        return Content(self._hash.digest(), sums.size, sums.shift, sums.packed())

    def settle(self) -> None:
        """Have all bytes in the file, and the file durable; blocks for an fsync. Once."""
        self.check()
        if self._settled:
            return
        if self._kept or self._file is None:
            self._spill()
        assert self._file is not None
        self._file.sync()
        self._settled = True

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """Read the file."""
        assert self._file is not None
        return self._file.read_into(buffer, offset)

    def close(self) -> None:
        """Remove the file, if it is still there; idempotent. Where that fails, `collect` will do
        it: the put has succeeded, or failed for another reason."""
        file, self._file, self._kept = self._file, None, []
        if file is None:
            return
        self._whole = False
        try:
            if file.descriptor >= 0:  # not in a forked child: it is the parent's
                with suppress(StorageError):
                    self._incoming.remove(self._name)
        finally:
            file.unlock()  # first: an interrupt may keep `close` from closing
            file.close()

    def __enter__(self) -> Staging:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _view(data: Any) -> memoryview:
    try:
        return memoryview(data).cast("B")
    except TypeError:
        raise UsageError(
            f"a blob is made of bytes, not of {type(data).__name__}",
            hint="Encode the text first, or open the file in binary mode",
        ) from None


_all_incoming: weakref.WeakSet[Incoming] = weakref.WeakSet()


def _let_go() -> None:
    for incoming in list(_all_incoming):
        incoming.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)
