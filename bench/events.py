"""The event store: appending, replaying, one stream among many, opening, projections."""

from __future__ import annotations

import contextlib
import random
import sqlite3
import time
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import Any

from harness import VALUE, Context, Group, Row, at_least, at_most, opening, rounds, row

from treering import FsyncPolicy
from treering.stores.events import Event, EventStore
from treering.stores.events.event import EVENT, HEAD

_CALLS = 20_000
_DATA = {"item": "tea", "cents": 450}
_OPTIONS = {"fsync_policy": FsyncPolicy.batch(5), "checkpoint_bytes": None}


def event_store(context: Context) -> Group:
    """Appends, replay, one stream among many, opening, a projection."""
    group = Group(
        "events",
        "Event store",
        "One event a call under BATCH, of 1,000 streams in turn; 100 bytes, or a dict of two "
        "fields as JSON. Among many: streams of 100 events, each event as far from the next as "
        "there are streams. sqlite: an INSERT a call into a table of events inside one open "
        "transaction, and the same query.",
    )
    with contextlib.ExitStack() as stack:
        _appends(context, group, stack)
    with contextlib.ExitStack() as stack:
        _among_many(context, group, stack)
    return group


def _appends(context: Context, group: Group, stack: contextlib.ExitStack) -> None:
    store = stack.enter_context(EventStore(context.path("events"), **_OPTIONS))
    peer = stack.enter_context(contextlib.closing(_sqlite(context.path("events.sqlite"))))
    names = [f"order-{number % 1000}" for number in range(_CALLS)]
    insert = "INSERT INTO events (stream, version, type, data) VALUES (?, ?, ?, ?)"
    blocks = {
        "append, bytes": _each(names, lambda name: store.append(name, Event("added", VALUE))),
        "append, JSON": _each(names, lambda name: store.append(name, Event("added", _DATA))),
        "append, JSON, version expected": _each(
            names,
            lambda name: store.append(
                name, Event("added", _DATA), expected_version=store.version(name)
            ),
        ),
        "sqlite insert": _each(names, lambda name: peer.execute(insert, (name, 0, "added", VALUE))),
    }
    samples = rounds(context, blocks)
    for name in blocks:
        rates = {name: [_CALLS / seconds for seconds in samples[name]]}
        group.rows.append(row(rates, name, "/s"))
    for each in group.rows[:2]:
        at_least(each, 150_000)
    group.rows.append(_projection(context, store))


def _each(names: list[str], call: Callable[[str], object]) -> Callable[[], float]:
    def block() -> float:
        started = time.perf_counter()
        for name in names:
            call(name)
        return time.perf_counter() - started

    return block


def _sqlite(path: Path) -> sqlite3.Connection:
    peer = sqlite3.connect(path)
    peer.execute("PRAGMA journal_mode=WAL")
    peer.execute(
        "CREATE TABLE events (position INTEGER PRIMARY KEY, stream TEXT, version INTEGER, "
        "type TEXT, data BLOB)"
    )
    peer.execute("CREATE INDEX by_stream ON events (stream, version)")
    return peer


def _among_many(context: Context, group: Group, stack: contextlib.ExitStack) -> None:
    path, streams = context.path("many"), context.pick(100_000, 10_000)
    _build(path, streams)
    seconds = opening(context, lambda: EventStore(path, **_OPTIONS))
    name = f"open with {100 * streams:,} events in {streams:,} streams"
    group.rows.append(at_most(row({"open": seconds}, "open", "s", label=name), 1))
    store = stack.enter_context(EventStore(path, **_OPTIONS))
    chance = random.Random(4)

    def read() -> float:
        started = time.perf_counter()
        for _ in range(20):
            found = sum(1 for _ in store.read(f"order-{chance.randrange(streams)}"))
            assert found == 100
        return (time.perf_counter() - started) / 20 * 1000

    samples = rounds(context, {"one": read})
    name = f"read a stream of 100 events among {100 * streams:,}"
    group.rows.append(at_most(row(samples, "one", "ms", label=name), 1))
    group.rows.append(_replay(context, store))


def _build(path: Path, streams: int) -> None:
    """100 events in each stream, round by round, and a snapshot."""
    names = [f"order-{number}".encode() for number in range(streams)]
    options = {**_OPTIONS, "fsync_policy": FsyncPolicy.OS}
    with EventStore(path, exclusive=True, **options) as store:
        for version in range(100):
            keys = [HEAD.pack(EVENT, 32, len(name), 1, version) + name + b"added" for name in names]
            for key in keys:
                store._fold.wal.put(key, VALUE)
        store.checkpoint()  # which takes them in first


def _replay(context: Context, store: EventStore) -> Row:
    limit = min(store.position, context.pick(3_000_000, 500_000))

    def block() -> float:
        started = time.perf_counter()
        for _ in store.read_all(stop=limit):
            pass
        return limit / (time.perf_counter() - started)

    samples = rounds(context, {"replay": block}, context.pick(5, 3))
    return at_least(row(samples, "replay", "/s", label="read_all, not decoded"), 1_000_000)


def _projection(context: Context, store: EventStore) -> Row:
    def count(view: MutableMapping[str, Any], event: object) -> None:
        view["n"] = view.get("n", 0) + 1

    rates = []
    for number in range(context.pick(3, 1)):
        projection = store.projection(f"count-{number}", count)
        started = time.perf_counter()
        handled = projection.catch_up()
        rates.append(handled / (time.perf_counter() - started))
    return row({"projection": rates}, "projection", "/s", label="a projection that counts")
