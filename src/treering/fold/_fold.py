"""The fold: following the log, deciding on its state, making checkpoints."""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from time import time_ns
from types import FrameType
from typing import Any, Generic

from .._core.codec import Record
from .._core.errors import (
    ConflictError,
    PositionError,
    PrunedError,
    ReentrantError,
    TreeringError,
    UsageError,
)
from .._core.options import FsyncPolicy
from .._core.reader import Reader
from .._core.wal import Wal
from ._archive import Archive
from ._log import position_at, wait_for_news
from ._pace import Pace
from ._state import Pair, S, placed

# Over so many records that we appended ourselves, finding the place anew is quicker than reading.
_SKIP_RECORDS_MAX = 100_000
# How often a check begins anew because records were removed under it.
_CHECKS_MAX = 3


class Fold(Generic[S]):
    """A state, and the position up to which it has the log's records. Thread-safe; any number of
    processes may have folds of one log, each with a state of its own.

    `new` makes an empty state. A background thread makes a checkpoint after so many bytes
    (`checkpoint_bytes`), records or seconds of changes, whichever comes first; None for all three
    leaves it to you. `fsync_policy` says when what `append` and `command` add is durable; further
    options are those of `Wal.open`, except retention: what a fold needs only checkpoints remove.
    Opening blocks until the newest snapshot is loaded and the log after it is read.

    `wal` is the log. A fold that makes checkpoints has the log for itself: other kinds of folds may
    follow it, but not make any. With `own` a new log is marked as this kind's (an empty snapshot at
    0), and one of another kind is refused. `current` is the state as it was when the fold last
    caught up, `position` how far that is, `lock` held while the state changes, `trouble` what went
    wrong with snapshots, in words.

    Raises UsageError, DamageError (no snapshot is whole, and the log does not reach back far
    enough), VersionError, and what `Wal.open` raises.
    """

    stream, transaction = 0, None  # the log is this fold's alone

    def __init__(
        self,
        path: str | os.PathLike[str],
        new: Callable[[], S],
        *,
        fsync_policy: FsyncPolicy = FsyncPolicy.ALWAYS,
        checkpoint_bytes: int | None = 64 << 20,
        checkpoint_records: int | None = None,
        checkpoint_seconds: float | None = None,
        own: bool = False,
        **options: Any,
    ) -> None:
        for name in options:
            if name.startswith("retention_"):
                raise UsageError(
                    f"{name} would remove records that the state is made of",
                    hint="Checkpoints remove what is not needed any more",
                )
        if options.get("read_only"):
            checkpoint_bytes = checkpoint_records = checkpoint_seconds = None
        make = weakref.WeakMethod(self._checkpoint_when_due)
        self.pace = Pace(make, checkpoint_bytes, checkpoint_records, checkpoint_seconds)
        weakref.finalize(self, self.pace.stop)  # a forgotten fold's thread goes with it
        # Under ALWAYS we wait ourselves, and not with the lock in hand: so threads share fsyncs.
        self.always = fsync_policy == FsyncPolicy.ALWAYS and not options.get("read_only")
        policy = FsyncPolicy.OS if fsync_policy == FsyncPolicy.ALWAYS else fsync_policy
        self.wal = Wal.open(path, fsync_policy=policy, **options)
        self._clock = options.get("clock") or time_ns
        self._new = new
        self._archive = Archive(self.wal, new)
        self._reader: Reader | None = None
        self.current: S
        self.position: int
        self._make_locks()
        try:
            if own:
                self._archive.claim(writable=not options.get("read_only"))
            self._reload()
            self._counted_from = self.position
            self.catch_up()
            for finding in self.wal.recovery.damage:
                self._archive.note(f"only what lies before it is shown: {finding.describe()}")
        except BaseException:
            self.close()
            raise
        _folds.add(self)

    def _make_locks(self) -> None:
        self.lock = threading.RLock()
        self._checkpoint_lock = threading.RLock()
        self._writing = False

    # --- Queries ----------------------------------------------------------------------------------

    def state(self) -> S:
        """The state with every record that is in the log now. Two memory reads when there is
        nothing new. Do not change it; other threads' calls may, unless you hold `lock`.

        Raises ClosedError, ForkedError, DamageError, StorageError.
        """
        wal = self.wal
        if wal.current_position() != self.position or wal._rewinds() != self._rewinds:
            self.catch_up()
        return self.current

    def copy(self) -> tuple[S, int]:
        """A copy of the state, and the position it stands for."""
        with self.lock:
            self.catch_up()
            return self.current.copy(), self.position

    def at(self, position: int | None = None, time: Any = None) -> S:
        """The state as it was when the log ended at `position`, or before the first record with
        that time (seconds since 1970 or a datetime) or a later one; read from the log, so
        O(records since the snapshot before it), beside the fold's own state.

        PrunedError when a checkpoint has removed what that takes; PositionError beyond the end.
        """
        if (position is None) == (time is None):
            raise UsageError("give a position or a time, and not both")
        if position is None:
            position = self.position_at(time)
        if position > (end := self.wal.current_position()):
            raise PositionError(
                "the log has not reached this position", position=position, hint=f"It ends at {end}"
            )
        state, start = self._archive.load(position)
        for record in self.wal.read_from(start, stop=position):
            state.apply(record)
        return state

    def position_at(self, time: Any) -> int:
        """The position of the first record with that time or a later one, or the log's end.
        PrunedError if records that old were removed: nobody knows which was the first."""
        return position_at(self.wal, time)

    def wait(self, timeout: float | None = None, *, position: int | None = None) -> bool:
        """Block until the log has records that the state has not, whoever appends them, or for
        `timeout` seconds (None: for ever); whether it has. With `position`, what the caller has
        seen: other threads may have caught up since. Next to no CPU is used.
        Raises ClosedError within 0.25 s after `close` was called, FailedError, ForkedError."""
        position = self.position if position is None else position
        return wait_for_news(self.wal, position, self._rewinds, timeout)

    # --- Commands ---------------------------------------------------------------------------------

    def command(
        self, decide: Callable[[S], Sequence[Record | Pair]], *, durable: bool | None = None
    ) -> range:
        """Append what `decide(state)` returns, atomically, and only if the state it saw is still
        the newest; else it is asked again. What it raises is raised, and nothing is appended. The
        positions; empty when it returned nothing. Written at return, with all that it saw; durable
        with durable=True, or with None under ALWAYS (it blocks for an fsync, shared with all who
        wait). Errors as `Wal.append_batch`.
        """
        while True:
            with self.lock:
                self.catch_up()
                seen = self.position
                records = placed(decide(self.current), seen, self._clock())
                positions = range(seen, seen)
                if records:
                    try:
                        positions = self.wal.append_batch(records, at=seen)
                    except ConflictError:
                        continue  # somebody else was faster, so somebody gets on
                    self._take_in(records)
            if positions.stop:  # what made it append nothing may not be durable yet
                self.settle(positions.stop - 1, durable)
            return positions

    def append(self, records: Sequence[Record | Pair], *, durable: bool | None = None) -> range:
        """Append records atomically, whatever the state is; the positions. As `command`."""
        with self.lock:
            seen = self.position
            records = placed(records, seen, self._clock())
            positions = self.wal.append_batch(records)
            if positions and positions[0] == seen and not self._applying:
                self._take_in(records)
        if positions:
            self.settle(positions[-1], durable)
        return positions

    def settle(self, position: int, durable: bool | None = None) -> None:
        """Wait until the record at `position` is durable, if the caller or else the policy wants
        it."""
        if self.always if durable is None else durable:
            self.wal.wait_durable(position)

    # --- Following the log ------------------------------------------------------------------------

    def catch_up(self) -> None:
        """Take in every record that is in the log now; O(what is new)."""
        with self.lock:
            if self._applying:
                self._after_an_interrupt()
            wal = self.wal
            asked = wal.current_position()  # others may append quicker than we can read
            while True:
                end = min(asked, wal.current_position())
                if wal._rewinds() != self._rewinds:
                    self._reload()  # what was taken in may have been taken back
                    asked = wal.current_position()  # the old one may lie within a batch now
                elif self.position >= end:
                    return
                else:
                    try:
                        self._read(end)
                    except PrunedError:
                        # Another process made a checkpoint and removed what we had not yet seen.
                        self._reload()

    def _take_in(self, records: Sequence[Record]) -> None:
        """What we appended ourselves, right after all that we had seen, need not be read back."""
        self._applying = True
        if self.position == records[0].position:
            self._apply_all(records)
        else:  # a signal's handler has read them meanwhile
            self._applying = False

    def _read(self, end: int) -> None:
        start = self.position
        self._applying = True  # from here on, an exception leaves the state half changed
        self._apply_all(islice(self._reader_at(start), end - start))
        if self.position < end:
            self._reader = None  # it was stopped; another one will say why

    def _apply_all(self, records: Iterable[Record]) -> None:
        apply, size = self.current.apply, 0
        start = position = self.position
        for record in records:
            apply(record)
            size += len(record.key) + len(record.value)
            position += 1
        self.position = position
        self._applying = False
        self.pace.count(position - start, size)

    def _reader_at(self, position: int) -> Reader:
        """A reader that goes on from there: the one we have, past what we appended ourselves."""
        reader = self._reader
        if reader is not None and self.wal.first_position <= reader.position <= position:
            ours = position - reader.position
            if ours <= _SKIP_RECORDS_MAX:
                for _ in islice(reader, ours):
                    pass
                return reader
        self._reader = self.wal.read_from(position)
        return self._reader

    def _reload(self) -> None:
        self._applying = True
        self._reader = None
        rewinds = self.wal._rewinds()
        self.current, self.position = self._archive.load(None)
        self._rewinds = rewinds
        self._applying = False

    def _after_an_interrupt(self) -> None:
        """An exception came while the state was changing, so it is made anew; unless this is a
        signal's handler that interrupts just that."""
        frame: FrameType | None = sys._getframe(2)
        while frame is not None:
            if frame.f_code in _CHANGING and frame.f_locals.get("self") is self:
                raise ReentrantError(
                    "the store was called from a signal handler that interrupted a call on it",
                    hint="Set a flag in the handler and call afterwards",
                )
            frame = frame.f_back
        self._reload()

    # --- Checkpoints ------------------------------------------------------------------------------

    def checkpoint(self) -> int:
        """Write a snapshot of the state as it is now, then remove the records that neither it nor
        the one before it needs; its position. Durable at return; blocks, O(size of the state).

        Appends go on meanwhile, also while the state is copied; queries wait for that copy. One at
        a time. After a failure everything is as before. Raises DiskFullError, StorageError,
        FailedError, ReadOnlyError, ClosedError, RewoundError, and UsageError when the snapshots
        there are another fold's.
        """
        with self._checkpoint_lock:
            if self._writing:
                raise ReentrantError("a signal's handler cannot make a checkpoint within one")
            self._writing = True
            try:
                with self.lock:
                    state, position = self.copy()
                    rewinds = self._rewinds
                    self.pace.begin()
                self._archive.write(state, position, rewinds)
                self._counted_from = position
                return position
            finally:
                self._writing = False

    def _checkpoint_when_due(self) -> None:
        """The background thread's."""
        try:
            if self.position == self._counted_from:
                return
            newest = max(self._archive.positions(), default=0)
            if newest > self._counted_from:
                self._counted_from = newest  # another process made one meanwhile
                return
            self.checkpoint()
        except TreeringError as error:
            self._archive.note(f"checkpoint: {error}")
        except Exception as error:  # of the state's own code: the next one may succeed
            self._archive.note(f"checkpoint: {type(error).__name__}: {error}")

    # --- Knowing and closing ----------------------------------------------------------------------

    @property
    def trouble(self) -> list[str]:
        """What went wrong with snapshots and background checkpoints, in words; the last few."""
        return list(self._archive.trouble)

    def note(self, text: str) -> None:
        """Remember in `trouble` what went wrong."""
        self._archive.note(text)

    def check(self) -> None:
        """The state is what the log says: the log's own invariants, every snapshot whole, and from
        each of them, or from nothing, the same state. Reads everything; DamageError otherwise."""
        with self._checkpoint_lock:  # ours remove nothing meanwhile
            for _ in range(_CHECKS_MAX):
                try:
                    return self._check()
                except PrunedError:
                    continue  # another process made a checkpoint: what is left has to be looked at
            return self._check()

    def _check(self) -> None:
        self.wal.check()
        self._archive.check(*self.copy())

    def stats(self) -> dict[str, Any]:
        """The log's, the position of the state, the snapshots, and what went wrong."""
        return {
            **self.wal.stats(),
            "position": self.position,
            "snapshots": self._archive.positions(),
            "trouble": self.trouble,
        }

    def close(self) -> None:
        """Finish a checkpoint that the background is making, make everything durable, and let go
        of the log; idempotent."""
        self.pace.end()
        self.wal.close()
        with self.lock:
            self._reader = None  # the state stays: another thread's query may be looking at it

    def _after_fork(self) -> None:
        """In the child: the parent's threads are gone, with what they held or were doing."""
        self._reader = None  # it reads with the parent's descriptors
        self._make_locks()
        self.pace.restart()

    def __enter__(self) -> Fold[S]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


# What runs while the state changes.
_CHANGING = (Fold._read.__code__, Fold._take_in.__code__)

_folds: weakref.WeakSet[Fold[Any]] = weakref.WeakSet()


def _forget_parents_threads() -> None:
    for fold in list(_folds):
        fold._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parents_threads)
