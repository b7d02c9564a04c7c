"""Reading a blob so that no byte which was changed is ever returned."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from typing import Any, NoReturn

from treering import ClosedError, DamageError, UsageError

from .objects import Source
from .records import Blob
from .refs import BlobRef, Hashing
from .sums import SHIFT_MAX, count_of, sum_at

BLOCK_BYTES = 1 << SHIFT_MAX

_MENDING = "Restore the file from a backup, or put the same bytes again: that mends it"
# A put finds a file of the right size, and leaves it.
_REPLACING = "Restore the file from a backup, or remove it and put the same bytes again"


class LostFileError(DamageError):
    """A blob that has references has no file."""


def damage(
    ref: BlobRef, where: str, what: str, offset: int | None = None, hint: str = _REPLACING
) -> DamageError:
    """The error for an object that is not what was put."""
    return DamageError(f"the blob {ref} {what}", path=where, offset=offset, hint=hint)


def lost(ref: BlobRef, where: str) -> LostFileError:
    """The error for an object that has to be there."""
    return LostFileError(f"the blob {ref} has lost its file", path=where, hint=_MENDING)


class Checked:
    """An open object with what it has to be. DamageError from every call that meets other bytes.
    Thread-safe."""

    def __init__(
        self, source: Source, blob: Blob, ref: BlobRef, where: str, hashing: Hashing
    ) -> None:
        self._source, self._blob, self._ref = source, blob, ref
        self._where, self._hashing = where, hashing
        self.size = blob.size
        try:
            found = source.size()
            if found != blob.size:
                what = f"has {found} bytes, not {blob.size}"
                raise damage(ref, where, what, min(found, blob.size), _MENDING)
        except BaseException:
            source.close()
            raise

    def whole(self) -> bytes:
        """All bytes, checked by their digest; O(size) memory."""
        buffer = bytearray(self.size)
        with memoryview(buffer) as view:
            self._fill(view, 0)
            digest = self._hashing.new()
            digest.update(view)
            if digest.digest() != self._ref.digest:
                self._check(view, 0)  # which says where
                self._wrong_digest()
        return bytes(buffer)

    def blocks(self) -> Iterator[bytes]:
        """All bytes in pieces of 1 MiB, each checked by its checksums; the last is given only once
        the digest of all is right."""
        digest, last = self._hashing.new(), self.size - 1
        for start in range(0, self.size, BLOCK_BYTES):
            block = self.part(start, min(start + BLOCK_BYTES, self.size))
            digest.update(block)
            if start + len(block) > last and digest.digest() != self._ref.digest:
                self._wrong_digest()
            yield block
        if self.size == 0 and digest.digest() != self._ref.digest:
            self._wrong_digest()

    def part(self, start: int, stop: int) -> bytes:
        """The bytes from `start` to `stop`, checked by the checksums of their chunks; at most a
        chunk more is read on either side."""
        if start >= stop:
            return b""
        shift = self._blob.shift
        first = start >> shift << shift
        end = min(count_of(stop, shift) << shift, self.size)
        buffer = bytearray(end - first)
        with memoryview(buffer) as view:
            self._fill(view, first)
            self._check(view, first)
            return bytes(view[start - first : stop - first])

    def _fill(self, view: memoryview, offset: int) -> None:
        count = self._source.read_into(view, offset)
        if count != len(view):
            raise damage(self._ref, self._where, "ends early", offset + count)

    def _check(self, view: memoryview, offset: int) -> None:
        """Hold chunks against their checksums; `offset` is where one begins."""
        shift, sums = self._blob.shift, self._blob.sums
        for at in range(0, len(view), 1 << shift):
            start = offset + at
            if zlib.crc32(view[at : at + (1 << shift)]) != sum_at(sums, start >> shift):
                what = f"was changed between {start} and {start + (1 << shift)}"
                raise damage(self._ref, self._where, what, start)

    def _wrong_digest(self) -> NoReturn:
        what = "has another digest, though all its checksums are right"
        raise damage(self._ref, self._where, what)

    def close(self) -> None:
        """Let go of the file; idempotent."""
        self._source.close()

    def __enter__(self) -> Checked:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _NoOffsetError(UsageError, OSError):
    """What a file says, too: zipfile, for one, catches OSErrors when it looks from the end."""


class BlobFile(io.RawIOBase):
    """A blob as a file to read, below the buffer that `open` gives. What is read in order from the
    beginning is held against the digest, too, before the last of it is given."""

    def __init__(self, checked: Checked, shift: int) -> None:
        self._checked, self._shift = checked, shift
        self._at = 0
        self._chunk, self._chunk_start = b"", -1
        self._digest, self._hashed = checked._hashing.new(), 0

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """The offset of the next byte."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go there; the offset from the beginning."""
        self._refuse_closed()
        starts = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._checked.size}
        if whence not in starts or starts[whence] + offset < 0:
            raise _NoOffsetError(f"a blob has no offset {offset!r:.40} from {whence!r:.40}")
        self._at = starts[whence] + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer up to the end of a chunk; how many bytes."""
        self._refuse_closed()
        if self._at >= self._checked.size:
            return 0
        start = self._at >> self._shift << self._shift
        if start != self._chunk_start:
            self._load(start)
        with memoryview(buffer).cast("B") as view:
            piece = self._chunk[self._at - start : self._at - start + len(view)]
            view[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)

    def readall(self) -> bytes:
        """The rest; O(rest) memory."""
        parts, chunk = [], 1 << self._shift
        while part := self.read(chunk):
            parts.append(part)
        return b"".join(parts)

    def _load(self, start: int) -> None:
        checked = self._checked
        chunk = checked.part(start, min(start + (1 << self._shift), checked.size))
        if start == self._hashed:
            self._digest.update(chunk)
            self._hashed += len(chunk)
        # Each time: one who asks again must not be given them either.
        if self._hashed == checked.size and self._digest.digest() != checked._ref.digest:
            checked._wrong_digest()
        self._chunk, self._chunk_start = chunk, start

    def _refuse_closed(self) -> None:
        if self.closed:
            raise ClosedError("the file was closed", hint="Open the blob again")

    def close(self) -> None:
        """Let go of the file; idempotent."""
        if not self.closed:
            self._checked.close()
        super().close()
