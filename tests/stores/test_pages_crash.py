"""The page store on disks that fail and lose power: money moves between pages, the sum stays."""

from __future__ import annotations

import errno

import pytest

from tests.crash._scale import cases
from tests.stores._crashing import OPTIONS, Program, failing_calls, power_cuts
from tests.stores._paging import BYTES, EACH, ledger_page, money, pages_of
from treering import FsyncPolicy
from treering.stores.pages import PageStore

# The stores are Python in either build: once is enough.
pytestmark = pytest.mark.slow

PAGES = 5


class Bank(Program):
    """Accounts on pages, several on each."""

    start = ()
    calls = 0
    images_each = 3

    def opened(self, files, policy=FsyncPolicy.OS):
        return PageStore(
            "/bank", files=files, fsync_policy=policy, page_bytes=BYTES, cache_bytes=2048, **OPTIONS
        )

    def open(self):
        """Also the bank, with its first money."""
        super().open()
        if self.states[-1] == ():
            self.begin((100,) * (PAGES * EACH))
            with self.store.begin(durable=True) as tx:
                for number, data in pages_of(self.states[-1]):
                    tx.write(number, data)
            self.durable()

    def seen(self, store):
        with store.begin() as tx:
            found = [money(tx.read(number)) for number in range(store.page_count)]
        return tuple(account for accounts in found for account in accounts)

    def look_closer(self, store, found):
        assert sum(found) in (0, 100 * PAGES * EACH), "money was lost or made"

    def go_on(self, store):
        if store.page_count:
            store.run(lambda tx: _move(tx, 0, PAGES * EACH - 1, 1))

    def step(self, chance):
        store, rng = self.store, self.rng
        self.calls += 1
        if self.calls % 4 == 0:
            chance = 0.8  # however short the program, pages come to the data file
        durable = self.always or rng.random() < 0.2
        if chance < 0.65:
            with store.begin(durable=durable) as tx:
                model = list(self.states[-1])
                for _ in range(rng.choice((1, 1, 3))):
                    source, target = rng.sample(range(PAGES * EACH), 2)
                    amount = rng.randrange(1, 300)
                    _move(tx, source, target, amount)
                    model[source] -= amount
                    model[target] += amount
                self.begin(tuple(model))
            return durable
        if chance < 0.75:
            self._roll_back(store)
            return False
        if chance < 0.93:
            self._checkpoint(store, rng)
            return True
        self.reopen()
        return True

    def _roll_back(self, store):
        with store.begin() as tx:
            point = tx.savepoint()
            tx.write(1, ledger_page([-1] * EACH))
            tx.rollback_to(point)
            tx.write(2, ledger_page([-1] * EACH))
            tx.rollback()

    def _checkpoint(self, store, rng):
        """Sometimes with somebody who looks at older pages meanwhile."""
        with store.begin() as tx:
            before = self.seen(store)
            if rng.random() < 0.5:
                tx.rollback()
            store.checkpoint()
            if tx.active:
                assert [money(tx.read(n))[0] for n in range(PAGES)] == list(before[::EACH])


def _move(tx, source, target, amount):
    for account, change in ((source, -amount), (target, amount)):
        number, at = divmod(account, EACH)
        accounts = list(money(tx.read(number)))
        accounts[at] += change
        tx.write(number, ledger_page(accounts))


@pytest.mark.parametrize("policy", [FsyncPolicy.OS, FsyncPolicy.ALWAYS], ids=["os", "always"])
def test_a_power_cut_after_every_operation(policy, record_property):
    record_property("counts", dict(power_cuts(Bank, policy, cases(100), steps=7, stride=2)))


class TornTwice(Bank):
    """What a restart shows, when the power is cut again in the middle of it, and once more."""

    def after(self, image):
        for again in (self._cut_again(image), image):
            found = super().after(again)
        return found

    def _cut_again(self, image):
        """The power goes out in the first checkpoint after the restart."""
        left = self.rng.randrange(1, 30)

        def count(name, path):
            nonlocal left
            left -= 1
            if left == 0:
                raise _PowerOffError

        image = image.reboot_keep_all()
        image.on_operation = count
        store = None
        try:
            store = self.opened(image)
            store.checkpoint()
        except _PowerOffError:
            pass
        image.on_operation = None
        after = image.image(self.rng, lost="zeros")
        if store is not None:
            self.store = store
            self.abandon()
        return after


class _PowerOffError(BaseException):
    """The power is gone."""


def test_a_recovery_that_is_cut_itself_and_done_again():
    power_cuts(TornTwice, FsyncPolicy.OS, cases(60), steps=5, stride=3)


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_every_call_of_the_disk_fails_once(number):
    failing_calls(Bank, number, step=3 if cases(10) >= 10 else 7, steps=16)
