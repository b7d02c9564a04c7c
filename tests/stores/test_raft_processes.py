"""A Raft log that four processes write at once, some of which are killed."""

from __future__ import annotations

import time
from random import Random

import pytest

from tests.crash._scale import cases
from tests.processes.nursery import Nursery
from tests.processes.raft_tasks import SLOTS, data_of
from tests.processes.records import Words
from treering import FsyncPolicy
from treering.stores.raft import CompactedError, Entry, RaftLog

ROUNDS = max(3, cases(5))


@pytest.fixture(scope="module")
def nursery():
    with Nursery() as nursery:
        yield nursery


def is_whole(log, known):
    """Every entry is what its writer wrote; committed ones are those that were `known` before."""
    while True:
        try:
            return _is_whole(log, known)
        except CompactedError:
            continue  # a worker was faster


def _is_whole(log, known):
    commit = log.hard_state.commit
    for entry in log.entries(log.first_index):
        text = entry.data.split()
        worker = int(text[2])
        assert entry.data == data_of(entry.index, entry.term, worker)
        if entry.index <= commit:
            assert known.setdefault(entry.index, (entry.term, worker)) == (entry.term, worker)
    snapshot = log.snapshot()
    if snapshot is not None:
        assert snapshot.read() == b"%d " % snapshot.index * 50
        assert snapshot.metadata == b"%d" % snapshot.term
        assert known.get(snapshot.index, (snapshot.term,))[0] == snapshot.term


@pytest.mark.parametrize("checkpoint_records", [None, 300])
def test_no_killed_process_takes_a_term_a_vote_or_a_committed_entry_along(
    nursery, tmp_path, checkpoint_records
):
    rng, count = Random(7), 4 + 4 * ROUNDS
    words = Words(tmp_path / "words", SLOTS * count)
    options = {"segment_bytes_max": 16384, "checkpoint_records": checkpoint_records}
    path, used, kills, workers = str(tmp_path / "raft"), 0, 0, []
    seen_term, seen_commit, known = 0, 0, {}
    for _ in range(ROUNDS):
        while len(workers) < 4:
            options_of = {"path": path, "words": words.path, "worker": used, "seed": used}
            workers.append(nursery.start("lead_for_ever", **options_of, **options))
            workers[-1].hear("open")
            used += 1
        time.sleep(rng.uniform(0.05, 0.15))
        for worker in rng.sample(workers, rng.randint(1, 3)):
            worker.kill()
            workers.remove(worker)
            kills += 1
        term = max(words[SLOTS * n + 1] for n in range(used))
        commit = max(words[SLOTS * n + 3] for n in range(used))
        with RaftLog(path, exclusive=False, fsync_policy=FsyncPolicy.OS, **options) as log:
            hard = log.hard_state
            assert hard.term >= max(term, seen_term)
            assert hard.commit >= max(commit, seen_commit)
            seen_term, seen_commit = hard.term, hard.commit
            is_whole(log, known)
    for worker in workers:
        worker.kill()
    with RaftLog(path, fsync_policy=FsyncPolicy.OS, **options) as log:
        is_whole(log, known)
        hard = log.hard_state
        won = {n: words[SLOTS * n + 1] for n in range(used)}
        assert hard.term <= max(words[SLOTS * n] for n in range(used))
        assert hard.term not in won.values() or won[hard.voted_for] == hard.term
        assert hard.commit > 0
        log.append([Entry(log.last_index + 1, hard.term + 1, b"goes on")])
        assert log.stats()["trouble"] == []
        log.check()
    terms = [term for term in won.values() if term]
    assert len(terms) == len(set(terms)), "two won the same term"
    print(f"\n{kills} kills, term {hard.term}, {hard.commit} committed")


def test_every_term_is_won_once_and_what_is_committed_stays(nursery, tmp_path):
    """A handle beside four writers sees terms, commits and entries only ever go forwards."""
    words = Words(tmp_path / "words", SLOTS * 4)
    path, known, last = str(tmp_path / "raft"), {}, (0, 0)
    with RaftLog(path, exclusive=False, fsync_policy=FsyncPolicy.OS) as log:
        workers = [
            nursery.start("lead_for_ever", path=path, words=words.path, worker=n, seed=n)
            for n in range(4)
        ]
        for worker in workers:
            worker.hear("open")
        begun, votes, looks = time.monotonic(), {}, 0
        while (looks < cases(100) or len(votes) < 10) and time.monotonic() < begun + 30:
            looks += 1
            with log._fold.lock:
                hard = log.hard_state
                assert (hard.term, hard.commit) >= last
                assert votes.setdefault(hard.term, hard.voted_for) == hard.voted_for
                last = (hard.term, hard.commit)
            time.sleep(0.001)
        for worker in workers:
            worker.kill()
        is_whole(log, known)
        log.check()
    assert len(votes) >= 10
