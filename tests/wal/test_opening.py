"""Opening: create, join, recover, refuse; and what the report says (D3, G12)."""

import itertools
import os
import pathlib
import subprocess
import sys
import threading

import pytest

import treering
from tests._logs import contents, fill, in_memory, told
from treering import (
    FsyncPolicy,
    LockedError,
    LogNotFoundError,
    StorageError,
    Wal,
    WalConfig,
)
from treering.testing import FaultyFiles, MemoryFiles

SMALL = {"segment_bytes_max": 4096}


# --- Making one, finding one ----------------------------------------------------------------------


def test_a_log_is_made_where_there_is_none(either):
    wal = either.open()
    assert wal.recovery.state == "created"
    assert (wal.recovery.first_position, wal.recovery.end) == (0, 0)
    assert wal.recovery.findings == wal.recovery.damage == ()
    assert len(wal.log_id) == 16
    assert either.names() == ["00000000000000000000.seg", "control", "lock", "manifest", "opening"]


def test_missing_directories_are_made_too(tmp_path):
    with Wal.open(tmp_path / "a" / "b" / "c", **SMALL) as wal:
        wal.put(b"k", b"v")
    assert (tmp_path / "a" / "b" / "c" / "manifest").exists()


def test_an_empty_directory_is_a_fine_place(path):
    path.mkdir()
    with Wal.open(path, **SMALL) as wal:
        assert wal.recovery.state == "created"


def test_files_of_others_in_the_directory_are_left_alone(path):
    path.mkdir()
    for name in ("README", "a.seg", "123.seg", "00000000000000000000.segx", ".hidden", "x.cut"):
        (path / name).write_bytes(b"mine")
    with Wal.open(path, **SMALL) as wal:
        fill(wal, 200)
        wal.truncate_before(100)
    with Wal.open(path, **SMALL) as wal:
        assert contents(wal) == told(wal.first_position, 200)
    assert all(
        (path / name).read_bytes() == b"mine"
        for name in ("README", "a.seg", "123.seg", "00000000000000000000.segx", ".hidden", "x.cut")
    )


@pytest.mark.parametrize("kind", [str, pathlib.Path, os.fspath])
def test_a_path_may_be_a_text_or_a_path_object(path, kind):
    with Wal.open(kind(path), **SMALL) as wal:
        assert wal.path == str(path)
        assert str(path) in repr(wal)


def test_a_relative_path_means_the_directory_of_that_time(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wal = Wal.open("log", **SMALL)
    monkeypatch.chdir("/")
    fill(wal, 200)
    assert contents(wal) == told(0, 200)
    assert wal.path == str(tmp_path / "log")
    wal.close()


@pytest.mark.parametrize("options", [{"create": False}, {"read_only": True}])
def test_without_leave_to_create_a_missing_log_is_an_error_and_nothing_is_made(path, options):
    with pytest.raises(LogNotFoundError) as caught:
        Wal.open(path, **options)
    assert caught.value.path == str(path)
    assert not path.exists()
    path.mkdir()
    (path / "notes").write_text("")
    with pytest.raises(LogNotFoundError):
        Wal.open(path, **options)
    assert {entry.name for entry in path.iterdir()} <= {"notes", "lock", "opening"}


def test_a_file_in_place_of_the_directory_is_an_error(path):
    path.write_bytes(b"a file")
    for options in ({}, {"create": False}, {"read_only": True}):
        with pytest.raises((StorageError, LogNotFoundError)) as caught:
            Wal.open(path, **options)
        assert str(path) in str(caught.value)
    assert path.read_bytes() == b"a file"


def test_the_config_and_keywords_may_be_given_together(path):
    config = WalConfig(fsync_policy=FsyncPolicy.OS, segment_bytes_max=4096)
    with Wal.open(path, config, fsync_policy=FsyncPolicy.ALWAYS) as wal:
        wal.put(b"k", b"v")
        assert wal.durable_position == 1
        fill(wal, 199)
        assert wal.stats()["segments"] > 1
    assert config.fsync_policy is FsyncPolicy.OS


def test_a_log_keeps_its_id_and_its_records_when_it_is_opened_otherwise(log):
    wal = log.open()
    fill(wal, 100)
    log_id = wal.log_id
    wal.close()
    variants = [
        {"segment_bytes_max": 10_000},
        {"frame_align_bytes": 4096, "segment_bytes_max": 1 << 16},
        {"frame_align_bytes": 8},
        {"map_tail": False},
        {"segment_bytes_max": 1024},
        {"compression": "zstd"},
        {"exclusive": True},
        {"fsync_policy": FsyncPolicy.ALWAYS},
        {"read_only": True},
    ]
    for options in variants:
        with log.open(**options) as wal:
            assert wal.log_id == log_id
            end = wal.current_position()
            assert contents(wal) == told(0, end)
            if "read_only" not in options:
                fill(wal, 50)
                assert contents(wal) == told(0, end + 50)
    assert end == 100 + 50 * (len(variants) - 1)


def test_two_logs_have_different_ids(tmp_path):
    ids = set()
    for number in range(10):
        with in_memory(tmp_path).open() as wal:
            ids.add(wal.log_id)
            assert wal.stats()["log_id"] == wal.log_id.hex(), number
    assert len(ids) == 10


# --- Coming back --------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 31, 100])
def test_a_closed_log_opens_clean_without_reading_its_records(log, count):
    wal = log.open()
    fill(wal, count)
    wal.close()
    for options in ({}, {"read_only": True}):
        wal = log.open(**options)
        assert wal.recovery.state == "clean"
        assert wal.recovery.scanned_bytes == 0
        assert wal.recovery.cut is None
        assert (wal.recovery.first_position, wal.recovery.end) == (0, count)
        assert contents(wal) == told(0, count)
        wal.close()


def test_after_a_death_only_the_newest_segment_is_read(log):
    wal = log.open()
    fill(wal, 300)
    wal.close()
    wal = log.open()
    fill(wal, 10)
    log.kill()
    wal = log.open()
    assert wal.recovery.scanned_bytes <= log.options["segment_bytes_max"]
    assert wal.recovery.end == 310
    assert wal.recovery.cut is None
    assert contents(wal) == told(0, 310)


def test_opening_and_dying_again_and_again_changes_nothing(log):
    """G12."""
    wal = log.open()
    fill(wal, 100)
    for _ in range(5):
        log.kill()
        wal = log.open()
        assert (wal.first_position, wal.current_position()) == (0, 100)
    assert contents(wal) == told(0, 100)


def test_a_death_anywhere_in_opening_harms_nothing(memory):
    """G12: made, recovered, reopened: whatever operation is the last."""
    files = MemoryFiles()
    left = []
    files.on_operation = lambda name, path: left.append(files.crash())
    memory.open(files=files)
    created = len(left)
    files = left[-1].crash()
    fill(memory.open(files=files), 70)
    files = files.crash()
    files.on_operation = lambda name, path: left.append(files.crash())
    memory.open(files=files)
    assert created > 5 < len(left) - created
    for number, image in enumerate(left):
        wal = memory.open(files=image)
        assert wal.recovery.state in ("created", "clean", "recovered")
        assert contents(wal) == told(0, 70 if number >= created else 0)
        fill(wal, 3)
        wal.check()


def test_the_second_handle_joins_and_recovers_nothing(shared):
    wal = shared.open()
    fill(wal, 50)
    other = shared.open()
    assert other.recovery.state == "joined"
    assert (other.recovery.first_position, other.recovery.end) == (0, 50)
    assert other.recovery.findings == ()
    assert other.log_id == wal.log_id
    wal.close()
    assert contents(other) == told(0, 50)
    fill(other, 50)
    third = shared.open()
    assert third.recovery.state == "joined"
    assert contents(third) == told(0, 100)


def test_the_last_handle_closes_the_log_clean(shared):
    handles = [shared.open() for _ in range(3)]
    for handle in handles:
        fill(handle, 20)
    for handle in handles:
        handle.close()
    again = shared.open()
    assert again.recovery.state == "clean"
    assert again.recovery.scanned_bytes == 0
    assert contents(again) == told(0, 60)


# --- Exclusive use ------------------------------------------------------------------------------


def test_an_exclusive_handle_refuses_all_others_and_names_its_process(either):
    wal = either.open(exclusive=True)
    fill(wal, 10)
    for options in ({}, {"exclusive": True}):
        with pytest.raises(LockedError) as caught:
            either.open(**options)
        assert caught.value.pid == os.getpid()
        assert str(os.getpid()) in str(caught.value)
        assert "read_only" in caught.value.hint
    assert contents(either.open(read_only=True)) == told(0, 10)
    wal.close()
    with either.open() as wal:
        assert contents(wal) == told(0, 10)


def test_an_exclusive_handle_is_refused_while_others_are_open(either):
    wal = either.open()
    with pytest.raises(LockedError) as caught:
        either.open(exclusive=True)
    assert caught.value.pid == os.getpid()
    fill(wal, 3)
    wal.close()
    with either.open(exclusive=True) as wal:
        assert contents(wal) == told(0, 3)


def test_a_lock_names_the_process_that_holds_it(path):
    """From outside, where the pid is another one."""
    program = (
        "import sys, treering; wal = treering.Wal.open(sys.argv[1], exclusive=True,"
        " segment_bytes_max=4096); wal.put(b'k', b'v'); print(flush=True); sys.stdin.read()"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    child = subprocess.Popen(
        [sys.executable, "-c", program, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
    )
    with child:
        try:
            assert child.stdout.readline()
            with pytest.raises(LockedError) as caught:
                Wal.open(path, **SMALL)
            assert caught.value.pid == child.pid
            child.kill()
            child.wait()
            with Wal.open(path, exclusive=True, **SMALL) as wal:
                assert wal.current_position() == 1
        finally:
            child.kill()


def test_opening_waits_for_another_that_is_opening_and_gives_up_in_time(memory):
    memory.open().close()
    files = memory.files
    files = FaultyFiles(memory.files)
    begun, go_on = threading.Event(), threading.Event()
    files.stall("open", lambda: (begun.set(), go_on.wait(20)), path="manifest")
    slow = threading.Thread(target=lambda: memory.open(files=files))
    slow.start()
    assert begun.wait(20)
    with pytest.raises(LockedError, match="opening"):
        memory.open(lock_timeout_seconds=0.05)
    patient = []
    waiting = threading.Thread(target=lambda: patient.append(memory.open()))
    waiting.start()
    go_on.set()
    for thread in (slow, waiting):
        thread.join(20)
    assert patient[0].recovery.state == "joined"


# --- Failing to open ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["memory", "btrfs"])
def test_every_failing_call_in_opening_is_a_clear_error_and_leaves_nothing_open(memory, kind):
    """And the next opening finds everything."""
    files = MemoryFiles(kind)
    wal = memory.open(files=files)
    fill(wal, 70)
    killed = files.crash()
    for nth in itertools.count(1):
        inner = killed.crash()
        faulty = FaultyFiles(inner)
        fault = faulty.fail(nth=nth)
        try:
            memory.open(files=faulty).close()
        except treering.TreeringError as error:
            assert isinstance(error, StorageError), repr(error)
            assert error.errno == 5
            assert inner.open_paths == []
        if not fault.hits:
            break
        again = memory.open(files=inner)
        assert contents(again) == told(0, 70)
    assert nth > 20


def test_a_full_disk_does_not_keep_a_log_from_opening(memory):
    """D7: opening and reading work; nothing open needs is new space."""
    wal = memory.open()
    fill(wal, 100)
    memory.kill()
    memory.files.capacity_bytes = memory.files.used_bytes
    wal = memory.open()
    assert contents(wal) == told(0, 100)
    assert contents(memory.open(read_only=True)) == told(0, 100)
    wal.truncate_before(60)
    assert contents(wal) == told(wal.first_position, 100)


def test_the_report_describes_each_finding_in_a_line(log):
    wal = log.open()
    fill(wal, 100)
    wal.close()
    wal = log.open()
    lines = [finding.describe() for finding in wal.recovery.findings]
    assert all("\n" not in line for line in lines)
    assert [line[:24] for line in lines if ".seg" in line] == log.segments()[: len(lines)] or lines
    assert wal.recovery.seconds >= 0
