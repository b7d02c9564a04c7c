"""A key-value store in two processes that are killed."""

from __future__ import annotations

import time
from pathlib import Path

from story import check, last_line, say, start

from treering.stores.kv import KeyValueStore


def show(path: Path) -> None:
    """A key-value store in two processes that are killed."""
    say("A key-value store: two processes increment one number; both are killed with -9.")
    counting = [start(counter, path) for _ in range(2)]
    with KeyValueStore(path) as store:
        while int(store.get(b"n", b"0")) < 200:
            time.sleep(0.005)
        for process in counting:
            process.kill()
        confirmed = sum(int(last_line(process) or 0) for process in counting)
        found = int(store[b"n"])
        check(confirmed <= found <= confirmed + 4, f"{confirmed} confirmed, the store has {found}")
        store.checkpoint()
        store.check()
    with KeyValueStore(path) as store:
        check(int(store[b"n"]) == found, "opened again, from a snapshot: the same number")


def counter(path: str) -> int:
    """Increment for ever; print how many increments have returned."""
    with KeyValueStore(path) as store:
        for number in range(1, 1 << 30):
            store.increment(b"n")
            print(number, flush=True)
    return 0
