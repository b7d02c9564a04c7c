"""The segment that takes the appends, as this process has it open: its file and its mapping.

Used under the append lock, except for `populate`. Refuses to know the control page.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from . import format as fmt
from . import segment as segments
from .codec import Tail, scan
from .errors import DamageError, StorageError
from .files import WRITE, Directory, File, Mapping

POPULATE_BYTES = 1 << 20


class TailSegment:
    """At most one attached segment. `trusted`: space is reserved and mappings are coherent here;
    `mapped`: frames are stored into a mapping, else written with pwrite."""

    def __init__(
        self, directory: Directory, tail: Tail, *, trusted: bool, mapped: bool, bytes_max: int
    ) -> None:
        self._directory = directory
        self._tail = tail
        self.trusted = trusted
        self._mapped = mapped
        self._bytes_max = bytes_max
        self.base, self.epoch = -1, 0
        self.header: fmt.SegmentHeader | None = None
        self.limit = 0
        self._file: File | None = None
        self._mapping: Mapping | None = None

    def attach(self, base: int, epoch: int, *, closed: bool, fast: bool) -> None:
        """Open the segment of `base`; with `fast`, let the append path store into it by itself.
        One that is `closed` takes no more frames; somebody may be shortening it just now.

        `epoch` is the log's: it tells this file from the next of its name, after a cut at `base`.
        """
        self.detach()
        self.epoch = epoch
        if base == fmt.NO_TAIL:
            self.base = base
            return
        file = segments.open_segment(self._directory, base, WRITE)
        try:
            header = segments.read_header(file)
            size = file.size()
            mapping = file.map(size, write=True) if self._mapped and not closed else None
        except fmt.FormatError as error:
            file.close()
            raise DamageError(str(error), path=file.path, offset=0, position=base) from error
        except BaseException:
            file.close()
            raise
        self._file, self._mapping = file, mapping
        self.header, self.base = header, base
        self.limit = size if self.trusted else max(size, self._bytes_max)
        if mapping is not None and fast:
            self._tail.attach(mapping, base, self.limit, header.align, header.tag, header.seed)

    def detach(self) -> None:
        """Let go of the segment; idempotent."""
        self._tail.detach()
        mapping, self._mapping = self._mapping, None
        if mapping is not None:
            # While another thread prepares pages of it, it stays; then it goes by itself.
            with contextlib.suppress(BufferError):
                mapping.close()
        file, self._file = self._file, None
        if file is not None:
            file.close()
        self.base, self.header, self.limit = -1, None, 0

    def abandon(self) -> None:
        """In a forked child: as `detach`."""
        self.detach()

    def store(self, frame: bytes, offset: int) -> None:
        """Put the frame's bytes in place; in the page cache at return."""
        if self._mapping is not None:
            with memoryview(self._mapping) as view:
                view[offset : offset + len(frame)] = frame
        else:
            assert self._file is not None
            self._file.write(frame, offset)

    def whole_frame(self, position: int, offset: int, end: int) -> tuple[int, int] | None:
        """(position after it, newest timestamp) of the frame in [offset, end) if it is whole."""
        assert self._file is not None and self.header is not None
        block = self._file.read(end - offset, offset)
        found = scan(block, 0, len(block), position, self.header.tag, self.header.seed)
        if found.offset != end - offset or found.position <= position:
            return None
        return found.position, found.newest_ns

    def erase(self, offset: int, end: int) -> None:
        """Take the bytes of a half-written frame away, so that they never look like damage.

        By zeros: another process may have this part of the file mapped, and would die of touching
        what was cut off.
        """
        assert self._file is not None
        if self.trusted:
            self._file.write(bytes(end - offset), offset)
            return
        size = self._file.size()
        try:
            self._file.write(bytes(max(min(end, size) - offset, 0)), offset)
        except StorageError:
            # Space is not reserved here, so writing may fail. Giving it back does not; but a file
            # that goes on behind the frame is one that another process has reserved and mapped.
            if size > end:
                raise
            self._file.truncate(offset)

    def allocate(self, size_bytes: int, sync: Callable[[File], None]) -> None:
        """Reserve space up to `size_bytes`, then `sync` the file. DiskFullError changes nothing."""
        assert self._file is not None
        if self.trusted and self._file.size() < size_bytes:
            self._file.allocate(size_bytes)
            sync(self._file)

    def populate(self, offset: int) -> None:
        """Take the page faults of the next appends now; only a mapped tail has any."""
        mapping = self._mapping
        if mapping is not None and offset < self.limit:
            with contextlib.suppress(ValueError):  # closed just now
                self._tail.populate(mapping, offset & ~4095, POPULATE_BYTES)
