"""Figures over intervals: of raw points exact, of buckets as exact as they allow."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence

from treering import UsageError

from .codec import Bucket, Columns

_QUANTILES = (0.5, 0.9, 0.95, 0.99)
# Halving an interval of floats so often leaves next to nothing of it.
_HALVINGS = 100
# Sums of so much smaller numbers do not overflow on the way.
_SCALE = 2.0**-64


def exact_sum(values: Iterable[float]) -> float:
    """The sum, rounded once, whatever the order; infinite if it is too large for a float, NaN of
    infinite ones of both signs."""
    values = sorted(values)
    try:
        try:
            return math.fsum(values)
        except OverflowError:  # perhaps on the way only
            return math.fsum(value * _SCALE for value in values) / _SCALE
    except ValueError:  # sums that were too large, in both directions
        return math.nan


def ranked(ordered: Sequence[float], quantile: float) -> float:
    """The value of the nearest rank: the least one that so large a share does not exceed."""
    return ordered[max(math.ceil(quantile * len(ordered) - 1e-9), 1) - 1]


def bucket_of(start: int, values: Iterable[float]) -> Bucket:
    """What these values, at least one, come to."""
    ordered = sorted(values)
    percentiles = (ranked(ordered, quantile) for quantile in _QUANTILES)
    total = exact_sum(ordered)
    return Bucket(start, len(ordered), ordered[0], ordered[-1], total, *percentiles)


def slices(times: array[int], origin: int, step: int) -> Iterator[tuple[int, int, int]]:
    """(which interval, from, to): the parts of ordered times that lie in one interval each."""
    at, end = 0, len(times)
    while at < end:
        which = (times[at] - origin) // step
        stop = bisect_left(times, origin + (which + 1) * step, at)
        yield which, at, stop
        at = stop


class Interval:
    """What one interval has got until now."""

    __slots__ = ("buckets", "count", "high", "low", "sums", "values")

    def __init__(self) -> None:
        self.count, self.low, self.high = 0, math.inf, -math.inf
        self.sums: list[float] = []
        self.values = array("d")
        self.buckets: list[Bucket] = []

    def add_values(self, values: array[float], keep: bool) -> None:
        """Raw points; `keep` them for a percentile."""
        self.count += len(values)
        if keep:
            self.values += values
            return
        self.low, self.high = min(self.low, min(values)), max(self.high, max(values))
        self.sums.append(exact_sum(values))

    def add_bucket(self, bucket: Bucket, keep: bool) -> None:
        """A bucket; `keep` it for a percentile."""
        self.count += bucket.count
        if keep:
            self.buckets.append(bucket)
            return
        self.low, self.high = min(self.low, bucket.min), max(self.high, bucket.max)
        self.sums.append(bucket.sum)


class Measure:
    """A figure: how it is made of an interval, and whether it takes all its values."""

    def __init__(self, of: Callable[[Interval], float], keep: bool = False) -> None:
        self.of, self.keep = of, keep


_MEASURES = {
    "count": Measure(lambda interval: float(interval.count)),
    "min": Measure(lambda interval: interval.low),
    "max": Measure(lambda interval: interval.high),
    "sum": Measure(lambda interval: exact_sum(interval.sums)),
    "mean": Measure(lambda interval: exact_sum(interval.sums) / interval.count),
}


def measure(how: str) -> Measure:
    """The figure of that name; UsageError if there is none."""
    found = _MEASURES.get(how) if isinstance(how, str) else None
    if found is not None:
        return found
    digits = how[1:] if isinstance(how, str) and how[:1] == "p" else ""
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 2 and int(digits)):
        names = ", ".join(map(repr, _MEASURES))
        raise UsageError(f"{how!r:.40} is no figure", hint=f"Say {names}, or 'p1' to 'p99'")
    quantile = int(digits) / 100
    return Measure(lambda interval: percentile(interval, quantile), keep=True)


def aggregated(
    blocks: Iterable[Columns | list[Bucket]], origin: int, step: int, measure: Measure
) -> list[tuple[int, float]]:
    """(which interval, its figure) of all intervals that have points, in order."""
    intervals: dict[int, Interval] = {}
    for block in blocks:
        if isinstance(block, tuple):
            times, values = block
            for which, at, stop in slices(times, origin, step):
                interval = intervals.setdefault(which, Interval())
                interval.add_values(values[at:stop], measure.keep)
        else:
            for bucket in block:
                interval = intervals.setdefault((bucket.start - origin) // step, Interval())
                interval.add_bucket(bucket, measure.keep)
    return [(which, measure.of(intervals[which])) for which in sorted(intervals)]


# --- Percentiles ---


def percentile(interval: Interval, quantile: float) -> float:
    """The value that so large a share of the interval does not exceed. Exact without buckets, and
    over a single one that knows it; else where the distributions that the buckets tell of, taken
    together, reach that share."""
    values = sorted(interval.values)
    if not interval.buckets:
        return ranked(values, quantile)
    if len(interval.buckets) == 1 and not values and quantile in _QUANTILES:
        bucket = interval.buckets[0]
        return (bucket.p50, bucket.p90, bucket.p95, bucket.p99)[_QUANTILES.index(quantile)]
    return _estimate(values, interval.buckets, quantile * interval.count)


def _estimate(values: list[float], buckets: list[Bucket], wanted: float) -> float:
    low = min([*values[:1], *(bucket.min for bucket in buckets)])
    high = max([*values[-1:], *(bucket.max for bucket in buckets)])
    for _ in range(_HALVINGS):
        middle = low / 2 + high / 2
        if not low < middle < high:
            break
        below = bisect_right(values, middle) + sum(_below(bucket, middle) for bucket in buckets)
        if below < wanted:
            low = middle
        else:
            high = middle
    return high


def _below(bucket: Bucket, value: float) -> float:
    """How many of a bucket's points are at most `value`, as far as it tells: between two of its
    percentiles they are taken to lie evenly."""
    known = (bucket.min, bucket.p50, bucket.p90, bucket.p95, bucket.p99, bucket.max)
    shares = (0.0, *_QUANTILES, 1.0)
    at = bisect_right(known, value)
    if at == 0 or at == len(known):
        return bucket.count * (at > 0)
    low, high = known[at - 1], known[at]
    width = high / 2 - low / 2
    part = (value / 2 - low / 2) / width if width else 1.0
    return bucket.count * (shares[at - 1] + part * (shares[at] - shares[at - 1]))
