"""Folds: a state that follows a log. Every store of treering is one, and yours can be.

    class Totals:
        label = b"totals 1"

        def __init__(self):
            self.sums = {}

        def apply(self, record):                # one record of the log
            self.sums[record.key] = self.sums.get(record.key, 0) + int(record.value)

        def dump(self):                         # the state as records of its own, for a snapshot
            return (Record(key, b"%d" % value) for key, value in self.sums.items())

        def load(self, record):                 # one of them, back again
            self.sums[record.key] = int(record.value)

        def copy(self):
            other = Totals()
            other.sums = self.sums.copy()
            return other

    with Fold("totals", Totals) as fold:
        fold.wal.put(b"apples", b"3")
        print(fold.state().sums)

A query catches up with the log, whoever wrote to it, and looks at the state. A command looks at the
state and appends on the strength of it, only if nothing came in between (`Fold.command`). A
checkpoint writes a snapshot and truncates the log, so that opening stays quick, the disk bounded.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, Protocol, Self, TypeVar

from ._core.background import Background, Signal
from ._core.codec import Record
from ._core.errors import (
    ConflictError,
    DamageError,
    NotThereError,
    PositionError,
    PrunedError,
    TreeringError,
    UsageError,
)
from ._core.options import FsyncPolicy
from ._core.wal import Wal

# Snapshots that are kept: the newest, and the one before it should that one be damaged.
KEPT_SNAPSHOTS = 2

Pair = tuple[bytes, bytes]


class State(Protocol):
    """What a fold needs of a state. `label` names the kind and its version; a snapshot with another
    label is not loaded."""

    label: bytes

    def apply(self, record: Record) -> None:
        """Take in one record of the log."""

    def dump(self) -> Iterable[Record]:
        """The state as records of its own."""

    def load(self, record: Record) -> None:
        """Take in one of `dump`'s records; in their order, into an empty state."""

    def copy(self) -> Self:
        """Another state that stays as this one is now."""


S = TypeVar("S", bound=State)


class Fold(Generic[S]):
    """A state, and the position up to which it has the log's records. Thread-safe.

    `new` makes an empty state. With `checkpoint_bytes` a background thread makes a checkpoint each
    time that so many bytes of records were taken in; None leaves it to you. `fsync_policy` says
    when what `append` and `command` add is durable; further options are those of `Wal.open`.

    `wal` is the log, `current` the state as it was when the fold last caught up, `position` how far
    that is, `trouble` what went wrong with snapshots, in words.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        new: Callable[[], S],
        *,
        fsync_policy: FsyncPolicy = FsyncPolicy.ALWAYS,
        checkpoint_bytes: int | None = 64 << 20,
        **options: Any,
    ) -> None:
        if checkpoint_bytes is not None and checkpoint_bytes < 1:
            raise UsageError("checkpoint_bytes must be at least 1, or None")
        # Under ALWAYS we wait ourselves, and not with the lock in hand: so threads share fsyncs.
        self._always = fsync_policy == FsyncPolicy.ALWAYS
        policy = FsyncPolicy.OS if self._always else fsync_policy
        self.wal = wal = Wal.open(path, fsync_policy=policy, **options)
        self._new = new
        self.lock = threading.RLock()
        self._checkpoint_bytes = checkpoint_bytes
        self._bytes = 0  # of records taken in since the last checkpoint
        self._checkpointing = threading.Lock()
        self._due = Signal()
        self._thread = Background(self._run)
        self._closed = False
        self.trouble: list[str] = []
        try:
            self.current, self.position = self._load(None)
            self.state()
        except BaseException:
            wal.close()
            raise

    # --- Queries ----------------------------------------------------------------------------------

    def state(self) -> S:
        """The state with every record that is in the log now. One memory read when there is nothing
        new. Do not change it, nor keep it over calls of others: see `copy`."""
        if self.wal.current_position() != self.position:
            with self.lock:
                self._catch_up()
        return self.current

    def copy(self) -> tuple[S, int]:
        """A copy of the state, and the position it stands for."""
        with self.lock:
            self._catch_up()
            return self.current.copy(), self.position

    def at(self, position: int | None = None, time: Any = None) -> S:
        """The state as it was when the log ended at `position`, or before the first record with
        that time or a later one; read from the log, so O(records since the snapshot before it).

        PrunedError when a checkpoint has removed what that takes; PositionError beyond the end.
        """
        if (position is None) == (time is None):
            raise UsageError("give a position or a time")
        if position is None:
            with self.wal.read_from(time=time) as reader:
                position = reader.position
        if position > (end := self.wal.current_position()):
            raise PositionError(
                "the log has not reached this position", position=position, hint=f"It ends at {end}"
            )
        state, start = self._load(position)
        for record in self.wal.read_from(start, stop=position):
            state.apply(record)
        return state

    # --- Commands ---------------------------------------------------------------------------------

    def command(
        self, decide: Callable[[S], Sequence[Record | Pair]], *, durable: bool = False
    ) -> range:
        """Append what `decide(state)` returns, atomically, and only if the state it saw is still
        the newest; else it is asked again. What it raises is raised. The positions; empty when it
        returned nothing."""
        while True:
            with self.lock:
                self._catch_up()
                records = decide(self.current)
                if not records:
                    return range(self.position, self.position)
                try:
                    positions = self.wal.append_batch(records, at=self.position)
                except ConflictError:
                    continue  # somebody else was faster, so somebody gets on
                self._catch_up()
            self.settle(positions[-1], durable)
            return positions

    def append(self, records: Sequence[Record | Pair], *, durable: bool = False) -> range:
        """Append records atomically, whatever the state is; the positions."""
        positions = self.wal.append_batch(records)
        if positions:
            self.settle(positions[-1], durable)
        return positions

    def settle(self, position: int, durable: bool) -> None:
        """Wait until the record at `position` is durable, if the policy or the caller wants it."""
        if durable or self._always:
            self.wal.wait_durable(position)

    # --- Following the log ------------------------------------------------------------------------

    def _catch_up(self) -> None:
        end = self.wal.current_position()
        while self.position < end:
            try:
                self._read(end)
            except PrunedError:
                # Another process made a checkpoint and removed what we had not yet seen.
                self.current, self.position = self._load(None)

    def _read(self, end: int) -> None:
        apply, position, size = self.current.apply, self.position, 0
        with self.wal.read_from(position, stop=end) as reader:
            try:
                for record in reader:
                    apply(record)
                    size += len(record.key) + len(record.value)
                    position += 1
            finally:
                self.position = position
                self.took_in(size)

    def took_in(self, size: int) -> None:
        """Count bytes of records for the next checkpoint."""
        self._bytes += size
        if self._checkpoint_bytes is not None and self._bytes >= self._checkpoint_bytes:
            self._bytes = 0
            if not self._closed and self._thread.start():
                self._due.set()

    def _load(self, limit: int | None) -> tuple[S, int]:
        """From the newest snapshot (not beyond `limit`) that is whole; else from nothing."""
        for position in self.wal.snapshots.positions():
            if limit is not None and position > limit:
                continue
            try:
                return self._load_snapshot(position), position
            except (DamageError, NotThereError) as error:
                self.trouble.append(str(error))
        first = self.wal.first_position
        if first > 0:
            kind = PrunedError if limit is not None else DamageError
            raise kind(
                "the log begins later, and no whole snapshot tells what came before",
                path=self.wal.path,
                position=first,
                hint="; ".join(self.trouble[-3:]) or "Restore a snapshot from a backup",
            )
        return self._new(), 0

    def _load_snapshot(self, position: int) -> S:
        state = self._new()
        snapshot = self.wal.snapshots.read(position)
        if snapshot.label != state.label:
            raise DamageError(
                f"the snapshot is one of {snapshot.label!r:.60}, not of {state.label!r:.60}",
                path=self.wal.path,
                position=position,
                hint="Open it with the store and the version that wrote it",
            )
        load = state.load
        for record in snapshot.records:
            load(record)
        return state

    # --- Checkpoints ------------------------------------------------------------------------------

    def checkpoint(self) -> int:
        """Write a snapshot of the state as it is now, then remove the records that neither it nor
        the one before it needs; its position. Durable at return.

        Appends go on meanwhile; queries wait for one copy of the state. One at a time.
        """
        with self._checkpointing:
            state, position = self.copy()
            snapshots = self.wal.snapshots
            kept = [found for found in snapshots.positions() if found < position]
            if position not in snapshots.positions():
                self.wal.sync()  # a snapshot must not know more than the log
                snapshots.write(position, state.label, state.dump())
            for _ in snapshots.read(position).records:
                pass  # it is proven before what it stands for goes
            if kept:
                self.wal.truncate_before(kept[0])
            for old in kept[KEPT_SNAPSHOTS - 1 :]:
                snapshots.remove(old)
            self._bytes = 0
            return position

    def _run(self) -> None:
        while not self._closed:
            self._due.wait()
            if not self._closed:
                try:
                    self.checkpoint()
                except TreeringError as error:
                    self.trouble.append(f"checkpoint: {error}")

    # --- Knowing and closing ----------------------------------------------------------------------

    def check(self) -> None:
        """The state is what the log says: the log's own invariants, every snapshot whole, and from
        each of them on the same state. Reads everything."""
        self.wal.check()
        state, position = self.copy()
        wanted = _summary(state)
        for start in self.wal.snapshots.positions():
            if start <= position:
                again = self._load_snapshot(start)
                for record in self.wal.read_from(start, stop=position):
                    again.apply(record)
                if _summary(again) != wanted:
                    raise DamageError(
                        "a snapshot and the log after it give another state",
                        path=self.wal.path,
                        position=start,
                        hint="Remove the snapshot if an older one, or the whole log, is there",
                    )

    def stats(self) -> dict[str, Any]:
        """The log's, the position of the state, the snapshots, and what went wrong."""
        return {
            **self.wal.stats(),
            "position": self.position,
            "snapshots": self.wal.snapshots.positions(),
            "trouble": list(self.trouble),
        }

    def close(self) -> None:
        """Finish a checkpoint that is being made, and close the log; idempotent."""
        self._closed = True
        self._due.set()
        self._thread.join()
        self.wal.close()

    def __enter__(self) -> Fold[S]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _summary(state: State) -> list[tuple[bytes, bytes, bool, int | None]]:
    return sorted(
        (record.key, bytes(record.value), record.tombstone, record.expires_at_ns or 0)
        for record in state.dump()
    )
