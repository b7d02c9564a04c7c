"""What worker processes do with a page store: move money between accounts on pages."""

from __future__ import annotations

from random import Random

from tests.processes.records import Words
from tests.processes.talk import say
from tests.stores._paging import BYTES, EACH, ledger_page, money
from treering import FsyncPolicy
from treering.stores.pages import PageStore

# Accounts on pages 1 to PAGES; page 0 counts what each worker has committed.
PAGES, WORKERS = 6, 7
MOST = 100


def opened(path, policy="os", **options) -> PageStore:
    """The store that the workers and their tester share."""
    return PageStore(
        path,
        page_bytes=BYTES,
        fsync_policy=FsyncPolicy.parse(policy),
        segment_bytes_max=16384,
        **options,
    )


def endow(store) -> int:
    """Give each account its first money; how much that is."""
    with store.begin() as tx:
        tx.write(0, ledger_page([0] * WORKERS))
        for number in range(1, PAGES + 1):
            tx.write(number, ledger_page([1000] * EACH))
    return PAGES * EACH * 1000


def counted(store) -> tuple[list[int], int]:
    """What each worker has committed, and the sum of all money: of one moment."""
    return store.run(counted_within)


def counted_within(tx) -> tuple[list[int], int]:
    """The same, as a transaction sees it."""
    done = list(money(tx.read(0), WORKERS))
    return done, sum(sum(money(tx.read(n))) for n in range(1, PAGES + 1))


def move_money(path, words, worker, seed, **options):
    """Transfer for ever, noting each begin and return."""
    rng, marks = Random(seed), Words(words)
    store = opened(path, **options)
    say("open", pages=store.page_count)
    begun, returned, checkpoints = 3 * worker, 3 * worker + 1, 3 * worker + 2
    while True:
        if rng.random() < 0.05:
            store.checkpoint()
            marks[checkpoints] += 1
        accounts = rng.sample(range(PAGES * EACH), 2)
        marks[begun] += 1
        store.run(lambda tx, accounts=accounts: _move(tx, *accounts, rng.randrange(MOST), worker))
        marks[returned] += 1
        if rng.random() < 0.1:
            assert counted(store)[1] == PAGES * EACH * 1000, "a sum that never was"


def _move(tx, source, target, amount, worker):
    done = list(money(tx.read(0), WORKERS))
    done[worker] += 1
    tx.write(0, ledger_page(done))
    for account, change in ((source, -amount), (target, amount)):
        number, at = divmod(account, EACH)
        accounts = list(money(tx.read(1 + number)))
        accounts[at] += change
        tx.write(1 + number, ledger_page(accounts))


def checkpoint_for_ever(path, **options):
    """Open and make checkpoints, again and again: something to be killed in."""
    while True:
        with opened(path, **options) as store:
            say("open")
            for _ in range(20):
                store.run(lambda tx: tx.write(PAGES, tx.read(PAGES)))
                store.checkpoint()
