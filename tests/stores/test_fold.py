"""The fold: a state that follows a log, its snapshots, and what is left when one of them is bad."""

from __future__ import annotations

import gc
import random
import threading
import time
import weakref
import zlib

import pytest

from treering import (
    ClosedError,
    DamageError,
    FsyncPolicy,
    Label,
    PositionError,
    PrunedError,
    Record,
    ReentrantError,
    RewoundError,
    UsageError,
    VersionError,
    Wal,
    repair,
    verify,
)
from treering.fold import Fold, Overlay
from treering.testing import MemoryFiles

OPTIONS = {"fsync_policy": FsyncPolicy.OS, "segment_bytes_max": 4096, "checkpoint_bytes": None}


class Totals:
    """Sums by key."""

    label = b"totals 1"

    def __init__(self):
        self.sums = {}

    def apply(self, record):
        self.sums[record.key] = self.sums.get(record.key, 0) + int(record.value)

    def dump(self):
        return (Record(key, b"%d" % value) for key, value in self.sums.items())

    def load(self, record):
        self.sums[record.key] = int(record.value)

    def copy(self):
        other = type(self)()
        other.sums = self.sums.copy()
        return other


def opened(files, **options):
    return Fold("/log", Totals, files=files, **{**OPTIONS, **options})


def add(fold, count, key=b"a"):
    for _ in range(count):
        fold.wal.put(key, b"1")


def test_a_query_sees_what_anybody_appended(files):
    with opened(files) as fold, opened(files) as other:
        add(fold, 3)
        add(other, 2)
        assert fold.state().sums == other.state().sums == {b"a": 5}
        assert fold.position == 5


def test_who_appends_quicker_than_others_read_keeps_no_query_waiting(files):
    """A query returns with what was there when it was asked."""
    other = opened(files)

    class Overtaken(Totals):
        def apply(self, record):
            super().apply(record)
            if self.sums[b"a"] < 500:
                other.wal.put(b"a", b"1")

    with other, Fold("/log", Overtaken, files=files, **OPTIONS) as fold:
        add(other, 3)
        assert 3 <= fold.state().sums[b"a"] < 10


def test_a_batch_that_grew_over_a_cut_is_taken_in_whole(files):
    """The end that a query asked for may lie within it."""
    with opened(files) as fold, opened(files) as other:
        add(fold, 10)
        fold.state()
        add(other, 10)
        asked = fold.wal.current_position

        def cut_after_this():
            fold.wal.current_position = asked
            end = asked()
            other.wal.truncate_after(15)
            other.wal.append_batch([Record(b"a", b"1")] * 10)
            return end

        fold.wal.current_position = cut_after_this
        fold.catch_up()
        assert (fold.position, fold.current.sums) == (25, {b"a": 25})


def test_a_command_is_decided_on_the_newest_state_only(files):
    """Somebody is faster: it is asked again, with what came in between."""
    with opened(files) as fold, opened(files) as other:
        seen = []

        def decide(state):
            seen.append(dict(state.sums))
            if len(seen) == 1:
                other.wal.put(b"a", b"10")
            return [(b"a", b"%d" % (state.sums.get(b"a", 0) + 1))]

        assert fold.command(decide) == range(1, 2)
        assert seen == [{}, {b"a": 10}]
        assert other.state().sums == {b"a": 21}


def test_a_command_may_refuse_or_want_nothing(files):
    with opened(files) as fold:
        assert fold.command(lambda state: []) == range(0)
        with pytest.raises(ZeroDivisionError):
            fold.command(lambda state: 1 / 0)
        assert fold.wal.current_position() == 0


def test_threads_that_command_lose_no_update(files):
    with opened(files) as fold, opened(files) as other:

        def work(one):
            for _ in range(50):
                one.command(lambda state: [(b"n", b"1")])

        threads = [threading.Thread(target=work, args=(one,)) for one in (fold, other) * 2]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert fold.state().sums == {b"n": 200}


def test_a_checkpoint_removes_what_is_not_needed_and_opening_reads_the_rest(files):
    with opened(files) as fold:
        add(fold, 500)
        assert fold.checkpoint() == 500
        assert fold.wal.first_position == 0  # one snapshot alone proves little
        add(fold, 100)
        assert fold.checkpoint() == 600
        assert 0 < fold.wal.first_position <= 500
        add(fold, 7)
        assert fold.wal.snapshots.positions() == [600, 500]
        fold.checkpoint()
        assert fold.wal.snapshots.positions() == [607, 600]
        fold.check()
    with opened(files) as fold:
        assert fold.state().sums == {b"a": 607}
        assert fold.trouble == []


def test_a_checkpoint_of_the_same_position_changes_nothing(files):
    with opened(files) as fold:
        add(fold, 5)
        assert fold.checkpoint() == fold.checkpoint() == 5
        assert fold.wal.snapshots.positions() == [5]


def test_a_damaged_snapshot_falls_back_to_the_one_before(files):
    with opened(files) as fold:
        add(fold, 500)
        fold.checkpoint()
        add(fold, 100)
        fold.checkpoint()
        add(fold, 3)
    for name in ("/log/00000000000000000600.snap", "/log/00000000000000000500.snap"):
        data = bytearray(files.contents()[name])
        data[len(data) // 2] ^= 1
        files.put_file(name, bytes(data))
        if name.endswith("600.snap"):
            with opened(files) as fold:
                assert fold.state().sums == {b"a": 603}
                assert "damaged" in fold.trouble[0]
    with pytest.raises(DamageError) as caught:
        opened(files)
    assert caught.value.hint


@pytest.mark.parametrize("length", range(0, 400, 7))
def test_a_snapshot_that_ends_early_is_never_taken_for_whole(files, length):
    with opened(files) as fold:
        for number in range(4):
            fold.wal.put(b"key-%d" % number, b"5")
        fold.checkpoint()
    name = "/log/00000000000000000004.snap"
    whole = files.contents()[name]
    files.put_file(name, whole[: min(length, len(whole) - 1)])
    with opened(files) as fold:
        assert len(fold.state().sums) == 4
        assert len(fold.trouble) == 1


def test_another_stores_snapshot_is_not_loaded(files):
    class Others(Totals):
        label = b"others 1"

    with opened(files) as fold:
        add(fold, 4)
        fold.checkpoint()
    with Fold("/log", Others, files=files, **OPTIONS) as fold:
        assert fold.state().sums == {b"a": 4}  # from the log, which is still whole
        assert "totals" in fold.trouble[0]


def test_who_was_overtaken_by_a_checkpoint_takes_its_snapshot(files):
    with opened(files) as fold, opened(files) as slow:
        add(fold, 500)
        assert slow.state().sums == {b"a": 500}
        for _ in range(3):
            add(fold, 500)
            fold.checkpoint()
        assert fold.wal.first_position > 500
        assert slow.state().sums == {b"a": 2000}
        assert slow.position == 2000


def test_the_state_at_a_position_and_a_time(files):
    with opened(files) as fold:
        add(fold, 500)
        fold.checkpoint()
        add(fold, 100)
        moment = fold.wal.read(550).timestamp
        assert fold.at(position=0).sums == {}
        assert fold.at(position=499).sums == {b"a": 499}
        assert fold.at(position=560).sums == {b"a": 560}
        assert fold.at(time=moment).sums[b"a"] <= 550
        with pytest.raises(PositionError):
            fold.at(position=601)
        with pytest.raises(UsageError):
            fold.at()
        fold.checkpoint()
        add(fold, 100)
        fold.checkpoint()
        with pytest.raises(PrunedError):
            fold.at(position=10)


def test_truncate_after_takes_snapshots_of_what_is_gone(files):
    with opened(files) as fold:
        add(fold, 10)
        fold.checkpoint()
        fold.wal.truncate_after(5)
        assert fold.wal.snapshots.positions() == []
    with opened(files) as fold:
        assert fold.state().sums == {b"a": 5}


def test_the_background_makes_checkpoints(files):
    with opened(files, checkpoint_bytes=1000) as fold:
        for _ in range(200):
            add(fold, 10)
            fold.state()
        fold.close()
    with opened(files) as fold:
        assert fold.wal.snapshots.positions()
        assert fold.state().sums == {b"a": 2000}


def test_under_always_what_is_commanded_is_durable(files):
    with opened(files, fsync_policy=FsyncPolicy.ALWAYS) as fold:
        positions = fold.command(lambda state: [(b"a", b"1")])
        assert fold.wal.durable_position > positions[-1]
        fold.append([(b"a", b"1")])
        assert fold.wal.durable_position == 2


def test_a_bad_limit_is_refused(files):
    with pytest.raises(UsageError):
        opened(files, checkpoint_bytes=0)


# --- what may not happen to a snapshot ---


def damaged_at(files, position):
    """Flip a byte of the record at that position, in the log of `files`."""
    with Wal.open("/log", files=files, read_only=True) as wal:
        record = wal.read(position)
    for name, data in files.contents().items():
        if name.endswith(".seg") and (at := data.find(b"%s%s" % (record.key, record.value))) >= 0:
            files.put_file(name, data[:at] + b"?" + data[at + 1 :])


@pytest.mark.parametrize("copy", [True, False])
def test_repair_keeps_the_snapshots_that_still_hold(files, copy):
    with opened(files) as fold:
        for number in range(300):
            fold.wal.put(b"key-%03d" % number, b"1")
            if number in (100, 250):
                fold.checkpoint()
    damaged_at(files, 200)
    report = repair("/log", files=files, into="/copy" if copy else None)
    assert any("251.snap" in action for action in report.actions)
    names = [name for name in files.contents() if name.endswith(".snap")]
    path = "/copy" if copy else "/log"
    assert [name for name in names if name.startswith(path)] == [f"{path}/{101:020d}.snap"]
    with Fold(path, Totals, files=files, **OPTIONS) as fold:
        assert len(fold.state().sums) == fold.position == report.end >= 101
        fold.check()


def test_a_snapshot_of_another_log_is_refused(files):
    with opened(files) as fold:
        add(fold, 5)
        fold.checkpoint()
    name = "/log/00000000000000000005.snap"
    foreign = files.contents()[name]
    other = MemoryFiles()
    with opened(other) as fold:
        add(fold, 5, b"b")
    other.put_file(name, foreign)
    other.put_file("/log/00000000000000000003.snap", foreign)
    with opened(other) as fold:
        assert fold.state().sums == {b"b": 5}
        assert len(fold.trouble) == 2


def test_a_snapshot_of_a_newer_version_is_left_untouched(files):
    with opened(files) as fold:
        add(fold, 5)
        fold.checkpoint()
    name = "/log/00000000000000000005.snap"
    data = bytearray(files.contents()[name])
    data[8] = 9
    data[60:64] = zlib.crc32(data[:60]).to_bytes(4, "little")
    files.put_file(name, bytes(data))
    with pytest.raises(VersionError):
        opened(files)
    assert files.contents()[name] == bytes(data)


def test_a_snapshot_is_no_segment(files):
    """Under a segment's name its frames are not the log's."""
    with opened(files) as fold:
        add(fold, 5)
        fold.checkpoint()
    snapshot = files.contents()["/log/00000000000000000005.snap"]
    files.put_file("/log/00000000000000000005.seg", snapshot)
    with pytest.raises(DamageError):
        opened(files)


def test_a_snapshot_must_not_know_more_than_the_log_durably_holds(files):
    with opened(files) as fold:
        add(fold, 5)
        with pytest.raises(PositionError, match="not durable"):
            fold.wal.snapshots.write(5, Totals.label, [])
        fold.wal.sync()
        with pytest.raises(PositionError):
            fold.wal.snapshots.write(6, Totals.label, [])
        fold.wal.truncate_after(3)
        add(fold, 5)
        fold.wal.sync()
        with pytest.raises(RewoundError):
            fold.wal.snapshots.write(5, Totals.label, [], rewinds=0)
        assert fold.wal.snapshots.positions() == []
        assert not [name for name in files.contents() if ".snap" in name]


def test_the_log_is_not_cut_below_its_only_snapshots(files):
    with opened(files) as fold:
        for _ in range(3):
            add(fold, 500)
            fold.checkpoint()
        first = fold.wal.first_position
        assert first > 0
        with pytest.raises(PositionError, match="only snapshots"):
            fold.wal.truncate_after(first + 1)
        assert fold.wal.truncate_before(fold.wal.current_position()) <= 1500
        fold.check()


def test_a_snapshot_that_the_log_does_not_go_on_from_is_not_used(files):
    """It ended in an error, not in a loop."""
    with opened(files) as fold:
        for _ in range(4):
            add(fold, 300)
            fold.checkpoint()
    old = "/log/00000000000000000005.snap"
    files.put_file(old, files.contents()["/log/00000000000000000900.snap"])
    for name in ("00000000000000000900", "00000000000000001200"):
        files.remove(f"/log/{name}.snap")
    with pytest.raises(DamageError, match="begins later"):
        opened(files)


def test_an_interrupt_while_the_state_changes_costs_a_reload_and_no_record(files):
    class Interrupted(Totals):
        left = 7

        def apply(self, record):
            super().apply(record)
            Interrupted.left -= 1
            if Interrupted.left == 0:
                raise KeyboardInterrupt

    with Fold("/log", Interrupted, files=files, **OPTIONS) as fold:
        add(fold, 20)
        with pytest.raises(KeyboardInterrupt):
            fold.state()
        assert fold.state().sums == {b"a": 20}


def test_a_signal_handler_inside_a_change_is_told_so(files):
    caught = []

    class Calling(Totals):
        def apply(self, record):
            try:
                fold.state()
            except ReentrantError as error:
                caught.append(error)
            super().apply(record)

    with Fold("/log", Calling, files=files, **OPTIONS) as fold:
        add(fold, 3)
        assert fold.state().sums == {b"a": 3}
    assert len(caught) == 3


def test_a_cut_that_is_grown_over_is_noticed(files):
    with opened(files) as fold, opened(files) as other:
        add(other, 10)
        assert fold.state().sums == {b"a": 10}
        other.wal.truncate_after(4)
        assert fold.state().sums == {b"a": 4}
        other.wal.truncate_after(2)
        add(other, 2, b"b")
        assert fold.state().sums == other.state().sums == {b"a": 2, b"b": 2}


def test_checkpoints_by_records_and_by_time(files):
    with opened(files, checkpoint_records=100) as fold:
        for _ in range(30):
            add(fold, 10)
            fold.state()
        until = time.monotonic() + 10
        while not fold.wal.snapshots.positions() and time.monotonic() < until:
            time.sleep(0.01)
        assert fold.wal.snapshots.positions()
    timed = MemoryFiles()
    with opened(timed, checkpoint_seconds=0.01) as fold:
        add(fold, 10)
        fold.state()
        until = time.monotonic() + 10
        while not fold.wal.snapshots.positions() and time.monotonic() < until:
            time.sleep(0.01)
        assert fold.wal.snapshots.positions() == [10]
        assert fold.trouble == []


def test_a_checkpoint_that_fails_leaves_all_as_it_was(files):
    class Broken(Totals):
        def dump(self):
            yield from super().dump()
            raise ZeroDivisionError

    with Fold("/log", Broken, files=files, **OPTIONS) as fold:
        add(fold, 10)
        with pytest.raises(ZeroDivisionError):
            fold.checkpoint()
        assert not [name for name in files.contents() if ".snap" in name]
        assert fold.state().sums == {b"a": 10}


def test_only_one_kind_of_fold_makes_checkpoints_of_a_log(files):
    class Others(Totals):
        label = b"others 1"

    with opened(files) as fold:
        add(fold, 5)
        fold.checkpoint()
    with Fold("/log", Others, files=files, **OPTIONS) as fold, pytest.raises(UsageError):
        fold.checkpoint()


def test_a_forgotten_fold_can_be_collected(files):
    fold = opened(files, checkpoint_seconds=1000)
    add(fold, 3)
    fold.state()
    known = weakref.ref(fold)
    del fold
    gc.collect()
    assert known() is None


# --- Own records are not read back; waiting; states that leave data in the log -------------------


def test_own_records_are_taken_in_as_they_are_read_back(tmp_path):
    seen = {"own": [], "read": []}

    class Noting(Totals):
        def __init__(self, into="own"):
            super().__init__()
            self.into = into

        def apply(self, record):
            seen[self.into].append(record)
            super().apply(record)

    with Fold(tmp_path / "log", Noting, fsync_policy=FsyncPolicy.OS) as fold:
        fold.append([(b"a", b"1"), Record(b"b", b"2", headers={"h": b"x"}, stream=3)])
        fold.command(lambda state: [Record(b"c", b"3", expires_at=2e9), Record.put(b"d", b"4")])
        with Fold(tmp_path / "log", lambda: Noting("read"), fsync_policy=FsyncPolicy.OS):
            pass
        assert seen["own"] == seen["read"]
        assert [record.position for record in seen["own"]] == [0, 1, 2, 3]
        assert fold.position == 4
        fold.wal.put(b"e", b"5")  # not through the fold: what it appends next has to wait
        fold.append([(b"f", b"6")])
        assert fold.state().sums[b"e"] == 5
        assert [record.position for record in seen["own"]] == list(range(6))


def test_waiting_ends_with_the_next_record_or_the_time(files):
    with opened(files) as fold, opened(files) as other:
        began = time.monotonic()
        assert not fold.wait(0.05)
        assert time.monotonic() - began < 5
        other.append([(b"a", b"1")])
        assert fold.wait(0)
        assert fold.wait()
        fold.catch_up()
        assert not fold.wait(0)
        thread = threading.Thread(target=lambda: other.append([(b"a", b"1")]))
        thread.start()
        assert fold.wait(30)
        thread.join()
        fold.catch_up()
        threading.Timer(0.05, fold.close).start()
        with pytest.raises(ClosedError):
            fold.wait()


def test_a_checkpoint_keeps_what_the_state_needs(tmp_path):
    class Needing(Totals):
        def oldest_needed(self):
            return 3

    options = {"segment_bytes_max": 1024, "fsync_policy": FsyncPolicy.OS, "checkpoint_bytes": None}
    with Fold(tmp_path / "log", Needing, **options) as fold:
        for _ in range(3):
            for _ in range(50):
                fold.append([(b"a", b"1")])
            fold.checkpoint()
        assert fold.wal.first_position <= 3
        assert fold.wal.read(3).key == b"a"
        fold.check()
    with Fold(tmp_path / "log", Totals, **options) as fold:
        fold.append([(b"a", b"1")])
        fold.checkpoint()
        assert fold.wal.first_position > 3


def test_an_overlay_is_a_dict_over_another_one():
    below = {1: "a", 2: "b", 3: None}
    over, model = Overlay(below), dict(below)
    rng = random.Random(1)
    for _ in range(500):
        key = rng.randrange(6)
        if rng.random() < 0.5:
            over[key] = model[key] = rng.choice(("x", None))
        else:
            assert over.pop(key, "none") == model.pop(key, "none")
        assert dict(over) == model
        assert len(over) == len(model)
        assert bool(over) == bool(model)
        assert sorted(over) == sorted(model)
    assert below == {1: "a", 2: "b", 3: None}
    with pytest.raises(KeyError):
        del over[99]


def test_a_half_written_snapshot_that_another_process_removes_is_written_again(tmp_path):
    """Who recovers the log removes leftovers, and cannot tell the living ones' from the dead's."""
    removed = []

    class Swept(Totals):
        def dump(self):
            if len(removed) < 3:
                removed.extend(tmp_path.glob("*.snap.*.tmp"))
                removed[-1].unlink()
            yield from super().dump()

    with Fold(tmp_path, Swept, **OPTIONS) as fold:
        add(fold, 10)
        assert fold.checkpoint() == 10
        assert (len(removed), fold.stats()["snapshots"]) == (3, [10])
        assert list(tmp_path.glob("*.tmp")) == []


def test_a_wait_is_for_what_the_caller_has_not_seen(tmp_path):
    """Another thread's call may have caught up between the look and the wait."""
    with Fold(tmp_path / "log", Totals, fsync_policy=FsyncPolicy.OS) as fold:
        seen = fold.position
        fold.append([(b"a", b"1")])
        assert fold.position > seen
        assert fold.wait(0, position=seen)
        assert not fold.wait(0) and not fold.wait(0, position=fold.position)


def test_verify_reads_the_snapshots_too(tmp_path):
    with Fold(tmp_path, Totals, **OPTIONS) as fold:
        add(fold, 50)
        fold.checkpoint()
        add(fold, 50)
        fold.checkpoint()
    report = verify(tmp_path)
    assert report.ok
    labels = [finding.label for finding in report.findings if finding.path.endswith(".snap")]
    assert labels == [Label.SNAPSHOT, Label.SNAPSHOT]
    newest = sorted(tmp_path.glob("*.snap"))[-1]
    data = bytearray(newest.read_bytes())
    data[-20] ^= 1
    newest.write_bytes(data)
    report = verify(tmp_path)
    assert [(f.label, f.path) for f in report.damage] == [(Label.DAMAGED_SNAPSHOT, str(newest))]
    assert report.damage[0].detail
    with Fold(tmp_path, Totals, **OPTIONS) as fold:  # the one before takes its place
        assert fold.stats()["trouble"]
        fold.checkpoint()
    assert verify(tmp_path).ok
