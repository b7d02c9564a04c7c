"""Closing while other threads are busy with the log: they are told, nothing is lost (D10, D13)."""

import gc
import os
import random
import threading
import time

import pytest

from tests._logs import contents, fill, told
from tests.threads._crew import PATIENCE, crew
from treering import ClosedError, FsyncPolicy, PositionError, PrunedError, Record, RewoundError, Wal
from treering.testing import FaultyFiles, MemoryFiles

POLICIES = ["always", "batch:2", "os"]


class Busy:
    """Threads that do everything there is to do on one handle, until they are told it is closed."""

    def __init__(self, wal, seed):
        self.wal = wal
        self.seed = seed
        self.acknowledged = {}  # position: key
        self.rounds = 0
        self.begun = threading.Semaphore(0)

    def start(self, start):
        tasks = [self.put, self.put_durably, self.batch, self.wait, self.read, self.look]
        for number, task in enumerate([*tasks, self.put, self.follow, self.follow_durably]):
            start(self.until_closed, task, random.Random(self.seed * 100 + number))

    def until_closed(self, task, rng):
        self.begun.release()
        while True:
            try:
                task(rng)
                self.rounds += 1
            except ClosedError:
                return
            except (PositionError, PrunedError, RewoundError):
                continue

    def note(self, positions, key):
        for position in positions:
            self.acknowledged[position] = key

    def put(self, rng):
        key = b"put %d" % rng.randrange(10**9)
        self.note([self.wal.put(key, b"v" * rng.randrange(200))], key)

    def put_durably(self, rng):
        key = b"durable %d" % rng.randrange(10**9)
        self.note([self.wal.put(key, b"v", durable=True, headers={"a": b"b"})], key)

    def batch(self, rng):
        key = b"batch %d" % rng.randrange(10**9)
        records = [Record.put(key, b"%d" % n) for n in range(rng.randrange(1, 5))]
        self.note(self.wal.append_batch(records), key)

    def wait(self, rng):
        self.wal.wait_durable(max(self.wal.current_position() - 1, 0))
        self.wal.sync()

    def read(self, rng):
        end = self.wal.current_position()
        record = self.wal.read(rng.randrange(end + 1))
        for _ in zip(range(20), self.wal.read_from(record.position), strict=False):
            pass
        for _ in zip(range(20), self.wal.read_backwards(), strict=False):
            pass

    def look(self, rng):
        self.wal.stats()
        self.wal.pin("me", self.wal.first_position)
        self.wal.unpin("me")

    def follow(self, rng, **options):
        reader = self.wal.read_from(self.wal.current_position(), follow=True, **options)
        for _ in zip(range(50), reader, strict=False):
            pass

    def follow_durably(self, rng):
        end = self.wal.durable_position
        for _ in zip(range(50), self.wal.read_from(end, follow=True, durable_only=True)):  # noqa: B905
            pass


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("seed", range(4))
def test_d10_closing_under_the_feet_of_busy_threads_loses_nothing(either, policy, seed):
    wal = either.open(fsync_policy=FsyncPolicy.parse(policy))
    busy = Busy(wal, seed)
    with crew() as start:
        busy.start(start)
        for _ in range(9):
            busy.begun.acquire(timeout=PATIENCE)
        time.sleep(random.Random(seed).random() * 0.03)
        wal.close()
    assert busy.acknowledged
    with either.open(exclusive=True) as again:
        found = {record.position: record.key for record in again}
        assert found.items() >= busy.acknowledged.items()
        assert sorted(found) == list(range(again.current_position()))
        again.check()


def test_d13_many_threads_may_close_at_once(either):
    for _ in range(10):
        wal = either.open()
        fill(wal, 10)
        together = threading.Barrier(6)

        def close(wal=wal, together=together):
            together.wait()
            wal.close()
            # Whoever comes back from `close` finds the log free, whoever else was closing it.
            either.open(read_only=True).close()
            wal.close()

        with crew() as start:
            for _ in range(6):
                start(close)
        either.open(exclusive=True).close()


def test_d10_a_thread_that_waits_for_an_fsync_is_answered_when_another_one_closes():
    files = FaultyFiles(MemoryFiles())
    wal = Wal.open("/log", files=files)
    inside, goes_on = threading.Event(), threading.Event()

    def stop_here():
        inside.set()
        assert goes_on.wait(PATIENCE)

    files.stall("sync", stop_here, path=".seg")
    with crew() as start:
        puts = [start(wal.put, b"%d" % number, b"") for number in range(8)]
        assert inside.wait(PATIENCE)
        closing = start(wal.close)
        goes_on.set()
        closing.join()
        for hand in puts:
            hand.thread.join(PATIENCE)
            assert hand.error is None or isinstance(hand.error, ClosedError)
            hand.error = None
    with Wal.open("/log", files=files) as again:
        written = {record.key for record in again}
        assert written >= {b"%d" % n for n, hand in enumerate(puts) if hand.result is not None}


def test_d13_a_handle_forgotten_by_its_threads_is_closed_and_loses_nothing(either):
    wal = either.open(fsync_policy=FsyncPolicy.batch(milliseconds=1000))
    with crew() as start:
        start(fill, wal, 50)
    either._handles.clear()
    del wal, start
    gc.collect()
    with either.open(exclusive=True) as again:
        assert contents(again) == told(0, 50)
        assert again.recovery.state == "clean"


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="counts threads as Linux does")
@pytest.mark.parametrize("policy", POLICIES)
def test_d13_closing_ends_the_threads_of_the_handle(disk, policy):
    before = len(os.listdir("/proc/self/task"))
    wal = disk.open(fsync_policy=FsyncPolicy.parse(policy))
    fill(wal, 300)
    assert len(os.listdir("/proc/self/task")) > before
    wal.close()
    deadline = time.monotonic() + PATIENCE
    while len(os.listdir("/proc/self/task")) > before:
        assert time.monotonic() < deadline, "a thread is left"
        time.sleep(0.001)
