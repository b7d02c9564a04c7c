"""Ctrl-C or no memory in the middle of a page store's call: it happened or did not, as a whole, and
the store, its locks, its data file and its log are as before (D10, G14)."""

from __future__ import annotations

import pytest

from tests.crash._scale import SHARE
from tests.stores._interrupting import broken_off
from tests.stores._paging import ledger_page
from tests.stores.test_pages_crash import EACH, PAGES, Bank, _move

# The stores are Python in either build: once is enough.
pytestmark = pytest.mark.slow


class Interrupted(Bank):
    """Open transactions of the interrupted call must not hold a checkpoint up, either."""

    def go_on(self, store):
        super().go_on(store)
        store.checkpoint()
        assert store.stats()["dirty_pages"] == 0


def some_money(store):
    with store.begin() as tx:
        for number in range(PAGES):
            tx.write(number, ledger_page([10] * EACH))
    store.checkpoint()
    store.run(lambda tx: _move(tx, 0, 1, 5))


def theirs(store):
    store.run(lambda tx: _move(tx, 8, 30, 2))


def transfer(store):
    with store.begin() as tx:
        _move(tx, 0, 20, 3)
        point = tx.savepoint()
        _move(tx, 0, 9, 4)
        tx.rollback_to(point)


def run(store):
    store.run(lambda tx: _move(tx, 1, 10, 3), serializable=True)


def checkpoint(store):
    store.checkpoint()


def look(store):
    with store.begin() as tx:
        tx.read(1)
    store.read(2)
    store.at(position=store.position).read(0)


@pytest.mark.parametrize("call", [transfer, run, checkpoint, look])
def test_a_page_store(call):
    share = round({checkpoint: 41, look: 23}.get(call, 17) / SHARE)
    counts = broken_off(Interrupted, some_money, call, share, theirs)
    assert counts["broken off"] >= 5
