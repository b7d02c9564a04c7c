"""What worker processes do with a session store."""

from __future__ import annotations

import os
from random import Random

from tests.processes.records import Words
from tests.processes.talk import say
from treering import FsyncPolicy
from treering.stores.sessions import SessionStore

KEPT_MAX = 20


class Diary:
    """What a worker's calls returned, line by line, whoever is killed: `+ID` is alive, `-ID` is
    over, `?` all of the worker's are about to be over."""

    def __init__(self, path):
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def note(self, *words):
        os.write(self._file, "".join(f"{word}\n" for word in words).encode())


def be_visitors(path, words, diary, worker, shared, seed, **options):
    """Log in, save, rotate and log out for ever; count in a session that all share."""
    counters, notes, rng, mine = Words(words), Diary(diary), Random(seed), []
    user, begun, returned = f"worker-{worker}", 2 * worker, 2 * worker + 1
    with SessionStore(path, fsync_policy=FsyncPolicy.OS, **options) as store:
        say("open")
        while True:
            chance = rng.random()
            if chance < 0.3:
                counters[begun] += 1
                store.update(shared, lambda data: {"n": data["n"] + 1})
                counters[returned] += 1
            elif (chance < 0.5 and len(mine) < KEPT_MAX) or not mine:
                mine.append(store.create({"n": 0}, user=user).id)
                notes.note("+" + mine[-1])
            elif chance < 0.7:
                old = mine.pop(rng.randrange(len(mine)))
                notes.note("~" + old)
                mine.append(store.rotate(old).id)
                notes.note("-" + old, "+" + mine[-1])
            elif chance < 0.8:
                old = mine.pop(rng.randrange(len(mine)))
                notes.note("~" + old)
                assert store.delete(old)
                notes.note("-" + old)
            elif chance < 0.82:
                notes.note("?")
                assert store.logout_everywhere(user) == len(mine)
                notes.note(*("-" + id for id in mine))
                mine.clear()
            elif chance < 0.84:
                store.checkpoint()
            else:
                store.save(rng.choice(mine), {"n": rng.random()})
