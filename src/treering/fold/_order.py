"""Keys in order: nothing is done for it until somebody asks."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping

# So many changes are placed one by one; more are quicker merged in, and a lot more sorted anew.
_PLACED_MAX = 64
_TOLD_LEAST = 10_000


class KeyOrder:
    """The sorted keys of a mapping that says which of its keys came and went."""

    def __init__(self) -> None:
        self._keys: list[bytes] = []
        self._changed: set[bytes] | None = set()  # None: too many to tell
        self._lent = False

    def changed(self, key: bytes) -> None:
        """This key came or went."""
        if self._changed is not None:
            self._changed.add(key)
            if len(self._changed) > len(self._keys) + _TOLD_LEAST:
                self._changed = None

    def all_changed(self) -> None:
        """Many did."""
        self._changed = None

    def copy(self) -> KeyOrder:
        """Another one, for a copy of the mapping."""
        other = KeyOrder()
        self._lent = other._lent = True
        other._keys = self._keys
        other._changed = None if self._changed is None else self._changed.copy()
        return other

    def of(self, items: Mapping[bytes, object], *, keep: bool = True) -> list[bytes]:
        """All keys, sorted. The list is never changed afterwards, unless `keep` is False."""
        changed, self._changed = self._changed, None  # until it is done
        if changed is None:
            self._keys, self._lent = sorted(items), False
        elif changed:
            keys = self._keys.copy() if self._lent else self._keys
            place = _placed if len(changed) <= _PLACED_MAX else _merged
            self._keys, self._lent = place(keys, changed, items), False
        self._lent = self._lent or keep
        self._changed = set()
        return self._keys


def _placed(keys: list[bytes], changed: set[bytes], items: Mapping[bytes, object]) -> list[bytes]:
    for key in changed:
        at = bisect_left(keys, key)
        there = at < len(keys) and keys[at] == key
        if key in items and not there:
            keys.insert(at, key)
        elif there and key not in items:
            del keys[at]
    return keys


def _merged(keys: list[bytes], changed: set[bytes], items: Mapping[bytes, object]) -> list[bytes]:
    merged = [key for key in keys if key not in changed]
    merged += sorted(key for key in changed if key in items)
    merged.sort()  # two runs in order: linear
    return merged


def after(prefix: bytes) -> bytes | None:
    """The least key greater than all that begin with the prefix; None if there is none."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1]) if stem else None
