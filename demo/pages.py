"""A bank on pages: transfers between pages, killed in their middle."""

from __future__ import annotations

import random
import struct
import time
from pathlib import Path

from story import check, last_line, say, start, tell

from treering.stores.pages import PageConflictError, PageStore, PageTransaction

BYTES, ACCOUNTS, FIRST = 4096, 64, 1000
_AMOUNTS = struct.Struct(f"<{ACCOUNTS}q")
PAGES = 16


def show(path: Path) -> None:
    """Transfers between pages in two processes that are killed; the sum is always the same."""
    say("A page store: two processes move money between 1,024 accounts; both are killed with -9.")
    total = PAGES * ACCOUNTS * FIRST
    with PageStore(path, page_bytes=BYTES) as store:
        with store.begin() as tx:
            for number in range(PAGES):
                _write(tx, number, [FIRST] * ACCOUNTS)
        moving = [start(teller, path, str(seed)) for seed in range(2)]
        while store.position < 600:
            time.sleep(0.005)
        for process in moving:
            process.kill()
        confirmed = sum(int(last_line(process) or 0) for process in moving)
        left = store.stats()["dirty_pages"]
        tell(f"{confirmed} transfers confirmed; {left} pages are in the log alone")
    with PageStore(path) as store:
        check(_sum(store) == total, f"opened again: {PAGES * ACCOUNTS} accounts, sum {total:,}")
        store.checkpoint()
        check(store.stats()["dirty_pages"] == 0, "a checkpoint: all pages are in the data file")
        one, two = store.begin(), store.begin()
        for tx in (one, two):
            _move(tx, 0, 1, 5)
        one.commit()
        try:
            two.commit()
            check(False, "two changed the same pages")
        except PageConflictError:
            check(_sum(store) == total, "of two on the same pages the first one wins")
        store.check()


def teller(path: str, seed: str) -> int:
    """Transfer for ever; print how many have returned."""
    rng = random.Random(seed)
    with PageStore(path, checkpoint_records=200) as store:
        for count in range(1, 1 << 30):
            accounts = rng.sample(range(PAGES * ACCOUNTS), 2)
            store.run(lambda tx, accounts=accounts: _move(tx, *accounts, rng.randrange(100)))
            print(count, flush=True)
    return 0


def _move(tx: PageTransaction, source: int, target: int, amount: int) -> None:
    for account, change in ((source, -amount), (target, amount)):
        number, at = divmod(account, ACCOUNTS)
        amounts = _read(tx, number)
        amounts[at] += change
        _write(tx, number, amounts)


def _read(tx: PageTransaction, number: int) -> list[int]:
    return list(_AMOUNTS.unpack_from(tx.read(number)))


def _write(tx: PageTransaction, number: int, amounts: list[int]) -> None:
    tx.write(number, _AMOUNTS.pack(*amounts).ljust(BYTES, b"\0"))


def _sum(store: PageStore) -> int:
    with store.begin() as tx:
        return sum(sum(_read(tx, number)) for number in range(PAGES))
