"""Where a topic's messages are: their positions in the log, rising, and their sizes.

Messages are counted from the topic's first one on; so many consecutive ones are a chunk: two flat
arrays, 12 bytes a message. Removing from the front lets go of whole chunks.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from operator import ge

CHUNK_MESSAGES = 4096


class Chunk:
    """Up to CHUNK_MESSAGES consecutive messages."""

    __slots__ = ("_total", "positions", "sizes")

    def __init__(self) -> None:
        self.positions: array[int] = array("Q")
        self.sizes: array[int] = array("I")
        self._total: int | None = None

    def total(self) -> int:
        """The bytes of all its messages."""
        if len(self.positions) < CHUNK_MESSAGES:
            return sum(self.sizes[: len(self.positions)])
        if self._total is None:
            self._total = sum(self.sizes[:CHUNK_MESSAGES])
        return self._total

    def copy(self) -> Chunk:
        """Another one."""
        other = Chunk()
        other.positions, other.sizes = self.positions[:], self.sizes[:]
        return other


class Index:
    """See above. `start` counts the messages that were removed from the front.

    A full chunk is never changed, so copies share it. Taking in a position again changes nothing,
    also after an interrupt in the middle: the positions are what counts, and are added last.
    """

    __slots__ = ("chunks", "number", "start")

    def __init__(self) -> None:
        self.chunks = [Chunk()]
        self.number = 0  # of the first chunk
        self.start = 0

    @property
    def end(self) -> int:
        """The count that the next message gets."""
        full = self.number + len(self.chunks) - 1
        return full * CHUNK_MESSAGES + len(self.chunks[-1].positions)

    def __len__(self) -> int:
        return self.end - self.start

    # --- Changes ---

    def append(self, position: int, size: int) -> None:
        """One more message."""
        tail = self.chunks[-1]
        positions, sizes = tail.positions, tail.sizes
        if positions:
            if positions[-1] >= position:
                return
            if len(positions) >= CHUNK_MESSAGES:
                self.chunks.append(Chunk())
                self.append(position, size)
                return
        if len(sizes) > len(positions):
            del sizes[len(positions) :]  # an interrupt had come in between
        sizes.append(size)
        positions.append(position)

    def extend(self, positions: range, sizes: Sequence[int]) -> None:
        """Many at once."""
        done = 0
        while done < len(positions):
            tail = self.chunks[-1]
            room = CHUNK_MESSAGES - len(tail.positions)
            if room == 0:
                self.chunks.append(Chunk())
                continue
            del tail.sizes[len(tail.positions) :]
            tail.sizes.extend(sizes[done : done + room])
            tail.positions.extend(positions[done : done + room])
            done += room

    def trim(self, position: int) -> int | None:
        """Forget the messages before `position`; where the newest of them was."""
        start, before = self.find(position), self.start
        if start == before:
            return None
        newest = self.at(start - 1)
        self.start = start
        whole = start // CHUNK_MESSAGES - self.number
        if whole >= len(self.chunks):  # the last one was full, and goes too
            self.chunks, self.number = [Chunk()], start // CHUNK_MESSAGES
        elif whole:
            self.chunks, self.number = self.chunks[whole:], self.number + whole
        return newest

    def copy(self) -> Index:
        """Another one, that stays as this one is now."""
        other = Index()
        other.chunks = [*self.chunks[:-1], self.chunks[-1].copy()]
        other.number, other.start = self.number, self.start
        return other

    # --- Queries ---

    def find(self, position: int) -> int:
        """The count of the first message at `position` or after it."""
        chunks = self.chunks
        at = bisect_right(chunks, position, key=_first) - 1
        if at < 0:
            return self.start
        inside = bisect_left(chunks[at].positions, position)
        return max(self.start, (self.number + at) * CHUNK_MESSAGES + inside)

    def at(self, count: int) -> int:
        """The position of the message with that count."""
        chunk, inside = divmod(count, CHUNK_MESSAGES)
        return self.chunks[chunk - self.number].positions[inside]

    def some(self, count: int, most: int) -> array[int]:
        """Positions from that count on, at most so many; may be fewer, but none only at the end."""
        chunk, inside = divmod(count, CHUNK_MESSAGES)
        if not 0 <= chunk - self.number < len(self.chunks):
            return array("Q")
        return self.chunks[chunk - self.number].positions[inside : inside + most]

    def each(self) -> Iterator[int]:
        """All positions."""
        for _, positions, _ in self.pieces():
            yield from positions

    @property
    def first(self) -> int | None:
        """The oldest message's position."""
        return self.at(self.start) if self.end > self.start else None

    @property
    def last(self) -> int | None:
        """The newest message's position."""
        return self.at(self.end - 1) if self.end > self.start else None

    def within(self, positions: list[int], limit: int) -> list[int]:
        """As many of these consecutive messages as have at most `limit` bytes, but at least one."""
        if not positions:
            return positions
        chunk, inside = divmod(self.find(positions[0]), CHUNK_MESSAGES)
        sizes = self.chunks[chunk - self.number].sizes[inside : inside + len(positions)]
        if sum(sizes) <= limit:
            return positions
        return positions[: max(1, bisect_right(list(accumulate(sizes)), limit))]

    def size(self) -> int:
        """The bytes of all messages that are there: O(messages / CHUNK_MESSAGES)."""
        gone = sum(self.chunks[0].sizes[: self._skipped(0)])
        return sum(chunk.total() for chunk in self.chunks) - gone

    def newest(self, limit: int) -> int | None:
        """The position from which on the messages have at most `limit` bytes; None for none.
        O(messages / CHUNK_MESSAGES)."""
        found = None
        for at in range(len(self.chunks) - 1, -1, -1):
            chunk, skip = self.chunks[at], self._skipped(at)
            if not skip and chunk.total() <= limit and chunk.positions:
                limit, found = limit - chunk.total(), chunk.positions[0]
                continue
            for inside in range(len(chunk.positions) - 1, skip - 1, -1):
                limit -= chunk.sizes[inside]
                if limit < 0:
                    return found
                found = chunk.positions[inside]
        return found

    def _skipped(self, at: int) -> int:
        """How many messages of that chunk were removed."""
        return max(self.start - (self.number + at) * CHUNK_MESSAGES, 0)

    # --- Snapshots ---

    def pieces(self) -> Iterator[tuple[int, array[int], array[int]]]:
        """What is there of each chunk: the count of its first message, positions, sizes. The same
        pieces for the same log, wherever one began to read it."""
        for at, chunk in enumerate(self.chunks):
            base = (self.number + at) * CHUNK_MESSAGES
            skip, upto = self._skipped(at), len(chunk.positions)
            if skip < upto:
                yield base + skip, chunk.positions[skip:upto], chunk.sizes[skip:upto]

    def begin_at(self, count: int) -> None:
        """Of an empty index: so many messages were here, and are gone."""
        self.chunks, self.start = [Chunk()], count
        self.number, inside = divmod(count, CHUNK_MESSAGES)
        self.chunks[0].positions = array("Q", bytes(8 * inside))
        self.chunks[0].sizes = array("I", bytes(4 * inside))

    def load(self, count: int, positions: array[int], sizes: array[int]) -> bool:
        """Take in one of these pieces, in their order; whether it was the next one."""
        room = CHUNK_MESSAGES - len(self.chunks[-1].positions)
        if count != self.end or len(sizes) != len(positions):
            return False
        if not room:
            self.chunks.append(Chunk())
            room = CHUNK_MESSAGES
        if len(positions) > room:
            return False
        self.chunks[-1].positions.extend(positions)
        self.chunks[-1].sizes.extend(sizes)
        return True

    def rising(self) -> bool:
        """Whether the invariants hold."""
        last = -1
        for _, positions, sizes in self.pieces():
            if len(positions) != len(sizes) or positions[0] <= last:
                return False
            if any(map(ge, positions, positions[1:])):
                return False
            last = positions[-1]
        return all(len(chunk.positions) == CHUNK_MESSAGES for chunk in self.chunks[:-1])


def _first(chunk: Chunk) -> int:
    return chunk.positions[0] if chunk.positions else 1 << 64
