"""The metrics log: recording, a range among very many points, opening."""

from __future__ import annotations

import contextlib
import random
import sqlite3
import time
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness import Context, Group, Row, at_least, at_most, opening, rounds, row

from treering import FsyncPolicy
from treering.stores.metrics import MetricsLog

_CALLS, _MANY = 5_000, 50_000
_START, _SECOND = 1_700_000_000_000_000_000, 1_000_000_000
_IN_SERIES = 1_000_000
_HOUR = 3600 * _SECOND
_OPTIONS = {"fsync_policy": FsyncPolicy.OS}


def metrics(context: Context) -> Group:
    """Points in, one by one and in columns; an hour of one series out of a hundred million."""
    series = context.pick(100, 20)
    group = Group(
        "metrics",
        "Metrics log",
        f"One point a second of each series, not synced. Among many: {series} series of "
        f"{_IN_SERIES:,} points; an hour of one of them at a random time, as arrays. sqlite: "
        "INSERTs (executemany for many) into an indexed table inside one open transaction.",
    )
    with contextlib.ExitStack() as stack:
        _recording(context, group, stack)
    with contextlib.ExitStack() as stack:
        _among_many(context, group, stack, series)
    return group


def _recording(context: Context, group: Group, stack: contextlib.ExitStack) -> None:
    log = stack.enter_context(MetricsLog(context.path("metrics"), **_OPTIONS))
    peer = stack.enter_context(contextlib.closing(_sqlite(context.path("metrics.sqlite"))))
    times = array("q", range(_START, _START + _MANY * _SECOND, _SECOND))
    chance = random.Random(1)
    values = array("d", (chance.random() for _ in times))
    handle, insert = log.series("cpu", host="a"), "INSERT INTO points VALUES (1, ?, ?)"
    rows = list(zip(times, values, strict=True))
    tuples = [("cpu", value, {"host": str(n % 10)}, at) for n, (at, value) in enumerate(rows)]
    blocks = {
        "record, a call each": (_CALLS, lambda: _each(handle.record, _CALLS)),
        "record_many, columns of 50,000": (_MANY, lambda: handle.record_many(times, values)),
        "record_many, tuples of 10 series": (_MANY, lambda: log.record_many(tuples)),
        "sqlite insert": (_CALLS, lambda: _each(lambda v: peer.execute(insert, (1, v)), _CALLS)),
        "sqlite insert, many": (_MANY, lambda: peer.executemany(insert, rows)),
    }
    samples = rounds(context, {name: _rate(*block) for name, block in blocks.items()})
    group.rows += [row(samples, name, "/s") for name in blocks]
    at_least(group.rows[1], 1_000_000)


def _each(call: Callable[[float], object], count: int) -> None:
    for _ in range(count):
        call(0.5)


def _rate(count: int, work: Callable[[], object]) -> Callable[[], float]:
    def block() -> float:
        started = time.perf_counter()
        work()
        return count / (time.perf_counter() - started)

    return block


def _sqlite(path: Path) -> sqlite3.Connection:
    peer = sqlite3.connect(path)
    peer.execute("PRAGMA journal_mode=WAL")
    peer.execute("CREATE TABLE points (series INTEGER, time INTEGER, value REAL)")
    peer.execute("CREATE INDEX by_time ON points (series, time)")
    return peer


def _among_many(context: Context, group: Group, stack: contextlib.ExitStack, series: int) -> None:
    path, count = context.path("many"), series * _IN_SERIES
    group.rows.append(_build(path, series))
    seconds = opening(context, lambda: MetricsLog(path, **_OPTIONS))
    name = f"open with {count:,} points"
    group.rows.append(row({"open": seconds}, "open", "s", label=name))
    log = stack.enter_context(MetricsLog(path, **_OPTIONS))
    chance = random.Random(4)

    def ask(query: Callable[[Any], object]) -> Callable[[], float]:
        def block() -> float:
            start = _START + chance.randrange(_IN_SERIES - 3600) * _SECOND
            host = str(chance.randrange(series))
            started = time.perf_counter()
            query(log.range("cpu", start, start + _HOUR, host=host))
            return time.perf_counter() - started

        return block

    queries = {
        "an hour of a series, arrays": ask(lambda points: points.arrays()),
        "an hour of a series, points": ask(list),
        "an hour of a series, p95 a minute": ask(lambda points: points.aggregate(60, "p95")),
    }
    samples = rounds(context, queries)
    for name in queries:
        group.rows.append(at_most(row(samples, name, "ms", scale=1e3), 50))


def _build(path: Path, series: int) -> Row:
    """Points a second, written in columns, with the checkpoints that come meanwhile."""
    times = array("q", range(_START, _START + _IN_SERIES * _SECOND, _SECOND))
    chance = random.Random(2)
    values = array("d", (chance.random() for _ in times))
    started = time.perf_counter()
    with MetricsLog(path, **_OPTIONS) as log:
        for host in range(series):
            log.series("cpu", host=str(host)).record_many(times, values)
        log.checkpoint()
    rate = series * _IN_SERIES / (time.perf_counter() - started)
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    found = row({"build": [rate]}, "build", "/s", label=f"record {series * _IN_SERIES:,} points")
    found.note = f"{size / series / _IN_SERIES:.1f} bytes a point"
    return at_least(found, 1_000_000)
