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
from tests.processes.talk import fire
from treering import FsyncPolicy, WaitTimeoutError, Wal


def wait_until_stopped(worker) -> None:
    stat = Path(f"/proc/{worker.pid}/stat")
    while stat.read_text().rpartition(")")[2].split()[0] != "T":
        time.sleep(0.001)


@pytest.fixture
def waiter(tmp_path, nursery):
    """Starts a process that appends, durably or not, when its gun is fired."""
    gun = str(tmp_path / "gun")

    def start(**options):
        worker = nursery.start("append_patiently", log=str(tmp_path / "log"), gun=gun, **options)
        worker.hear("open")
        return worker, lambda: fire(gun)

    return start


@pytest.mark.parametrize("lock", ["auto", "file"])
@pytest.mark.parametrize("end", ["continued", "killed"])
def test_a_stopped_appender_makes_the_others_wait_but_not_for_ever(
    tmp_path, nursery, waiter, lock, end
):
    """D9, D10, G13: with the lock held by a stopped process others wait, can be interrupted with
    Ctrl-C, and go on when it is continued, or at once when it is killed."""
    log = str(tmp_path / "log")
    other, fire_gun = waiter(process_lock=lock)
    holder = nursery.start("hold_append_lock", log=log, policy="os", process_lock=lock)
    holder.hear("holding")
    wait_until_stopped(holder)
    fire_gun()
    other.hear("waiting")
    assert not other.heard_within("appended", 0.2)
    other.signal(signal.SIGINT)
    other.hear("interrupted")
    assert not other.heard_within("appended", 0.1)
    holder.signal(signal.SIGCONT if end == "continued" else signal.SIGKILL)
    other.hear("appended")
    other.finish()
    assert holder.wait() == (0 if end == "continued" else -signal.SIGKILL)
    with Wal.open(log, process_lock=lock) as wal:
        assert wal.recovery.damage == ()
        keys = [record.key for record in wal.read_from()]
        assert keys == ([b"0", b"2"] if end == "continued" else [b"2"])


@pytest.mark.parametrize("end", ["continued", "killed"])
def test_a_stopped_leader_holds_up_durability_but_no_append(tmp_path, nursery, waiter, end):
    """D9, D10: while the process that fsyncs for all is stopped, appends go on; who waits for
    durability can be interrupted or give up, and is served afterwards."""
    log = str(tmp_path / "log")
    other, fire_gun = waiter(policy="os", durable=True)
    with Wal.open(log, fsync_policy=FsyncPolicy.OS) as wal:
        leader = nursery.start("hold_sync_lock", log=log)
        leader.hear("holding")
        wait_until_stopped(leader)
        position = wal.put(b"mine", b"")
        with pytest.raises(WaitTimeoutError):
            wal.wait_durable(position, timeout=0.1)
        fire_gun()
        other.hear("waiting")
        assert not other.heard_within("not interrupted", 0.1)
        other.signal(signal.SIGINT)
        other.hear("interrupted")
        leader.signal(signal.SIGCONT if end == "continued" else signal.SIGKILL)
        other.hear("appended")
        other.finish()
        wal.wait_durable(position, timeout=10)
    assert leader.wait() == (0 if end == "continued" else -signal.SIGKILL)


@pytest.mark.parametrize("policy", ["os", "batch:2", "always"])
@pytest.mark.parametrize("exclusive", [False, True], ids=["shared", "exclusive"])
def test_a_storm_of_interrupts_loses_and_doubles_nothing(
    tmp_path, words, nursery, policy, exclusive
):
    """D10, G14: Ctrl-C again and again; what had returned is there once, what was interrupted is
    there once or not at all, batches are whole, and under BATCH the deadline still works."""
    log = str(tmp_path / "log")
    rng = Random(f"{policy} {exclusive}")
    worker = nursery.start(
        "weather_a_storm",
        log=log,
        words=words.path,
        seed=1,
        policy=policy,
        exclusive=exclusive,
        segment_bytes_max=16 << 10,
    )
    worker.hear("storm")
    for _ in range(150):
        time.sleep(rng.random() * 0.003)
        worker.signal(signal.SIGINT)
    words[0] = 1
    worker.signal(signal.SIGINT)
    told = worker.hear("over")
    worker.finish()
    assert told["interrupted"] > 20
    assert told["durable"], "an interrupted append took the deadline along"
    with Wal.open(log) as wal:
        assert wal.recovery.damage == ()
        found = [HEAD.unpack_from(record.value)[1:] for record in wal.read_from()]
    calls = [sequence - index for sequence, index, _ in found]
    whole = {sequence: size for sequence, index, size in found if index == 0}
    for number, size in whole.items():
        assert calls.count(number) == size
    assert list(dict.fromkeys(calls)) == sorted(whole)
    for number in range(1, told["numbers"] + 1):
        assert number in whole or not words[STORM_FROM + number], f"lost: {number}"


def test_an_interrupt_never_leaves_an_append_without_its_deadline(tmp_path):
    """D3, D10, G14: Ctrl-C at any step of setting the deadline off; the next append is durable
    within its window all the same."""
    assert run_alone("interrupt_the_deadline", log=str(tmp_path / "log")) > 5
