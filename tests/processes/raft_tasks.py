"""What worker processes do with a Raft log."""

from __future__ import annotations

from random import Random

from tests.processes.records import Words
from tests.processes.talk import say
from treering import ConflictError, FsyncPolicy, NotThereError
from treering.stores.raft import Entry, HardState, RaftLog

SLOTS = 8


def _opened(path, policy="os", **options) -> RaftLog:
    log = RaftLog(path, fsync_policy=FsyncPolicy.parse(policy), exclusive=False, **options)
    say("open", last=log.last_index)
    return log


def data_of(index, term, worker) -> bytes:
    """What the entry holds that a worker appends there."""
    return b"%d %d %d " % (index, term, worker) * (1 + index % 3)


def lead_for_ever(path, words, worker, seed, **options):
    """Win terms, append, replace what is not committed, commit, compact. Notes before each call
    and after its return: the term that it won (0, 1), how far it committed (2, 3); and the votes."""
    log, notes, rng = _opened(path, **options), Words(words), Random(seed)
    own = SLOTS * worker
    while True:
        old = log.hard_state
        term = old.term + 1
        notes[own] = term
        try:
            log.save(hard_state=HardState(term, worker, log.hard_state.commit))
        except ConflictError:
            continue  # another one has that term
        notes[own + 1] = term
        for _ in range(rng.randint(1, 6)):
            try:
                _lead(log, notes, own, worker, term, rng)
            except (ConflictError, NotThereError, ValueError):
                break  # another one leads


def _lead(log, notes, own, worker, term, rng) -> None:
    commit = log.hard_state.commit
    chance = rng.random()
    first = commit + 1 if chance < 0.3 else log.last_index + 1
    entries = [
        Entry(i, term, data_of(i, term, worker)) for i in range(first, first + rng.randint(1, 5))
    ]
    last = entries[-1].index
    notes[own + 2] = last
    log.save(entries=entries, hard_state=HardState(term, worker, last), overwrite=True)
    notes[own + 3] = last
    if rng.random() < 0.1:
        log.compact(
            last, iter([b"%d " % last] * 50), metadata=b"%d" % term, keep=rng.choice((0, 9))
        )
