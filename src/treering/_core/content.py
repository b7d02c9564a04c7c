"""What one segment file holds, told without judging it; and how to read it off a failing disk.

`examine` fills these in, `verify` says what they mean for the log, `repair` and `salvage` act on
them.
"""

from __future__ import annotations

import dataclasses
import errno
from collections.abc import Callable
from typing import NamedTuple

from . import format as fmt
from .errors import StorageError
from .files import READ, Directory, File

_SECTOR_BYTES = 4096


class Run(NamedTuple):
    """Intact frames, one right behind the other."""

    offset: int
    position: int
    end_offset: int
    end: int
    durable: int  # greatest durable mark among them


class Gap(NamedTuple):
    """Bytes where the frame of `position` should be; `next` is the next intact frame's position."""

    offset: int
    position: int
    next_offset: int
    next: int


@dataclasses.dataclass(frozen=True, slots=True)
class Content:
    """All that one segment file holds."""

    base: int  # as its name says
    path: str
    size_bytes: int
    header: fmt.SegmentHeader | None = None
    header_problem: str = ""
    rebuilt: bool = False  # the header is damaged, and derived from the frames
    newer: str = ""  # of a newer version, so not read
    trailer: fmt.Trailer | None = None
    footer_problem: str = ""  # harmless: without a footer it is scanned
    footer_wrong: str = ""  # intact, but says something else than the frames
    runs: tuple[Run, ...] = ()
    gaps: tuple[Gap, ...] = ()
    unknown: tuple[int, int] | None = None  # offset and position of a frame of a newer kind
    last_byte: int = 0  # offset after the last byte that is not zero, footer excluded
    exhausted: bool = False  # too much damage to look behind all of it
    unreadable: tuple[tuple[int, int], ...] = ()  # ranges that the device cannot read

    @property
    def end_offset(self) -> int:
        """Where the last intact frame ends."""
        start = self.header.frames_start if self.header is not None else 0
        return self.runs[-1].end_offset if self.runs else start

    @property
    def end(self) -> int:
        """The position after the last intact record."""
        return self.runs[-1].end if self.runs else self.base

    @property
    def prefix_end(self) -> int:
        """The position up to which nothing is missing, of what the segment says is its own."""
        first = self.runs[0] if self.runs else None
        if first is None or first.position != self.base:
            return self.base
        return min(first.end, self.own_end)

    @property
    def own_end(self) -> int:
        """The position at which the segment itself says that it ends."""
        return self.trailer.end if self.trailer is not None else self.end

    @property
    def misnamed(self) -> bool:
        """Whether the file carries another segment's name."""
        return self.header is not None and self.header.base != self.base


class Meter:
    """Counts bytes for a progress display."""

    def __init__(self, report: Callable[[int, int], object] | None, total: int) -> None:
        self._report = report
        self.done = 0
        self.total = total

    def add(self, count: int) -> None:
        """So many more bytes were read."""
        self.reach(self.done + count)

    def reach(self, done: int) -> None:
        """Everything up to here is done."""
        self.done = min(max(done, self.done), self.total)
        if self._report is not None:
            self._report(self.done, self.total)


class PatientFile(File):
    """A file of a failing disk: sectors that cannot be read are zeros, and remembered."""

    __slots__ = ("unreadable",)

    def __init__(self, directory: Directory, name: str) -> None:
        super().__init__(directory.files, directory.join(name), READ)
        self.unreadable: list[tuple[int, int]] = []

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """As File.read_into, with zeros for what the device cannot read."""
        try:
            return super().read_into(buffer, offset)
        except StorageError as error:
            if error.errno != errno.EIO:
                raise
        return self._by_sectors(buffer[: max(self.size() - offset, 0)], offset)

    def _by_sectors(self, buffer: memoryview, offset: int) -> int:
        at, end = offset, offset + len(buffer)
        while at < end:
            stop = min((at // _SECTOR_BYTES + 1) * _SECTOR_BYTES, end)
            piece = buffer[at - offset : stop - offset]
            try:
                super().read_into(piece, at)
            except StorageError as error:
                if error.errno != errno.EIO:
                    raise
                piece[:] = bytes(len(piece))
                self._remember(at, stop)
            at = stop
        return len(buffer)

    def _remember(self, start: int, stop: int) -> None:
        merged = [(start, stop)]
        for low, high in self.unreadable:
            if high < merged[0][0] or low > merged[0][1]:
                merged.append((low, high))
            else:
                merged[0] = (min(low, merged[0][0]), max(high, merged[0][1]))
        self.unreadable = sorted(merged)
