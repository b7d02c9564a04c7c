"""A cache in processes that are killed."""

from __future__ import annotations

import time
from pathlib import Path

from story import check, last_line, say, start, tell

from treering.stores.cache import Cache

BOUND = 1 << 20


def show(path: Path) -> None:
    """A cache that is always full, in processes that are killed with what they had begun."""
    say("A cache of 1 MiB: two processes fill it and count; both are killed with -9.")
    filling = [start(filler, path, str(number)) for number in range(2)]
    with Cache(path, size_bytes_max=BOUND) as cache:
        while cache.get("n", 0) < 4_000:
            time.sleep(0.005)
        for process in filling:
            process.kill()
        confirmed = sum(int(last_line(process) or 0) for process in filling)
        found = cache["n"]
        check(confirmed <= found <= confirmed + 300, f"{confirmed} counts confirmed, {found} found")
        cache.set("last", b"one")
        size, dropped = cache.stats()["size_bytes"], found - len(cache)
        check(size <= BOUND, f"it takes {size:,} of {BOUND:,} bytes; {dropped:,} entries had to go")
        check(cache["n"] == found, "the one that all used the whole time is still there")
        cache.check()
    _compute_after_a_death(path)


def _compute_after_a_death(path: Path) -> None:
    computing = start(computer, path)
    assert computing.stdout is not None
    computing.stdout.readline()  # it has the lease now
    computing.kill()
    killed = time.monotonic()
    computing.communicate()
    with Cache(path, size_bytes_max=BOUND) as cache:
        answer = cache.memoize(name="answer", lease=0.3)(lambda: 42)
        check(answer() == 42, "a process died while it computed for all: the next one took over")
        tell(f"{time.monotonic() - killed:.1f} s after its death, when its lease was over")


def filler(path: str, number: str) -> int:
    """Set and count for ever; print from time to time how many counts have returned."""
    with Cache(path, size_bytes_max=BOUND) as cache:
        for count in range(1, 1 << 30):
            cache.set((int(number), count), b"v" * 100)
            cache.incr("n")
            if count % 100 == 0:
                print(count, flush=True)
    return 0


def computer(path: str) -> int:
    """Begin to compute and never end."""
    with Cache(path, size_bytes_max=BOUND) as cache:

        @cache.memoize(name="answer", lease=0.3)
        def answer() -> int:
            print("computing", flush=True)
            time.sleep(1000)
            return 0

        answer()
    return 0
