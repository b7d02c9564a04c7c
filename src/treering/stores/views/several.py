"""What an index over something else than the records' own keys knows: several positions a key."""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise

from treering import Record, UsageError

from .state import CHUNK, POSITION, State, packed, unpacked

KeyFunction = Callable[[Record], bytes | Iterable[bytes] | None]

# Kinds of a snapshot's records, as in state.py.
_SEVERAL, _NEWEST = b"n", b"l"
_LENGTH = struct.Struct("<H")


class Several(State):
    """Of each key that a function finds in records all of these; with `latest` only those records
    that no later one with the same key of its own has replaced or removed."""

    def __init__(
        self, kind: bytes, stream: int | None, function: KeyFunction, latest: bool
    ) -> None:
        super().__init__(kind, stream)
        self._function, self._latest = function, latest
        self.table: dict[bytes, array[int]] = {}
        self._of: dict[bytes, tuple[int, tuple[bytes, ...]]] = {}

    def _put(self, record: Record, position: int) -> None:
        found = self._keys_of(record, position)
        if self._latest:
            self._delete(record.key)
            self._of[record.key] = (position, found)
        for key in found:
            self._add(key, position)
        if found and record.expires_at_ns is not None:
            self._expires(position, record.expires_at_ns)

    def _keys_of(self, record: Record, position: int) -> tuple[bytes, ...]:
        try:
            found = self._function(record)
            keys = (found,) if isinstance(found, bytes) else tuple(() if found is None else found)
        except Exception as error:
            error.add_note(f"in the index's key function, at position {position}")
            raise
        for key in keys:
            if not isinstance(key, bytes):
                raise UsageError(
                    f"the key function gave {type(key).__name__} for the record at {position}",
                    position=position,
                    hint="Let it return bytes, several in a list, or None",
                )
        return keys

    def _add(self, key: bytes, position: int) -> None:
        places = self.table.get(key)
        if places is None:
            self.order.changed(key)
            self.table[key] = array("Q", (position,))
        elif places[-1] < position:
            places.append(position)
        else:  # again, after an interrupt, or from a snapshot in another order
            at = bisect_left(places, position)
            if places[at] != position:
                places.insert(at, position)

    def _remove(self, key: bytes, position: int) -> None:
        places = self.table.get(key)
        if places is None:
            return
        at = bisect_left(places, position)
        if at < len(places) and places[at] == position:
            del places[at]
        if not places:
            self.order.changed(key)
            self.table.pop(key, None)

    def _delete(self, key: bytes) -> None:
        known = self._of.get(key) if self._latest else None
        if known is not None:
            position, keys = known
            for each in keys:
                self._remove(each, position)
            self.expiries.pop(position, None)
            self._of.pop(key, None)  # last: an interrupt before finds it again

    def _clear(self, prefix: bytes) -> None:
        for key in [key for key in self._of if key.startswith(prefix)]:
            self._delete(key)

    def _filter(self, keep: Callable[[int], bool]) -> None:
        for key in [key for key, (position, _) in self._of.items() if not keep(position)]:
            self._delete(key)
        for key, places in list(self.table.items()):
            kept = array("Q", filter(keep, places))
            if not kept:
                self.order.changed(key)
                self.table.pop(key, None)
            elif len(kept) < len(places):
                self.table[key] = kept

    def _dump(self) -> Iterator[Record]:
        if self._latest:
            for key, (position, keys) in self._of.items():
                parts = [_LENGTH.pack(len(each)) + each for each in (key, *keys)]
                yield Record(_NEWEST, POSITION.pack(position) + b"".join(parts))
            return
        for key, places in self.table.items():
            head = _LENGTH.pack(len(key)) + key
            for start in range(0, len(places), CHUNK):
                yield Record(_SEVERAL, head + packed(places[start : start + CHUNK]))

    def _load(self, kind: bytes, key: bytes, value: bytes) -> bool:
        if kind == _NEWEST:
            (position,) = POSITION.unpack_from(value)
            name, *keys = _texts(value, POSITION.size)
            self._of[name] = (position, tuple(keys))
            for each in keys:
                self._add(each, position)
        elif kind == _SEVERAL:
            (length,) = _LENGTH.unpack_from(value)
            at = _LENGTH.size + length
            for position in unpacked(value[at:]):
                self._add(value[_LENGTH.size : at], position)
        else:
            return False
        return True

    def copy(self) -> Several:
        """Copies of all arrays."""
        other = Several(self.kind, self.stream, self._function, self._latest)
        self._copied(other)
        other.table = {key: places[:] for key, places in self.table.items()}
        other._of = self._of.copy()
        return other

    def newest(self, key: bytes) -> int | None:
        """As said above."""
        places = self.table.get(key)
        return places[-1] if places else None

    def positions(self, key: bytes, now_ns: int) -> list[int]:
        """As said above."""
        places = self.table.get(key, ())
        if not self.expiries:
            return list(places)
        return [position for position in places if not self.is_over(position, now_ns)]

    def check(self) -> bool:
        """As said above."""
        for places in self.table.values():
            inside = places and self.began <= places[0] and places[-1] < self.reached
            if not inside or any(a >= b for a, b in pairwise(places)):
                return False
        there = {position for places in self.table.values() for position in places}
        mine = {position for position, keys in self._of.values() if keys}
        return self.expiries.keys() <= there and (not self._latest or mine == there)


def _texts(data: bytes, at: int) -> Iterator[bytes]:
    while at < len(data):
        (length,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size + length
        if at > len(data):
            raise ValueError
        yield data[at - length : at]
