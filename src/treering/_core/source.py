"""What readers need to know of a log, and the segments they have open.

`LiveSource` asks the control page; `QuietSource` (see quiet.py), for read-only handles, the files
alone. Readers use pread, never a mapping: an unreadable sector becomes an exception, and a writer
is never in their way.
"""

from __future__ import annotations

import errno
import threading
from bisect import bisect_right
from collections import OrderedDict
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

from . import format as fmt
from . import segment as segments
from .codec import INCOMPLETE, RecordIterator
from .compression import decompress
from .control import Control
from .errors import (
    ClosedError,
    DamageError,
    PrunedError,
    StorageError,
    TreeringError,
    failed_error,
)
from .files import Directory, File, no_such_file
from .survey import newer_error
from .view import View

WAIT_SLICE_SECONDS = 0.25
# At random places of a log of this many segments a look-up opens none; but one log takes no more
# than this share of the files that the process may open.
_SEGMENTS_KEPT_OPEN = 128
_SHARE_OF_LIMIT = 8
# A process at its limit of open files gives back all but so many of them.
_SEGMENTS_IN_NEED = 4
_SPARE_BYTES = 4096


class _Known(NamedTuple):
    """What is known of the inside of a segment."""

    signposts: list[fmt.IndexEntry]  # to the frames before `offset`
    offset: int
    position: int  # of the frame at `offset`
    newest_ns: int


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
            if isinstance(error, fmt.UnknownVersionError):
                raise newer_error(path, error) from error
            raise DamageError(str(error), path=path, position=base) from error
        except BaseException:
            self.file.close()
            raise
        if self.header.base != base:
            self.file.close()
            raise DamageError(
                "the segment carries another's name", path=self.file.path, offset=0, position=base
            )
        self.tag, self.seed = self.header.tag, self.header.seed  # worked out once, not per look-up
        self._known: _Known | None = None
        self._lock = threading.RLock()

    def index(self, end: int) -> list[fmt.IndexEntry]:
        """Signposts to the frames below `end`: the footer's, or made (and kept) by scanning."""
        return self._know(end).signposts

    def _know(self, end: int) -> _Known:
        with self._lock:
            known = self._known or self._from_footer()
            if known.position < end:
                known = self._extend(known, end)
            # In one step: a signal's handler may have come here, too, since we began.
            self._known = known
            return known

    def _from_footer(self) -> _Known:
        if self.trailer is not None:
            try:
                index = segments.read_index(self.file, self.trailer, self.size_bytes)
                return _Known(index, self.trailer.frames_end, self.trailer.end, 0)
            except fmt.FormatError:
                self.trailer = None  # a damaged footer only costs a scan
        return _Known([], self.header.frames_start, self.base, 0)

    def _extend(self, known: _Known, end: int) -> _Known:
        found = segments.scan_frames(
            self.file,
            self.header,
            self.file.size(),
            offset=known.offset,
            position=known.position,
            newest_ns=known.newest_ns,
            stop_position=end,
        )
        index = known.signposts
        last = index[-1].offset // fmt.INDEX_STEP_BYTES if index else -1
        more = [entry for entry in found.signposts if entry.offset // fmt.INDEX_STEP_BYTES > last]
        return _Known(
            index + more if more else index, found.offset, found.position, found.newest_ns
        )

    def newest_ns(self, end: int) -> int:
        """Greatest timestamp of the records below `end`, or after them in the same segment."""
        if self.trailer is not None:
            return self.trailer.newest_ns
        return self._know(end).newest_ns

    def reached(self, end: int) -> int:
        """The position up to which frames are intact, as far as that is known; at most `end`."""
        if self.trailer is not None:
            return end
        return min(self._know(end).position, end)

    def locate(self, position: int, end: int) -> tuple[int, int, int]:
        """(offset, position) of a frame at or before `position`, and how many bytes from there on
        probably reach beyond it."""
        return _signpost(self.index(end), position, self.header)

    def close(self) -> None:
        """Close the file."""
        self.file.close()


def _signpost(
    index: list[fmt.IndexEntry], position: int, header: fmt.SegmentHeader
) -> tuple[int, int, int]:
    low = bisect_right(index, (position, fmt.POSITION_MAX))  # pairs compare as entries do
    at, before = header.frames_start, header.base
    if low > 0:
        at, before = index[low - 1].offset, index[low - 1].position
    if low == len(index):
        return at, before, fmt.INDEX_STEP_BYTES
    # Between two signposts, as if all records had one size, and some more as they have not.
    part = (position - before) / (index[low].position - before)
    return at, before, int((index[low].offset - at) * part) + _SPARE_BYTES


def records_between(
    file: File, header: fmt.SegmentHeader, offset: int, position: int, end_offset: int, end: int
) -> RecordIterator:
    """The records of the frames in [offset, end_offset), the first of which has `position`, below
    position `end`; a chunk at a time. It ends early where bytes are not the expected frame."""
    at = offset

    def refill(iterator: RecordIterator) -> bool:
        nonlocal at
        at += iterator.offset
        room = end_offset - at
        if iterator.position >= end or iterator.reason != INCOMPLETE:
            return False
        if iterator.needed > min(room, fmt.FRAME_BYTES_LIMIT):
            return False  # before memory is asked for
        block = file.read(min(max(segments.CHUNK_BYTES, iterator.needed), room), at)
        if not block or len(block) < iterator.needed:
            return False
        iterator.load(block, 0, len(block), iterator.position, end, 0, header.tag, header.seed)
        return True

    iterator = RecordIterator(refill, decompress, True)
    iterator.position = position
    return iterator


class Source(Protocol):
    """What readers ask of a log."""

    def end(self, durable_only: bool) -> int:
        """The position after the last record that may be shown."""

    def first(self) -> int:
        """The oldest position still there."""

    def view(self) -> View:
        """The segments, at least as new as the last `end`."""

    def standing(self) -> tuple[int, int]:
        """How often the log was cut, and its first position. After `end`: a cut that it may not
        show yet is not counted."""

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

    def standing(self) -> tuple[int, int]:
        """See Source. The epoch is what a cut stores last."""
        return self._control.load(fmt.WORD_EPOCH), self._control.load(fmt.WORD_FIRST)

    def rewinds(self) -> tuple[int, int]:
        """See Source."""
        load = self._control.load
        before, count = -1, load(fmt.WORD_REWINDS)
        while before != count:  # see tell_readers: the cut's word is used again two cuts later
            cut = load(fmt.WORD_REWIND_CUT + count % 2)
            before, count = count, load(fmt.WORD_REWINDS)
        return count, cut

    def view(self) -> View:
        """See Source."""
        number = self._control.load(fmt.WORD_FAILED)
        if number and self._control.replaced():  # what we know may be cut since then
            raise failed_error(number, self._directory.path)
        changes = self._control.load(fmt.WORD_CHANGES)
        if self._seen[0] != changes:
            self._seen = (changes, View.load(self._directory))
        return self._seen[1]

    def wait(self, seen: int, durable_only: bool, timeout: float) -> None:
        """See Source."""
        page = self._control.page
        if number := self._control.load(fmt.WORD_FAILED):
            raise failed_error(number, self._directory.path)  # there is nothing to wait for
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
    """Open segments kept for reading single records: the most recently used few.

    One that is no longer kept is dropped, not closed: this very thread may be using it further up
    the stack, below a signal's handler. Its file is closed when the last user has let go of it.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._kept: OrderedDict[int, OpenSegment] = OrderedDict()
        self._lock = threading.RLock()
        self._closed = False
        room = _open_files_max() // _SHARE_OF_LIMIT
        self._most = min(_SEGMENTS_KEPT_OPEN, max(room, _SEGMENTS_IN_NEED))
        self.spare: list[Any] = []  # what one look-up leaves for the next: see lookup.py

    def get(self, base: int) -> OpenSegment:
        """The segment of `base`; the caller holds `using`."""
        # A signal's handler may come here, or close, between any two steps of this.
        kept = self._kept
        if self._closed:
            raise ClosedError("the log is closed", hint="Open it again with Wal.open")
        segment = kept.pop(base, None)
        if segment is None or segment.file.links() == 0:
            segment = self._opened(base)
        kept[base] = segment
        while len(kept) > self._most:
            kept.popitem(last=False)
        return segment

    def _opened(self, base: int) -> OpenSegment:
        try:
            return self._source.open(base)
        except StorageError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE) or not self._kept:
                raise
        while len(self._kept) > _SEGMENTS_IN_NEED:
            self._kept.popitem(last=False)
        return self._source.open(base)

    @property
    def using(self) -> AbstractContextManager[bool]:
        """Held by whoever uses a kept segment, so that nobody closes it meanwhile."""
        return self._lock

    def abandon(self) -> None:
        """In a forked child: another thread may have held the lock when the parent forked."""
        self._closed = True
        self._lock = threading.RLock()

    def close(self) -> None:
        """Let go of them all; idempotent."""
        with self._lock:
            self._closed = True
            self._kept = OrderedDict()


def _open_files_max() -> int:
    """How many files this process may have open."""
    try:
        import resource
    except ImportError:  # not on this system
        return 1 << 20
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 20 if soft == resource.RLIM_INFINITY else soft


def pruned_error(position: int, first: int) -> PrunedError:
    """The error for a position before `first`."""
    error = PrunedError(
        "the position was removed by truncation",
        position=position,
        hint=f"The oldest position is {first}",
    )
    error.oldest = first
    return error


def bytes_on_disk(directory: Directory, bases: tuple[int, ...]) -> int:
    """What those segments take."""
    total = 0
    for base in bases:
        try:
            with segments.open_segment(directory, base) as file:
                total += file.size()
        except StorageError as error:
            if not no_such_file(error):  # truncation was faster
                raise
    return total
