"""Walking the invariants of a metrics log."""

from __future__ import annotations

from math import isfinite

from treering import DamageError, PrunedError, Record
from treering.fold import Follower

from . import codec
from .index import Entry
from .state import RAW, Series, State

_AT_ONCE = 64
# How often a check begins anew because a merge or retention overtook it.
_CHECKS_MAX = 3


def check_series(fold: Follower[State]) -> None:
    """Every chunk of the index is in the log and holds what the index says; else DamageError."""
    for _ in range(_CHECKS_MAX):
        try:
            return _check(fold)
        except PrunedError:
            continue
    return _check(fold)


def _check(fold: Follower[State]) -> None:
    state, _ = fold.copy()
    for number, series in enumerate(state.series):
        reason = "" if state.ids.get(series.key) == number else "its id is another one's"
        if series.tiers.keys() != {level for level, _ in state.config.levels}:
            reason = "its levels are not those that are kept"
        for resolution, index in series.indexes():
            entries = list(index)
            reason = reason or index.broken()
            for at in range(0, 0 if reason else len(entries), _AT_ONCE):
                some = entries[at : at + _AT_ONCE]
                records = fold.wal.read_many([entry.position for entry in some])
                for entry, record in zip(some, records, strict=True):
                    reason = reason or _broken(number, resolution, entry, record)
        if reason:
            raise _error(fold, series, reason)


def _broken(number: int, resolution: int, entry: Entry, record: Record) -> str:
    """What does not hold of one chunk; empty if all does."""
    try:
        if resolution == RAW:
            mine = codec.ID.unpack(record.key)[1] == number
            times, values = codec.points_of(record)
            if not all(map(isfinite, values)):
                return "a value is not finite"
        else:
            mine = codec.TIERED.unpack(record.key)[1:] == (number, resolution)
            times = [bucket.start for bucket in codec.buckets_of(record)]  # type: ignore[assignment]
            if any(start % resolution for start in times):
                return "a bucket begins between two intervals"
    except ValueError:
        return "a chunk is another record"
    if not mine or (times[0], times[-1], len(times)) != entry[:3]:
        return "a chunk is not what the index says"
    return ""


def _error(fold: Follower[State], series: Series, reason: str) -> DamageError:
    return DamageError(
        f"the series {series.name!r:.60} {series.tags} is damaged: {reason}",
        path=fold.wal.path,
        hint="Close and open again: the index is made anew from the log",
    )
