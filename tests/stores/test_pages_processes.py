"""The page store in several processes, some of which are killed: the sum is always intact."""

from __future__ import annotations

import time
from random import Random

import pytest

from tests.crash._scale import cases
from tests.processes.nursery import Nursery
from tests.processes.pages_tasks import WORKERS, counted, counted_within, endow, opened
from tests.processes.records import Words


@pytest.fixture(scope="module")
def nursery():
    with Nursery() as nursery:
        yield nursery


class Bank:
    """A store, and workers that may be killed at any time."""

    def __init__(self, nursery, folder, **options):
        self.nursery, self.path, self.options = nursery, str(folder / "bank"), options
        self.words = Words(folder / "words", 3 * WORKERS)
        self.workers, self.started, self.kills = {}, 0, 0
        with opened(self.path) as store:
            self.total = endow(store)

    def fill(self, number):
        """Have so many at work."""
        for worker in range(number):
            if worker not in self.workers:
                self.started += 1
                self.workers[worker] = self.nursery.start(
                    "move_money",
                    path=self.path,
                    words=self.words.path,
                    worker=worker,
                    seed=self.started,
                    **self.options,
                )
                self.workers[worker].hear("open")

    def kill(self, workers):
        for worker in workers:
            self.workers.pop(worker).kill()
            self.kills += 1

    def marks(self, which):
        return [self.words[3 * worker + which] for worker in range(WORKERS)]

    def look(self):
        """What was returned is there, what was not begun is not, and all the money is."""
        least = self.marks(1)
        with opened(self.path) as store:
            done, total = counted(store)
        most = self.marks(0)
        assert total == self.total
        # A kill may hide the return of one transfer, and the counts of those that come after.
        assert all(a <= b <= c for a, b, c in zip(least, done, most, strict=True))

    def end(self):
        self.kill(list(self.workers))
        self.look()
        with opened(self.path) as store:
            store.checkpoint()
            store.check()
            assert store.stats()["trouble"] == []
        self.look()
        print(
            f"\n{self.kills} kills, {sum(self.marks(1))} transfers, "
            f"{sum(self.marks(2))} checkpoints"
        )
        assert sum(self.marks(1)) > 10


@pytest.mark.parametrize("processes", [1, 4])
def test_killed_processes_lose_no_money(nursery, tmp_path, processes):
    rng = Random(processes)
    bank = Bank(nursery, tmp_path, checkpoint_records=40)
    for _ in range(cases(4)):
        bank.fill(processes)
        time.sleep(rng.uniform(0.01, 0.1))
        bank.kill(rng.sample(sorted(bank.workers), rng.randint(1, processes)))
        bank.look()
    bank.end()


def test_a_recovery_that_is_killed_in_its_middle_and_done_again(nursery, tmp_path):
    rng = Random(7)
    bank = Bank(nursery, tmp_path)
    for _ in range(cases(3)):
        bank.fill(2)
        time.sleep(rng.uniform(0.01, 0.05))
        bank.kill([0, 1])
        for _ in range(2):  # whoever opens it next dies, too, mostly within a checkpoint
            worker = nursery.start("checkpoint_for_ever", path=bank.path)
            worker.hear("open")
            time.sleep(rng.uniform(0, 0.01))
            worker.kill()
            bank.kills += 1
        bank.look()
    bank.end()


def test_four_processes_whose_transactions_meet(nursery, tmp_path):
    """Each page is changed by all; another one looks on, and sees the sum of one moment."""
    bank = Bank(nursery, tmp_path)
    bank.fill(4)
    least = time.monotonic() + 0.5 * max(1, cases(1))
    with opened(bank.path, cache_bytes=0) as store:
        while time.monotonic() < least or not all(bank.marks(1)[:4]):
            assert store.run(counted_within)[1] == bank.total
            assert time.monotonic() < least + 30, "somebody never got a turn"
    bank.end()
