"""The cache beside diskcache."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

import peers
from harness import VALUE, Context, Group, at_most, opening, ratio_at_least, rounds, row

from treering.stores.cache import Cache

_KEYS = [f"key-{number:012}" for number in range(10_000)]
_FEW = _KEYS[:300]
_BOUND = 256 << 20
_TARGET = 5
_TITLES = {"get": 1_000, "set": 2_000, "set, ttl": 0, "incr": 0, "set, evicting": 0}


def cache(context: Context) -> Group:
    """get, set and incr; with eviction; hits of memoize; opening."""
    group = Group(
        "cache",
        "Cache",
        "16-character keys, 100-byte values, a call each, shared mode, neither synced. Evicting: "
        "the cache is full, each set drops another entry. A hit of memoize includes making the "
        "key.",
    )
    found = peers.Found()
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(_open(context.path("cache")))
        full = stack.enter_context(_open(context.path("cache-full"), 2 << 20))
        blocks = _blocks(ours, full, _KEYS)
        blocks["memoize, hit"] = _calls(ours.memoize(name="f")(lambda number: number), range(2_000))
        found.add("diskcache", "diskcache", lambda library: _theirs(library, context, stack))
        theirs = found.found.get("diskcache", {})
        samples = rounds(context, blocks | theirs, context.pick(9, 5))
    for name, limit in _TITLES.items():
        other = f"diskcache {name}"
        known = other in samples
        mine = row(samples, name, "ns", scale=1e9, versus=other if known else "", faster=True)
        if known and limit:
            ratio_at_least(mine, _TARGET)
        group.rows.append(at_most(mine, limit) if limit else mine)
        if known:
            group.rows.append(row(samples, other, "ns", scale=1e9))
    group.rows.append(row(samples, "memoize, hit", "ns", scale=1e9))
    group.rows += found.missing
    group.rows.append(_opening(context))
    return group


def _open(path: Any, bound: int = _BOUND) -> Cache:
    return Cache(path, size_bytes_max=bound, checkpoint_bytes=None, checkpoint_seconds=None)


def _blocks(one: Any, full: Any, keys: list[str]) -> dict[str, Callable[[], float]]:
    return {
        "set": _calls(lambda key: one.set(key, VALUE), keys),
        "get": _calls(one.get, keys),
        "set, ttl": _calls(lambda key: one.set(key, VALUE, ttl=1000), keys),
        "incr": _calls(lambda key: one.incr("number"), keys[:2_000]),
        "set, evicting": _calls(lambda key: full.set(key, VALUE), keys),
    }


def _theirs(library: Any, context: Context, stack: contextlib.ExitStack) -> dict[str, Any]:
    cache = library.Cache(str(context.path("cache-diskcache")), size_limit=_BOUND)
    stack.callback(cache.close)
    for key in _FEW:
        cache.set(key, VALUE)
    return {
        "diskcache set": _calls(lambda key: cache.set(key, VALUE), _FEW),
        "diskcache get": _calls(cache.get, _FEW),
        "diskcache set, ttl": _calls(lambda key: cache.set(key, VALUE, expire=1000), _FEW),
        "diskcache incr": _calls(lambda key: cache.incr("number"), _FEW),
    }


def _calls(call: Callable[[Any], object], keys: Any) -> Callable[[], float]:
    """Seconds per call."""

    def block() -> float:
        started = time.perf_counter()
        for key in keys:
            call(key)
        return (time.perf_counter() - started) / len(keys)

    return block


def _opening(context: Context) -> Any:
    """Seconds to open the cache anew, from a snapshot."""
    count, path = context.pick(200_000, 50_000), context.path("cache-opening")
    with _open(path) as ours:
        for number in range(count):
            ours.set(number, VALUE)
        ours.checkpoint()
    seconds = opening(context, lambda: _open(path))
    return row({"open": seconds}, "open", "s", label=f"open with {count:,} entries")
