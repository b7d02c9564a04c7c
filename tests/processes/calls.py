"""Tasks whose system calls are counted. `mark` tells one part of a task from the next."""

from __future__ import annotations

import contextlib
import os
import threading
import time

from tests.processes.signals import comes_true
from treering import START, FsyncPolicy, Wal

SEGMENT_BYTES = 4 << 20
MARK = "/treering-mark/"


def mark(name: str) -> None:
    """A system call that does nothing and is seen in the trace."""
    with contextlib.suppress(OSError):
        os.mkdir(MARK + name)


def open_log(log, policy, **options) -> Wal:
    return Wal.open(
        log, fsync_policy=FsyncPolicy.parse(policy), segment_bytes_max=SEGMENT_BYTES, **options
    )


def append_always(log, count, exclusive):
    wal = open_log(log, "always", exclusive=exclusive)
    mark("append")
    for _ in range(count):
        wal.put(b"k", b"v")
    mark("close")
    wal.close()


def append_in_threads(log, threads, count):
    wal = open_log(log, "always")

    def work():
        for _ in range(count):
            wal.put(b"k", b"v")

    workers = [threading.Thread(target=work) for _ in range(threads)]
    mark("append")
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    mark("close")
    wal.close()


def append_in_processes(log, processes, count):
    wal = open_log(log, "always")
    mark("append")
    pids = []
    for _ in range(processes):
        pid = os.fork()
        if pid == 0:
            for _ in range(count):
                wal.put(b"k", b"v")
            os._exit(0)
        pids.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * processes
    mark("close")
    assert wal.durable_position == wal.current_position() == processes * count
    wal.close()


def append_steadily(log, window, seconds):
    """Appends under BATCH for some time; how long it was."""
    wal = open_log(log, f"batch:{window}")
    mark("append")
    started = time.monotonic()
    while time.monotonic() - started < seconds:
        wal.put(b"k", b"v")
        time.sleep(0.0005)
    elapsed = time.monotonic() - started
    mark("close")
    wal.close()
    return elapsed


def append_once(log, window):
    """One append under BATCH, and then nothing; when it was durable, in seconds."""
    wal = open_log(log, f"batch:{window}")
    mark("append")
    started = time.monotonic()
    position = wal.put(b"k", b"v")
    page = wal._engine.control.load
    assert comes_true(lambda: page(32) > position)  # only looks: calls nothing of the log
    elapsed = time.monotonic() - started
    time.sleep(5 * window / 1000)
    mark("close")
    wal.close()
    return elapsed


def append_unsynced(log, count):
    """Appends under OS, then sync, sync again, and close."""
    wal = open_log(log, "os")
    mark("append")
    for _ in range(count):
        wal.put(b"k", b"v")
    mark("sync")
    wal.sync()
    mark("again")
    wal.sync()
    mark("wait")
    wal.wait_durable(0)
    mark("more")
    wal.put(b"k", b"v")
    mark("close")
    wal.close()


def only_read(log):
    """Everything that a read-only handle can do."""
    mark("read")
    with Wal.open(log, read_only=True) as wal:
        end = wal.current_position()
        assert sum(1 for _ in wal) == end - wal.first_position
        assert next(wal.read_backwards()).position == end - 1
        wal.read(end - 1)
        list(wal.read_from(time=0.0, follow=True, timeout=0.05))
        list(wal.read_from(START, durable_only=True))
        wal.stats()
        wal.pins()
        wal.check()
    mark("end")
