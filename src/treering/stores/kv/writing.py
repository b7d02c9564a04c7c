"""Puts and deletes that are written together."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any

from treering import Record, UsageError

from .keys import check_key

if TYPE_CHECKING:
    from .store import KeyValueStore


class WriteBatch:
    """Puts and deletes that will be written together; see `KeyValueStore.write_batch`. For one
    thread at a time."""

    def __init__(
        self, db: KeyValueStore, *, transaction: bool, sync: bool, prefix: bytes = b""
    ) -> None:
        self._db, self._prefix = db, prefix
        self._transaction, self._sync = transaction, sync
        self._records: list[Record] = []

    def put(
        self,
        key: bytes,
        value: bytes,
        *,
        ttl: float | None = None,
        expires_at: float | None = None,
    ) -> None:
        """Set `key` to `value`, when the batch is written."""
        self._records.append(
            self._db._record(self._prefix + check_key(key), value, ttl, expires_at)
        )

    def delete(self, key: bytes) -> None:
        """Remove `key`, when the batch is written."""
        self._records.append(Record.delete(self._prefix + check_key(key)))

    def clear(self) -> None:
        """Forget what was collected."""
        self._records.clear()

    def __len__(self) -> int:
        return len(self._records)

    def write(self) -> None:
        """Write what was collected, and begin anew. After an error it is still there, so that you
        can try again. Errors as `KeyValueStore.put`; TooLargeError over `batch_bytes_max`."""
        if self._records:
            self._db._write(self._records, self._sync)
            self._records = []

    def __enter__(self) -> WriteBatch:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None or not self._transaction:
            self.write()
        else:
            self.clear()


def collect(batch: WriteBatch, others: tuple[Any, ...], more: dict[Any, Any]) -> None:
    """What `dict.update` does with these arguments, as one batch."""
    if more:
        raise UsageError("keys are bytes, so they cannot be keywords")
    if len(others) > 1:
        raise UsageError(f"update takes one mapping or iterable, not {len(others)}")
    for other in others:
        pairs = other.items() if hasattr(other, "items") else other
        if not hasattr(other, "items") and hasattr(other, "keys"):
            pairs = ((key, other[key]) for key in iter(other.keys()))
        for key, value in pairs:
            batch.put(key, value)
    batch.write()
