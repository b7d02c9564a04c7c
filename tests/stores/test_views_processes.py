"""Views and indexes in several processes, some of which are killed."""

from __future__ import annotations

import os
import time
from random import Random

import pytest

from tests.processes.nursery import Nursery
from tests.processes.records import Words
from tests.processes.views_tasks import seen
from treering import FsyncPolicy, Wal
from treering.stores.views import Index, View


@pytest.fixture(scope="module")
def nursery():
    with Nursery() as nursery:
        yield nursery


def among_kills(nursery, task, path, words, rounds, rng, look, **options):
    """Four processes at that task, killed at random; `look(used)` after each round."""
    workers, used, kills = [], 0, 0
    for _ in range(rounds):
        while len(workers) < 4:
            workers.append(nursery.start(task, log=path, words=words.path, worker=used, **options))
            used += 1
        workers[-1].hear("open")
        time.sleep(rng.uniform(0.02, 0.1))
        for worker in rng.sample(workers, rng.randint(1, 4)):
            worker.kill()
            workers.remove(worker)
            kills += 1
        look(used)
    for worker in workers:
        worker.kill()
    look(used)
    print(f"\n{task}: {kills} kills among {used}")


@pytest.mark.parametrize("checkpoint_records", [None, 20])
def test_each_record_is_taken_in_once_whoever_is_killed(nursery, tmp_path, checkpoint_records):
    words, path = Words(tmp_path / "words", 128), str(tmp_path / "log")

    def look(used):
        with View(path, f"{path}-view", read_only=True) as viewed:
            state = viewed._fold.state()
            assert int(state.values.get("n", b"0")) == state.mark.reached
        with Index(path) as index, Wal.open(path, fsync_policy=FsyncPolicy.OS) as wal:
            end = wal.current_position()
            with Index(wal, f"{path}-index") as kept:
                assert kept.trouble == []
                assert set(index) <= set(kept.keys())
            for worker in range(used):
                returned = words[2 * worker + 1]
                found = index.get(b"%d/%d" % (worker, returned % 7))
                assert not returned or int(found) >= returned, "a put that had returned"
            assert index.reached >= end

    rng = Random(7)
    among_kills(
        nursery,
        "write_and_view",
        path,
        words,
        8,
        rng,
        look,
        seed=3,
        checkpoint_records=checkpoint_records,
    )
    with Wal.open(path, fsync_policy=FsyncPolicy.OS) as wal:
        index, viewed = Index(wal, f"{path}-index"), View(wal, f"{path}-view", seen)
        viewed.catch_up()
        end = wal.current_position()
        assert (viewed.reached, viewed.view["n"]) == (end, end)
        assert viewed.view["sum"] == end * (end - 1) // 2
        assert viewed.trouble == [] == index.trouble
        assert end >= sum(words[2 * n + 1] for n in range(64))
        viewed.check()
        index.check()
        viewed.close()
        index.close()


def test_killed_while_it_compacts(nursery, tmp_path):
    words, path = Words(tmp_path / "words", 128), str(tmp_path / "log")

    def look(used):
        least = [words[2 * worker + 1] for worker in range(used)]
        with Index(path) as index:
            for worker in range(used):
                found = int(index.get(b"%d" % worker, b"0"))
                assert least[worker] <= found <= words[2 * worker]

    among_kills(nursery, "compact_for_ever", path, words, 8, Random(8), look)
    with Wal.open(path, fsync_policy=FsyncPolicy.OS) as wal:
        assert wal.first_position > 0
        Index(wal).check()
        assert wal.current_position() >= sum(words[2 * n + 1] for n in range(64))


@pytest.mark.parametrize("how", ["wal", "path"])
def test_an_index_and_a_view_in_a_forked_child(tmp_path, how):
    path = str(tmp_path / "log")
    with Wal.open(path, fsync_policy=FsyncPolicy.OS) as wal:
        wal.put(b"a", b"1")
        log = wal if how == "wal" else path
        with Index(log, f"{path}-index") as index, View(log, f"{path}-view", seen) as viewed:
            viewed.catch_up()
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    with Wal.open(path, fsync_policy=FsyncPolicy.OS) as mine:
                        mine.put(b"b", b"2")
                    if index[b"b"] == b"2" and viewed.catch_up() == 1:
                        index.checkpoint()
                        status = 0
                finally:
                    os._exit(status)
            assert os.waitpid(child, 0)[1] == 0
            assert index[b"b"] == b"2" and viewed.catch_up() == 0 and viewed.view["n"] == 2
            index.check()
