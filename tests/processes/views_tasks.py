"""What worker processes do with views and indexes of a log."""

from __future__ import annotations

from contextlib import ExitStack
from random import Random

from tests.processes.records import Words
from tests.processes.talk import say
from treering import FsyncPolicy, Wal
from treering.stores.views import Index, View, view


@view("seen")
def seen(view, record):
    """How many records there were, and the sum of their positions: twice or never would show."""
    view["n"] = view.get("n", 0) + 1
    view["sum"] = view.get("sum", 0) + record.position


def write_and_view(log, words, worker, seed, **options):
    """Write for ever, noting what was returned, and run the view and a kept index beside it."""
    rng, counters = Random(seed), Words(words)
    with ExitStack() as stack:
        wal = stack.enter_context(
            Wal.open(log, fsync_policy=FsyncPolicy.OS, segment_bytes_max=16384)
        )
        viewed = stack.enter_context(View(wal, f"{log}-view", seen, **options))
        index = stack.enter_context(Index(wal, f"{log}-index", checkpoint_records=200))
        say("open", reached=viewed.reached)
        while True:
            _step(rng, wal, viewed, index, counters, worker)


def _step(rng, wal, viewed, index, counters, worker):
    for _ in range(rng.randint(1, 20)):
        counters[2 * worker] += 1
        wal.put(b"%d/%d" % (worker, counters[2 * worker] % 7), b"%d" % counters[2 * worker])
        counters[2 * worker + 1] += 1
    viewed.catch_up()
    last = counters[2 * worker]
    assert index[b"%d/%d" % (worker, last % 7)] == b"%d" % last
    if rng.random() < 0.05:
        index.checkpoint()
        viewed.checkpoint()


def compact_for_ever(log, words, worker, **options):
    """Put numbers and compact the log for ever, noting each begin and return."""
    counters = Words(words)
    wal = Wal.open(log, fsync_policy=FsyncPolicy.OS, segment_bytes_max=8192)
    index = Index(wal)
    say("open")
    while True:
        for _ in range(30):
            counters[2 * worker] += 1
            wal.put(b"%d" % worker, b"%d" % counters[2 * worker])
            counters[2 * worker + 1] += 1
        index.compact(wal)
