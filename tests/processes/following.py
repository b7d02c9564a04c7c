"""Tasks for the tests of followers in other processes."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import statistics
import time

from tests.processes.records import Words
from tests.processes.talk import opened, say, wait_for_gun
from treering import FailedError, PrunedError, TreeringError
from treering.testing import FaultyFiles


def measure_latency(log, count, **options):
    """Follow records that carry the time of their append; how long they took, in microseconds."""
    wal = opened(log, **options)
    latencies = []
    with wal.read_from(follow=True, timeout=30, stop=count) as reader:
        say("following")
        for record in reader:
            latencies.append((time.monotonic_ns() - int(record.value)) / 1000)
    cuts = statistics.quantiles(latencies, n=100)
    say("latency", count=len(latencies), p50=cuts[49], p99=cuts[98])
    wal.close()


def idle(log, seconds, **options):
    """Follow a log in which nothing happens; the share of one processor that took."""
    wal = opened(log, **options)
    end = wal.current_position()
    with wal.read_from(end, follow=True, timeout=0.2) as reader:
        assert list(reader) == []  # whatever is only done once is done
    before, started = os.times(), time.monotonic()
    with wal.read_from(end, follow=True, timeout=seconds) as reader:
        assert list(reader) == []
    after, ended = os.times(), time.monotonic()
    used = after.user - before.user + after.system - before.system
    say("idled", share=used / (ended - started), seconds=ended - started)
    wal.close()


def follow_until_stopped(log, **options):
    """Follow until SIGTERM, whose handler stops the reader."""
    wal = opened(log, **options)
    seen = 0
    with wal.read_from(follow=True) as reader:
        signal.signal(signal.SIGTERM, lambda number, frame: reader.stop())
        say("following")
        for _ in reader:
            seen += 1
            say("seen", count=seen)
    say("stopped", count=seen)
    wal.close()


def lag_behind(log, gun, **options):
    """Read the first record, and go on only when the gun has fired; how that ends."""
    wal = opened(log, **options)
    positions = []
    reader = wal.read_from(follow=True, timeout=2)
    try:
        positions.append(next(reader).position)
        say("lagging")
        wait_for_gun(gun)
        for record in reader:
            positions.append(record.position)
        say("end", positions=positions, error="")
    except TreeringError as error:
        oldest = error.oldest if isinstance(error, PrunedError) else None
        name = type(error).__name__
        say("end", positions=positions, error=name, oldest=oldest)
    reader.close()
    with contextlib.suppress(FailedError):  # of a log that failed, closing tells it
        wal.close()


def fail_to_sync(log, **options):
    """Append, then let an fsync fail: the log is dead for all."""
    files = FaultyFiles()
    wal = opened(log, policy="os", files=files, **options)
    wal.put(b"0", b"")
    files.fail("sync", number=errno.EIO)
    with contextlib.suppress(FailedError):
        wal.sync()
        raise AssertionError("the fsync did not fail")
    say("failed")
    with contextlib.suppress(FailedError):
        wal.close()
        raise AssertionError("it was closed as if all were durable")


def report_durable(log, words, slot, until, **options):
    """Follow what is durable only; words[slot] is how far that is."""
    wal = opened(log, **options)
    counters = Words(words)
    with wal.read_from(follow=True, durable_only=True, stop=until, timeout=30) as reader:
        say("following")
        for record in reader:
            assert record.position < wal.durable_position
            counters[slot] = record.position + 1
    say("end", position=counters[slot])
    wal.close()
