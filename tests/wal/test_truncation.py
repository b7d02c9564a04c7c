"""Truncation at both ends: whole, durable, crash-safe, and positions are never reused (D11)."""

import errno
import itertools
import random

import pytest

from tests._logs import contents, fill, pairs, told
from treering import DiskFullError, FsyncPolicy, PositionError, PrunedError
from treering.testing import FaultyFiles, MemoryFiles, PowerCutFiles

# --- Before a position --------------------------------------------------------------------------


def test_truncation_removes_whole_segments_before_the_position(log):
    wal = log.open()
    fill(wal, 200)
    bases = [int(name[:20]) for name in log.segments()]
    for position in (0, 1, bases[1] - 1, bases[1], bases[1] + 1, bases[3], 150):
        expected = max(base for base in bases if base <= position)
        assert wal.truncate_before(position) == wal.first_position == expected
        assert int(log.segments()[0][:20]) == expected
        assert contents(wal) == told(expected, 200)
        wal.check()


def test_truncation_before_is_there_after_any_death(log):
    wal = log.open()
    fill(wal, 200)
    first = wal.truncate_before(130)
    log.kill()
    wal = log.open()
    assert wal.first_position == first
    assert contents(wal) == told(first, 200)
    wal.close()
    wal = log.open()
    assert wal.first_position == first
    assert contents(wal) == told(first, 200)


def test_truncation_before_the_end_leaves_an_empty_log_that_goes_on(log):
    """D11: positions are not reused, also after a restart of the empty log."""
    wal = log.open()
    for end, death in zip((60, 61, 120), ("close", "kill", "close"), strict=True):
        fill(wal, end - wal.current_position())
        assert wal.truncate_before(end) == end == wal.first_position == wal.current_position()
        assert contents(wal) == []
        assert len(log.segments()) == 1
        assert wal.durable_position == end
        wal.check()
        with pytest.raises(PrunedError):
            wal.read(end - 1)
        if death == "kill":
            log.kill()
        else:
            wal.close()
        wal = log.open()
        assert wal.first_position == wal.current_position() == end
    fill(wal, 5)
    assert contents(wal) == told(120, 125)


def test_truncation_of_nothing_changes_nothing(log):
    wal = log.open()
    assert wal.truncate_before(0) == 0
    wal.truncate_after(0)
    fill(wal, 100)
    first = wal.truncate_before(50)
    assert wal.truncate_before(50) == wal.truncate_before(0) == first
    wal.truncate_after(100)
    assert contents(wal) == told(first, 100)


def test_what_is_not_there_cannot_be_truncated(log):
    wal = log.open()
    fill(wal, 100)
    first = wal.truncate_before(60)
    for call in (
        lambda: wal.truncate_before(101),
        lambda: wal.truncate_after(101),
        lambda: wal.truncate_after(first - 1),
    ):
        with pytest.raises(PositionError) as caught:
            call()
        assert caught.value.position in (101, first - 1)
    assert contents(wal) == told(first, 100)


def test_every_handle_sees_truncation_at_once(shared):
    wal, other = shared.open(), shared.open()
    fill(wal, 200)
    list(other)
    first = wal.truncate_before(120)
    assert other.first_position == first
    with pytest.raises(PrunedError):
        other.read(first - 1)
    assert other.stats()["segments"] == len(shared.segments())
    other.truncate_after(150)
    assert wal.current_position() == 150
    assert wal.put(*pairs(150, 151)[0]) == 150
    assert contents(wal) == contents(other) == told(first, 151)


def test_truncation_is_durable_when_it_returns(memory):
    """After a power cut at once, too: nothing comes back, nothing else is missing."""
    memory.files = PowerCutFiles()
    wal = memory.open()
    fill(wal, 200)
    wal.sync()
    first = wal.truncate_before(100)
    cut = memory.files.cut()
    wal.truncate_after(150)
    for files, end in ((cut, 200), (memory.files.cut(), 150)):
        again = memory.open(files=files)
        assert (again.first_position, again.current_position()) == (first, end)
        assert contents(again) == told(first, end)


# --- After a position ---------------------------------------------------------------------------


def replaced(wal, cut, count):
    """What is in the log when `count` records were put in place of those from `cut` on."""
    new = [(b"new-%d" % n, b"") for n in range(cut, cut + count)]
    for key, value in new:
        wal.put(key, value)
    return [*told(wal.first_position, cut), *((cut + n, *pair) for n, pair in enumerate(new))]


@pytest.mark.parametrize("death", ["none", "close", "kill"])
@pytest.mark.parametrize("cut", [0, 1, 30, 61, 62, 63, 93, 99, 100])
def test_what_is_cut_is_gone_and_its_positions_are_given_again(few, cut, death):
    wal = few.open()
    fill(wal, 100)
    wal.truncate_after(cut)
    assert wal.current_position() == cut
    assert contents(wal) == contents(wal.read_from(0)) == told(0, cut)
    assert contents(wal.read_backwards()) == told(0, cut)[::-1]
    with pytest.raises(PositionError):
        wal.read(cut)
    wal.check()
    wal = _after(death, few, wal)
    assert contents(wal) == told(0, cut)
    expected = replaced(wal, cut, 50)
    assert contents(wal) == expected
    wal = _after(death, few, wal)
    assert contents(wal) == expected
    assert contents(wal.read_backwards()) == expected[::-1]
    assert contents([wal.read(n) for n in range(cut + 50)]) == expected
    wal.check()
    assert contents(few.open(read_only=True)) == expected


def _after(death, log, wal):
    if death == "none":
        return wal
    if death == "kill":
        log.kill()
    else:
        wal.close()
    return log.open()


@pytest.mark.parametrize("death", ["none", "close", "kill"])
@pytest.mark.parametrize("cut", range(10, 21))
def test_a_batch_can_be_cut_in_the_middle(few, cut, death):
    """Batches are atomic across crashes; truncation is told exactly where to cut."""
    wal = few.open()
    fill(wal, 10)
    wal.append_batch(pairs(10, 20))
    fill(wal, 5)
    wal.truncate_after(cut)
    wal = _after(death, few, wal)
    assert contents(wal) == told(0, cut)
    expected = replaced(wal, cut, 3)
    wal = _after(death, few, wal)
    assert contents(wal) == expected
    assert contents(wal.read_backwards()) == expected[::-1]
    for position in range(cut + 3):
        assert contents([wal.read(position)]) == expected[position : position + 1]
        assert contents(wal.read_from(position)) == expected[position:]
    wal.check()


@pytest.mark.parametrize("cut", [0, 10, 31, 62])
def test_a_record_acknowledged_after_a_cut_is_durable(memory, cut):
    """D2: the fsync goes to the file that has the name now, not to the one that had it."""
    memory.files = PowerCutFiles()
    wal = memory.open(fsync_policy=FsyncPolicy.ALWAYS)
    other = memory.open(fsync_policy=FsyncPolicy.ALWAYS)
    fill(wal, 70)
    other.put(*pairs(70, 71)[0])
    wal.truncate_after(cut)
    for handle, count in ((wal, 1), (other, 2)):
        assert handle.put(b"acknowledged", b"") == cut + count - 1
        assert handle.durable_position == cut + count
        found = contents(memory.open(files=memory.files.cut()))
        assert found[cut:] == [(cut + n, b"acknowledged", b"") for n in range(count)]
        assert found[:cut] == told(0, cut)


@pytest.mark.parametrize("cut", [0, 10, 31, 62])
def test_another_handle_appends_after_a_cut(shared, cut):
    """Also when the cut is where its own tail begins, so that another file has the name now."""
    wal, other = shared.open(), shared.open()
    for handle, cutter in itertools.islice(itertools.cycle([(wal, other), (other, wal)]), 4):
        fill(handle, 70 - handle.current_position())
        list(handle)
        handle.read(69)
        cutter.truncate_after(cut)
        expected = replaced(handle, cut, 3)
        assert contents(handle) == contents(cutter) == expected
        assert [handle.read(n).key for n in range(cut, cut + 3)] == [
            k for _, k, _ in expected[cut:]
        ]
        handle.truncate_after(cut)
        handle.check()
        cutter.check()


def test_cuts_may_follow_one_another(few):
    wal = few.open()
    fill(wal, 150)
    for cut in (149, 100, 99, 62, 62, 31, 5):
        wal.truncate_after(cut)
        wal.check()
        assert contents(wal) == told(0, cut)
        fill(wal, 2)
        assert contents(wal) == told(0, cut + 2)
    few.kill()
    assert contents(few.open()) == told(0, 7)


def test_both_ends_may_be_truncated_in_turn(few):
    rng = random.Random(1)
    wal = few.open()
    first, end = 0, 0
    for turn in range(60):
        fill(wal, rng.randrange(60))
        end = wal.current_position()
        first = wal.truncate_before(rng.randint(first, end))
        end = rng.randint(max(first, end - 30), end)
        wal.truncate_after(end)
        assert (wal.first_position, wal.current_position()) == (first, end)
        assert contents(wal) == told(first, end)
        if turn % 10 == 5:
            wal.close()
            wal = few.open()
        elif turn % 10 == 9:
            few.kill()
            wal = few.open()
        wal.check()
        assert contents(wal) == told(first, end)


def test_a_cut_that_is_waited_for_is_durable_or_gone(memory):
    """A wait for a record that is cut meanwhile ends: it was durable before it was removed."""
    wal, other = memory.open(), memory.open()
    fill(wal, 10)
    commit = wal._engine.commit
    other.truncate_after(3)
    commit.wait(9, timeout=5)
    assert wal.durable_position == 3


# --- A full disk --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["memory", "btrfs"])
def test_both_ends_can_be_truncated_on_a_full_disk(memory, kind):
    """D7: that is how space is made; and appends go on, without reopening, once there is some."""
    memory.files = MemoryFiles(kind)
    wal = memory.open()
    fill(wal, 300)
    memory.files.capacity_bytes = memory.files.used_bytes
    with pytest.raises(DiskFullError):
        fill(wal, 1000)
    end = wal.current_position()
    assert contents(wal) == told(0, end)
    wal.truncate_after(250)
    assert contents(wal) == told(0, 250)
    first = wal.truncate_before(100)
    assert contents(wal) == told(first, 250)
    fill(wal, 20)
    assert contents(wal) == told(first, 270)
    memory.files.capacity_bytes = None
    fill(wal, 200)
    assert contents(wal) == told(first, 470)
    memory.kill()
    assert contents(memory.open()) == told(first, 470)


# --- Crashes in the middle ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["memory", "btrfs"])
@pytest.mark.parametrize("cut", [0, 31, 45])
def test_a_death_anywhere_in_a_cut_leaves_all_or_nothing_cut(memory, kind, cut):
    for images in _deaths(memory, kind, lambda wal: wal.truncate_after(cut)):
        wal = memory.open(files=images)
        assert wal.current_position() in (cut, 100)
        assert contents(wal) == told(0, wal.current_position())
        end = wal.current_position()
        fill(wal, 2)
        wal.check()
        assert contents(memory.open(files=images, read_only=True)) == told(0, end + 2)


@pytest.mark.parametrize("kind", ["memory", "btrfs"])
@pytest.mark.parametrize("position", [50, 100])
def test_a_death_anywhere_in_truncation_leaves_the_rest_whole(memory, kind, position):
    for images in _deaths(memory, kind, lambda wal: wal.truncate_before(position)):
        wal = memory.open(files=images)
        assert wal.current_position() == 100
        assert wal.first_position <= position
        assert contents(wal) == told(wal.first_position, 100)
        fill(wal, 2)
        wal.check()


def _deaths(memory, kind, action):
    """What is left when every process dies after each operation of the action."""
    memory.files = MemoryFiles(kind)
    wal = memory.open()
    fill(wal, 100)
    left = []
    memory.files.on_operation = lambda name, path: left.append(memory.files.crash())
    action(wal)
    memory.files.on_operation = None
    assert len(left) > 10
    return left


@pytest.mark.parametrize("action", ["truncate_before", "truncate_after"])
def test_a_failing_call_in_truncation_loses_nothing_that_stays(memory, action):
    """Every call fails once: what truncation was not asked to remove is there afterwards."""
    for nth in itertools.count(1):
        files = FaultyFiles(MemoryFiles())
        wal = memory.open(files=files)
        fill(wal, 100)
        wal._engine.writer.chores.stop()
        fault = files.fail(nth=nth, number=errno.EIO)
        try:
            getattr(wal, action)(70)
            failed = False
        except Exception as error:
            failed = True
            assert type(error).__module__.startswith("treering"), repr(error)
        files.heal()
        if not fault.hits:
            assert not failed
            break
        wal = memory.open(files=files.inner.crash())
        first, end = wal.first_position, wal.current_position()
        assert contents(wal) == told(first, end)
        assert first <= 70 <= end
        fill(wal, 1)
        wal.check()
    assert nth > 5
