"""Programs on a log, each of which looks at one promise from close by.

A workload is a function of a `Driver`: the log, its model, and a camera that takes a picture after
each call. All chance comes from the driver's `rng`.
"""

from __future__ import annotations

import dataclasses
import os
import random
import threading
import time
from collections.abc import Callable
from typing import Any

from treering import FsyncPolicy, Record, Wal
from treering._core import format as fmt
from treering.testing import FakeClock, PowerCutFiles

from .harness import LOG, abandon, do_chores
from .ledger import CrowdLedger, Ledger, fields_of
from .powercut import Camera

SIZES = (0, 1, 16, 16, 100, 100, 100, 300, 460, 600, 1500)


class Driver:
    """One log under observation: does things to it and tells the ledger."""

    def __init__(
        self,
        files: PowerCutFiles,
        ledger: Ledger,
        rng: random.Random,
        options: dict[str, Any],
        camera: Camera | None = None,
    ) -> None:
        self.files = files
        self.ledger = ledger
        self.rng = rng
        self.options = options
        self.camera = camera
        self.wals: list[Wal] = []
        # Space that is all zeros counts as never written in PowerCutFiles, so a value of zeros may
        # only be there if lost space reads as zeros, too.
        self.zeros = False

    @property
    def wal(self) -> Wal:
        """The handle to use now: with two of them, one or the other."""
        return self.wals[0] if len(self.wals) == 1 else self.rng.choice(self.wals)

    def durable(self) -> int:
        """What the log itself reports as durable; for the camera."""
        return max((wal.durable_position for wal in self.wals if not wal.closed), default=0)

    def look(self, what: str) -> None:
        """Chores, then a picture."""
        for wal in self.wals:
            do_chores(wal)
        if self.camera is not None:
            self.camera.take(f"after {what}")

    # --- opening and ending ------------------------------------------------------------------

    def open(self, handles: int = 1, **changes: Any) -> None:
        """Open the log; everything that it shows is durable from then on."""
        options = {**self.options, **changes}
        for _ in range(handles):
            self.wals.append(Wal.open(LOG, files=self.files, **options))
        self.ledger.synced()
        self.look("open")

    def close(self) -> None:
        """Close all handles; closing makes everything durable."""
        while self.wals:
            self.wals[0].close()
            self.wals.pop(0)
        self.ledger.synced()
        self.look("close")

    # --- appending ---------------------------------------------------------------------------

    def fields(self) -> tuple[Any, ...]:
        """A record's content."""
        rng = self.rng
        key = f"{self.ledger.end}".encode() + b"k" * rng.choice((0, 0, 3, 20))
        size = rng.choice(SIZES)
        value = rng.randbytes(size) if rng.random() < 0.7 else bytes([rng.randint(1, 255)]) * size
        if self.zeros and rng.random() < 0.1:
            value = bytes(size)
        if rng.random() < 0.04 and self.wals:
            value = self._own_bytes()
        return (key, value, False, 0, {}, None)

    def _own_bytes(self) -> bytes:
        """Bytes of the log itself as a value: frames inside frames."""
        contents = [data for path, data in self.files.contents().items() if path.endswith(".seg")]
        own = self.rng.choice(contents)[:700] if contents else b""
        return own if self.zeros else own.replace(b"\0", b"\1")

    def put(self, *, durable: bool = False) -> int:
        """Append one record by the shortest way."""
        fields = self.fields()
        wal = self.wal
        self.ledger.appending([fields])
        position = wal.put(fields[0], fields[1], durable=durable)
        return self._appended(wal, position, 1, durable)

    def delete(self) -> int:
        """Append a tombstone."""
        wal, key = self.wal, b"%d" % self.ledger.end
        self.ledger.appending([(key, b"", True, 0, {}, None)])
        return self._appended(wal, wal.delete(key), 1, False)

    def batch(self, count: int, *, durable: bool = False) -> int:
        """Append records as one batch, half of them with all options."""
        records = [self._record() for _ in range(count)]
        self.ledger.appending([fields_of(record) for record in records])
        wal = self.wal
        positions = wal.append_batch(records, durable=durable)
        assert len(positions) == count
        return self._appended(wal, positions[0], count, durable)

    def _record(self) -> Record:
        key, value, *_ = self.fields()
        if self.rng.random() < 0.5:
            return Record(key, value)
        return Record(
            key,
            value,
            headers={"type": b"x" * self.rng.choice((1, 40))},
            stream=self.rng.randrange(4),
            expires_at_ns=self.rng.randrange(1, 1 << 60),
            timestamp_ns=self.rng.randrange(1, 1 << 60),
        )

    def _appended(self, wal: Wal, position: int, count: int, durable: bool) -> int:
        end = self.ledger.end
        assert position == end - count, f"D11: got position {position}, not {end - count}"
        operation, self.files.on_operation = self.files.on_operation, None
        times = [record.timestamp_ns or 0 for record in wal.read_from(position, stop=end)]
        self.files.on_operation = operation
        policy = self.options.get("fsync_policy", FsyncPolicy.ALWAYS)
        self.ledger.appended(times, durable=durable or policy == FsyncPolicy.ALWAYS)
        self.look("append")
        return position

    def sync(self) -> None:
        """Make all durable."""
        if self.rng.random() < 0.5 or not self.ledger.end:
            self.wal.sync()
        else:
            self.wal.wait_durable(self.ledger.end - 1)
        self.ledger.synced()
        self.look("sync")

    # --- truncating --------------------------------------------------------------------------

    def cut(self, end: int) -> None:
        """Remove the records from `end` on."""
        self.ledger.cutting(end)
        self.wal.truncate_after(end)
        self.ledger.cut(end)
        self.look("truncate_after")

    def prune(self, position: int) -> None:
        """Remove whole segments before `position`."""
        self.ledger.pruning(position)
        first = self.wal.truncate_before(position)
        if position == self.ledger.end:
            # The tail was left for a new segment, which made all durable.
            self.ledger.synced()
        self.ledger.pruned(first)
        self.look("truncate_before")

    def somewhere(self) -> int:
        """A position to truncate at: mostly near the end, sometimes an end or a border."""
        first, end = self.ledger.first, self.ledger.end
        anywhere = self.rng.randint(first, end)
        names = (os.path.basename(path) for path in self.files.contents())
        bases = [base for base in map(fmt.segment_base, names) if base is not None]
        border = self.rng.choice([base for base in bases if first <= base <= end] or [anywhere])
        return self.rng.choice((first, end, max(first, end - 1), anywhere, border))


@dataclasses.dataclass(frozen=True)
class Workload:
    """A program with the options that it opens the log with."""

    name: str
    run: Callable[[Driver], None]
    options: dict[str, Any]
    kind: str = "memory"
    threads: int = 0  # that many append at once
    real_threads: bool = False  # the log's own threads run, so a replay may differ


def single(d: Driver) -> None:
    d.open()
    for _ in range(d.rng.randint(8, 20)):
        d.put() if d.rng.random() < 0.85 else d.delete()
    d.close()


def batches(d: Driver) -> None:
    d.open()
    for _ in range(d.rng.randint(4, 9)):
        d.batch(d.rng.choice((1, 2, 3, 8)))
        if d.rng.random() < 0.2:
            d.put()
    d.close()


def lazy(d: Driver) -> None:
    """Several unsynced frames in flight, synced now and then."""
    d.open()
    for _ in range(d.rng.randint(10, 25)):
        step = d.rng.random()
        if step < 0.75:
            d.put(durable=d.rng.random() < 0.1)
        elif step < 0.9:
            d.batch(d.rng.randint(1, 4))
        else:
            d.sync()
    if d.rng.random() < 0.5:
        d.close()


def prune(d: Driver) -> None:
    d.open()
    for _ in range(d.rng.randint(10, 18)):
        d.put() if d.rng.random() < 0.75 else d.batch(2)
        if d.rng.random() < 0.25:
            d.prune(d.somewhere())
    d.close()


def cut(d: Driver) -> None:
    d.open()
    for _ in range(d.rng.randint(8, 14)):
        d.put() if d.rng.random() < 0.7 else d.batch(3)
        if d.rng.random() < 0.3:
            d.cut(d.somewhere())
            if d.rng.random() < 0.3:
                d.prune(d.somewhere())
    if d.rng.random() < 0.5:
        d.close()


def reopen(d: Driver) -> None:
    """Clean closes, and starts with other sizes and alignments."""
    for _ in range(d.rng.randint(2, 4)):
        d.open(
            segment_bytes_max=d.rng.choice((1024, 4096, 8192)),
            frame_align_bytes=d.rng.choice((8, 8, 512)),
        )
        for _ in range(d.rng.randint(0, 4)):
            d.put() if d.rng.random() < 0.8 else d.batch(2)
        d.close()


def window(d: Driver) -> None:
    """BATCH: the deadline's thread syncs in between."""
    d.open()
    for _ in range(d.rng.randint(8, 16)):
        d.put()
        if d.rng.random() < 0.3:
            time.sleep(d.rng.choice((0.0005, 0.002)))
    d.close()


def two(d: Driver) -> None:
    """Two handles on one log, as two processes have it."""
    d.open(handles=2)
    for _ in range(d.rng.randint(8, 16)):
        step = d.rng.random()
        if step < 0.75:
            d.put() if d.rng.random() < 0.8 else d.batch(2)
        elif step < 0.85:
            d.sync()
        elif step < 0.95:
            d.prune(d.somewhere())
        else:
            d.cut(d.somewhere())
    d.close()


def crowd(threads: int) -> Callable[[Driver], None]:
    """Threads that append at once; some sync for all."""

    def run(d: Driver) -> None:
        ledger: Any = d.ledger
        assert isinstance(ledger, CrowdLedger)
        d.wals.append(Wal.open(LOG, files=d.files, **d.options))
        wal = d.wals[0]
        seeds = [d.rng.randrange(1 << 30) for _ in range(threads)]

        def work(number: int) -> None:
            rng = random.Random(seeds[number])
            for index in range(max(2, 24 // threads)):
                key, value = b"%d/%d" % (number, index), rng.randbytes(rng.choice(SIZES))
                ledger.begun[key] = value
                ledger.acknowledged[wal.put(key, value, durable=True)] = key

        workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        wal.close()
        d.wals.clear()

    return run


ALWAYS, OS = FsyncPolicy.ALWAYS, FsyncPolicy.OS


def _all() -> dict[str, Workload]:
    small: dict[str, Any] = {"segment_bytes_max": 4096}
    tiny: dict[str, Any] = {"segment_bytes_max": 1024}
    lazily: dict[str, Any] = {**small, "fsync_policy": OS}
    found = [
        Workload("single", single, {"segment_bytes_max": 8192}),
        Workload("batch", batches, small),
        Workload(
            "window", window, {**small, "fsync_policy": FsyncPolicy.batch(1)}, real_threads=True
        ),
        Workload("os", lazy, {"segment_bytes_max": 16384, "fsync_policy": OS}),
        Workload("roll", lazy, {**tiny, "fsync_policy": OS}),
        Workload("roll-always", single, tiny),
        Workload("truncate-before", prune, lazily),
        Workload("truncate-after", cut, lazily),
        Workload("group-4", crowd(4), small, threads=4, real_threads=True),
        Workload("group-16", crowd(16), small, threads=16, real_threads=True),
        Workload("two-handles", two, lazily),
        Workload("reopen", reopen, small),
        Workload("align-512", lazy, {**lazily, "frame_align_bytes": 512}),
        Workload("written", cut, {**lazily, "map_tail": False}),
        Workload("untrusted", lazy, lazily, kind="btrfs"),
        Workload("untrusted-cut", cut, {**tiny, "fsync_policy": OS}, kind="btrfs"),
        Workload("clock", lazy, {**lazily, "clock": FakeClock(step=1000)}),
        Workload("threads", prune, tiny, real_threads=True),
    ]
    return {workload.name: workload for workload in found}


WORKLOADS = _all()

__all__ = ["WORKLOADS", "Driver", "Workload", "abandon"]
