"""What worker processes do with a key-value store."""

from __future__ import annotations

from random import Random

from tests.processes.records import Words
from tests.processes.talk import say
from treering import Database, FsyncPolicy
from treering.stores.kv import KeyValueStore


def _opened(path, policy="os", **options) -> KeyValueStore:
    store = KeyValueStore(path, fsync_policy=FsyncPolicy.parse(policy), **options)
    say("open", keys=len(store))
    return store


def count_up(path, words, worker, **options):
    """Increment for ever, by call and by compare_and_set, noting each begin and return."""
    store, counters = _opened(path, **options), Words(words)
    begun, returned = 2 * worker, 2 * worker + 1
    while True:
        counters[begun] += 1
        if counters[begun] % 3:
            store.increment(b"n")
        else:
            while not _count_by_hand(store):
                pass
        counters[returned] += 1


def _count_by_hand(store) -> bool:
    before = store.get(b"n")
    return store.compare_and_set(b"n", before, b"%d" % (int(before or 0) + 1))


def command_at_random(path, worker, count, seed, **options):
    """Random commands; says what each of them returned."""
    rng, told = Random(f"{seed} {worker}"), []
    with _opened(path, **options) as store:
        for number in range(count):
            mine = f"{worker}/{number}".encode()
            chance = rng.random()
            if chance < 0.3:
                told.append(("increment", store.increment(b"n")))
            elif chance < 0.6:
                before = store.get(b"c")
                won = store.compare_and_set(b"c", before, mine)
                told.append(("set", [before and before.decode(), mine.decode(), won]))
            elif chance < 0.8:
                store[b"q"] = mine
                told.append(("put", mine.decode()))
            elif chance < 0.97:
                value = store.pop(b"q", None)
                told.append(("pop", value and value.decode()))
            else:
                store.checkpoint()
    say("told", told=told)


def transfer(path, words, worker, **options):
    """Move money between two stores of a database for ever, noting each begin and return."""
    counters = Words(words)
    begun, returned = 2 * worker, 2 * worker + 1
    with Database(path, fsync_policy=FsyncPolicy.OS, **options) as db:
        source, target, moves = db.kv("from"), db.kv("to"), db.kv("moves")
        say("open", keys=len(moves))

        def move():
            amount = 1 + counters[begun] % 7
            source.increment(b"n", -amount)
            target.increment(b"n", amount)
            moves.increment(b"worker-%d" % worker)

        while True:
            counters[begun] += 1
            db.run(move)
            counters[returned] += 1
