"""The document store, beside JSON in sqlite3; and how many bytes a change logs."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from itertools import count as numbers
from pathlib import Path
from typing import Any

from harness import Context, Group, Row, opening, ratio_at_least, ratio_at_most, rounds, row

from treering import FsyncPolicy
from treering.stores.documents import DocumentStore

_COUNT = 1_000
_CITIES = 100
_OURS, _SYNCED = 1_000, 40
_SERIAL = numbers()

Stack = contextlib.ExitStack


def document(number: int, kilobytes: int = 1) -> dict[str, Any]:
    """A document of some fields, and rows of 100 bytes."""
    rows = [f"{row:04} " + "x" * 92 for row in range(10 * kilobytes)]
    place = {"city": f"city {number % _CITIES}"}
    return {"title": "a title", "visits": number, "address": place, "rows": rows}


def documents(context: Context) -> Group:
    """get, put, set and find, in two classes of durability; bytes; opening."""
    group = Group(
        "documents",
        "Document store",
        f"{_COUNT:,} documents of 1 KB, a call each. sqlite3: a column of JSON text, changed by "
        "json_set, with an index on json_extract; each call commits, in WAL mode with "
        "synchronous=off beside OS and full beside ALWAYS, and what is found is parsed. Bytes are "
        "those of keys, paths and values, beside writing the whole document.",
    )
    with Stack() as stack:
        blocks: dict[str, Callable[[], float]] = {}
        for policy, synchronous in ((FsyncPolicy.OS, "off"), (FsyncPolicy.ALWAYS, "full")):
            blocks |= _Ours(context, stack, policy).blocks()
            blocks |= _Peer(context, stack, synchronous).blocks()
        samples = rounds(context, blocks, context.pick(9, 5))
    for ours, theirs in (
        ("get", "sqlite3 select"),
        ("find 10 of 1,000", "sqlite3 select 10 of 1,000"),
        ("put 1 KB, OS", "sqlite3 insert, off"),
        ("set a field, OS", "sqlite3 json_set, off"),
        ("put 1 KB, ALWAYS", "sqlite3 insert, full"),
        ("set a field, ALWAYS", "sqlite3 json_set, full"),
    ):
        mine = row(samples, ours, "us", scale=1e6, versus=theirs, faster=True)
        if ours in ("get", "find 10 of 1,000"):
            ratio_at_least(mine, 1)
        group.rows += [mine, row(samples, theirs, "us", scale=1e6)]
    group.rows += [*_bytes(context), _opening(context)]
    return group


class _Ours:
    def __init__(self, context: Context, stack: Stack, policy: FsyncPolicy) -> None:
        self._name = "ALWAYS" if policy == FsyncPolicy.ALWAYS else "OS"
        options = {"fsync_policy": policy, "checkpoint_bytes": None}
        self._store = stack.enter_context(
            DocumentStore(
                context.path(f"documents-{self._name}"),
                indexes={"city": "/address/city"},
                **options,
            )
        )
        self._store.put_many({f"{n:06}": document(n) for n in range(_COUNT)})

    def blocks(self) -> dict[str, Callable[[], float]]:
        each = _SYNCED if self._name == "ALWAYS" else _OURS
        store, extra = self._store, document(0)
        extra["address"] = {}
        blocks = {
            f"put 1 KB, {self._name}": lambda: _times(
                each, lambda n: store.put(f"new {next(_SERIAL)}", extra)
            ),
            f"set a field, {self._name}": lambda: _times(
                each, lambda n: store.set(f"{n:06}", "/title", f"title {next(_SERIAL)}")
            ),
        }
        if self._name == "OS":
            blocks["get"] = lambda: _times(each, lambda n: store.get(f"{n:06}"))
            blocks["find 10 of 1,000"] = lambda: _times(
                100, lambda n: [found.content for found in store.find(city=f"city {n}")]
            )
        return blocks


class _Peer:
    def __init__(self, context: Context, stack: Stack, synchronous: str) -> None:
        self._name = synchronous
        path = context.path(f"documents-sqlite-{synchronous}")
        path.mkdir()
        connection = sqlite3.connect(path / "db", isolation_level=None)
        self._run = stack.enter_context(contextlib.closing(connection)).execute
        self._run("PRAGMA journal_mode=wal")
        self._run(f"PRAGMA synchronous={synchronous}")
        self._run("CREATE TABLE d (id TEXT PRIMARY KEY, body TEXT)")
        self._run("CREATE INDEX city ON d (json_extract(body, '$.address.city'))")
        self._run("BEGIN")
        for n in range(_COUNT):
            self._run("INSERT INTO d VALUES (?, ?)", (f"{n:06}", json.dumps(document(n))))
        self._run("COMMIT")

    def blocks(self) -> dict[str, Callable[[], float]]:
        each, run = _SYNCED if self._name == "full" else _OURS, self._run
        extra = document(0) | {"address": {}}
        update = "UPDATE d SET body = json_set(body, '$.title', ?) WHERE id = ?"
        blocks = {
            f"sqlite3 insert, {self._name}": lambda: _times(
                each,
                lambda n: run(
                    "INSERT INTO d VALUES (?, ?)", (f"new {next(_SERIAL)}", json.dumps(extra))
                ),
            ),
            f"sqlite3 json_set, {self._name}": lambda: _times(
                each, lambda n: run(update, (f"title {next(_SERIAL)}", f"{n:06}"))
            ),
        }
        if self._name == "off":
            blocks["sqlite3 select"] = lambda: _times(
                each, lambda n: list(self._parsed("id = ?", f"{n:06}"))
            )
            where = "json_extract(body, '$.address.city') = ?"
            blocks["sqlite3 select 10 of 1,000"] = lambda: _times(
                100, lambda n: list(self._parsed(where, f"city {n}"))
            )
        return blocks

    def _parsed(self, where: str, value: str) -> Iterator[Any]:
        for (body,) in self._run(f"SELECT body FROM d WHERE {where}", (value,)):
            yield json.loads(body)


def _times(count: int, call: Callable[[int], object]) -> float:
    started = time.perf_counter()
    for number in range(count):
        call(number)
    return (time.perf_counter() - started) / count


def _bytes(context: Context) -> list[Row]:
    """Bytes that a change logs, for documents of 1, 10 and 100 KB."""
    rows = []
    path = context.path("documents-bytes")
    with DocumentStore(path, fsync_policy=FsyncPolicy.OS, checkpoint_bytes=None) as store:
        for size in (1, 10, 100):
            store.put("document", document(1, size))
            for name, call in (("set a field", _set), ("edit three fields", _edit)):
                before = store.stats()
                call(store)
                after = store.stats()
                logged, whole = (
                    after[counter] - before[counter] for counter in ("bytes_logged", "bytes_whole")
                )
                mine = Row(f"{name} of {size} KB", logged, "bytes", versus=f"{whole} bytes")
                mine.ratio = logged / whole
                rows.append(ratio_at_most(mine, 0.2))
    return rows


def _set(store: DocumentStore) -> None:
    store.set("document", "/title", "a longer title")


def _edit(store: DocumentStore) -> None:
    with store.edit("document") as content:
        content["title"], content["visits"] = "another", 7
        content["rows"][3] = "new"


def _opening(context: Context) -> Row:
    """Seconds to open a store from a snapshot, and to find by an index."""
    count = context.pick(50_000, 5_000)
    path = context.path("documents-opening")
    options = {"fsync_policy": FsyncPolicy.OS, "checkpoint_bytes": None}
    _fill(path, count, options)
    seconds = opening(
        context,
        lambda: DocumentStore(path, **options),
        lambda store: store.find(city="city 7"),
    )
    label = f"open with {count:,} documents of 1 KB, and find by an index"
    return row({"open": seconds}, "open", "s", label=label)


def _fill(path: Path, count: int, options: dict[str, Any]) -> None:
    with DocumentStore(path, indexes={"city": "/address/city"}, **options) as store:
        for start in range(0, count, 1000):
            store.put_many({f"{n:06}": document(n) for n in range(start, start + 1000)})
        store.checkpoint()
