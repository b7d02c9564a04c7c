"""Look-ups, and what queues and caches charge for a put and a get: for orientation."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from itertools import repeat
from typing import Any

import peers
from core import OS, fill
from harness import KEY, VALUE, Context, Group, rounds, row

from treering import Wal

Stack = contextlib.ExitStack
Block = Callable[[], float]

RECORDS = 20_000
TEXT = VALUE.decode()
EACH = 50


def others(context: Context) -> Group:
    """One call each, on small stores."""
    order = [number * 7919 % RECORDS for number in range(context.pick(500, 100))]
    keys = [b"%016d" % number for number in order]
    items = [(b"%016d" % number, VALUE) for number in range(RECORDS)]
    found = peers.Found()
    with Stack() as stack:
        path = context.path("lookup")
        fill(path, RECORDS)
        wal = stack.enter_context(Wal.open(path, fsync_policy=OS))
        blocks: dict[str, Block] = {"treering read(position)": lambda: _each(wal.read, order)}
        for name, module, make in (
            ("lmdb get", "lmdb", lambda lib: _lmdb_get(lib, context, stack, items, keys)),
            ("plyvel get", "plyvel", lambda lib: _plyvel_get(lib, context, stack, items, keys)),
            ("persist-queue put", "persistqueue", lambda lib: _persist_put(lib, context)),
            ("persist-queue get + ack", "persistqueue", lambda lib: _persist_ack(lib, context)),
            ("litequeue put", "litequeue", lambda lib: _lite_put(lib, context, stack)),
            ("litequeue pop + done", "litequeue", lambda lib: _lite_done(lib, context, stack)),
            ("diskcache set", "diskcache", lambda lib: _cache_set(lib, context, stack)),
            ("diskcache get", "diskcache", lambda lib: _cache_get(lib, context, stack, keys)),
        ):
            found.add(name, module, make)
        samples = rounds(context, blocks | found.found, context.pick(7, 5))
    group = Group(
        "others",
        "Look-ups, queues, caches",
        "One call each, with the libraries' own defaults; for orientation, no targets. "
        "persist-queue commits every put with sync; litequeue and diskcache do not sync.",
    )
    group.rows += [row(samples, name, "us", scale=1e6) for name in samples]
    group.rows += found.missing
    return group


def _each(call: Callable[[Any], object], arguments: list[Any]) -> float:
    started = time.perf_counter()
    for argument in arguments:
        call(argument)
    return (time.perf_counter() - started) / len(arguments)


def _times(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    for _ in repeat(None, EACH):
        call()
    return (time.perf_counter() - started) / EACH


def _lmdb_get(
    library: Any, context: Context, stack: Stack, items: list[Any], keys: list[bytes]
) -> Block:
    environment = library.open(str(context.path("lmdb-get")), map_size=1 << 28, sync=False)
    stack.callback(environment.close)
    with environment.begin(write=True) as transaction:
        transaction.cursor().putmulti(items)
    reading = stack.enter_context(environment.begin())
    return lambda: _each(reading.get, keys)


def _plyvel_get(
    library: Any, context: Context, stack: Stack, items: list[Any], keys: list[bytes]
) -> Block:
    database = library.DB(str(context.path("plyvel-get")), create_if_missing=True)
    stack.callback(database.close)
    for key, value in items:
        database.put(key, value)
    return lambda: _each(database.get, keys)


def _persist_put(library: Any, context: Context) -> Block:
    queue = library.SQLiteAckQueue(str(context.path("persist-put")), auto_commit=True)
    return lambda: _times(lambda: queue.put(VALUE))


def _persist_ack(library: Any, context: Context) -> Block:
    queue = library.SQLiteAckQueue(str(context.path("persist-get")), auto_commit=True)

    def run() -> float:
        for _ in repeat(None, EACH):
            queue.put(VALUE)
        return _times(lambda: queue.ack(queue.get(block=False)))

    return run


def _litequeue(library: Any, context: Context, stack: Stack, name: str) -> Any:
    context.path(name).mkdir()
    queue = library.LiteQueue(str(context.folder / name / "db"))
    stack.callback(queue.close)
    return queue


def _lite_put(library: Any, context: Context, stack: Stack) -> Block:
    queue = _litequeue(library, context, stack, "litequeue-put")
    return lambda: _times(lambda: queue.put(TEXT))


def _lite_done(library: Any, context: Context, stack: Stack) -> Block:
    queue = _litequeue(library, context, stack, "litequeue-get")

    def run() -> float:
        for _ in repeat(None, EACH):
            queue.put(TEXT)
        return _times(lambda: queue.done(queue.pop().message_id))

    return run


def _cache(library: Any, context: Context, stack: Stack, name: str) -> Any:
    cache = library.Cache(str(context.path(name)))
    stack.callback(cache.close)
    return cache


def _cache_set(library: Any, context: Context, stack: Stack) -> Block:
    cache = _cache(library, context, stack, "diskcache-set")
    return lambda: _times(lambda: cache.set(KEY, VALUE))


def _cache_get(library: Any, context: Context, stack: Stack, keys: list[bytes]) -> Block:
    cache = _cache(library, context, stack, "diskcache-get")
    for key in set(keys):
        cache.set(key, VALUE)
    return lambda: _each(cache.get, keys)
