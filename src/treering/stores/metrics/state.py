"""What a metrics log's records come to: an index of every series' chunks. The points stay in the
log."""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple

from treering import Record

from . import codec
from .codec import from_little, little
from .given import TIME_MAX, TIME_MIN, Key, names_of
from .index import Entry, Index

RAW = 0  # the resolution of what was recorded
# So much of a record's size is not its value, roughly.
_OVERHEAD = 32
_NOT_NEEDED = 1 << 62


class Config(NamedTuple):
    """What is kept: raw points for so long, and levels of (resolution, how long), the finest first;
    all in ns, 0 is for ever."""

    raw_ns: int = 0
    levels: tuple[tuple[int, int], ...] = ()

    def pack(self) -> bytes:
        """Its stored form."""
        return little(array("q", [self.raw_ns, *(ns for level in self.levels for ns in level)]))

    @property
    def coarsest(self) -> int:
        """The interval that is kept or dropped as a whole."""
        return self.levels[-1][0] if self.levels else 1


class Tier:
    """The buckets of a series at one resolution: those before `done` are made, except `late` ones
    (their starts), which got more points since."""

    __slots__ = ("done", "index", "late")

    def __init__(self) -> None:
        self.index = Index()
        self.done = TIME_MIN
        self.late: set[int] = set()

    def copy(self) -> Tier:
        """Another one."""
        other = Tier()
        other.index, other.done, other.late = self.index.copy(), self.done, self.late.copy()
        return other


class Series:
    """A series' name and tags, its raw points, and its tiers by resolution."""

    __slots__ = ("key", "name", "owner", "raw", "tags", "tiers")

    def __init__(self, key: Key, resolutions: Collection[int] = ()) -> None:
        self.key = key
        self.name, self.tags = names_of(key)
        self.raw = Index()
        self.tiers = {resolution: Tier() for resolution in resolutions}
        self.owner: object = None

    def copy(self) -> Series:
        """Another one, that stays as this one is now."""
        other = Series.__new__(Series)
        other.key, other.name, other.tags = self.key, self.name, self.tags
        other.raw = self.raw.copy()
        other.tiers = {resolution: tier.copy() for resolution, tier in self.tiers.items()}
        return other

    def indexes(self) -> Iterator[tuple[int, Index]]:
        """Each resolution, and where its chunks are."""
        yield RAW, self.raw
        for resolution, tier in self.tiers.items():
            yield resolution, tier.index

    def index(self, resolution: int) -> Index | None:
        """One of these."""
        if resolution == RAW:
            return self.raw
        tier = self.tiers.get(resolution)
        return None if tier is None else tier.index

    def drop_before(self, resolution: int, floor: int) -> None:
        """Forget what is before that time, at one resolution."""
        index = self.index(resolution)
        if index is not None:
            index.drop_before(floor)
        for tier in self.tiers.values() if resolution == RAW else ():
            tier.late = {start for start in tier.late if start >= floor}


class State:
    """The series by their ids. Copies share them; who changes one that it does not own makes itself
    a copy of it first. `floors`: by resolution, before which time there is nothing any more."""

    label = b"treering metrics-log 1"

    def __init__(self) -> None:
        self.series: list[Series] = []
        self.ids: dict[Key, int] = {}
        self.config = Config()
        self.floors: dict[int, int] = {RAW: TIME_MIN}
        self._owner = object()
        # Ids by name, and by tag, as the keys of dicts; made when somebody asks.
        self._named: dict[str, dict[int, None]] = {}
        self._tagged: dict[tuple[str, str, str], dict[int, None]] = {}
        self._found = 0  # how many series these two know

    def change(self, number: int) -> Series:
        """The series, to be changed; IndexError if there is none."""
        series = self.series[number]
        if series.owner is not self._owner:
            series = series.copy()
            series.owner = self._owner
            self.series[number] = series
        return series

    # --- apply ---

    def apply(self, record: Record) -> None:
        """Take in one record of the log."""
        change = _CHANGES.get(record.key[:1])
        if change is None:
            raise codec.unknown(record)
        try:
            change(self, record)
        except (ValueError, LookupError, struct.error) as error:
            raise codec.damaged(record, str(error) or "its numbers do not fit") from None

    def _begin(self, record: Record) -> None:
        number = codec.ID.unpack(record.key)[1]
        series = Series(bytes(record.value), [level[0] for level in self.config.levels])
        if number != len(self.series) or series.key in self.ids:
            raise ValueError("its series is there, or is not the next one")
        series.owner = self._owner
        self.series.append(series)
        self.ids[series.key] = number

    def _one(self, record: Record) -> None:
        series = self.change(codec.ID.unpack(record.key)[1])
        time = codec.POINT.unpack(record.value)[0]
        if not TIME_MIN <= time < TIME_MAX:
            raise ValueError("its time is out of bounds")
        series.raw.append(_entry(record, time, time, 1))
        self._late(series, time, record)

    def _points(self, record: Record) -> None:
        series = self.change(codec.ID.unpack(record.key)[1])
        head = codec.head_of(record.value)
        series.raw.append(_entry(record, head.first, head.last, head.points))
        self._late(series, head.first, record)

    def _late(self, series: Series, first: int, record: Record) -> None:
        """Note which buckets that are made already got points."""
        for resolution, tier in series.tiers.items():
            if first < tier.done:
                times = codec.points_of(record)[0]
                upto = bisect_left(times, tier.done)
                tier.late.update(time - time % resolution for time in times[:upto])

    def _merged(self, record: Record) -> None:
        series = self.change(codec.ID.unpack(record.key)[1])
        positions, data = codec.replaced(record.value)
        head = codec.head_of(data)
        _remove(series.raw, positions)
        series.raw.append(_entry(record, head.first, head.last, head.points))

    def _buckets(self, record: Record) -> None:
        _, number, resolution = codec.TIERED.unpack(record.key)
        tier = self.change(number).tiers[resolution]
        buckets = codec.buckets_of(record)
        if buckets:
            tier.index.append(_entry(record, buckets[0].start, buckets[-1].start, len(buckets)))
        tier.done = max(tier.done, codec.NUMBER.unpack_from(record.value)[0])
        tier.late.difference_update(bucket.start for bucket in buckets)

    def _merged_buckets(self, record: Record) -> None:
        _, number, resolution = codec.TIERED.unpack(record.key)
        index = self.change(number).tiers[resolution].index
        buckets = codec.buckets_of(record)
        _remove(index, codec.replaced(record.value)[0])
        index.append(_entry(record, buckets[0].start, buckets[-1].start, len(buckets)))

    def _configure(self, record: Record) -> None:
        numbers = from_little("q", bytes(record.value))
        pairs = zip(numbers[1::2], numbers[2::2], strict=True)
        self.config = Config(numbers[0], tuple(pairs))
        resolutions = [level[0] for level in self.config.levels]
        if any(resolution <= 0 for resolution in resolutions):
            raise ValueError("a resolution is not over 0")
        # A new level begins with what raw points there are; before that, coarser ones speak.
        begin, raw = self.floors, self.floors[RAW]
        self.floors = {each: begin.get(each, -(-raw // each) * each) for each in resolutions}
        self.floors[RAW] = raw
        for number in range(len(self.series)):
            series = self.change(number)
            series.tiers = {each: series.tiers.get(each) or Tier() for each in resolutions}

    def _trim(self, record: Record) -> None:
        resolution = codec.LEVEL.unpack(record.key)[1]
        floor = max(codec.NUMBER.unpack(record.value)[0], self.floors[resolution])
        self.floors[resolution] = floor
        for number, series in enumerate(self.series):
            index = series.index(resolution)
            if index is not None and any(block.low < floor for block in index.blocks):
                series = self.change(number)
                series.drop_before(resolution, floor)

    # --- snapshots ---

    def dump(self) -> Iterator[Record]:
        """The state as records, for a snapshot: the indexes as a few large ones."""
        yield Record(codec.CONFIG, self.config.pack())
        for resolution, floor in self.floors.items():
            key = codec.LEVEL.pack(codec.TRIM, resolution)
            yield Record(key, codec.NUMBER.pack(floor))
        for number, series in enumerate(self.series):
            yield Record(codec.ID.pack(codec.SERIES, number), series.key)
            for resolution, tier in series.tiers.items():
                numbers = array("q", [tier.done, *sorted(tier.late)])
                key = codec.TIERED.pack(codec.TIER, number, resolution)
                yield Record(key, little(numbers))
            for resolution, index in series.indexes():
                for at, piece in enumerate(index.pieces()):
                    yield Record(codec.PIECE.pack(codec.INDEX, number, resolution, at), piece)

    def load(self, record: Record) -> None:
        """Take in one record of a snapshot."""
        load = _LOADS.get(record.key[:1])
        if load is None:
            raise codec.unknown(record)
        try:
            load(self, record)
        except (ValueError, LookupError, struct.error) as error:
            raise codec.damaged(record, str(error) or "its numbers do not fit") from None

    def _load_tier(self, record: Record) -> None:
        _, number, resolution = codec.TIERED.unpack(record.key)
        tier = self.series[number].tiers[resolution]
        tier.done, *late = from_little("q", bytes(record.value))
        tier.late = set(late)

    def _load_index(self, record: Record) -> None:
        _, number, resolution, _ = codec.PIECE.unpack(record.key)
        index = self.series[number].index(resolution)
        if index is None:
            raise ValueError("there is no such resolution")
        index.load(bytes(record.value))

    def copy(self) -> State:
        """Another state that stays as this one is now: one copy of a list of series."""
        other = State()
        other.series, other.ids = self.series.copy(), self.ids.copy()
        other.config, other.floors = self.config, self.floors.copy()
        self._owner = object()
        return other

    def oldest_needed(self) -> int:
        """The lowest position of any chunk: its points are nowhere but in the log."""
        indexes = (index.oldest for series in self.series for _, index in series.indexes())
        return min((oldest for oldest in indexes if oldest is not None), default=_NOT_NEEDED)

    # --- queries ---

    def matching(self, name: str, tags: dict[str, str]) -> list[int]:
        """The ids of the series of that name that have all these tags, in the order of their
        beginning: O(those that have the rarest of them)."""
        self._find_all()
        found = [self._named.get(name, {})]
        found += [self._tagged.get((name, *pair), {}) for pair in tags.items()]
        wanted, rarest = tags.items(), min(found, key=len)
        return [number for number in rarest if wanted <= self.series[number].tags.items()]

    def _find_all(self) -> None:
        """Take in the series that came since somebody asked; twice, after an interrupt, is once."""
        for number in range(self._found, len(self.series)):
            series = self.series[number]
            self._named.setdefault(series.name, {})[number] = None
            for pair in series.tags.items():
                self._tagged.setdefault((series.name, *pair), {})[number] = None
            self._found = number + 1

    def size(self) -> int:
        """The bytes of all that is needed of the log, roughly."""
        return sum(index.size for series in self.series for _, index in series.indexes())


def _entry(record: Record, first: int, last: int, points: int) -> Entry:
    return Entry(first, last, points, len(record.value) + _OVERHEAD, record.position or 0)


def _remove(index: Index, positions: array[int]) -> None:
    if not positions or not index.has(positions):
        raise ValueError("it is in place of records that are not there")
    index.remove(positions)


_CHANGES: dict[bytes, Callable[[State, Record], None]] = {
    codec.SERIES: State._begin,
    codec.ONE: State._one,
    codec.POINTS: State._points,
    codec.MERGED: State._merged,
    codec.BUCKETS: State._buckets,
    codec.MERGED_BUCKETS: State._merged_buckets,
    codec.CONFIG: State._configure,
    codec.TRIM: State._trim,
}
_LOADS: dict[bytes, Callable[[State, Record], None]] = {
    codec.CONFIG: State._configure,
    codec.TRIM: State._trim,
    codec.SERIES: State._begin,
    codec.TIER: State._load_tier,
    codec.INDEX: State._load_index,
}
