"""Events: as they are given, as they lie in the log, as they are read.

The key of an event's record is a fixed head (kind, flags, length of the stream's name, schema of
the data, version), the stream's name and the type. Its value is what the flags announce (id, time,
correlation, causation, metadata, in this order) and then the data. An aggregate's snapshot is the
same under another kind: its version is that of the last event in it.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

from treering import DamageError, Record, UsageError, VersionError
from treering.fold.kit import as_str, as_text

from .names import ID_BYTES_MAX, TYPE_BYTES_MAX

if TYPE_CHECKING:
    from .codec import Registry

HEAD = struct.Struct("<BBHHI")
# Kinds, in the first byte of the key: no text begins with these two bytes' like.
EVENT, SNAPSHOT = 0xE1, 0xE2
# Flags, in the second: what comes before the data, and whether the data is bytes as they are.
ID, TIME, CORRELATION, CAUSATION, METADATA, PLAIN = 1, 2, 4, 8, 16, 32
EXTRAS = ID | TIME | CORRELATION | CAUSATION | METADATA
KNOWN_FLAGS = EXTRAS | PLAIN
VERSION_MAX = 0xFFFFFFFF
SCHEMA_MAX = 0xFFFF

_BYTES = (bytes, bytearray, memoryview)
_TIME, _LENGTH = struct.Struct("<q"), struct.Struct("<I")

ANY = -2
"""As `expected_version`: whatever the stream has."""
NO_STREAM = -1
"""As `expected_version`: the stream has no events yet. Also `version()` of such a stream."""


class Event:
    """An event to append. `data` is what the store's codec can write: JSON values, a registered
    class's instance, or bytes, which are kept as they are. `id` (a text or a UUID) makes appending
    repeatable; `time` is when it happened (seconds since 1970 or a datetime; otherwise when it was
    appended); `metadata` is a dict of JSON values; `correlation` and `causation` are texts."""

    __slots__ = ("causation", "correlation", "data", "id", "metadata", "time", "type")

    def __init__(
        self,
        type: str,
        data: Any = None,
        id: str | UUID | None = None,
        time: float | datetime | None = None,
        metadata: Mapping[str, Any] | None = None,
        correlation: str | None = None,
        causation: str | None = None,
    ) -> None:
        self.type, self.data, self.id, self.time = type, data, id, time
        self.metadata, self.correlation, self.causation = metadata, correlation, causation

    def __repr__(self) -> str:
        fields = ", ".join(
            f"{name}={value!r:.60}"
            for name in ("id", "time", "metadata", "correlation", "causation")
            if (value := getattr(self, name)) is not None
        )
        return f"Event({self.type!r}, {self.data!r:.100}{', ' if fields else ''}{fields})"


# An event as it will be written, but for its version: flags, schema, type, value, id. Plain tuples,
# for every append makes them.
Encoded = tuple[int, int, bytes, bytes, bytes | None]


def encode(event: Event, registry: Registry) -> Encoded:
    """The event's parts as bytes; UsageError for what cannot be written."""
    data, name = event.data, event.type
    kind = as_text(name, "an event's type", TYPE_BYTES_MAX)
    if isinstance(data, _BYTES):
        flags, value = PLAIN, bytes(data)
    else:
        flags, value = 0, registry.encode(name, data)
    schema = registry.versions.get(name, 1)
    if (
        event.id is None
        and event.time is None
        and event.metadata is None
        and event.correlation is None
        and event.causation is None
    ):
        return flags, schema, kind, value, None
    more, before, id = _extras(event)
    return flags | more, schema, kind, before + value, id


def _extras(event: Event) -> tuple[int, bytes, bytes | None]:
    flags, pieces, id = 0, [], None
    if event.id is not None:
        text = str(event.id) if isinstance(event.id, UUID) else event.id
        id = as_text(text, "an event's id", ID_BYTES_MAX)
        flags |= ID
        pieces += [bytes([len(id)]), id]
    if event.time is not None:
        flags |= TIME
        pieces.append(_TIME.pack(_nanoseconds(event.time)))
    for flag, name in ((CORRELATION, "correlation"), (CAUSATION, "causation")):
        if (text := getattr(event, name)) is not None:
            packed = as_text(str(text) if isinstance(text, UUID) else text, name, ID_BYTES_MAX)
            flags |= flag
            pieces += [bytes([len(packed)]), packed]
    if event.metadata is not None:
        flags |= METADATA
        packed = _metadata(event.metadata)
        pieces += [_LENGTH.pack(len(packed)), packed]
    return flags, b"".join(pieces), id


def _metadata(metadata: Any) -> bytes:
    if not isinstance(metadata, Mapping):
        raise UsageError(f"metadata is a dict, not {type(metadata).__name__}")
    try:
        return json.dumps(dict(metadata), separators=(",", ":"), allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"metadata is a dict of JSON values: {error}") from error


def _nanoseconds(time: Any) -> int:
    seconds = time.timestamp() if isinstance(time, datetime) else time
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise UsageError("an event's time is seconds since 1970 or a datetime")
    if not abs(seconds) < 1 << 33:
        raise UsageError(f"an event's time is out of range: {seconds!r:.40}")
    return round(seconds * 1_000_000_000)


class Extras(NamedTuple):
    """What a value holds before the data, and where that begins."""

    id: bytes | None
    time_ns: int | None
    correlation: bytes | None
    causation: bytes | None
    metadata: bytes | None
    start: int


def read_extras(flags: int, value: bytes, position: int | None) -> Extras:
    """They, from an event's value; DamageError if it is too short."""
    at = 0
    time_ns: int | None = None

    def piece(size: int) -> bytes:
        nonlocal at
        at += size
        if at > len(value):
            raise DamageError("an event's record is shorter than it says", position=position)
        return bytes(value[at - size : at])

    id = piece(piece(1)[0]) if flags & ID else None
    if flags & TIME:
        time_ns = _TIME.unpack(piece(8))[0]
    correlation = piece(piece(1)[0]) if flags & CORRELATION else None
    causation = piece(piece(1)[0]) if flags & CAUSATION else None
    metadata = piece(_LENGTH.unpack(piece(4))[0]) if flags & METADATA else None
    return Extras(id, time_ns, correlation, causation, metadata, at)


class Head(NamedTuple):
    """What an event's key holds."""

    kind: int
    flags: int
    schema: int
    version: int
    stream: bytes
    type: bytes


def read_head(record: Record) -> Head:
    """The parts of a record's key. VersionError for what this version does not know, DamageError
    for what nobody wrote."""
    key = record.key
    if len(key) < HEAD.size or key[0] not in (EVENT, SNAPSHOT) or record.tombstone:
        raise VersionError(
            f"a record that is no event: {key!r:.40}",
            position=record.position,
            hint="A newer treering wrote it, or another store: open the log with that",
        )
    kind, flags, size, schema, version = HEAD.unpack_from(key)
    if flags & ~KNOWN_FLAGS:
        raise VersionError(
            f"an event with unknown flags ({flags:#x})",
            position=record.position,
            hint="A newer treering wrote it: open the log with that",
        )
    end = HEAD.size + size
    if not HEAD.size < end < len(key):
        raise DamageError("an event's key is cut short", position=record.position)
    return Head(kind, flags, schema, version, key[HEAD.size : end], key[end:])


class RecordedEvent:
    """An event as it lies in the log. Nothing is decoded before it is asked for: `raw` is the data
    as bytes, `data` what the codec makes of it, anew each time. `position` is its place among all
    events, `version` that in its stream."""

    __slots__ = ("_record", "_registry")

    def __init__(self, record: Record, registry: Registry) -> None:
        self._record = record
        self._registry = registry

    @property
    def position(self) -> int:
        """Of its record in the log: unique, and rising from event to event."""
        position = self._record.position
        assert position is not None
        return position

    @property
    def stream(self) -> str:
        """The name of its stream."""
        return as_str(read_head(self._record).stream, self._record.position)

    @property
    def version(self) -> int:
        """Its number in the stream, from 0."""
        return read_head(self._record).version

    @property
    def type(self) -> str:
        """What kind of event it is."""
        return as_str(read_head(self._record).type, self._record.position)

    @property
    def schema(self) -> int:
        """The version of the type that its data was written with."""
        return read_head(self._record).schema

    def _extras(self) -> Extras:
        record = self._record
        return read_extras(record.key[1], bytes(record.value), record.position)

    @property
    def raw(self) -> bytes:
        """The data as it was written."""
        value = bytes(self._record.value)
        return value[self._extras().start :] if self._record.key[1] & EXTRAS else value

    @property
    def data(self) -> Any:
        """The data, decoded, brought to the newest version of its type, as the registered class.

        DamageError if it is not what the codec writes; VersionError if newer code wrote it; and
        what an upcaster raises."""
        if self._record.key[1] & PLAIN:
            return self.raw
        head = read_head(self._record)
        kind = as_str(head.type, self._record.position)
        return self._registry.decode(kind, head.schema, self.raw, self._record.position)

    @property
    def id(self) -> str | None:
        """The id that the caller gave."""
        id = self._extras().id
        return None if id is None else as_str(id, self._record.position)

    @property
    def time_ns(self) -> int:
        """When it happened: the caller's time, else when it was appended; ns since 1970."""
        given = self._extras().time_ns
        return (self._record.timestamp_ns or 0) if given is None else given

    @property
    def time(self) -> float:
        """When it happened, in seconds since 1970."""
        return self.time_ns / 1e9

    @property
    def recorded_at(self) -> float:
        """When it was appended, in seconds since 1970; what `at(time=…)` goes by."""
        return (self._record.timestamp_ns or 0) / 1e9

    @property
    def correlation(self) -> str | None:
        """What it belongs to, as the caller said."""
        text = self._extras().correlation
        return None if text is None else as_str(text, self._record.position)

    @property
    def causation(self) -> str | None:
        """What caused it, as the caller said."""
        text = self._extras().causation
        return None if text is None else as_str(text, self._record.position)

    @property
    def metadata(self) -> dict[str, Any]:
        """The caller's metadata; empty if there is none."""
        packed = self._extras().metadata
        if packed is None:
            return {}
        try:
            found: dict[str, Any] = json.loads(packed)
        except (ValueError, RecursionError) as error:
            raise DamageError("metadata is not JSON", position=self._record.position) from error
        return found

    def __repr__(self) -> str:
        return (
            f"<event {self.type!r} {self.stream!r}@{self.version} position={self.position} "
            f"raw={self.raw[:60]!r}>"
        )


class Appended(NamedTuple):
    """What an append came to: the version of the first event, and all their positions. True, too,
    of a repeated one, which gives what the first one gave."""

    first_version: int
    positions: range | tuple[int, ...]

    @property
    def version(self) -> int:
        """Of the last event: the stream's, until somebody appends."""
        return self.first_version + len(self.positions) - 1

    @property
    def position(self) -> int:
        """Of the last event."""
        return self.positions[-1]


class Snapshot(NamedTuple):
    """What an aggregate came to with the event of `version`."""

    version: int
    data: Any
    position: int
