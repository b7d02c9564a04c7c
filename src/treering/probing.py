"""What fsync and appends cost on a disk: `treering.probe`; `treering probe` in a shell."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from ._core.codec import backend
from ._core.errors import UsageError
from ._core.options import FsyncPolicy
from ._core.wal import Wal

_KEY, _VALUE = b"0123456789abcdef", bytes(100)
_RAW_BYTES = 168  # what a record of this size takes as a frame
_RAW_SIZE = 1 << 20
_THREADS = 16
_SEGMENT_BYTES = 16 << 20

_NETWORK = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "lustre", "glusterfs")
_MEMORY = ("tmpfs", "ramfs")
_OVERLAY = ("overlay", "overlayfs", "aufs")
_COPYING = ("btrfs", "zfs", "bcachefs")


class PolicyCost(NamedTuple):
    """What one policy costs here: appends of 100 bytes."""

    policy: str
    threads: int
    appends_per_second: float
    power_cut_loses: str


@dataclasses.dataclass(frozen=True, slots=True)
class ProbeReport:
    """What was measured in a directory. Times in seconds; `fsync_…` are of a raw write and its
    fsync, without treering. `warnings`: why a log may not belong there, in words."""

    directory: str
    file_system: str
    backend: str
    fsync_seconds_median: float
    fsync_seconds_p99: float
    policies: tuple[PolicyCost, ...]
    warnings: tuple[str, ...]

    def rate(self, policy: str) -> float:
        """Appends a second of one thread under a policy (`always`, `batch…`, `os`)."""
        name = policy.partition(":")[0]
        found = next(c for c in self.policies if c.policy.startswith(name) and c.threads == 1)
        return found.appends_per_second


def probe(directory: str | os.PathLike[str] = ".", *, seconds: float = 0.5) -> ProbeReport:
    """Measure what fsync and appends cost on the disk of a directory: blocks for five times
    `seconds`, and leaves nothing behind. UsageError when there is no such directory; OSError,
    StorageError and DiskFullError when it cannot be written to."""
    directory = os.fspath(directory)
    with _scratch(directory) as place:
        syncs = _raw_syncs(place, seconds)
        costs = _costs(place, seconds)
        with Wal.open(os.path.join(place, "log0"), read_only=True) as wal:
            kind = wal.stats()["file_system"]
    fsync = statistics.median(syncs)
    slow = statistics.quantiles(syncs, n=100)[98] if len(syncs) > 1 else fsync
    warnings = tuple(_warnings(kind, fsync))
    return ProbeReport(
        os.path.abspath(directory), kind, backend, fsync, slow, tuple(costs), warnings
    )


@contextlib.contextmanager
def _scratch(directory: str) -> Iterator[str]:
    if not os.path.isdir(directory):
        raise UsageError("there is no such directory", path=directory)
    place = tempfile.mkdtemp(prefix=".treering-probe-", dir=directory)
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


# --- Measuring -----------------------------------------------------------------------------------


def _raw_syncs(place: str, seconds: float) -> list[float]:
    """How long a small write and its fsync take, without treering."""
    sync = getattr(os, "fdatasync", os.fsync)
    found: list[float] = []
    file = os.open(os.path.join(place, "raw"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.write(file, bytes(_RAW_SIZE))
        os.fsync(file)
        until, offset = time.monotonic() + seconds, 0
        while time.monotonic() < until or not found:
            started = time.perf_counter()
            os.lseek(file, offset, os.SEEK_SET)
            os.write(file, bytes(_RAW_BYTES))
            sync(file)
            found.append(time.perf_counter() - started)
            offset = (offset + _RAW_BYTES) % (_RAW_SIZE - _RAW_BYTES)
    finally:
        os.close(file)
    return found


def _costs(place: str, seconds: float) -> list[PolicyCost]:
    runs = [
        (FsyncPolicy.ALWAYS, 1, "nothing that was appended"),
        (FsyncPolicy.ALWAYS, _THREADS, "nothing that was appended"),
        (FsyncPolicy.batch(5), 1, "at most the last 5 ms and an fsync"),
        (FsyncPolicy.OS, 1, "what was appended since the last sync()"),
    ]
    costs = []
    for number, (policy, threads, loses) in enumerate(runs):
        path = os.path.join(place, f"log{number}")
        rate = _append_rate(path, policy, threads, seconds)
        costs.append(PolicyCost(str(policy), threads, rate, loses))
    return costs


def _append_rate(path: str, policy: FsyncPolicy, threads: int, seconds: float) -> float:
    """Appends per second of so many threads, for about so long."""
    with Wal.open(path, fsync_policy=policy, segment_bytes_max=_SEGMENT_BYTES) as wal:
        wal.put(_KEY, _VALUE)
        counts = [0] * threads
        until = time.monotonic() + seconds
        workers = [
            threading.Thread(target=_append_until, args=(wal.put, until, counts, number))
            for number in range(threads)
        ]
        started = time.monotonic()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        rate = sum(counts) / (time.monotonic() - started)
        wal.truncate_before(wal.current_position())
        return rate


def _append_until(
    put: Callable[[bytes, bytes], int], until: float, counts: list[int], number: int
) -> None:
    done = 0
    while time.monotonic() < until:
        for _ in range(10):
            put(_KEY, _VALUE)
        done += 10
    counts[number] = done


# --- Judging -------------------------------------------------------------------------------------


def _warnings(kind: str, fsync: float) -> list[str]:
    found: list[str] = []
    if kind in _NETWORK or kind.startswith("fuse"):
        found.append(
            f"{kind} is a network or user-space file system: locks, shared mappings and fsync may "
            "not do what treering rests on; put the log on a local disk"
        )
    if kind in _MEMORY:
        found.append(f"{kind} is memory: nothing here survives a restart, whatever the policy")
    if kind in _OVERLAY:
        found.append(
            f"{kind} is a container's layer: it goes with the container, and is slow to write; "
            "mount a volume for the log"
        )
    if kind in _COPYING:
        found.append(f"{kind} copies on write: the tail is written by pwrite, appends cost more")
    if fsync < 20e-6 and kind not in _MEMORY:
        found.append(
            "an fsync takes next to no time: the device or the virtual machine may not flush at "
            "all, and then nothing survives a power cut"
        )
    if fsync > 20e-3:
        found.append("an fsync is slow here: prefer batch, or many threads under always")
    if backend != "native":
        found.append("the native build is missing: appends and reads are 5 to 20 times slower")
    return found
