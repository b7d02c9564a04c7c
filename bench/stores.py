"""The stores, beside those that a Python user would otherwise pick."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

import peers
from groups import synced
from harness import VALUE, Context, Group, Row, at_most, opening, rounds, row

from treering import FsyncPolicy
from treering.stores.kv import KeyValueStore

_KEYS = [b"%016d" % number for number in range(20_000)]


def key_value(context: Context) -> Group:
    """get, put, recovery, and durable puts of many threads."""
    group = Group(
        "key-value",
        "Key-value store",
        "16-byte keys, 100-byte values, a call each, not synced unless it says so. Opening loads "
        "a snapshot and a log of a tenth as many records. lmdb puts and gets inside one open "
        "transaction.",
    )
    with contextlib.ExitStack() as stack:
        options = {"fsync_policy": FsyncPolicy.OS, "checkpoint_bytes": None}
        alone = stack.enter_context(
            KeyValueStore(context.path("kv-alone"), exclusive=True, **options)
        )
        shared = stack.enter_context(KeyValueStore(context.path("kv-shared"), **options))
        puts = {"put, exclusive": alone.put, "put, shared": shared.put}
        gets = {"get, exclusive": alone.get, "get, shared": shared.get}
        found = peers.key_value_stores(context, stack)
        for name, (put, get) in found.found.items():
            puts[f"{name} put"], gets[f"{name} get"] = put, get
        samples = rounds(context, {name: _putting(put) for name, put in puts.items()})
        samples |= rounds(context, {name: _getting(get) for name, get in gets.items()})
        for name in (*puts, *gets):
            group.rows.append(row(samples, name, "ns", scale=1e9 / len(_KEYS)))
        at_most(_named(group, "put, exclusive"), 700)
        at_most(_named(group, "get, exclusive"), 200)
        group.rows += found.missing
    group.rows.append(_recovery(context))
    group.rows.append(_synced(context))
    return group


def _named(group: Group, name: str) -> Row:
    return next(row for row in group.rows if row.name == name)


def _putting(put: Callable[[bytes, bytes], object]) -> Callable[[], float]:
    def block() -> float:
        started = time.perf_counter()
        for key in _KEYS:
            put(key, VALUE)
        return time.perf_counter() - started

    return block


def _getting(get: Callable[[bytes], object]) -> Callable[[], float]:
    def block() -> float:
        started = time.perf_counter()
        for key in _KEYS:
            get(key)
        return time.perf_counter() - started

    return block


def _recovery(context: Context) -> Row:
    """Seconds to open the store anew."""
    count = context.pick(1_000_000, 100_000)
    path = context.path("kv-recovery")
    options = {"fsync_policy": FsyncPolicy.OS, "checkpoint_bytes": None}
    keys = [b"%016d" % number for number in range(count)]
    with KeyValueStore(path, exclusive=True, **options) as store:
        for key in keys:
            store.put(key, VALUE)
        store.checkpoint()
        for key in keys[::10]:
            store.put(key, VALUE)
    seconds = opening(context, lambda: KeyValueStore(path, **options))
    return at_most(row({"open": seconds}, "open", "s", label=f"open with {count:,} keys"), 1)


def _synced(context: Context) -> Row:
    """Durable puts per second of 64 threads."""
    rates = synced(
        context,
        lambda: KeyValueStore(context.path("kv-synced")),
        lambda store: store.put(_KEYS[0], VALUE),
    )
    return row({"synced": rates}, "synced", "/s", label="64 threads, durable puts")
