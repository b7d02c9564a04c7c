"""The cache in several processes, some of which are killed."""

from __future__ import annotations

import time
from collections import Counter
from random import Random

import pytest

from tests.crash._scale import cases
from tests.processes.nursery import Nursery
from tests.processes.records import Words
from treering.stores.cache import Cache

BOUND = 40 << 10


@pytest.fixture(scope="module")
def nursery():
    with Nursery() as nursery:
        yield nursery


@pytest.mark.parametrize(("eviction", "checkpoint_records"), [("lru", None), ("lru", 300), ("lfu", 300)])  # fmt: skip
def test_killed_processes_lose_nothing_that_was_set(
    nursery, tmp_path, eviction, checkpoint_records
):
    """What all use stays in a cache that evicts all the time; each count of it that returned is
    there, after the kill of any process."""
    rng, words = Random(eviction), Words(tmp_path / "words", 256)
    options = {"segment_bytes_max": 16384, "checkpoint_records": checkpoint_records, "eviction": eviction, "size_bytes_max": BOUND}  # fmt: skip
    path, used, workers = str(tmp_path / "cache"), 0, []
    for _ in range(max(3, cases(3))):
        while len(workers) < 4:
            workers.append(nursery.start("use_cache", path=path, words=words.path, worker=used, seed=1, **options))  # fmt: skip
            used += 1
        workers[-1].hear("open")
        time.sleep(rng.uniform(0.02, 0.08))
        for worker in rng.sample(workers, rng.randint(1, 4)):
            worker.kill()
            workers.remove(worker)
        least = sum(words[2 * n + 1] for n in range(used))
        with Cache(path, **options) as store:
            found = store["n"]
            store["alive"] = used  # the cache goes on at once
            # Others set something at the same time: an entry each may be over the bound.
            assert store.stats()["size_bytes"] <= BOUND + 4 * 500
        assert least <= found <= sum(words[2 * n] for n in range(used))
    for worker in workers:
        worker.kill()
    total = sum(words[2 * n + 1] for n in range(used))
    with Cache(path, **options) as store:
        assert total <= store["n"] <= total + used
        store["last"] = 1
        assert store.stats()["size_bytes"] <= BOUND
        assert len(store) > 20
        assert store.stats()["trouble"] == []
        store.check()
    print(f"\n{used} processes, {total} counted")


def test_of_four_processes_one_computes(nursery, tmp_path):
    path = str(tmp_path / "cache")
    workers = [
        nursery.start("compute_together", path=path, count=10, seconds=0.01) for _ in range(4)
    ]
    told = [worker.hear("told") for worker in workers]
    for worker in workers:
        worker.finish()
    assert sorted(n for each in told for n in each["computed"]) == list(range(10))
    assert [each["got"] for each in told] == [[[n, n * n] for n in range(10)]] * 4


def test_the_lease_of_a_dead_process_is_over_in_time(nursery, tmp_path):
    path = str(tmp_path / "cache")
    worker = nursery.start("compute_for_ever", path=path)
    worker.hear("computing")
    worker.kill()
    with Cache(path) as store:
        started = time.monotonic()
        assert store.memoize(name="slow", lease=0.5)(lambda n: "alive")(0) == "alive"
        assert time.monotonic() - started < 5
        store.check()


def test_of_four_processes_one_wins(nursery, tmp_path):
    path, count = str(tmp_path / "cache"), 150
    with Cache(path) as store:
        store.set_many({("pop", n): n for n in range(count)})
        workers = [nursery.start("race", path=path, worker=n, count=count) for n in range(4)]
        told = [worker.hear("told") for worker in workers]
        for worker in workers:
            worker.finish()
        won = [n for each in told for n in each["won"]]
        popped = [n for each in told for n in each["popped"]]
        assert sorted(won) == sorted(popped) == list(range(count))
        for worker, each in enumerate(told):
            assert all(store["add", n] == worker for n in each["won"])
        assert store["n"] == 4 * count
        assert Counter(type(key) for key in store) == {tuple: count, str: 1}
        store.check()
