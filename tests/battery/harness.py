"""What every battery stands on: counted cases, violations that can be replayed, one table."""

from __future__ import annotations

import contextlib
import dataclasses
import random
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

from treering import Wal
from treering._core import chores, engine

LOG = "/log"

VIOLATIONS_KEPT = 20


@dataclasses.dataclass
class Row:
    """The result of one battery's part: so many cases, and what went wrong."""

    battery: str
    name: str
    cases: int = 0
    seconds: float = 0.0
    counts: Counter[str] = dataclasses.field(default_factory=Counter)
    violations: list[str] = dataclasses.field(default_factory=list)
    violation_count: int = 0
    notes: list[str] = dataclasses.field(default_factory=list)

    def violate(self, case: str, text: str) -> None:
        """Something that must never happen did."""
        self.violation_count += 1
        if len(self.violations) < VIOLATIONS_KEPT:
            self.violations.append(f"{case}: {text}")

    def add(self, other: Row) -> None:
        """Put another part of the same row in."""
        self.cases += other.cases
        self.seconds += other.seconds
        self.counts += other.counts
        self.violations = (self.violations + other.violations)[:VIOLATIONS_KEPT]
        self.violation_count += other.violation_count
        self.notes += [note for note in other.notes if note not in self.notes]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**vars(self), "counts": dict(self.counts)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Row:
        """From JSON."""
        return cls(**{**data, "counts": Counter(data["counts"])})


class Budget:
    """So many cases, or so many seconds, whichever is used up first; or up to the first violation."""

    first_only = False

    def __init__(self, cases: int, seconds: float = 1e9) -> None:
        self.cases = cases
        self._until = time.monotonic() + seconds

    def left(self, row: Row) -> bool:
        """Whether to go on."""
        if self.first_only and row.violation_count:
            return False
        return row.cases < self.cases and time.monotonic() < self._until


@contextlib.contextmanager
def repeatable(rng: random.Random, *, threads: bool = False) -> Iterator[None]:
    """The same program does the same calls every time: log ids come from `rng`, and without
    `threads` chores wait until `do_chores`, or the close, does them."""
    uuid4, wake = engine.uuid.uuid4, chores.Chores._wake

    class _Id:
        bytes = b""

    def seeded() -> Any:
        made = _Id()
        made.bytes = rng.randbytes(16)
        return made

    class _Uuid:
        uuid4 = staticmethod(seeded)

    original = engine.uuid
    engine.uuid = _Uuid  # type: ignore[assignment]
    if not threads:
        chores.Chores._wake = lambda self: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        engine.uuid = original
        engine.uuid.uuid4 = uuid4
        chores.Chores._wake = wake  # type: ignore[method-assign]


def do_chores(wal: Wal) -> None:
    """What the chores' thread would do now."""
    live = wal._engine
    if isinstance(live, engine.Engine):
        live.writer.chores._do_due()


def abandon(wal: Wal) -> None:
    """Let a handle go without a word to its files, as kill -9 would; its threads end."""
    live, wal._engine = wal._engine, None
    if live is None:
        return
    wal._finalizer.detach()
    wal._unbind()
    if isinstance(live, engine.Engine):
        if live.deadline is not None:
            live.deadline._stopped = True
            live.deadline._halt.set()
            live.deadline._armed.set()
        live.writer.chores.abandon()
        live.writer.chores._due.set()
        live.abandon()
