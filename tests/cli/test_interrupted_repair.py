"""A repair that is interrupted leaves nothing under the names it was given, or all of it (G12)."""

import contextlib
import errno
import functools
import os
import signal
import subprocess
import sys

import pytest

from tests._logs import Log, fill, in_memory
from tests.cli._damage import DAMAGES, small_log, spoil_frame, truth
from treering import StorageError, TreeringError, repair, verify
from treering.testing import FaultyFiles

TARGET = "/new/copy"
OPTIONS = ["into", "salvage"]


class Interrupted(BaseException):
    """As Ctrl-C would be."""


def interrupt():
    raise Interrupted


@functools.cache
def bytes_of_damaged():
    """The files of a log with damage in its middle."""
    log = small_log()
    DAMAGES["frame-of-a-full-segment"].do(log)
    return log.files.contents()


def damaged():
    """That log, and files that can fail."""
    log = in_memory(None)
    for path, data in bytes_of_damaged().items():
        log.files.put_file(path, data)
    return log, FaultyFiles(log.files, record=False)


def copied(log):
    """What is there, for the next process: with nobody's locks and open files."""
    later = in_memory(None)
    for path, data in log.files.contents().items():
        later.files.put_file(path, data)
    return later, FaultyFiles(later.files, record=False)


def undisturbed_end(call):
    """Whatever is called but to let go of files."""
    return call.name not in ("close", "unlock")


def calls_of(option):
    """How many calls an undisturbed repair makes, and what it leaves."""
    log, files = damaged()
    count = 0

    def note(call):
        nonlocal count
        count += 1
        return False

    files.fail(note)
    repair(log.path, files=files, **{option: TARGET})
    return count, facts_of(log)


def facts_of(log):
    """What the target holds; None if there is no such directory."""
    if not log.files.is_directory(TARGET):
        return None
    assert verify(TARGET, files=log.files).ok
    return truth(Log(TARGET, log.files))


def steps(count, option):
    """Which call is disturbed: each in turn; one in 25 for a salvage, whose log is large."""
    return range(1, count + 1) if option == "into" else range(1, count + 1, 25)


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("way", ["fails", "fails from then on", "is interrupted", "is killed"])
def test_g12_whichever_call_fails_what_was_to_be_made_is_whole_or_absent(option, way):
    count, whole = calls_of(option)
    absent = 0
    for nth in steps(count, option):
        log, files = damaged()
        before = log.image()
        if way in ("fails", "fails from then on"):
            files.fail(nth=nth, lasting=way != "fails", number=errno.EIO)
        else:
            files.stall(undisturbed_end, interrupt, nth=nth, lasting=way == "is killed")
        with contextlib.suppress(TreeringError, Interrupted):
            repair(log.path, files=files, **{option: TARGET})
        log, files = copied(log)
        found = facts_of(log)
        assert found in (None, whole), f"{way} at call {nth}"
        if option == "into":
            assert log.image() == before
        if found is None:
            absent += 1
            repair(log.path, files=files, **{option: TARGET})
            assert facts_of(log) == whole, f"{way} at call {nth}, then again"
    assert absent > 5


def test_what_a_failed_repair_had_written_is_removed_again():
    """A full disk is left as full as it was."""
    log, files = damaged()
    before = files.inner.contents().keys()
    files.fail("write", path=".seg", nth=3, number=errno.ENOSPC)
    with pytest.raises(StorageError):
        repair(log.path, files=files, into=TARGET)
    assert {p for p in files.inner.contents() if p.startswith("/new")} == set()
    assert before <= files.inner.contents().keys()


def test_an_empty_directory_may_be_the_target():
    log, files = damaged()
    files.make_directory("/new")
    files.make_directory(TARGET)
    assert repair(log.path, files=files, into=TARGET).state == "copied"
    assert facts_of(log)


STORY = """
import sys, time
import treering
from treering.testing import FaultyFiles

def stop():
    print("there", flush=True)
    time.sleep(60)

files = FaultyFiles(record=False)
files.stall(sys.argv[3], stop, nth=int(sys.argv[4]), path=sys.argv[5])
treering.repair(sys.argv[1], into=sys.argv[2], files=files)
"""


@pytest.mark.skipif(os.name != "posix", reason="kills as POSIX does")
@pytest.mark.parametrize(
    ("call", "nth", "path"), [("write", 2, ".seg"), ("sync", 3, ""), ("rename", 1, "copy")]
)
def test_g12_a_repair_that_is_killed_leaves_no_copy_and_the_next_one_makes_it(
    tmp_path, call, nth, path
):
    log = Log(tmp_path / "log", segment_bytes_max=4096)
    with log.open() as wal:
        fill(wal, 200)
    spoil_frame(log, log.segments()[3], 1)
    copy = str(tmp_path / "copy")
    command = [sys.executable, "-c", STORY, log.path, copy, call, str(nth), path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "there\n"
        child.send_signal(signal.SIGKILL)
    assert not os.path.exists(copy)
    assert [name for name in os.listdir(tmp_path) if name.endswith(".tmp")]
    report = repair(log.path, into=copy)
    assert verify(copy).ok
    assert len(truth(Log(copy))) == report.end > 20
