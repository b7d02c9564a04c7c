"""Where a series' chunks are: for each the time it spans, its points, its size, and its position.

The entries are in the order of their positions, so many to a block, and a block knows the time it
spans: most metrics come in the order of time, so few blocks overlap with a query.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator
from itertools import compress
from typing import NamedTuple

from .codec import from_little, little
from .given import TIME_MAX, TIME_MIN

BLOCK_ENTRIES = 512
_KINDS = "qqIIQ"


class Entry(NamedTuple):
    """A chunk in the log: `first` and `last` are times in ns since 1970, `size` is in bytes."""

    first: int
    last: int
    points: int
    size: int
    position: int


class Block:
    """Up to BLOCK_ENTRIES entries, as columns."""

    __slots__ = ("columns", "high", "low")

    def __init__(self) -> None:
        self.columns: tuple[array[int], ...] = tuple(array(kind) for kind in _KINDS)
        self.low, self.high = TIME_MAX, TIME_MIN

    def __len__(self) -> int:
        return len(self.columns[-1])

    def append(self, entry: Entry) -> None:
        """One more."""
        for column, number in zip(self.columns, entry, strict=True):
            column.append(number)
        self.low, self.high = min(self.low, entry.first), max(self.high, entry.last)

    def __iter__(self) -> Iterator[Entry]:
        return map(Entry._make, zip(*self.columns, strict=True))

    def only(self, kept: list[bool]) -> Block:
        """One with some of its entries; itself, with all of them."""
        if all(kept):
            return self
        other = Block()
        other.columns = tuple(array(each.typecode, compress(each, kept)) for each in self.columns)
        other.low = min(other.columns[0], default=TIME_MAX)
        other.high = max(other.columns[1], default=TIME_MIN)
        return other

    def copy(self) -> Block:
        """Another one."""
        other = Block()
        other.columns = tuple(column[:] for column in self.columns)
        other.low, other.high = self.low, self.high
        return other


class Index:
    """See above. Only the last block is ever changed, so copies share the others."""

    __slots__ = ("blocks", "points", "size")

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self.points = self.size = 0

    def append(self, entry: Entry) -> None:
        """One more chunk, with a higher position than all before."""
        if not self.blocks or len(self.blocks[-1]) >= BLOCK_ENTRIES:
            self.blocks.append(Block())
        self.blocks[-1].append(entry)
        self.points += entry.points
        self.size += entry.size

    def copy(self) -> Index:
        """Another one, that stays as this one is now."""
        other = Index()
        other.blocks = [*self.blocks[:-1], *(block.copy() for block in self.blocks[-1:])]
        other.points, other.size = self.points, self.size
        return other

    def __iter__(self) -> Iterator[Entry]:
        for block in self.blocks:
            yield from block

    def __len__(self) -> int:
        return sum(map(len, self.blocks))

    @property
    def oldest(self) -> int | None:
        """The lowest position."""
        return self.blocks[0].columns[-1][0] if self.blocks else None

    def overlapping(self, start: int, end: int) -> list[Entry]:
        """The chunks that may have points from `start` up to, not including, `end`; O(blocks +
        entries of those that overlap)."""
        return [
            entry
            for block in self.blocks
            if block.low < end and block.high >= start
            for entry in block
            if entry.first < end and entry.last >= start
        ]

    def since(self, position: int) -> Iterator[Entry]:
        """The chunks at that position and after it."""
        for block in self.blocks:
            if block.columns[-1][-1] >= position:
                yield from (entry for entry in block if entry.position >= position)

    def has(self, positions: Iterable[int]) -> bool:
        """Whether there is a chunk at each of these positions."""
        lasts = [block.columns[-1][-1] for block in self.blocks]
        for position in positions:
            at = bisect_left(lasts, position)
            if at == len(lasts):
                return False
            found = self.blocks[at].columns[-1]
            if found[bisect_left(found, position)] != position:
                return False
        return True

    # --- What goes ---

    def remove(self, positions: Collection[int]) -> None:
        """Forget the chunks at these positions, all of which are there: O(blocks + entries of the
        blocks that have some)."""
        gone, lowest, highest = set(positions), min(positions), max(positions)
        self._rebuild(
            lambda block: block.columns[-1][0] <= highest and block.columns[-1][-1] >= lowest,
            lambda block: [position not in gone for position in block.columns[-1]],
        )

    def drop_before(self, time: int) -> None:
        """Forget the chunks that end before that time."""
        self._rebuild(
            lambda block: block.low < time,
            lambda block: [last >= time for last in block.columns[1]],
        )

    def _rebuild(self, touched, keep) -> None:  # type: ignore[no-untyped-def]
        blocks: list[Block] = []
        for block in self.blocks:
            if touched(block):
                kept = block.only(keep(block))
                self.points -= sum(block.columns[2]) - sum(kept.columns[2])
                self.size -= sum(block.columns[3]) - sum(kept.columns[3])
                block = kept
            if block:
                blocks.append(block)
        # The last is the one that grows, so no copy may share it: it may have been in the middle.
        self.blocks = [*blocks[:-1], *(block.copy() for block in blocks[-1:])]

    # --- Snapshots ---

    def pieces(self) -> Iterator[bytes]:
        """All entries, so many at a time: the same for the same entries, whatever the blocks."""
        piece = Block()
        for entry in self:
            piece.append(entry)
            if len(piece) == BLOCK_ENTRIES:
                yield b"".join(map(little, piece.columns))
                piece = Block()
        if piece:
            yield b"".join(map(little, piece.columns))

    def load(self, data: bytes) -> None:
        """Take in one of these, in their order; ValueError if it is none."""
        size = sum(array(kind).itemsize for kind in _KINDS)
        count, rest = divmod(len(data), size)
        if rest or not count:
            raise ValueError("a part of the index is cut short")
        at, columns = 0, []
        for kind in _KINDS:
            end = at + count * array(kind).itemsize
            columns.append(from_little(kind, data[at:end]))
            at = end
        for entry in map(Entry._make, zip(*columns, strict=True)):
            self.append(entry)

    def broken(self) -> str:
        """What does not hold; empty if all does."""
        position = -1
        for block in self.blocks:
            for entry in block:
                if entry.position <= position:
                    return "its positions do not rise"
                position = entry.position
                if not block.low <= entry.first <= entry.last <= block.high:
                    return "a chunk's times are out of bounds"
        if self.points != sum(entry.points for entry in self):
            return "its points are miscounted"
        return ""
