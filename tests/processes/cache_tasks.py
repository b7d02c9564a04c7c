"""What worker processes do with a cache."""

from __future__ import annotations

import time
from random import Random

from tests.processes.records import Words
from tests.processes.talk import say
from treering.stores.cache import Cache


def _opened(path, **options) -> Cache:
    cache = Cache(path, **options)
    say("open", keys=len(cache))
    return cache


def use_cache(path, words, worker, seed, **options):
    """Count, set, evict and read for ever, noting each begin and return of a count."""
    cache, counters, rng = _opened(path, **options), Words(words), Random(f"{seed} {worker}")
    begun, returned = 2 * worker, 2 * worker + 1
    while True:
        counters[begun] += 1
        cache.incr("n")
        counters[returned] += 1
        for _ in range(5):
            number = rng.randrange(1 << 30)
            cache.set(number, [number], ttl=rng.choice((None, 0.01, 100)))
            assert cache.get(number, [number]) == [number]
            cache.get("n")


def compute_together(path, count, seconds, **options):
    """Memoized calls; says how many this process computed itself, and what it got."""
    computed = []
    with _opened(path, **options) as cache:

        @cache.memoize(ttl=100, name="slow")
        def slow(n):
            computed.append(n)
            time.sleep(seconds)
            return [n, n * n]

        got = [slow(n) for n in range(count)]
    say("told", computed=computed, got=got)


def compute_for_ever(path, **options):
    """Take the lease of a memoized call and never return."""
    cache = _opened(path, **options)

    @cache.memoize(name="slow", lease=0.5)
    def slow(n):
        say("computing")
        time.sleep(1000)

    slow(0)


def race(path, worker, count, **options):
    """Commands of which one wins; says what this process won."""
    won, popped = [], []
    with _opened(path, **options) as cache:
        for number in range(count):
            if cache.add(("add", number), worker):
                won.append(number)
            if cache.pop(("pop", number), None) is not None:
                popped.append(number)
            cache.incr("n")
    say("told", won=won, popped=popped)
