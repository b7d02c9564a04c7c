"""What worker processes do with a metrics log."""

from __future__ import annotations

from random import Random

from tests.processes.records import Words
from tests.processes.talk import say
from treering import FsyncPolicy
from treering.stores.metrics import MetricsLog

S = 1_000_000_000
START = 1_700_000_000 * S
LEVELS = [(10, None), (100, None)]


def record_metrics(path, words, worker, seed, **options):
    """Record batches for ever, roll up, merge and make checkpoints in between; noting how many
    points were begun, and how many had returned."""
    store = MetricsLog(path, fsync_policy=FsyncPolicy.OS, rollups=LEVELS, **options)
    counters, rng = Words(words), Random(f"{seed} {worker}")
    handle = store.series("x", worker=str(worker))
    begun, returned = 2 * worker, 2 * worker + 1
    say("open", points=store.stats()["points"])
    while True:
        chance, number = rng.random(), counters[begun]
        if chance < 0.75:
            count = rng.choice((1, 3, 40))
            counters[begun] = number + count
            batch = range(number, number + count)
            if count == 1:
                handle.record(number, START + number * S)
            elif count == 3:
                tags = {"worker": str(worker)}
                store.record_many([("x", n, tags, START + n * S) for n in batch])
            else:
                handle.record_many([START + n * S for n in batch], list(batch))
            counters[returned] = number + count
        elif chance < 0.85:
            store.rollup()
        elif chance < 0.95:
            store.compact()
        else:
            store.checkpoint()
