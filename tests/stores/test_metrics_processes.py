"""The metrics log in several processes, some of which are killed."""

from __future__ import annotations

import time
from random import Random

import pytest

from tests.processes.metrics_tasks import LEVELS, START, S
from tests.processes.nursery import Nursery
from tests.processes.records import Words
from tests.stores.test_metrics_model import by_hand
from treering import FsyncPolicy
from treering.stores.metrics import MetricsLog


@pytest.fixture(scope="module")
def nursery():
    with Nursery() as nursery:
        yield nursery


def look(store, words, used):
    """Each worker's points are those that had returned, at most with the call under way; its
    buckets are those that they give."""
    total = 0
    for worker in range(used):
        points = store.series("x", worker=str(worker)).range(resolution=0)
        times, values = points.arrays()
        assert list(times) == [START + n * S for n in range(len(times))]
        assert list(values) == list(range(len(times)))
        begun, returned = words[2 * worker], words[2 * worker + 1]
        assert len(times) in (begun, returned), "a batch is not whole"
        total += len(times)
        for resolution, _ in LEVELS:
            found = list(store.buckets("x", resolution, worker=str(worker)))
            assert found == sorted(by_hand(zip(times, values, strict=True), resolution).values())
    return total


@pytest.mark.parametrize("checkpoint_records", [None, 100])
def test_killed_processes_lose_no_point(nursery, tmp_path, checkpoint_records):
    rng, words = Random(checkpoint_records), Words(tmp_path / "words", 256)
    options = {"segment_bytes_max": 1 << 16, "checkpoint_records": checkpoint_records}
    path, used, kills, workers = str(tmp_path / "m"), 0, 0, []
    for _ in range(4):
        while len(workers) < 4:
            workers.append(
                nursery.start(
                    "record_metrics", path=path, words=words.path, worker=used, seed=1, **options
                )
            )
            used += 1
        workers[-1].hear("open")
        time.sleep(rng.uniform(0.02, 0.15))
        for worker in rng.sample(workers, rng.randint(1, 4)):
            worker.kill()
            workers.remove(worker)
            kills += 1
        with MetricsLog(path, fsync_policy=FsyncPolicy.OS, **options) as store:
            store.record("alive", kills)  # the store goes on at once
    for worker in workers:
        worker.kill()
        kills += 1
    with MetricsLog(path, fsync_policy=FsyncPolicy.OS, **options) as store:
        store.rollup()
        total = look(store, words, used)
        store.compact()
        store.checkpoint()
        assert look(store, words, used) == total
        assert store.stats()["trouble"] == []
        store.check()
    print(f"\n{kills} kills among 4, {total} points")
    assert total
