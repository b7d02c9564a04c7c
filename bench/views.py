"""Random access to a log by an index, and what an index and a view cost."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import time
from typing import Any

from harness import Context, Group, Row, at_most, percentile, row, timed

from treering import FsyncPolicy, Wal
from treering.stores.views import Index, View

_VALUE = os.urandom(1000)
_LOOK_UPS = 20_000
_MEMORY = """
import sys
from treering.stores.views import Index
def memory():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096
before = memory()
with Index(sys.argv[1]) as index:
    print((memory() - before) / len(index))
"""


def views(context: Context) -> Group:
    """Look-ups at random places, building an index, opening a kept one, a view's rate."""
    count = context.pick(10_000_000 if context.large else 900_000, 100_000)
    group = Group(
        "views",
        "Index and views",
        f"{count:,} records with 16-byte keys and 1,000-byte values that do not compress, read in "
        "random order through the index, one call each, files in the page cache. Memory is what "
        "building an index adds in a fresh process.",
    )
    with contextlib.ExitStack() as stack:
        wal = stack.enter_context(Wal.open(context.path("views-log"), fsync_policy=FsyncPolicy.OS))
        for start in range(0, count, 1000):
            for number in range(start, start + 1000):
                wal.put(b"%016d" % number, _VALUE)
            context.progress.show(start / count / 2)
        kept = context.path("views-index")
        index, built = _timed_index(wal, kept)
        stack.callback(index.close)
        label = "build the index, per record"
        group.rows.append(row({"b": [built / count]}, "b", "us", scale=1e6, label=label))
        group.rows += _look_ups(index, count, "from the writer's handle")
        at_most(group.rows[1], 10)
        reader = stack.enter_context(Index(wal.path))
        group.rows += _look_ups(reader, count, "by path, read-only")
        group.rows.append(_many(index, count))
        index.checkpoint()
        group.rows.append(_opening(context, wal, kept, count))
        group.rows.append(_memory(wal.path))
        group.rows.append(_view(context, wal))
    context.path("views-log")
    return group


def _timed_index(wal: Wal, path: Any) -> tuple[Index, float]:
    started = time.perf_counter()
    index = Index(wal, path, checkpoint_records=None)
    return index, time.perf_counter() - started


def _look_ups(index: Index, count: int, label: str) -> list[Row]:
    chance = random.Random(4)
    keys = [b"%016d" % chance.randrange(count) for _ in range(_LOOK_UPS)]
    for key in keys[:2000]:
        index.get(key)
    clock, nanoseconds = time.perf_counter_ns, []
    for key in keys:
        started = clock()
        index.get(key)
        nanoseconds.append(clock() - started)
    nanoseconds.sort()
    rows = []
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        figure = {name: [percentile(nanoseconds, share)]}
        rows.append(row(figure, name, "us", scale=1e-3, label=f"get {label}, {name}"))
    return rows


def _many(index: Index, count: int) -> Row:
    chance = random.Random(5)
    keys = [b"%016d" % chance.randrange(count) for _ in range(_LOOK_UPS)]
    seconds = timed(lambda: index.get_many(keys)) / len(keys)
    label = f"get_many, {_LOOK_UPS:,} keys, each"
    return row({"m": [seconds]}, "m", "us", scale=1e6, label=label)


def _opening(context: Context, wal: Wal, path: Any, count: int) -> Row:
    seconds = []
    for _ in range(context.pick(3, 2)):
        index, opened = _timed_index(wal, path)
        seconds.append(opened)
        index.close()
    return row({"o": seconds}, "o", "s", label=f"open a kept index of {count:,} keys")


def _memory(path: str) -> Row:
    found = subprocess.run(
        [sys.executable, "-c", _MEMORY, path], capture_output=True, text=True, check=True
    )
    return row({"m": [float(found.stdout)]}, "m", "B", label="memory of a key")


def _view(context: Context, wal: Wal) -> Row:
    def handler(view: Any, record: Any) -> None:
        view["n"] = view.get("n", 0) + 1

    limit = context.pick(100_000, 20_000)
    with View(wal, context.path("views-view"), handler) as viewed:
        seconds = timed(lambda: viewed.catch_up(limit)) / limit
    label = "a view that counts, per record"
    return row({"v": [seconds]}, "v", "us", scale=1e6, label=label)
