"""The document store in several processes, some of which are killed."""

from __future__ import annotations

import time
from random import Random

import pytest

from tests.crash._scale import cases
from tests.processes.documents_tasks import INDEXES
from tests.processes.nursery import Nursery
from tests.processes.records import Words
from treering import FsyncPolicy
from treering.stores.documents import DocumentStore

WORDS = 256
IDS = ["d0", "d1", "d2"]


@pytest.fixture(scope="module")
def nursery():
    with Nursery() as nursery:
        yield nursery


def opened(path, **options):
    return DocumentStore(path, indexes=INDEXES, fsync_policy=FsyncPolicy.OS, **options)


def totals(store):
    """The sum over all documents at one moment, each of which has to be whole."""
    total, then = 0, store.snapshot()
    for id in IDS:
        document = then[id]
        assert sum(document["parts"].values()) == document["sum"] == then.version(id) - 1
        assert id in [found.id for found in then.find(sum=document["sum"])]
        total += document["sum"]
    return total


@pytest.mark.parametrize("checkpoint_records", [None, 200])
def test_no_update_of_killed_processes_is_lost_or_halved(nursery, tmp_path, checkpoint_records):
    rng, words = Random(4), Words(tmp_path / "words", WORDS)
    options = {"segment_bytes_max": 16384, "checkpoint_records": checkpoint_records}
    path, used, kills, workers = str(tmp_path / "documents"), 0, 0, []
    with opened(path, **options) as store:
        store.put_many({id: {"sum": 0, "parts": {}, "pad": "x" * 500} for id in IDS})
    for _ in range(5):
        while len(workers) < 4:
            workers.append(
                nursery.start("edit_for_ever", path=path, words=words.path, worker=used, **options)
            )
            used += 1
        workers[-1].hear("open")
        time.sleep(rng.uniform(0.02, 0.1))
        for worker in rng.sample(workers, rng.randint(1, 4)):
            worker.kill()
            workers.remove(worker)
            kills += 1
        least = sum(words[2 * n + 1] for n in range(used))
        with opened(path, **options) as store:
            found = totals(store)
        assert least <= found <= sum(words[2 * n] for n in range(used))
    for worker in workers:
        worker.kill()
    total = sum(words[2 * n + 1] for n in range(used))
    with opened(path, **options) as store:
        assert total <= totals(store) <= total + used  # a kill may hide one return
        assert store.stats()["trouble"] == []
        store.check()
    print(f"\n{kills} kills, {total} counted")


def test_each_version_was_made_by_one(nursery, tmp_path):
    path = str(tmp_path / "documents")
    workers = [
        nursery.start("edit_at_random", path=path, worker=n, count=cases(250), seed=1)
        for n in range(4)
    ]
    made = {}
    for worker in workers:
        worker.hear("said")
        while worker.heard("told"):
            for id, version, mine in worker.hear("told")["told"]:
                assert made.setdefault((id, version), mine) == mine, "two made the same version"
        worker.finish()
    with opened(path) as store:
        for id in {id for id, _ in made}:
            versions = sorted(version for other, version in made if other == id)
            assert versions == list(range(1, len(versions) + 1)), "a version that nobody made"
            assert store._fold.state().last(id).version == versions[-1]
            assert store.get(id, path="/by") == made[id, versions[-1]]
            for change in store.history(id):
                wanted = made[id, change.version]
                assert {c.path: c.value for c in change.changes}.get("/by", wanted) == wanted
        store.check()
        keys = [found.content["key"] for found in store.find_range("key")]
        assert keys == sorted(set(keys))
    print(f"\n{len(made)} versions")
