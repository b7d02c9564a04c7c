"""The stores that a Python user would otherwise pick, doing the same work."""

from __future__ import annotations

import contextlib
import importlib
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count as numbers
from itertools import repeat
from typing import Any

from harness import VALUE, Context, Row

Put = Callable[[bytes, bytes], object]
Stack = contextlib.ExitStack


@dataclass
class Found:
    """The contestants that are installed, and a row for each that is not."""

    found: dict[str, Any] = field(default_factory=dict)
    missing: list[Row] = field(default_factory=list)

    def add(self, name: str, module: str, make: Callable[[Any], Any]) -> None:
        try:
            library = importlib.import_module(module)
        except ImportError as error:
            self.missing.append(Row(name, None, "", note=f"missing: {error}"))
        else:
            self.found[name] = make(library)


def put_block(put: Put, count: int) -> float:
    """Seconds for `count` puts under keys that grow; making the keys is not timed."""
    keys = _keys(count)
    started = time.perf_counter()
    for key in keys:
        put(key, VALUE)
    return time.perf_counter() - started


def latencies(put: Put, count: int) -> list[float]:
    """Seconds of each of `count` puts."""
    clock = time.perf_counter
    found = []
    for key in _keys(count):
        started = clock()
        put(key, VALUE)
        found.append(clock() - started)
    return found


_serial = numbers()


def _keys(count: int) -> list[bytes]:
    return [b"%016d" % next(_serial) for _ in repeat(None, count)]


# --- Key-value stores ----------------------------------------------------------------------------


def writers(context: Context, stack: Stack) -> Found:
    """put without sync."""
    found = Found()
    found.add("plyvel put", "plyvel", lambda lib: _plyvel(lib, context, stack, "w").put)
    found.add("rocksdict put", "rocksdict", lambda lib: _rocksdict(lib, context, stack, "w").put)
    found.add("lmdb put", "lmdb", lambda lib: _lmdb_open_put(lib, context, stack))
    found.add("sqlite3 insert", "sqlite3", lambda _: _sqlite_insert(context, stack, "w"))
    return found


def synced_writers(context: Context, stack: Stack) -> Found:
    """put and commit, durable at return."""
    found = Found()
    found.add("plyvel put(sync=True)", "plyvel", lambda lib: _plyvel_synced(lib, context, stack))
    found.add("rocksdict put, sync", "rocksdict", lambda lib: _rocksdict_sync(lib, context, stack))
    found.add("lmdb put + commit", "lmdb", lambda lib: _lmdb_commit(lib, context, stack))
    found.add("sqlite3 insert + commit", "sqlite3", lambda _: _sqlite_commit(context, stack))
    found.add("persist-queue put", "persistqueue", lambda lib: _persist_queue(lib, context))
    return found


def key_value_stores(context: Context, stack: Stack) -> Found:
    """(put, get) without sync."""
    found = Found()
    found.add("plyvel", "plyvel", lambda lib: _plyvel_both(lib, context, stack))
    found.add("lmdb", "lmdb", lambda lib: _lmdb_both(lib, context, stack))
    found.add("diskcache", "diskcache", lambda lib: _diskcache_both(lib, context, stack))
    return found


def _plyvel_both(library: Any, context: Context, stack: Stack) -> Any:
    database = _plyvel(library, context, stack, "kv")
    return database.put, database.get


def _lmdb_both(library: Any, context: Context, stack: Stack) -> Any:
    transaction = _lmdb(library, context, stack, "kv", sync=False).begin(write=True)
    stack.callback(transaction.abort)
    return transaction.put, transaction.get


def _diskcache_both(library: Any, context: Context, stack: Stack) -> Any:
    cache = library.Cache(str(context.path("diskcache-kv")))
    stack.callback(cache.close)
    return cache.set, cache.get


def scanners(context: Context, stack: Stack, count: int) -> Found:
    """Functions that go over `count` keys and values."""
    found = Found()
    items = [(b"%016d" % number, VALUE) for number in range(count)]
    found.add("lmdb cursor scan", "lmdb", lambda lib: _lmdb_scan(lib, context, stack, items))
    found.add("plyvel iterator", "plyvel", lambda lib: _plyvel_scan(lib, context, stack, items))
    found.add("rocksdict items", "rocksdict", lambda lib: _rocks_scan(lib, context, stack, items))
    found.add("sqlite3 select", "sqlite3", lambda _: _sqlite_scan(context, stack, items))
    return found


def _plyvel(library: Any, context: Context, stack: Stack, name: str) -> Any:
    database = library.DB(str(context.path(f"plyvel-{name}")), create_if_missing=True)
    stack.callback(database.close)
    return database


def _plyvel_synced(library: Any, context: Context, stack: Stack) -> Put:
    put = _plyvel(library, context, stack, "synced").put
    return lambda key, value: put(key, value, sync=True)


def _plyvel_scan(library: Any, context: Context, stack: Stack, items: list[Any]) -> Any:
    database = _plyvel(library, context, stack, "scan")
    with database.write_batch() as batch:
        for key, value in items:
            batch.put(key, value)
    return lambda: _drain(database.iterator())


def _rocksdict(library: Any, context: Context, stack: Stack, name: str) -> Any:
    options = library.Options(raw_mode=True)
    database = library.Rdict(str(context.path(f"rocksdict-{name}")), options)
    stack.callback(database.close)
    return database


def _rocksdict_sync(library: Any, context: Context, stack: Stack) -> Put:
    put = _rocksdict(library, context, stack, "synced").put
    options = library.WriteOptions()
    options.sync = True
    return lambda key, value: put(key, value, write_opt=options)


def _rocks_scan(library: Any, context: Context, stack: Stack, items: list[Any]) -> Any:
    database = _rocksdict(library, context, stack, "scan")
    for key, value in items:
        database.put(key, value)
    return lambda: _drain(database.items())


def _lmdb(library: Any, context: Context, stack: Stack, name: str, **options: Any) -> Any:
    path = str(context.path(f"lmdb-{name}"))
    environment = library.open(path, map_size=1 << 30, **options)
    stack.callback(environment.close)
    return environment


def _lmdb_open_put(library: Any, context: Context, stack: Stack) -> Put:
    transaction = _lmdb(library, context, stack, "w", sync=False).begin(write=True)
    stack.callback(transaction.abort)
    put: Put = transaction.put
    return put


def _lmdb_commit(library: Any, context: Context, stack: Stack) -> Put:
    environment = _lmdb(library, context, stack, "synced")

    def put(key: bytes, value: bytes) -> None:
        with environment.begin(write=True) as transaction:
            transaction.put(key, value)

    return put


def _lmdb_scan(library: Any, context: Context, stack: Stack, items: list[Any]) -> Any:
    environment = _lmdb(library, context, stack, "scan", sync=False)
    with environment.begin(write=True) as transaction:
        transaction.cursor().putmulti(items)

    def scan() -> None:
        with environment.begin() as reading:
            _drain(reading.cursor())

    return scan


def _sqlite(context: Context, stack: Stack, name: str, synchronous: str) -> Any:
    context.path(f"sqlite-{name}").mkdir()
    path = context.folder / f"sqlite-{name}" / "db"
    connection = sqlite3.connect(path, isolation_level=None)
    stack.callback(connection.close)
    connection.execute("pragma journal_mode=wal")
    connection.execute(f"pragma synchronous={synchronous}")
    connection.execute("create table log (position integer primary key, key blob, value blob)")
    return connection


_INSERT = "insert into log (key, value) values (?, ?)"


def _sqlite_insert(context: Context, stack: Stack, name: str) -> Put:
    connection = _sqlite(context, stack, name, "off")
    connection.execute("begin")
    return lambda key, value: connection.execute(_INSERT, (key, value))


def _sqlite_commit(context: Context, stack: Stack) -> Put:
    connection = _sqlite(context, stack, "synced", "full")
    return lambda key, value: connection.execute(_INSERT, (key, value))


def _sqlite_scan(context: Context, stack: Stack, items: list[Any]) -> Any:
    connection = _sqlite(context, stack, "scan", "off")
    connection.execute("begin")
    connection.executemany(_INSERT, items)
    connection.execute("commit")
    return lambda: _drain(connection.execute("select key, value from log order by position"))


def _drain(items: Any) -> None:
    for _ in items:
        pass


def _persist_queue(library: Any, context: Context) -> Put:
    queue = library.SQLiteAckQueue(str(context.path("persist-synced")), auto_commit=True)
    return lambda key, value: queue.put(value)
