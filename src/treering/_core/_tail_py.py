"""The append in readable Python; `_codec_c` holds the same in Cython.

`Tail` locks, looks, encodes into the mapping, publishes. Whatever is out of the ordinary (a full
segment, another process's roll, a dead writer, a failed log) it leaves to the writer by calling
`slow`.

Refuses to know files and recovery.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from . import format as fmt
from ._codec_py import encode_record, frame_bytes, seal_frame
from ._memory_py import SharedPage
from ._record_py import Record, as_bytes, key_too_large

_MADV_POPULATE_WRITE = 23  # <linux/mman.h>; the mmap module names it only from 3.13 on

# Words that lie side by side are read at once.
_FROM_END = slice(fmt.WORD_END, fmt.WORD_DIRTY + 1)
_FROM_DURABLE = slice(fmt.WORD_DURABLE, fmt.WORD_FAILED + 1)
_APPEND_WAITERS, _END_OFFSET = fmt.WORD_APPEND_WAITERS, fmt.WORD_END_OFFSET

_pack_record = fmt.RECORD_HEADER.pack


class Tail:
    """The append path over a mapped tail segment.

    `slow(records, durable, at)` does an append the thorough way and returns the first position;
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
        slow: Callable[..., int],
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

    def populate(self, mapping: Any, offset: int, length: int) -> None:
        """Take the page faults of coming appends now, if the system can (Linux 5.14)."""
        madvise = getattr(mapping, "madvise", None)
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
            if not type(key) is type(value) is bytes:
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

    def append_records(
        self, records: Sequence[Record | tuple[bytes, bytes]], durable: bool, at: int = -1
    ) -> int:
        """Append records, or (key, value) pairs, as one frame; the first one's position, which has
        to be `at` unless that is negative (ConflictError)."""
        return self._slow(records, durable, None if at < 0 else at)

    def _plain(self, key: bytes, value: bytes, flags: int, durable: bool) -> int:
        if len(key) > fmt.KEY_BYTES_MAX:
            raise key_too_large(len(key))
        position: int = -1
        if self._mapping is not None:
            position = self._run_locked(self._store, key, value, flags)
        if position < 0:
            record = Record(key, value, tombstone=bool(flags))
            return self._slow((record,), durable)
        words = self._page._words
        if words[_APPEND_WAITERS] or not self._armed or words[_END_OFFSET] >= self.chore_offset:
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
        words = self._page._words
        if words[_APPEND_WAITERS]:
            self._page.wake(fmt.WORD_END, fmt.WORD_APPEND_WAITERS)
        if not self._armed and self._arm is not None:
            try:
                self._armed = True
                self._arm()
            except BaseException:  # an interrupt: the next append has to arm
                self._armed = False
                raise
        if words[_END_OFFSET] >= self.chore_offset:
            self._chore()

    def _store(self, key: bytes, value: bytes, flags: int) -> int:
        """Encode into the mapping and publish; -1 leaves it to `slow`. Under the append lock."""
        now_ns = self._clock()
        body = _pack_record(flags, 0, len(key), len(value), now_ns) + key + value
        return self._store_body(body, 1, now_ns)

    def _store_group(self, records: tuple[Record, ...]) -> int:
        now_ns = self._clock()
        body = b"".join([encode_record(record, now_ns) for record in records])
        newest = max(now_ns, *(record.timestamp_ns or 0 for record in records))
        return self._store_body(body, len(records), newest)

    def _store_body(self, body: bytes, count: int, newest_ns: int) -> int:
        words, mapping = self._page._words, self._mapping
        position: int
        offset: int
        position, offset, base, epoch, dirty = words[_FROM_END].tolist()
        durable, failed = words[_FROM_DURABLE].tolist()
        if base != self._base or epoch != self._epoch or failed or dirty or mapping is None:
            return -1
        if position + count >= fmt.POSITION_MAX:
            return -1
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
