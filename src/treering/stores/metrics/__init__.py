"""A metrics log: series of numbers over time, rolled up as they age.

    from treering.stores.metrics import MetricsLog

    rollups = [(60, 30 * 86400), (3600, None)]  # minutes for 30 days, hours for ever
    with MetricsLog("metrics", retention=86400, rollups=rollups) as metrics:
        metrics.record("cpu", 0.7, {"host": "a"})                   # now
        metrics.series("cpu", host="b").record_many(times, values)  # columns: quick
        metrics.sync()                                              # durable
        for time, value in metrics.range("cpu", start, end, host="a"):
            print(time, value)
        hourly = metrics.aggregate("cpu", start, end, 3600, "p95")

Records: a chunk of one series' points each, delta-coded times and plain floats. State: an index of
the chunks; the points stay in the log. Checkpoints roll up the intervals that are over, merge small
chunks, and drop what is older than it is to be kept.
"""

from __future__ import annotations

from .codec import Bucket
from .config import TooOldError
from .reading import MetricsView, Point, Points, SeriesName
from .store import MetricsLog, SeriesHandle

__all__ = [
    "Bucket",
    "MetricsLog",
    "MetricsView",
    "Point",
    "Points",
    "SeriesHandle",
    "SeriesName",
    "TooOldError",
]
