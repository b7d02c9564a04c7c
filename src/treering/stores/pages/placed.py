"""Which version of each page the data file has: eight bytes a page, and cheap to copy."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator

CHUNK_PAGES = 512
_CHUNK = struct.Struct(f"<{CHUNK_PAGES}Q")
CHUNK_BYTES = _CHUNK.size


class Placed:
    """Page numbers to positions, in chunks: a copy shares them until one side changes one."""

    def __init__(self) -> None:
        # Of each page the position + 1; 0 for one that is not there.
        self._chunks: dict[int, array[int]] = {}
        self._own: set[int] = set()

    def get(self, page: int) -> int | None:
        """The position; None for a page that the data file does not have."""
        number, at = divmod(page, CHUNK_PAGES)
        chunk = self._chunks.get(number)
        return None if chunk is None or not chunk[at] else chunk[at] - 1

    def set(self, page: int, position: int) -> None:
        """The data file has this version of the page."""
        number, at = divmod(page, CHUNK_PAGES)
        chunk = self._chunks.get(number)
        if chunk is None or number not in self._own:
            chunk = array("Q", bytes(CHUNK_BYTES) if chunk is None else chunk)
            self._own.add(number)
        chunk[at] = position + 1
        self._chunks[number] = chunk

    def pages(self) -> Iterator[tuple[int, int]]:
        """Each page that is there, and its position, in the order of the numbers."""
        for number in sorted(self._chunks):
            for at, position in enumerate(self._chunks[number]):
                if position:
                    yield number * CHUNK_PAGES + at, position - 1

    def copy(self) -> Placed:
        """Another one that stays as this one is now."""
        other = Placed()
        other._chunks = self._chunks.copy()
        self._own = set()
        return other

    def dump(self) -> Iterator[tuple[int, bytes]]:
        """The chunks, as bytes."""
        for number, chunk in self._chunks.items():
            yield number, _CHUNK.pack(*chunk)

    def load(self, number: int, data: bytes) -> None:
        """One of them, back again; CHUNK_BYTES long."""
        self._chunks[number] = array("Q", _CHUNK.unpack(data))
        self._own.add(number)
