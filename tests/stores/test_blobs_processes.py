"""The blob store in several processes that put and collect the same blobs; some are killed."""

from __future__ import annotations

import time
from random import Random

import pytest

from tests.crash._scale import cases
from tests.processes.blobs_tasks import SLOTS, UNKNOWN, content, slot
from tests.processes.nursery import Nursery
from tests.processes.records import Words
from treering import FsyncPolicy, NotThereError
from treering.stores.blobs import BlobStore

WORKERS_MAX = 2000


@pytest.fixture(scope="module")
def nursery():
    with Nursery() as nursery:
        yield nursery


@pytest.mark.parametrize("processes", [1, 4])
def test_killed_processes_lose_no_blob_and_leave_none(nursery, tmp_path, processes):
    rng, words = Random(processes), Words(tmp_path / "words", WORKERS_MAX * SLOTS)
    path, options = str(tmp_path / "blobs"), {"segment_bytes_max": 16384}
    workers, used, kills, looked = {}, 0, 0, 0
    for _ in range(cases(8)):
        while len(workers) < processes:
            given = {"path": path, "words": words.path, "worker": used, "seed": processes}
            workers[used] = nursery.start("put_and_collect", **given, **options)
            workers[used].hear("open")
            used += 1
        time.sleep(rng.uniform(0.01, 0.15))
        for number in rng.sample(sorted(workers), rng.randint(1, processes)):
            workers.pop(number).kill()
            kills += 1
        with BlobStore(path, fsync_policy=FsyncPolicy.OS, **options) as store:
            living = set(workers)
            looked += _has_all(store, words, set(range(used)) - living)
            assert store.verify().ok
    for worker in workers.values():
        worker.kill()
    with BlobStore(path, fsync_policy=FsyncPolicy.OS, **options) as store:
        looked += _has_all(store, words, range(used))
        found = store.collect(grace_seconds=0)
        report = store.verify()
        assert report.ok
        assert report.orphaned == []
        assert list((tmp_path / "blobs" / "incoming").iterdir()) == []
        assert store.stats()["trouble"] == []
        store.check()
    assert looked
    print(f"\n{kills} kills among {processes}, {looked} names looked at, {found}")


def _has_all(store, words, workers) -> int:
    """The names of those that are dead stand for what they said; how many were looked at."""
    looked = 0
    for worker in workers:
        for number in range(SLOTS):
            mark, name = words[slot(worker, number)], f"{worker}/{number}"
            if mark == UNKNOWN:
                continue
            looked += 1
            if mark:
                assert store.get(store.ref(name)) == content(mark - 1)
            else:
                with pytest.raises(NotThereError):
                    store.ref(name)
    return looked
