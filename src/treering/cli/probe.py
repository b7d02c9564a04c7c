"""The command `probe`: what appends and fsyncs cost on this disk, and what to think of it."""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import treering
from treering import FsyncPolicy, Wal

from .output import Output

_SECONDS_EACH = 0.5
_BLOCK = b"x" * 168
_RESERVED_BYTES = 16 << 20
_NETWORK = {"nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "fuse", "fuseblk", "virtiofs", "glusterfs"}
_MEMORY = {"tmpfs", "ramfs"}


def add_commands(commands: Any) -> None:
    """Add this module's command to the parser."""
    parser = commands.add_parser(
        "probe", help="measure what appends and fsyncs cost here", description=__doc__
    )
    parser.add_argument("path", nargs="?", default=".", metavar="DIR", help="where (.)")
    parser.add_argument("--json", action="store_true", help="print JSON, for machines")
    parser.set_defaults(run=run_probe)


def run_probe(arguments: argparse.Namespace, output: Output) -> int:
    """`treering probe`."""
    if not os.path.isdir(arguments.path):
        raise treering.UsageError("there is no such directory", path=arguments.path)
    try:
        folder = tempfile.mkdtemp(prefix="treering-probe-", dir=arguments.path)
    except OSError as error:
        raise treering.StorageError(
            f"cannot write here: {error.strerror}", path=arguments.path
        ) from error
    try:
        result = _measure(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    output.data(result)
    _tell(result, output)
    return 0


def _measure(folder: str) -> dict[str, Any]:
    result: dict[str, Any] = {"backend": treering.backend}
    result["raw_write_and_fsync_us"] = _raw_us(folder)
    for policy in (FsyncPolicy.ALWAYS, FsyncPolicy.batch(), FsyncPolicy.OS):
        with Wal.open(os.path.join(folder, policy.name), fsync_policy=policy) as wal:
            result[f"{policy.name}_append_us"] = _median_us(lambda: wal.put(b"k" * 16, b"v" * 100))
            result["file_system"] = wal.stats()["file_system"]
    result["warnings"] = _warnings(result)
    return result


def _raw_us(folder: str) -> float:
    """A small write and fdatasync on a reserved file: what any durable append costs at least."""
    descriptor = os.open(os.path.join(folder, "raw"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.truncate(descriptor, _RESERVED_BYTES)
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(descriptor, 0, _RESERVED_BYTES)
        os.fsync(descriptor)
        sync = getattr(os, "fdatasync", os.fsync)
        offset = 0

        def write() -> None:
            nonlocal offset
            os.lseek(descriptor, offset, os.SEEK_SET)
            os.write(descriptor, _BLOCK)
            sync(descriptor)
            offset = (offset + len(_BLOCK)) % (_RESERVED_BYTES - len(_BLOCK))

        return _median_us(write)
    finally:
        os.close(descriptor)


def _median_us(action: Callable[[], object]) -> float:
    """The median time of a call in microseconds, over half a second."""
    times = []
    until = time.perf_counter() + _SECONDS_EACH
    while (started := time.perf_counter()) < until:
        action()
        times.append(time.perf_counter() - started)
    return round(statistics.median(times) * 1e6, 3)


def _warnings(result: dict[str, Any]) -> list[str]:
    kind = result["file_system"]
    found = []
    if kind.split(".")[0] in _NETWORK:
        found.append(
            f"{kind} is a network or user-space file system: durability is not promised here"
        )
    if kind in _MEMORY:
        found.append(f"{kind} lives in memory: nothing survives a restart, whatever is fsynced")
    if kind == "overlay":
        found.append("overlay: a container's own layer goes with the container; mount a volume")
    if kind not in _MEMORY and result["raw_write_and_fsync_us"] < 20:
        found.append("an fsync this fast has not reached a disk: a write cache may lie about it")
    if treering.backend == "python":
        found.append(
            "the native build is missing: appends are 10 to 20 times slower than they could be"
        )
    return found


def _tell(result: dict[str, Any], output: Output) -> None:
    raw, always = result["raw_write_and_fsync_us"], result["always_append_us"]
    output.say(f"file system        {result['file_system']}, {result['backend']} build")
    output.say(f"write + fsync      {raw:.1f} us, the floor for anything durable")
    output.say(
        f"ALWAYS             {always:.1f} us an append ({1e6 / always:,.0f}/s by one thread; "
        "concurrent appends share fsyncs)"
    )
    for name, loses in (("batch", "5 ms"), ("os", "up to the last sync()")):
        cost = result[f"{name}_append_us"]
        output.say(
            f"{name.upper():18} {cost:.2f} us an append ({1e6 / cost:,.0f}/s); "
            f"a power failure takes {loses}"
        )
    for warning in result["warnings"]:
        output.say(f"warning: {warning}")
