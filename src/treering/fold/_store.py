"""What every store has besides its own: care of the log, closing, a name."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Generic, Self

from ._fold import Fold
from ._follower import Follower
from ._state import S


class Store(Generic[S]):
    """A store on a fold of its own, or on its part of a shared one (then `close` does nothing, and
    `checkpoint` and `check` are those of the whole log). Thread-safe."""

    _fold: Follower[S]
    _own: Fold[S] | None
    read_only = False

    def _stand_on(self, fold: Follower[S], read_only: bool) -> None:
        """Begin on this fold. `_own` is it if the log is the store's alone, so that it may write
        there without asking."""
        self._fold, self.read_only = fold, read_only
        self._own = fold if isinstance(fold, Fold) else None

    def _past(self, position: int | None, time: Any) -> tuple[S, int]:
        """The state as it was at a position or time, and that position; as `Fold.at`."""
        if time is not None and position is None:
            position, time = self._fold.position_at(time), None
        return self._fold.at(position, time), position or 0

    def checkpoint(self) -> int:
        """Write a snapshot and drop the log that nobody needs any more; its position. Durable at
        return. See `treering.fold.Fold.checkpoint`."""
        return self._fold.checkpoint()

    def sync(self) -> None:
        """Make everything durable; blocks for an fsync. Nothing to do for a read-only store."""
        if not self.read_only:
            self._fold.wal.sync()

    def check(self) -> None:
        """Walk all invariants: the log's, the snapshots', that both give this state, and those of
        the state itself. DamageError at the first that does not hold. Reads everything."""
        self._fold.check()
        self.check_state()

    def check_state(self) -> None:
        """The part of `check` that is about this store alone."""

    def stats(self) -> dict[str, Any]:
        """Numbers for people and dashboards: the fold's, and the store's own."""
        return self._fold.stats()

    @property
    def name(self) -> str:
        """The directory."""
        return self._fold.wal.path

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._fold.wal.closed

    def close(self) -> None:
        """Make everything durable and let go of the log; idempotent."""
        self._fold.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        package = type(self).__module__.rpartition(".")[0]
        closed = " closed" if self.closed else ""
        return f"<{package}.{type(self).__name__} {self.name!r}{closed}>"
