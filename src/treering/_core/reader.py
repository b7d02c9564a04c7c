"""Reading a log: forwards, backwards, one record, from a time on, and following its growth.

What a reader shows is bounded by the end that was published before it read the bytes.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterator
from types import TracebackType
from typing import Any

from . import format as fmt
from .arguments import whole_nanoseconds
from .codec import INCOMPLETE, UNKNOWN, Record, RecordIterator
from .compression import decompress
from .errors import DamageError, DataError, PositionError, RewoundError, StorageError, TreeringError
from .files import no_such_file
from .source import WAIT_SLICE_SECONDS, OpenSegment, Segments, Source, pruned_error
from .survey import newer_error

CHUNK_BYTES = 256 * 1024
# A follower that slept until now expects little, and so does who is that near to the end.
GLANCE_BYTES = 4096
_FEW_RECORDS = 16
# Reading one record, or a step backwards, needs no more than an index step and the frame.
STEP_BYTES = fmt.INDEX_STEP_BYTES
# How often bytes that should be a frame are read again before they are called damage: on machines
# with weakly ordered memory the pure-Python twin may see the end before the bytes.
_LOOK_AGAIN = 3


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
        handle: object = None,
    ) -> None:
        stop_at = fmt.POSITION_MAX if stop is None else stop
        self._feed = _Feed(source, stop_at, follow, timeout, durable_only, copy, chunk_bytes)
        # Whoever iterates keeps the feed, and that the handle: a forgotten one is closed later.
        self._feed.handle = handle
        self._iterator = RecordIterator(self._feed.refill, decompress, copy)
        self._iterator.position = position
        first = source.first()
        if position < first:
            raise pruned_error(position, first)

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
        self._feed.stopped = True

    def close(self) -> None:
        """Release the file; idempotent. Further steps end the iteration."""
        self._feed.stopped = True
        self._iterator.load(b"", 0, 0, self.position, 0, 0, 0, 0)
        self._feed.leave_segment()


class _Feed:
    """Loads the iterator of a reader when it has run dry.

    Knows neither of the two, so that a loop left early frees its file at once: no cycle to collect.
    (`handle` knows of no reader.)
    """

    def __init__(
        self,
        source: Source,
        stop_at: int,
        follow: bool,
        timeout: float | None,
        durable_only: bool,
        copy: bool,
        chunk_bytes: int,
    ) -> None:
        self._source = source
        self._stop_at = stop_at
        self._follow = follow
        self._timeout = timeout
        self._durable_only = durable_only
        self._copy = copy
        self._buffer = bytearray(0) if copy else b""
        self._chunk_bytes = chunk_bytes
        self._segment: OpenSegment | None = None
        self._at = 0  # offset in the file of what the iterator has loaded
        self._wanted = 0
        self._tries = 0
        self.stopped = False
        self.handle: object = None
        self._waiting_since: float | None = None
        self._glance = False
        self._rewinds = source.rewinds()

    def __del__(self) -> None:
        if getattr(self, "_segment", None) is not None:  # an interrupted __init__ has none
            self.leave_segment()

    def refill(self, iterator: RecordIterator) -> bool:
        """Load the next records; False at the end."""
        while not self.stopped:
            end = min(self._source.end(self._durable_only), self._stop_at)
            # The iterator may stand before the frame in which the wanted position lies.
            position = max(iterator.position, self._wanted)
            if self._was_rewound(position):
                continue  # the end may be older than the cut
            if position < self._source.first():
                raise pruned_error(position, self._source.first())
            if position >= end:
                if position < self._stop_at:
                    self._check_damage(position)
                if not self._wait(position):
                    return False
                continue
            self._glance, self._waiting_since = self._waiting_since is not None, None
            if self._load(iterator, position, end):
                return True
        return False

    def _check_damage(self, position: int) -> None:
        known = self._source.damaged_from()
        if known is not None and position >= known[0]:
            raise known[1]

    def _was_rewound(self, position: int) -> bool:
        before = self._rewinds
        self._rewinds = _look_for_cuts(self._source, before, position)
        if self._rewinds == before:
            return False
        self.leave_segment()
        return True

    def _wait(self, position: int) -> bool:
        """Whether to look again: something may have come, or there is time left."""
        if not self._follow or position >= self._stop_at:
            return False
        now = time.monotonic()
        if self._waiting_since is None:
            self._waiting_since = now
        left = WAIT_SLICE_SECONDS
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
            raise pruned_error(position, self._source.first())
        if self._segment is None or self._segment.base != base:
            if not self._enter_segment(base, position, end):
                return False
            at, frame_position = self._enter_at(position, end)
            needed = 0
            self._glance = False  # from a signpost on, a glance may not reach the position
        else:
            # The iterator stopped at a frame boundary unless its buffer was cut short there.
            at = self._at + iterator.offset
            frame_position, needed = iterator.position, iterator.needed
            self._glance = self._glance or end - position <= _FEW_RECORDS
            if iterator.reason == INCOMPLETE:
                self._tries = 0
            if iterator.reason == UNKNOWN:
                raise newer_error(self._segment.file.path, "unknown record flags")
            if iterator.reason != INCOMPLETE and not self._look_again():
                raise self._damage(position, at)
        assert self._segment is not None
        following = view.after(base)
        limit = end if following is None else min(end, following)
        count = self._read_chunk(position, at, needed)
        if iterator.reason == INCOMPLETE and needed > count:
            raise self._damage(position, at)
        header = self._segment.header
        self._at, self._wanted = at, position
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
        self.leave_segment()
        try:
            self._segment = self._source.open(base)
        except StorageError as error:
            if not no_such_file(error):
                raise
            if position < self._source.first():
                raise pruned_error(position, self._source.first()) from error
            if self._look_again():
                return False
            raise
        return True

    def _enter_at(self, position: int, end: int) -> tuple[int, int]:
        assert self._segment is not None
        if position == self._segment.base:
            return self._segment.header.frames_start, position
        return self._segment.locate(position, end)

    def leave_segment(self) -> None:
        """Release the file; the next refill opens another."""
        segment, self._segment = self._segment, None
        if segment is not None:
            segment.close()

    def _read_chunk(self, position: int, at: int, needed: int) -> int:
        assert self._segment is not None
        size = max(
            min(GLANCE_BYTES, self._chunk_bytes) if self._glance else self._chunk_bytes, needed
        )
        if needed > fmt.FRAME_BYTES_LIMIT or at + needed > self._segment.file.size():
            raise self._damage(position, at)
        if not self._copy:
            self._buffer = self._segment.file.read(size, at)
            return len(self._buffer)
        # The iterator still exports the buffer it has: grow by replacing, not by resizing.
        keep = size <= len(self._buffer) == self._chunk_bytes
        if not keep:
            self._buffer = bytearray(max(size, self._chunk_bytes))
        return self._segment.file.read_into(memoryview(self._buffer)[:size], at)

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


def _look_for_cuts(source: Source, before: tuple[int, int], position: int) -> tuple[int, int]:
    """The cuts there were by now; RewoundError if one of them since `before` was, or may have been,
    below `position`."""
    now = source.rewinds()
    if now == before or (position <= now[1] and now[0] - before[0] == 1):
        return now
    raise rewound_error(source, position, now[1])


def rewound_error(source: Source, position: int, end: int) -> RewoundError:
    """The error for a position that a cut at `end` has taken back."""
    error = RewoundError(
        "truncate_after removed records that this reader had passed",
        position=position,
        hint="Start a new reader at or before the new end",
    )
    error.end = end
    error.oldest = source.first()
    return error


def read_one(source: Source, kept: Segments, position: int, tries: int = _LOOK_AGAIN) -> Record:
    """The record at `position`: one signpost look-up and one or two reads."""
    rewinds = source.rewinds()
    end, first = source.end(False), source.first()
    if position < first:
        raise pruned_error(position, first)
    if position >= end:
        raise PositionError("the log has not reached this position", position=position)
    known = source.damaged_from()
    if known is not None and position >= known[0]:
        raise known[1]
    base = source.view().containing(position)
    if base is None:
        raise pruned_error(position, source.first())
    with kept.using:
        try:
            segment = kept.get(base)
        except StorageError as error:
            if not no_such_file(error) or tries == 0:
                raise
            # Truncation was faster, at either end: the next look finds out which.
            return read_one(source, kept, position, tries - 1)
        records = _frames_from(segment, position, position + 1)
        for record in records:
            return record
    if source.rewinds() != rewinds:  # it was there when we looked where; now another one is
        return read_one(source, kept, position)
    raise _unreadable(segment, records, position)


def _unreadable(segment: OpenSegment, records: RecordIterator, position: int) -> DataError:
    """The error for a record that `records` ended before."""
    if records.reason == UNKNOWN:
        return newer_error(segment.file.path, "unknown record flags")
    return DamageError("the record cannot be read", path=segment.file.path, position=position)


def _frames_from(segment: OpenSegment, position: int, end: int) -> RecordIterator:
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


def read_backwards(
    source: Source, kept: Segments, start: int, stop: int, rewinds: tuple[int, int], handle: object
) -> Iterator[Record]:
    """Records from `start` - 1 down to `stop`, one index step in memory at a time. `rewinds` is
    from before `start` was found; `handle` stays alive as long as this does."""
    upper, tries = start, 0
    while upper > stop:
        try:
            block = _block_below(source, kept, upper, stop)
        except TreeringError as error:
            source.end(False)  # by this a read-only handle notices a cut
            rewinds = _look_for_cuts(source, rewinds, upper)
            if not isinstance(error, StorageError) or not no_such_file(error):
                raise
            if (tries := tries + 1) > _LOOK_AGAIN:
                raise
            continue
        rewinds = _look_for_cuts(source, rewinds, upper)
        yield from reversed(block)
        upper, tries = upper - len(block), 0


def _block_below(source: Source, kept: Segments, upper: int, stop: int) -> list[Record]:
    """The last records before `upper`."""
    base = source.view().containing(upper - 1)
    if base is None or upper - 1 < source.first():
        raise pruned_error(upper - 1, source.first())
    with kept.using:
        segment = kept.get(base)
        _, lower = segment.locate(upper - 1, upper)
        lower = max(lower, stop)
        records = _frames_from(segment, lower, upper)
        block = list(records)
    if len(block) != upper - lower:
        raise _unreadable(segment, records, lower + len(block))
    return block


def position_at_time(source: Source, kept: Segments, time_ns: int) -> int:
    """Position of the first record whose timestamp is at or after `time_ns`, or the end."""
    first, end = source.first(), source.end(False)
    # What lies before the first segment is being removed, or is gone already.
    bases = [base for base in source.view().bases if base >= first]
    for number, base in enumerate(bases):
        limit = bases[number + 1] if number + 1 < len(bases) else end
        try:
            with kept.using:
                found = _first_at(kept.get(base), limit, time_ns)
        except StorageError as error:
            if no_such_file(error) and base < source.first():
                continue
            raise
        if found is not None:
            return found
    return end


def _first_at(segment: OpenSegment, end: int, time_ns: int) -> int | None:
    """Position of the first record of a segment, below `end`, at or after a time; or where bytes
    cannot be read, for it may lie behind."""
    if segment.newest_ns(end) < time_ns:
        reached = segment.reached(end)
        return reached if reached < end else None
    start = segment.base
    for entry in segment.index(end):
        if entry.newest_before_ns >= time_ns:
            break
        start = entry.position
    records = _frames_from(segment, start, end)
    for record in records:
        if (record.timestamp_ns or 0) >= time_ns:
            return record.position
    return records.position if records.position < end else None


def time_in_ns(moment: Any) -> int:
    """The least timestamp in nanoseconds that, in seconds, is not before `moment` (seconds since
    1970 or a datetime): so a record is found by its own `timestamp`, rounded as it is."""
    seconds = moment.timestamp() if hasattr(moment, "timestamp") else moment
    about = whole_nanoseconds(seconds, "a time (or a datetime)")
    near = range(about - 2048, about + 2048)
    return near[bisect_left(near, seconds, key=lambda exact: exact / 1e9, hi=len(near) - 1)]
