"""Records collected for one atomic append."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from .codec import Record
from .errors import UsageError


class Batch:
    """Collects records for one atomic append; see `Wal.batch`. For one thread at a time."""

    def __init__(self, append: Callable[..., range], durable: bool) -> None:
        self._append = append
        self._durable = durable
        self._records: list[Record] = []
        self.positions: range | None = None

    def put(self, key: bytes, value: bytes, **options: Any) -> None:
        """Add a put; options as for `Record.put`, and `ttl`."""
        self.append(Record(key, value, **self._with_expiry(options)))

    def delete(self, key: bytes, **options: Any) -> None:
        """Add a tombstone."""
        self.append(Record.delete(key, **self._with_expiry(options)))

    def append(self, record: Record) -> None:
        """Add a record."""
        if self.positions is not None:
            raise UsageError("the batch was appended already", hint="Begin a new one")
        self._records.append(record)

    @staticmethod
    def _with_expiry(options: dict[str, Any]) -> dict[str, Any]:
        ttl = options.pop("ttl", None)
        if ttl is not None:
            options["expires_at"] = time.time() + ttl
        return options

    def __len__(self) -> int:
        return len(self._records)

    def __enter__(self) -> Batch:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.positions = self._append(self._records, durable=self._durable)
