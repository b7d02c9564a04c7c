"""The reading half: the same for a metrics log, and for one as it was."""

from __future__ import annotations

import heapq
from abc import abstractmethod
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any, NamedTuple

from treering import PrunedError, Record, UsageError
from treering.fold import Follower

from . import codec
from .aggregating import aggregated, measure
from .codec import Bucket, Columns
from .given import (
    SECOND_NS,
    TIME_MAX,
    TIME_MIN,
    all_tags,
    duration_ns,
    names_of,
    series_key,
    time_ns,
)
from .index import Entry
from .state import RAW, State

# So many points are read at a time, unless more of them overlap.
BLOCK_POINTS = 65_536
# Chunks that retention or a merge takes away under a query are looked up anew so often.
_TRIES = 10


class Point(NamedTuple):
    """A value at a time, in ns since 1970."""

    time: int
    value: float

    @property
    def seconds(self) -> float:
        """The time in seconds since 1970."""
        return self.time / SECOND_NS


class SeriesName(NamedTuple):
    """What identifies a series."""

    name: str
    tags: dict[str, str]


class _Overtaken(Exception):
    """Retention took a resolution away from `start` on, while it was being read up to there."""

    def __init__(self, start: int) -> None:
        super().__init__(start)
        self.start = start


class Fetch:
    """Reads the chunks of one state; for a `fixed` one, as it was."""

    def __init__(self, fold: Follower[State], fixed: State | None = None) -> None:
        self.fold, self.fixed = fold, fixed

    def state(self) -> State:
        """The newest state, or the fixed one; with the fold's lock held."""
        return self.fold.state() if self.fixed is None else self.fixed

    def records(
        self, number: int, resolution: int, start: int, end: int, part: bool
    ) -> Iterator[tuple[int, list[Record]]]:
        """The chunks of a series that overlap with a span of time, in groups between which no time
        is on both sides; and from where on each counts: what is before was in the one before it.
        What is too old is left out, unless this is a `part` of what is read: then _Overtaken."""
        tries = 0
        while start < end:
            with self.fold.lock:
                state = self.state()
                index = state.series[number].index(resolution)
                floor = state.floors.get(resolution, TIME_MAX)
                if part and floor > start:
                    raise _Overtaken(start)
                start = max(start, floor)
                entries = [] if index is None else index.overlapping(start, end)
            try:
                for group, stop in _groups(entries):
                    found = self.fold.wal.read_many([entry.position for entry in group])
                    yield start, found
                    start, tries = max(start, stop), 0
                return
            except PrunedError:
                tries += 1
                if self.fixed is not None or tries > _TRIES:
                    raise

    def points(self, number: int, start: int, end: int, part: bool = False) -> Iterator[Columns]:
        """The raw points of a series from `start` up to, not including, `end`, in order."""
        for since, group in self.records(number, RAW, start, end, part):
            times, values = joined(map(codec.points_of, group))
            low, high = bisect_left(times, since), bisect_left(times, end)
            if high - low < len(times):
                times, values = times[low:high], values[low:high]
            if times:
                yield times, values

    def buckets(
        self, number: int, resolution: int, start: int, end: int, part: bool = False
    ) -> Iterator[list[Bucket]]:
        """The buckets of a series that begin from `start` up to, not including, `end`, in order."""
        for since, group in self.records(number, resolution, start, end, part):
            found = newest_buckets(map(codec.buckets_of, group))
            yield [bucket for bucket in found if since <= bucket.start < end]

    def pieces(
        self, number: int, start: int, end: int, resolution: int | None
    ) -> Iterator[Columns | list[Bucket]]:
        """What a series has in a span of time, in order: each part of it in its finest resolution,
        or all at a given one. Where retention overtakes this, what is coarser takes over."""
        part = resolution is None
        while start < end and (parts := self.parts(start, end, resolution)):
            level, low, high = parts[0]
            read = self.points(number, low, high, part) if level == RAW else None
            try:
                yield from read or self.buckets(number, level, low, high, part)
                start = high
            except _Overtaken as overtaken:
                start = overtaken.start

    def parts(self, start: int, end: int, resolution: int | None) -> list[tuple[int, int, int]]:
        """(resolution, from, to): of a span of time, what has which resolution as its finest; or
        all of it at a given one. UsageError if that one is not kept."""
        with self.fold.lock:
            state = self.state()
            config, floors = state.config, dict(state.floors)
        if resolution is not None:
            if resolution not in floors:
                known = [level / SECOND_NS for level, _ in config.levels]
                raise UsageError(
                    f"there is no resolution of {resolution / SECOND_NS} s",
                    hint=f"0 is raw, and the levels are {known}",
                )
            return [(resolution, start, end)]
        found = []
        for each in (RAW, *(level for level, _ in config.levels)):
            low = max(start, floors[each])
            if low < end:
                found.append((each, low, end))
                end = low
        return found[::-1]


def _groups(entries: list[Entry]) -> Iterator[tuple[list[Entry], int]]:
    """Entries by time, in groups of some size that do not overlap; and each group's end."""
    group: list[Entry] = []
    points, stop = 0, TIME_MIN
    for entry in sorted(entries):
        if points >= BLOCK_POINTS and entry.first >= stop:
            yield group, stop
            group, points = [], 0
        group.append(entry)
        points += entry.points
        stop = max(stop, entry.last + 1)
    if group:
        yield group, stop


def joined(chunks: Iterable[Columns]) -> Columns:
    """All points of some chunks, in the order of time."""
    times, values = array("q"), array("d")
    ordered = True
    for more_times, more_values in chunks:
        ordered = ordered and (not times or times[-1] <= more_times[0])
        times += more_times
        values += more_values
    return (times, values) if ordered else codec.in_order(times, values)


def newest_buckets(chunks: Iterable[list[Bucket]]) -> list[Bucket]:
    """The buckets of some chunks, in order. A bucket that was made again has more points than
    before, so the one with the most is the newest."""
    found: dict[int, Bucket] = {}
    for chunk in chunks:
        for bucket in chunk:
            known = found.get(bucket.start)
            if known is None or bucket.count >= known.count:
                found[bucket.start] = bucket
    return [found[start] for start in sorted(found)]


class Points:
    """What `range` found: iterate it, or take it as arrays. It is read from the log while you go
    over it, each time anew; memory stays flat while chunks do not overlap. Points that are recorded
    meanwhile may be in it or not."""

    def __init__(
        self, fetch: Fetch, names: list[tuple[int, SeriesName]], span: tuple[int, int, int | None]
    ) -> None:
        self._fetch, self._names, self._span = fetch, names, span

    @property
    def series(self) -> list[SeriesName]:
        """Which series match."""
        return [name for _, name in self._names]

    def by_series(self) -> list[tuple[SeriesName, Points]]:
        """The same, each series by itself."""
        return [
            (name, Points(self._fetch, [(number, name)], self._span))
            for number, name in self._names
        ]

    def __iter__(self) -> Iterator[Point]:
        each = [self._points(number) for number, _ in self._names]
        return each[0] if len(each) == 1 else heapq.merge(*each, key=_time)

    def _points(self, number: int) -> Iterator[Point]:
        for times, values in self._blocks(number):
            yield from map(Point, times, values)

    def blocks(self) -> Iterator[tuple[SeriesName, array[int], array[float]]]:
        """Series by series, arrays of many points at a time: the quick way through very many."""
        for number, name in self._names:
            for times, values in self._blocks(number):
                yield name, times, values

    def _blocks(self, number: int) -> Iterator[Columns]:
        for piece in self._fetch.pieces(number, *self._span):
            if isinstance(piece, tuple):
                yield piece
            elif piece:
                starts = array("q", (bucket.start for bucket in piece))
                yield starts, array("d", (bucket.mean for bucket in piece))

    def arrays(self) -> Columns:
        """All times (ns since 1970) and values, in the order of time."""
        return joined((times, values) for _, times, values in self.blocks())

    def aggregate(self, step: Any, how: str) -> list[Point]:
        """As `MetricsLog.aggregate`, of these points. A range without a beginning has intervals
        that are counted from 1970 on."""
        step_ns, measured = duration_ns(step, "a step"), measure(how)
        origin = 0 if self._span[0] == TIME_MIN else self._span[0]
        found = aggregated(self._pieces(), origin, step_ns, measured)
        return [Point(origin + at * step_ns, value) for at, value in found]

    def _pieces(self) -> Iterator[Columns | list[Bucket]]:
        for number, _ in self._names:
            yield from self._fetch.pieces(number, *self._span)


def _time(point: Point) -> int:
    return point.time


def points_of(
    fetch: Fetch,
    names: list[tuple[int, SeriesName]],
    start: Any,
    end: Any,
    resolution: float | None,
) -> Points:
    """These series' points; UsageError if a time is none, or there is no such resolution."""
    low, high = _span(start, end)
    level = _resolution(resolution)
    fetch.parts(low, high, level)
    return Points(fetch, names, (low, high, level))


class Readable:
    """Queries. Those with tags look at every series of that name that has all of them; tags whose
    names are no keywords, or are taken, go into the dict `tags`. A time is an int of ns since 1970,
    a float of seconds, or a datetime with a zone. Raises UsageError, and what the log raises."""

    @abstractmethod
    def _fetch(self) -> Fetch:
        """What reads."""

    def series_list(
        self, name: str | None = None, tags: Mapping[str, str] | None = None, **more: str
    ) -> list[SeriesName]:
        """The series, in the order of their beginning; those of a name, that have these tags."""
        fetch, wanted = self._fetch(), all_tags(tags, more)
        if name is not None:
            return [found for _, found in _matching(fetch, name, wanted)]
        series_key("any", wanted)  # an error for what can be no tag
        with fetch.fold.lock:
            keys = [series.key for series in fetch.state().series]
        found = map(SeriesName._make, map(names_of, keys))
        return [series for series in found if wanted.items() <= series.tags.items()]

    def range(
        self,
        name: str,
        start: Any = None,
        end: Any = None,
        *,
        resolution: float | None = None,
        tags: Mapping[str, str] | None = None,
        **more: str,
    ) -> Points:
        """The points from `start` up to, not including, `end` (None: all), in the order of time.
        Points with the same time are all there, in no promised order.

        Where raw points are not kept any more, the finest buckets that are stand in: a point with
        the time of their beginning and their mean. `resolution=0` gives raw points alone, a level's
        resolution (seconds) that level's buckets alone. O(what is found), besides a look at the
        index.
        """
        fetch = self._fetch()
        names = _matching(fetch, name, all_tags(tags, more))
        return points_of(fetch, names, start, end, resolution)

    def buckets(
        self,
        name: str,
        resolution: float,
        start: Any = None,
        end: Any = None,
        *,
        tags: Mapping[str, str] | None = None,
        **more: str,
    ) -> Iterator[Bucket]:
        """The buckets that `rollup` made at one of the levels' resolutions (seconds), that begin
        from `start` up to `end`; of several series in the order of time. Empty ones are left
        out."""
        fetch = self._fetch()
        level = duration_ns(resolution, "a resolution")
        low, high = _span(start, end)
        fetch.parts(low, high, level)
        each = [
            chain.from_iterable(fetch.buckets(number, level, low, high))
            for number, _ in _matching(fetch, name, all_tags(tags, more))
        ]
        return heapq.merge(*each)

    def aggregate(
        self,
        name: str,
        start: Any,
        end: Any,
        step: Any,
        how: str,
        *,
        resolution: float | None = None,
        tags: Mapping[str, str] | None = None,
        **more: str,
    ) -> list[Point]:
        """One figure for each interval of `step` seconds from `start` on, over all matching series
        together: "mean", "min", "max", "sum", "count" or a percentile, "p1" to "p99". Intervals
        without points are left out; each has the time of its beginning.

        Where raw points are not kept any more it is made of the finest buckets that are, each
        counted where it begins. A percentile is then exact over one bucket and an estimate over
        several; over raw points it is a value that was recorded (of the nearest rank).
        """
        names = all_tags(tags, more)
        return self.range(name, start, end, resolution=resolution, tags=names).aggregate(step, how)


def _span(start: Any, end: Any) -> tuple[int, int]:
    low = TIME_MIN if start is None else time_ns(start)
    high = TIME_MAX if end is None else time_ns(end)
    if low > high:
        raise UsageError("the range ends before it begins", hint="Give start, then end")
    return low, high


def _resolution(seconds: float | None) -> int | None:
    if seconds is None or (seconds == 0 and not isinstance(seconds, bool)):
        return None if seconds is None else RAW
    return duration_ns(seconds, "a resolution")


def _matching(fetch: Fetch, name: str, tags: dict[str, str]) -> list[tuple[int, SeriesName]]:
    series_key(name, tags)  # an error for what can be no name
    with fetch.fold.lock:
        state = fetch.state()
        numbers = state.matching(name, tags)
        return [(number, SeriesName(*names_of(state.series[number].key))) for number in numbers]


class MetricsView(Readable):
    """A metrics log as it was; made by `MetricsLog.at`. Its points are read from the log when they
    are asked for: PrunedError when retention and a checkpoint have removed them meanwhile."""

    def __init__(self, fold: Follower[State], state: State, position: int) -> None:
        self._fold, self._state, self.position = fold, state, position

    def _fetch(self) -> Fetch:
        return Fetch(self._fold, self._state)
