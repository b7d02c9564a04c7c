"""The control page of an open log: where it ends, what is durable, who may append now.

A shared-memory file beside the segments (precedents: SQLite's wal-index, LMDB's lock file). It is
never trusted across openings: whoever opens the log first writes a new one.

Refuses to know segments and frames; the locks that guard it are in `locks`.
"""

from __future__ import annotations

import os
from zlib import crc32

from . import format as fmt
from .codec import SharedPage, mutex_kind
from .errors import DiskFullError, LockedError
from .files import CREATE_NEW, READ, WRITE, Directory, File, Mapping

# Lock kinds other than the (odd) number that mutex_kind() gives.
FILE_LOCK = 2
PRIVATE_LOCK = 4


class Control:
    """An open control page. Words may be read at any time; written under the append lock."""

    def __init__(self, file: File, mapping: Mapping, *, write: bool) -> None:
        self.file = file
        self._mapping: Mapping | None = mapping
        self.closed = False  # whether close was called
        self.page = SharedPage(mapping, write=write)
        self.load = self.page.load
        self.store = self.page.store
        self.lock_kind = self.load(fmt.WORD_LOCK_KIND)

    @classmethod
    def create(cls, directory: Directory, log_id: bytes, *, lock_kind: int, reuse: bool) -> Control:
        """A new page under the page's name; handles on the old one keep the old file. `reuse`
        allows to take the old file on a full disk: nobody else has it open."""
        temporary = f"{fmt.CONTROL_NAME}.{os.getpid()}{fmt.TEMPORARY_SUFFIX}"
        directory.remove(temporary)
        try:
            control = cls._map_new(directory, temporary)
        except DiskFullError:
            # Opening must work on a full disk. With nobody else there, the old page will do.
            directory.remove(temporary)
            if not reuse or fmt.CONTROL_NAME not in directory.names():
                raise
            temporary = fmt.CONTROL_NAME
            file = directory.open(temporary, WRITE)
            if file.size() < fmt.CONTROL_BYTES:
                file.close()
                raise
            control = cls._map(file, write=True)
        try:
            control._initialise(directory, log_id, lock_kind)
            if temporary != fmt.CONTROL_NAME:
                directory.rename(temporary, fmt.CONTROL_NAME)
        except BaseException:
            control.close()
            raise
        return control

    @classmethod
    def _map_new(cls, directory: Directory, name: str) -> Control:
        file = directory.open(name, CREATE_NEW)
        try:
            file.allocate(fmt.CONTROL_BYTES)
        except BaseException:
            file.close()
            raise
        return cls._map(file, write=True)

    @classmethod
    def _map(cls, file: File, *, write: bool) -> Control:
        try:
            if file.size() < fmt.CONTROL_BYTES:
                raise LockedError(
                    "the control page is too short, and others have the log open",
                    path=file.path,
                    hint="Something else wrote to this file. Close the log everywhere; the next "
                    "opening makes a new page",
                )
            return cls(file, file.map(fmt.CONTROL_BYTES, write=write), write=write)
        except BaseException:
            file.close()
            raise

    def _initialise(self, directory: Directory, log_id: bytes, lock_kind: int) -> None:
        self.lock_kind = lock_kind
        store = self.store
        for word in range(fmt.APPEND_MUTEX_OFFSET // 8):
            store(word, 0)  # in a page used again
        store(fmt.WORD_VERSION, fmt.CONTROL_VERSION)
        store(fmt.WORD_LOG_ID, int.from_bytes(log_id[:8], "little"))
        store(fmt.WORD_LOG_ID + 1, int.from_bytes(log_id[8:], "little"))
        store(fmt.WORD_BOOT, boot_number(directory, lock_kind))
        store(fmt.WORD_LOCK_KIND, lock_kind)
        store(fmt.WORD_OWNER_PID, os.getpid())
        self.page.initialise_mutexes(private=lock_kind == PRIVATE_LOCK)
        store(fmt.WORD_MAGIC, fmt.CONTROL_MAGIC)

    @classmethod
    def join(cls, directory: Directory, *, write: bool = True) -> Control:
        """The page that other processes use now; LockedError if this process cannot share it."""
        control = cls._map(directory.open(fmt.CONTROL_NAME, WRITE if write else READ), write=write)
        try:
            control._check_shareable(directory, write=write)
        except BaseException:
            control.close()
            raise
        return control

    @classmethod
    def owner_pid(cls, directory: Directory) -> int:
        """The process that set up the page, whatever lock it uses; 0 if there is no page."""
        control = cls._map(directory.open(fmt.CONTROL_NAME), write=False)
        try:
            intact = control.load(fmt.WORD_MAGIC) == fmt.CONTROL_MAGIC
            return control.load(fmt.WORD_OWNER_PID) if intact else 0
        finally:
            control.close()

    def _check_shareable(self, directory: Directory, *, write: bool) -> None:
        path = self.file.path
        if self.load(fmt.WORD_MAGIC) != fmt.CONTROL_MAGIC:
            raise LockedError("the control page is not complete", path=path)
        if self.load(fmt.WORD_VERSION) != fmt.CONTROL_VERSION:
            raise LockedError(
                "another version of treering holds the log open",
                path=path,
                hint="Close it there, or use the same version",
            )
        # Who only looks takes no lock.
        same_kind = not write or self.lock_kind in (FILE_LOCK, mutex_kind())
        same_boot = self.load(fmt.WORD_BOOT) == boot_number(directory, self.lock_kind)
        if not same_kind or not same_boot:
            raise LockedError(
                "the processes that hold the log open use a lock this process cannot share "
                "(another PID namespace or C library)",
                path=path,
                hint="Open the log with process_lock='file' in all of them",
            )

    def replaced(self) -> bool:
        """Whether a handle that was opened after a failure made a new page: this one is history."""
        try:
            return self.file.links() == 0
        except OSError:
            return False  # closed just now, and that is what the next look at it tells

    def close(self) -> None:
        """Let go of the page; idempotent. Threads that wait in it get ClosedError."""
        self.closed = True
        mapping, self._mapping = self._mapping, None
        if mapping is not None:
            # The memory goes when the last thread that sleeps in it has left, not before.
            self.page.close()
            self.file.close()

    def abandon(self) -> None:
        """In a forked child: as `close`; who was inside, or held a lock, did so in the parent."""
        self.page.abandon()
        self.close()

    def fail(self, number: int) -> None:
        """Declare the log dead for everybody who has it open, and wake them all."""
        self.store(fmt.WORD_FAILED, number or 5)
        self.page.end_sync()
        self.page.wake(fmt.WORD_END, fmt.WORD_APPEND_WAITERS)


def boot_number(directory: Directory, lock_kind: int) -> int:
    """The boot as a word; and the PID namespace, unless the lock works across those."""
    boot = directory.files.boot_id()
    if lock_kind == FILE_LOCK:
        boot = boot.partition("/")[0]
    return crc32(boot.encode()) or 1
