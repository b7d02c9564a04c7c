"""Records collected for one atomic append."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any

from .codec import Record
from .errors import UsageError


class Batch:
    """Collects records for one atomic append; see `Wal.batch`. For one thread at a time."""

    def __init__(
        self, append: Callable[..., range], make: Callable[..., Record], durable: bool
    ) -> None:
        self._append = append
        self._make = make
        self._durable = durable
        self._records: list[Record] = []
        self.positions: range | None = None

    def put(self, key: bytes, value: bytes, **options: Any) -> None:
        """Add a put; options as for `Record.put`, and `ttl`."""
        self.append(self._make(Record.put, key, value, **options))

    def delete(self, key: bytes, **options: Any) -> None:
        """Add a tombstone."""
        self.append(self._make(Record.delete, key, **options))

    def append(self, record: Record) -> None:
        """Add a record."""
        self._check_open()
        self._records.append(record)

    def _check_open(self) -> None:
        if self.positions is not None:
            raise UsageError("the batch was appended already", hint="Begin a new one")

    def __len__(self) -> int:
        return len(self._records)

    def __enter__(self) -> Batch:
        self._check_open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self.positions = self._append(self._records, durable=self._durable)
        finally:
            self._forget_failed()

    def _forget_failed(self) -> None:
        if self.positions is None:  # a block that failed leaves nothing for the next one
            self._records = []
