"""The Raft log beside the raw writes and fsyncs that it stands on."""

from __future__ import annotations

import sys
import time
import tracemalloc
from itertools import repeat

from harness import VALUE, Context, Group, Row, opening, ratio_at_most, rounds, row
from raw import RawFile

from treering import FsyncPolicy
from treering.stores.raft import Entry, HardState, RaftLog

_EACH = 40
_MANY = 64
_READ = 1_000


def raft_log(context: Context) -> Group:
    """Durable appends, reading, opening, memory."""
    group = Group(
        "raft-log",
        "Raft log",
        "100-byte entries; appends are durable (ALWAYS), beside one pwrite + fdatasync of one such "
        f"record; {_READ:,} entries at once, from memory and from the log in the page cache.",
    )
    raw = RawFile(context.path("raft-raw"))
    with RaftLog(context.path("raft"), checkpoint_bytes=None) as log:
        writer = _Writer(log)
        samples = rounds(
            context,
            {
                "raw pwrite + fdatasync": lambda: raw.durable(_EACH) / _EACH,
                "append 1": lambda: writer.append(1),
                f"append {_MANY}": lambda: writer.append(_MANY),
                f"save {_MANY} and the hard state": lambda: writer.save(_MANY),
            },
        )
    raw.close()
    plain = "raw pwrite + fdatasync"
    for name in samples:
        versus = "" if name == plain else plain
        group.rows.append(row(samples, name, "us", scale=1e6, versus=versus))
    ratio_at_most(group.rows[1], 1.5)
    group.rows += [*_reading(context), _opening(context), _memory(context)]
    return group


class _Writer:
    """Appends to the end of a log, durably, in one term."""

    def __init__(self, log: RaftLog) -> None:
        self._log, self._term = log, 1

    def _timed(self, count: int, hard: bool) -> float:
        log, first = self._log, self._log.last_index + 1
        batches = [
            [Entry(i, 1, VALUE) for i in range(at, at + count)]
            for at in range(first, first + _EACH * count, count)
        ]
        started = time.perf_counter()
        for batch in batches:
            state = HardState(1, "node-1", batch[-1].index) if hard else None
            log.save(entries=batch, hard_state=state)
        return (time.perf_counter() - started) / _EACH

    def append(self, count: int) -> float:
        """Seconds for so many entries in one call."""
        return self._timed(count, hard=False)

    def save(self, count: int) -> float:
        """The same, with the hard state that commits them."""
        return self._timed(count, hard=True)


def _filled(context: Context, name: str, count: int, **options: object) -> RaftLog:
    """A log of so many entries, opened."""
    log = RaftLog(context.path(name), fsync_policy=FsyncPolicy.OS, checkpoint_bytes=None, **options)
    for first in range(1, count, 1000):
        log.append([Entry(i, 1, VALUE) for i in range(first, first + 1000)])
    return log


def _reading(context: Context) -> list[Row]:
    count = 20_000

    def block(log: RaftLog, first: int) -> float:
        started = time.perf_counter()
        for _ in repeat(None, 10):
            log.entries(first, first + _READ)
        return (time.perf_counter() - started) / 10 / _READ

    with (
        _filled(context, "raft-cached", count) as cached,
        _filled(context, "raft-uncached", count, cache_bytes=0) as uncached,
    ):
        samples = rounds(
            context,
            {
                "memory": lambda: block(cached, count - _READ),
                "log": lambda: block(uncached, count // 2),
            },
        )
    return [
        row(samples, name, "us", scale=1e6, label=f"entries(), {_READ:,} at once, from {place}")
        for name, place in (("memory", "memory, per entry"), ("log", "the log, per entry"))
    ]


def _opening(context: Context) -> Row:
    """Seconds to open a log, from its newest checkpoint."""
    count = context.pick(1_000_000, 100_000)
    log = _filled(context, "raft-opening", count)
    path = log.name
    log.checkpoint()
    log.close()
    seconds = opening(context, lambda: RaftLog(path), lambda log: log.entry(count // 2))
    label = f"open with {count:,} entries, and read one"
    return row({"open": seconds}, "open", "s", label=label)


def _memory(context: Context) -> Row:
    """What the index takes: what Python allocates while entries are taken in without a cache."""
    count = context.pick(200_000, 50_000)
    tracemalloc.start()
    try:
        log = _filled(context, "raft-memory", 1000, cache_bytes=0)
        before = tracemalloc.get_traced_memory()[0]
        for first in range(1001, count, 1000):
            log.append([Entry(i, 1, VALUE) for i in range(first, first + 1000)])
        taken = tracemalloc.get_traced_memory()[0] - before
        log.close()
    finally:
        tracemalloc.stop()
    each = taken / (count - 1000)
    note = f"{sys.implementation.name}, besides cache_bytes"
    return row({"memory": [each]}, "memory", "bytes", label="memory per entry", note=note)
