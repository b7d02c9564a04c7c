"""What the processes write, and the witness that knows whether what it reads is all of it.

Every record says who wrote it, as which of its records, in which batch, and carries a checksum of
its own; so a record that was lost, moved, repeated, invented or altered is noticed without asking
the log's own checksums.
"""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from random import Random

# writer, sequence, index in its batch, size of its batch
HEAD = struct.Struct("<IQHH")
CHECK = struct.Struct("<I")
FILLER = bytes(range(256)) * 1024

LENGTHS = (0, 8, 16) * 4 + (60,) * 20 + (300,) * 6 + (4_000, 4_000, 100_000)


def make(writer: int, sequence: int, index: int = 0, size: int = 1, length: int = 60):
    """The (key, value) of a writer's record; `length` is the filler's."""
    body = HEAD.pack(writer, sequence, index, size) + FILLER[:length]
    return b"%d" % writer, body + CHECK.pack(zlib.crc32(body))


def make_batch(writer: int, sequence: int, size: int, length: int = 60):
    """Consecutive records of one atomic batch."""
    return [make(writer, sequence + n, n, size, length) for n in range(size)]


class Witness:
    """Reads a log's records in order and notices whatever should not be.

    One that is `trusting` did not see the beginning: it takes each writer's first record as it is.
    """

    def __init__(self, position: int = 0, *, trusting: bool = False) -> None:
        self.position = position
        self.trusting = trusting
        self.next: dict[int, int] = {}  # by writer: the sequence that comes next
        self.open_batch: tuple[int, int, int] | None = None  # writer, next index, size
        self.digest = 0  # of everything seen, in order

    def see(self, record) -> None:
        """Check the next record of the log."""
        assert record.position == self.position, f"{record.position} after {self.position - 1}"
        self.position += 1
        value = record.value
        body = value[: -CHECK.size]
        assert CHECK.unpack(value[-CHECK.size :])[0] == zlib.crc32(body), "an altered record"
        writer, sequence, index, size = HEAD.unpack_from(body)
        assert record.key == b"%d" % writer, "a key of another record"
        expected = self.next.get(writer, sequence if self.trusting else 0)
        assert sequence == expected, f"writer {writer}: record {sequence} where {expected} is due"
        self.next[writer] = sequence + 1
        self._batch(writer, index, size)
        self.digest = zlib.crc32(body, self.digest)

    def _batch(self, writer: int, index: int, size: int) -> None:
        if self.open_batch is None:
            assert index == 0 or self.trusting, "a batch without its beginning"
        else:
            assert (writer, index, size) == self.open_batch, "a batch with a gap"
        self.open_batch = (writer, index + 1, size) if index + 1 < size else None

    def see_all(self, wal, start: int | None = None) -> Witness:
        """Everything from where we are to the end."""
        with wal.read_from(self.position if start is None else start) as reader:
            for record in reader:
                self.see(record)
        assert self.open_batch is None, "the log ends within a batch"
        return self

    def has_all(self, words: Words, writers) -> None:
        """Every append that had returned is there; nothing is there that was never begun."""
        for writer in writers:
            begun, returned = words[2 * writer], words[2 * writer + 1]
            found = self.next.get(writer, 0)
            assert found >= returned, f"writer {writer}: {returned} returned, {found} are there"
            assert found <= begun, f"writer {writer}: {begun} begun, {found} are there"


class Words:
    """64-bit numbers in a file that several processes map: what one stored before it was killed,
    the others read."""

    def __init__(self, path: str | os.PathLike[str], count: int = 0) -> None:
        if count:
            with open(path, "wb") as file:
                file.truncate(8 * count)
        with open(path, "r+b") as file:
            self._mapping = mmap.mmap(file.fileno(), 0)
        self._words = memoryview(self._mapping).cast("Q")
        self.path = str(path)

    def __getitem__(self, index: int) -> int:
        return self._words[index]

    def __setitem__(self, index: int, value: int) -> None:
        self._words[index] = value


def hammer(
    wal, words: Words, writer: int, rng: Random, *, start=0, count: int = 1 << 62, batches=0.1
):
    """Append for ever (or `count` records), noting before each call what it may add and after its
    return what it has added."""
    begun, returned = 2 * writer, 2 * writer + 1
    sequence = start
    while sequence < start + count:
        size = rng.randint(2, 9) if rng.random() < batches else 1
        size = min(size, start + count - sequence)
        length = rng.choice(LENGTHS) if size == 1 else 60
        words[begun] = sequence + size
        if size == 1:
            wal.put(*make(writer, sequence, length=length))
        else:
            wal.append_batch(make_batch(writer, sequence, size, length))
        sequence += size
        words[returned] = sequence
