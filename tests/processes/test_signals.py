"""Processes that are stopped, continued, killed while stopped, and interrupted all the time."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from random import Random

import pytest

from tests.processes.nursery import run_alone
from tests.processes.records import HEAD
from tests.processes.signals import STORM_FROM
from treering import FsyncPolicy, Wal, WaitTimeoutError


def wait_until_stopped(worker) -> None:
    stat = Path(f"/proc/{worker.pid}/stat")
    while stat.read_text().rpartition(")")[2].split()[0] != "T":
        time.sleep(0.001)


@pytest.mark.parametrize("lock", ["auto", "file"])
@pytest.mark.parametrize("end", ["continued", "killed"])
def test_a_stopped_appender_makes_the_others_wait_but_not_for_ever(tmp_path, nursery, lock, end):
    """D9, D10, G13: with the lock held by a stopped process others wait, can be interrupted with
    Ctrl-C, and go on when it is continued, or at once when it is killed."""
    log = str(tmp_path / "log")
    holder = nursery.start("hold_append_lock", log=log, policy="os", process_lock=lock)
    holder.hear("holding")
    wait_until_stopped(holder)
    waiter = nursery.start("append_patiently", log=log, process_lock=lock)
    waiter.hear("waiting", 20) if waiter.heard("open") else None
    time.sleep(0.3)
    assert not waiter.heard("appended")
    waiter.signal(signal.SIGINT) if waiter.heard("waiting") else None
    holder.signal(signal.SIGCONT if end == "continued" else signal.SIGKILL)
    holder.wait()
    waiter.hear("appended")
    waiter.finish()
