"""A sorted collection whose copies cost next to nothing."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from typing import Any

_BLOCK = 512


class Sorted:
    """Items in order, each once, in blocks that copies share until they are changed: adding and
    removing is O(log n), a copy O(n / 512)."""

    def __init__(self, items: Iterable[Any] = ()) -> None:
        all_items = sorted(items)
        self._blocks = [all_items[at : at + _BLOCK] for at in range(0, len(all_items), _BLOCK)]
        self._firsts = [block[0] for block in self._blocks]
        self._shared: set[int] = set()  # the ids of blocks that a copy may have, too

    def add(self, item: Any) -> None:
        """Put it in its place, unless it is there."""
        if not self._blocks:
            self._blocks, self._firsts = [[item]], [item]
            return
        at = max(0, bisect_right(self._firsts, item) - 1)
        block = self._blocks[at]
        place = bisect_left(block, item)
        if place < len(block) and block[place] == item:
            return
        block = self._own(at)
        block.insert(place, item)
        if place == 0:
            self._firsts[at] = item
        if len(block) > 2 * _BLOCK:
            rest = block[_BLOCK:]
            del block[_BLOCK:]
            self._blocks.insert(at + 1, rest)
            self._firsts.insert(at + 1, rest[0])

    def discard(self, item: Any) -> None:
        """Take it out, if it is there."""
        at = bisect_right(self._firsts, item) - 1
        if at < 0:
            return
        place = bisect_left(self._blocks[at], item)
        if place == len(self._blocks[at]) or self._blocks[at][place] != item:
            return
        block = self._own(at)
        del block[place]
        if not block:
            del self._blocks[at], self._firsts[at]
        elif place == 0:
            self._firsts[at] = block[0]

    def _own(self, at: int) -> list[Any]:
        """The block there, which no copy has."""
        block = self._blocks[at]
        if id(block) in self._shared:
            self._shared.discard(id(block))
            block = self._blocks[at] = block.copy()
        return block

    def copy(self) -> Sorted:
        """Another one."""
        other = Sorted()
        other._blocks, other._firsts = self._blocks.copy(), self._firsts.copy()
        self._shared = set(map(id, self._blocks))
        other._shared = self._shared.copy()
        return other

    def between(self, low: Any = None, high: Any = None) -> list[Any]:
        """The items from `low` on that lie before `high`; None: no bound."""
        first, start = (0, 0) if low is None else self._find(low)
        last, stop = (len(self._blocks), 0) if high is None else self._find(high)
        if (first, start) >= (last, stop):
            return []
        if first == last:
            return self._blocks[first][start:stop]
        found = self._blocks[first][start:]
        for block in self._blocks[first + 1 : last]:
            found += block
        if stop:
            found += self._blocks[last][:stop]
        return found

    def _find(self, bound: Any) -> tuple[int, int]:
        """The block and the place in it of the first item that is not less."""
        at = max(0, bisect_left(self._firsts, bound) - 1)
        if at == len(self._blocks):
            return at, 0
        return at, bisect_left(self._blocks[at], bound)
