"""Making few large chunks of many small ones, and letting go of the log's oldest part.

A record takes the place of others: it holds their points, and is appended only if they are still
what the index has. Nothing that a query sees changes. It is read aside, and any process may do it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from treering import PrunedError, Record, TooLargeError
from treering.fold import Follower

from . import codec
from .codec import CHUNK_BUCKETS, CHUNK_POINTS
from .index import Entry, Index
from .reading import joined, newest_buckets
from .state import RAW, State

# A checkpoint merges so many chunks of a like size, so that each point is written a few times only:
# four-fold sizes are alike.
_ALIKE_LEAST, _ALIKE_BITS = 16, 4
# Merges are appended so many bytes at a time.
_BATCH_BYTES = 4 << 20
# A log with more dead bytes than live ones, and than this, has its oldest part moved to its end.
_DEAD_LEAST = 1 << 20


class Merge(NamedTuple):
    """Chunks of one series, at one resolution, that shall be one."""

    number: int
    resolution: int
    entries: list[Entry]

    @property
    def positions(self) -> list[int]:
        """Of the chunks, rising."""
        return sorted(entry.position for entry in self.entries)


def compact(fold: Follower[State], everything: bool = False) -> int:
    """Merge small chunks: those that a checkpoint finds worth it, or all. How many records went."""
    with fold.lock:
        state = fold.state()
        merges = [
            merge
            for number, series in enumerate(state.series)
            for resolution, index in series.indexes()
            for merge in _merges(number, resolution, index, everything)
        ]
    return _do(fold, merges)


def move_on(fold: Follower[State], log_bytes: int) -> int:
    """If most of the log is dead, move what is alive of its oldest part to its end, so that the
    next checkpoints can remove that. How many records went."""
    with fold.lock:
        state = fold.state()
        live = state.size()
        if log_bytes - live <= max(live, _DEAD_LEAST):
            return 0
        entries = sorted(
            (entry.position, number, resolution, entry)
            for number, series in enumerate(state.series)
            for resolution, index in series.indexes()
            for entry in index
        )
    allowed = max(live // 4, _DEAD_LEAST)
    chosen: dict[tuple[int, int], list[Entry]] = {}
    for _, number, resolution, entry in entries:
        allowed -= entry.size
        if allowed < 0:
            break
        chosen.setdefault((number, resolution), []).append(entry)
    merges = [
        Merge(number, resolution, group)
        for (number, resolution), some in chosen.items()
        for group in _grouped(some, resolution)
    ]
    return _do(fold, merges)


def _full(resolution: int) -> int:
    return CHUNK_POINTS if resolution == RAW else CHUNK_BUCKETS


def _merges(number: int, resolution: int, index: Index, everything: bool) -> Iterator[Merge]:
    alike: dict[int, list[Entry]] = {}
    if len(index) < 2:
        return
    for entry in index:
        if entry.points <= _full(resolution) // 2:
            size = 0 if everything else entry.points.bit_length() // _ALIKE_BITS
            alike.setdefault(size, []).append(entry)
    for entries in alike.values():
        if everything or len(entries) >= _ALIKE_LEAST:
            for group in _grouped(entries, resolution):
                if len(group) > 1:
                    yield Merge(number, resolution, group)


def _grouped(entries: Iterable[Entry], resolution: int) -> Iterator[list[Entry]]:
    """In the order of time, so many that they make a full chunk."""
    group: list[Entry] = []
    count = 0
    for entry in sorted(entries):
        if group and count + entry.points > _full(resolution):
            yield group
            group, count = [], 0
        group.append(entry)
        count += entry.points
    if group:
        yield group


def _do(fold: Follower[State], merges: list[Merge]) -> int:
    """Make these merges, some at a time; how many records went."""
    gone, some, size = 0, [], 0
    for merge in merges:
        some.append(merge)
        size += sum(entry.size for entry in merge.entries)
        if size >= _BATCH_BYTES:
            gone += _append(fold, some)
            some, size = [], 0
    return gone + _append(fold, some)


def _append(fold: Follower[State], merges: list[Merge]) -> int:
    try:
        made = [(merge, _merged(fold, merge)) for merge in merges]
    except PrunedError:
        return 0  # retention or another process was faster
    gone = 0

    def decide(state: State) -> list[Record]:
        nonlocal gone
        found = [(merge, record) for merge, record in made if _is_there(state, merge)]
        gone = sum(len(merge.entries) for merge, _ in found)
        return [record for _, record in found]

    try:
        fold.command(decide, durable=False)
    except TooLargeError:  # as this log is configured: some at a time, or as they are
        half = len(merges) // 2
        return _append(fold, merges[:half]) + _append(fold, merges[half:]) if half else 0
    return gone


def _is_there(state: State, merge: Merge) -> bool:
    index = state.series[merge.number].index(merge.resolution)
    return index is not None and index.has(merge.positions)


def _merged(fold: Follower[State], merge: Merge) -> Record:
    records = fold.wal.read_many(merge.positions)
    if merge.resolution == RAW:
        key = codec.ID.pack(codec.MERGED, merge.number)
        data = codec.encode(*joined(map(codec.points_of, records)))
    else:
        key = codec.TIERED.pack(codec.MERGED_BUCKETS, merge.number, merge.resolution)
        data = codec.encode_buckets(newest_buckets(map(codec.buckets_of, records)))
    return Record(key, codec.replacing(merge.positions, data))
