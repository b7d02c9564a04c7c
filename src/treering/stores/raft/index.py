"""Where the entries are: position in the log and term by index, 16 bytes an entry.

So many consecutive entries are a chunk, one flat array of position, term, position, term … Entry i
is in chunk i // CHUNK_ENTRIES, so the same log gives the same chunks. A full chunk is never
changed, so copies share it; what is cut becomes a new one.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from operator import ge, gt

CHUNK_ENTRIES = 4096
_FULL = 2 * CHUNK_ENTRIES


class Index:
    """The entries after `before` up to `last`: none if these are the same."""

    __slots__ = ("_chunks", "_number", "before", "last")

    def __init__(self, before: int = 0) -> None:
        self.begin_at(before)

    def begin_at(self, before: int) -> None:
        """No entries; the next one gets the index after `before`."""
        self.before = self.last = before
        self._number, inside = divmod(before + 1, CHUNK_ENTRIES)
        self._chunks = [array("Q", bytes(16 * inside))]

    # --- Changes ---

    def append(self, position: int, term: int) -> None:
        """One more entry."""
        tail = self._chunks[-1]
        if len(tail) == _FULL:
            tail = array("Q")
            self._chunks.append(tail)
        tail.append(position)
        tail.append(term)
        self.last += 1

    def cut(self, last: int) -> None:
        """Forget the entries after `last`, which is at least `before`."""
        if last >= self.last:
            return
        number, inside = divmod(last + 1, CHUNK_ENTRIES)
        at = number - self._number
        self._chunks = [*self._chunks[:at], self._chunks[at][: 2 * inside]]
        self.last = last

    def trim(self, before: int) -> None:
        """Forget the entries up to `before`."""
        if before >= self.last:
            self.begin_at(before)
        elif before > self.before:
            number = (before + 1) // CHUNK_ENTRIES
            self._chunks = self._chunks[number - self._number :]
            self._number, self.before = number, before

    def copy(self) -> Index:
        """Another one that stays as this one is now: O(entries / CHUNK_ENTRIES)."""
        other = Index()
        other._chunks = [*self._chunks[:-1], self._chunks[-1][:]]
        other._number, other.before, other.last = self._number, self.before, self.last
        return other

    # --- Queries, for indices that are there ---

    def position(self, index: int) -> int:
        """Where the entry is in the log."""
        number, inside = divmod(index, CHUNK_ENTRIES)
        return self._chunks[number - self._number][2 * inside]

    def term(self, index: int) -> int:
        """The term of the entry."""
        number, inside = divmod(index, CHUNK_ENTRIES)
        return self._chunks[number - self._number][2 * inside + 1]

    def positions(self, low: int, high: int) -> list[int]:
        """Where the entries from `low` to before `high` are."""
        found: list[int] = []
        while low < high:
            number, inside = divmod(low, CHUNK_ENTRIES)
            some = min(high - low, CHUNK_ENTRIES - inside)
            chunk = self._chunks[number - self._number]
            found += chunk[2 * inside : 2 * (inside + some) : 2]
            low += some
        return found

    # --- Checkpoints ---

    def pieces(self) -> Iterator[tuple[int, array[int]]]:
        """What is there of each chunk, and the index of its first entry."""
        for at, chunk in enumerate(self._chunks):
            base = (self._number + at) * CHUNK_ENTRIES
            skip = max(self.before + 1 - base, 0)
            if 2 * skip < len(chunk):
                yield base + skip, chunk[2 * skip :]

    def load(self, first: int, piece: array[int]) -> bool:
        """Take in one of these, in their order; whether it was the next one."""
        if len(self._chunks[-1]) == _FULL:
            self._chunks.append(array("Q"))
        tail = self._chunks[-1]
        fits = len(piece) % 2 == 0 and len(tail) + len(piece) <= _FULL
        if first != self.last + 1 or not fits:
            return False
        tail.extend(piece)
        self.last += len(piece) // 2
        return True

    def sound(self, term: int) -> bool:
        """Whether positions rise, and terms do not fall from `term` on."""
        position, following = -1, self.before + 1
        for first, piece in self.pieces():
            positions, terms = piece[::2], piece[1::2]
            if first != following or positions[0] <= position or terms[0] < term:
                return False
            if any(map(ge, positions, positions[1:])) or any(map(gt, terms, terms[1:])):
                return False
            position, term = positions[-1], terms[-1]
            following += len(positions)
        return following == self.last + 1
