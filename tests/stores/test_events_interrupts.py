"""An event store whose calls are interrupted at every point where a signal may come."""

from __future__ import annotations

from tests.crash._scale import cases
from tests.threads.interrupts import PACKAGE, At, count, interrupted, points
from treering import FsyncPolicy, ReentrantError
from treering.stores.events import Event, EventStore
from treering.testing import MemoryFiles


def opened(files):
    return EventStore(
        "/events",
        files=files,
        fsync_policy=FsyncPolicy.OS,
        checkpoint_bytes=None,
        segment_bytes_max=1 << 20,
    )


def some(turn):
    return [Event("a", turn, id=f"{turn}"), Event("b", turn)]


def test_an_append_that_is_interrupted_happened_or_did_not_and_can_be_repeated():
    store, turn, hits = opened(MemoryFiles()), 0, 0
    other = opened(store._fold.wal._config.files)
    store.append("s", some(turn))
    other.append("t", Event("x"))
    total = count(lambda: store.append("s", some(1)), PACKAGE)
    for k in points(total + 5, cases(250)):
        turn = k + 1
        before = store.version("s")
        other.append("t", Event("x"))  # so that there is something to take in
        hits += interrupted(lambda turn=turn: store.append("s", some(turn)), k, PACKAGE)
        assert store.version("s") in (before, before + 2)
        assert store.append("s", some(turn)).version == before + 2
        assert store.version("s") == other.version("s") == before + 2
    assert hits > cases(100)
    ids = [event.id for event in store.read("s") if event.id]
    assert len(ids) == len(set(ids)) == (store.version("s") + 1) // 2
    for each in (store, other):
        each.check()
        each.close()


def test_a_handler_that_appends_itself_leaves_a_right_index():
    store, hits = opened(MemoryFiles()), 0
    other = opened(store._fold.wal._config.files)
    store.append("s", some(0))
    other.append("t", Event("x"))
    total = count(lambda: store.append("s", some(1)), PACKAGE)
    for k in points(total, cases(250)):
        handled = []

        def handler(k=k, handled=handled):
            try:
                handled.append(store.append("handler", Event("h", id=f"{k}")))
            except ReentrantError:
                handled.append(None)

        other.append("t", Event("x"))
        before = store.version("s")
        with At(k, handler, PACKAGE):
            store.append("s", some(k + 1))
        assert store.version("s") == other.version("s") == before + 2
        if handled and handled[0] is not None:
            [found] = store.read("handler", handled[0].version)
            assert (found.id, found.position) == (f"{k}", handled[0].position)
        hits += len(handled)
    assert hits > cases(60)
    for each in (store, other):
        each.check()
        each.close()


def test_an_interrupted_projection_counts_each_event_once():
    store = opened(MemoryFiles())
    projection = store.projection("n", lambda view, event: view.update(n=view.get("n", 0) + 1))
    store.append("s", Event("e"))
    total = count(projection.catch_up, PACKAGE)
    hits = 0
    for k in points(total, cases(150)):
        store.append("s", Event("e"))
        hits += interrupted(projection.catch_up, k, PACKAGE)
        projection.catch_up()
        assert projection.view["n"] == store.position
    assert hits > cases(60)
    store.check()
    store.close()
