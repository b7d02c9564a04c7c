"""What reaches the kernel: fsyncs per policy, and that reading writes nothing."""

from __future__ import annotations

import re
import shutil

import pytest

from tests.processes.calls import MARK, SEGMENT_BYTES
from tests.processes.nursery import is_pure
from tests.processes.tracing import count_syncs, has_strace, traced
from treering import FsyncPolicy, Wal

NONE = (0, 0)


@pytest.mark.parametrize("exclusive", [False, True], ids=["shared", "exclusive"])
def test_always_syncs_once_for_each_append_of_one_thread(tmp_path, exclusive):
    """D2, G1: n appends, n fsyncs, and none left for the close."""
    done = count_syncs(
        "append_always", tmp_path, log=str(tmp_path / "log"), count=30, exclusive=exclusive
    )
    assert done["append"] == (30, 30)
    assert done["close"][0] == 0


def test_the_library_that_counts_without_strace_counts_alike(tmp_path):
    """The stand-in for strace, where that is missing."""
    if shutil.which("gcc") is None:
        pytest.skip("there is no gcc to build it")
    done = count_syncs(
        "append_always", tmp_path, "shim", log=str(tmp_path / "log"), count=30, exclusive=False
    )
    assert done["append"] == (30, 30)


def test_threads_that_wait_together_share_their_fsyncs(tmp_path, capsys):
    """D2, G15: 64 threads x 10 appends take far fewer than 640 fsyncs. The readable twin polls, so
    that fewer are there in time."""
    done = count_syncs(
        "append_in_threads", tmp_path, log=str(tmp_path / "log"), threads=64, count=10
    )
    with capsys.disabled():
        print(f" {done['append'][0]} fsyncs for 640 appends ", end="")
    assert 10 <= done["append"][0] <= 640 * (0.75 if is_pure() else 0.25)


def test_processes_that_wait_together_share_their_fsyncs(tmp_path, capsys):
    """D2, D9: 4 processes x 50 appends; no more fsyncs than appends, and all are durable."""
    done = count_syncs(
        "append_in_processes", tmp_path, log=str(tmp_path / "log"), processes=4, count=50
    )
    with capsys.disabled():
        print(f" {done['append'][0]} fsyncs for 200 appends ", end="")
    assert 50 <= done["append"][0] < 200


def test_batch_syncs_about_once_per_window(tmp_path):
    """D3, G2: steady appends; at most two fsyncs per window, and not none."""
    window = 20
    done = count_syncs(
        "append_steadily", tmp_path, log=str(tmp_path / "log"), window=window, seconds=0.5
    )
    windows = done.result * 1000 / window
    assert windows / 5 <= done["append"][0] <= 2 * windows + 2


@pytest.mark.parametrize("window", [5, 50, 200])
def test_a_lonely_append_is_synced_once_without_any_further_call(tmp_path, window):
    """D3, G2: one append under BATCH, then silence: exactly one fsync, and by itself."""
    done = count_syncs("append_once", tmp_path, log=str(tmp_path / "log"), window=window)
    assert done["append"] == (1, 1)
    assert done["close"][0] == 0
    assert done.result < window / 1000 + 1.0  # a busy machine may be late, but not by this


def test_os_syncs_when_it_is_told_to_and_at_the_close(tmp_path):
    """G3: no fsync for 2,000 appends, one for sync(), none for a second one, one at the close."""
    done = count_syncs("append_unsynced", tmp_path, log=str(tmp_path / "log"), count=2000)
    assert done["append"] == NONE
    assert done["sync"] == (1, 1)
    assert done["again"] == done["wait"] == done["more"] == NONE
    assert done["close"][0] == 1


# Calls that change a file, a directory, or memory that others see.
WRITING = re.compile(
    r"\b(p?writev?2?|pwrite64|ftruncate|truncate|fallocate|rename(at2?)?|unlink(at)?|rmdir|"
    r"link(at)?|symlink(at)?|f?chmod(at)?|f?chown(at)?|utimensat|f?setxattr|fsync|fdatasync|msync|"
    r"sync_file_range|flock|mknod(at)?|copy_file_range|sendfile|splice|madvise)\("
)


@pytest.mark.parametrize("state", ["clean", "beside a writer", "after a kill"])
def test_reading_only_makes_no_call_that_writes(tmp_path, nursery, state):
    """G17: opening read-only, reading in every way, following and checking: no file is opened for
    writing, made, locked, shortened or mapped for writing, and nothing is written."""
    if not has_strace():
        pytest.skip("there is no strace here: that reading writes nothing was NOT traced")
    log = tmp_path / "log"
    wal = Wal.open(log, fsync_policy=FsyncPolicy.OS, segment_bytes_max=16 << 10)
    for number in range(300):
        wal.put(b"%d" % number, bytes(200))
    if state == "clean":
        wal.close()
    if state == "after a kill":
        wal.close()
        worker = nursery.start(
            "stay", log=str(log), gun=str(tmp_path / "gun"), appends=9, exclusive=True
        )
        worker.hear("staying")
        worker.kill()
    lines, _ = traced("only_read", tmp_path, "all", log=str(log))
    wal.close()
    begin, end = (
        next(n for n, line in enumerate(lines) if MARK + name in line) for name in ("read", "end")
    )
    offenders = [line for line in lines[begin + 1 : end] if _writes(line, str(log))]
    assert offenders == []
    assert any(str(log) in line for line in lines[begin + 1 : end])


def _writes(line: str, log: str) -> bool:
    if re.search(r"\bopen(at)?\(", line):
        return bool(re.search(r"O_WRONLY|O_RDWR|O_CREAT|O_TRUNC|O_APPEND", line))
    if re.search(r"\bmmap\(", line):
        return log in line and "PROT_WRITE" in line
    if re.search(r"\bmkdir(at)?\(", line):
        return True
    if re.search(r"\bmadvise\(", line):
        return "POPULATE_WRITE" in line
    return bool(WRITING.search(line))


def test_segments_are_as_large_in_the_trace_as_the_tests_think():
    """So that no roll comes between the appends that are counted."""
    assert SEGMENT_BYTES / 2 > 2000 * 100
