"""probe: what fsync and appends cost on this disk, and what that means for each policy."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from treering import FsyncPolicy, UsageError, Wal, backend

from . import arguments as given
from .showing import print_json, safe_line

_KEY, _VALUE = b"0123456789abcdef", bytes(100)
_RAW_BYTES = 168  # what a record of this size takes as a frame
_RAW_SIZE = 1 << 20
_THREADS = 16
_SEGMENT_BYTES = 16 << 20

_NETWORK = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "lustre", "glusterfs")
_MEMORY = ("tmpfs", "ramfs")
_OVERLAY = ("overlay", "overlayfs", "aufs")
_COPYING = ("btrfs", "zfs", "bcachefs")


class Cost(NamedTuple):
    """What one policy costs here."""

    policy: str
    appends_per_second: float
    power_cut_loses: str


def add_commands(commands: given.Commands) -> None:
    """probe."""
    text = "measure what fsync and appends cost on a disk"
    parser = commands.add_parser("probe", help=text, description=text)
    parser.set_defaults(run=_probe)
    parser.add_argument("directory", nargs="?", default=".", help="where a log would lie")
    parser.add_argument("--seconds", type=float, default=0.5, help="for each measurement")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _probe(arguments: argparse.Namespace) -> int:
    with _scratch(arguments.directory) as place:
        syncs = _raw_syncs(place, arguments.seconds)
        costs = _costs(place, arguments.seconds)
        with Wal.open(os.path.join(place, "log0"), read_only=True) as wal:
            kind = wal.stats()["file_system"]
    fsync = statistics.median(syncs)
    slow = statistics.quantiles(syncs, n=100)[98] if len(syncs) > 1 else fsync
    facts = {
        "directory": os.path.abspath(arguments.directory),
        "file_system": kind,
        "backend": backend,
        "fsync_seconds_median": fsync,
        "fsync_seconds_p99": slow,
        "policies": [cost._asdict() for cost in costs],
        "warnings": _warnings(kind, fsync),
    }
    if arguments.json:
        print_json(facts)
    else:
        _print(facts, costs)
    return 0


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


def _costs(place: str, seconds: float) -> list[Cost]:
    alone, many = "1 thread", f"{_THREADS} threads"
    runs = [
        ("always", FsyncPolicy.ALWAYS, alone, "nothing that was appended"),
        ("always", FsyncPolicy.ALWAYS, many, "nothing that was appended"),
        ("batch:5", FsyncPolicy.batch(5), alone, "at most the last 5 ms and an fsync"),
        ("os", FsyncPolicy.OS, alone, "what was appended since the last sync()"),
    ]
    costs = []
    for number, (name, policy, how, loses) in enumerate(runs):
        path = os.path.join(place, f"log{number}")
        threads = _THREADS if how == many else 1
        rate = _append_rate(path, policy, threads, seconds)
        costs.append(Cost(f"{name}, {how}", rate, loses))
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


def _print(facts: dict[str, Any], costs: list[Cost]) -> None:
    print(f"{safe_line(facts['directory'])}: {facts['file_system']}, {facts['backend']} build")
    print(
        f"write + fsync of one record: {facts['fsync_seconds_median'] * 1e6:,.0f} us median, "
        f"{facts['fsync_seconds_p99'] * 1e6:,.0f} us p99"
    )
    print(f"{'policy':20} {'appends/s':>12} {'each':>10}  a power cut loses")
    for cost in costs:
        each = 1e6 / cost.appends_per_second if cost.appends_per_second else 0.0
        print(
            f"{cost.policy:20} {cost.appends_per_second:>12,.0f} {each:>7,.1f} us"
            f"  {cost.power_cut_loses}"
        )
    print("kill -9 loses nothing that was appended, under any policy")
    for warning in facts["warnings"]:
        print(f"warning: {warning}")
