"""Errors: whose mistake, where, why, and what to do next."""

import errno
import os
import pickle
import threading

import pytest

import treering
from tests._logs import contents, fill, told
from treering import (
    ClosedError,
    DamageError,
    DataError,
    DiskFullError,
    FailedError,
    LockedError,
    LogNotFoundError,
    NotThereError,
    PositionError,
    PrunedError,
    ReadOnlyError,
    ReentrantError,
    StorageError,
    TooLargeError,
    TreeringError,
    UsageError,
    VersionError,
    WaitTimeoutError,
)
from treering.testing import FaultyFiles, MemoryFiles

ERRORS = [
    getattr(treering, name)
    for name in treering.__all__
    if isinstance(getattr(treering, name), type)
    and issubclass(getattr(treering, name), TreeringError)
]
BRANCHES = (UsageError, NotThereError, StorageError, DataError)


def test_every_error_belongs_to_one_branch():
    for kind in set(ERRORS) - {TreeringError}:
        assert sum(issubclass(kind, branch) for branch in BRANCHES) == 1, kind


def test_errors_are_what_python_programs_expect_too():
    assert issubclass(UsageError, ValueError)
    assert issubclass(NotThereError, LookupError)
    assert issubclass(StorageError, OSError)
    assert issubclass(WaitTimeoutError, TimeoutError)
    assert not issubclass(DamageError, OSError)


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_an_error_tells_its_place_and_what_to_do(kind):
    error = kind("it went wrong", path="/log/x", offset=5, position=7, hint="Try again")
    assert str(error) == "it went wrong (file /log/x, offset 5, position 7). Try again"
    assert (error.path, error.offset, error.position, error.hint) == ("/log/x", 5, 7, "Try again")
    assert str(kind("it went wrong")) == "it went wrong"
    assert kind.__doc__


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_an_error_travels_between_processes(kind):
    error = kind("it went wrong", path="/log/x", offset=5, position=7, hint="Try again")
    error.extra = "kept"
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert str(again) == str(error)
    assert (again.path, again.offset, again.position, again.hint) == ("/log/x", 5, 7, "Try again")
    assert again.extra == "kept"


def test_what_errors_carry_beyond_that():
    assert PrunedError("x").oldest is None
    assert treering.RewoundError("x").end is None
    assert LockedError("x").pid is None
    assert DamageError("x").positions is None
    error = pickle.loads(pickle.dumps(StorageError("x", number=errno.EIO)))
    assert error.errno == errno.EIO


@pytest.mark.parametrize(
    ("number", "kind", "word"),
    [
        (errno.ENOSPC, DiskFullError, "space"),
        (errno.EDQUOT, DiskFullError, "space"),
        (errno.EFBIG, DiskFullError, "limit"),
        (errno.EACCES, StorageError, "permissions"),
        (errno.EPERM, StorageError, "permissions"),
        (errno.EROFS, StorageError, "read_only=True"),
        (errno.EMFILE, StorageError, "ulimit"),
        (errno.EIO, StorageError, "device"),
    ],
)
def test_what_the_system_refuses_comes_with_its_number_its_file_and_a_hint(number, kind, word):
    files = FaultyFiles(MemoryFiles())
    files.fail("open", path="manifest", number=number)
    with pytest.raises(StorageError) as caught:
        treering.Wal.open("/log", files=files, segment_bytes_max=4096)
    error = caught.value
    assert type(error) is kind
    assert error.errno == number
    assert error.path == "/log/manifest"
    assert os.strerror(number) in str(error)
    assert word in error.hint
    assert isinstance(error.__cause__, OSError)


def test_a_full_disk_is_told_before_anything_is_written(memory):
    """D7: the append raises, the log is unchanged, and goes on when there is space again."""
    wal = memory.open()
    fill(wal, 100)
    memory.files.capacity_bytes = memory.files.used_bytes
    with pytest.raises(DiskFullError) as caught:
        fill(wal, 1000)
    assert caught.value.errno == errno.ENOSPC
    end = wal.current_position()
    for call in (
        lambda: wal.append_batch([(b"k", bytes(3000))]),
        lambda: wal.put(b"k", bytes(3000), stream=1),
        lambda: wal.delete(bytes(3000)),
    ):
        with pytest.raises(DiskFullError):
            call()
    assert wal.current_position() == end
    assert contents(wal) == told(0, end)
    assert wal.sync() == end
    wal.check()
    memory.files.capacity_bytes = None
    fill(wal, 100)
    assert contents(wal) == told(0, end + 100)
    assert not wal.stats()["failed"]


@pytest.mark.parametrize("kind", ["memory", "btrfs"])
def test_every_capacity_over_a_roll_is_survived(memory, kind):
    """D7, G10."""
    needed = 0
    for capacity in range(40):
        files = memory.files = MemoryFiles(kind, capacity_bytes=None)
        wal = memory.open()
        fill(wal, 20)
        files.capacity_bytes = files.used_bytes + 4096 * capacity
        try:
            fill(wal, 100)
            needed += 1
        except DiskFullError:
            pass
        end = wal.current_position()
        assert end >= 20
        assert contents(wal) == told(0, end)
        crashed = memory.open(files=files.crash())
        assert contents(crashed) == told(0, end)
        files.capacity_bytes = None
        fill(wal, 50)
        assert contents(wal) == told(0, end + 50)
        wal.close()
        assert contents(memory.open()) == told(0, end + 50)
        if needed > 2:
            break
    assert needed > 2 < capacity


@pytest.mark.parametrize("kind", ["memory", "btrfs"])
def test_every_call_may_fail_once_and_nothing_that_was_returned_is_lost(memory, kind):
    """G9, G10: append, batch, roll, sync: the k-th call fails, for every k."""
    for nth in range(1, 500):
        inner = MemoryFiles(kind)
        files = FaultyFiles(inner)
        wal = memory.open(files=files)
        wal._engine.writer.chores.stop()
        fault = files.fail(nth=nth)
        returned = 0
        try:
            fill(wal, 40)
            wal.append_batch([(b"key-%d" % n, b"value-%d" % n) for n in range(40, 60)])
            wal.sync()
            fill(wal, 10)
        except TreeringError as error:
            assert isinstance(error, StorageError), repr(error)
        returned = wal.current_position()
        files.heal()
        crashed = memory.open(files=inner.crash())
        assert contents(crashed) == told(0, returned)
        fill(crashed, 5)
        if not fault.hits:
            break
    assert nth > 10


def test_calling_the_log_from_its_own_callback_is_refused_not_deadlocked(memory):
    """D10: as a signal handler would, in the middle of a call on the same log."""
    wal = memory.open()
    fill(wal, 29)
    trouble = []

    def call_back(name, path):
        if not trouble and name == "rename" and threading.current_thread() is main:
            trouble.append(None)
            try:
                wal.put(b"from the handler", b"")
            except ReentrantError as error:
                trouble[0] = error

    main = threading.current_thread()
    memory.files.on_operation = call_back
    fill(wal, 40)
    memory.files.on_operation = None
    assert isinstance(trouble[0], ReentrantError)
    assert "afterwards" in trouble[0].hint
    assert contents(wal) == told(0, 69)


def test_each_kind_of_mistake_has_its_error(memory):
    wal = memory.open()
    fill(wal, 100)
    wal.truncate_before(50)
    quiet = memory.open(read_only=True)
    for kind, call in (
        (UsageError, lambda: wal.put("text", b"")),
        (TooLargeError, lambda: wal.put(bytes(70_000), b"")),
        (ReadOnlyError, lambda: quiet.put(b"", b"")),
        (PositionError, lambda: wal.read(1000)),
        (PrunedError, lambda: wal.read(0)),
        (LogNotFoundError, lambda: memory.open(create=False, files=MemoryFiles())),
    ):
        with pytest.raises(kind) as caught:
            call()
        assert type(caught.value) is kind
    wal.close()
    with pytest.raises(ClosedError):
        wal.put(b"", b"")
    assert issubclass(VersionError, DataError)
    assert issubclass(FailedError, StorageError)
