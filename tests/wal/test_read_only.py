"""Reading without a trace: read-only handles write nothing, need nothing, see everything (G17)."""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile

import pytest

from tests._logs import contents, fill, told
from treering import (
    DamageError,
    FsyncPolicy,
    PositionError,
    PrunedError,
    ReadOnlyError,
    Record,
    RewoundError,
    Wal,
)
from treering.testing import FaultyFiles, MemoryFiles, PowerCutFiles

# What a read-only handle may ask of the operating system.
HARMLESS = {
    "open",
    "close",
    "status",
    "read_into",
    "next_data",
    "list_directory",
    "is_directory",
    "file_system",
    "boot_id",
    "map",
}

WRITES = {
    "put": lambda wal: wal.put(b"k", b"v"),
    "delete": lambda wal: wal.delete(b"k"),
    "append": lambda wal: wal.append(Record.put(b"k", b"v")),
    "append_batch": lambda wal: wal.append_batch([(b"k", b"v")]),
    "append_batch of none": lambda wal: wal.append_batch([]),
    "batch": lambda wal: wal.batch().__enter__(),
    "sync": lambda wal: wal.sync(),
    "wait_durable": lambda wal: wal.wait_durable(0),
    "truncate_before": lambda wal: wal.truncate_before(0),
    "truncate_after": lambda wal: wal.truncate_after(1),
    "apply_retention": lambda wal: wal.apply_retention(),
    "pin": lambda wal: wal.pin("a", 0),
    "unpin": lambda wal: wal.unpin("a"),
}


def use_everything(wal):
    """Every call that a read-only handle has."""
    list(wal)
    list(wal.read_from(wal.first_position, follow=True, timeout=0))
    list(wal.read_from(durable_only=True, copy=False))
    list(wal.read_backwards())
    end = wal.current_position()
    if end > wal.first_position:
        wal.read(end - 1)
    wal.read_from(time=5).close()
    wal.check()
    return wal.stats(), wal.pins(), wal.recovery, wal.log_id, wal.flush(), wal.durable_position


def harmless(call):
    return call.name in HARMLESS and not call.modifies and not call.write


@pytest.mark.parametrize("state", ["closed", "killed", "open", "torn", "truncated", "cut"])
def test_every_call_of_a_read_only_handle_leaves_no_trace(log, state):
    """Of all calls to the operating system none writes, makes, renames, removes or locks."""
    wal = log.open()
    fill(wal, 100)
    wal.pin("consumer", 3)
    if state == "truncated":
        wal.unpin("consumer")
        wal.truncate_before(60)
    if state == "cut":
        wal.truncate_after(50)
    if state == "closed":
        wal.close()
    elif state != "open":
        log.kill()
    else:
        wal._engine.writer.chores.stop()
    if state == "torn":
        tear(log)
    before = log.image()
    faulty = FaultyFiles(log.files)
    quiet = log.open(files=faulty, read_only=True)
    first, end = quiet.first_position, quiet.current_position()
    assert contents(quiet) == told(first, end)
    use_everything(quiet)
    quiet.close()
    assert [call for call in faulty.calls if not harmless(call)] == []
    assert log.image() == before


def tear(log):
    """Garbage where the next frame would be."""
    name = log.segments()[-1]
    at = len(log.get(name).rstrip(b"\0"))
    at += -at % log.options.get("frame_align_bytes", 8)
    log.patch(name, at, b"garbage!")


def test_a_read_only_handle_works_where_every_write_is_refused(log):
    """As on a read-only file system."""
    wal = log.open()
    fill(wal, 100)
    log.kill()
    faulty = FaultyFiles(log.files)
    faulty.fail(lambda call: not harmless(call), lasting=True)
    quiet = log.open(files=faulty, read_only=True)
    assert contents(quiet) == told(0, 100)
    use_everything(quiet)


def test_a_read_only_handle_changes_nothing_and_says_so(either):
    wal = either.open()
    fill(wal, 5)
    quiet = either.open(read_only=True)
    for name, call in WRITES.items():
        with pytest.raises(ReadOnlyError) as caught:
            call(quiet)
        assert caught.value.path, name
    assert contents(quiet) == told(0, 5)


def test_a_read_only_handle_sees_the_writers_records_at_once(log):
    wal = log.open()
    quiet = log.open(read_only=True)
    assert contents(quiet) == []
    for count in range(1, 120):
        fill(wal, 1)
        assert quiet.current_position() == count
        assert contents([quiet.read(count - 1)]) == told(count - 1, count)
        if count % 20 == 0:
            assert contents(quiet) == told(0, count)
    wal.append_batch([(b"k", b"v")] * 50)
    assert quiet.current_position() == 169
    assert len(list(quiet)) == 169


def test_a_read_only_handle_sees_truncation_at_both_ends(log):
    wal = log.open()
    fill(wal, 200)
    quiet = log.open(read_only=True)
    list(quiet)
    first = wal.truncate_before(100)
    assert quiet.first_position == first
    assert contents(quiet) == told(first, 200)
    with pytest.raises(PrunedError):
        quiet.read(first - 1)
    for cut in (150, 149, 120, first):
        wal.truncate_after(cut)
        assert quiet.current_position() == cut
        assert contents(quiet) == contents(quiet.read_from(first)) == told(first, cut)
        with pytest.raises(PositionError):
            quiet.read(cut)
        fill(wal, 20)
        assert contents(quiet) == told(first, cut + 20)
        assert contents(quiet.read_backwards())[::-1] == told(first, cut + 20)
    wal.truncate_before(wal.current_position())
    assert contents(quiet) == []
    assert quiet.first_position == quiet.current_position() == wal.current_position()


def test_a_read_only_handle_needs_no_lock(either):
    """It works beside an exclusive writer, and keeps nobody out."""
    with either.open(exclusive=True) as wal:
        fill(wal, 10)
        quiet = either.open(read_only=True)
        assert contents(quiet) == told(0, 10)
        fill(wal, 10)
        assert contents(quiet) == told(0, 20)
    with either.open(exclusive=True) as wal:
        fill(wal, 10)
        assert contents(quiet) == told(0, 30)


def test_several_writers_in_turn_are_followed(log):
    quiet = None
    for turn in range(1, 6):
        wal = log.open()
        quiet = quiet or log.open(read_only=True)
        fill(wal, 40)
        assert contents(quiet) == told(0, 40 * turn)
        wal.close()
        assert contents(quiet) == told(0, 40 * turn)


def test_a_read_only_handle_of_a_dead_log_shows_what_recovery_will_keep(log):
    """Also a frame whose writer died before it said so: the next writer adopts it."""
    wal = log.open()
    fill(wal, 100)
    log.kill()
    quiet = log.open(read_only=True)
    seen = contents(quiet)
    quiet.close()
    assert seen == contents(log.open()) == told(0, 100)


def test_a_torn_end_is_reported_and_not_shown(log):
    wal = log.open()
    fill(wal, 40)
    log.kill()
    tear(log)
    quiet = log.open(read_only=True)
    assert quiet.recovery.state == "recovered"
    assert contents(quiet) == told(0, 40)
    wal = log.open()
    assert wal.recovery.cut is not None
    fill(wal, 10)
    assert contents(quiet) == contents(wal) == told(0, 50)


def test_a_damaged_log_can_be_read_up_to_the_damage(log):
    """D5: and from there on the damage is what reading says."""
    wal = log.open()
    fill(wal, 200)
    wal.close()
    name = log.segment_of(100)
    end = int(name[:20])
    log.remove(name)
    with pytest.raises(DamageError):
        log.open()
    quiet = log.open(read_only=True)
    assert quiet.recovery.state == "damaged"
    (finding,) = quiet.recovery.damage
    assert finding.positions[0] == end
    assert (quiet.first_position, quiet.current_position()) == (0, end)
    assert contents(quiet.read_from(0, stop=end)) == told(0, end)
    assert contents(quiet.read_backwards()) == told(0, end)[::-1]
    assert contents([quiet.read(end - 1)]) == told(end - 1, end)
    found = []
    with pytest.raises(DamageError):
        found.extend(quiet.read_from(0, follow=True))
    assert contents(found) == told(0, end)
    with pytest.raises(DamageError):
        quiet.check()


def test_durable_only_is_what_the_files_prove(log):
    """A lower bound: the writer's newest sync shows with its next record."""
    wal = log.open()
    fill(wal, 100)
    quiet = log.open(read_only=True)
    known = quiet.durable_position
    assert known <= wal.durable_position
    wal.sync()
    fill(wal, 1)
    assert quiet.durable_position == 100
    assert contents(quiet.read_from(0, durable_only=True)) == told(0, 100)
    wal.close()
    assert quiet.durable_position == 101
    assert log.open(read_only=True).durable_position == 101


def test_nothing_durable_only_shows_is_lost_in_a_power_cut(memory):
    memory.files = PowerCutFiles()
    wal = memory.open(fsync_policy=FsyncPolicy.OS)
    quiet = memory.open(read_only=True)
    for turn in range(60):
        fill(wal, 3)
        if turn % 7 == 3:
            wal.sync()
        if turn == 40:
            wal.truncate_after(80)
        shown = contents(quiet.read_from(0, durable_only=True))
        assert contents(memory.open(files=memory.files.cut()))[: len(shown)] == shown


# --- Beside a writer that is in the middle of something -------------------------------------------

ACTIONS = {
    "append": lambda wal: fill(wal, 1),
    "roll": lambda wal: fill(wal, 40),
    "batch": lambda wal: wal.append_batch([(b"k", b"v" * 100)] * 60),
    "truncate_before": lambda wal: wal.truncate_before(70),
    "truncate_before the end": lambda wal: wal.truncate_before(100),
    "truncate_after": lambda wal: wal.truncate_after(40),
    "truncate_after at a border": lambda wal: wal.truncate_after(62),
    "truncate_after all": lambda wal: wal.truncate_after(0),
    "close": lambda wal: wal.close(),
}


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("kind", ["memory", "btrfs"])
def test_whatever_a_writer_is_doing_opening_read_only_sees_a_log(memory, kind, action):
    """After each of its operations on files: no damage is imagined, nothing durable is missing."""
    files = memory.files = MemoryFiles(kind)
    wal = memory.open()
    fill(wal, 100)
    wal._engine.writer.chores.stop()
    looking, seen = [], []

    def look(name, path):
        if looking:
            return
        looking.append(True)
        with memory.open(read_only=True) as quiet:
            assert quiet.recovery.damage == ()
            first, end = quiet.first_position, quiet.current_position()
            seen.append((first, end))
            quiet.check()
            assert contents(quiet.read_from(first, stop=min(end, 40))) == told(first, min(end, 40))
        looking.clear()

    files.on_operation = look
    ACTIONS[action](wal)
    files.on_operation = None
    assert len(seen) > 3 or action == "append"
    for first, end in seen:
        assert first in (0, seen[-1][0], seen[0][0])
        assert end >= min(100, seen[-1][1])


@pytest.mark.parametrize("action", ACTIONS)
def test_whatever_happens_while_it_opens_a_read_only_handle_sees_a_log(memory, action):
    """The writer acts between two of the reader's own operations: a sample, another per action."""
    opened = MemoryFiles()
    wal = memory.open(files=opened)
    fill(wal, 100)
    wal.close()
    for nth in range(1 + list(ACTIONS).index(action) % 4, 200, 4):
        files = memory.files = opened.crash()
        wal = memory.open()
        wal._engine.writer.chores.stop()
        count, acted = [], []

        def act(name, path, count=count, acted=acted, nth=nth, wal=wal):
            count.append(name)
            if len(count) == nth and not acted:
                acted.append(True)
                ACTIONS[action](wal)

        files.on_operation = act
        with memory.open(read_only=True) as quiet:
            try:
                found = contents(quiet)
            except (PrunedError, RewoundError):  # it may have begun to read before
                found = contents(quiet)
            files.on_operation = None
            if not acted:
                break
            assert quiet.recovery.damage == ()
            quiet.check()
            now = contents(quiet)
        wal.close()
        again = memory.open()
        assert now == contents(again)
        assert found[:30] == told(0, 100)[:30] or found[:1] == now[:1] or found == []
    assert nth > 10


def test_a_handle_opened_in_the_middle_of_a_cut_is_not_stuck_on_it(memory):
    """The cut is decided, the new segment not made yet: what was cut does not come back."""
    files = memory.files = MemoryFiles()
    wal = memory.open(segment_bytes_max=1 << 20)
    for _ in range(400):
        wal.put(b"k", bytes(1000))
    entry = int(wal._engine.kept.get(0).index(400)[2].position)
    wal._engine.writer.chores.stop()  # we look between the operations of one thread
    handles = []

    def look(name, path):
        files.on_operation = None
        handles.append(memory.open(read_only=True))
        found = handles[-1].current_position(), len(list(handles[-1]))
        assert found in ((400, 400), (entry, entry))
        files.on_operation = look

    files.on_operation = look
    wal.truncate_after(entry)
    files.on_operation = None
    fill(wal, 3)
    assert len(handles) > 5
    for quiet in handles:
        assert quiet.current_position() == entry + 3
        assert contents(quiet.read_from(entry)) == contents(wal.read_from(entry))


# --- Real media -----------------------------------------------------------------------------------


@contextlib.contextmanager
def read_only_mount(source):
    """The directory, mounted once more, read-only; or the test is skipped."""
    if shutil.which("mount") is None or os.geteuid() != 0:
        pytest.skip("only the superuser can mount")
    place = tempfile.mkdtemp()
    mounted = subprocess.run(["mount", "--bind", source, place], capture_output=True)
    if mounted.returncode:
        os.rmdir(place)
        pytest.skip("mounting is not allowed here")
    try:
        again = ["mount", "-o", "remount,ro,bind", place]
        if subprocess.run(again, capture_output=True).returncode:
            pytest.skip("mounting read-only is not allowed here")
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)
        os.rmdir(place)


@pytest.mark.parametrize("state", ["closed", "killed", "open"])
def test_a_log_on_a_read_only_mount_can_be_read(disk, state):
    wal = disk.open()
    fill(wal, 100)
    if state == "closed":
        wal.close()
    elif state == "killed":
        disk.kill()
    with read_only_mount(disk.path) as place:
        with Wal.open(place, read_only=True) as quiet:
            assert contents(quiet) == told(0, 100)
            use_everything(quiet)
            if state == "open":
                fill(wal, 100)
                assert contents(quiet) == told(0, 200)
        with pytest.raises(OSError, match="read_only=True"):
            Wal.open(place)


@pytest.mark.skipif(os.geteuid() != 0, reason="only the superuser can become somebody else")
def test_a_log_that_one_may_only_read_can_be_read(disk):
    """Directory 0555, files 0444, and somebody else's."""
    wal = disk.open()
    fill(wal, 100)
    wal.close()
    with tempfile.TemporaryDirectory() as top:
        place = os.path.join(top, "log")
        shutil.copytree(disk.path, place)
        for name in os.listdir(place):
            os.chmod(os.path.join(place, name), 0o444)
        os.chmod(place, 0o555)
        os.chmod(top, 0o755)
        program = (
            "import os, sys, treering\n"
            "treering.Wal.open(sys.argv[1], read_only=True).close()  # loads what it needs\n"
            "os.setgid(65534); os.setuid(65534)\n"
            "with treering.Wal.open(sys.argv[1], read_only=True) as wal:\n"
            "    wal.check(); wal.stats(); print(len(list(wal)))\n"
            "try: treering.Wal.open(sys.argv[1])\n"
            "except treering.StorageError as error: print(error)\n"
        )
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(
            [sys.executable, "-c", program, place],
            env=environment,
            capture_output=True,
            text=True,
            cwd="/",
        )
    assert done.stdout.startswith("100\n"), done
    assert "ermission" in done.stdout
