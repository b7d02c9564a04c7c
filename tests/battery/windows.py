"""BATCH(T): what returned more than T and one fsync ago is durable, without any further call (G2, D3).

In real time, on a disk whose syncs take a while. A machine that is busy with other things may run
the deadline's thread late, which is not the log's doing: lateness is measured and reported, and
only what is out of all proportion counts as a violation.
"""

from __future__ import annotations

import random
import threading
import time

from treering import FsyncPolicy, Wal
from treering.testing import PowerCutFiles

from .harness import LOG, Budget, Row, repeatable
from .powercut import examine

SYNC_SECONDS = 0.002
SLACK_SECONDS = 1.0


class Watch(threading.Thread):
    """Notes when each record became durable, and cuts the power now and then."""

    def __init__(
        self, files: PowerCutFiles, wal: Wal, returned: list[float], window: float
    ) -> None:
        super().__init__(daemon=True)
        self.files, self.wal, self.returned, self.window = files, wal, returned, window
        self.durable_at: list[float] = []
        self.cuts: list[tuple[PowerCutFiles, int]] = []
        self.done = False

    def run(self) -> None:
        next_cut = time.monotonic()
        while not self.done:
            durable = self.wal.durable_position
            now = time.monotonic()
            self.durable_at += [now] * (durable - len(self.durable_at))
            if now > next_cut:
                next_cut = now + 0.05
                self._cut()
            time.sleep(0.0005)

    def _cut(self) -> None:
        due = time.monotonic() - self.window - SYNC_SECONDS - SLACK_SECONDS
        least = sum(1 for moment in list(self.returned) if moment < due)
        self.cuts.append((self.files.cut(), least))


def keep_windows(milliseconds: float, seed: int, budget: Budget) -> Row:
    """So many appends under BATCH(milliseconds), in bursts and with pauses."""
    row = Row("windows", f"{milliseconds:g} ms")
    started = time.perf_counter()
    rng = random.Random(f"windows/{milliseconds}/{seed}")
    files = PowerCutFiles(during_sync=lambda path: time.sleep(SYNC_SECONDS))
    returned: list[float] = []
    with repeatable(rng, threads=True):
        wal = Wal.open(
            LOG, files=files, segment_bytes_max=65536,
            fsync_policy=FsyncPolicy.batch(milliseconds),
        )  # fmt: skip
        watch = Watch(files, wal, returned, milliseconds / 1000)
        watch.start()
        while budget.left(row):
            row.cases += 1
            wal.put(b"%d" % row.cases, rng.randbytes(50))
            returned.append(time.monotonic())
            if rng.random() < 0.2:
                time.sleep(rng.choice((0.0, 0.001, 0.003, 0.02)))
        _judge(row, watch, wal, milliseconds / 1000)
        wal.close()
    row.seconds = time.perf_counter() - started
    return row


def _judge(row: Row, watch: Watch, wal: Wal, window: float) -> None:
    limit = time.monotonic() + window + 10.0
    while len(watch.durable_at) < row.cases and time.monotonic() < limit:
        time.sleep(0.001)
    watch.done = True
    watch.join()
    if len(watch.durable_at) < row.cases:
        row.violate("windows", f"D3: {wal.durable_position} of {row.cases} durable, no call helped")
        return
    late = sorted(d - r - window for r, d in zip(watch.returned, watch.durable_at, strict=True))
    if late[-1] > SYNC_SECONDS + SLACK_SECONDS:
        row.violate("windows", f"D3: a record was {late[-1]:.3f} s late")
    row.counts["within the window"] = sum(1 for seconds in late if seconds <= 0)
    row.counts["power cuts"] = len(watch.cuts)
    row.notes.append(
        f"BATCH({row.name}): after the window's end, median {late[len(late) // 2] * 1000:.1f} ms, "
        f"latest {late[-1] * 1000:.1f} ms (negative: before it)"
    )
    for files, least in watch.cuts:
        problem = examine(files, _AtLeast(least), {"segment_bytes_max": 65536})
        if problem:
            row.violate("windows", problem)


class _AtLeast:
    """So many records, in order."""

    def __init__(self, least: int) -> None:
        self.least = least

    def problem(self, first: int, end: int, records: list[object]) -> str | None:
        keys = [record.key for record in records]  # type: ignore[attr-defined]
        if keys != [b"%d" % (number + 1) for number in range(end)]:
            return "G4: not a prefix"
        return None if end >= self.least else f"G2: {end} records, {self.least} were due"
