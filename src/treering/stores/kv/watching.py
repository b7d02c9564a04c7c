"""Following the changes of a store."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from treering import Record
from treering.fold import Follower
from treering.fold.kit import is_clear

from .state import State


class Change(NamedTuple):
    """One change: `key` was set to `value`, or removed (None). With `cleared`, every key that
    begins with `key` was removed."""

    position: int
    key: bytes
    value: bytes | None
    timestamp: float | None
    expires_at: float | None
    cleared: bool


class Watch:
    """The changes to keys with a prefix, as they come; made by `KeyValueStore.watch`. `position`
    is where to watch from later on so that nothing is missed. For one thread at a time, except for
    `stop`."""

    def __init__(
        self, fold: Follower[State], prefix: bytes, position: int, timeout: float | None
    ) -> None:
        self._reader = fold.wal.read_from(position, follow=True, timeout=timeout)
        self._prefix, self._stream = prefix, fold.stream

    @property
    def position(self) -> int:
        """Of the next record that is looked at."""
        return self._reader.position

    def __iter__(self) -> Iterator[Change]:
        return self

    def __next__(self) -> Change:
        prefix = self._prefix
        while True:
            record = next(self._reader)
            if record.stream != self._stream:
                continue
            cleared = is_clear(record)
            if record.key.startswith(prefix) or (cleared and prefix.startswith(record.key)):
                return _change(record, cleared)

    def stop(self) -> None:
        """End the iteration, from another thread or a signal's handler, within 0.25 s."""
        self._reader.stop()

    def close(self) -> None:
        """Let go of the log's file; idempotent."""
        self._reader.close()

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _change(record: Record, cleared: bool) -> Change:
    value = None if record.tombstone else bytes(record.value)
    position = -1 if record.position is None else record.position
    return Change(position, record.key, value, record.timestamp, record.expires_at, cleared)
