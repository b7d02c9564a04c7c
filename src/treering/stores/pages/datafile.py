"""The data file: a slot for each page, behind a header.

    header, 4096 bytes    magic, format version, page size, the log's id, checksum; zeros
    slot, 24 + page size  checksum, zeros, page, position of the version; the page

Numbers are little-endian. The checksum of a slot is CRC-32 of the log's id and the rest of the
slot. Nothing in the file counts until a checkpoint's record in the log says so; so a slot that is
half written, or a header, is simply written again.
"""

from __future__ import annotations

import errno
import os
import struct
import threading
import time
import weakref
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

from treering import (
    ClosedError,
    DamageError,
    LockedError,
    ReentrantError,
    StorageError,
    UsageError,
    VersionError,
)
from treering.fold import CREATE, READ, WRITE, Directory, File, SystemFiles

NAME = "pages"
HEADER_BYTES = 4096
VERSION = 1

_MAGIC = b"treering pages\0\0"
_HEADER = struct.Struct("<16sHHI16sI")
_SLOT = struct.Struct("<IIQQ")
SLOT_HEAD_BYTES = _SLOT.size
_CHECKED_FROM = 4
_LOOK_AGAIN_SECONDS = 0.005
_RESTORE = "Nothing was changed. Restore the file together with the log from a backup"


class DataFile:
    """The pages as of the last checkpoint. Thread-safe; one writer at a time, among all processes.

    Opened when it is first needed, and anew in a forked child. Call `belong` before anything else.
    """

    def __init__(self, files: SystemFiles, path: str) -> None:
        self._files, self._folder = files, path
        self._log_id, self.page_bytes = bytes(16), 0
        self._closed = False
        self._begin()
        _data_files.add(self)

    def _begin(self) -> None:
        self._directory = Directory(self._files, self._folder)
        self._file: File | None = None
        self._writers = threading.RLock()
        self._writing = False

    def belong(self, log_id: bytes, page_bytes: int) -> None:
        """To which log it belongs, and how long its pages are."""
        self._log_id, self.page_bytes = log_id, page_bytes

    @property
    def path(self) -> str:
        """The file's path."""
        return self._directory.join(NAME)

    # --- Opening and closing ---

    def refuse_strangers(self) -> None:
        """UsageError if there is something of that name that no page store made. To be asked of a
        new store only: a crash may leave a file of ours without its header."""
        try:
            file = self._directory.open(NAME, READ)
        except StorageError as error:
            if error.errno != errno.ENOENT:
                raise
            return
        with file:
            if file.opened_bytes and self._header_of(file) is None:
                raise UsageError(
                    "there is a file of the data file's name, and it is no page store's",
                    path=file.path,
                    hint="It would be written over. Choose another path, or move the file away",
                )

    def create(self) -> None:
        """Make an empty file if there is none; its name is durable at return. DamageError if there
        is one of another log, which must not be written over."""
        with self._directory.open(NAME, CREATE) as file:
            found = self._header_of(file)
        if found is not None and found[0] != self._log_id:
            raise self._damage("it belongs to another log", 0)
        self._directory.sync()

    def check_header(self) -> None:
        """DamageError unless this is the log's data file; VersionError if it is a newer one's."""
        found = self._header_of(self._opened())
        if found is None:
            raise self._damage("its header is damaged", 0)
        if found != (self._log_id, self.page_bytes):
            raise self._damage("it belongs to another log", 0)

    def _header_of(self, file: File) -> tuple[bytes, int] | None:
        """The log's id and the page size that the file tells; None if it is not to be believed."""
        data = file.read(_HEADER.size, 0)
        if len(data) < _HEADER.size:
            return None
        magic, version, _, page_bytes, log_id, checksum = _HEADER.unpack(data)
        if magic != _MAGIC or checksum != zlib.crc32(data[:-4]):
            return None
        if version != VERSION:
            raise VersionError(
                f"the data file has format version {version}, not {VERSION}",
                path=self.path,
                hint="Open it with a newer treering",
            )
        return log_id, page_bytes

    def close(self) -> None:
        """Let go of the file; idempotent."""
        self._closed = True
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def after_fork(self) -> None:
        """In the child: the parent's descriptors, and its lock, are not ours."""
        self._directory.abandon()
        self._begin()

    def _opened(self) -> File:
        file = self._file
        if file is None:
            if self._closed:
                raise ClosedError("the store is closed", hint="Open it again")
            try:
                file = self._directory.open(NAME, READ)
            except StorageError as error:
                if error.errno != errno.ENOENT:
                    raise
                raise self._damage("it is not there", None) from error
            self._file = file
        return file

    def _damage(
        self, what: str, offset: int | None, position: int | None = None, hint: str = _RESTORE
    ) -> DamageError:
        return DamageError(
            f"the data file of the page store is damaged: {what}",
            path=self.path,
            offset=offset,
            position=position,
            hint=hint,
        )

    # --- Reading ---

    def read(self, page: int, position: int) -> bytes | None:
        """The page, if the file has just this version of it, whole. One read of the file."""
        data = self._opened().read(SLOT_HEAD_BYTES + self.page_bytes, self.offset(page))
        if len(data) != SLOT_HEAD_BYTES + self.page_bytes:
            return None
        checksum, _, found, version = _SLOT.unpack_from(data)
        if (found, version) != (page, position) or checksum != self._checksum(data):
            return None
        return data[SLOT_HEAD_BYTES:]

    def offset(self, page: int) -> int:
        """Where the page's slot begins."""
        return HEADER_BYTES + page * (SLOT_HEAD_BYTES + self.page_bytes)

    def damaged_page(self, page: int, position: int) -> DamageError:
        """The error for a page that should be there in the version of that position, and is not."""
        return self._damage(
            f"it does not have the version of page {page} that the log says it has",
            self.offset(page),
            position,
            hint="If it can be read nevertheless, the log has it: write it again as it is. If not, "
            "restore the file together with the log from a backup",
        )

    def _checksum(self, slot: bytes) -> int:
        return zlib.crc32(memoryview(slot)[_CHECKED_FROM:], zlib.crc32(self._log_id))

    # --- Writing ---

    @contextmanager
    def writing(self, timeout: float) -> Iterator[Writer]:
        """Be the one who writes, among all processes; waits up to `timeout` seconds for another.
        LockedError after that. The kernel ends it for a process that dies."""
        with self._writers:
            if self._writing:
                raise ReentrantError("a signal's handler cannot make a checkpoint within one")
            self._writing = True
            try:
                # A descriptor of its own: it must not have missed an error of its writes.
                with self._directory.open(NAME, WRITE) as file:
                    self._wait_for(file, timeout)
                    yield Writer(self, file)
            finally:
                self._writing = False

    def _wait_for(self, file: File, timeout: float) -> None:
        until = time.monotonic() + timeout
        while not file.try_lock(exclusive=True):
            if time.monotonic() >= until:
                raise LockedError(
                    "another process is writing the data file",
                    path=file.path,
                    hint="Its checkpoint takes long. Try again later",
                )
            time.sleep(_LOOK_AGAIN_SECONDS)

    def header(self) -> bytes:
        """What stands at the beginning."""
        head = _HEADER.pack(_MAGIC, VERSION, 0, self.page_bytes, self._log_id, 0)[:-4]
        return (head + zlib.crc32(head).to_bytes(4, "little")).ljust(HEADER_BYTES, b"\0")

    def slot(self, page: int, position: int, data: bytes) -> bytes:
        """A page with what its slot says besides."""
        slot = _SLOT.pack(0, 0, page, position) + data
        return self._checksum(slot).to_bytes(4, "little") + slot[_CHECKED_FROM:]


class Writer:
    """Writes pages; nothing is durable before `sync`."""

    def __init__(self, data_file: DataFile, file: File) -> None:
        self._data_file, self._file = data_file, file

    def header(self) -> None:
        """Write the header."""
        self._file.write(self._data_file.header(), 0)

    def page(self, page: int, position: int, data: bytes) -> None:
        """Write a page."""
        slot = self._data_file.slot(page, position, data)
        self._file.write(slot, self._data_file.offset(page))

    def sync(self) -> None:
        """Make all of it durable; the file's name has been since `create`."""
        self._file.sync()


_data_files: weakref.WeakSet[DataFile] = weakref.WeakSet()


def _forget_parents_files() -> None:
    for data_file in list(_data_files):
        data_file.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parents_files)
