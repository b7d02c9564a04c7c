"""The roles that need a process of their own; started by processes.py.

Speaks lines of JSON: {"ready": …} once set up, then it waits for a line, works, and tells what it
measured.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from harness import KEY, VALUE
from long import STORES

import treering
from treering import FsyncPolicy, Wal
from treering.stores.blobs import BlobStore
from treering.stores.messages import MessageLog


def main() -> None:
    role, arguments = sys.argv[1], json.loads(sys.argv[2])
    ROLES[role](**arguments)


def tell(**facts: Any) -> None:
    print(json.dumps(facts), flush=True)


def go() -> None:
    """Wait for the word."""
    tell(ready=os.getpid())
    sys.stdin.readline()


def append_for(path: str, policy: str, seconds: float) -> None:
    """Append for so many seconds; how many there were."""
    with Wal.open(path, fsync_policy=FsyncPolicy.parse(policy)) as wal:
        put = wal.put
        step = 1 if policy == "always" else 200
        go()
        count = 0
        started = now = time.perf_counter()
        while now < started + seconds:
            for _ in range(step):
                put(KEY, VALUE)
            count += step
            now = time.perf_counter()
        tell(count=count, seconds=now - started)
        sys.stdin.readline()  # closing would disturb those who still count


def open_and_die(path: str, records: int) -> None:
    """Open a log, tell how long it took, append and die by kill -9."""
    started = time.perf_counter()
    wal = Wal.open(path, fsync_policy=FsyncPolicy.OS, exclusive=True)
    tell(seconds=time.perf_counter() - started, scanned=wal.recovery.scanned_bytes)
    left, segments = records, _segments(path)
    while left > 0:
        for _ in range(1000):
            wal.put(KEY, VALUE)
        left -= 1000
        if (now := _segments(path)) != segments:  # rolled: the newest one has to be filled
            left, segments = records, now
    os.kill(os.getpid(), signal.SIGKILL)


def _segments(path: str) -> int:
    return sum(name.endswith(".seg") for name in os.listdir(path))


def open_clean(path: str) -> None:
    """Open a log that was closed, tell how long it took, close it."""
    started = time.perf_counter()
    with Wal.open(path, fsync_policy=FsyncPolicy.OS) as wal:
        tell(seconds=time.perf_counter() - started, scanned=wal.recovery.scanned_bytes)


def follow(path: str, count: int) -> None:
    """Follow the log; how long after its append each record was seen (it carries the time)."""
    clock = time.monotonic_ns
    delays = []
    with Wal.open(path, fsync_policy=FsyncPolicy.OS) as wal:
        records = iter(wal.read_from(wal.current_position(), follow=True))
        go()
        for record in records:
            delays.append(clock() - int.from_bytes(record.value[:8], "little"))
            if len(delays) == count:
                break
        tell(delays=delays)
        for _ in records:  # sleeps until it is killed: its idle CPU time is looked at from outside
            pass


def follow_messages(path: str, count: int) -> None:
    """Follow a topic; how long after its publish each message was seen (it carries the time)."""
    clock = time.monotonic_ns
    delays = []
    with MessageLog(path, fsync_policy=FsyncPolicy.OS) as log:
        found = log.consume_from("news", follow=True)
        go()
        for message in found:
            delays.append(clock() - int.from_bytes((message.value or b"")[:8], "little"))
            if len(delays) == count:
                break
        tell(delays=delays)


def receive(count: int, descriptor: int) -> None:
    """The same over a pipe."""
    clock = time.monotonic_ns
    delays = []
    go()
    for _ in range(count):
        sent = os.read(descriptor, 8)
        delays.append(clock() - int.from_bytes(sent, "little"))
    tell(delays=delays)


def memory(path: str, what: str) -> None:
    """How far replay, verify or follow raise the process's peak memory."""
    work = MEMORY[what]
    before = _reset_peak()
    work(path)
    tell(before=before, peak=_peak())


def _replay(path: str) -> None:
    with Wal.open(path, fsync_policy=FsyncPolicy.OS) as wal:
        for _ in wal.read_from(0):
            pass


def _follow(path: str) -> None:
    with Wal.open(path, read_only=True) as wal:
        for _ in wal.read_from(0, follow=True, timeout=0.2):
            pass


def _verify(path: str) -> None:
    treering.verify(path)


def _blob_of(mib: int, path: str) -> None:
    with BlobStore(path, fsync_policy=FsyncPolicy.OS) as store:
        block = os.urandom(1 << 20)
        ref = store.put(n.to_bytes(8, "little") + block[8:] for n in range(mib))
        with store.open(ref) as file:
            while file.read(1 << 20):
                pass
        assert store.verify().ok


def open_store(path: str, kind: str) -> None:
    """Open a store, tell how long it took and how much memory it holds then."""
    before, started = _resident(), time.perf_counter()
    with STORES[kind][0](path, fsync_policy=FsyncPolicy.OS, checkpoint_bytes=None):
        tell(seconds=time.perf_counter() - started, memory=_resident() - before)


def _resident() -> int:
    with open("/proc/self/statm", encoding="ascii") as numbers:
        return int(numbers.read().split()[1]) * resource.getpagesize()


MEMORY: dict[str, Callable[[str], None]] = {
    "replay": _replay,
    "verify": _verify,
    "follow": _follow,
    **{f"blob of {mib} MiB": partial(_blob_of, mib) for mib in (16, 64, 512)},
}


def _reset_peak() -> int:
    """The memory in use; the peak starts again from here, where the system can do that."""
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        pass
    return _peak()


def _peak() -> int:
    try:
        with open("/proc/self/status") as file:
            fields = dict(line.split(":", 1) for line in file)
        return int(fields["VmHWM"].split()[0]) * 1024
    except (OSError, KeyError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def pure(path: str, count: int) -> None:
    """Append and replay rates of this build; once for every line read."""
    clock = time.perf_counter
    assert treering.backend == "python", treering.backend
    tell(ready=os.getpid())
    with Wal.open(path, fsync_policy=FsyncPolicy.OS) as wal:
        for _ in sys.stdin:
            put = wal.put
            started = clock()
            for _ in range(count):
                put(KEY, VALUE)
            appended = clock()
            for _ in wal.read_from(0):  # from the start: elsewhere it looks for the place first
                pass
            replayed = wal.current_position() / (clock() - appended)
            tell(append=count / (appended - started), replay=replayed)


ROLES: dict[str, Callable[..., None]] = {
    "append_for": append_for,
    "open_and_die": open_and_die,
    "open_clean": open_clean,
    "follow": follow,
    "follow_messages": follow_messages,
    "receive": receive,
    "memory": memory,
    "open_store": open_store,
    "pure": pure,
}

if __name__ == "__main__":
    main()
