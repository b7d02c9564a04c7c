"""What a message log writes: the layouts of its records, and of its snapshots' records.

A record's key begins with one byte that says its kind. A message without a key is `m` and the
topic; all others are the kind, the length of the topic in one byte, the topic, and a name or a
message's key. Numbers are little-endian; times are ns since 1970, positions are the log's.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Iterable
from typing import Any, NamedTuple

from treering import Record, TooLargeError, UsageError, VersionError
from treering.fold.kit import Foreign

_foreign = Foreign("a message log")
damaged = _foreign.damaged
unknown = _foreign.unknown

PLAIN, KEYED = b"m", b"k"  # a message; a tombstone is one without a value
COMMIT, FORGET = b"c", b"f"  # a consumer's position, also its first; the end of a consumer
GROUP, DISBAND = b"g", b"b"  # a group begins (anew) at a position; the end of a group
LEASE, EXTEND, NACK, ACK = b"l", b"x", b"n", b"a"  # a time and positions; an ack's time is 0
SKIP = b"s"  # a group goes on behind what retention removed
RETENTION, TRIM, SWEEP, DELETE = b"r", b"t", b"z", b"d"
# Only in snapshots:
HEADER, TOPIC, CHUNK, KEPT, MEMBER, LEASES = b"H", b"T", b"I", b"K", b"G", b"L"

NAME_BYTES_MAX = 249
KEY_BYTES_MAX = 65_000

NUMBER = struct.Struct("<Q")
PAIR = struct.Struct("<QQ")
_RETENTION = struct.Struct("<QQQB")
_CONSUMED, _COMPACT = 1, 2


class Retention(NamedTuple):
    """What a topic keeps: `seconds_ns` and `size` bytes of it (0: all), deletes for so long."""

    seconds_ns: int = 0
    size: int = 0
    tombstone_ns: int = 0
    consumed: bool = False
    compact: bool = False

    def pack(self) -> bytes:
        """Its stored form."""
        flags = _CONSUMED * self.consumed | _COMPACT * self.compact
        return _RETENTION.pack(self.seconds_ns, self.size, self.tombstone_ns, flags)


NO_RETENTION = Retention()


def name_bytes(name: Any, what: str = "topic") -> bytes:
    """A topic's, consumer's or group's name as it is stored; UsageError for what is none."""
    if not isinstance(name, str):
        raise UsageError(f"a {what} is a text, not {type(name).__name__}", hint='Say "orders"')
    try:
        packed = name.encode()
    except UnicodeEncodeError:
        raise UsageError(f"the name of this {what} is no text: {name!r:.60}") from None
    if not 0 < len(packed) <= NAME_BYTES_MAX:
        raise UsageError(f"the name of a {what} has 1 to {NAME_BYTES_MAX} bytes, not {len(packed)}")
    return packed


def message_key(topic: bytes, key: Any) -> bytes:
    """The key of a message's record."""
    if key is None:
        return PLAIN + topic
    if not isinstance(key, bytes):
        raise UsageError(f"a key is bytes or None, not {type(key).__name__}", hint="Encode it")
    if len(key) > KEY_BYTES_MAX:
        raise TooLargeError(f"the key has {len(key)} bytes, the limit is {KEY_BYTES_MAX}")
    return named(KEYED, topic, key)


def named(kind: bytes, topic: bytes, name: bytes = b"") -> bytes:
    """The key of another record."""
    return kind + len(topic).to_bytes(1, "little") + topic + name


def split(record: Record) -> tuple[bytes, bytes]:
    """The topic of a record that is not PLAIN, and what follows it in the key."""
    key = record.key
    length = key[1] if len(key) > 1 else 0
    if not 0 < length <= len(key) - 2:
        raise damaged(record, "its topic is cut short")
    return key[2 : 2 + length], key[2 + length :]


def key_of(record: Record, topic: bytes) -> bytes | None:
    """The key of a message that was read from the log; DamageError if it is another topic's."""
    if record.key == PLAIN + topic and record.key:
        return None
    prefix = named(KEYED, topic)
    if not record.key.startswith(prefix):
        raise damaged(record, f"it is no message of {topic!r:.60}")
    return record.key[len(prefix) :]


def number(record: Record) -> int:
    """The number that is a record's value."""
    try:
        found: int = NUMBER.unpack(record.value)[0]
    except struct.error:
        raise damaged(record, "it holds no number") from None
    return found


def numbers(record: Record) -> tuple[int, int]:
    """The two numbers that are a record's value."""
    try:
        one, other = PAIR.unpack(record.value)
    except struct.error:
        raise damaged(record, "it does not hold two numbers") from None
    return one, other


def timed(kind: bytes, topic: bytes, name: bytes, at_ns: int, positions: Iterable[int]) -> Record:
    """A record about some of a group's messages, and a time."""
    return Record(named(kind, topic, name), packed((at_ns, *positions)))


def time_and_positions(record: Record) -> tuple[int, list[int]]:
    """What `timed` put in."""
    at_ns, *positions = unpacked(record) or (0,)
    return at_ns, positions


def packed(values: Iterable[int]) -> bytes:
    """Numbers of 64 bits."""
    return little(array("Q", values))


def unpacked(record: Record) -> array[int]:
    """The numbers that `packed` put in."""
    return from_little("Q", record, bytes(record.value))


def little(numbers: array[int]) -> bytes:
    """An array's bytes, the same on every machine."""
    if sys.byteorder == "big":
        numbers = numbers[:]
        numbers.byteswap()
    return numbers.tobytes()


def from_little(kind: str, record: Record, data: bytes) -> array[int]:
    """Such an array; DamageError if the bytes of the record are none."""
    found: array[int] = array(kind)
    if len(data) % found.itemsize:
        raise damaged(record, "a list of numbers is cut short")
    found.frombytes(data)
    if sys.byteorder == "big":
        found.byteswap()
    return found


def retention(record: Record, value: bytes) -> Retention:
    """What `Retention.pack` packed."""
    try:
        seconds_ns, size, tombstone_ns, flags = _RETENTION.unpack(value)
    except struct.error:
        raise damaged(record, "its retention is cut short") from None
    if flags & ~(_CONSUMED | _COMPACT):
        raise VersionError(
            "a retention rule of a newer version",
            position=record.position,
            hint="Open the message log with that version of treering",
        )
    rules = bool(flags & _CONSUMED), bool(flags & _COMPACT)
    return Retention(seconds_ns, size, tombstone_ns, *rules)
