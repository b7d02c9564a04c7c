"""The shared page and the tail in readable Python; `_codec_c` holds the same in Cython.

`SharedPage` is the control page seen as 64-bit words, with a lock that the kernel releases when
its holder dies (a robust mutex, by ctypes where the C library has one) and a place to sleep.
`Tail` is the append itself: lock, look, encode into the mapping, publish. Whatever is out of the
ordinary (a full segment, another process's roll, a dead writer, a failed log) it leaves to the
writer by calling `slow`.

Refuses to know files and recovery.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import sys
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from typing import Any

from . import format as fmt
from ._codec_py import encode_record, frame_bytes, seal_frame
from ._record_py import Record, as_bytes, key_too_large
from .errors import ClosedError

ACQUIRED, OWNER_DIED, TIMED_OUT = 0, 1, -1

# A frame of one plain record, besides its key, value and padding.
_PLAIN_BYTES = fmt.FRAME_HEADER_BYTES + fmt.RECORD_HEADER_BYTES

_MUTEX_PRIVATE, _MUTEX_SHARED, _MUTEX_ROBUST = 0, 1, 1
_MUTEX_OWNER_MASK = 0x3FFFFFFF  # FUTEX_TID_MASK of <linux/futex.h>
_MADV_POPULATE_WRITE = 23  # <linux/mman.h>; the mmap module names it only from 3.13 on
_POLL_SECONDS_LEAST, _POLL_SECONDS_MOST = 0.000_05, 0.01


def _load_pthread() -> Any:
    """The C library's mutex functions, or None where robust mutexes are not to be had."""
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return None
    library = ctypes.CDLL(None, use_errno=False)
    for name in ("lock", "trylock", "unlock", "consistent", "init"):
        getattr(library, f"pthread_mutex_{name}").argtypes = (
            [ctypes.c_void_p] if name != "init" else [ctypes.c_void_p, ctypes.c_void_p]
        )
    library.pthread_mutex_clocklock.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p]
    return library


_pthread = _load_pthread()


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


class SharedPage:
    """The control page: words, two mutexes, a futex's worth of sleeping. Buffer of 4096 bytes."""

    def __init__(self, buffer: Any, *, write: bool = True) -> None:
        if len(buffer) < fmt.CONTROL_BYTES:
            raise ValueError("the control page is too short")
        self._words: Any = memoryview(buffer)[: fmt.CONTROL_BYTES].cast("Q")
        self._anchor = ctypes.c_char.from_buffer(buffer) if write else None
        self._address = ctypes.addressof(self._anchor) if self._anchor is not None else 0
        # A robust mutex that its thread holds must stay in memory: the C library has it in a list.
        self._held: dict[int, tuple[Any, int]] = {}

    def close(self) -> None:
        """Let go of the buffer; later calls raise ClosedError. The memory stays as long as a
        thread is inside a call on it or holds one of its mutexes."""
        self._words = _CLOSED
        self._anchor = None
        self._address = 0

    def abandon(self) -> None:
        """In a forked child: the locks are the parent's, and a call that the fork interrupted must
        not store anything more."""
        self._held.clear()
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
        words[fmt.WORD_DIRTY_POSITION] = position
        words[fmt.WORD_DIRTY_OFFSET] = offset
        words[fmt.WORD_DIRTY] = end

    def finish(self, position: int, offset: int, newest_ns: int) -> None:
        """Publish: the log now ends before `position`, its frames before `offset`."""
        words = self._words
        # Cleared before the end moves: whoever sets it later has seen the new end, and is left for
        # the next append to wake.
        asleep = words[fmt.WORD_APPEND_WAITERS]
        if asleep:
            words[fmt.WORD_APPEND_WAITERS] = 0
        if newest_ns > words[fmt.WORD_NEWEST]:
            words[fmt.WORD_NEWEST] = newest_ns
        words[fmt.WORD_END_OFFSET] = offset
        words[fmt.WORD_END] = position
        words[fmt.WORD_DIRTY] = 0
        if asleep:
            _futex_wake(self._address + 8 * fmt.WORD_END)

    def initialise_mutexes(self, *, private: bool) -> None:
        """Make both mutexes new: robust and shared between processes, or private to this one."""
        if _pthread is None:
            return
        attributes = ctypes.create_string_buffer(64)
        _pthread.pthread_mutexattr_init(attributes)
        if not private:
            _pthread.pthread_mutexattr_setpshared(attributes, _MUTEX_SHARED)
            _pthread.pthread_mutexattr_setrobust(attributes, _MUTEX_ROBUST)
        for offset in (fmt.APPEND_MUTEX_OFFSET, fmt.SYNC_MUTEX_OFFSET):
            _pthread.pthread_mutex_init(self._address + offset, attributes)

    def lock(self, mutex_offset: int, timeout: float) -> int:
        """ACQUIRED, OWNER_DIED (acquired from a dead holder) or TIMED_OUT. Blocks up to `timeout`
        seconds without the interpreter lock."""
        anchor = self._anchor  # keeps the memory while we are in it
        if anchor is None:
            raise closed_error()
        address = ctypes.addressof(anchor) + mutex_offset
        code = _pthread.pthread_mutex_trylock(address)
        if code == errno.EBUSY and timeout > 0:
            until = time.monotonic() + timeout
            seconds = int(until)
            limit = _Timespec(seconds, int((until - seconds) * 1e9))
            code = _pthread.pthread_mutex_clocklock(
                address, time.CLOCK_MONOTONIC, ctypes.byref(limit)
            )
        if code in (errno.EBUSY, errno.ETIMEDOUT):
            return TIMED_OUT
        if code == errno.EOWNERDEAD:
            _pthread.pthread_mutex_consistent(address)
        elif code:
            raise OSError(code, os.strerror(code))
        self._held[mutex_offset] = anchor, threading.get_ident()
        if self._anchor is None:  # it came too late
            self.unlock(mutex_offset)
            raise closed_error()
        return OWNER_DIED if code else ACQUIRED

    def unlock(self, mutex_offset: int) -> bool:
        """Give the mutex back, also on a closed page; whether this thread had it."""
        held = self._held.get(mutex_offset)
        anchor = self._anchor if held is None else held[0]
        if anchor is None or (held is not None and held[1] != threading.get_ident()):
            return False
        address = ctypes.addressof(anchor) + mutex_offset
        if held is None:
            # `lock` may have been interrupted just before it took over from a dead holder. Given
            # back like that, the mutex would be lost for ever. The low bits name its owner.
            owner = ctypes.c_uint32.from_address(address).value & _MUTEX_OWNER_MASK
            if owner != threading.get_native_id():
                return False
            _pthread.pthread_mutex_consistent(address)
        self._held.pop(mutex_offset, None)  # abandoned, if a signal handler forked just now
        code: int = _pthread.pthread_mutex_unlock(address)
        return code == 0

    def holds_sync(self) -> bool:
        """Whether this thread has the sync mutex."""
        held = self._held.get(fmt.SYNC_MUTEX_OFFSET)
        return held is not None and held[1] == threading.get_ident()

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
            _futex_wake(self._address + 8 * fmt.WORD_SYNCS)

    def wake(self, word: int, flag: int) -> None:
        """Wake the native processes that sleep on the word; those of this build poll."""
        if self._words[flag]:  # stays set: whoever moves the word clears it before
            _futex_wake(self._address + 8 * word)


def _futex_wake(address: int) -> None:
    number = {"x86_64": 202, "aarch64": 98}.get(platform.machine())
    if sys.platform == "linux" and number is not None and address:
        ctypes.CDLL(None).syscall(
            ctypes.c_long(number), ctypes.c_void_p(address), 1, 0x7FFFFFFF, None, None, 0
        )


class Tail:
    """The append path over a mapped tail segment.

    `slow(records, durable)` does an append the thorough way and returns the first position;
    `chore()` is called when the tail passes `chore_offset`, `arm()` at the first append after
    `disarm`, `wait(position)` until it is durable, `make(...)` a record from a call's keywords.
    Values over `plain_bytes_max` are left to `slow` (-1: all of them).
    Thread-safe; nothing here blocks except on the append lock, which `run_locked` takes;
    `try_locked` returns None instead of waiting for it.
    """

    def __init__(
        self,
        page: SharedPage,
        run_locked: Callable[..., Any],
        slow: Callable[[Sequence[Any], bool], int],
        make: Callable[..., Record],
        chore: Callable[[], None],
        arm: Callable[[], None] | None,
        wait: Callable[[int], None],
        plain_bytes_max: int,
        clock: Callable[[], int] | None,
        try_locked: Callable[..., Any] | None = None,
    ) -> None:
        self._page = page
        self._run_locked = run_locked
        self._try_locked = try_locked or run_locked
        self._slow, self._make, self._chore, self._wait = slow, make, chore, wait
        self._arm = arm
        self._plain_bytes_max = plain_bytes_max
        self._clock = clock or time.time_ns
        self._armed = arm is None
        self._mapping: Any = None
        self._base = self._epoch = self._limit = self._align = self._tag = self._seed = 0
        self.chore_offset = 0

    def attach(self, mapping: Any, base: int, limit: int, align: int, tag: int, seed: int) -> None:
        """Append into `mapping`, which shows the segment that starts at `base`."""
        self._base, self._limit, self._align = base, min(limit, len(mapping)), align
        # After a cut exactly at a base, another file has that name: the epoch tells them apart.
        self._epoch = self._page.load(fmt.WORD_EPOCH)
        self._tag, self._seed = tag, seed
        self._mapping = mapping

    def detach(self) -> None:
        """Send every append to `slow`."""
        self._mapping = None

    def disarm(self) -> None:
        """Call `arm` again at the next append."""
        self._armed = self._arm is None

    def populate(self, offset: int, length: int) -> None:
        """Take the page faults of coming appends now, if the system can (Linux 5.14)."""
        madvise = getattr(self._mapping, "madvise", None)
        if madvise is not None:
            try:
                madvise(_MADV_POPULATE_WRITE, offset, length)
            except (OSError, ValueError):
                return

    def put(
        self,
        key: bytes,
        value: bytes,
        *,
        ttl: float | None = None,
        expires_at: float | None = None,
        headers: Any = None,
        compression: str | None = None,
        stream: int = 0,
        durable: bool = False,
    ) -> int:
        """Append a put; see Wal.put."""
        if ttl is expires_at is headers is compression is None and stream == 0:
            key, value = as_bytes(key, "key"), as_bytes(value, "value")
            if len(value) <= self._plain_bytes_max:
                return self._plain(key, value, 0, durable)
        record = self._make(key, value, False, ttl, expires_at, headers, compression, stream)
        return self._slow((record,), durable)

    def delete(
        self,
        key: bytes,
        *,
        ttl: float | None = None,
        expires_at: float | None = None,
        headers: Any = None,
        stream: int = 0,
        durable: bool = False,
    ) -> int:
        """Append a tombstone; see Wal.delete."""
        if ttl is expires_at is headers is None and stream == 0 and self._plain_bytes_max >= 0:
            return self._plain(as_bytes(key, "key"), b"", fmt.TOMBSTONE, durable)
        record = self._make(key, b"", True, ttl, expires_at, headers, None, stream)
        return self._slow((record,), durable)

    def append_records(self, records: Sequence[Record | tuple[bytes, bytes]], durable: bool) -> int:
        """Append records, or (key, value) pairs, as one frame; the first one's position."""
        return self._slow(records, durable)

    def _plain(self, key: bytes, value: bytes, flags: int, durable: bool) -> int:
        if len(key) > fmt.KEY_BYTES_MAX:
            raise key_too_large(len(key))
        position: int = -1
        if self._mapping is not None:
            position = self._run_locked(self._store, key, value, flags)
        if position < 0:
            record = Record(key, value, tombstone=bool(flags))
            return self._slow((record,), durable)
        self._published()
        if durable:
            self._wait(position)
        return position

    def try_put(self, key: bytes, value: bytes) -> int:
        """Append a plain put if nothing has to be waited for; else -1, and nothing was done."""
        plain = type(key) is type(value) is bytes and len(key) <= fmt.KEY_BYTES_MAX
        if not plain or len(value) > self._plain_bytes_max or self._mapping is None:
            return -1
        return self._try(self._store, key, value, 0)

    def try_append(self, records: tuple[Record, ...]) -> int:
        """Append records as one frame if nothing has to be waited for; else -1, nothing done."""
        plain = all(type(item) is Record and type(item.value) is bytes for item in records)
        if not plain or not records or self._mapping is None:
            return -1
        fits = frame_bytes(records, 1) <= self._plain_bytes_max
        return self._try(self._store_group, records) if fits else -1

    def _try(self, store: Callable[..., int], *args: Any) -> int:
        position: int | None = self._try_locked(store, *args)
        if position is None or position < 0:
            return -1
        self._published()
        return position

    def _published(self) -> None:
        page = self._page
        if page.load(fmt.WORD_APPEND_WAITERS):
            page.wake(fmt.WORD_END, fmt.WORD_APPEND_WAITERS)
        if not self._armed and self._arm is not None:
            try:
                self._armed = True
                self._arm()
            except BaseException:  # an interrupt: the next append has to arm
                self._armed = False
                raise
        if page.load(fmt.WORD_END_OFFSET) >= self.chore_offset:
            self._chore()

    def _store(self, key: bytes, value: bytes, flags: int) -> int:
        """Encode into the mapping and publish; -1 leaves it to `slow`. Under the append lock."""
        now_ns = self._clock()
        body = fmt.RECORD_HEADER.pack(flags, 0, len(key), len(value), now_ns) + key + value
        return self._store_body(body, 1, now_ns)

    def _store_group(self, records: tuple[Record, ...]) -> int:
        now_ns = self._clock()
        body = b"".join([encode_record(record, now_ns) for record in records])
        newest = max(now_ns, *(record.timestamp_ns or 0 for record in records))
        return self._store_body(body, len(records), newest)

    def _store_body(self, body: bytes, count: int, newest_ns: int) -> int:
        words, mapping = self._page._words, self._mapping
        if (words[fmt.WORD_TAIL_BASE], words[fmt.WORD_EPOCH]) != (self._base, self._epoch):
            return -1
        if words[fmt.WORD_FAILED] or words[fmt.WORD_DIRTY] or mapping is None:
            return -1
        position: int = words[fmt.WORD_END]
        offset: int = words[fmt.WORD_END_OFFSET]
        durable = words[fmt.WORD_DURABLE]
        frame = seal_frame(body, count, position, durable, self._tag, self._seed, self._align)
        end = offset + len(frame)
        if end > self._limit:
            return -1
        try:
            self._page.begin(position, offset, end)
            mapping[offset:end] = frame
            self._page.finish(position + count, end, newest_ns)
        except BaseException:
            # An interrupt: in the log or not is decided now, not by the next append.
            if mapping[offset:end] == frame:
                self._page.finish(position + count, end, newest_ns)
            words[fmt.WORD_DIRTY] = 0
            raise
        return position
