"""Projections of an event store: exactly once, in any process, whatever happens."""

from __future__ import annotations

import threading
import time

import pytest

from tests.stores._opening import SMALL, opener
from treering import (
    DamageError,
    FsyncPolicy,
    ReadOnlyError,
    Record,
    UsageError,
    VersionError,
    verify,
)
from treering.fold._projecting import BATCH
from treering.fold.kit import ViewState
from treering.stores.events import Event, EventStore


@pytest.fixture
def opened(files):
    with opener(EventStore, "/events", files=files) as open_store:
        yield open_store


def count(view, event):
    view[event.type] = view.get(event.type, 0) + 1
    view["positions"] = [*view.get("positions", []), event.position][-3:]


def test_a_view_follows_survives_and_goes_on(store, opened):
    counts = store.projection("counts", count)
    assert counts.catch_up() == 0
    store.append("s", [Event("a"), Event("b"), Event("a")])
    assert (counts.lag, dict(counts.view)) == (3, {})
    assert counts.catch_up() == 3
    assert (counts.lag, counts.position) == (0, 3)
    assert dict(counts.view) == {"a": 2, "b": 1, "positions": [0, 1, 2]}
    assert len(counts.view) == 3
    assert counts.view.copy() == dict(counts.view) == dict(counts.view.items())
    assert [each for each in counts.view.values() if isinstance(each, int)] == [2, 1]
    assert "3 keys" in repr(counts.view)
    counts.close()
    store.close()
    store = opened()
    again = store.projection("counts", count)
    assert again.catch_up() == 0
    store.append("s", Event("b"))
    assert again.catch_up() == 1
    assert again.view["b"] == 2
    again.check()
    store.check()
    assert again.stats()["reached"] == 4
    assert "counts" in repr(again)


def test_many_batches_and_a_later_projection(store):
    total = 3 * BATCH + 7
    store.append("s", [Event("a", n) for n in range(total)])
    later = store.projection("later", count)
    assert later.catch_up() == total
    assert later.view["a"] == total
    assert later._fold.position <= 4 * 3
    assert store.projection("types", count, types="none").catch_up() == 0


def test_two_that_run_the_same_projection_count_each_event_once(opened):
    stores = [opened(), opened()]
    projections = [store.projection("counts", count) for store in stores]
    stores[0].append("s", [Event("a")] * 2000)
    handled = []

    def run(projection):
        handled.append(projection.catch_up())

    threads = [threading.Thread(target=run, args=(each,)) for each in (*projections, *projections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(handled) == 2000
    assert [projection.view["a"] for projection in projections] == [2000, 2000]


def test_one_that_was_overtaken_keeps_nothing_of_its_batch(opened):
    store = opened()
    mine, theirs = (each.projection("p", count) for each in (store, opened()))
    store.append("s", [Event("a")] * 10)

    def slow(view, event):
        if event.position == 5:
            mine._handler = count
            assert theirs.catch_up() == 10
        count(view, event)

    mine._handler = slow
    assert mine.catch_up() == 0
    assert mine.view["a"] == 10


def test_a_failing_handler_keeps_nothing_of_the_batch(store):
    def failing(view, event):
        view["n"] = view.get("n", 0) + 1
        if event.data == 300:
            raise RuntimeError("no")

    projection = store.projection("p", failing)
    store.append("s", [Event("a", n) for n in range(400)])
    for _ in range(2):
        with pytest.raises(RuntimeError) as caught:
            projection.catch_up()
        assert "position=300" in caught.value.__notes__[0]
        assert (projection.position, projection.view["n"]) == (BATCH, BATCH)
    projection._handler = count
    projection.catch_up()
    assert projection.view["a"] == 400 - BATCH


def test_rebuilding(store):
    projection = store.projection("p", count)
    store.append("s", [Event("a")] * 5)
    projection.catch_up()
    projection._handler = lambda view, event: view.update(new=view.get("new", 0) + 1)
    assert projection.rebuild() == 5
    assert dict(projection.view) == {"new": 5}
    projection._fold.checkpoint()
    projection.check()


def test_what_a_handler_may_do_with_the_view(store):
    results = []

    def handler(view, event):
        view["a"] = {"x": [1]}
        view["a"]["x"].append(2)  # of a copy
        results.append(view["a"])
        view["b"] = 1
        del view["b"]
        results.append(("b" in view, "a" in view, len(view), sorted(view), view.get("b")))
        with pytest.raises(KeyError):
            del view["b"]
        with pytest.raises(KeyError):
            view["b"]
        for wrong in (
            lambda: view.update({5: 1}),
            lambda: view.update({"\ud800": 1}),
            lambda: view.update({"k" * 70_000: 1}),
            lambda: view.update(x=object()),
        ):
            with pytest.raises(UsageError):
                wrong()

    projection = store.projection("p", handler)
    store.append("s", Event("e"))
    projection.catch_up()
    assert results == [{"x": [1]}, (False, True, 1, ["a"], None)]
    assert dict(projection.view) == {"a": {"x": [1]}}
    projection._handler = lambda view, event: view.pop("a")
    store.append("s", Event("e"))
    projection.catch_up()
    assert dict(projection.view) == {}


def test_live_until_stopped_or_quiet(store):
    projection = store.projection("p", count)
    store.append("s", Event("a"))
    assert projection.run(live=False) == 1
    assert projection.run(timeout=0.02) == 0
    began = time.monotonic()
    thread = threading.Timer(0.05, lambda: store.append("s", [Event("a")] * 3))
    thread.start()
    assert projection.run(stop=lambda: projection.view["a"] == 4) == 3
    threading.Timer(0.05, projection.stop).start()
    assert projection.run() == 0
    assert time.monotonic() - began < 10
    thread.join()


@pytest.mark.parametrize(
    "name", ["../evil", "/abs", "a/b", ".", "..", "CON", "Ä", "x" * 80, "A", "a"]
)
def test_a_name_never_becomes_a_path(tmp_path, name):
    with EventStore(tmp_path / "s", **SMALL) as store:
        store.append("s", Event("a"))
        store.projection(name, count).catch_up()
        if len(name) < 80:
            store.projection(name + ".", count)
        assert all(p.name == "s" for p in tmp_path.iterdir())
        folders = [path.name for path in (tmp_path / "s" / "projections").iterdir()]
        assert all(set(f) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_%") for f in folders)
        assert len(folders) == (1 if len(name) == 80 else 2)
        store.check()
    assert verify(tmp_path / "s").ok
    with EventStore(tmp_path / "s", **SMALL) as store:
        assert store.projection(name, count).view["a"] == 1


@pytest.mark.parametrize("name", ["", "x" * 81, 5, "\ud800"])
def test_names_that_are_none(store, name):
    with pytest.raises(UsageError):
        store.projection(name, count)
    with pytest.raises(UsageError):
        store.projection("p", "no function")


def test_a_view_is_never_ahead_of_what_is_durable(store):
    projection = store.projection("p", count)
    store.append("s", [Event("a")] * 3)
    assert store._fold.wal.durable_position == 0
    projection.catch_up()
    assert store._fold.wal.durable_position == 3


def test_a_view_of_another_log_is_refused_until_rebuilt(files, opened):
    store = opened()
    projection = store.projection("p", count)
    store.append("s", [Event("a")] * 5)
    projection.catch_up()
    other = EventStore("/other", files=files, **SMALL)
    other.append("s", [Event("b")] * 9)
    projection._store = other
    with pytest.raises(UsageError, match="rebuild"):
        projection.catch_up()
    projection.rebuild()
    assert projection.view["b"] == 9
    other.close()


def test_a_read_only_store_reads_views(tmp_path):
    with EventStore(tmp_path / "s", **SMALL) as store:
        store.append("s", Event("a"))
        store.projection("p", count).catch_up()
        store.append("s", Event("a"))
    with EventStore(tmp_path / "s", read_only=True) as store:
        projection = store.projection("p", count)
        assert projection.view["a"] == 1
        with pytest.raises(ReadOnlyError):
            projection.catch_up()


def test_records_of_others_are_refused():
    for record in (Record(b"x"), Record(b""), Record(b"p", b"short")):
        with pytest.raises(VersionError):
            ViewState().apply(record)
    with pytest.raises(DamageError):
        ViewState().apply(Record(b"v\xff", b"1"))


def test_a_value_that_is_not_json_is_damage(store):
    projection = store.projection("p", count)
    projection._fold.append([(b"vx", b"{broken")])
    for call in (lambda: projection.view["x"], projection.view.copy, projection.check, store.check):
        with pytest.raises(DamageError, match="rebuild"):
            call()
    projection.rebuild()
    store.check()


def test_a_projection_has_options_of_its_own(store):
    options = {
        "segment_bytes_max": 2048,
        "checkpoint_records": 5,
        "fsync_policy": FsyncPolicy.ALWAYS,
    }
    projection = store.projection("p", count, **options)
    for number in range(60):
        store.append("s", Event("a", number))
        projection.catch_up()
    projection._fold.checkpoint()
    assert projection._fold.wal.durable_position == projection._fold.position
    assert projection._fold.wal.first_position > 0  # a view's log does not grow for ever
    assert projection.view["a"] == 60
    projection.check()
