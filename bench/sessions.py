"""The session store beside SQLite, in which a Python user would otherwise share sessions."""

from __future__ import annotations

import contextlib
import json
import secrets
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from itertools import repeat
from pathlib import Path
from typing import Any

from harness import Context, Group, Row, at_most, opening, rounds, row

from treering.stores.sessions import SessionStore

_IDS = 2_000
_DATA = {"cart": [1, 2, 3], "theme": "dark", "csrf": "x" * 43}
_CALLS = ("load", "touch", "save", "create")


def sessions(context: Context) -> Group:
    """load, touch, save, create; opening and memory with many sessions."""
    group = Group(
        "sessions",
        "Session store",
        "Sessions with 90 bytes of JSON, a call each, BATCH with 10 ms. A touch here always "
        "writes (touch_seconds=0). SQLite in WAL mode with synchronous=NORMAL syncs at its "
        "checkpoints only, not within 10 ms: ids, JSON and expiry in one table, one statement a "
        "call.",
    )
    with contextlib.ExitStack() as stack:
        path = context.path("sessions")
        ours = stack.enter_context(SessionStore(path, touch_seconds=0, checkpoint_bytes=None))
        theirs = _Sqlite(context, stack)
        blocks = {}
        for contestant, name in ((_Ours(ours), "{}"), (theirs, "sqlite3 {}")):
            blocks |= {name.format(call): _block(contestant, call) for call in _CALLS}
        samples = rounds(context, blocks, context.pick(9, 3))
    for call in _CALLS:
        versus = f"sqlite3 {call}"
        mine = row(samples, call, "us", scale=1e6, versus=versus, faster=True)
        group.rows.append(mine)
        group.rows.append(row(samples, versus, "us", scale=1e6))
    group.rows += _many(context)
    return group


class _Ours:
    """The four calls, as of any contestant."""

    def __init__(self, store: SessionStore) -> None:
        self.ids = [str(store.create(_DATA, user="ada").id) for _ in range(_IDS)]
        self.load, self.touch = store.load, store.touch
        self.save = lambda id: store.save(id, _DATA)
        self.create = lambda id: store.create(_DATA, user="ada")


class _Sqlite:
    def __init__(self, context: Context, stack: contextlib.ExitStack) -> None:
        db = sqlite3.connect(context.path("sessions.db"), isolation_level=None)
        self._db = stack.enter_context(contextlib.closing(db))
        db.execute("pragma journal_mode=wal")
        db.execute("pragma synchronous=normal")
        db.execute("create table s (id text primary key, user, data, seen, ends)")
        self.ids = [self.create("") for _ in range(_IDS)]

    def load(self, id: str) -> Any:
        query = "select user, data from s where id = ? and ends > ?"
        user, data = self._db.execute(query, (id, time.time())).fetchone()
        return user, json.loads(data)

    def touch(self, id: str) -> None:
        self._db.execute("update s set seen = ? where id = ?", (time.time(), id))

    def save(self, id: str) -> None:
        values = (json.dumps(_DATA), time.time(), id)
        self._db.execute("update s set data = ?, seen = ? where id = ?", values)

    def create(self, _: str) -> str:
        id, now = secrets.token_urlsafe(32), time.time()
        values = (id, "ada", json.dumps(_DATA), now, now + 1_000_000)
        self._db.execute("insert into s values (?, ?, ?, ?, ?)", values)
        return id


def _block(contestant: Any, name: str) -> Callable[[], float]:
    call: Callable[[str], object] = getattr(contestant, name)

    def block() -> float:
        started = time.perf_counter()
        for id in contestant.ids:
            call(id)
        return (time.perf_counter() - started) / _IDS

    return block


_FILL = """
import sys
from treering import FsyncPolicy
from treering.stores.sessions import SessionStore
with SessionStore(sys.argv[1], fsync_policy=FsyncPolicy.OS, sweep_seconds=None) as store:
    for number in range(int(sys.argv[2])):
        store.create({"n": number}, user=f"user-{number}")
    store.checkpoint()
"""

_MEASURE = """
import sys
from treering.stores.sessions import SessionStore

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

before = resident()
with SessionStore(sys.argv[1], read_only=True) as store:
    print((resident() - before) / len(store))
"""


def _many(context: Context) -> list[Row]:
    """Seconds to open a store with many sessions, and what each takes in memory."""
    count, path = context.pick(1_000_000, 100_000), context.path("sessions-many")
    _python(_FILL, path, [count])
    seconds = opening(context, lambda: SessionStore(path, sweep_seconds=None))
    rows = [row({"open": seconds}, "open", "s", label=f"open with {count:,} sessions")]
    at_most(rows[0], 3)
    if Path("/proc/self/statm").exists():
        found = [float(_python(_MEASURE, path, [])) for _ in repeat(None, context.pick(3, 1))]
        label = f"memory of a session, of {count:,}"
        rows.append(row({"memory": found}, "memory", "bytes", label=label))
    return rows


def _python(program: str, path: Path, arguments: Iterable[object]) -> str:
    command = [sys.executable, "-c", program, str(path), *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
