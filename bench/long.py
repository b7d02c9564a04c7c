"""What is left of ten million records: each store's disk, memory, and the time to open it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import repeat
from pathlib import Path
from typing import Any

from harness import VALUE, Context, Group, at_most, row
from processes import Worker

from treering import FsyncPolicy
from treering.stores.events import Event, EventStore
from treering.stores.jobs import JobQueue
from treering.stores.kv import KeyValueStore
from treering.stores.messages import MessageLog

MIB = 1 << 20
_CHECKPOINT_BYTES = 16 << 20
_KEPT_BYTES = 64 << 20
_BATCH = 100
_OPTIONS: dict[str, Any] = {
    "fsync_policy": FsyncPolicy.OS,
    "segment_bytes_max": 16 << 20,
    "checkpoint_bytes": _CHECKPOINT_BYTES,
}


def long(context: Context) -> Group:
    """Fill each store, look at its directory half-way and at the end, open it in a new process."""
    records = context.pick(10_000_000, 400_000)
    group = Group(
        "long",
        f"After {records:,} records",
        "100-byte values, checkpoints and segments of 16 MiB. Key-value: 100,000 keys, each "
        "put a hundred times. Jobs: put, get and ack by the hundred, 10,000 left over. Messages: "
        "the newest 64 MiB are kept. Events: 100,000 streams, all kept: the log is the live data. "
        "On disk half-way and at the end; then opened in a fresh process.",
    )
    for name, (kind, fill) in STORES.items():
        path = context.path("long")
        halfway = 0
        with kind(path, exclusive=True, **_OPTIONS) as store:
            for done in fill(store, records):
                context.progress.show(done / records)
                if done >= records // 2 and not halfway:
                    halfway = disk_bytes(path)
        worker = Worker("open_store", path=str(path), kind=name)
        told = worker.hear()
        worker.end()
        label = f"{name}: "
        for what, value in (("half-way", halfway), ("at the end", disk_bytes(path))):
            group.rows.append(row({what: [value / MIB]}, what, "MiB", label=label + what))
        seconds, memory = [told["seconds"]], [told["memory"] / MIB]
        group.rows.append(at_most(row({"o": seconds}, "o", "s", label=label + "open"), 1))
        group.rows.append(row({"m": memory}, "m", "MiB", label=label + "memory"))
    context.path("long")
    return group


def disk_bytes(path: Path) -> int:
    """What the directory takes on the disk."""
    return sum(512 * entry.stat().st_blocks for entry in os.scandir(path))


def _put(store: KeyValueStore, records: int) -> Iterator[int]:
    keys = [b"%016d" % number for number in range(100_000)]
    for done in range(0, records, len(keys)):
        for key in keys:
            store.put(key, VALUE)
        yield done + len(keys)


def _work(queue: JobQueue, records: int) -> Iterator[int]:
    queue.put_many(repeat(VALUE, 10_000))
    for done in range(0, records, 3 * _BATCH):
        queue.put_many(repeat(VALUE, _BATCH))
        queue.ack_many(queue.get_many(_BATCH))
        yield done + 3 * _BATCH


def _publish(log: MessageLog, records: int) -> Iterator[int]:
    log.set_retention("t", bytes=_KEPT_BYTES)
    for done in range(0, records, _BATCH):
        log.publish_many("t", [VALUE] * _BATCH)
        yield done + _BATCH


def _append(store: EventStore, records: int) -> Iterator[int]:
    events = [Event("added", VALUE)] * 10
    for done in range(0, records, 10):
        store.append(f"order-{done // 10 % 100_000}", events)
        yield done + 10


Fill = Callable[[Any, int], Iterator[int]]
STORES: dict[str, tuple[Callable[..., Any], Fill]] = {
    "key-value": (KeyValueStore, _put),
    "jobs": (JobQueue, _work),
    "messages": (MessageLog, _publish),
    "events": (EventStore, _append),
}
