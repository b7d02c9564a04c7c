"""What a store says of records that it has not written, or not this version of it."""

from __future__ import annotations

from typing import NoReturn

from .._core.codec import Record
from .._core.errors import DamageError, VersionError


class Foreign:
    """The errors of one kind of store, of which `store` is the name: "a job queue"."""

    def __init__(self, store: str) -> None:
        self._store = store

    def damaged(self, record: Record, what: str) -> DamageError:
        """The error for a record of a known kind that the store cannot have written here."""
        return DamageError(
            f"the record {record.key!r:.60} is none of {self._store}: {what}",
            position=record.position,
            hint="Open it with the store that wrote it, or run `treering verify`",
        )

    def unknown(self, record: Record) -> VersionError:
        """The error for a record of a kind that this version does not know."""
        return VersionError(
            f"{self._store} has no records like {record.key!r:.60}",
            position=record.position,
            hint="It is of a newer version of treering, or of another store: open it with that",
        )

    def refuse(self, record: Record, what: str) -> NoReturn:
        """Raise `damaged`; `what` is a verb with its object."""
        raise self.damaged(record, f"it {what}")

    def refuse_unknown(self, record: Record) -> NoReturn:
        """Raise `unknown`."""
        raise self.unknown(record)
