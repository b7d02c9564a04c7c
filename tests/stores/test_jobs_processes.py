"""The job queue in several processes, some of which are killed.

TREERING_JOBS=50000 makes it that many jobs per process, which takes some minutes.
"""

from __future__ import annotations

import os
import time
from collections import Counter, defaultdict
from random import Random

import pytest

from tests.crash._scale import cases
from tests.processes.jobs_tasks import Ledger
from tests.processes.nursery import Nursery
from treering import FsyncPolicy
from treering.stores.jobs import JobQueue

JOBS = int(os.environ.get("TREERING_JOBS", cases(2000)))
WORKERS = 4
LEASE = 0.5


@pytest.fixture(scope="module")
def nursery():
    with Nursery() as nursery:
        yield nursery


@pytest.mark.parametrize("checkpoint_records", [None, 1000])
def test_killed_workers_lose_no_job_and_none_is_acknowledged_twice(
    nursery, tmp_path, checkpoint_records
):
    """Four workers put and work off jobs and are killed at random moments; a dead worker's job is
    given to another one within its lease and one second."""
    rng = Random(JOBS)
    ledger = Ledger(tmp_path / "words", JOBS * WORKERS, WORKERS, create=True)
    path = str(tmp_path / "jobs")
    log = {"segment_bytes_max": 1 << 18, "checkpoint_records": checkpoint_records}

    def start(worker):
        started = nursery.start(
            "produce_and_consume",
            path=path,
            words=ledger.words.path,
            worker=worker,
            quota=JOBS,
            workers=WORKERS,
            lease=LEASE,
            seed=rng.random(),
            **log,
        )
        started.greeted = False
        return started

    kills = 0
    with JobQueue(path, fsync_policy=FsyncPolicy.OS, **log) as queue:
        workers = [start(worker) for worker in range(WORKERS)]
        until = time.monotonic() + max(60, JOBS * WORKERS / 500)
        while len(queue) or any(
            ledger.words[ledger.begun + worker] < JOBS for worker in range(WORKERS)
        ):
            assert time.monotonic() < until, f"{queue.counts()} are left"
            for worker in workers:
                if not worker.greeted:
                    worker.hear("open")  # so that at least two are at work all the time
                    worker.greeted = True
            time.sleep(rng.uniform(0.005, 0.04))
            for worker in rng.sample(range(WORKERS), rng.choice((0, 1, 1, 2))):
                workers[worker].kill()
                workers[worker] = start(worker)
                kills += 1
            queue.checkpoint() if rng.random() < 0.05 else None
            time.sleep(rng.uniform(0, 0.1))
        ledger.words[ledger.over] = 1
        for worker in workers:
            worker.finish()
        assert queue.counts() == {"ready": 0, "delayed": 0, "leased": 0, "dead": 0}
        assert queue.stats()["trouble"] == []
        queue.check()
    acked, put = Counter(ledger.of(ledger.acked)), ledger.of(ledger.put)
    latest = ledger.words[ledger.latest]
    print(
        f"\n{JOBS * WORKERS} jobs in {WORKERS} processes, {kills} kills, acknowledged: "
        f"{dict(acked)}, latest redelivery after {latest} ms, lost: {ledger.words[ledger.lost]}"
    )
    assert set(acked) <= {0, 1}, "a job was acknowledged twice"
    assert acked[0] <= kills, "at most the one whose ack had no time to return"
    assert put.count(0) <= kills
    assert kills and latest <= LEASE * 1000 + 1000


@pytest.mark.parametrize("seed", range(2))
def test_the_log_is_the_one_history_that_explains_all(nursery, tmp_path, seed):
    path = str(tmp_path / "jobs")
    workers = [
        nursery.start("queue_at_random", path=path, worker=n, count=300, seed=seed)
        for n in range(4)
    ]
    told = []
    for worker in workers:
        worker.hear("said")
        while worker.heard("told"):
            told += worker.hear("told")["told"]
        worker.finish()
    leases, ends, puts = defaultdict(list), defaultdict(list), defaultdict(list)
    for kind, id, token, more in (event for event in told if event[0] not in ("put", "get")):
        if kind != "lost" and (kind != "cancel" or more):
            ends[id].append((token, kind))
    for _, id, key in (event for event in told if event[0] == "put"):
        puts[id].append(key)
    for _, id, token, attempt in (event for event in told if event[0] == "get"):
        leases[id].append((token, attempt))
    tokens = [token for found in leases.values() for token, _ in found]
    assert len(tokens) == len(set(tokens)), "a lease was given to two"
    assert leases.keys() <= puts.keys()
    with JobQueue(path, fsync_policy=FsyncPolicy.OS) as queue:
        left = {job.id for job in queue.jobs()}
        queue.check()
    for id, keys in puts.items():
        assert len(keys) == 1 or (len(set(keys)) == 1 and keys[0] is not None)
        taken = sorted(leases[id])
        done = Counter(kind for _, kind in ends[id])
        assert done["ack"] + done["cancel"] <= 1, f"job {id} ended twice: {ends[id]}"
        assert (done["ack"] + done["cancel"] == 0) == (id in left)
        finished = [token for token, kind in ends[id] if kind != "cancel"]
        assert len(finished) == len(set(finished)), "one lease ended twice"
        acks = [token for token, kind in ends[id] if kind == "ack"]
        assert not acks or acks[0] == taken[-1][0], "an older lease was acknowledged"
        assert [attempt for _, attempt in taken][:1] in ([], [1])
    print(f"\n{len(puts)} jobs, {len(tokens)} leases, {len(left)} left")
