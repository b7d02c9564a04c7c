"""Reading a log: forwards, backwards, one record, from a time on, and following its growth.

Readers use pread only, never a mapping: an unreadable sector becomes an exception, and a writer is
never in their way. What they show is bounded by the end that was published before they read.

`Source` is what a reader needs to know of the log: `LiveSource` asks the control page, and
`QuietSource` only the files (read-only handles, which may write nothing and trust nothing).
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Protocol

from . import format as fmt
from . import segment as segments
from .codec import INCOMPLETE, Record, RecordIterator
from .compression import decompress
from .control import Control
from .errors import (
    ClosedError,
    DamageError,
    PositionError,
    PrunedError,
    RewoundError,
    StorageError,
    TreeringError,
    UsageError,
)
from .files import Directory, File, no_such_file
from .view import View

CHUNK_BYTES = 256 * 1024
# Reading one record, or a step backwards, needs no more than an index step and the frame.
STEP_BYTES = fmt.INDEX_STEP_BYTES
_SLICE_SECONDS = 0.25
# How often bytes that should be a frame are read again before they are called damage: on machines
# with weakly ordered memory the pure-Python twin may see the end before the bytes.
_LOOK_AGAIN = 3
_SEGMENTS_KEPT_OPEN = 16


class OpenSegment:
    """A segment opened for reading, with what is known of its inside."""

    def __init__(self, directory: Directory, base: int) -> None:
        self.base = base
        self.file = segments.open_segment(directory, base)
        try:
            self.header = segments.read_header(self.file)
            self.size_bytes = self.file.size()
            self.trailer = segments.read_trailer(self.file, self.header, self.size_bytes)
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
            entry for entry in found.index if entry.offset // fmt.INDEX_STEP_BYTES > last
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

    def close(self) -> None:
        """Close them all."""
        with self._lock:
            while self._kept:
                self._kept.popitem()[1].close()


class Reader:
    """An iterator over records, in order of position; made by `Wal.read_from`.

    `position` is the next record's. `close` releases the file it has open, `stop` ends a following
    reader from another thread or a signal handler: its loop then simply ends. For one thread at a
    time. Raises PrunedError when truncation overtakes it, DamageError at damaged bytes.
    """

    def __init__(
        self,
        source: Source,
        position: int,
        *,
        stop: int | None = None,
        follow: bool = False,
        timeout: float | None = None,
        durable_only: bool = False,
        copy: bool = True,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> None:
        self._source = source
        self._stop_at = fmt.POSITION_MAX if stop is None else stop
        self._follow = follow
        self._timeout = timeout
        self._durable_only = durable_only
        self._copy = copy
        self._buffer = bytearray(0) if copy else b""
        self._chunk_bytes = chunk_bytes
        self._segment: OpenSegment | None = None
        self._at = 0  # offset in the file of what the iterator has loaded
        self._tries = 0
        self._stopped = False
        self._waiting_since: float | None = None
        self._rewinds = source.rewinds()
        self._iterator = RecordIterator(self._refill, decompress, copy)
        self._iterator.position = position
        self._check_start(position)

    def _check_start(self, position: int) -> None:
        first = self._source.first()
        if position < first:
            raise _pruned(position, first)

    @property
    def position(self) -> int:
        """Position of the record that the next step gives."""
        return self._iterator.position

    def __iter__(self) -> Iterator[Record]:
        return self._iterator

    def __next__(self) -> Record:
        return next(self._iterator)

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def stop(self) -> None:
        """End the iteration before the next refill; a waiting reader notices within 0.25 s."""
        self._stopped = True

    def close(self) -> None:
        """Release the file; idempotent. Further steps end the iteration."""
        self._stopped = True
        segment, self._segment = self._segment, None
        if segment is not None:
            segment.close()

    def __del__(self) -> None:
        segment = getattr(self, "_segment", None)
        if segment is not None:
            segment.close()

    # --- What the iterator calls when it has run dry ---------------------------------------------

    def _refill(self, iterator: RecordIterator) -> bool:
        while not self._stopped:
            end = min(self._source.end(self._durable_only), self._stop_at)
            position = iterator.position
            self._check_rewound(position)
            if position < self._source.first():
                raise _pruned(position, self._source.first())
            if position >= end:
                if not self._wait(position):
                    return False
                continue
            self._check_damage(position)
            self._waiting_since = None
            if self._load(iterator, position, end):
                return True
        return False

    def _check_damage(self, position: int) -> None:
        known = self._source.damaged_from()
        if known is not None and position >= known[0]:
            raise known[1]

    def _check_rewound(self, position: int) -> None:
        before, now = self._rewinds, self._source.rewinds()
        if now == before:
            return
        self._rewinds = now
        if position > now[1] or now[0] - before[0] > 1:
            error = RewoundError(
                "truncate_after removed records that this reader had passed",
                position=position,
                hint="Start a new reader at or before the new end",
            )
            error.end = now[1]
            error.oldest = self._source.first()
            raise error
        self._leave_segment()

    def _wait(self, position: int) -> bool:
        """Whether to look again: something may have come, or there is time left."""
        if not self._follow or position >= self._stop_at:
            return False
        now = time.monotonic()
        if self._waiting_since is None:
            self._waiting_since = now
        left = _SLICE_SECONDS
        if self._timeout is not None:
            left = min(left, self._waiting_since + self._timeout - now)
            if left <= 0:
                self._waiting_since = None
                return False
        self._source.wait(position, self._durable_only, left)
        return True

    def _load(self, iterator: RecordIterator, position: int, end: int) -> bool:
        """Load the chunk that holds `position`; False to look at the log again."""
        view = self._source.view()
        base = view.containing(position)
        if base is None:
            raise _pruned(position, self._source.first())
        if self._segment is None or self._segment.base != base:
            if not self._enter_segment(base, position, end):
                return False
            at, frame_position = self._enter_at(position, end)
            needed = 0
        else:
            # The iterator stopped at a frame boundary unless its buffer was cut short there.
            at = self._at + iterator.offset
            frame_position, needed = position, iterator.needed
            if iterator.reason == INCOMPLETE:
                self._tries = 0
            if iterator.reason != INCOMPLETE and not self._look_again():
                raise self._damage(position, at)
        assert self._segment is not None
        following = view.after(base)
        limit = end if following is None else min(end, following)
        count = self._read_chunk(at, needed)
        if iterator.reason == INCOMPLETE and needed > count:
            raise self._damage(position, at)
        header = self._segment.header
        self._at = at
        iterator.load(
            self._buffer, 0, count, frame_position, limit, position, header.tag, header.seed
        )
        return True

    def _look_again(self) -> bool:
        self._tries += 1
        if self._tries > _LOOK_AGAIN:
            return False
        if self._tries > 1:
            time.sleep(0.001)
        return True

    def _enter_segment(self, base: int, position: int, end: int) -> bool:
        self._leave_segment()
        try:
            self._segment = self._source.open(base)
        except StorageError as error:
            if not no_such_file(error):
                raise
            if position < self._source.first():
                raise _pruned(position, self._source.first()) from error
            if self._look_again():
                return False
            raise
        return True

    def _enter_at(self, position: int, end: int) -> tuple[int, int]:
        assert self._segment is not None
        if position == self._segment.base:
            return self._segment.header.frames_start, position
        return self._segment.locate(position, end)

    def _leave_segment(self) -> None:
        segment, self._segment = self._segment, None
        if segment is not None:
            segment.close()

    def _read_chunk(self, at: int, needed: int) -> int:
        assert self._segment is not None
        size = max(self._chunk_bytes, needed)
        if needed > fmt.FRAME_BYTES_LIMIT or at + needed > self._segment.file.size():
            raise self._damage(self.position, at)
        if not self._copy:
            self._buffer = self._segment.file.read(size, at)
            return len(self._buffer)
        # The iterator still exports the buffer it has: grow by replacing, not by resizing.
        keep = len(self._buffer) == self._chunk_bytes and size == self._chunk_bytes
        if not keep:
            self._buffer = bytearray(size)
        return self._segment.file.read_into(memoryview(self._buffer), at)

    def _damage(self, position: int, offset: int) -> DamageError:
        assert self._segment is not None
        error = DamageError(
            "the bytes of a record are not what was written",
            path=self._segment.file.path,
            offset=offset,
            position=position,
            hint="Records before it are intact. Run `treering verify` on the log",
        )
        error.positions = (position, None)
        return error


def read_one(source: Source, kept: Segments, position: int) -> Record:
    """The record at `position`: one signpost look-up and one or two reads."""
    end, first = source.end(False), source.first()
    if position < first:
        raise _pruned(position, first)
    if position >= end:
        raise PositionError("the log has not reached this position", position=position)
    known = source.damaged_from()
    if known is not None and position >= known[0]:
        raise known[1]
    base = source.view().containing(position)
    if base is None:
        raise _pruned(position, source.first())
    with kept.using:
        try:
            segment = kept.get(base)
        except StorageError as error:
            if no_such_file(error) and position < source.first():
                raise _pruned(position, source.first()) from error
            raise
        for record in _frames_from(segment, position, position + 1):
            return record
    raise DamageError("the record cannot be read", path=segment.file.path, position=position)


def _frames_from(segment: OpenSegment, position: int, end: int) -> Iterator[Record]:
    """The records [position, end) of one segment."""
    offset, frame_position = segment.locate(position, end)
    at = offset
    needed = STEP_BYTES

    def refill(iterator: RecordIterator) -> bool:
        nonlocal at, needed
        if iterator.position >= end:
            return False
        wanted = max(iterator.needed, needed)
        at += iterator.offset
        room = segment.file.size() - at
        if iterator.reason != INCOMPLETE or wanted > fmt.FRAME_BYTES_LIMIT:
            return False
        if iterator.needed > room:
            return False
        block = segment.file.read(min(wanted, room), at)
        start = max(iterator.position, frame_position)
        if not block:
            return False
        iterator.load(
            block, 0, len(block), start, end, position, segment.header.tag, segment.header.seed
        )
        return True

    iterator = RecordIterator(refill, decompress, True)
    iterator.position = frame_position
    return iterator


def read_backwards(source: Source, kept: Segments, start: int, stop: int) -> Iterator[Record]:
    """Records from `start` - 1 down to `stop`, one index step in memory at a time."""
    if stop < source.first():
        raise _pruned(stop, source.first())
    upper = start
    while upper > stop:
        base = source.view().containing(upper - 1)
        if base is None or upper - 1 < source.first():
            raise _pruned(upper - 1, source.first())
        with kept.using:
            segment = kept.get(base)
            _, lower = segment.locate(upper - 1, upper)
            lower = max(lower, stop)
            block = list(_frames_from(segment, lower, upper))
        if len(block) != upper - lower:
            raise DamageError(
                "records cannot be read", path=segment.file.path, position=lower + len(block)
            )
        yield from reversed(block)
        upper = lower


def position_at_time(source: Source, kept: Segments, time_ns: int) -> int:
    """Position of the first record whose timestamp is at or after `time_ns`, or the end."""
    end = source.end(False)
    bases = source.view().bases
    for number, base in enumerate(bases):
        limit = bases[number + 1] if number + 1 < len(bases) else end
        with kept.using:
            segment = kept.get(base)
            if segment.newest_ns(limit) < time_ns:
                continue
            start = base
            for entry in segment.index(limit):
                if entry.newest_before_ns >= time_ns:
                    break
                start = entry.position
            for record in _frames_from(segment, max(start, source.first()), limit):
                if (record.timestamp_ns or 0) >= time_ns:
                    assert record.position is not None
                    return record.position
    return end


def time_in_ns(moment: Any) -> int:
    """Seconds since 1970 or a datetime, in nanoseconds."""
    seconds = moment.timestamp() if hasattr(moment, "timestamp") else moment
    if not isinstance(seconds, int | float):
        raise UsageError(f"a time must be seconds since 1970 or a datetime, not {moment!r}")
    return round(seconds * 1e9)


def _pruned(position: int, first: int) -> PrunedError:
    error = PrunedError(
        "the position was removed by truncation",
        position=position,
        hint=f"The oldest position is {first}",
    )
    error.oldest = first
    return error


class QuietSource:
    """A log opened read-only: the files tell where it ends. Writes nothing, trusts no control page
    for content; a page that a live writer keeps is used to be woken, where it can be mapped.

    A whole frame at the expected place is part of the log: the writer would adopt it even if it
    died before publishing it.
    """

    def __init__(
        self,
        directory: Directory,
        first: int,
        damaged: tuple[int, TreeringError] | None,
        end: int,
    ) -> None:
        self._directory = directory
        self._first = first
        self._damaged = damaged
        self._end = end
        self._durable = 0
        self._tail: OpenSegment | None = None
        self._tail_offset = 0
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
        """See Source: a read-only handle notices a cut by the records being gone."""
        return 0, 0

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
            if self._damaged is None:
                self._advance()
            return self._durable if durable_only else self._end

    def _advance(self) -> None:
        """Look for whole frames behind the ones known, over segment borders."""
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
                fmt.WORD_END, seen, fmt.WORD_APPEND_WAITERS, min(timeout, _SLICE_SECONDS)
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
        return self._damaged

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


__all__ = ["File", "LiveSource", "OpenSegment", "QuietSource", "Reader", "Segments", "Source"]
__all__ += ["position_at_time", "read_backwards", "read_one", "time_in_ns"]
