"""Transactions of several processes, some of which are killed."""

from __future__ import annotations

import time
from random import Random

import pytest

from tests.processes.nursery import Nursery
from tests.processes.records import Words
from treering import Database, FsyncPolicy

WORDS = 256


@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("checkpoint_records", [None, 300])
def test_killed_processes_leave_no_transaction_half(tmp_path, processes, checkpoint_records):
    rng, words = Random(processes), Words(tmp_path / "words", WORDS)
    options = {"segment_bytes_max": 16384, "checkpoint_records": checkpoint_records}
    path, used, kills, workers = str(tmp_path / "db"), 0, 0, []
    with Nursery() as nursery:
        for _ in range(5):
            while len(workers) < processes:
                workers.append(
                    nursery.start("transfer", path=path, words=words.path, worker=used, **options)
                )
                used += 1
                workers[-1].hear("open")
            time.sleep(rng.uniform(0.01, 0.1))
            for worker in rng.sample(workers, rng.randint(1, processes)):
                worker.kill()
                workers.remove(worker)
                kills += 1
            with Database(path, fsync_policy=FsyncPolicy.OS, **options) as db:
                with db.transaction():
                    shown = [dict(db.kv(name)) for name in ("from", "to", "moves")]
                assert int(shown[0][b"n"]) == -int(shown[1][b"n"]), "money was lost or made"
        for worker in workers:
            worker.kill()
    with Database(path, fsync_policy=FsyncPolicy.OS, **options) as db:
        moves = dict(db.kv("moves"))
        assert int(db.kv("from")[b"n"]) == -int(db.kv("to")[b"n"])
        assert db.stats()["trouble"] == []
        db.check()
    for worker in range(used):
        done = int(moves.get(b"worker-%d" % worker, 0))
        assert words[2 * worker + 1] <= done <= words[2 * worker], "a move was lost or invented"
    print(f"\n{kills} kills among {processes}, {sum(map(int, moves.values()))} moves")
