"""Reading a log: forwards, backwards, one record, from a time on, and following its growth.

What a reader shows is bounded by the end that was published before it read the bytes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import TracebackType

from . import format as fmt
from .codec import INCOMPLETE, UNKNOWN, Record, RecordIterator
from .compression import decompress
from .errors import DamageError, RewoundError, StorageError
from .files import no_such_file
from .source import WAIT_SLICE_SECONDS, OpenSegment, Source, pruned_error
from .survey import newer_error

CHUNK_BYTES = 256 * 1024
# A follower that slept until now expects little, and so does who is that near to the end.
GLANCE_BYTES = 4096
_FEW_RECORDS = 16
# Up to so many records are passed over one by one; beyond that, finding the place is quicker.
_NEAR_RECORDS = 64
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
        self._rewinds = look_for_cuts(self._source, before, position)
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
        return self._segment.locate(position, end)[:2]

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


def look_for_cuts(source: Source, before: tuple[int, int], position: int) -> tuple[int, int]:
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
