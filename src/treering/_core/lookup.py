"""Looking records up: one, several, backwards, by their time.

What is shown is bounded by the end that was published before the bytes were read.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from . import format as fmt
from .arguments import whole_nanoseconds
from .codec import INCOMPLETE, UNKNOWN, Record, RecordIterator
from .compression import decompress
from .errors import DamageError, DataError, PositionError, StorageError, TreeringError
from .files import no_such_file
from .reader import look_for_cuts
from .source import OpenSegment, Segments, Source, pruned_error
from .survey import newer_error

# Up to so many records are passed over one by one; beyond that, finding the place is quicker.
_NEAR_RECORDS = 64
# So much is read without looking how long the file is.
_ASKED_BYTES_MAX = 2 * fmt.INDEX_STEP_BYTES
# How often a segment that truncation removed is looked for again.
_LOOK_AGAIN = 3


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
        glance = kept.spare.pop() if kept.spare else _Glance()  # a handler may come in between
        record: Record | None = next(glance.at(segment, position, position + 1), None)
        if not kept.spare:
            kept.spare.append(glance)
        if record is not None:
            return record
        # There is more to read here than one glance shows: so much at least.
        records = _frames_from(segment, position, position + 1, glance.reach())
        for record in records:
            return record
    if source.rewinds() != rewinds:  # it was there when we looked where; now another one is
        return read_one(source, kept, position)
    raise _unreadable(segment, records, position)


def read_many(source: Source, kept: Segments, positions: Sequence[int]) -> list[Record]:
    """The records at these positions, in this order; those that lie near each other together."""
    found: list[Record] = []
    glance = _Glance()
    records: Iterator[Record] = iter(())
    segment, upper, at = None, -1, 0
    for position in positions:
        if segment is None or not segment.base <= position < upper:
            segment, upper = _segment_with(source, kept, position)
            at = upper
        record, ahead = None, position - at
        if segment is not None:
            with kept.using:
                if 0 <= ahead <= _NEAR_RECORDS:
                    record = next(islice(records, ahead, None), None)
                else:
                    records = glance.at(segment, position, upper)
                    record = next(records, None)
                if record is None:  # there is more to read here than one glance shows
                    records = _frames_from(segment, position, upper)
                    record = next(records, None)
        if record is None:  # not in the log, or it changed meanwhile: this one says which
            record, segment = read_one(source, kept, position), None
        found.append(record)
        at = position + 1
    return found


class _Glance:
    """One read at a place, always into the same memory, for which no new one is asked."""

    def __init__(self) -> None:
        self._records = RecordIterator(_no_more, decompress, True)
        self._memory = memoryview(b"")

    def at(self, segment: OpenSegment, position: int, end: int) -> RecordIterator:
        """The records from `position` on, as far as the read reaches, which may be not at all."""
        at, frame_position, size = segment.locate(position, end)
        if size > _ASKED_BYTES_MAX:
            size = _ASKED_BYTES_MAX
        if size > len(self._memory):
            self._memory = memoryview(bytearray(2 * size))
        length = segment.file.read_into(self._memory[:size], at)
        records = self._records
        records.load(
            self._memory, 0, length, frame_position, end, position, segment.tag, segment.seed
        )
        return records

    def reach(self) -> int:
        """How many bytes from there on hold the frame at which the last read ended too early."""
        records = self._records
        wanted = records.offset + records.needed
        return min(max(wanted, fmt.INDEX_STEP_BYTES), fmt.FRAME_BYTES_LIMIT)


def _no_more(iterator: RecordIterator) -> bool:
    return False


def _segment_with(source: Source, kept: Segments, position: int) -> tuple[OpenSegment | None, int]:
    """The open segment that holds a position, and where it ends; None if that is not so simple."""
    end, view = source.end(False), source.view()
    base = view.containing(position)
    upper = end if base is None else min(end, view.after(base) or end)
    if base is None or not source.first() <= position < upper:
        return None, -1
    with kept.using:
        try:
            return kept.get(base), upper
        except StorageError as error:
            if no_such_file(error):
                return None, -1
            raise


def _unreadable(segment: OpenSegment, records: RecordIterator, position: int) -> DataError:
    """The error for a record that `records` ended before."""
    if records.reason == UNKNOWN:
        return newer_error(segment.file.path, "unknown record flags")
    return DamageError("the record cannot be read", path=segment.file.path, position=position)


def _frames_from(
    segment: OpenSegment, position: int, end: int, least: int = fmt.INDEX_STEP_BYTES
) -> RecordIterator:
    """The records [position, end) of one segment; at first `least` bytes are read."""
    at, frame_position, _ = segment.locate(position, end)
    needed = least

    def refill(iterator: RecordIterator) -> bool:
        nonlocal at, needed
        if iterator.position >= end:
            return False
        wanted, needed = max(iterator.needed, needed), fmt.INDEX_STEP_BYTES
        at += iterator.offset
        if iterator.reason != INCOMPLETE or wanted > fmt.FRAME_BYTES_LIMIT:
            return False
        if wanted > _ASKED_BYTES_MAX:  # nobody makes us ask for more memory than there are bytes
            room = segment.file.size() - at
            if iterator.needed > room:
                return False
            wanted = min(wanted, room)
        block = bytearray(wanted)
        length = segment.file.read_into(memoryview(block), at)
        start = max(iterator.position, frame_position)
        if not length or length < iterator.needed:
            return False
        iterator.load(block, 0, length, start, end, position, segment.tag, segment.seed)
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
            rewinds = look_for_cuts(source, rewinds, upper)
            if not isinstance(error, StorageError) or not no_such_file(error):
                raise
            if (tries := tries + 1) > _LOOK_AGAIN:
                raise
            continue
        rewinds = look_for_cuts(source, rewinds, upper)
        yield from reversed(block)
        upper, tries = upper - len(block), 0


def _block_below(source: Source, kept: Segments, upper: int, stop: int) -> list[Record]:
    """The last records before `upper`."""
    base = source.view().containing(upper - 1)
    if base is None or upper - 1 < source.first():
        raise pruned_error(upper - 1, source.first())
    with kept.using:
        segment = kept.get(base)
        _, lower, _ = segment.locate(upper - 1, upper)
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
