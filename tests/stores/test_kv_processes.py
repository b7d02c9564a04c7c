"""The key-value store in several processes, some of which are killed."""

from __future__ import annotations

import time
from random import Random

import pytest

from tests.processes.nursery import Nursery
from tests.processes.records import Words
from treering import FsyncPolicy
from treering.stores.kv import KeyValueStore

WORDS = 256


@pytest.fixture(scope="module")
def nursery():
    with Nursery() as nursery:
        yield nursery


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("checkpoint_records", [None, 200])
def test_killed_processes_lose_no_count(nursery, tmp_path, processes, checkpoint_records):
    """Everything that was returned counts, nothing that was not begun does."""
    rng, words = Random(processes), Words(tmp_path / "words", WORDS)
    options = {"segment_bytes_max": 16384, "checkpoint_records": checkpoint_records}
    path, used, kills = str(tmp_path / "kv"), 0, 0
    workers = []
    for _ in range(4):
        while len(workers) < processes:
            workers.append(
                nursery.start("count_up", path=path, words=words.path, worker=used, **options)
            )
            used += 1
        workers[-1].hear("open")
        time.sleep(rng.uniform(0.005, 0.06))
        for worker in rng.sample(workers, rng.randint(1, processes)):
            worker.kill()
            workers.remove(worker)
            kills += 1
        least = sum(words[2 * n + 1] for n in range(used))
        with KeyValueStore(path, fsync_policy=FsyncPolicy.OS, **options) as store:
            found = int(store.get(b"n", b"0"))
            store[b"alive"] = b"%d" % kills  # the store goes on at once
        most = sum(words[2 * n] for n in range(used))
        assert least <= found <= most
    for worker in workers:
        worker.kill()
    total = sum(words[2 * n + 1] for n in range(used))
    with KeyValueStore(path, fsync_policy=FsyncPolicy.OS, **options) as store:
        assert total <= int(store[b"n"]) <= total + used  # a kill may hide one return
        assert store.stats()["trouble"] == []
        store.check()
    print(f"\n{kills} kills among {processes}, {total} counted")


@pytest.mark.parametrize("seed", range(2))
def test_the_log_is_the_one_history_that_explains_all(nursery, tmp_path, seed):
    path = str(tmp_path / "kv")
    with KeyValueStore(path, fsync_policy=FsyncPolicy.OS) as store:
        workers = [
            nursery.start("command_at_random", path=path, worker=n, count=300, seed=seed)
            for n in range(4)
        ]
        said = [worker.hear("told")["told"] for worker in workers]
        for worker in workers:
            worker.finish()
        told = {kind: [] for kind in ("increment", "set", "put", "pop")}
        for mine in said:
            counts = [result for kind, result in mine if kind == "increment"]
            assert counts == sorted(counts)  # each process sees time go forwards
            for kind, result in mine:
                told[kind].append(result)
        end = len(told["increment"])
        assert sorted(told["increment"]) == list(range(1, end + 1))
        assert store.get(b"n", b"0") == b"%d" % end
        follows = {before: after for before, after, won in told["set"] if won}
        assert len(follows) == sum(won for _, _, won in told["set"]), "two won over the same value"
        value, steps = None, 0
        while value in follows:
            value, steps = follows[value], steps + 1
        assert steps == len(follows), "the winners make one chain"
        assert (value and value.encode()) == store.get(b"c")
        popped = [value for value in told["pop"] if value is not None]
        assert len(popped) == len(set(popped)), "two processes got the same"
        assert set(popped) <= set(told["put"])
        store.check()
