"""A metrics log in a process that is killed; then its points are rolled up."""

from __future__ import annotations

import time
from pathlib import Path

from story import check, last_line, say, start, tell

from treering.stores.metrics import MetricsLog

_BATCH = 1000
_START, _SECOND = 1_700_000_000_000_000_000, 1_000_000_000
_ENOUGH = 500_000


def show(path: Path) -> None:
    """A metrics log in a process that is killed; then its points are rolled up."""
    say("A metrics log: a process records a point of every second; it is killed with -9.")
    with MetricsLog(path, rollups=[(60, None), (3600, None)]) as log:
        recording = start(recorder, path)
        while log.stats()["points"] < _ENOUGH:
            time.sleep(0.005)
        recording.kill()
        confirmed = int(last_line(recording) or 0)
        times, values = log.range("load", resolution=0).arrays()
        count = len(times)
        tell(f"{confirmed:,} points confirmed, the log has {count:,}")
        check(confirmed <= count and count % _BATCH == 0, "no point lost, no batch in half")
        check(list(values) == [n % 100 for n in range(count)], "each with its value, in order")
        began = time.perf_counter()
        hour = log.range("load", times[-1] - 3600 * _SECOND, times[-1]).aggregate(60, "p95")
        took = 1000 * (time.perf_counter() - began)
        check(len(hour) == 60, f"the p95 of each minute of its last hour: {took:.1f} ms")
        made = log.rollup()
        minutes = list(log.buckets("load", 60))
        check(sum(bucket.count for bucket in minutes) == count, f"rolled up: {made:,} buckets")
        log.checkpoint()


def recorder(path: str) -> int:
    """Record for ever, a batch at a time; print how many points have been recorded."""
    with MetricsLog(path) as log:
        load = log.series("load", host="a")
        for number in range(0, 1 << 30, _BATCH):
            batch = range(number, number + _BATCH)
            load.record_many([_START + n * _SECOND for n in batch], [n % 100 for n in batch])
            print(number + _BATCH, flush=True)
    return 0
