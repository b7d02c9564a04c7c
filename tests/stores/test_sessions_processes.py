"""The session store in several processes that are killed: nobody is logged out by it, and nobody
comes back."""

from __future__ import annotations

import time
from random import Random

import pytest

from tests.crash._scale import cases
from tests.processes.nursery import Nursery
from tests.processes.records import Words
from treering import FsyncPolicy
from treering.stores.sessions import SessionStore

WORDS = 512
WORKERS = 4


@pytest.fixture(scope="module")
def nursery():
    with Nursery() as nursery:
        yield nursery


def said(path):
    """Of one worker: which of its sessions are alive, over, or may be either."""
    alive, over, unsure = set(), set(), set()
    for word in path.read_text().splitlines() if path.exists() else ():
        kind, id = word[0], word[1:]
        if kind == "+":
            alive.add(id)
        elif kind == "?":
            unsure |= alive
        elif kind == "~":
            unsure.add(id)
        else:
            over.add(id)
            alive.discard(id)
            unsure.discard(id)
    return alive - unsure, over


@pytest.mark.parametrize("checkpoint_records", [None, 200])
def test_killed_processes_log_nobody_out_and_nobody_in(nursery, tmp_path, checkpoint_records):
    rng, words = Random(7), Words(tmp_path / "words", WORDS)
    options = {
        "segment_bytes_max": 1 << 18,
        "checkpoint_records": checkpoint_records,
        "sweep_seconds": 0.01,
    }
    path, used, kills, workers = str(tmp_path / "sessions"), 0, 0, []
    with SessionStore(path, fsync_policy=FsyncPolicy.OS, **options) as store:
        shared = store.create({"n": 0}).id
    for _ in range(cases(6)):
        while len(workers) < WORKERS:
            workers.append(
                nursery.start(
                    "be_visitors",
                    path=path,
                    words=words.path,
                    diary=str(tmp_path / f"diary-{used}"),
                    worker=used,
                    shared=shared,
                    seed=used,
                    **options,
                )
            )
            used += 1
            workers[-1].hear("open")
        time.sleep(rng.uniform(0.02, 0.15))
        for worker in rng.sample(workers, rng.randint(1, WORKERS)):
            worker.kill()
            workers.remove(worker)
            kills += 1
        with SessionStore(path, fsync_policy=FsyncPolicy.OS, **options) as store:
            assert store.load(shared)  # the store goes on at once
    for worker in workers:
        worker.kill()
        kills += 1
    begun = sum(words[2 * n] for n in range(used))
    returned = sum(words[2 * n + 1] for n in range(used))
    with SessionStore(path, fsync_policy=FsyncPolicy.OS, **options) as store:
        assert returned <= store.load(shared).data["n"] <= begun
        told = [said(tmp_path / f"diary-{n}") for n in range(used)]
        alive, over = (set().union(*each) for each in zip(*told, strict=True))
        assert {id for id in alive if id not in store} == set(), "logged out by a kill"
        assert {id for id in over if id in store} == set(), "came back from the dead"
        # What a worker did in its last call it could not note.
        assert len(alive) <= len(store) <= len(alive) + 1 + used * 21
        assert store.stats()["trouble"] == []
        store.check()
    print(f"\n{kills} kills, {returned} updates, {len(alive)} alive, {len(over)} over")
    assert alive and over and returned
