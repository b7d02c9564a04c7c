"""Puts and deletes that are written together."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

from treering import Record


class WriteBatch:
    """Puts and deletes that will be written together; see `KeyValueStore.write_batch`."""

    def __init__(
        self, write: Callable[[list[Record], bool], None], *, transaction: bool, sync: bool
    ) -> None:
        self._write, self._transaction, self._sync = write, transaction, sync
        self._records: list[Record] = []

    def put(self, key: bytes, value: bytes) -> None:
        """Set `key` to `value`, when the batch is written."""
        self._records.append(Record.put(key, value))

    def delete(self, key: bytes) -> None:
        """Remove `key`, when the batch is written."""
        self._records.append(Record.delete(key))

    def clear(self) -> None:
        """Forget what was collected."""
        self._records.clear()

    def write(self) -> None:
        """Write what was collected, and begin anew."""
        records, self._records = self._records, []
        if records:
            self._write(records, self._sync)

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
