"""Records in readable Python, and what both twins ask of a call's arguments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import format as fmt
from .arguments import check_position, whole_nanoseconds, whole_number
from .errors import DamageError, TooLargeError, UsageError


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
        put(self, "key", as_bytes(key, "key"))
        put(self, "value", as_bytes(value, "value"))
        put(self, "timestamp_ns", nanoseconds(timestamp, timestamp_ns, "timestamp"))
        put(self, "expires_at_ns", nanoseconds(expires_at, expires_at_ns, "expires_at"))
        put(self, "_headers", wire_headers(headers))
        put(self, "stream", check_stream(stream))
        put(self, "tombstone", bool(tombstone))
        put(self, "position", None if position is None else check_position(position))
        put(self, "_compression", 0)
        put(self, "_raw_bytes", 0)
        if len(self.key) > fmt.KEY_BYTES_MAX:
            raise key_too_large(len(self.key))
        if len(self.value) > fmt.FRAME_BYTES_LIMIT:
            raise TooLargeError(
                f"the value has {len(self.value)} bytes, the limit is {fmt.FRAME_BYTES_LIMIT}",
                hint="Keep large values in files",
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
        """The headers, as a new dict; DamageError if a damaged log gave them."""
        return read_headers(self._headers)

    def _packed(self, compression: int, stored: bytes) -> Record:
        """This record with its value as it will be stored; for the writer."""
        return make_record(
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

    def _placed(self, position: int, timestamp_ns: int, stream: int = 0) -> Record:
        """This record as it will be read back; for the fold, which need not read it, then. A
        negative position is none, time 0 and stream 0 leave what is there."""
        return make_record(
            None if position < 0 else position,
            self.key,
            self.value,
            self.timestamp_ns or timestamp_ns or None,
            self.expires_at_ns,
            self._headers,
            stream or self.stream,
            self.tombstone,
            self._compression,
            self._raw_bytes,
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
        headers=read_headers(headers),
        stream=stream,
        tombstone=tombstone,
        position=position,
    )


def make_record(*fields: Any) -> Record:
    """A record from its slots' values, unchecked; for decoding."""
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
        # What the buffer holds: a subclass may say something else about itself.
        return bytes(memoryview(data))
    hint = "Encode the text first: text.encode()" if isinstance(data, str) else None
    raise UsageError(f"the {what} must be bytes, not {type(data).__name__}", hint=hint)


def nanoseconds(seconds: float | None, exact_ns: int | None, what: str) -> int | None:
    """A time in nanoseconds from seconds or exact nanoseconds; UsageError when out of range."""
    if exact_ns is None:
        if seconds is None:
            return None
        exact_ns = whole_nanoseconds(seconds, what)
        if not 0 < exact_ns <= fmt.TIME_NS_MAX:
            raise UsageError(f"{what} is out of range", hint="Times are seconds since 1970")
    return whole_number(exact_ns, f"{what}_ns", 1, fmt.TIME_NS_MAX)


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


def read_headers(wire: bytes) -> dict[str, bytes]:
    """Headers from their stored form."""
    try:
        return fmt.unpack_headers(wire)
    except fmt.FormatError as error:
        raise DamageError(f"the headers of a record are damaged: {error}") from error


def check_stream(stream: int) -> int:
    """A stream number; UsageError when out of range."""
    return whole_number(stream, "stream", 0, fmt.STREAM_MAX)


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
    if record._headers:
        try:
            parts.append(f"headers={record.headers!r}")
        except DamageError:
            parts.append(f"headers=<damaged, {short(record._headers)}>")
    if record.stream:
        parts.append(f"stream={record.stream}")
    return f"Record({', '.join(parts)})"
