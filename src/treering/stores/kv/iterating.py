"""Keys and values in order, and a store as it was."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import Any

from treering import UsageError

from .state import State


def check_key(key: Any) -> bytes:
    """The key; UsageError (a TypeError, too) for what is not bytes."""
    if not isinstance(key, bytes):
        raise UsageError(
            f"a key is bytes, not {type(key).__name__}",
            hint="Encode the text first, or open the store with treering.stores.kv.open",
        )
    return key


def span(
    keys: list[bytes],
    start: bytes | None,
    stop: bytes | None,
    include_start: bool,
    include_stop: bool,
    prefix: bytes | None,
) -> slice:
    """Which of the sorted keys lie between the bounds, and begin with the prefix."""
    low, high = 0, len(keys)
    if prefix is not None:
        if start is not None or stop is not None:
            raise UsageError("give a prefix, or start and stop, not both")
        start, include_start = check_key(prefix), True
        stop, include_stop = _after(prefix), False
    if start is not None:
        low = (bisect_left if include_start else bisect_right)(keys, check_key(start))
    if stop is not None:
        high = (bisect_right if include_stop else bisect_left)(keys, check_key(stop))
    return slice(low, max(low, high))


def _after(prefix: bytes) -> bytes | None:
    """The least key greater than all that begin with the prefix; None if there is none."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1]) if stem else None


class KeyIterator:
    """Keys and values in order, as they were when it was made. Goes both ways, as plyvel's."""

    def __init__(
        self,
        keys: list[bytes],
        values: dict[bytes, bytes],
        reverse: bool,
        include_key: bool,
        include_value: bool,
    ) -> None:
        self._keys, self._values = keys, values
        self._reverse, self._include = reverse, (include_key, include_value)
        self._at = len(keys) if reverse else 0  # between two keys

    def _item(self, key: bytes) -> Any:
        if self._include == (True, True):
            return key, self._values[key]
        if self._include == (True, False):
            return key
        return self._values[key] if self._include[1] else None

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
        return self._item(self._keys[self._at - 1])

    def _backwards(self) -> Any:
        if self._at == 0:
            raise StopIteration
        self._at -= 1
        return self._item(self._keys[self._at])

    def seek(self, target: bytes) -> None:
        """Go before the first key that is not less than `target`."""
        self._at = bisect_left(self._keys, target)

    def seek_to_start(self) -> None:
        """Go to the beginning."""
        self._at = len(self._keys) if self._reverse else 0

    def seek_to_stop(self) -> None:
        """Go to the end."""
        self._at = 0 if self._reverse else len(self._keys)

    def part(
        self,
        skip: int,
        start: bytes | None,
        stop: bytes | None,
        include_start: bool,
        include_stop: bool,
        include_key: bool,
        include_value: bool,
    ) -> KeyIterator:
        """One over a part of the keys, without their first `skip` bytes."""
        keys = [key[skip:] for key in self._keys]
        values = {key[skip:]: self._values[key] for key in self._keys} if include_value else {}
        chosen = keys[span(keys, start, stop, include_start, include_stop, None)]
        return KeyIterator(chosen, values, self._reverse, include_key, include_value)

    def close(self) -> None:
        """Let go of the keys."""
        self._keys, self._values, self._at = [], {}, 0

    def __enter__(self) -> KeyIterator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class View:
    """A store as it was at a position: `get`, `iterator`, and the reading half of a mapping."""

    def __init__(self, state: State, position: int | None) -> None:
        self._state = state
        self.position = position

    def get(self, key: bytes, default: Any = None, **_: Any) -> Any:
        """The value then, or `default`."""
        value = self._state.get(check_key(key))
        return default if value is None else value

    def __getitem__(self, key: bytes) -> bytes:
        value: bytes | None = self.get(key)
        if value is None:
            raise KeyError(key)
        return value

    def __contains__(self, key: bytes) -> bool:
        return self.get(key) is not None

    def __len__(self) -> int:
        return sum(1 for key in self._state.items if not self._state.expired(key))

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.iterator(include_value=False))

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
        """As the store's."""
        state = self._state
        keys = state.keys_in_order()
        chosen_span = span(keys, start, stop, include_start, include_stop, prefix)
        chosen = [key for key in keys[chosen_span] if not state.expired(key)]
        return KeyIterator(chosen, state.items, reverse, include_key, include_value)

    def close(self) -> None:
        """Let go of the copy."""
        self._state = State()

    def __enter__(self) -> View:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
