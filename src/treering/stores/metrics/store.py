"""The store: commands, and the care of it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from treering import DiskFullError, FsyncPolicy, ReadOnlyError, Record, UsageError
from treering.fold import Fold, Store

from . import codec
from .checking import check_series
from .compacting import compact, move_on
from .config import TooOldError, config_of
from .given import (
    SECOND_NS,
    TIME_MIN,
    Key,
    all_tags,
    names_of,
    one_value,
    series_key,
    time_ns,
    times_column,
    values_column,
)
from .reading import Fetch, MetricsView, Points, Readable, SeriesName, points_of
from .rolling import drop_old, roll_up
from .state import RAW, State

Chunk = tuple[Key, int, bytes, bytes]  # its series, its first time, its kind, its value


class MetricsFold(Fold[State]):
    """Before each checkpoint, also those of the background, intervals that are over are rolled up,
    what is too old goes, and small chunks are merged."""

    def checkpoint(self) -> int:
        """As `Fold.checkpoint`."""
        try:
            self.maintain()
        except DiskFullError:
            pass  # the checkpoint itself may make room
        return super().checkpoint()

    def maintain(self) -> None:
        """What a checkpoint does first."""
        if self.state().config.levels:
            roll_up(self, self._clock)
        drop_old(self, self._clock)
        compact(self)
        found = self.wal.stats()
        sealed = found["segments"] - 2  # of the others, not all is records
        move_on(self, found["bytes"] * max(sealed, 0) // found["segments"])


class MetricsLog(Store[State], Readable):
    """Series of numbers over time in a directory. Thread-safe; several processes may have it open
    at once, and each sees what the others recorded with its next call.

    `retention`: for how many seconds raw points are kept, None or math.inf for ever. `rollups`:
    levels of (resolution in seconds, for how many seconds they are kept, None for ever), each
    resolution a multiple of the one before it and kept longer. Both are noted in the log, durable
    with the next `sync`; left out, they stay as they are there.

    `fsync_policy` (default OS: durable after `sync()`) as for the log; `exclusive=True` keeps
    others out. `checkpoint_bytes`, `checkpoint_records`, `checkpoint_seconds`: how much change
    between two checkpoints, which also roll up, drop and merge. Further options are those of
    `treering.Wal.open`. In memory is an index: 32 bytes a chunk, of up to 8192 points.

    A time is an int of ns since 1970, a float of seconds since 1970, or a datetime with a zone; a
    value is a finite float. Every call raises what the log raises: ClosedError, ForkedError,
    FailedError, StorageError, DamageError; every command also DiskFullError and TooLargeError
    (nothing was changed) and ReadOnlyError. UsageError for wrong arguments.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        retention: Any = ...,
        rollups: Any = ...,
        fsync_policy: FsyncPolicy = FsyncPolicy.OS,
        exclusive: bool = False,
        read_only: bool = False,
        **options: Any,
    ) -> None:
        given = retention is not ... or rollups is not ...
        config_of(State().config, retention, rollups)  # an error before anything is made
        if given and read_only:
            raise UsageError("a read-only handle cannot change what is kept", hint="Leave it out")
        fold = MetricsFold(
            path,
            State,
            own=True,
            fsync_policy=fsync_policy,
            exclusive=exclusive,
            read_only=read_only,
            **options,
        )
        self._clock: Callable[[], int] = options.get("clock") or time.time_ns
        self._stand_on(fold, read_only)
        try:
            if given:
                self.configure(retention=retention, rollups=rollups)
        except BaseException:
            self.close()
            raise

    def configure(self, *, retention: Any = ..., rollups: Any = ...) -> None:
        """Keep that from now on, in all processes; see the class. What a shorter retention lets go
        of goes at the next checkpoint, and the buckets of a level that is left out at once. A new
        level has buckets of the raw points that are there."""

        def decide(state: State) -> list[Record]:
            config = config_of(state.config, retention, rollups)
            return [] if config == state.config else [Record(codec.CONFIG, config.pack())]

        self._fold.command(decide)

    @property
    def retention(self) -> float | None:
        """For how many seconds raw points are kept; None for ever."""
        with self._fold.lock:
            return self._fold.state().config.raw_ns / SECOND_NS or None

    @property
    def rollups(self) -> list[tuple[float, float | None]]:
        """The levels: (resolution in seconds, for how many seconds it is kept or None)."""
        with self._fold.lock:
            levels = self._fold.state().config.levels
        return [(level / SECOND_NS, kept / SECOND_NS or None) for level, kept in levels]

    # --- Commands: written at return; durable with durable=True, or under ALWAYS ---

    def record(
        self,
        name: str,
        value: float,
        tags: Mapping[str, str] | None = None,
        time: Any = None,
        *,
        durable: bool | None = None,
    ) -> None:
        """Record one point of the series with this name and these tags; `time` None is now. Points
        may come late and in any order, and the same one twice is two. TooOldError before what raw
        points are kept. O(1); for many, `record_many` and `series` are far quicker."""
        self._record(series_key(name, tags), value, time, durable)

    def _record(self, key: Key, value: float, time: Any, durable: bool | None) -> None:
        at = self._clock() if time is None else time_ns(time)
        point = codec.POINT.pack(at, one_value(value))
        self._append([(key, at, codec.ONE, point)], durable)

    def record_many(
        self,
        points: Iterable[Sequence[Any]],
        *,
        durable: bool | None = None,
    ) -> int:
        """Record many points, of any series: tuples of (name, value), with tags and time after
        these if you like. All of them or none; how many. TooLargeError over `batch_bytes_max`
        (64 MiB: four million points of a few series)."""
        chunks: list[Chunk] = []
        count = 0
        for key, (times, values) in _by_series(points, self._clock()).items():
            chunks += _chunks(key, times, values)
            count += len(times)
        self._append(chunks, durable)
        return count

    def series(self, name: str, tags: Mapping[str, str] | None = None, **more: str) -> SeriesHandle:
        """A handle on one series, which has exactly these tags. Nothing is written yet."""
        return SeriesHandle(self, series_key(name, all_tags(tags, more)))

    def _append(self, chunks: list[Chunk], durable: bool | None) -> None:
        def decide(state: State) -> list[Record | tuple[bytes, bytes]]:
            records: list[Record | tuple[bytes, bytes]] = []
            new: dict[Key, int] = {}
            for key, first, kind, value in chunks:
                if first < state.floors[RAW]:
                    raise TooOldError.at(first, state.floors[RAW])
                number = state.ids.get(key, new.get(key, -1))
                if number < 0:
                    number = new[key] = len(state.series) + len(new)
                    records.append((codec.ID.pack(codec.SERIES, number), key))
                records.append((codec.ID.pack(kind, number), value))
            return records

        if self.read_only:
            raise ReadOnlyError("the metrics log was opened read-only", hint="Open it to write")
        self._fold.command(decide, durable=durable)

    # --- Queries (see also Readable) ---

    def _fetch(self) -> Fetch:
        return Fetch(self._fold)

    def at(self, position: int | None = None, time: Any = None) -> MetricsView:
        """The metrics as they were when the log ended at `position` (see `position`), or at a time
        (seconds since 1970 or a datetime). Reads the log from the snapshot before it on.
        PrunedError when a checkpoint has removed what that takes; PositionError beyond the end."""
        return MetricsView(self._fold, *self._past(position, time))

    @property
    def position(self) -> int:
        """Where the log ends: how many records it has seen."""
        return self._fold.wal.current_position()

    # --- Care ---

    def rollup(self) -> int:
        """Make the buckets of all intervals that are over, and anew those that got points since;
        then drop what is too old. How many buckets were made. Also done by every checkpoint. Once
        for all processes; blocks while it reads the points."""
        made = roll_up(self._fold, self._clock)
        drop_old(self._fold, self._clock)
        return made

    def compact(self) -> int:
        """Merge all chunks that are at most half full; how many records that replaced. Every
        checkpoint merges those that are worth it. Blocks while it reads and writes them."""
        return compact(self._fold, everything=True)

    def check_state(self) -> None:
        """The part of `check` that looks at the index and at every chunk."""
        check_series(self._fold)

    def stats(self) -> dict[str, Any]:
        """Numbers for people and dashboards: the fold's, how many series, raw points, buckets (one
        that was made anew counts twice until a merge) and chunks, and since when (seconds since
        1970) raw points are kept, None for ever."""
        with self._fold.lock:
            state = self._fold.state()
            buckets = [tier.index.points for each in state.series for tier in each.tiers.values()]
            floor = state.floors[RAW]
            return {
                **self._fold.stats(),
                "series": len(state.series),
                "points": sum(series.raw.points for series in state.series),
                "buckets": sum(buckets),
                "chunks": sum(len(i) for series in state.series for _, i in series.indexes()),
                "raw_since": None if floor == TIME_MIN else floor / SECOND_NS,
            }


def _by_series(
    points: Iterable[Sequence[Any]], now_ns: int
) -> dict[Key, tuple[list[Any], list[Any]]]:
    """The times and values of points, by series."""
    found: dict[Key, tuple[list[Any], list[Any]]] = {}
    known: dict[Any, tuple[list[Any], list[Any]]] = {}  # most names come often
    for point in _iterated(points):
        name, value, tags, time = _fields(point)
        try:
            named = (name, *tags.items()) if tags else (name,)
            columns = known.get(named)
        except (TypeError, AttributeError):
            named, columns = None, None  # an error, as the next lines say
        if columns is None:
            columns = found.setdefault(series_key(name, tags), ([], []))
            known[named] = columns
        columns[0].append(now_ns if time is None else time)
        columns[1].append(value)
    return found


def _iterated(points: Any) -> Iterator[Any]:
    try:
        return iter(points)
    except TypeError:
        raise UsageError(f"points are tuples in an iterable, not {type(points).__name__}") from None


def _fields(point: Any) -> tuple[Any, Any, Any, Any]:
    try:
        name, value, *rest = point
        tags, time = (*rest, None, None)[:2]
    except (TypeError, ValueError):
        rest = [None] * 3
    if len(rest) > 2:
        raise UsageError(
            f"a point is a tuple of name, value, tags and time, not {point!r:.60}",
            hint='("cpu", 0.7, {"host": "a"}, None)',
        )
    return name, value, tags, time


def _chunks(key: Key, times: Any, values: Any) -> list[Chunk]:
    """The points of one series as chunks, in the order of time."""
    times, values = times_column(times), values_column(values)
    if len(times) != len(values):
        raise UsageError(f"there are {len(times)} times and {len(values)} values")
    times, values = codec.in_order(times, values)
    size, chunks = codec.CHUNK_POINTS, []
    for at in range(0, len(times), size):
        part = times[at : at + size]
        data = codec.encode(part, values[at : at + size])
        chunks.append((key, part[0], codec.POINTS, data))
    return chunks


class SeriesHandle:
    """One series of a metrics log, made by `MetricsLog.series`: the quick way to record."""

    def __init__(self, log: MetricsLog, key: Key) -> None:
        self._log, self._key = log, key
        self.name = SeriesName(*names_of(key))

    def record(self, value: float, time: Any = None, *, durable: bool | None = None) -> None:
        """As `MetricsLog.record`."""
        self._log._record(self._key, value, time, durable)

    def record_many(self, times: Any, values: Any, *, durable: bool | None = None) -> int:
        """Record a column of times and one of values, as long: arrays, memoryviews, numpy arrays or
        lists. Whole numbers are ns since 1970, floats seconds. All of them or none; how many.
        TooLargeError over `batch_bytes_max` (64 MiB: some four million points)."""
        chunks = _chunks(self._key, times, values)
        if chunks:
            self._log._append(chunks, durable)
        return sum(codec.head_of(data).points for *_, data in chunks)

    def range(
        self, start: Any = None, end: Any = None, *, resolution: float | None = None
    ) -> Points:
        """As `MetricsLog.range`, of this series alone."""
        fetch = self._log._fetch()
        with fetch.fold.lock:
            number = fetch.state().ids.get(self._key)
        names = [] if number is None else [(number, self.name)]
        return points_of(fetch, names, start, end, resolution)
