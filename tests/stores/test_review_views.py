"""Views and indexes, when their log changes at an awkward moment."""

from __future__ import annotations

import pytest

from treering import ConflictError, FsyncPolicy, Record, Wal
from treering._core import source
from treering.stores.views import Index, View, view
from treering.stores.views.keeping import Keeping
from treering.stores.views.state import Newest

LOG = {"fsync_policy": FsyncPolicy.OS, "segment_bytes_max": 4096}


@view("seen")
def seen(view, record):
    view[str(record.position)] = bytes(record.value).decode()


def fill(wal, start, stop, value=b"v"):
    wal.append_batch([Record(b"k%d" % n, value) for n in range(start, stop)])


def test_a_cut_while_an_index_is_loaded_is_not_overlooked(files, monkeypatch):
    load = Keeping.load
    with Wal.open("/log", files=files, **LOG) as wal:
        fill(wal, 0, 20)
        with Index(wal, "/index", files=files) as index:
            index.checkpoint()

        def cut_behind(keeping):
            state = load(keeping)
            wal.truncate_after(10)
            return state

        monkeypatch.setattr(Keeping, "load", cut_behind)
        with Index(wal, "/index", files=files) as index:
            assert len(index) == 10
            fill(wal, 100, 130)
            assert len(index) == 40
            index.check()


def test_a_cut_while_a_view_notes_how_far_it_came_makes_it_anew(files, monkeypatch):
    with (
        Wal.open("/log", files=files, **LOG) as wal,
        View(wal, "/view", seen, files=files) as seen_view,
    ):
        fill(wal, 0, 20)
        wait, cuts = View._wait_durable, []

        def cut_after(self, reached):
            wait(self, reached)
            if not cuts:
                cuts.append(wal.truncate_after(10))

        monkeypatch.setattr(View, "_wait_durable", cut_after)
        seen_view.catch_up()
        assert len(seen_view.view) == seen_view.reached == 10
        fill(wal, 50, 60, b"w")
        assert seen_view.catch_up() == 10
        assert seen_view.view.copy() == {
            str(record.position): bytes(record.value).decode() for record in wal.read_from(0)
        }


def test_an_index_that_is_made_anew_meanwhile_removes_nothing_by_compacting(files, monkeypatch):
    with Wal.open("/log", files=files, **LOG) as wal, Index(wal) as index:
        fill(wal, 0, 100)
        state, calls = Index.state, []

        def distrusting(self):
            found = state(self)
            calls.append(1)
            if len(calls) > 2:
                self._distrust()
            return found

        monkeypatch.setattr(Index, "state", distrusting)
        with pytest.raises(ConflictError, match="again"):
            index.compact(wal)
        monkeypatch.undo()
        assert len(index) == 100
        index.compact(wal)
        assert sorted(record.key for record in wal.read_from(wal.first_position)) == index.keys()
        assert len(index) == 100


def test_records_that_expire_soon_do_not_cost_a_look_at_all_keys_each_time(monkeypatch):
    looks, look = [], Newest._filter
    monkeypatch.setattr(Newest, "_filter", lambda *given: (looks.append(1), look(*given)))
    state = Newest(b"", None)
    for n in range(200_000):
        state.apply(Record.put(b"%d" % n, b"")._placed(n, 1, 0))
    for n in range(200_000, 300_000):
        record = Record(b"%d" % n, b"", expires_at_ns=n + 1)
        state.apply(record._placed(n, n, 0))
    assert len(looks) < 8
    assert len(state.table) < 270_000


def test_segments_that_are_kept_open_leave_files_to_the_rest_of_the_process(files, monkeypatch):
    monkeypatch.setattr(source, "_open_files_max", lambda: 80)
    with Wal.open("/log", files=files, **LOG) as wal, Index(wal) as index:
        for n in range(100):
            wal.put(b"%d" % n, b"v" * 3000)
        assert all(index[b"%d" % n] for n in range(100))
        assert len(wal._any().kept._kept) <= 10
