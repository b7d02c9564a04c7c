"""Snapshots of the state machine: taking data in by chunks, and giving it out again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

from treering import DamageError, PrunedError, UsageError
from treering.fold import Follower

from . import records as rec
from .errors import CompactedError
from .state import State, Stored

# A record of it has at most 1 MiB with everything.
CHUNK_BYTES = 1020 << 10
# What a chunk's record has besides the data, and some more.
_HEAD_BYTES = 64

Data = bytes | bytearray | memoryview | Iterable[bytes]


class Snapshot:
    """The state machine as of `index`, whose entry is of `term`: `size` bytes, and your `metadata`.
    While this object lives, checkpoints of the RaftLog it is from keep its data."""

    def __init__(self, fold: Follower[State], stored: Stored) -> None:
        """With the fold's lock held."""
        self._fold, self._stored = fold, stored
        self.index, self.term = stored.index, stored.term
        self.metadata, self.size = stored.metadata, stored.size
        fold.current.held.add(self, stored.id)

    def chunks(self) -> Iterator[bytes]:
        """The data in pieces of at most 1 MiB, each read from the log when it is asked for.
        CompactedError if another handle or process stored a newer snapshot and made checkpoints;
        DamageError, StorageError."""
        left = self.size
        for number in range(len(self._stored.chunks)):
            data = self._chunk(number)
            left -= len(data)
            yield data
        if left:
            raise self._damaged(f"{left} bytes are missing")

    __iter__ = chunks

    def read(self) -> bytes:
        """All of it at once. Errors as `chunks`."""
        return b"".join(self.chunks())

    def _chunk(self, number: int) -> bytes:
        stored = self._stored
        try:
            record = self._fold.wal.read(stored.chunks[number])
        except PrunedError as error:
            raise CompactedError(
                f"the snapshot up to index {self.index} has been replaced by a newer one",
                hint="Call snapshot() again, and begin anew with that",
            ) from error
        if record.key != rec.TWO.pack(rec.CHUNK, stored.id, number):
            raise self._damaged(f"chunk {number} is another record")
        return bytes(record.value)

    def _damaged(self, what: str) -> DamageError:
        return DamageError(
            f"the snapshot up to index {self.index} is not what was stored: {what}",
            path=self._fold.wal.path,
            hint="Get a snapshot from another node; run `treering verify` on this one",
        )

    def __repr__(self) -> str:
        return f"<Snapshot up to index {self.index}, term {self.term}, {self.size} bytes>"


def pieces(data: Any, record_bytes_max: int) -> Iterator[bytes]:
    """Data of whatever kind in pieces of 1 MiB, or of what a record may have if that is less; the
    last one shorter. UsageError for what is none. Nothing is asked of an iterable before the first
    piece is."""
    most = max(1, min(CHUNK_BYTES, record_bytes_max - _HEAD_BYTES))
    if isinstance(data, bytes | bytearray | memoryview):
        view = memoryview(data)
        view = (view if view.c_contiguous else memoryview(view.tobytes())).cast("B")
        return (bytes(view[at : at + most]) for at in range(0, view.nbytes, most))
    if isinstance(data, str) or not (hasattr(data, "read") or isinstance(data, Iterable)):
        raise UsageError(
            f"a snapshot is bytes, an iterable of bytes or a binary file, not {type(data).__name__}"
        )
    if hasattr(data, "read"):
        data = iter(partial(data.read, most), b"")
    return _regrouped(data, most)


def _regrouped(data: Iterable[Any], most: int) -> Iterator[bytes]:
    buffer = bytearray()
    for some in data:
        buffer += rec.as_bytes(some, "a part of a snapshot")
        while len(buffer) >= most:
            yield bytes(buffer[:most])
            del buffer[:most]
    if buffer:
        yield bytes(buffer)
