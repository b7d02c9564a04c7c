"""What a key-value store's records come to."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterator

from treering import Record

# Above this share of new keys, sorting them all is quicker than placing each.
_PLACED_SHARE = 1 / 64


class State:
    """What the log's records come to: the values that are there, and when some expire."""

    label = b"treering key-value 1"

    def __init__(self) -> None:
        self.items: dict[bytes, bytes] = {}
        self.expiries: dict[bytes, int] = {}
        self.newest_ns = 0  # of all records: no clock that steps back brings an expired value back
        self._sorted: list[bytes] = []
        self._fresh: set[bytes] = set()  # keys that came since, or went and came
        self._gone = False  # keys went since
        self._unsorted = False

    def apply(self, record: Record) -> None:
        """Take in one record of the log."""
        stamp = record.timestamp_ns or 0
        if stamp > self.newest_ns:
            self.newest_ns = stamp
        if record.tombstone:
            self.remove(record.key)
        else:
            self.set(record.key, bytes(record.value))
            if record.expires_at_ns is not None:
                self.expiries[record.key] = record.expires_at_ns

    def set(self, key: bytes, value: bytes) -> None:
        """A put without an expiry."""
        if key not in self.items:
            self._fresh.add(key)
        elif self.expiries:
            self.expiries.pop(key, None)
        self.items[key] = value

    def remove(self, key: bytes) -> None:
        """A delete."""
        if self.items.pop(key, None) is not None:
            self.expiries.pop(key, None)
            self._gone = True

    def dump(self) -> Iterator[Record]:
        """The values that have not expired, for a snapshot."""
        now, expiries = self.now_ns(), self.expiries
        for key, value in self.items.items():
            expiry = expiries.get(key)
            if expiry is None or expiry > now:
                yield Record(key, value, timestamp_ns=self.newest_ns or None, expires_at_ns=expiry)

    def load(self, record: Record) -> None:
        """Take in one record of a snapshot."""
        self.items[record.key] = bytes(record.value)
        self._unsorted = True
        if record.expires_at_ns is not None:
            self.expiries[record.key] = record.expires_at_ns
        if self.newest_ns == 0:
            self.newest_ns = record.timestamp_ns or 0

    def copy(self) -> State:
        """Another state that stays as this one is now: one shallow copy of the dicts."""
        other = State()
        other.items, other.expiries = self.items.copy(), self.expiries.copy()
        other.newest_ns = self.newest_ns
        other._sorted, other._fresh = self._sorted, set(self._fresh)
        other._gone, other._unsorted = self._gone, self._unsorted
        return other

    def now_ns(self) -> int:
        """The time by which values expire."""
        return max(time.time_ns(), self.newest_ns)

    def get(self, key: bytes) -> bytes | None:
        """The value, unless there is none or it has expired."""
        value = self.items.get(key)
        if value is not None and self.expiries and self.expired(key):
            return None
        return value

    def expired(self, key: bytes) -> bool:
        """Whether the value is over."""
        expiry = self.expiries.get(key)
        return expiry is not None and expiry <= self.now_ns()

    def keys_in_order(self) -> list[bytes]:
        """All keys, sorted; expired ones too. The list is never changed afterwards."""
        if self._unsorted:
            self._sorted, self._fresh = sorted(self.items), set()
            self._gone = self._unsorted = False
        if self._gone:
            self._sorted = [key for key in self._sorted if key in self.items]
            self._gone = False
        if self._fresh:
            fresh = self._fresh.intersection(self.items)
            if len(fresh) < len(self._sorted) * _PLACED_SHARE:
                placed = self._sorted.copy()
                for key in fresh:
                    at = bisect_left(placed, key)
                    if at == len(placed) or placed[at] != key:
                        placed.insert(at, key)
                self._sorted = placed
            else:
                self._sorted = sorted(self.items)
            self._fresh = set()
        return self._sorted
