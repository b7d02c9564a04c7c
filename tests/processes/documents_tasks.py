"""What worker processes do with a document store."""

from __future__ import annotations

from random import Random

from tests.processes.records import Words
from tests.processes.talk import say
from treering import FsyncPolicy
from treering.stores.documents import (
    DocumentStore,
    DuplicateError,
    Index,
    NoDocumentError,
    VersionConflictError,
)

INDEXES = {"sum": "/sum", "key": Index("/key", unique=True)}


def _opened(path, policy="os", **options) -> DocumentStore:
    store = DocumentStore(path, indexes=INDEXES, fsync_policy=FsyncPolicy.parse(policy), **options)
    say("open", documents=len(store))
    return store


def edit_for_ever(path, words, worker, **options):
    """Count in documents that all share, by several calls, noting each begin and return. In each
    document the parts always add up to its sum."""
    store, counters = _opened(path, **options), Words(words)
    begun, returned = 2 * worker, 2 * worker + 1
    rng, mine = Random(worker), str(worker)
    while True:
        counters[begun] += 1
        id = f"d{rng.randrange(3)}"
        if rng.random() < 0.5:
            store.update(id, lambda document: _count(document, mine))
        else:
            while not _count_by_hand(store, id, mine):
                pass
        counters[returned] += 1


def _count(document, mine) -> dict:
    document["sum"] += 1
    document["parts"][mine] = document["parts"].get(mine, 0) + 1
    return document


def _count_by_hand(store, id, mine) -> bool:
    try:
        with store.edit(id) as document:
            _count(document, mine)
    except VersionConflictError:
        return False
    return True


def edit_at_random(path, worker, count, seed, **options):
    """Random commands; says what each of them returned."""
    rng, told = Random(f"{seed} {worker}"), []
    with _opened(path, **options) as store:
        for number in range(count):
            id, chance = f"d{rng.randrange(4)}", rng.random()
            expected = store.version(id)
            mine = f"{worker}/{number}"
            try:
                if chance < 0.4:
                    document = {"by": mine, "n": number, "list": list(range(number % 7))}
                    told.append((id, store.put(id, document, expected_version=expected), mine))
                elif chance < 0.8:
                    told.append((id, store.set(id, "/by", mine, expected_version=expected), mine))
                elif chance < 0.9:
                    store.put(f"{worker}", {"key": rng.randrange(3)})
                elif chance < 0.95:
                    if store.delete(id, expected_version=expected):
                        told.append((id, expected + 1, None))
                elif chance < 0.97:
                    store.checkpoint()
            except (VersionConflictError, NoDocumentError, DuplicateError):
                pass
    for start in range(0, len(told), 100):
        say("told", told=told[start : start + 100])
    say("said")
