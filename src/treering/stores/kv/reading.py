"""The reading half of a store: the same for a store, a part of it, and a store as it was."""

from __future__ import annotations

import threading
from abc import abstractmethod
from bisect import bisect_left
from collections.abc import ItemsView, Iterator, Mapping, ValuesView
from typing import Any

from treering.fold.kit import after

from .keys import check_key
from .state import State

# start, stop, include_start, include_stop, prefix: what `span` takes.
Bounds = tuple[bytes | None, bytes | None, bool, bool, bytes | None]


class KeyIterator:
    """Keys and values in order, as they were when it was made. Goes both ways, as plyvel's: it
    stands between two items. For one thread at a time."""

    def __init__(
        self, keys: list[bytes], values: list[bytes] | None, reverse: bool, include_key: bool
    ) -> None:
        self._keys, self._values = keys, values
        self._include_key = include_key
        self._reverse = reverse
        self._at = len(keys) if reverse else 0

    def _item(self, at: int) -> Any:
        if self._values is None:
            return self._keys[at] if self._include_key else None
        return (self._keys[at], self._values[at]) if self._include_key else self._values[at]

    def __iter__(self) -> KeyIterator:
        return self

    def __next__(self) -> Any:
        return self._backwards() if self._reverse else self._forwards()

    def prev(self) -> Any:
        """The item before; StopIteration at the beginning."""
        return self._forwards() if self._reverse else self._backwards()

    def _forwards(self) -> Any:
        if self._at == len(self._keys):
            raise StopIteration
        self._at += 1
        return self._item(self._at - 1)

    def _backwards(self) -> Any:
        if self._at == 0:
            raise StopIteration
        self._at -= 1
        return self._item(self._at)

    def seek(self, target: bytes) -> None:
        """Go before the first key that is not less than `target`."""
        self._at = bisect_left(self._keys, check_key(target))

    def seek_to_start(self) -> None:
        """Go to the beginning."""
        self._at = len(self._keys) if self._reverse else 0

    def seek_to_stop(self) -> None:
        """Go to the end."""
        self._at = 0 if self._reverse else len(self._keys)

    def close(self) -> None:
        """Let go of the keys; further steps end the iteration."""
        self._keys, self._values, self._at = [], None, 0

    def __enter__(self) -> KeyIterator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Readable(Mapping[bytes, bytes]):
    """What can be read like a dict, in the order of its keys."""

    @abstractmethod
    def get(self, key: bytes, default: Any = None, **_: Any) -> Any:
        """The value of `key`, or `default`. Keywords of plyvel are ignored."""

    def iterator(
        self,
        reverse: bool = False,
        start: bytes | None = None,
        stop: bytes | None = None,
        include_start: bool = True,
        include_stop: bool = False,
        prefix: bytes | None = None,
        include_key: bool = True,
        include_value: bool = True,
        **_: Any,
    ) -> KeyIterator:
        """Keys and values between bounds, or with a prefix, in the order of the keys, as they are
        now: later changes do not show. O(keys between the bounds) at once, and O(n log n) the first
        time that the order is asked for."""
        bounds = (start, stop, include_start, include_stop, prefix)
        return self._iterate(reverse, include_key, include_value, bounds)

    @abstractmethod
    def _iterate(
        self, reverse: bool, include_key: bool, include_value: bool, bounds: Bounds
    ) -> KeyIterator:
        """See `iterator`."""

    def __getitem__(self, key: bytes) -> bytes:
        value: bytes | None = self.get(key)
        if value is None:
            raise KeyError(key)
        return value

    def __contains__(self, key: object) -> bool:
        return self.get(check_key(key)) is not None

    def __iter__(self) -> Iterator[bytes]:
        return self.iterator(include_value=False)

    def __reversed__(self) -> Iterator[bytes]:
        return self.iterator(reverse=True, include_value=False)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    # Python's own views look each key up, and another process may just have removed it.
    def items(self) -> ItemsView[bytes, bytes]:
        """As a dict's, in order; going over it shows one moment."""
        return _Items(self)

    def values(self) -> ValuesView[bytes]:
        """As a dict's, in the order of the keys; going over it shows one moment."""
        return _Values(self)


class _Items(ItemsView[bytes, bytes]):
    _mapping: Readable

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        return self._mapping.iterator()


class _Values(ValuesView[bytes]):
    _mapping: Readable

    def __iter__(self) -> Iterator[bytes]:
        return self._mapping.iterator(include_key=False)

    def __contains__(self, value: object) -> bool:
        return any(found == value for found in self)


def iterator_over(
    state: State, reverse: bool, include_key: bool, include_value: bool, bounds: Bounds
) -> KeyIterator:
    """An iterator over a state; the caller sees to it that nobody changes it meanwhile."""
    keys = state.keys_in_order(*bounds)
    values = list(map(state.items.__getitem__, keys)) if include_value else None
    return KeyIterator(keys, values, reverse, include_key)


class Prefixed(Readable):
    """The part of what can be read whose keys begin with a prefix, without it."""

    def __init__(self, db: Readable, prefix: bytes) -> None:
        self.db = db
        self.prefix = check_key(prefix)

    def get(self, key: bytes, default: Any = None, **_: Any) -> Any:
        """As the store's."""
        return self.db.get(self.prefix + check_key(key), default)

    def _iterate(
        self, reverse: bool, include_key: bool, include_value: bool, bounds: Bounds
    ) -> KeyIterator:
        whole = self.db._iterate(reverse, True, include_value, self._bounds(*bounds))
        keys = [key[len(self.prefix) :] for key in whole._keys]
        return KeyIterator(keys, whole._values, reverse, include_key)

    def _bounds(
        self,
        start: bytes | None,
        stop: bytes | None,
        include_start: bool,
        include_stop: bool,
        prefix: bytes | None,
    ) -> Bounds:
        """The same bounds in the whole."""
        mine = self.prefix
        if prefix is not None:
            both = None if start is stop is None else b""  # which is refused
            return both, None, True, False, mine + check_key(prefix)
        return (
            mine + check_key(start or b""),
            after(mine) if stop is None else mine + check_key(stop),
            include_start or start is None,
            include_stop and stop is not None,
            None,
        )

    def prefixed_db(self, prefix: bytes) -> Prefixed:
        """A part of this part."""
        return type(self)(self.db, self.prefix + check_key(prefix))


class View(Readable):
    """A store as it was at a position: read-only, and standing still, expiries included.
    Thread-safe. `position` is that position."""

    def __init__(self, state: State, position: int, now_ns: int) -> None:
        state.clock, state.newest_ns = (lambda: now_ns), now_ns
        self._state = state
        self._lock = threading.RLock()
        self.position = position

    def get(self, key: bytes, default: Any = None, **_: Any) -> Any:
        """The value then, or `default`."""
        value = self._state.get(check_key(key))
        return default if value is None else value

    def __len__(self) -> int:
        return self._state.count()

    def _iterate(
        self, reverse: bool, include_key: bool, include_value: bool, bounds: Bounds
    ) -> KeyIterator:
        with self._lock:
            return iterator_over(self._state, reverse, include_key, include_value, bounds)

    def prefixed_db(self, prefix: bytes) -> Prefixed:
        """The part of it whose keys begin with `prefix`, without it."""
        return Prefixed(self, prefix)

    def close(self) -> None:
        """Let go of the copy: it is empty then."""
        self._state = State()

    def __enter__(self) -> View:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
