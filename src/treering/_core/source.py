"""What readers need to know of a log, and the segments they have open.

`LiveSource` asks the control page; `QuietSource` (read-only handles, which may write nothing and
trust nothing) asks only the files. Readers use pread, never a mapping: an unreadable sector becomes
an exception, and a writer is never in their way.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple, Protocol

from . import format as fmt
from . import manifest as manifests
from . import segment as segments
from .control import Control
from .errors import ClosedError, DamageError, PrunedError, StorageError, TreeringError
from .files import Directory, no_such_file
from .view import View

WAIT_SLICE_SECONDS = 0.25
_SEGMENTS_KEPT_OPEN = 16


class OpenSegment:
    """A segment opened for reading, with what is known of its inside."""

    def __init__(self, directory: Directory, base: int) -> None:
        self.base = base
        self.file = segments.open_segment(directory, base)
        try:
            self.header = segments.read_header(self.file)
            self.size_bytes = self.file.size()
            self.trailer = segments.intact_trailer(self.file, self.header, self.size_bytes)
        except fmt.FormatError as error:
            path = self.file.path
            self.file.close()
            raise DamageError(str(error), path=path, position=base) from error
        except BaseException:
            self.file.close()
            raise
        if self.header.base != base:
            self.file.close()
            raise DamageError("the segment carries another's name", path=self.file.path)
        self._index: list[fmt.IndexEntry] | None = None
        self._scanned = (self.header.frames_start, base, 0)
        self._lock = threading.Lock()

    def index(self, end: int) -> list[fmt.IndexEntry]:
        """Signposts to the frames below `end`: the footer's, or made (and kept) by scanning."""
        with self._lock:
            if self.trailer is not None and self._index is None:
                try:
                    self._index = segments.read_index(self.file, self.trailer, self.size_bytes)
                    self._scanned = (self.trailer.frames_end, self.trailer.end, 0)
                except fmt.FormatError:
                    self.trailer = None  # a damaged footer only costs a scan
            if self._index is None:
                self._index = []
            if self._scanned[1] < end:
                self._extend(end)
            return self._index

    def _extend(self, end: int) -> None:
        assert self._index is not None
        offset, position, newest_ns = self._scanned
        size = self.file.size()
        found = segments.scan_frames(
            self.file,
            self.header,
            size,
            offset=offset,
            position=position,
            newest_ns=newest_ns,
            stop_position=end,
        )
        last = self._index[-1].offset // fmt.INDEX_STEP_BYTES if self._index else -1
        self._index += [
            entry for entry in found.signposts if entry.offset // fmt.INDEX_STEP_BYTES > last
        ]
        self._scanned = (found.offset, found.position, found.newest_ns)

    def newest_ns(self, end: int) -> int:
        """Greatest timestamp of the records below `end`, or after them in the same segment."""
        if self.trailer is not None:
            return self.trailer.newest_ns
        self.index(end)
        return self._scanned[2]

    def locate(self, position: int, end: int) -> tuple[int, int]:
        """(offset, position) of a frame at or before `position`."""
        return _signpost(self.index(end), position, self.header)

    def close(self) -> None:
        """Close the file."""
        self.file.close()


def _signpost(
    index: list[fmt.IndexEntry], position: int, header: fmt.SegmentHeader
) -> tuple[int, int]:
    low, high = 0, len(index)
    while low < high:
        middle = (low + high) // 2
        if index[middle].position <= position:
            low = middle + 1
        else:
            high = middle
    if low == 0:
        return header.frames_start, header.base
    return index[low - 1].offset, index[low - 1].position


class Source(Protocol):
    """What readers ask of a log."""

    def end(self, durable_only: bool) -> int:
        """The position after the last record that may be shown."""

    def first(self) -> int:
        """The oldest position still there."""

    def view(self) -> View:
        """The segments, at least as new as the last `end`."""

    def rewinds(self) -> tuple[int, int]:
        """How often truncate_after was called, and where it cut last."""

    def wait(self, seen: int, durable_only: bool, timeout: float) -> None:
        """Sleep until `end` may be over `seen`, at most `timeout` seconds."""

    def open(self, base: int) -> OpenSegment:
        """A segment for this caller alone."""

    def damaged_from(self) -> tuple[int, TreeringError] | None:
        """Where reading must stop because of damage, if a read-only handle opened such a log."""


class LiveSource:
    """A log that this process has open for appends: the control page knows all."""

    def __init__(self, directory: Directory, control: Control) -> None:
        self._directory = directory
        self._control = control
        self._seen: tuple[int, View] = (-1, View(()))

    def end(self, durable_only: bool) -> int:
        """See Source."""
        return self._control.load(fmt.WORD_DURABLE if durable_only else fmt.WORD_END)

    def first(self) -> int:
        """See Source."""
        return self._control.load(fmt.WORD_FIRST)

    def rewinds(self) -> tuple[int, int]:
        """See Source."""
        load = self._control.load
        return load(fmt.WORD_REWINDS), load(fmt.WORD_REWIND_CUT)

    def view(self) -> View:
        """See Source."""
        changes = self._control.load(fmt.WORD_CHANGES)
        if self._seen[0] != changes:
            self._seen = (changes, View.load(self._directory))
        return self._seen[1]

    def wait(self, seen: int, durable_only: bool, timeout: float) -> None:
        """See Source."""
        page = self._control.page
        if durable_only:
            syncs = self._control.load(fmt.WORD_SYNCS)
            if self.end(True) <= seen:
                page.wait(fmt.WORD_SYNCS, syncs, fmt.WORD_SYNC_WAITERS, timeout)
        else:
            page.wait(fmt.WORD_END, seen, fmt.WORD_APPEND_WAITERS, timeout)

    def open(self, base: int) -> OpenSegment:
        """See Source."""
        return OpenSegment(self._directory, base)

    def damaged_from(self) -> tuple[int, TreeringError] | None:
        """See Source: opening for appends refuses damage."""
        return None


class Segments:
    """Open segments kept for reading single records: the most recently used few."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._kept: OrderedDict[int, OpenSegment] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, base: int) -> OpenSegment:
        """The segment of `base`; the caller holds `using`."""
        kept = self._kept.get(base)
        if kept is not None and kept.file.links() == 0:
            del self._kept[base]
            kept.close()
            kept = None
        if kept is None:
            kept = self._kept[base] = self._source.open(base)
        self._kept.move_to_end(base)
        while len(self._kept) > _SEGMENTS_KEPT_OPEN:
            self._kept.popitem(last=False)[1].close()
        return kept

    @property
    def using(self) -> threading.Lock:
        """Held by whoever uses a kept segment, so that nobody closes it meanwhile."""
        return self._lock

    def abandon(self) -> None:
        """In a forked child: another thread may have held the lock when the parent forked."""
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close them all."""
        with self._lock:
            while self._kept:
                self._kept.popitem()[1].close()


class Start(NamedTuple):
    """Where a read-only handle found the log to begin and end."""

    first: int
    end: int
    epoch: int
    damage: TreeringError | None


class QuietSource:
    """A log opened read-only: the files tell where it ends. Writes nothing, trusts no control page
    for content; a page that a live writer keeps is used to be woken, where it can be mapped.

    A whole frame at the expected place is part of the log: the writer would adopt it even if it
    died before publishing it.
    """

    def __init__(self, directory: Directory, start: Start, look_again: Callable[[], Start]) -> None:
        self._directory = directory
        self._look_again = look_again
        self._first, self._end, self._epoch, self._damage = start
        self._damaged_from = (start.end, start.damage) if start.damage is not None else None
        self._rewinds = (0, 0)
        self._durable = 0
        self._tail: OpenSegment | None = None
        self._tail_offset = 0
        self._bases: tuple[int, ...] = ()
        self._lock = threading.Lock()
        self._closed = False
        self._control = self._live_control()

    def _live_control(self) -> Control | None:
        try:
            return Control.join(self._directory, write=False)
        except (TreeringError, ValueError, OSError):
            return None

    def first(self) -> int:
        """See Source."""
        return self._first

    def rewinds(self) -> tuple[int, int]:
        """See Source."""
        return self._rewinds

    def view(self) -> View:
        """See Source."""
        view = View.load(self._directory)
        if view.bases:
            self._first = max(self._first, view.bases[0])
        return view

    def end(self, durable_only: bool) -> int:
        """See Source."""
        with self._lock:
            if self._closed:
                raise ClosedError("the log is closed", hint="Open it again with Wal.open")
            if self._damaged_from is None:
                self._advance()
            return self._durable if durable_only else self._end

    def _advance(self) -> None:
        """Look for whole frames behind the ones known, over segment borders."""
        bases = View.load(self._directory).bases
        if bases != self._bases:
            self._bases = bases
            self._notice_rewind()
        while True:
            if self._tail is None and not self._open_tail():
                return
            assert self._tail is not None
            found = segments.scan_frames(
                self._tail.file,
                self._tail.header,
                self._tail.file.size(),
                offset=self._tail_offset,
                position=self._end,
            )
            self._tail_offset, self._end = found.offset, found.position
            self._durable = max(self._durable, found.durable)
            following = View.load(self._directory).after(self._tail.base)
            if following is None or following > self._end:
                return
            self._end = following
            self._tail.close()
            self._tail = None

    def _notice_rewind(self) -> None:
        """truncate_after raises the epoch; then what we know of the end may be wrong."""
        try:
            manifest, _ = manifests.load(self._directory)
        except fmt.FormatError:
            return
        if manifest is None or manifest.epoch == self._epoch:
            return
        start = self._look_again()
        if start.end < self._end:
            self._rewinds = (self._rewinds[0] + 1, start.end)
        self._first, self._end, self._epoch = start.first, start.end, start.epoch
        if self._tail is not None:
            self._tail.close()
            self._tail = None

    def _open_tail(self) -> bool:
        base = self.view().containing(self._end)
        if base is None:
            return False
        try:
            self._tail = OpenSegment(self._directory, base)
        except StorageError as error:
            if no_such_file(error):
                return False
            raise
        self._tail_offset, at = self._tail.locate(self._end, self._end)
        if at < self._end:
            found = segments.scan_frames(
                self._tail.file,
                self._tail.header,
                self._tail.file.size(),
                offset=self._tail_offset,
                position=at,
                stop_position=self._end,
            )
            # A cut may lie inside a frame; then nothing can follow in this segment.
            self._tail_offset = found.offset
            self._durable = max(self._durable, found.durable)
        return True

    def wait(self, seen: int, durable_only: bool, timeout: float) -> None:
        """See Source."""
        if self._control is not None and not durable_only:
            # Bounded sleeps: the page may belong to a writer that is gone.
            self._control.page.wait(
                fmt.WORD_END, seen, fmt.WORD_APPEND_WAITERS, min(timeout, WAIT_SLICE_SECONDS)
            )
            if self._control.load(fmt.WORD_END) != seen:
                time.sleep(0 if self.end(False) > seen else min(timeout, 0.01))
            return
        time.sleep(min(timeout, 0.005))

    def open(self, base: int) -> OpenSegment:
        """See Source."""
        return OpenSegment(self._directory, base)

    def damaged_from(self) -> tuple[int, TreeringError] | None:
        """See Source."""
        return self._damaged_from

    def close(self) -> None:
        """Let go of the files."""
        with self._lock:
            self._closed = True
            if self._tail is not None:
                self._tail.close()
                self._tail = None
            if self._control is not None:
                self._control.close()
                self._control = None


def pruned_error(position: int, first: int) -> PrunedError:
    """The error for a position before `first`."""
    error = PrunedError(
        "the position was removed by truncation",
        position=position,
        hint=f"The oldest position is {first}",
    )
    error.oldest = first
    return error
