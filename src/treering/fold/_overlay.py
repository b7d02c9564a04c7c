"""A mapping that shows another one with changes on top, which leave that one as it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any, TypeVar

K = TypeVar("K")
V = TypeVar("V")

_GONE: Any = object()


class Overlay(MutableMapping[K, V]):
    """See above; O(1) to make. What lies below must stay as it is meanwhile."""

    def __init__(self, below: Mapping[K, V]) -> None:
        self._below = below
        self._changes: dict[K, V] = {}
        self._length = len(below)

    def __getitem__(self, key: K) -> V:
        value = self._changes.get(key, self._below)
        if value is self._below:
            return self._below[key]
        if value is _GONE:
            raise KeyError(key)
        return value  # type: ignore[return-value]

    def __setitem__(self, key: K, value: V) -> None:
        self._length += key not in self
        self._changes[key] = value

    def __delitem__(self, key: K) -> None:
        if key not in self:
            raise KeyError(key)
        self._changes[key] = _GONE
        self._length -= 1

    def __iter__(self) -> Iterator[K]:
        yield from (key for key in self._below if key not in self._changes)
        yield from (key for key, value in self._changes.items() if value is not _GONE)

    def clear(self) -> None:
        """Show nothing."""
        self._below, self._changes, self._length = {}, {}, 0

    def copy(self) -> dict[K, V]:
        """All of it, as a dict."""
        return dict(self)

    def __len__(self) -> int:
        return self._length

    def __bool__(self) -> bool:
        return self._length > 0
