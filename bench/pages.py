"""The page store beside sqlite3, which keeps pages in a write-ahead log, too."""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
import time
from collections.abc import Callable
from typing import Any

from harness import Context, Group, Row, at_most, opening, rounds, row

from treering.stores.pages import PageStore

Block = Callable[[], float]

_BYTES = 4096
_EACH = 40
_READS = 2_000
_CHANGED = 16


def page_store(context: Context) -> Group:
    """Durable transactions, reads, checkpoints, opening, bytes in the log."""
    pages = context.pick(20_000, 2_000)
    group = Group(
        "page-store",
        "Page store",
        f"{pages:,} pages of {_BYTES} bytes; a transaction reads a page, changes {_CHANGED} bytes "
        "of it and commits durably. sqlite3 (journal_mode=WAL, synchronous=FULL) does so to a blob "
        "in a row. Pages are drawn at random; a quarter of them is in memory, in both.",
    )
    with contextlib.ExitStack() as stack:
        ours = _Ours(context, stack, pages)
        theirs = _Sqlite(context, stack, pages)
        blocks: dict[str, Block] = {
            "commit, 1 page": lambda: ours.commit(1),
            "commit, 8 pages": lambda: ours.commit(8),
            "sqlite3 commit, 1 page": lambda: theirs.commit(1),
            "sqlite3 commit, 8 pages": lambda: theirs.commit(8),
        }
        samples = rounds(context, blocks, context.pick(9, 5))
        for name in ("commit, 1 page", "commit, 8 pages"):
            peer = f"sqlite3 {name}"
            group.rows.append(row(samples, name, "us", scale=1e6, versus=peer, faster=True))
            group.rows.append(row(samples, peer, "us", scale=1e6))
        group.rows += _reads(context, ours, theirs)
        group.rows.append(_logged(ours))
        group.rows.append(_checkpoint(ours))
    seconds = opening(context, lambda: PageStore(ours.path), lambda store: store.read(0))
    group.rows.append(row({"open": seconds}, "open", "s", label=f"open, {pages:,} pages"))
    return group


class _Ours:
    def __init__(self, context: Context, stack: contextlib.ExitStack, pages: int) -> None:
        self.path, self.pages = context.path("pages-ours"), pages
        self._rng = random.Random(1)
        cache_bytes = pages * _BYTES // 4
        self.store = stack.enter_context(
            PageStore(self.path, page_bytes=_BYTES, cache_bytes=cache_bytes, checkpoint_bytes=None)
        )
        for start in range(0, pages, 1000):
            with self.store.begin(durable=False) as tx:
                for number in range(start, min(start + 1000, pages)):
                    tx.write(number, os.urandom(_BYTES))
        self.store.checkpoint()

    def commit(self, count: int) -> float:
        started = time.perf_counter()
        for _ in range(_EACH):
            self.change(count)
        return (time.perf_counter() - started) / _EACH

    def change(self, count: int) -> None:
        with self.store.begin() as tx:
            for _ in range(count):
                number = self._rng.randrange(self.pages)
                tx.write(number, _changed(tx.read(number), self._rng))

    def reading(self, store: PageStore, pages: int) -> Block:
        """Reads of pages drawn from the first so many."""
        return lambda: _drawing(store.read, pages)


class _Sqlite:
    def __init__(self, context: Context, stack: contextlib.ExitStack, pages: int) -> None:
        path = context.path("pages-sqlite")
        path.mkdir()
        self._rng, self._pages = random.Random(1), pages
        self._db: Any = sqlite3.connect(path / "db", isolation_level=None)
        stack.callback(self._db.close)
        self._db.execute("pragma journal_mode=wal")
        self._db.execute("pragma synchronous=full")
        self._db.execute(f"pragma cache_size=-{pages * _BYTES // 4 // 1024}")
        self._db.execute("create table pages (number integer primary key, data blob)")
        self._db.execute("begin")
        rows = ((number, os.urandom(_BYTES)) for number in range(pages))
        self._db.executemany("insert into pages values (?, ?)", rows)
        self._db.execute("commit")

    def commit(self, count: int) -> float:
        started, execute = time.perf_counter(), self._db.execute
        for _ in range(_EACH):
            execute("begin immediate")
            for _ in range(count):
                number = self._rng.randrange(self._pages)
                data = self._get(number)
                execute(
                    "update pages set data=? where number=?", (_changed(data, self._rng), number)
                )
            execute("commit")
        return (time.perf_counter() - started) / _EACH

    def read(self, pages: int) -> float:
        return _drawing(self._get, pages)

    def _get(self, number: int) -> bytes:
        found = self._db.execute("select data from pages where number=?", (number,))
        data: bytes = found.fetchone()[0]
        return data


def _reads(context: Context, ours: _Ours, theirs: _Sqlite) -> list[Row]:
    """One page, by where it is; sqlite3 from its own memory, and from the system's."""
    hot, count = 100, context.pick(9, 5)
    with PageStore(ours.path, cache_bytes=0, checkpoint_bytes=None) as cold:
        for number in range(hot):
            ours.store.run(lambda tx, n=number: tx.write(n, os.urandom(_BYTES)), durable=False)
        samples = rounds(context, {"read, log": ours.reading(cold, hot)}, count)
        ours.store.checkpoint()
        blocks = {
            "read, memory": ours.reading(ours.store, hot),
            "read, data file": ours.reading(cold, ours.pages),
            "sqlite3 read, memory": lambda: theirs.read(hot),
            "sqlite3 read, file": lambda: theirs.read(ours.pages),
        }
        samples |= rounds(context, blocks, count)
    return [
        row(samples, "read, memory", "us", scale=1e6, versus="sqlite3 read, memory", faster=True),
        row(samples, "sqlite3 read, memory", "us", scale=1e6),
        row(samples, "read, data file", "us", scale=1e6, versus="sqlite3 read, file", faster=True),
        row(samples, "sqlite3 read, file", "us", scale=1e6),
        row(samples, "read, log", "us", scale=1e6),
    ]


def _drawing(read: Callable[[int], bytes], pages: int) -> float:
    draw = random.Random(2).randrange
    started = time.perf_counter()
    for _ in range(_READS):
        read(draw(pages))
    return (time.perf_counter() - started) / _READS


def _changed(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(_BYTES - _CHANGED)
    return data[:at] + rng.randbytes(_CHANGED) + data[at + _CHANGED :]


def _logged(ours: _Ours) -> Row:
    """Bytes of records in the log for one more small change of a page that is in use."""
    store, count = ours.store, 90
    start, rng = store.position, random.Random(3)
    for _ in range(count):
        store.run(lambda tx: tx.write(1, _changed(tx.read(1), rng)), durable=False)
    size = sum(len(r.key) + len(r.value) for r in store._fold.wal.read_from(start))
    logged = row({"logged": [size / count]}, "logged", "bytes", label="logged per small change")
    logged.note = "one in nine is the whole page"
    return at_most(logged, _BYTES / 4)


def _checkpoint(ours: _Ours) -> Row:
    """Seconds for a checkpoint of 1,000 changed pages."""
    seconds = []
    for _ in range(3):
        with ours.store.begin(durable=False) as tx:
            for number in range(1000):
                tx.write(number, os.urandom(_BYTES))
        started = time.perf_counter()
        ours.store.checkpoint()
        seconds.append(time.perf_counter() - started)
    return row({"checkpoint": seconds}, "checkpoint", "s", label="checkpoint of 1,000 pages")
