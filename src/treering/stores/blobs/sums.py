"""Checksums of a blob's chunks, so that a part can be checked without reading the whole.

CRC-32 of each chunk of 64 KiB. Of blobs over 8 GiB two neighbours become one, again and again, so
that the checksums stay under 512 KiB: the CRC of both together follows from theirs.
"""

from __future__ import annotations

import zlib
from array import array

SHIFT = 16  # a chunk has 1 << SHIFT bytes
SHIFT_MAX = 20
COUNT_MAX = 1 << 17


class Sums:
    """Of bytes as they come. `shift` says how large a chunk is."""

    def __init__(self) -> None:
        self.shift = SHIFT
        self.size = 0
        self._done: array[int] = array("I")
        self._crc = 0

    def update(self, data: memoryview) -> None:
        """Take in more bytes."""
        chunk = 1 << self.shift
        while data:
            room = chunk - self.size % chunk
            piece = data[:room]
            self._crc = zlib.crc32(piece, self._crc)
            self.size += len(piece)
            if len(piece) == room:
                self._end_chunk()
                chunk = 1 << self.shift
            data = data[room:]

    def _end_chunk(self) -> None:
        self._done.append(self._crc)
        self._crc = 0
        if len(self._done) == COUNT_MAX:
            self._pair()

    def _pair(self) -> None:
        """Two chunks become one."""
        over_zeros = _Zeros(1 << self.shift)
        done = self._done
        pairs = zip(done[::2], done[1::2], strict=True)
        self._done = array("I", (over_zeros.after(one) ^ other for one, other in pairs))
        self.shift += 1

    def packed(self) -> bytes:
        """All checksums, 4 bytes each, little-endian; the last may be of a shorter chunk."""
        done = self._done[:]
        if self.size % (1 << self.shift):
            done.append(self._crc)
        return b"".join(crc.to_bytes(4, "little") for crc in done)


class _Zeros:
    """What so many bytes that follow do to the CRC of those before: a linear map, so that what it
    does to each bit says what it does to all."""

    def __init__(self, length: int) -> None:
        zeros = bytes(length)
        nothing = zlib.crc32(zeros, 0)
        self._bits = [zlib.crc32(zeros, 1 << bit) ^ nothing for bit in range(32)]

    def after(self, crc: int) -> int:
        """The share that bytes with this CRC have in the CRC of the whole."""
        share = 0
        for bit, effect in enumerate(self._bits):
            if crc >> bit & 1:
                share ^= effect
        return share


def count_of(size: int, shift: int) -> int:
    """How many chunks so many bytes have."""
    return -(-size >> shift)


def sum_at(sums: bytes, chunk: int) -> int:
    """The checksum of one chunk."""
    return int.from_bytes(sums[4 * chunk : 4 * chunk + 4], "little")
