"""Closing: explicit, idempotent, complete; and forgetting instead loses nothing (D13)."""

import errno
import gc
import os
import subprocess
import sys
import threading
import time
import weakref

import pytest

from tests._logs import contents, fill, told
from treering import ClosedError, FailedError, FsyncPolicy, Record, TreeringError, Wal
from treering.testing import FaultyFiles, MemoryFiles, PowerCutFiles

POLICIES = [FsyncPolicy.ALWAYS, FsyncPolicy.batch(1000), FsyncPolicy.OS]

CALLS = {
    "put": lambda wal: wal.put(b"k", b"v"),
    "put with options": lambda wal: wal.put(b"k", b"v", stream=1),
    "delete": lambda wal: wal.delete(b"k"),
    "append": lambda wal: wal.append(Record.put(b"k", b"v")),
    "append_batch": lambda wal: wal.append_batch([(b"k", b"v")]),
    "append_batch of none": lambda wal: wal.append_batch([]),
    "batch": lambda wal: wal.batch(),
    "sync": lambda wal: wal.sync(),
    "flush": lambda wal: wal.flush(),
    "wait_durable": lambda wal: wal.wait_durable(0),
    "current_position": lambda wal: wal.current_position(),
    "durable_position": lambda wal: wal.durable_position,
    "first_position": lambda wal: wal.first_position,
    "read": lambda wal: wal.read(0),
    "read_from": lambda wal: list(wal.read_from(0)),
    "read_from a time": lambda wal: wal.read_from(time=0),
    "read_backwards": lambda wal: list(wal.read_backwards()),
    "iter": lambda wal: list(wal),
    "truncate_before": lambda wal: wal.truncate_before(0),
    "truncate_after": lambda wal: wal.truncate_after(1),
    "apply_retention": lambda wal: wal.apply_retention(),
    "pin": lambda wal: wal.pin("a", 0),
    "unpin": lambda wal: wal.unpin("a"),
    "pins": lambda wal: wal.pins(),
    "recovery": lambda wal: wal.recovery,
    "log_id": lambda wal: wal.log_id,
    "stats": lambda wal: wal.stats(),
    "check": lambda wal: wal.check(),
}


@pytest.mark.parametrize("policy", POLICIES, ids=str)
@pytest.mark.parametrize("options", [{}, {"read_only": True}, {"exclusive": True}], ids=str)
def test_every_call_on_a_closed_handle_says_that_it_is_closed(memory, policy, options):
    with memory.open() as wal:
        fill(wal, 3)
    wal = memory.open(fsync_policy=policy, **options)
    held = wal.put, wal.delete  # bound while it was open
    wal.close()
    wal.close()
    assert wal.closed
    assert "closed" in repr(wal)
    for name, call in CALLS.items():
        with pytest.raises(ClosedError) as caught:
            call(wal)
        assert "Wal.open" in caught.value.hint, name
    if not options.get("read_only"):
        with pytest.raises(ClosedError):
            held[0](b"k", b"v")
        with pytest.raises(ClosedError):
            held[1](b"k")
    assert wal.path == "/log"
    assert contents(memory.open()) == told(0, 3)


def test_a_with_block_closes_the_log_whatever_happens(memory):
    with memory.open() as wal:
        fill(wal, 3)
    assert wal.closed
    with pytest.raises(RuntimeError), memory.open() as wal:
        raise RuntimeError("the caller's own trouble")
    assert wal.closed
    assert memory.files.open_paths == []


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_closing_makes_everything_durable(memory, policy):
    memory.files = PowerCutFiles()
    wal = memory.open(fsync_policy=policy)
    fill(wal, 100)
    wal.close()
    assert contents(memory.open(files=memory.files.cut())) == told(0, 100)


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_closing_lets_go_of_every_file_lock_and_thread(memory, policy):
    threads = set(threading.enumerate())
    wal = memory.open(fsync_policy=policy)
    fill(wal, 300)
    list(wal.read_backwards())
    wal.read(150)
    reader = wal.read_from(0)
    next(reader)
    reader.close()
    wal.close()
    assert memory.files.open_paths == []
    assert set(threading.enumerate()) <= threads
    memory.open(exclusive=True).close()


def test_closing_one_handle_leaves_the_others_alone(shared):
    wal, other = shared.open(), shared.open()
    fill(wal, 50)
    wal.close()
    fill(other, 50)
    assert contents(other) == told(0, 100)
    other.sync()
    third = shared.open()
    other.close()
    assert contents(third) == told(0, 100)


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_a_forgotten_handle_is_closed_when_it_is_collected(either, policy):
    """D13: with all its threads and readers, and nothing is lost."""
    wal = either.open(fsync_policy=policy)
    either._handles.clear()
    fill(wal, 100)
    reader = wal.read_from(0)
    next(reader)
    gone = weakref.ref(wal)
    del wal, reader
    gc.collect()
    assert gone() is None
    with either.open(exclusive=True) as wal:
        assert wal.recovery.state == "clean"
        assert contents(wal) == told(0, 100)


def test_a_forgotten_read_only_handle_is_closed_too(memory):
    with memory.open() as wal:
        fill(wal, 100)
    wal = memory.open(read_only=True)
    memory._handles.clear()
    list(wal)
    del wal
    gc.collect()
    assert memory.files.open_paths == []


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_a_program_that_ends_without_closing_loses_nothing(path, policy):
    """D13: the log is closed at the end of the program, and clean."""
    program = (
        "import sys, treering\n"
        "wal = treering.Wal.open(sys.argv[1], segment_bytes_max=4096,"
        f" fsync_policy=treering.FsyncPolicy.parse({str(policy)!r}))\n"
        "wal.append_batch([(b'key-%d' % n, b'value-%d' % n) for n in range(100)])\n"
        "reader = wal.read_from(0)\n"
        "next(reader)\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, path], env=environment, capture_output=True
    )
    assert (done.returncode, done.stderr, done.stdout) == (0, b"", b"")
    with Wal.open(path, segment_bytes_max=4096) as wal:
        assert wal.recovery.state == "clean"
        assert contents(wal) == told(0, 100)


@pytest.mark.parametrize(
    "ending", ["os._exit(7)", "os.kill(os.getpid(), 9)", "raise SystemExit(1)"]
)
def test_a_program_that_dies_loses_nothing_that_was_written(path, ending):
    """D1."""
    program = (
        "import os, sys, treering\n"
        "wal = treering.Wal.open(sys.argv[1], segment_bytes_max=4096,"
        " fsync_policy=treering.FsyncPolicy.OS)\n"
        "for n in range(100): wal.put(b'key-%d' % n, b'value-%d' % n)\n"
        f"{ending}\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", program, path], env=environment)
    with Wal.open(path, segment_bytes_max=4096) as wal:
        assert wal.recovery.cut is None
        assert contents(wal) == told(0, 100)


def test_a_log_in_memory_may_be_forgotten_with_its_files():
    files = MemoryFiles()
    wal = Wal.open(
        "/log", files=files, segment_bytes_max=4096, fsync_policy=FsyncPolicy.batch(1000)
    )
    fill(wal, 100)
    del wal, files
    gc.collect()


def test_closing_ends_calls_that_wait_in_other_threads(memory):
    wal = memory.open()
    fill(wal, 3)
    found = []

    def follow():
        try:
            found.extend(wal.read_from(3, follow=True))
        except ClosedError as error:
            found.append(error)

    followers = [threading.Thread(target=follow) for _ in range(3)]
    for thread in followers:
        thread.start()
    wal.close()
    for thread in followers:
        thread.join(20)
        assert not thread.is_alive()
    assert [type(error) for error in found] == [ClosedError] * 3


def test_the_first_failure_in_closing_is_raised_after_all_is_let_go(memory):
    files = FaultyFiles(memory.files)
    wal = memory.open(files=files)
    fill(wal, 3)
    files.fail("sync", path=".seg")
    with pytest.raises(FailedError):
        wal.close()
    wal.close()
    gc.collect()  # the error's traceback held on to the file
    assert memory.files.open_paths == []
    again = memory.open(exclusive=True)
    assert contents(again) == told(0, 3)


@pytest.mark.parametrize("policy", ["os", "batch:20"])
def test_closing_a_log_that_failed_before_says_that_records_may_be_lost(memory, policy):
    """D6: the sync that failed was the background's, or another call's: closing is the last one
    that can tell, and it says so once, after all was let go."""
    files = FaultyFiles(memory.files)
    wal = memory.open(files=files, fsync_policy=FsyncPolicy.parse(policy))
    files.fail("sync", path=".seg")
    fill(wal, 1)
    if policy == "os":
        with pytest.raises(FailedError):
            wal.sync()
    until = time.monotonic() + 20
    while not wal.stats()["failed"]:
        assert time.monotonic() < until
        time.sleep(0.005)
    with pytest.raises(FailedError):
        wal.close()
    wal.close()
    assert wal.closed
    gc.collect()  # the error's traceback held on to the file
    assert memory.files.open_paths == []
    assert contents(memory.open(exclusive=True)) == told(0, 1)


def test_a_forgotten_handle_of_a_log_that_failed_before_is_collected_quietly(monkeypatch):
    """Nobody is there to be told, and it has been known for long. What fails in the collector
    itself is told in Python's way."""
    told_by_python = []
    monkeypatch.setattr(sys, "unraisablehook", told_by_python.append)
    monkeypatch.setattr(sys, "excepthook", lambda *error: told_by_python.append(error))
    for failed_before in (True, False):
        files = FaultyFiles(MemoryFiles())
        wal = Wal.open("/log", files=files, fsync_policy=FsyncPolicy.OS)
        fill(wal, 1)
        if failed_before:
            wal._engine.control.fail(errno.EIO)
        files.fail("sync", path=".seg")
        del wal
        gc.collect()
        assert len(told_by_python) == (not failed_before)
        told_by_python.clear()


def test_closing_a_log_that_failed_with_everything_durable_is_quiet(memory):
    wal = memory.open()
    fill(wal, 3)
    wal.sync()
    wal._engine.control.fail(errno.EIO)
    wal.close()
    assert memory.files.open_paths == []


@pytest.mark.parametrize("nth", range(1, 12))
def test_whatever_fails_in_closing_the_locks_are_given_back(memory, nth):
    files = FaultyFiles(memory.files)
    wal = memory.open(files=files)
    fill(wal, 100)
    files.fail(lambda call: call.name != "close", nth=nth)
    try:
        wal.close()
    except TreeringError:
        pass
    gc.collect()
    assert memory.files.open_paths == []
    assert contents(memory.open(exclusive=True)) == told(0, 100)
