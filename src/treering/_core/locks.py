"""Who may do what now: the locks of a log, between threads and between processes.

  opening   a file lock held while a process opens the log, so that one recovers and the others wait
  lock      a file lock held as long as a handle lives: shared, or exclusive for exclusive=True
  append    taken for every append, roll and truncation: a robust mutex in the page, or a file lock
  sync      taken by whoever fsyncs for all who wait: the same, on a file of its own

Each is given up by the kernel when its holder dies. Refuses to know segments and frames.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeVar

from . import format as fmt
from .codec import TIMED_OUT, backend, mutex_kind
from .control import FILE_LOCK, PRIVATE_LOCK, Control
from .errors import ClosedError, LockedError, ReentrantError, WaitTimeoutError
from .files import WRITE, Directory

T = TypeVar("T")

_SLICE_SECONDS = 0.1


class AppendLock:
    """The lock around every change to the log, between threads and between processes.

    `run(action, *args)` runs the action under it. Whatever is raised where (a signal handler may
    raise between any two steps), the lock is given back: releasing is idempotent and tried twice.
    """

    def __init__(self, control: Control, timeout: float) -> None:
        self._threads = threading.RLock()
        self._control = control
        self._page = control.page
        self._page_is = control.file.identity()
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
            if self._entered and self._inside():
                raise _reentrant_error()
            released = False
            try:
                try:
                    self._entered = True
                    self._acquire()
                    return action(*args)
                finally:
                    released = self._release()
            finally:
                try:
                    if not released:
                        self._release()
                finally:
                    self._entered = False  # no call: it must not fail at the end of the stack

    def _inside(self, *, any_handle: bool = False) -> bool:
        """Whether this thread is inside an action further up the stack; of `any_handle` of the same
        log, or of this one: `_entered` alone may be left over from an interrupt right before it was
        taken back."""
        frame: FrameType | None = sys._getframe(2)
        while frame is not None:
            if frame.f_code in _ENTRANCES:
                lock: AppendLock = frame.f_locals["self"]
                same_log = lock is not self and lock._page_is == self._page_is
                if same_log if any_handle else lock is self:
                    return True
            frame = frame.f_back
        return False

    def try_run(self, action: Callable[..., T], *args: Any) -> T | None:
        """action(*args) if the lock is free; None, at once, if it is not."""
        try:
            if not self._threads.acquire(blocking=False) or (self._entered and self._inside()):
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
        # Nearly always the mutex is free.
        if not self._mutex or self._page.lock(fmt.APPEND_MUTEX_OFFSET, 0) == TIMED_OUT:
            self._acquire_in_time()
        if self.closed:  # what a closing handle has vouched for must not change any more
            self._check_open()

    def _acquire_in_time(self) -> None:
        self._check_open()
        if self._inside(any_handle=True):
            raise _reentrant_error()  # the lock is this thread's: waiting would be in vain
        until = time.monotonic() + self._timeout
        while not self._acquire_slice(_SLICE_SECONDS):
            if time.monotonic() > until:
                raise WaitTimeoutError(
                    f"another process has held the append lock for {self._timeout:g} s",
                    hint="Look for a stopped process among those that have the log open",
                )

    def _check_open(self) -> None:
        if self.closed or self._control.closed:
            raise ClosedError("the log is closed", hint="Open it again with Wal.open")

    def _acquire_slice(self, seconds: float) -> bool:
        """One bounded try, so that signals are served while we wait."""
        if self._mutex:
            return self._page.lock(fmt.APPEND_MUTEX_OFFSET, seconds) != TIMED_OUT
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

    def _release(self) -> bool:
        if self._mutex:
            return self._page.unlock(fmt.APPEND_MUTEX_OFFSET)
        if self._file:
            self._control.file.unlock()
        return True

    def shut(self) -> None:
        """Refuse all further actions of this handle, though another process has the lock."""
        with self._threads:
            self.closed = True


def _reentrant_error() -> ReentrantError:
    return ReentrantError(
        "the log was called from a signal handler (or a finalizer) that interrupted a call on it",
        hint="Set a flag in the handler and append afterwards",
    )


_ENTRANCES = (AppendLock.run.__code__, AppendLock.try_run.__code__)


# Which thread of this process holds the sync lock's file, whatever its handle. One left over from
# an interrupt only has that thread sync without the lock once.
_leaders: dict[tuple[int, int], int] = {}


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
        self._file_is = self._file.identity() if self._file is not None else (0, 0)

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
            _leaders[self._file_is] = self._owner
            return True
        self._give_back()
        return False

    def release(self) -> bool:
        """Give it back and wake all who wait; whether this thread held it.

        In this order: a waiter that finds the lock taken must not miss the wake that follows.
        """
        given_back = self._give_back()
        if given_back and not self._control.closed:
            self._page.end_sync()
        return given_back

    def held(self) -> bool:
        """Whether this thread has it, by whatever handle: then a signal handler runs that
        interrupted a sync."""
        if self._mutex:
            return self._page.holds_sync()
        me = threading.get_ident()
        return self._owner == me or (self._file is not None and _leaders.get(self._file_is) == me)

    def _give_back(self) -> bool:
        if self._mutex:
            return self._page.unlock(fmt.SYNC_MUTEX_OFFSET)
        if self._owner == threading.get_ident():
            if self._file is not None:
                self._file.unlock()
                _leaders.pop(self._file_is, None)
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


def choose_lock_kind(*, exclusive: bool, process_lock: str) -> int:
    """Which lock a log's first opener sets up."""
    if exclusive:
        return PRIVATE_LOCK
    if process_lock == "file":
        return FILE_LOCK
    return mutex_kind() or FILE_LOCK
