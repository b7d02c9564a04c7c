"""The shared page in readable Python; `_codec_c` holds the same in Cython.

`SharedPage` is the control page seen as 64-bit words, with a lock that the kernel releases when
its holder dies (a robust mutex, by ctypes where the C library has one) and a place to sleep.

Refuses to know files, frames and recovery.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import sys
import time
import zlib
from threading import get_ident, get_native_id
from typing import Any

from . import format as fmt
from .errors import ClosedError

ACQUIRED, OWNER_DIED, TIMED_OUT = 0, 1, -1

# Looked up once; the append needs them all.
_APPEND_WAITERS, _END, _END_OFFSET = fmt.WORD_APPEND_WAITERS, fmt.WORD_END, fmt.WORD_END_OFFSET
_DIRTY, _DIRTY_POSITION, _DIRTY_OFFSET = (
    fmt.WORD_DIRTY,
    fmt.WORD_DIRTY_POSITION,
    fmt.WORD_DIRTY_OFFSET,
)
_NEWEST = fmt.WORD_NEWEST

_MUTEX_PRIVATE, _MUTEX_SHARED, _MUTEX_ROBUST = 0, 1, 1
_MUTEX_OWNER_MASK = 0x3FFFFFFF  # FUTEX_TID_MASK of <linux/futex.h>
_POLL_SECONDS_LEAST, _POLL_SECONDS_MOST = 0.000_05, 0.01


def _load_pthread() -> Any:
    """The C library's mutex functions, or None where robust mutexes are not to be had."""
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return None
    library = ctypes.CDLL(None, use_errno=False)
    library.pthread_mutex_consistent.argtypes = [ctypes.c_void_p]
    library.pthread_mutex_init.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
    library.pthread_mutex_clocklock.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p]
    return library


_pthread = _load_pthread()


def _quick(name: str) -> Any:
    """A function of the C library that never blocks, so that it can keep the interpreter lock."""
    if _pthread is None:
        return None
    function = getattr(ctypes.PyDLL(None), name)
    function.argtypes = [ctypes.c_void_p]
    return function


_trylock, _unlock = _quick("pthread_mutex_trylock"), _quick("pthread_mutex_unlock")


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


def mutex_kind() -> int:
    """A number for the mutex's layout in memory; 0 where there is none.

    Processes share the mutex only if they agree on its bytes: same machine type, same C library.
    """
    if _pthread is None:
        return 0
    return zlib.crc32(f"glibc {platform.machine()} {ctypes.sizeof(ctypes.c_void_p)}".encode()) | 1


def closed_error() -> ClosedError:
    """The error of every call on a closed page."""
    return ClosedError("the log is closed", hint="Open it again with Wal.open")


class _Closed:
    """Stands in for the words of a closed page."""

    def __getitem__(self, word: int) -> int:
        raise closed_error()

    def __setitem__(self, word: int, value: int) -> None:
        raise closed_error()


_CLOSED = _Closed()


_Memory = tuple[int, Any]


def _memory_of(buffer: Any) -> _Memory:
    anchor = ctypes.c_char.from_buffer(buffer)
    return ctypes.addressof(anchor), anchor


class SharedPage:
    """The control page: words, two mutexes, a futex's worth of sleeping. Buffer of 4096 bytes."""

    def __init__(self, buffer: Any, *, write: bool = True) -> None:
        if len(buffer) < fmt.CONTROL_BYTES:
            raise ValueError("the control page is too short")
        self._words: Any = memoryview(buffer)[: fmt.CONTROL_BYTES].cast("Q")
        # Where the page lies, and what keeps it there: one pair, for a close may come at any time.
        self._memory = _memory_of(buffer) if write else None
        # A robust mutex that its thread holds must stay in memory: the C library has it in a list.
        self._held: dict[int, tuple[_Memory, int]] = {}
        # The thread that is just taking or giving back a mutex, so that it may have it or not.
        self._doubt: dict[int, int] = {}

    def close(self) -> None:
        """Let go of the buffer; later calls raise ClosedError. The memory stays as long as a
        thread is inside a call on it or holds one of its mutexes."""
        self._words = _CLOSED
        self._memory = None

    def abandon(self) -> None:
        """In a forked child: the locks are the parent's, and a call that the fork interrupted must
        not store anything more."""
        self._held.clear()
        self._doubt.clear()
        words = self._words
        self.close()
        if words is not _CLOSED:
            words.release()

    def load(self, word: int) -> int:
        """The word's value."""
        value: int = self._words[word]
        return value

    def store(self, word: int, value: int) -> None:
        """Set the word; one 8-byte store, so that nobody sees half of it."""
        self._words[word] = value

    def begin(self, position: int, offset: int, end: int) -> None:
        """Mark a frame as being written: a death from here on leaves all that the next holder of
        the append lock needs to finish or to undo it."""
        words = self._words
        words[_DIRTY_POSITION] = position
        words[_DIRTY_OFFSET] = offset
        words[_DIRTY] = end

    def finish(self, position: int, offset: int, newest_ns: int) -> None:
        """Publish: the log now ends before `position`, its frames before `offset`."""
        words = self._words
        # Cleared before the end moves: whoever sets it later has seen the new end, and is left for
        # the next append to wake.
        asleep = words[_APPEND_WAITERS]
        if asleep:
            words[_APPEND_WAITERS] = 0
        if newest_ns > words[_NEWEST]:
            words[_NEWEST] = newest_ns
        words[_END_OFFSET] = offset
        words[_END] = position
        words[_DIRTY] = 0
        if asleep:
            self._wake(fmt.WORD_END)

    def initialise_mutexes(self, *, private: bool) -> None:
        """Make both mutexes new: robust and shared between processes, or private to this one."""
        if _pthread is None or self._memory is None:
            return
        attributes = ctypes.create_string_buffer(64)
        _pthread.pthread_mutexattr_init(attributes)
        if not private:
            _pthread.pthread_mutexattr_setpshared(attributes, _MUTEX_SHARED)
            _pthread.pthread_mutexattr_setrobust(attributes, _MUTEX_ROBUST)
        for offset in (fmt.APPEND_MUTEX_OFFSET, fmt.SYNC_MUTEX_OFFSET):
            _pthread.pthread_mutex_init(self._memory[0] + offset, attributes)

    def lock(self, mutex_offset: int, timeout: float) -> int:
        """ACQUIRED, OWNER_DIED (acquired from a dead holder) or TIMED_OUT. Blocks up to `timeout`
        seconds without the interpreter lock."""
        memory = self._memory  # keeps the memory while we are in it
        if memory is None:
            raise closed_error()
        address = memory[0] + mutex_offset
        if self.is_mine(mutex_offset):
            return TIMED_OUT  # by another handle, further up the stack: waiting would be in vain
        self._doubt[mutex_offset] = get_ident()
        code = _trylock(address)
        if code == errno.EBUSY and timeout > 0:
            code = _lock_in_time(address, timeout)
        if code in (errno.EBUSY, errno.ETIMEDOUT):
            self._doubt.pop(mutex_offset, None)
            return TIMED_OUT
        if code == errno.EOWNERDEAD:
            _pthread.pthread_mutex_consistent(address)
        elif code:
            raise OSError(code, os.strerror(code))
        self._held[mutex_offset] = memory, get_ident()
        self._doubt.pop(mutex_offset, None)
        if self._memory is None:  # it came too late
            self.unlock(mutex_offset)
            raise closed_error()
        return OWNER_DIED if code else ACQUIRED

    def unlock(self, mutex_offset: int) -> bool:
        """Give the mutex back, also on a closed page; whether this thread had it."""
        held = self._held.get(mutex_offset)
        if held is None:
            return self._unlock_unnoticed(mutex_offset)
        memory, owner = held
        if owner != get_ident():
            return False
        self._doubt[mutex_offset] = owner
        self._held.pop(mutex_offset, None)  # abandoned, if a signal handler forked just now
        code: int = _unlock(memory[0] + mutex_offset)
        self._doubt.pop(mutex_offset, None)
        return code == 0

    def _unlock_unnoticed(self, mutex_offset: int) -> bool:
        """`lock` may have been interrupted before it noted that it had the mutex, or just before it
        took over from a dead holder (given back like that, the mutex would be lost for ever); or
        `unlock` before it gave it back."""
        memory = self._memory
        if memory is None or self._doubt.get(mutex_offset) != get_ident():
            return False
        address = memory[0] + mutex_offset
        owner = ctypes.c_uint32.from_address(address).value & _MUTEX_OWNER_MASK
        if owner != get_native_id():
            return False
        _pthread.pthread_mutex_consistent(address)
        code: int = _unlock(address)
        self._doubt.pop(mutex_offset, None)
        return code == 0

    def is_mine(self, mutex_offset: int) -> bool:
        """Whether this thread has a shared mutex, by whatever handle: low bits name its owner."""
        owner: int = self._words[mutex_offset >> 3] & _MUTEX_OWNER_MASK
        return owner != 0 and owner == get_native_id()

    def holds_sync(self) -> bool:
        """Whether this thread has the sync mutex, by whatever handle."""
        return self.is_mine(fmt.SYNC_MUTEX_OFFSET)

    def join_sync(self, position: int, timeout: float) -> bool:
        """Sleep while somebody syncs and `position` is not durable; True once this thread has the
        sync mutex and has to sync itself, False when the words have to be looked at again."""
        until = time.monotonic() + timeout
        pause = _POLL_SECONDS_LEAST
        words = self._words
        while words[fmt.WORD_DURABLE] <= position < words[fmt.WORD_END]:
            if not words[fmt.WORD_FAILED] and self.lock(fmt.SYNC_MUTEX_OFFSET, 0) != TIMED_OUT:
                return True
            left = until - time.monotonic()
            if left <= 0 or words[fmt.WORD_FAILED]:
                break
            time.sleep(min(pause, left))
            pause = min(pause * 1.5, _POLL_SECONDS_MOST)
        return False

    def linger(self, seconds: float) -> bool:
        """With the sync mutex: give those who were just woken a moment to append. Here they poll,
        and a moment is too short for that."""
        self.load(fmt.WORD_END)
        return False

    def wait(self, word: int, seen: int, flag: int, timeout: float) -> None:
        """Sleep until the word is no longer `seen`, at most `timeout` seconds.

        Polls, quickly at first; the native twin sleeps on a futex and sets `flag` to be woken.
        """
        until = time.monotonic() + timeout
        pause = _POLL_SECONDS_LEAST
        while self._words[word] == seen:
            left = until - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(pause, left))
            pause = min(pause * 1.5, _POLL_SECONDS_MOST)

    def end_sync(self) -> None:
        """Count a sync that is over and wake whom it concerns."""
        asleep = self._words[fmt.WORD_SYNC_WAITERS]
        if asleep:
            self._words[fmt.WORD_SYNC_WAITERS] = 0
        self._words[fmt.WORD_SYNCS] += 1
        if asleep or self._words[fmt.WORD_SYNC_WAITERS]:
            self._wake(fmt.WORD_SYNCS)

    def wake(self, word: int, flag: int) -> None:
        """Wake the native processes that sleep on the word; those of this build poll."""
        if self._words[flag]:  # stays set: whoever moves the word clears it before
            self._wake(word)

    def _wake(self, word: int) -> None:
        memory = self._memory  # keeps the memory while we are in the call
        if memory is not None:
            _futex_wake(memory[0] + 8 * word)


def _lock_in_time(address: int, seconds: float) -> int:
    until = time.monotonic() + seconds
    whole = int(until)
    limit = _Timespec(whole, int((until - whole) * 1e9))
    code: int = _pthread.pthread_mutex_clocklock(address, time.CLOCK_MONOTONIC, ctypes.byref(limit))
    return code


def _futex_wake(address: int) -> None:
    number = {"x86_64": 202, "aarch64": 98}.get(platform.machine())
    if sys.platform == "linux" and number is not None:
        ctypes.CDLL(None).syscall(
            ctypes.c_long(number), ctypes.c_void_p(address), 1, 0x7FFFFFFF, None, None, 0
        )
