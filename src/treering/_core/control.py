"""The control page of an open log: where it ends, what is durable, who may append now.

A shared-memory file beside the segments (precedents: SQLite's wal-index, LMDB's lock file). It is
never trusted across openings: whoever opens the log first writes a new one. Three locks guard it:

  opening   a file lock held while a process opens the log, so that one recovers and the others wait
  lock      a file lock held as long as a handle lives: shared, or exclusive for exclusive=True
  append    taken for every append, roll and truncation: a robust mutex in the page, or a file lock

Refuses to know segments and frames.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar
from zlib import crc32

from . import format as fmt
from .codec import ACQUIRED, OWNER_DIED, SharedPage, backend, mutex_kind
from .errors import ClosedError, DiskFullError, LockedError, ReentrantError, WaitTimeoutError
from .files import CREATE_NEW, READ, WRITE, Directory, File, Mapping

T = TypeVar("T")

# Lock kinds other than the (odd) number that mutex_kind() gives.
FILE_LOCK = 2
PRIVATE_LOCK = 4

_SLICE_SECONDS = 0.1


class Control:
    """An open control page. Words may be read at any time; written under the append lock."""

    def __init__(self, file: File, mapping: Mapping, *, write: bool) -> None:
        self.file = file
        self._mapping: Mapping | None = mapping
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
            control = cls._map(directory.open(temporary, WRITE), write=True)
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

    def close(self) -> None:
        """Let go of the page; idempotent. Threads that wait in it get ClosedError."""
        mapping, self._mapping = self._mapping, None
        if mapping is not None:
            # The memory goes when the last thread that sleeps in it has left, not before.
            self.page.close()
            self.file.close()

    def abandon(self) -> None:
        """In a forked child: as `close`; who was inside, or held a lock, did so in the parent."""
        self.page.abandon()
        self.close()

    @property
    def closed(self) -> bool:
        """Whether close was called."""
        return self._mapping is None

    def fail(self, number: int) -> None:
        """Declare the log dead for everybody who has it open, and wake them all."""
        self.store(fmt.WORD_FAILED, number or 5)
        self.page.end_sync()
        self.page.wake(fmt.WORD_END, fmt.WORD_APPEND_WAITERS)


class AppendLock:
    """The lock around every change to the log, between threads and between processes.

    `run(action, *args)` runs the action under it. Whatever is raised where (a signal handler may
    raise between any two steps), the lock is given back: releasing is idempotent and tried twice.
    """

    def __init__(self, control: Control, timeout: float) -> None:
        self._threads = threading.RLock()
        self._control = control
        self._timeout = timeout
        self._entered = False
        self.closed = False  # set, under the lock where possible, by the handle that closes
        kind = control.lock_kind
        self._mutex = kind == mutex_kind() != 0 or (kind == PRIVATE_LOCK and backend == "native")
        self._file = kind == FILE_LOCK
        # The native append takes the mutex by itself; with a file lock it must not try.
        self.native_safe = self._mutex or backend == "python"

    def run(self, action: Callable[..., T], *args: Any) -> T:
        """action(*args) under the lock; ReentrantError from a handler inside another action."""
        with self._threads:
            if self._entered:
                raise ReentrantError(
                    "the log was called from a signal handler that interrupted a call on it",
                    hint="Set a flag in the handler and append afterwards",
                )
            try:
                try:
                    self._entered = True
                    self._acquire()
                    return action(*args)
                finally:
                    self._release()
            finally:
                try:
                    self._release()
                finally:
                    self._entered = False  # no call: it must not fail at the end of the stack

    def try_run(self, action: Callable[..., T], *args: Any) -> T | None:
        """action(*args) if the lock is free; None, at once, if it is not."""
        try:
            if not self._threads.acquire(blocking=False) or self._entered:
                return None
            try:
                self._entered = True
                return action(*args) if not self.closed and self._acquire_slice(0) else None
            finally:
                try:
                    self._release()
                finally:
                    self._entered = False
        finally:
            # Not `with`, which waits; and an interrupt may come right after the acquire.
            with contextlib.suppress(RuntimeError):
                self._threads.release()

    def _acquire(self) -> None:
        self._check_open()
        until = time.monotonic() + self._timeout
        while not self._acquire_slice(_SLICE_SECONDS):
            if time.monotonic() > until:
                raise WaitTimeoutError(
                    f"another process has held the append lock for {self._timeout:g} s",
                    hint="Look for a stopped process among those that have the log open",
                )
        self._check_open()  # what a closing handle has vouched for must not change any more

    def _check_open(self) -> None:
        if self.closed or self._control.closed:
            raise ClosedError("the log is closed", hint="Open it again with Wal.open")

    def _acquire_slice(self, seconds: float) -> bool:
        """One bounded try, so that signals are served while we wait."""
        if self._mutex:
            state = self._control.page.lock(fmt.APPEND_MUTEX_OFFSET, seconds)
            return state in (ACQUIRED, OWNER_DIED)
        if not self._file:
            return True
        until = time.monotonic() + seconds
        pause = 0.000_02
        while not self._control.file.try_lock(exclusive=True):
            if time.monotonic() > until:
                return False
            time.sleep(pause)
            pause = min(pause * 2, 0.001)
        return True

    def _release(self) -> None:
        if self._mutex:
            self._control.page.unlock(fmt.APPEND_MUTEX_OFFSET)
        elif self._file:
            self._control.file.unlock()

    def shut(self) -> None:
        """Refuse all further actions of this handle, though another process has the lock."""
        with self._threads:
            self.closed = True


class SyncLock:
    """Who may fsync now: one leader among all threads and, with a mutex, all processes."""

    def __init__(self, directory: Directory, control: Control) -> None:
        kind = control.lock_kind
        self._mutex = kind == mutex_kind() != 0 or (kind == PRIVATE_LOCK and backend == "native")
        self._control = control
        self._page = control.page
        self._load = control.load
        # One that knows its owner: an interrupt may come before we do.
        self._threads = threading.RLock()
        self._owner: int | None = None
        # The append lock is a lock on the control page's file; this one needs a file of its own.
        self._file = directory.open(fmt.MANIFEST_NAME) if kind == FILE_LOCK else None

    def join(self, position: int, timeout: float) -> bool:
        """Become the leader (True); or sleep, outside the interpreter lock, while somebody else
        leads and the record at `position` is not durable, at most `timeout` seconds."""
        if self._mutex:
            return self._page.join_sync(position, timeout)
        seen = self._load(fmt.WORD_SYNCS)
        if self._try_acquire():
            return True
        self._page.wait(fmt.WORD_SYNCS, seen, fmt.WORD_SYNC_WAITERS, timeout)
        return False

    def _try_acquire(self) -> bool:
        if self._owner is not None or not self._threads.acquire(blocking=False):
            return False
        self._owner = threading.get_ident()
        if self._file is None or self._file.try_lock(exclusive=True):
            return True
        self._give_back()
        return False

    def release(self) -> None:
        """Give it back and wake all who wait; harmless when this thread does not hold it.

        In this order: a waiter that finds the lock taken must not miss the wake that follows.
        """
        if self._give_back() and not self._control.closed:
            self._page.end_sync()

    def held(self) -> bool:
        """Whether this thread has it: then a signal handler runs that interrupted a sync."""
        if self._mutex:
            return self._page.holds_sync()
        return self._owner == threading.get_ident()

    def _give_back(self) -> bool:
        if self._mutex:
            return self._page.unlock(fmt.SYNC_MUTEX_OFFSET)
        if self._owner == threading.get_ident():
            if self._file is not None:
                self._file.unlock()
            self._owner = None
        try:
            self._threads.release()
        except RuntimeError:  # another thread's, or nobody's
            return False
        return True

    def close(self) -> None:
        """Let go of the file, if there is one."""
        if self._file is not None:
            self._file.close()


class HandleLocks:
    """The two file locks of a handle: `opening` while it opens, `lock` as long as it lives."""

    def __init__(self, directory: Directory) -> None:
        self._opening = directory.open(fmt.OPENING_NAME, WRITE | os.O_CREAT)
        try:
            self._life = directory.open(fmt.LOCK_NAME, WRITE | os.O_CREAT)
        except BaseException:
            self._opening.close()
            raise

    def begin(self, timeout: float, path: str) -> None:
        """Wait until no other process is opening the log."""
        until = time.monotonic() + timeout
        while not self._opening.try_lock(exclusive=True):
            if time.monotonic() > until:
                raise LockedError(
                    f"another process has been opening the log for over {timeout:g} s", path=path
                )
            time.sleep(0.002)

    def alone(self) -> bool:
        """Whether no other handle is open; if so, this one now holds the log exclusively."""
        return self._life.try_lock(exclusive=True)

    def share(self) -> bool:
        """Turn to (or take) the shared lock; False while somebody holds the log exclusively."""
        return self._life.try_lock(exclusive=False)

    def end(self) -> None:
        """Opening is over; let the next one in."""
        self._opening.unlock()

    def last_one(self) -> bool:
        """Whether this is the only handle and nobody is opening the log now. If so, nobody can
        until `close`."""
        return self._opening.try_lock(exclusive=True) and self.alone()

    def close(self) -> None:
        """Give up both locks; idempotent. The opening lock last: who gets it must not find the
        other one taken by a handle that is gone."""
        try:
            # Closing is not enough while a child, just forked, has not yet begun its program,
            # nor if an exception from outside (Ctrl-C) breaks it off.
            self._life.unlock()
            self._opening.unlock()
        finally:
            try:
                self._life.close()
            finally:
                self._opening.close()


def boot_number(directory: Directory, lock_kind: int) -> int:
    """The boot as a word; and the PID namespace, unless the lock works across those."""
    boot = directory.files.boot_id()
    if lock_kind == FILE_LOCK:
        boot = boot.partition("/")[0]
    return crc32(boot.encode()) or 1


def choose_lock_kind(*, exclusive: bool, process_lock: str) -> int:
    """Which lock a log's first opener sets up."""
    if exclusive:
        return PRIVATE_LOCK
    if process_lock == "file":
        return FILE_LOCK
    return mutex_kind() or FILE_LOCK
