"""What an index knows: of each key where its records lie, and which of them expire.

Nothing of a record but its key and position is kept. Taking in a record twice in a row is the same
as once, so a call that is broken off between two records, or within one, goes on where it was.
"""

from __future__ import annotations

import struct
from abc import abstractmethod
from array import array
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from treering import DamageError, Record, VersionError
from treering.fold.kit import KeyOrder, Mark, is_clear

_SWEEP_LEAST = 1024
CHUNK = 8192

# Kinds of a snapshot's records, in the first byte of the key.
_HEAD, _ONE, _EXPIRY = b"h", b"1", b"e"
_CLOCK = struct.Struct("<Q?")
POSITION = struct.Struct("<Q")
_KEY_BYTES_MAX = 65_000


class State:
    """Positions by key; `Newest` knows one for each, `Several` all. `kind` says which index it is:
    one that was made otherwise is not loaded."""

    label = b"treering index 1"
    table: Mapping[bytes, Any]

    def __init__(self, kind: bytes, stream: int | None) -> None:
        self.kind, self.stream = kind, stream
        self.log_id, self.began, self.reached, self.epoch = bytes(16), 0, 0, 0
        self.newest_ns = 0  # of all records: no clock that steps back brings an expired one back
        self.mixed = False  # whether there are records of stores that share a log
        self.expiries: dict[int, int] = {}
        self.loaded, self.made_so = Mark(), True
        self.order = KeyOrder()
        self._sweep_at = _SWEEP_LEAST

    # --- apply ---

    def apply(self, record: Record) -> None:
        """Take in one record of the log."""
        stamp, position = record.timestamp_ns or 0, record.position
        assert position is not None
        if stamp > self.newest_ns:
            self.newest_ns = stamp
        if record.stream:
            self.mixed = True
        if self.stream is None or record.stream == self.stream:
            if not record.tombstone:
                self._put(record, position)
            elif is_clear(record):
                self._clear(record.key)
            else:
                self._delete(record.key)
        self.reached = position + 1

    @abstractmethod
    def _put(self, record: Record, position: int) -> None:
        """A record with a value."""

    @abstractmethod
    def _delete(self, key: bytes) -> None:
        """A tombstone."""

    @abstractmethod
    def _clear(self, prefix: bytes) -> None:
        """A tombstone for all keys with a prefix."""

    @abstractmethod
    def _filter(self, keep: Callable[[int], bool]) -> None:
        """Forget all positions but those."""

    def _expires(self, position: int, at_ns: int) -> None:
        self.expiries[position] = at_ns
        if len(self.expiries) >= self._sweep_at:
            self._sweep()

    def _sweep(self) -> None:
        """Forget what is over by the log's own time; often enough to bound the memory, seldom
        enough to cost little."""
        over = {at for at, expiry in self.expiries.items() if expiry <= self.newest_ns}
        self._filter(lambda position: position not in over)
        for position in over:
            self.expiries.pop(position, None)
        # A look at all keys has to be worth it.
        more = max(_SWEEP_LEAST, len(self.expiries), len(self.table) // 4)
        self._sweep_at = len(self.expiries) + more

    def begin_at(self, first: int) -> None:
        """The log has nothing before `first` any more."""
        self._filter(lambda position: position >= first)
        for position in [at for at in self.expiries if at < first]:
            self.expiries.pop(position, None)
        self.began = first
        self.reached = max(self.reached, first)

    # --- snapshots ---

    def mark(self, last: bytes) -> Mark:
        """How far it has come; `last` is the fingerprint of the last record."""
        return Mark(self.reached, self.log_id, self.began, self.epoch, last)

    def dump(self) -> Iterator[Record]:
        """What is known, as records. `loaded` is to be set to the mark before."""
        clock = _CLOCK.pack(self.newest_ns, self.mixed)
        yield Record(_HEAD + self.kind, self.loaded.pack() + clock)
        expiries = list(self.expiries.items())
        for start in range(0, len(expiries), CHUNK):
            flat = array("Q", [n for pair in expiries[start : start + CHUNK] for n in pair])
            yield Record(_EXPIRY, packed(flat))
        yield from self._dump()

    @abstractmethod
    def _dump(self) -> Iterator[Record]:
        """Keys and positions."""

    def load(self, record: Record) -> None:
        """Take in one record of a snapshot."""
        kind, key, value = record.key[:1], record.key[1:], bytes(record.value)
        try:
            if kind == _HEAD:
                self._load_head(key, value)
            elif not self.made_so:
                return  # another index's keys mean something else
            elif kind == _EXPIRY:
                flat = unpacked(value)
                self.expiries.update(zip(flat[::2], flat[1::2], strict=True))
            elif not self._load(kind, key, value):
                raise VersionError(
                    f"a record that is no index's: {record.key!r:.40}",
                    hint="A newer treering wrote it: remove the index's directory to make it anew",
                )
        except (ValueError, struct.error) as error:
            raise DamageError(f"an index's record is malformed: {record.key!r:.40}") from error

    def _load_head(self, kind: bytes, value: bytes) -> None:
        mark = Mark.unpack(value[: -_CLOCK.size])
        if mark is None:
            raise ValueError
        self.made_so, self.loaded = kind == self.kind, mark
        self.reached, self.log_id, self.began, self.epoch, _ = mark
        self.newest_ns, self.mixed = _CLOCK.unpack(value[-_CLOCK.size :])
        self.order.all_changed()

    @abstractmethod
    def _load(self, kind: bytes, key: bytes, value: bytes) -> bool:
        """Take in keys and positions; whether it is known what they are."""

    @abstractmethod
    def copy(self) -> State:
        """Another state that stays as this one is now; for a snapshot."""

    def _copied(self, other: State) -> None:
        for name in ("log_id", "began", "reached", "epoch", "newest_ns", "mixed"):
            setattr(other, name, getattr(self, name))
        other.expiries = self.expiries.copy()

    # --- queries ---

    def is_over(self, position: int, now_ns: int) -> bool:
        """Whether the record there has expired."""
        return self.expiries.get(position, now_ns + 1) <= now_ns

    @abstractmethod
    def positions(self, key: bytes, now_ns: int) -> list[int]:
        """Where the records of a key lie, the oldest first."""

    @abstractmethod
    def newest(self, key: bytes) -> int | None:
        """Where the newest one lies."""

    def keys(self) -> list[bytes]:
        """All keys in order, expired ones too. The list is never changed afterwards."""
        return self.order.of(self.table)

    def tells(self) -> object:
        """What it comes to, in a form that compares: without what is over by the log's own time,
        which may have been forgotten sooner or later."""
        found = {key: self.positions(key, self.newest_ns) for key in self.table}
        return {key: places for key, places in found.items() if places}

    @abstractmethod
    def check(self) -> bool:
        """Whether the parts of the state fit together."""


class Newest(State):
    """Of each key the newest record: what a log of keys and values comes to."""

    def __init__(self, kind: bytes, stream: int | None) -> None:
        super().__init__(kind, stream)
        self.table: dict[bytes, int] = {}

    def _put(self, record: Record, position: int) -> None:
        key, table = record.key, self.table
        before = table.get(key)
        if before is None:
            self.order.changed(key)
        elif self.expiries:
            self.expiries.pop(before, None)
        table[key] = position
        if record.expires_at_ns is not None:
            self._expires(position, record.expires_at_ns)

    def _delete(self, key: bytes) -> None:
        self.order.changed(key)
        before = self.table.get(key)
        if before is not None:
            self.expiries.pop(before, None)
            self.table.pop(key, None)  # last: an interrupt before finds it again

    def _clear(self, prefix: bytes) -> None:
        for key in [key for key in self.table if key.startswith(prefix)]:
            self._delete(key)

    def _filter(self, keep: Callable[[int], bool]) -> None:
        for key in [key for key, position in self.table.items() if not keep(position)]:
            self._delete(key)

    def _dump(self) -> Iterator[Record]:
        for key, position in self.table.items():
            if len(key) > _KEY_BYTES_MAX:  # with a kind before it, it would be no key any more
                yield Record(_ONE, POSITION.pack(position) + key)
            else:
                yield Record(_ONE + key, POSITION.pack(position))

    def _load(self, kind: bytes, key: bytes, value: bytes) -> bool:
        if kind != _ONE:
            return False
        (position,) = POSITION.unpack_from(value)
        self.table[key or value[POSITION.size :]] = position
        return True

    def copy(self) -> Newest:
        """One shallow copy of the dicts."""
        other = Newest(self.kind, self.stream)
        self._copied(other)
        other.table = self.table.copy()
        return other

    def newest(self, key: bytes) -> int | None:
        """As said above."""
        return self.table.get(key)

    def positions(self, key: bytes, now_ns: int) -> list[int]:
        """As said above."""
        position = self.table.get(key)
        return [] if position is None or self.is_over(position, now_ns) else [position]

    def check(self) -> bool:
        """As said above."""
        places = set(self.table.values())
        inside = not places or (self.began <= min(places) and max(places) < self.reached)
        return inside and len(places) == len(self.table) and self.expiries.keys() <= places


def packed(numbers: array[int]) -> bytes:
    """Numbers as bytes."""
    return struct.pack(f"<{len(numbers)}Q", *numbers)


def unpacked(data: bytes) -> tuple[int, ...]:
    """And back."""
    return struct.unpack(f"<{len(data) // 8}Q", data)
