"""The event store in several processes, some of which are killed."""

from __future__ import annotations

import time
from random import Random

import pytest

from tests.processes.events_tasks import tally_at_random, tally_events
from tests.processes.nursery import Nursery
from tests.processes.records import Words
from tests.processes.talk import fire
from treering import FsyncPolicy
from treering.stores.events import Event, EventStore

WORDS = 256


@pytest.fixture(scope="module")
def nursery():
    with Nursery() as nursery:
        yield nursery


@pytest.mark.parametrize("processes", [1, 4])
@pytest.mark.parametrize("checkpoint_records", [None, 200])
def test_killed_processes_lose_no_event(nursery, tmp_path, processes, checkpoint_records):
    """Every event whose append had returned is there once, none that was not begun is; and the
    projection, which all of them run, has each of them once."""
    rng, words = Random(processes), Words(tmp_path / "words", WORDS)
    options = {"segment_bytes_max": 16384, "checkpoint_records": checkpoint_records}
    path, used, kills = str(tmp_path / "events"), 0, 0
    workers = []
    for _ in range(4):
        while len(workers) < processes:
            workers.append(
                nursery.start(
                    "append_for_ever", path=path, words=words.path, worker=used, **options
                )
            )
            used += 1
        workers[-1].hear("open")
        time.sleep(rng.uniform(0.02, 0.08))
        for worker in rng.sample(workers, rng.randint(1, processes)):
            worker.kill()
            workers.remove(worker)
            kills += 1
        least = [words[2 * n + 1] for n in range(used)]
        with EventStore(path, fsync_policy=FsyncPolicy.OS, **options) as store:
            found = [store.version(f"own-{n}") + 1 for n in range(used)]
            store.append("alive", Event("alive", kills))  # the store goes on at once
        most = [words[2 * n] for n in range(used)]
        for n in range(used):
            assert least[n] <= found[n] <= most[n], n
    for worker in workers:
        worker.kill()
    total = 0
    with EventStore(path, fsync_policy=FsyncPolicy.OS, **options) as store:
        projection = store.projection("tally", tally_events, types="mine")
        projection.catch_up()
        for n in range(used):
            numbers = [event.data for event in store.read(f"own-{n}")]
            assert numbers == [[n, number] for number in range(len(numbers))]
            assert words[2 * n + 1] <= len(numbers) <= words[2 * n]
            view = projection.view.get(f"{n}", [0, -1])
            assert view == [len(numbers), len(numbers) - 1], "an event was not counted once"
            total += len(numbers)
        assert store.version("shared") % 3 == 2, "a part of a batch"
        assert store.stats()["trouble"] == []
        store.check()
    print(f"\n{kills} kills among {processes}, {total} events")
    assert total > 50


@pytest.mark.parametrize("seed", range(2))
def test_the_log_is_the_one_history_that_explains_all(nursery, tmp_path, seed):
    path = str(tmp_path / "events")
    options = {"path": path, "count": 200, "seed": seed, "gun": str(tmp_path / "gun")}
    with EventStore(path, fsync_policy=FsyncPolicy.OS) as store:
        workers = [nursery.start("append_events_at_random", worker=n, **options) for n in range(4)]
        for worker in workers:
            worker.hear("open")
        fire(options["gun"])
        said = [worker.hear("told")["told"] for worker in workers]
        for worker in workers:
            worker.finish()
        made = [each for mine in said for each in mine if each[0] in ("won", "any")]
        places = {(stream, version): position for _, stream, version, position in made}
        assert len(places) == len(made), "two got the same version"
        for (stream, version), position in places.items():
            [event] = store.read(stream, version, version + 1)
            assert event.position == position
        events = sum(1 if kind == "won" else 2 for kind, *_ in made)
        assert store.stats()["events"] == events == store.position
        assert any(each[0] == "lost" for mine in said for each in mine), "nobody competed"
        for mine in said:
            positions = [each[3] for each in mine if each[0] in ("won", "any")]
            assert positions == sorted(positions)  # each process sees time go forwards
        projection = store.projection("tally", tally_at_random)
        handled = sum(each[2] for mine in said for each in mine if each[0] == "projected")
        assert handled + projection.catch_up() == events
        for stream in store.streams():
            assert projection.view[stream] == sum(event.data for event in store.read(stream))
        store.check()
