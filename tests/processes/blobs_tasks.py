"""What worker processes do with a blob store."""

from __future__ import annotations

from random import Random

from tests.processes.records import Words
from tests.processes.talk import say
from treering import FsyncPolicy, NotThereError
from treering.stores.blobs import BlobStore

SLOTS = 4
UNKNOWN = 1000


def content(number):
    """One of a few blobs that all processes put; some of them are written in several steps."""
    return b"%d" % number * (1, 2000, 30_000, 400_000)[number % 4]


def slot(worker, number):
    """Where a worker notes what one of its names stands for: 0 for nothing, 1 and a content's
    number, or UNKNOWN while that changes."""
    return worker * SLOTS + number


def put_and_collect(path, words, worker, seed, **options):
    """Put, read, unlink and collect the same few blobs as all the others, for ever."""
    marks, rng = Words(words), Random(f"{seed} {worker}")
    with BlobStore(path, fsync_policy=FsyncPolicy.OS, **options) as store:
        say("open", blobs=len(store))
        while True:
            number, chance = rng.randrange(SLOTS), rng.random()
            mark, name = slot(worker, number), f"{worker}/{number}"
            if chance < 0.5:
                which = rng.randrange(8)
                marks[mark] = UNKNOWN
                ref = store.put(iter([content(which)]), name=name)
                marks[mark] = 1 + which
                assert store.get(ref) == content(which), "what was just put is not there"
            elif chance < 0.75 and marks[mark]:
                marks[mark] = UNKNOWN
                store.unlink(name)
                marks[mark] = 0
            elif chance < 0.85:
                for ref in store.refs():
                    try:
                        assert store.get(ref) in map(content, range(8))
                    except NotThereError:
                        pass
            elif chance < 0.88:
                store.checkpoint()
            else:
                store.collect(grace_seconds=0)
