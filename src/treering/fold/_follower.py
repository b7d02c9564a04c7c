"""What a store asks of the fold it stands on: one of its own, or its part of a shared one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from .._core.codec import Record
from .._core.wal import Wal
from ._state import Pair, State

S = TypeVar("S", bound=State, covariant=True)


class Unfinished(Protocol):
    """The transaction that a call belongs to."""

    @property
    def begun_at(self) -> int:
        """Where the log ended at its beginning: from there on it reads nothing, for what it adds is
        not there yet, and what others add has the same positions."""

    def if_undone(self, call: Callable[[], object]) -> None:
        """Make that call if nothing of the transaction comes into the log."""


class Follower(Protocol[S]):
    """A `Fold`, or a `Part` of one. `stream` is what the records of this store carry: 0 if the log
    is its own. Each method is explained at `Fold`."""

    stream: int

    @property
    def wal(self) -> Wal:
        """The log."""

    @property
    def lock(self) -> Any:
        """Held while the state changes."""

    @property
    def current(self) -> S:
        """The state as it was when it last caught up."""

    @property
    def position(self) -> int:
        """How far that is."""

    @property
    def transaction(self) -> Unfinished | None:
        """That of this thread; a fold of its own has none."""

    def state(self) -> S:
        """The state, caught up."""

    def copy(self) -> tuple[S, int]:
        """A copy of the state, and its position."""

    def at(self, position: int | None = None, time: Any = None) -> S:
        """The state as it was."""

    def position_at(self, time: Any) -> int:
        """Where the log stood at a time."""

    def wait(self, timeout: float | None = None, *, position: int | None = None) -> bool:
        """Sleep until there is something new."""

    def command(
        self, decide: Callable[[S], Sequence[Record | Pair]], *, durable: bool | None = None
    ) -> range:
        """Append what is decided on the newest state."""

    def append(self, records: Sequence[Record | Pair], *, durable: bool | None = None) -> range:
        """Append, whatever the state is."""

    def settle(self, position: int, durable: bool | None = None) -> None:
        """Wait until it is durable, if need be."""

    def checkpoint(self) -> int:
        """Write a snapshot, truncate the log."""

    def check(self) -> None:
        """Walk all invariants."""

    def stats(self) -> dict[str, Any]:
        """Numbers."""

    def close(self) -> None:
        """Let go of the log."""


def end_of(fold: Follower[Any]) -> int:
    """Where the log ends; in a transaction where it did at the beginning."""
    inside = fold.transaction
    return fold.wal.current_position() if inside is None else inside.begun_at
