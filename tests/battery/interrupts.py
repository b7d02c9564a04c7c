"""Exceptions anywhere: a call is broken off at its kth bytecode, for every k (G14, D10).

Whatever raises where (Ctrl-C, no memory), the record is wholly in the log or not at all, the log
goes on working or says that it is dead, and no lock stays behind.
"""

from __future__ import annotations

import os
import random
import sys
import time
from types import FrameType
from typing import Any

from treering import FailedError, FsyncPolicy, Wal
from treering._core import format as fmt
from treering.testing import PowerCutFiles

from .harness import LOG, Budget, Row, abandon, repeatable
from .ledger import Ledger
from .powercut import examine

CORE = os.path.dirname(fmt.__file__)
KINDS: tuple[type[BaseException], ...] = (KeyboardInterrupt, MemoryError)
OPTIONS: dict[str, Any] = {"segment_bytes_max": 2048, "lock_timeout_seconds": 2.0}


class Breaker:
    """Raises at the kth bytecode of the core that the block executes; counts them without `at`."""

    def __init__(self, at: int | None, kind: type[BaseException]) -> None:
        self.count = 0
        self._at, self._kind = at, kind

    def __enter__(self) -> Breaker:
        sys.settrace(self._enter_frame)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _enter_frame(self, frame: FrameType, event: str, arg: object) -> Any:
        if not frame.f_code.co_filename.startswith(CORE) or _collecting(frame):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self._step

    def _step(self, frame: FrameType, event: str, arg: object) -> Any:
        if event == "opcode":
            self.count += 1
            if self.count == self._at:
                raise self._kind
        return self._step


def _collecting(frame: FrameType | None) -> bool:
    """Whether this happens inside a __del__: what is raised there, Python throws away."""
    while frame is not None:
        if frame.f_code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False


class Scene:
    """A log with some records, and one call that is broken off."""

    def __init__(self, policy: FsyncPolicy, rng: random.Random) -> None:
        self.disk = PowerCutFiles()
        self.ledger = Ledger()
        self.options = {**OPTIONS, "files": self.disk, "fsync_policy": policy}
        self.always = policy == FsyncPolicy.ALWAYS
        self.wal: Wal | None = Wal.open(LOG, **self.options)
        self._pruning = 0
        for _ in range(6):  # a seventh of 1500 bytes needs a new segment
            self._append(1, rng.randbytes(200))

    def _append(self, count: int, value: bytes) -> None:
        assert self.wal is not None
        items = [(b"%d" % (self.ledger.end + index), value) for index in range(count)]
        self.ledger.appending([(key, value, False, 0, {}, None) for key, _ in items])
        if count == 1:
            self.wal.put(*items[0])
        else:
            self.wal.append_batch(items)
        self.ledger.appended([None] * count, durable=self.always)

    # --- calls -------------------------------------------------------------------------------

    def put(self) -> None:
        self._append(1, b"value")

    def batch(self) -> None:
        self._append(3, b"value")

    def roll(self) -> None:
        self._append(1, b"v" * 1500)

    def sync(self) -> None:
        assert self.wal is not None
        self.wal.sync()
        self.ledger.synced()

    def prune(self) -> None:
        assert self.wal is not None
        self._pruning = self.ledger.end
        self.ledger.pruning(self._pruning)
        self.ledger.pruned(self.wal.truncate_before(self._pruning))

    def cut(self) -> None:
        assert self.wal is not None
        end = self.ledger.end - 2
        self.ledger.cutting(end)
        self.wal.truncate_after(end)
        self.ledger.cut(end)

    def read(self) -> None:
        assert self.wal is not None
        list(self.wal.read_from(self.ledger.first))

    def close(self) -> None:
        wal = self.wal
        assert wal is not None
        wal.close()
        self.wal = None

    def open(self) -> None:
        if self.wal is not None:
            self.wal.close()
            self.wal = None
        self.wal = Wal.open(LOG, **self.options)

    # --- afterwards --------------------------------------------------------------------------

    def settle(self) -> str:
        """Use the log on; what has become of it."""
        outcome = "went on"
        if self.wal is not None and self.wal.closed:
            self.wal = None
        if self.wal is None:
            outcome = "closed"
            self._reopen()
        try:
            self._shows()
            self._append_after()
        except FailedError:
            outcome = "dead"
            assert self.wal is not None
            self.wal.close()
            self._reopen()
            self._append_after()
        assert self.wal is not None
        self.wal.close()
        self.wal = None
        problem = examine(self.disk.cut(), self.ledger.expected(), OPTIONS)
        assert problem is None, f"power cut after the close: {problem}"
        return outcome

    def _reopen(self) -> None:
        self.wal = Wal.open(LOG, **self.options)
        self._shows()

    def _shows(self) -> None:
        wal = self.wal
        assert wal is not None
        first, end = wal.first_position, wal.current_position()
        problem = self.ledger.expected_of_cache().problem(first, end, wal.read_from(first))
        assert problem is None, problem

    def _append_after(self) -> None:
        """One more record; with it we learn what became of the call that was broken off."""
        wal, ledger = self.wal, self.ledger
        assert wal is not None
        position = wal.put(b"afterwards", b"")
        ledger.adopt(wal.first_position, position)
        ledger.pruning(self._pruning)  # broken off, it may still come to its end
        ledger.appending([(b"afterwards", b"", False, 0, {}, None)])
        ledger.appended([None], durable=False)
        wal.sync()
        ledger.synced()
        self._shows()


CALLS: dict[str, tuple[str, FsyncPolicy]] = {
    "put": ("put", FsyncPolicy.OS),
    "put-always": ("put", FsyncPolicy.ALWAYS),
    "batch": ("batch", FsyncPolicy.OS),
    "roll": ("roll", FsyncPolicy.OS),
    "sync": ("sync", FsyncPolicy.OS),
    "truncate-before": ("prune", FsyncPolicy.OS),
    "truncate-after": ("cut", FsyncPolicy.OS),
    "read": ("read", FsyncPolicy.OS),
    "close": ("close", FsyncPolicy.OS),
    "open": ("open", FsyncPolicy.OS),
}


def once(name: str, at: int | None, kind: type[BaseException], row: Row) -> int:
    """The call broken off at the bytecode `at`; how many it executed. Raises AssertionError."""
    rng = random.Random(name)
    method, policy = CALLS[name]
    with repeatable(rng):
        scene = Scene(policy, rng)
        if name == "open":
            scene.close()
        try:
            breaker = Breaker(at, kind)
            try:
                with breaker:
                    getattr(scene, method)()
            except kind:
                pass
            if at is not None:
                row.counts[scene.settle()] += 1
        finally:
            if scene.wal is not None:
                abandon(scene.wal)
    return breaker.count


def guarded(name: str, at: int, row: Row) -> None:
    """One case, counted."""
    row.cases += 1
    try:
        once(name, at, KINDS[at % 2], row)
    except (Exception, KeyboardInterrupt) as error:
        row.violate(f"interrupt:{name}:{at}", f"{type(error).__name__}: {error}")


def break_off(name: str, seed: int, budget: Budget, share: int = 1) -> Row:
    """The call, broken off at every bytecode (with `share`, at one in so many)."""
    row = Row("interrupts", name)
    started = time.perf_counter()
    rng = random.Random(f"interrupts/{name}/{seed}")
    length = once(name, None, KeyboardInterrupt, row)
    row.counts["bytecodes"] = length
    for at in range(1, length + 1):
        if not budget.left(row):
            row.notes.append("not every bytecode: the budget was used up")
            break
        if share > 1 and rng.randrange(share):
            continue
        guarded(name, at, row)
    row.seconds = time.perf_counter() - started
    return row
