"""Views of a log: each record taken in exactly once, whatever becomes of the view or of the log."""

from __future__ import annotations

import threading
import time

import pytest

from treering import (
    DamageError,
    FsyncPolicy,
    LogNotFoundError,
    PrunedError,
    ReadOnlyError,
    UsageError,
    Wal,
)
from treering.fold.kit import Mark
from treering.stores.views import View, view
from treering.testing import MemoryFiles

LOG = {"fsync_policy": FsyncPolicy.OS, "segment_bytes_max": 4096}


@view("counts")
def counts(view, record):
    view["n"] = view.get("n", 0) + 1
    view["last"] = record.position


@view("counts", version=2)
def counts_by_key(view, record):
    key = record.key.decode()
    view[key] = view.get(key, 0) + 1


@pytest.fixture
def wal(files):
    with Wal.open("/log", files=files, **LOG) as wal:
        yield wal


@pytest.fixture
def viewed(files, wal):
    views = []

    def open_view(handler=counts, path="/view", log=wal, **options):
        views.append(View(log, path, handler, files=files, **options))
        return views[-1]

    yield open_view
    for each in views:
        each.close()


def fill(wal, count, key=b"k"):
    return wal.append_batch([(key, b"x" * 40)] * count)


def test_a_view_takes_in_what_is_there_survives_and_goes_on(wal, viewed):
    mine = viewed()
    assert (mine.catch_up(), mine.lag, mine.reached) == (0, 0, 0)
    fill(wal, 600)
    assert (mine.lag, dict(mine.view)) == (600, {})
    assert (mine.catch_up(limit=0), mine.catch_up(limit=10), mine.lag) == (0, 10, 590)
    assert mine.view["n"] == 10
    assert (mine.catch_up(), mine.lag, mine.reached) == (590, 0, 600)
    assert dict(mine.view) == {"n": 600, "last": 599}
    assert (mine.stats()["reached"], mine.stats()["keys"], mine.name) == (600, 2, "counts")
    assert "counts" in repr(mine)
    mine.checkpoint()
    mine.sync()
    mine.close()
    fill(wal, 3)
    again = viewed()
    assert (again.catch_up(), again.view["n"], again.trouble) == (3, 603, [])
    again.check()


def test_several_views_and_what_they_choose(wal, viewed):
    @view("ab", prefix=(b"a", b"b"))
    class Chosen:
        def apply(self, view, record):
            view[record.key.decode()] = record.position

    class Plain:
        def apply(self, view, record):
            view["n"] = view.get("n", 0) + 1

    ab, all_of_them = viewed(Chosen, "/ab"), viewed(counts, "/all")
    stream, plain = viewed(view("s", stream=3)(counts.handler), "/s"), viewed(Plain(), "/plain")
    for key in (b"a1", b"b", b"c", b"a2"):
        wal.put(key, b"", stream=3 if key == b"c" else 0)
    fill(wal, 300, b"c")
    assert (ab.catch_up(), dict(ab.view)) == (3, {"a1": 0, "b": 1, "a2": 3})
    assert (ab.reached, ab.lag) == (304, 0)
    assert all_of_them.catch_up() == plain.catch_up() == 304
    assert (stream.catch_up(), stream.view["last"]) == (1, 2)
    assert plain.name == "plain"


@pytest.mark.parametrize("log", ["wal", "path"])
def test_a_failing_handler_keeps_nothing_of_its_batch(wal, viewed, log):
    def fails(view, record):
        view["n"] = view.get("n", 0) + 1
        if record.position == 300:
            raise RuntimeError("no")

    mine = viewed(fails, log=wal if log == "wal" else "/log")
    fill(wal, 400)
    for _ in range(2):
        with pytest.raises(RuntimeError) as caught:
            mine.catch_up()
        assert "position=300" in caught.value.__notes__[0]
        assert (mine.reached, mine.view["n"]) == (256, 256)


def test_many_that_run_the_same_view_take_in_each_record_once(wal, viewed):
    views, handled = [viewed(), viewed(), viewed(log="/log")], []
    fill(wal, 3000)
    threads = [
        threading.Thread(target=lambda each=each: handled.append(each.catch_up()))
        for each in (*views, *views)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(handled) == 3000
    assert [each.view["n"] for each in views] == [3000] * 3


def test_a_higher_version_makes_the_view_anew_a_lower_one_is_refused(wal, viewed):
    fill(wal, 10, b"a")
    old = viewed()
    old.catch_up()
    new = viewed(counts_by_key)
    assert dict(new.view) == {"n": 10, "last": 9}  # until it runs
    assert (new.catch_up(), dict(new.view)) == (10, {"a": 10})
    assert new.trouble == ["made anew: version 2 follows 1"]
    with pytest.raises(UsageError, match="made by version 2"):
        old.catch_up()
    assert viewed(counts_by_key).catch_up() == 0
    assert (old.rebuild(), dict(old.view)) == (10, {"n": 10, "last": 9})


def test_a_log_that_takes_records_back(wal, viewed):
    live, other = viewed(), viewed(path="/other", log="/log")
    fill(wal, 50)
    assert live.catch_up() == other.catch_up() == 50
    fill(wal, 10)
    wal.truncate_after(50)  # nothing that they had seen
    fill(wal, 5)
    assert live.catch_up() == other.catch_up() == 5 and live.trouble == []
    wal.truncate_after(20)
    for each in (live, other):
        assert (each.catch_up(), each.view["n"]) == (20, 20)
        assert len(each.trouble) == 1 and "made anew" in each.trouble[0]
    live.close()
    wal.truncate_after(10)  # while it does not look, and then longer than before
    fill(wal, 30)
    again = viewed()
    assert (again.catch_up(), again.view["n"]) == (40, 40)
    assert "taken back, from 10" in again.trouble[0]
    again.check()


def test_a_log_that_is_truncated_before_the_view_has_seen_it(wal, viewed):
    mine = viewed()
    fill(wal, 100)
    mine.catch_up()
    wal.truncate_before(60)
    fill(wal, 100)
    assert (mine.catch_up(), mine.view["n"]) == (100, 200)  # it had seen what went
    fill(wal, 100)
    wal.truncate_before(wal.current_position())
    with pytest.raises(PrunedError, match="rebuild") as caught:
        mine.catch_up()
    assert caught.value.oldest == wal.first_position
    fill(wal, 1)
    assert mine.rebuild() == wal.current_position() - wal.first_position
    late = viewed(path="/late")  # begins with the oldest there is
    assert late.catch_up() == mine.view["n"]


def test_a_view_is_not_made_anew_of_half_a_log(wal, viewed):
    for _ in range(30):
        fill(wal, 10)
    mine = viewed()
    mine.catch_up()
    wal.truncate_before(250)
    for anew in (viewed(counts_by_key), mine):
        if anew is mine:
            wal.truncate_after(290)
        with pytest.raises(UsageError, match="no longer has all of it"):
            anew.catch_up()
        assert mine.view["n"] == 300
    assert mine.rebuild() == 290 - wal.first_position == mine.view["n"]


def test_a_view_of_another_log(wal, viewed, files):
    fill(wal, 5)
    viewed().catch_up()
    with Wal.open("/second", files=files, **LOG) as second:
        fill(second, 7)
        mine = viewed(log=second)
        assert (mine.catch_up(), mine.view["n"]) == (7, 7)
        assert "another log" in mine.trouble[0]


def test_a_view_never_knows_more_than_is_durable_and_waits_for_it(wal, viewed):
    mine = viewed()
    fill(wal, 3)
    assert wal.durable_position == 0
    mine.catch_up()
    assert wal.durable_position == 3


def test_live_until_stopped_or_quiet(wal, viewed):
    for log in (wal, "/log"):
        mine = viewed(log=log, path=f"/live-{isinstance(log, str)}")
        began, start = time.monotonic(), wal.current_position()
        fill(wal, 1)
        assert mine.run(live=False) == start + 1
        assert mine.run(timeout=0.02) == 0
        timer = threading.Timer(0.05, lambda: fill(wal, 3))
        timer.start()
        assert mine.run(stop=lambda mine=mine, n=start + 4: mine.view["n"] == n) == 3
        threading.Timer(0.05, mine.stop).start()
        assert mine.run() == 0
        assert time.monotonic() - began < 10
        timer.join()


def test_looking_at_a_view_without_running_it(wal, viewed, files):
    fill(wal, 4)
    with pytest.raises(LogNotFoundError):
        viewed(None, path="/none", read_only=True)
    mine = viewed()
    mine.catch_up()
    reader = viewed(None, log="/log", read_only=True)
    before = files.contents()
    assert (reader.view["n"], reader.lag, reader.reached) == (4, 0, 4)
    for call in (reader.catch_up, reader.rebuild, reader.run):
        with pytest.raises(ReadOnlyError):
            call()
    assert files.contents() == before
    fill(wal, 2)
    assert reader.lag == 2
    mine.catch_up()
    assert reader.view["n"] == 6


def test_bad_input_changes_nothing(wal, viewed):
    fill(wal, 3)
    mine = viewed()
    for wrong in (
        lambda: viewed(None),
        lambda: viewed(5),
        lambda: viewed(path="/log"),
        lambda: viewed(log=5),
        lambda: viewed(nonsense=1),
        lambda: view(""),
        lambda: view(5),
        lambda: view("x" * 81),
        lambda: view("x", version=0),
        lambda: view("x", version="1"),
        lambda: view("x", version=True),
        lambda: view("x", prefix="a"),
        lambda: view("x", prefix=(b"a", "b")),
        lambda: view("x", stream="a"),
        lambda: view("x")("no handler"),
        lambda: mine.catch_up(limit=1.5),
        lambda: mine.catch_up(limit=True),
    ):
        with pytest.raises(UsageError):
            wrong()
    assert mine.catch_up() == 3

    def wrong_value(view, record):
        view["x"] = {1, 2}

    with pytest.raises(UsageError, match="JSON"):
        viewed(wrong_value, "/wrong").catch_up()


def test_marks_that_are_none():
    assert Mark.unpack(b"") is None and Mark.unpack(b"x" * 47) is None
    mark = Mark(7, b"i" * 16, 3, 2, b"p" * 8)
    assert Mark.unpack(mark.pack()) == mark
    assert Mark.unpack(mark.pack()[:24]) == Mark(7, b"i" * 16)  # as they were once


def test_a_log_that_lost_its_tail_and_grew_again(wal, viewed, files):
    wal.put(b"a", b"1", durable=True)
    durable = {path: data for path, data in files.contents().items() if path.startswith("/log")}
    wal.put(b"b", b"2")
    mine = viewed(log="/log")  # a read-only handle cannot wait for an fsync
    mine.catch_up()
    mine.close()
    kept = {p: data for p, data in files.contents().items() if p.startswith("/view")}
    for grown in (0, 1, 5):
        later = MemoryFiles()
        for path, data in {**durable, **kept}.items():
            if not later.is_directory(path.rpartition("/")[0]):
                later.make_directory(path.rpartition("/")[0])
            later.put_file(path, data)
        with Wal.open("/log", files=later, **LOG) as wal:
            for _ in range(grown):
                wal.put(b"c", b"2")
            with View("/log", "/view", counts, files=later) as mine:
                assert mine.catch_up() == mine.view["n"] == 1 + grown
                assert len(mine.trouble) == 1


def test_a_value_that_is_no_json_is_damage(wal, viewed):
    mine = viewed()
    mine._fold.append([(b"vx", b"{broken")])
    with pytest.raises(DamageError, match="rebuild"):
        mine.check()
