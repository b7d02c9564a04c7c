"""What a fold needs of a state."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, Self, TypeVar

from .._core.codec import Record

Pair = tuple[bytes, bytes]


class State(Protocol):
    """What a fold needs of a state. `label` names the kind and its version; a snapshot with another
    label is not loaded. One thread at a time calls these."""

    label: bytes

    def apply(self, record: Record) -> None:
        """Take in one record of the log."""

    def dump(self) -> Iterable[Record]:
        """The state as records of its own. They follow from the log alone, not from the time."""

    def load(self, record: Record) -> None:
        """Take in one of `dump`'s records; in their order, into an empty state."""

    def copy(self) -> Self:
        """Another state that stays as this one is now."""


class Index(State, Protocol):
    """A state that leaves the data in the log, and so needs it there."""

    def oldest_needed(self) -> int:
        """Checkpoints remove no record from this position on."""


S = TypeVar("S", bound=State)


def oldest_needed(state: State, position: int) -> int:
    """From where on records must stay for the sake of `state`, which is that of `position`."""
    asked = getattr(state, "oldest_needed", None)
    return position if asked is None else int(asked())


def placed(
    records: Iterable[Record | Pair], position: int, now_ns: int, stream: int = 0
) -> list[Record]:
    """These records as they will be read back, the first at `position`; as those of `stream`, if
    it is not 0."""
    return [
        (each if isinstance(each, Record) else Record(*each))._placed(at, now_ns, stream)
        for at, each in enumerate(records, position)
    ]


def difference(one: State, other: State) -> bytes | None:
    """The key of a record that only one of the two dumps has; None if they are the same.

    A record that was over when the later of the two was last told the time may be missing.
    """
    ours, theirs = set(map(_fields, one.dump())), set(map(_fields, other.dump()))
    newest = max((fields[-1] for fields in ours | theirs), default=0)
    known = {fields[:-1] for fields in ours} ^ {fields[:-1] for fields in theirs}
    for key, _, _, _, expires_at_ns in sorted(known, key=lambda fields: fields[0]):
        if expires_at_ns == 0 or expires_at_ns > newest:
            return key
    return None


def _fields(record: Record) -> tuple[bytes, int, bytes, bool, int, int]:
    return (
        record.key,
        record.stream,
        bytes(record.value),
        record.tombstone,
        record.expires_at_ns or 0,
        record.timestamp_ns or 0,
    )
