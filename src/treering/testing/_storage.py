"""The bytes of one file in memory, which a mapping shares.

A file starts as plain `bytes` (images of a power cut share them until somebody writes), becomes a
bytearray at the first write, and moves to an anonymous file of the kernel (memfd on Linux, an
unnamed temporary file elsewhere) once it is mapped or large: only the kernel gives out mappings of
the right length, read-only ones too, that stay where they are while the file grows.

Not locked: MemoryFiles calls this under its own lock.
"""

from __future__ import annotations

import contextlib
import errno
import io
import mmap
import os
import tempfile
import weakref
from typing import cast

# Above this a file is kept in kernel memory, where holes cost nothing.
PLAIN_BYTES_MAX = 1 << 20


class Storage:
    """A file's bytes. `size` is what the file says; bytes never written are zeros."""

    __slots__ = ("__weakref__", "_close_file", "_file", "_mappings", "_plain", "size")

    def __init__(self, content: bytes = b"", size: int = 0) -> None:
        self.size = max(size, len(content))
        # May be shorter than `size`: the rest is zeros.
        self._plain: bytes | bytearray = content
        self._file: io.FileIO | None = None
        self._close_file: weakref.finalize[..., Storage] | None = None
        self._mappings: list[weakref.ref[mmap.mmap]] = []

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """Fill `buffer` from `offset` on, up to the file's size; the number of bytes."""
        count = max(0, min(len(buffer), self.size - offset))
        if self._file is None:
            piece = self._plain[offset : offset + count]
            buffer[: len(piece)] = piece
            done = len(piece)
        else:
            self._file.seek(offset)
            done = self._file.readinto(buffer[:count]) if count else 0
        buffer[done:count] = bytes(count - done)
        return count

    def write(self, data: memoryview, offset: int) -> None:
        """Put `data` at `offset`; the size grows if it has to."""
        end = offset + len(data)
        if self._file is None and end > PLAIN_BYTES_MAX:
            self._move_to_kernel()
        if self._file is None:
            self._write_plain(data, offset)
        else:
            self._file.seek(offset)
            self._file.write(data)
        self.size = max(self.size, end)

    def _write_plain(self, data: memoryview, offset: int) -> None:
        if not isinstance(self._plain, bytearray):
            self._plain = bytearray(self._plain)
        if len(self._plain) < offset:
            self._plain.extend(bytes(offset - len(self._plain)))
        self._plain[offset : offset + len(data)] = data

    def resize(self, size: int) -> None:
        """Set the size. Bytes cut off are zeroed, in mappings too (the kernel sends SIGBUS)."""
        if self._file is None:
            if len(self._plain) > size:
                self._plain = self._plain[:size]
        else:
            # When growing: a program may have stored into a mapping beyond the file's end.
            self._zero_from(min(size, self.size))
        self.size = size

    def next_data(self, offset: int) -> int | None:
        """The first offset from `offset` on that is not in a hole; None if only a hole is left."""
        if self._file is None:
            return offset if offset < len(self._plain) else None
        try:
            found = _next_data(self._file.fileno(), offset)
        except _NoMoreData:
            return None
        return found if found < self.size else None

    def snapshot(self) -> bytes:
        """The content without the zeros at its end that were never written."""
        if self._file is None:
            # Kept as bytes: the next snapshot is free, and the next write makes its own copy.
            self._plain = bytes(self._plain)
            return self._plain
        # Looking for the end moves the file's own offset.
        end = min(self.size, self._data_end())
        self._file.seek(0)
        return cast(bytes, self._file.read(end))

    def all_bytes(self) -> bytes:
        """The whole content."""
        return self.snapshot().ljust(self.size, b"\0")

    def map(self, length: int, *, write: bool) -> mmap.mmap:
        """A mapping of the first `length` bytes (at most the size), shared with all others."""
        file = self._move_to_kernel()
        if os.fstat(file.fileno()).st_size < self.size:
            file.truncate(self.size)
        access = mmap.ACCESS_WRITE if write else mmap.ACCESS_READ
        mapping = mmap.mmap(file.fileno(), length, access=access)
        self._mappings.append(weakref.ref(mapping))
        return mapping

    def settle(self) -> None:
        """Give the kernel's file back if nothing maps it any more and the content is small."""
        if self._file is None or any(_is_mapped(mapping) for mapping in self._mappings):
            return
        if self._data_end() <= PLAIN_BYTES_MAX:
            self._plain = self.snapshot()
            self._drop_file()

    def _move_to_kernel(self) -> io.FileIO:
        if self._file is None:
            file = _anonymous_file()
            file.write(self._plain)
            self._file, self._plain = file, b""
            self._close_file = weakref.finalize(self, file.close)
            # At the end of the program a log may still be open on it, and closes later than this.
            self._close_file.atexit = False
        return self._file

    def _drop_file(self) -> None:
        if self._close_file is not None:
            self._close_file()
        self._file, self._close_file = None, None
        self._mappings.clear()

    def _zero_from(self, offset: int) -> None:
        assert self._file is not None
        length = self._data_end() - offset
        if length > 0:
            self._file.seek(offset)
            self._file.write(bytes(length))

    def _data_end(self) -> int:
        """Where the last byte that takes up memory ends (rounded up to a page)."""
        assert self._file is not None
        descriptor = self._file.fileno()
        if not hasattr(os, "SEEK_DATA"):  # pragma: no cover - Windows
            return os.fstat(descriptor).st_size
        end = 0
        with contextlib.suppress(_NoMoreData):
            while True:
                end = os.lseek(descriptor, _next_data(descriptor, end), os.SEEK_HOLE)
        return end


class _NoMoreData(Exception):
    """There is only a hole from here to the end of the file."""


def _next_data(descriptor: int, offset: int) -> int:
    if not hasattr(os, "SEEK_DATA"):  # pragma: no cover - Windows
        return offset
    try:
        return os.lseek(descriptor, offset, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise _NoMoreData from error
        raise


def _is_mapped(reference: weakref.ref[mmap.mmap]) -> bool:
    mapping = reference()
    return mapping is not None and not mapping.closed


def _anonymous_file() -> io.FileIO:
    if hasattr(os, "memfd_create"):
        return io.FileIO(os.memfd_create("treering-testing"), "r+b")
    return tempfile.TemporaryFile(buffering=0)  # pragma: no cover - macOS, Windows
