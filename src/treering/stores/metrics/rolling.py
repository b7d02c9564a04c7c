"""Rolling up, and what goes: decided here, with the clock; what was decided is a record.

Every process may do it at any time, several at once: a record of buckets is appended only if no
point came into their time since the points were read, so each is made once, of all its points.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from itertools import islice
from typing import NamedTuple

from treering import PrunedError, Record, TooLargeError
from treering.fold import Follower

from . import codec
from .aggregating import bucket_of, slices
from .codec import CHUNK_BUCKETS, Bucket
from .given import TIME_MAX, TIME_MIN
from .reading import Fetch
from .state import RAW, Series, State

# So many points, roughly, are rolled up at a time.
_POINTS_AT_ONCE = 200_000
# How often it begins anew because points came in between; the next checkpoint tries again.
_TRIES, _TRIES_ASIDE = 20, 3


class Job(NamedTuple):
    """Buckets of a series to be made: those in these spans of time, then all is done up to `done`.
    It was seen when the log ended at `position` and the tier was done up to `seen`; `late` are the
    buckets that are made again."""

    number: int
    resolution: int
    spans: list[tuple[int, int]]
    done: int
    late: frozenset[int]
    seen: int
    position: int


def down(time: int, resolution: int) -> int:
    """The beginning of the interval that a time lies in."""
    return time - time % resolution


def up(time: int, resolution: int) -> int:
    """The beginning of the first interval that begins there or later."""
    return -down(-time, resolution)


def roll_up(fold: Follower[State], clock: Callable[[], int]) -> int:
    """Make the buckets of all intervals that are over, and again those with late points; how many.
    Written at return; a checkpoint makes them durable before anything goes."""
    made = 0
    with fold.lock:
        state = fold.state()
        count, levels = len(state.series), [level for level, _ in state.config.levels]
    for number in range(count):
        for resolution in levels:
            while (some := _roll_some(fold, number, resolution, clock)) is not None:
                made += some
    return made


def _roll_some(
    fold: Follower[State],
    number: int,
    resolution: int,
    clock: Callable[[], int],
    most: int = CHUNK_BUCKETS,
) -> int | None:
    """Do the next job of a tier: how many buckets it came to; None if there is none."""
    for tried in range(_TRIES):
        # Where late points keep coming, at last with our own threads held up.
        with fold.lock if tried >= _TRIES_ASIDE else nullcontext():
            with fold.lock:
                job = _next_job(fold.state(), number, resolution, clock(), fold.position)
            if job is None:
                return None
            try:
                buckets = _made(fold, job)
            except PrunedError:
                continue  # a merge and a checkpoint were faster
            if len(buckets) > most:
                del buckets[most:]
                job = job._replace(done=min(job.done, buckets[-1].start + resolution))
            try:
                if fold.command(_deciding(job, buckets), durable=False):
                    return len(buckets)
            except TooLargeError:  # as this log is configured
                if len(buckets) < 2:
                    raise
                return _roll_some(fold, number, resolution, clock, len(buckets) // 2)
    return None


def _next_job(state: State, number: int, resolution: int, now_ns: int, position: int) -> Job | None:
    series = state.series[number]
    tier = series.tiers.get(resolution)
    if tier is None:
        return None
    floor = up(state.floors[RAW], resolution)  # before it, some points may be gone
    late = sorted(start for start in tier.late if start >= floor)[:CHUNK_BUCKETS]
    if late:
        spans, done = _connected([(start, start + resolution) for start in late]), tier.done
    else:
        span = _next_span(series, max(tier.done, floor), down(now_ns, resolution), resolution)
        if span is None:
            return None
        spans, done = [span], span[1]
    return Job(number, resolution, spans, done, frozenset(late), tier.done, position)


def _connected(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    found = spans[:1]
    for start, end in spans[1:]:
        if found[-1][1] == start:
            found[-1] = (found[-1][0], end)
        else:
            found.append((start, end))
    return found


def _next_span(series: Series, low: int, high: int, resolution: int) -> tuple[int, int] | None:
    """The first time from `low` up to `high` that has points, but not too many of them."""
    entries = sorted(series.raw.overlapping(low, high)) if low < high else []
    if not entries:
        return None
    low, points = max(low, down(entries[0].first, resolution)), 0
    for entry in entries:
        points += entry.points
        if points > _POINTS_AT_ONCE and down(entry.first, resolution) > low:
            return low, min(high, down(entry.first, resolution))
    return low, min(high, up(max(entry.last for entry in entries) + 1, resolution))


def _made(fold: Follower[State], job: Job) -> list[Bucket]:
    fetch = Fetch(fold)
    found: list[Bucket] = []
    for start, end in job.spans:
        some = _buckets(fetch, job.number, job.resolution, start, end)
        found += islice(some, CHUNK_BUCKETS + 1 - len(found))
        if len(found) > CHUNK_BUCKETS:
            break
    return found


def _buckets(fetch: Fetch, number: int, resolution: int, start: int, end: int) -> Iterator[Bucket]:
    """The buckets of the points in a span of time."""
    last, values = TIME_MIN, array("d")
    for times, more in fetch.points(number, start, end):
        for which, at, stop in slices(times, 0, resolution):
            if values and which != last:
                yield bucket_of(last * resolution, values)
                values = array("d")
            last = which
            values += more[at:stop]
    if values:
        yield bucket_of(last * resolution, values)


def _deciding(job: Job, buckets: list[Bucket]) -> Callable[[State], list[Record]]:
    """The command: unless something has changed for what was read."""
    end = max(end for _, end in job.spans)

    def decide(state: State) -> list[Record]:
        series = state.series[job.number]
        tier = series.tiers.get(job.resolution)
        if tier is None or tier.done != job.seen or not job.late <= tier.late:
            return []  # another process was faster
        if any(entry.first < end for entry in series.raw.since(job.position)):
            return []  # there are more points now
        key = codec.TIERED.pack(codec.BUCKETS, job.number, job.resolution)
        return [Record(key, codec.NUMBER.pack(job.done) + codec.encode_buckets(buckets))]

    return decide


# --- What goes ---


def drop_old(fold: Follower[State], clock: Callable[[], int]) -> None:
    """Forget what is older than it is to be kept, of each resolution: at once for who reads; the
    disk gets room at the next checkpoint but one. Raw points stay until all their buckets are made.

    By the clock of this moment alone: after one that was wrong for a while, nothing that is new
    seems old. A floor never comes back down.
    """

    def decide(state: State) -> list[Record]:
        now_ns, config = clock(), state.config
        records = []
        for resolution, kept_ns in ((RAW, config.raw_ns), *config.levels):
            floor = down(now_ns - kept_ns, config.coarsest)
            if kept_ns and _may_go(state, resolution, min(max(floor, TIME_MIN), TIME_MAX)):
                key = codec.LEVEL.pack(codec.TRIM, resolution)
                records.append(Record(key, codec.NUMBER.pack(floor)))
        return records

    fold.command(decide, durable=False)


def _may_go(state: State, resolution: int, floor: int) -> bool:
    """Whether something of that resolution is older, and nothing of that is still needed."""
    if floor <= state.floors[resolution]:
        return False
    some = False
    for series in state.series:
        index = series.index(resolution)
        if index is None or not any(block.low < floor for block in index.blocks):
            continue
        some = True
        if resolution == RAW and _is_needed(series, state.floors[RAW], floor):
            return False
    return some


def _is_needed(series: Series, raw_floor: int, floor: int) -> bool:
    """Whether raw points before `floor` have yet to be rolled up."""
    for resolution, tier in series.tiers.items():
        low = up(raw_floor, resolution)
        if any(low <= start < floor for start in tier.late):
            return True
        low = max(low, tier.done)
        if low < floor and series.raw.overlapping(low, floor):
            return True
    return False
