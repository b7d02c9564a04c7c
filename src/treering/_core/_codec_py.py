"""Records and frames in readable Python. `_codec_c` is the same in Cython, for speed.

Knows bytes and records; refuses to know files, segments on disk, locks and clocks. A frame is
valid if and only if

  1. its tag is the segment's (so it belongs to this log, this epoch and this segment),
  2. its length is a multiple of 8, holds at least one record and lies within the segment,
  3. its checksum, started with the segment's seed, covers bytes 8 to its end,
  4. its position is exactly the next one,
  5. its records have no unknown flag and fill it, up to less than one alignment step of padding.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from . import format as fmt
from ._record_py import Record, make_record

# Why a scan stopped, besides reaching a bad frame (BAD): the buffer ends inside a frame that may
# be whole in the file (INCOMPLETE), or an intact frame uses what this version does not know.
BAD = 0
INCOMPLETE = 1
UNKNOWN = 2

_FRAME = fmt.FRAME_HEADER
_RECORD = fmt.RECORD_HEADER
_FRAME_BYTES = fmt.FRAME_HEADER_BYTES
_RECORD_BYTES = fmt.RECORD_HEADER_BYTES
_LEAST_FRAME_BYTES = 48
_pack_start, _pack_rest = fmt.FRAME_START.pack, fmt.FRAME_REST.pack

crc32 = zlib.crc32


# --- Writing -------------------------------------------------------------------------------------


def _record_bytes(record: Record) -> int:
    size = _RECORD_BYTES + len(record.key) + len(record.value)
    if record.expires_at_ns is not None:
        size += 8
    if record.stream:
        size += 4
    if record._compression:
        size += 4
    if record._headers:
        size += 4 + len(record._headers)
    return size


def frame_bytes(records: Iterable[Record], align: int) -> int:
    """The size of the frame that these records make."""
    return fmt.align_up(_FRAME_BYTES + sum(map(_record_bytes, records)), align)


def encode_record(record: Record, now_ns: int) -> bytes:
    """The record as it lies in a frame; one without a timestamp gets `now_ns`."""
    flags = fmt.TOMBSTONE if record.tombstone else 0
    options = b""
    if record.expires_at_ns is not None:
        flags |= fmt.HAS_EXPIRY
        options += record.expires_at_ns.to_bytes(8, "little")
    if record.stream:
        flags |= fmt.HAS_STREAM
        options += record.stream.to_bytes(4, "little")
    if record._compression:
        flags |= record._compression << fmt.COMPRESSION_SHIFT
        options += record._raw_bytes.to_bytes(4, "little")
    if record._headers:
        flags |= fmt.HAS_HEADERS
        options += len(record._headers).to_bytes(4, "little") + record._headers
    timestamp = now_ns if record.timestamp_ns is None else record.timestamp_ns
    head = _RECORD.pack(flags, 0, len(record.key), len(record.value), timestamp)
    return b"".join((head, options, record.key, record.value))


def encode_frame(
    records: Sequence[Record],
    position: int,
    durable: int,
    tag: int,
    seed: int,
    align: int,
    now_ns: int,
) -> bytes:
    """The frame that holds `records`, the first of which gets `position`."""
    body = b"".join([encode_record(record, now_ns) for record in records])
    return seal_frame(body, len(records), position, durable, tag, seed, align)


def seal_frame(
    body: bytes, count: int, position: int, durable: int, tag: int, seed: int, align: int
) -> bytes:
    """Header, body and padding of a frame, with the checksum over them."""
    length = (_FRAME_BYTES + len(body) + align - 1) & -align
    rest = _pack_rest(length, count, position, durable) + body
    rest += bytes(length - 8 - len(rest))
    return _pack_start(tag, crc32(rest, seed)) + rest


# --- Reading -------------------------------------------------------------------------------------


class Scan(NamedTuple):
    """What a scan of a buffer found: the valid frames from its start on, and why it stopped."""

    offset: int  # where the valid frames end
    position: int  # the position after their last record
    durable: int  # greatest durable mark among them
    oldest_ns: int  # least timestamp, 0 when there was none
    newest_ns: int  # greatest timestamp, or what was passed in
    reason: int  # BAD, INCOMPLETE or UNKNOWN
    needed: int  # for INCOMPLETE: bytes that the next frame claims to have


def scan(
    buffer: bytes | bytearray | memoryview,
    start: int,
    stop: int,
    position: int,
    tag: int,
    seed: int,
    newest_ns: int = 0,
    index: list[tuple[int, int, int]] | None = None,
    index_origin: int = 0,
    index_next: int = 0,
    frame_bytes_max: int = fmt.FRAME_BYTES_LIMIT,
) -> Scan:
    """Check the frames of buffer[start:stop], the first of which must have `position`.

    With `index`, adds (position, offset + index_origin, newest timestamp before it) for the first
    frame at or after every INDEX_STEP_BYTES, from offset `index_next` on.
    """
    view = memoryview(buffer)
    stop = min(stop, len(view))
    oldest_ns = durable = 0
    reason, needed = BAD, 0
    while True:
        reason, length, count, mark = _check_frame(
            view, start, stop, position, tag, seed, frame_bytes_max
        )
        if length == 0 or reason != BAD:
            needed = length
            break
        times = _record_times(view, start, length, count)
        if times is None:
            reason, needed = (UNKNOWN if _has_unknown_flags(view, start, length, count) else BAD), 0
            break
        if index is not None and start + index_origin >= index_next:
            index.append((position, start + index_origin, newest_ns))
            index_next = ((start + index_origin) // fmt.INDEX_STEP_BYTES + 1) * fmt.INDEX_STEP_BYTES
        oldest_ns = min(oldest_ns or times[0], times[0])
        newest_ns = max(newest_ns, times[1])
        durable = max(durable, mark)
        start += length
        position += count
    return Scan(start, position, durable, oldest_ns, newest_ns, reason, needed)


def _check_frame(
    view: memoryview, start: int, stop: int, position: int, tag: int, seed: int, bytes_max: int
) -> tuple[int, int, int, int]:
    """(BAD, length, records, durable mark) of a valid frame; length 0 if there is none.

    (INCOMPLETE, length, 0, 0) when the buffer ends inside what may be a frame.
    """
    if stop - start < _FRAME_BYTES:
        return INCOMPLETE, _FRAME_BYTES, 0, 0
    found_tag, check, length, count, found_position, mark = _FRAME.unpack_from(view, start)
    if found_tag != tag or found_position != position:
        return BAD, 0, 0, 0
    if length < _LEAST_FRAME_BYTES or length & 7 or length > bytes_max or count == 0:
        return BAD, 0, 0, 0
    if length > stop - start:
        return INCOMPLETE, length, 0, 0
    if crc32(view[start + fmt.FRAME_CHECKED_FROM : start + length], seed) != check:
        return BAD, 0, 0, 0
    return BAD, length, count, mark


def _record_times(view: memoryview, start: int, length: int, count: int) -> tuple[int, int] | None:
    """Least and greatest timestamp of a frame's records, or None if they do not fill it."""
    offset, end = start + _FRAME_BYTES, start + length
    oldest, newest = fmt.TIME_NS_MAX, 0
    for _ in range(count):
        size, timestamp = _record_size(view, offset, end)
        if size == 0:
            return None
        oldest, newest = min(oldest, timestamp), max(newest, timestamp)
        offset += size
    return (oldest, newest) if end - offset < 4096 else None


def _record_size(view: memoryview, offset: int, end: int) -> tuple[int, int]:
    """Size and timestamp of the record at `offset`; size 0 when it does not fit or is unknown."""
    room = end - offset
    if room < _RECORD_BYTES:
        return 0, 0
    flags, reserved, key_bytes, value_bytes, timestamp = _RECORD.unpack_from(view, offset)
    size = _RECORD_BYTES + key_bytes + value_bytes
    size += 8 * bool(flags & fmt.HAS_EXPIRY) + 4 * bool(flags & fmt.HAS_STREAM)
    size += 4 * bool(flags & fmt.COMPRESSION_MASK)
    if flags & fmt.HAS_HEADERS:
        where = offset + size - key_bytes - value_bytes
        if where + 4 > end:
            return 0, 0
        size += 4 + int.from_bytes(view[where : where + 4], "little")
    unknown = flags & fmt.UNKNOWN_RECORD_FLAGS or flags & fmt.COMPRESSION_MASK == 0x30 or reserved
    if size > room or unknown or timestamp > fmt.TIME_NS_MAX:
        return 0, 0
    return size, timestamp


def _has_unknown_flags(view: memoryview, start: int, length: int, count: int) -> bool:
    """Whether an intact frame that does not parse stops at a record of an unknown kind."""
    offset, end = start + _FRAME_BYTES, start + length
    for _ in range(count):
        size, _ = _record_size(view, offset, end)
        if size == 0:
            return _is_unknown(view, offset, end)
        offset += size
    return False


def _is_unknown(view: memoryview, offset: int, end: int) -> bool:
    """Whether the record at `offset` is of a kind that this version does not know."""
    if end - offset < _RECORD_BYTES:
        return False
    flags, reserved = view[offset], view[offset + 1]
    unknown = flags & fmt.UNKNOWN_RECORD_FLAGS or flags & fmt.COMPRESSION_MASK == 0x30
    return bool(unknown or reserved)


class RecordIterator:
    """Decodes records from one buffer after another; the engine of every reader.

    When it needs more it calls `refill(self)`, which calls `load` and returns True, or returns
    False to end, or raises. `reason`, `offset` and `needed` tell `refill` what is wanted.
    Not for use by several threads at once.
    """

    __slots__ = (
        "_broken",
        "_buffer",
        "_copy",
        "_decompress",
        "_frame_end",
        "_limit",
        "_record_offset",
        "_records_left",
        "_refill",
        "_seed",
        "_skip_below",
        "_stop",
        "_tag",
        "needed",
        "offset",
        "position",
        "reason",
    )

    def __init__(
        self,
        refill: Callable[[RecordIterator], bool],
        decompress: Callable[[int, bytes, int], bytes],
        copy: bool = True,
    ) -> None:
        self._refill = refill
        self._decompress = decompress
        self._copy = copy
        self._buffer = memoryview(b"")
        self._records_left = self._stop = self._limit = self._skip_below = 0
        self._frame_end = self._record_offset = self._tag = self._seed = 0
        self.offset = self.position = self.needed = 0
        self._broken: int | None = None
        self.reason = INCOMPLETE

    def load(
        self,
        buffer: bytes | bytearray | memoryview,
        start: int,
        stop: int,
        position: int,
        limit: int,
        skip_below: int,
        tag: int,
        seed: int,
    ) -> None:
        """Go on at buffer[start:stop], whose first frame has `position`; stop before `limit`.

        Records below `skip_below` are passed over.
        """
        self._buffer = memoryview(buffer)
        self.offset, self._stop = start, min(stop, len(self._buffer))
        self.position, self._limit, self._skip_below = position, limit, skip_below
        self._tag, self._seed = tag, seed
        self._records_left = 0
        self._broken = None

    def __iter__(self) -> RecordIterator:
        return self

    def __next__(self) -> Record:
        while True:
            while self._records_left:
                record = self._next_record()
                if record is not None:
                    return record
            if not self._next_frame() and not self._refill(self):
                raise StopIteration

    def _next_frame(self) -> bool:
        if self._broken is not None:
            self.reason, self.needed = self._broken, 0
            return False
        if self.position >= self._limit:
            self.reason, self.needed = INCOMPLETE, 0
            return False
        reason, length, count, _ = _check_frame(
            self._buffer,
            self.offset,
            self._stop,
            self.position,
            self._tag,
            self._seed,
            fmt.FRAME_BYTES_LIMIT,
        )
        if length == 0 or reason != BAD:
            self.reason, self.needed = reason, length
            return False
        self._record_offset = self.offset + _FRAME_BYTES
        self.offset += length
        self._frame_end = self.offset
        self._records_left = count
        return True

    def _next_record(self) -> Record | None:
        start = self._record_offset
        if self.position >= self._limit:  # truncation cut through this frame
            self._records_left = 0
            return None
        size, timestamp = _record_size(self._buffer, start, self._frame_end)
        if size == 0:  # an intact checksum over records that do not parse
            self._records_left = 0
            unknown = _is_unknown(self._buffer, start, self._frame_end)
            self._broken = UNKNOWN if unknown else BAD
            return None
        self._record_offset += size
        self._records_left -= 1
        position = self.position
        self.position += 1
        if position < self._skip_below:
            return None
        return self._decode(position, start, size, timestamp)

    def _decode(self, position: int, start: int, size: int, timestamp: int) -> Record:
        view = self._buffer
        flags, _, key_bytes, value_bytes, _ = _RECORD.unpack_from(view, start)
        key_start = start + size - key_bytes - value_bytes
        value_start = key_start + key_bytes
        stored: Any = view[value_start : value_start + value_bytes]
        if self._copy:
            stored = bytes(stored)
        expires_at_ns, headers, stream, raw_bytes = None, b"", 0, 0
        if flags & ~fmt.TOMBSTONE:
            expires_at_ns, headers, stream, raw_bytes = self._options(flags, start)
        compression = (flags & fmt.COMPRESSION_MASK) >> fmt.COMPRESSION_SHIFT
        if compression:
            stored = self._decompress(compression, bytes(stored), raw_bytes)
        return make_record(
            position,
            bytes(view[key_start:value_start]),
            stored,
            timestamp or None,
            expires_at_ns or None,
            headers,
            stream,
            bool(flags & fmt.TOMBSTONE),
            0,
            0,
        )

    def _options(self, flags: int, start: int) -> tuple[int | None, bytes, int, int]:
        view, offset = self._buffer, start + _RECORD_BYTES
        expires_at_ns, headers, stream, raw_bytes = None, b"", 0, 0
        if flags & fmt.HAS_EXPIRY:
            expires_at_ns = int.from_bytes(view[offset : offset + 8], "little")
            offset += 8
        if flags & fmt.HAS_STREAM:
            stream = int.from_bytes(view[offset : offset + 4], "little")
            offset += 4
        if flags & fmt.COMPRESSION_MASK:
            raw_bytes = int.from_bytes(view[offset : offset + 4], "little")
            offset += 4
        if flags & fmt.HAS_HEADERS:
            length = int.from_bytes(view[offset : offset + 4], "little")
            headers = bytes(view[offset + 4 : offset + 4 + length])
        return expires_at_ns, headers, stream, raw_bytes
