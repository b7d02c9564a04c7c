"""Work around the append that nobody should wait for: prepared pages, spare segments, footers.

All of it only saves time. If it fails or never happens, appending and opening do without.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable

from . import format as fmt
from . import segment as segments
from .background import Background, Signal
from .control import Control
from .errors import StorageError, TreeringError
from .files import CREATE_NEW, WRITE, Directory

# How far ahead of the tail pages are prepared, so that appends do not take the faults.
AHEAD_BYTES = 1 << 20

SPARE = fmt.SPARE_NAME + fmt.TEMPORARY_SUFFIX


class Chores:
    """One thread, started when there is something to do.

    `prepare(offset)` readies the pages from there on; `move(offset)` sets where the append path
    calls `request` next. `spare_bytes` is the size of a segment to have ready (0: none).
    """

    def __init__(
        self,
        directory: Directory,
        control: Control,
        prepare: Callable[[int], None],
        move: Callable[[int], None],
        spare_bytes: int,
    ) -> None:
        self._directory = directory
        self._control = control
        self._prepare = prepare
        self._move = move
        self._spare_bytes = spare_bytes
        self._due_at = 0
        self._spare_at = 0
        self._seals: list[tuple[fmt.SegmentHeader, int]] = []
        self._due = Signal()
        self._thread = Background(self._run)
        self._stopped = False
        self.rolled: Callable[[], object] = lambda: None

    def attached(self, offset: int, limit: int) -> None:
        """A tail was attached whose frames end at `offset`."""
        self._due_at = min(offset, limit)
        self._spare_at = limit // 2
        self._move(self._due_at)

    def request(self) -> None:
        """Do what is due. Called by appends that pass the offset given to `move`."""
        end = self._control.load(fmt.WORD_END_OFFSET)
        if self._due_at <= end < fmt.TAIL_CLOSED:
            self._due_at = end + AHEAD_BYTES // 2
            self._move(self._due_at)
            self._wake()

    def seal(self, header: fmt.SegmentHeader, end: int) -> None:
        """A segment is full: write its footer, then call `rolled`."""
        self._seals.append((header, end))
        self._wake()

    def _wake(self) -> None:
        if not self._stopped:
            self._thread.start()
            self._due.set()

    def _run(self) -> None:
        while not self._stopped:
            self._due.wait()
            self._do_due()

    def _do_due(self) -> None:
        while self._seals:
            seal_segment(self._directory, *self._seals.pop(0))
            self._quietly(self.rolled)
        if not self._stopped:
            self._quietly(self._look_ahead)

    def _quietly(self, chore: Callable[[], object]) -> None:
        try:
            chore()
        except TreeringError:
            return  # a dead or closed log says so to those who call it

    def _look_ahead(self) -> None:
        offset = self._control.load(fmt.WORD_END_OFFSET)
        if offset >= fmt.TAIL_CLOSED:
            return
        self._prepare(offset)
        if self._spare_bytes and offset >= self._spare_at > 0:
            self._spare_at = 0
            make_spare(self._directory, self._spare_bytes)

    def stop(self) -> None:
        """Finish what is due and end the thread."""
        self._stopped = True
        self._due.set()
        self._thread.join()
        self._do_due()

    def abandon(self) -> None:
        """In a forked child the thread does not exist."""
        self._stopped = True


def seal_segment(directory: Directory, header: fmt.SegmentHeader, end: int) -> None:
    """Write the footer of a full segment that ends before position `end`, if it still needs one.

    All through one descriptor, and only under its own header: since it was full, truncate_after
    may have given its name to another file, into which somebody appends.
    """
    try:
        with segments.open_segment(directory, header.base, WRITE) as file:
            size = file.size()
            if segments.read_header(file) != header:
                return
            trailer = segments.intact_trailer(file, header, size)
            if trailer is not None and trailer.end <= end:
                return
            found = segments.scan_frames(file, header, size)
            if found.position >= end:
                segments.seal(file, header, found, end)
    except (StorageError, fmt.FormatError):
        return  # the next opening tries again


def make_spare(directory: Directory, size_bytes: int) -> None:
    """Reserve the next segment's space ahead of need; a full disk is met later, at the roll."""
    temporary = f"{fmt.SPARE_NAME}.{os.getpid()}.new{fmt.TEMPORARY_SUFFIX}"
    try:
        if SPARE in directory.names():
            return
        directory.remove(temporary)
        with directory.open(temporary, CREATE_NEW) as file:
            file.allocate(size_bytes)
            file.sync()
        directory.rename(temporary, SPARE)
    except StorageError:
        with contextlib.suppress(StorageError):
            directory.remove(temporary)


def take_spare(directory: Directory, name: str, header: fmt.SegmentHeader, size_bytes: int) -> bool:
    """Turn the spare into the prepared segment `name`, if there is one of the right size."""
    try:
        if SPARE not in directory.names():
            return False
        directory.rename(SPARE, name)
        with directory.open(name, WRITE) as file:
            if file.size() == size_bytes:
                file.write(header.pack(), 0)
                file.sync()
                return True
    except StorageError:
        pass
    directory.remove(name)
    return False
