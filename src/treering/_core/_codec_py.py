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
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from . import format as fmt
from .errors import TooLargeError, UsageError

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

crc32 = zlib.crc32


class Record:
    """One entry of the log; immutable.

    `position` is its number (None until appended), `key` and `value` are bytes, `timestamp`
    is when it was appended and `expires_at` when it expires (seconds since 1970; the exact
    integers are `timestamp_ns` and `expires_at_ns`), `tombstone` tells a delete from a put,
    `headers` is a dict of str to bytes, `stream` a number that lets several stores share a log.
    """

    __slots__ = (
        "_compression",
        "_headers",
        "_raw_bytes",
        "expires_at_ns",
        "key",
        "position",
        "stream",
        "timestamp_ns",
        "tombstone",
        "value",
    )

    position: int | None
    key: bytes
    value: bytes | memoryview
    timestamp_ns: int | None
    expires_at_ns: int | None
    stream: int
    tombstone: bool
    _headers: bytes
    _compression: int
    _raw_bytes: int

    def __init__(
        self,
        key: bytes,
        value: bytes = b"",
        *,
        timestamp: float | None = None,
        timestamp_ns: int | None = None,
        expires_at: float | None = None,
        expires_at_ns: int | None = None,
        headers: Mapping[str, bytes] | None = None,
        stream: int = 0,
        tombstone: bool = False,
        position: int | None = None,
    ) -> None:
        put = object.__setattr__
        put(self, "position", position)
        put(self, "key", as_bytes(key, "key"))
        put(self, "value", as_bytes(value, "value"))
        put(self, "timestamp_ns", nanoseconds(timestamp, timestamp_ns, "timestamp"))
        put(self, "expires_at_ns", nanoseconds(expires_at, expires_at_ns, "expires_at"))
        put(self, "_headers", wire_headers(headers))
        put(self, "stream", check_stream(stream))
        put(self, "tombstone", bool(tombstone))
        put(self, "_compression", 0)
        put(self, "_raw_bytes", 0)
        if len(self.key) > fmt.KEY_BYTES_MAX:
            raise key_too_large(len(self.key))
        if len(self.value) > fmt.FRAME_BYTES_LIMIT:
            raise TooLargeError(
                f"the value has {len(self.value)} bytes", hint="Keep large values in files"
            )

    @classmethod
    def put(cls, key: bytes, value: bytes, **options: Any) -> Record:
        """A record that sets `key` to `value`; options as in the constructor."""
        return cls(key, value, **options)

    @classmethod
    def delete(cls, key: bytes, **options: Any) -> Record:
        """A tombstone: a record that says that `key` is gone."""
        return cls(key, b"", tombstone=True, **options)

    @property
    def timestamp(self) -> float | None:
        """When the record was appended, in seconds since 1970."""
        return None if self.timestamp_ns is None else self.timestamp_ns / 1e9

    @property
    def expires_at(self) -> float | None:
        """When the record expires, in seconds since 1970, or None."""
        return None if self.expires_at_ns is None else self.expires_at_ns / 1e9

    @property
    def headers(self) -> dict[str, bytes]:
        """The headers, as a new dict."""
        return fmt.unpack_headers(self._headers)

    def _packed(self, compression: int, stored: bytes) -> Record:
        """This record with its value as it will be stored; for the writer."""
        return _make(
            self.position,
            self.key,
            stored,
            self.timestamp_ns,
            self.expires_at_ns,
            self._headers,
            self.stream,
            self.tombstone,
            compression,
            len(self.value),
        )

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a Record is immutable: cannot set {name}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"a Record is immutable: cannot delete {name}")

    def _key(self) -> tuple[Any, ...]:
        return (
            self.position,
            self.key,
            bytes(self.value),
            self.timestamp_ns,
            self.expires_at_ns,
            self._headers,
            self.stream,
            self.tombstone,
        )

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if isinstance(other, Record) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        return record_repr(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return (restore, (Record, *self._key()))


def restore(
    kind: type[Record],
    position: int | None,
    key: bytes,
    value: bytes,
    timestamp_ns: int | None,
    expires_at_ns: int | None,
    headers: bytes,
    stream: int,
    tombstone: bool,
) -> Record:
    """Rebuild a copied record (multiprocessing queues)."""
    return kind(
        key,
        value,
        timestamp_ns=timestamp_ns,
        expires_at_ns=expires_at_ns,
        headers=fmt.unpack_headers(headers),
        stream=stream,
        tombstone=tombstone,
        position=position,
    )


def _make(*fields: Any) -> Record:
    record = object.__new__(Record)
    (
        _set_position(record, fields[0]),
        _set_key(record, fields[1]),
        _set_value(record, fields[2]),
        _set_timestamp(record, fields[3]),
        _set_expires(record, fields[4]),
        _set_headers(record, fields[5]),
        _set_stream(record, fields[6]),
        _set_tombstone(record, fields[7]),
        _set_compression(record, fields[8]),
        _set_raw(record, fields[9]),
    )
    return record


# The slots' own setters: they get past __setattr__, and are the fastest way to fill a record.
_members = vars(Record)
_set_position = _members["position"].__set__
_set_key = _members["key"].__set__
_set_value = _members["value"].__set__
_set_timestamp = _members["timestamp_ns"].__set__
_set_expires = _members["expires_at_ns"].__set__
_set_headers = _members["_headers"].__set__
_set_stream = _members["stream"].__set__
_set_tombstone = _members["tombstone"].__set__
_set_compression = _members["_compression"].__set__
_set_raw = _members["_raw_bytes"].__set__


# --- What both twins ask of their arguments ------------------------------------------------------


def as_bytes(data: Any, what: str) -> bytes:
    """`data` as bytes; UsageError (also a TypeError's text) for anything not bytes-like."""
    if type(data) is bytes:
        return data
    if isinstance(data, bytes | bytearray | memoryview):
        return bytes(data)
    hint = "Encode the text first: text.encode()" if isinstance(data, str) else None
    raise UsageError(f"the {what} must be bytes, not {type(data).__name__}", hint=hint)


def nanoseconds(seconds: float | None, exact_ns: int | None, what: str) -> int | None:
    """A time in nanoseconds from seconds or exact nanoseconds; UsageError when out of range."""
    if exact_ns is None:
        if seconds is None:
            return None
        try:
            exact_ns = round(seconds * 1_000_000_000)
        except (TypeError, ValueError, OverflowError) as error:
            raise UsageError(f"{what} must be a number of seconds, not {seconds!r}") from error
    if not isinstance(exact_ns, int) or not 0 < exact_ns <= fmt.TIME_NS_MAX:
        raise UsageError(f"{what} is out of range", hint="Times are seconds since 1970")
    return exact_ns


def wire_headers(headers: Mapping[str, bytes] | None) -> bytes:
    """Headers in their stored form."""
    if not headers:
        return b""
    try:
        packed = fmt.pack_headers(headers)
    except Exception as error:
        raise UsageError(
            "headers must map short texts to bytes", hint="For example headers={'type': b'paid'}"
        ) from error
    if len(packed) > fmt.HEADERS_BYTES_MAX:
        raise TooLargeError(
            f"the headers have {len(packed)} bytes, the limit is {fmt.HEADERS_BYTES_MAX}"
        )
    return packed


def check_stream(stream: int) -> int:
    """A stream number; UsageError when out of range."""
    if not isinstance(stream, int) or not 0 <= stream <= fmt.STREAM_MAX:
        raise UsageError(f"stream must be a number from 0 to {fmt.STREAM_MAX}, not {stream!r}")
    return stream


def key_too_large(length: int) -> TooLargeError:
    """The error for a key over the limit."""
    return TooLargeError(
        f"the key has {length} bytes, the limit is {fmt.KEY_BYTES_MAX}",
        hint="Put long data into the value",
    )


def record_repr(record: Any) -> str:
    """How a record shows itself: short, whatever its size."""

    def short(data: Any) -> str:
        return repr(bytes(data)) if len(data) <= 32 else f"{bytes(data[:29])!r}…({len(data)} bytes)"

    parts = [f"position={record.position}", f"key={short(record.key)}"]
    parts.append("tombstone=True" if record.tombstone else f"value={short(record.value)}")
    if record.timestamp is not None:
        parts.append(f"timestamp={record.timestamp:.6f}")
    if record.expires_at is not None:
        parts.append(f"expires_at={record.expires_at:.6f}")
    if record.headers:
        parts.append(f"headers={record.headers!r}")
    if record.stream:
        parts.append(f"stream={record.stream}")
    return f"Record({', '.join(parts)})"


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


def _encode_record(record: Record, now_ns: int) -> bytes:
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
    body = b"".join([_encode_record(record, now_ns) for record in records])
    return seal_frame(body, len(records), position, durable, tag, seed, align)


def seal_frame(
    body: bytes, count: int, position: int, durable: int, tag: int, seed: int, align: int
) -> bytes:
    """Header, body and padding of a frame, with the checksum over them."""
    length = (_FRAME_BYTES + len(body) + align - 1) & -align
    head = _FRAME.pack(tag, 0, length, count, position, durable)[8:]
    padding = bytes(length - _FRAME_BYTES - len(body))
    check = crc32(padding, crc32(body, crc32(head, seed)))
    return b"".join(((tag | check << 32).to_bytes(8, "little"), head, body, padding))


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
            reason, needed = (UNKNOWN if _has_unknown_flags(view, start, count) else BAD), 0
            break
        if index is not None and start + index_origin >= index_next:
            index.append((position, start + index_origin, newest_ns))
            index_next = (
                (start + index_origin) // fmt.INDEX_STEP_BYTES + 1
            ) * fmt.INDEX_STEP_BYTES
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


def _record_times(
    view: memoryview, start: int, length: int, count: int
) -> tuple[int, int] | None:
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


def _has_unknown_flags(view: memoryview, start: int, count: int) -> bool:
    """Whether an intact frame that does not parse starts with a record of an unknown kind."""
    offset, end = start + _FRAME_BYTES, len(view)
    for _ in range(count):
        if end - offset < _RECORD_BYTES:
            return False
        flags, reserved = view[offset], view[offset + 1]
        if flags & fmt.UNKNOWN_RECORD_FLAGS or flags & fmt.COMPRESSION_MASK == 0x30 or reserved:
            return True
        size, _ = _record_size(view, offset, end)
        if size == 0:
            return False
        offset += size
    return False


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
        self._broken = False
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
        self.offset, self._stop = start, stop
        self.position, self._limit, self._skip_below = position, limit, skip_below
        self._tag, self._seed = tag, seed
        self._records_left = 0
        self._broken = False

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
        if self._broken:
            self.reason, self.needed = BAD, 0
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
            self._broken = True
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
        return _make(
            position,
            bytes(view[key_start:value_start]),
            stored,
            timestamp,
            expires_at_ns,
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
