"""Views that follow a log: what a handler makes of its records, each taken in exactly once.

A projection has a log of its own. Each batch is one atomic record group there: what the handler
changed in the view, and how far it has come. It is appended only if nobody else came further
meanwhile, and only when what is in it is durable: so a view never knows more than the log.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any, Generic, Protocol, Self, TypeVar

from .._core.codec import Record
from .._core.errors import PositionError, RewoundError, UsageError
from .._core.options import FsyncPolicy
from .._core.wal import Wal
from ._fold import Fold
from ._log import wait_for_news
from ._trail import Mark, Moment, last_print, moment, refuse_gap, why_lost
from ._view import ProjectionView, ViewState, WritableView, clear_view_record, progress_record

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

# Items in one atomic commit.
BATCH = 256
_SLICE_SECONDS = 0.25
_SEGMENT_BYTES = 4 << 20


class Items(Protocol[T_co]):
    """What a projection reads, and the position up to which it has."""

    @property
    def position(self) -> int:
        """Of the next record that is looked at."""

    def __iter__(self) -> Iterator[T_co]:
        """The items from there on."""


class Projection(Generic[T]):
    """A view that follows a log. Any number of processes may run the same one: each item is taken
    in once. Thread-safe. A subclass says which log (`_wal`) and which items of it (`_items`).

    `version` is that of the handler; the view keeps the one that made it.
    """

    version = 0
    _waits_durable = True

    def __init__(
        self,
        name: str,
        path: str | os.PathLike[str],
        handler: Callable[[WritableView, T], object],
        options: dict[str, Any],
    ) -> None:
        self._handler = handler
        self.name = name
        # What power loss takes from a view is made again from the log: there is no hurry.
        defaults = {"fsync_policy": FsyncPolicy.OS, "segment_bytes_max": _SEGMENT_BYTES}
        self._fold: Fold[ViewState] = Fold(path, ViewState, own=True, **{**defaults, **options})
        self._stops = self._stops_obeyed = 0
        self._verified: tuple[bytes, int, int] | None = None

    @property
    def _wal(self) -> Wal:
        """The log that it follows."""
        raise NotImplementedError

    def _items(self, start: int, stop: int) -> Items[T]:
        """What there is to take in between two positions."""
        raise NotImplementedError

    @property
    def view(self) -> ProjectionView:
        """What it has come to, read-only. Does not catch up with the log: `catch_up` does."""
        return ProjectionView(self._fold)

    @property
    def position(self) -> int:
        """What lies before this position is in the view."""
        return self._begun(self._fold.state().mark).reached

    @property
    def lag(self) -> int:
        """How many positions of the log the view is behind; 0: it has seen all."""
        return max(0, self._wal.current_position() - self.position)

    # --- Catching up ------------------------------------------------------------------------------

    def catch_up(self, limit: int | None = None) -> int:
        """Take in what is in the log now, 256 in one commit, at most `limit` in all; how many this
        call did.

        An exception of the handler is raised, with a note which item it was; of its batch nothing
        is kept, and the next call begins with that batch again. Blocks while the records of a batch
        are not durable. Raises UsageError for a view of another log; PrunedError if the log was
        truncated before the view had seen all; ReadOnlyError, DiskFullError.
        """
        handled, end = 0, self._wal.current_position()
        items: Items[T] | None = None
        while True:
            now = moment(self._wal)
            with self._fold.lock:
                state, seen = self._fold.state(), self._fold.position
                mark, values = self._begun(state.mark), state.values
            if self._had_to_begin_anew(state, seen, now):
                continue
            most = BATCH if limit is None else min(BATCH, limit - handled)
            end = min(end, now.end)  # the log may have been cut
            if mark.reached >= end or most <= 0:
                return handled
            refuse_gap(self._wal, mark, "the view")
            try:
                if items is None or items.position != mark.reached:
                    items = self._items(mark.reached, end)
                some = list(islice(iter(items), most))
                reached = items.position
                self._wait_durable(reached)
                last = last_print(self._wal, reached)
            except (PositionError, RewoundError):
                if moment(self._wal).rewinds == now.rewinds:
                    raise
                items = None  # records were taken back while we read them
                continue
            mark = mark._replace(reached=reached, epoch=now.epoch, print=last)
            if self._commit(seen, now, self._handled(seen, values, some), mark):
                handled += len(some)

    def _begun(self, mark: Mark) -> Mark:
        """The mark, of a new view at the log's oldest record."""
        if mark.log_id != bytes(16):
            return mark
        first = self._wal.first_position
        return Mark(first, self._wal.log_id, first)

    def _had_to_begin_anew(self, state: ViewState, seen: int, now: Moment) -> bool:
        """Whether what the view has taken in is not the log's any more, and it was begun anew."""
        if self._verified == (self._wal.log_id, seen, now.rewinds):
            return False
        why = why_lost(self._wal, state.mark)
        if why:
            self._begin_anew(why, state, seen)
            return True
        self._verified = (self._wal.log_id, seen, now.rewinds)
        return False

    def _begin_anew(self, why: str, state: ViewState, seen: int) -> None:
        raise UsageError(
            f"the view does not belong to what this log holds: {why}",
            path=self._fold.wal.path,
            position=state.mark.reached,
            hint="The log was restored from a copy? Call rebuild()",
        )

    def _wait_durable(self, reached: int) -> None:
        wal = self._wal
        if self._waits_durable and wal.durable_position < reached:
            wal.wait_durable(reached - 1)

    def _handled(self, seen: int, values: Mapping[str, bytes], items: list[T]) -> list[Record]:
        """What the handler makes of these."""
        view, handler = WritableView(values), self._handler
        for item in items:
            try:
                handler(view, item)
            except Exception as error:
                if self._moved(seen):
                    return []  # the view changed under it: all of this is begun again
                error.add_note(f"in the projection {self.name!r} at {item!r}")
                raise
        return view.records()

    def _moved(self, seen: int) -> bool:
        self._fold.state()
        return self._fold.position != seen

    def _commit(self, seen: int, now: Moment, records: list[Record], mark: Mark) -> bool:
        """Append, unless somebody has come further than `seen` meanwhile; whether we did."""
        progress = progress_record(mark, self.version)
        fold = self._fold

        def decide(state: ViewState) -> list[Record]:
            return [*records, progress] if fold.position == seen else []

        done = fold.command(decide)
        if done:
            self._verified = (mark.log_id, done.stop, now.rewinds)
        return bool(done)

    def rebuild(self) -> int:
        """Forget the view, and take in all that the log has from its oldest record on; how many
        items. Other readers see it grow anew."""
        self._fold.append(self._blank())
        return self.catch_up()

    def _blank(self) -> list[Record]:
        wal, now = self._wal, moment(self._wal)
        first = wal.first_position
        mark = Mark(first, wal.log_id, first, now.epoch)
        return [clear_view_record(), progress_record(mark, self.version)]

    # --- Live -------------------------------------------------------------------------------------

    def run(
        self,
        live: bool = True,
        stop: Callable[[], bool] | None = None,
        timeout: float | None = None,
    ) -> int:
        """Catch up, then go on live with what comes, from any process, until `stop()` says True,
        the `stop` method was called or nothing came for `timeout` seconds; how many items this
        call took in. Blocks; looks at `stop` at least every 0.25 s. Errors as `catch_up`."""
        handled, quiet_since = 0, time.monotonic()
        obeyed = self._stops_obeyed
        try:
            while self._stops == obeyed and not (stop is not None and stop()):
                some = self.catch_up()
                handled += some
                now = time.monotonic()
                quiet_since = now if some else quiet_since
                left = _SLICE_SECONDS
                if timeout is not None:
                    left = min(left, quiet_since + timeout - now)
                if not live or left <= 0:
                    break
                self._wait(left)
        finally:
            self._stops_obeyed = self._stops
        return handled

    def _wait(self, seconds: float) -> None:
        """Sleep until the log has more, at most so long."""
        wait_for_news(self._wal, self.position, self._wal._rewinds(), seconds)

    def stop(self) -> None:
        """End `run`, from another thread or a signal's handler, within 0.25 s. If none is going on,
        the next one ends at once: the thread that is about to begin it may not have come so far."""
        self._stops += 1

    # --- Care -------------------------------------------------------------------------------------

    def check(self) -> None:
        """Walk the invariants of the projection's log and snapshots; DamageError."""
        self._fold.check()
        self.view.copy()

    def stats(self) -> dict[str, Any]:
        """Numbers about it: those of its log, and `reached`, `lag`, `keys`."""
        state = self._fold.state()
        return {
            **self._fold.stats(),
            "reached": state.mark.reached,
            "lag": self.lag,
            "keys": len(state.values),
        }

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._fold.wal.closed

    def close(self) -> None:
        """Let go of its log; idempotent."""
        self._stops += 1
        self._fold.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<projection {self.name!r} of {self._wal.path!r}>"
