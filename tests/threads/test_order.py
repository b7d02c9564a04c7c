"""G15: threads on one handle: what order they see, and what an acknowledgement means."""

import random
import threading
import time

import pytest

from tests.threads._crew import Gate, Watched, crew
from treering import FsyncPolicy, Record, Wal
from treering.testing import FaultyFiles, MemoryFiles, PowerCutFiles

POLICIES = {
    "always": FsyncPolicy.ALWAYS,
    "batch": FsyncPolicy.batch(milliseconds=2),
    "os": FsyncPolicy.OS,
}


@pytest.mark.parametrize("policy", POLICIES)
def test_g15_each_threads_records_lie_in_the_order_in_which_its_calls_returned(either, policy):
    wal = either.open(fsync_policy=POLICIES[policy])
    threads, count = 8, 60
    together = threading.Barrier(threads)

    def work(number):
        together.wait()
        return [position for step in range(count) for position in append(wal, number, step)]

    with crew() as start:
        hands = [start(work, number) for number in range(threads)]
    returned = [hand.result for hand in hands]
    for number, positions in enumerate(returned):
        assert positions == sorted(set(positions))
        found = [wal.read(position) for position in positions]
        assert [record.key for record in found] == keys(number, count)
    everything = sorted(position for positions in returned for position in positions)
    assert everything == list(range(wal.current_position()))
    wal.check()


def append(wal, number, step):
    """One of the ways to append; the positions."""
    key = b"%d/%d" % (number, step)
    if step % 7 == 3:
        return wal.append_batch([(key, b"first"), Record.put(key, b"second")])
    if step % 7 == 5:
        return [wal.append(Record.put(key, b"v", headers={"n": b"1"}))]
    if step % 7 == 6:
        return [wal.delete(key)]
    return [wal.put(key, b"v" * (step % 50))]


def keys(number, count):
    """The keys that `append` gave the records of one thread."""
    steps = [step for step in range(count) for _ in range(1 + (step % 7 == 3))]
    return [b"%d/%d" % (number, step) for step in steps]


def test_g15_what_was_written_during_an_fsync_waits_for_the_next_one():
    files = FaultyFiles(PowerCutFiles())
    wal = Wal.open("/log", files=files)
    gate = Gate()
    files.stall("sync", gate.wait, path=".seg", lasting=True)
    with crew() as start:
        first = start(wal.put, b"first", b"")
        gate.let_in()
        # The fsync for the first record has begun. The second comes too late for it.
        second = start(wal.put, b"second", b"")
        until(lambda: wal.current_position() == 2)
        gate.let_one_through()
        assert first.join() == 0
        gate.let_in()
        assert wal.durable_position == 1
        assert second.thread.is_alive()
        gate.open()
        assert second.join() == 1
    assert wal.durable_position == 2
    wal.close()


@pytest.mark.parametrize("lock", ["auto", "file"])
@pytest.mark.parametrize("seed", range(3))
def test_g15_whoever_is_acknowledged_was_in_place_when_a_finished_fsync_began(lock, seed):
    random_pause = random.Random(seed).random
    files = Watched(lambda: time.sleep(random_pause() * 0.0005))
    wal = files.wal = Wal.open("/log", files=files, segment_bytes_max=4096, process_lock=lock)
    early = []

    def work(number):
        for step in range(25):
            position = wal.put(b"%d/%d" % (number, step), b"v")
            if not files.covers(position):
                early.append(position)

    with crew() as start:
        for number in range(12):
            start(work, number)
    assert not early, "acknowledged before any fsync that can have covered them had ended"
    assert files.syncs < 300, "nobody shared an fsync"
    files.wal = None
    wal.close()


def test_g15_waiting_threads_share_one_fsync():
    files = FaultyFiles(MemoryFiles())
    wal = Wal.open("/log", files=files)
    gate = Gate()
    files.stall("sync", gate.wait, path=".seg", lasting=True)
    with crew() as start:
        start(wal.put, b"leader", b"")
        gate.let_in()
        files.forget()
        for number in range(40):
            start(wal.put, b"%d" % number, b"")
        until(lambda: wal.current_position() == 41)
        gate.open()
    # The one that was running, and one for all forty.
    assert files.count("sync", path=".seg") == 1
    wal.close()


def until(true):
    """Return when it is true."""
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.0005)
