"""What a key-value store's records come to.

A put is a put, with or without an expiry; a delete is a tombstone; a tombstone with the header
`treering-clear` removes every key that begins with its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, MutableMapping

from treering import Record
from treering.fold import Overlay
from treering.fold.kit import KeyOrder, is_clear

from .keys import span

_SWEEP_LEAST = 1024


class State:
    """The values that are there, and when some expire. Taking in a record twice in a row is the
    same as once.

    Other threads may `get` while one changes it: the order of the steps below sees to it that they
    find the old value or the new one, and never a value that is over.
    """

    label = b"treering key-value 1"

    def __init__(self, clock: Callable[[], int] = time.time_ns) -> None:
        self.items: MutableMapping[bytes, bytes] = {}
        self.expiries: MutableMapping[bytes, int] = {}
        self.newest_ns = 0  # of all records: no clock that steps back brings an expired value back
        self.clock = clock
        self._order = KeyOrder()
        self._sweep_at = _SWEEP_LEAST

    # --- apply ---

    def apply(self, record: Record) -> None:
        """Take in one record of the log."""
        stamp, key = record.timestamp_ns or 0, record.key
        if stamp > self.newest_ns:
            self.newest_ns = stamp
        if record.tombstone:
            if is_clear(record):
                self._clear(key)
            else:
                self.remove(key)
            return
        expiry = record.expires_at_ns
        if expiry is None:
            self.set(key, bytes(record.value))
            return
        if key not in self.items:
            self._order.changed(key)
        self.items[key] = bytes(record.value)
        self.expiries[key] = expiry
        if len(self.expiries) >= self._sweep_at:
            self._sweep()

    def set(self, key: bytes, value: bytes) -> None:
        """A put without an expiry."""
        if key not in self.items:
            self._order.changed(key)
        self.items[key] = value
        if self.expiries:
            self.expiries.pop(key, None)

    def remove(self, key: bytes) -> None:
        """A delete."""
        self._order.changed(key)
        self.items.pop(key, None)
        if self.expiries:
            self.expiries.pop(key, None)

    def _clear(self, prefix: bytes) -> None:
        self._order.all_changed()
        if prefix:
            for key in [key for key in self.items if key.startswith(prefix)]:
                self.remove(key)
        else:
            self.items.clear()
            self.expiries.clear()

    def _sweep(self) -> None:
        """Forget what is over by the log's own time; often enough to bound the memory, seldom
        enough to cost little."""
        for key in [key for key, at in self.expiries.items() if at <= self.newest_ns]:
            self.remove(key)
        self._sweep_at = max(_SWEEP_LEAST, 2 * len(self.expiries))

    # --- snapshots ---

    def dump(self) -> Iterator[Record]:
        """The values that are not over by the log's own time, for a snapshot."""
        newest_ns, expiries = self.newest_ns, self.expiries
        for key, value in self.items.items():
            expiry = expiries.get(key)
            if expiry is None or expiry > newest_ns:
                yield Record(key, value, timestamp_ns=newest_ns or None, expires_at_ns=expiry)

    def load(self, record: Record) -> None:
        """Take in one record of a snapshot."""
        self.items[record.key] = bytes(record.value)
        if record.expires_at_ns is not None:
            self.expiries[record.key] = record.expires_at_ns
        if self.newest_ns == 0:
            self.newest_ns = record.timestamp_ns or 0
            self._order.all_changed()

    def copy(self) -> State:
        """Another state that stays as this one is now: one shallow copy of the dicts."""
        return self._with(dict(self.items), dict(self.expiries))

    def scratch(self) -> State:
        """Another state that shows this one, and later changes, which leave this one alone."""
        return self._with(Overlay(self.items), Overlay(self.expiries))

    def _with(
        self, items: MutableMapping[bytes, bytes], expiries: MutableMapping[bytes, int]
    ) -> State:
        other = State(self.clock)
        other.items, other.expiries, other.newest_ns = items, expiries, self.newest_ns
        other._order = self._order.copy()
        return other

    # --- queries ---

    def now_ns(self) -> int:
        """The time by which values expire."""
        return max(self.clock(), self.newest_ns)

    def get(self, key: bytes) -> bytes | None:
        """The value, unless there is none or it is over."""
        expiry = self.expiries.get(key)  # first: see above
        value = self.items.get(key)
        if value is None or (expiry is not None and expiry <= self.now_ns()):
            return None
        return value

    def count(self) -> int:
        """How many keys have a value: O(keys with an expiry)."""
        now_ns = self.now_ns()
        over = sum(1 for at in self.expiries.values() if at <= now_ns) if self.expiries else 0
        return len(self.items) - over

    def keys_in_order(
        self,
        start: bytes | None = None,
        stop: bytes | None = None,
        include_start: bool = True,
        include_stop: bool = False,
        prefix: bytes | None = None,
    ) -> list[bytes]:
        """The keys that have a value and lie between the bounds, sorted; a list of its own."""
        keys = self._order.of(self.items)
        chosen = keys[span(keys, start, stop, include_start, include_stop, prefix)]
        if not self.expiries:
            return chosen
        now_ns, expiries = self.now_ns(), self.expiries
        return [key for key in chosen if key not in expiries or expiries[key] > now_ns]

    def last_key(self) -> bytes | None:
        """The greatest key that has a value; None if there is none."""
        now_ns = self.now_ns()
        for key in reversed(self._order.of(self.items, keep=False)):
            if self.expiries.get(key, now_ns + 1) > now_ns:
                return key
        return None
