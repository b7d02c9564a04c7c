"""What the events of a stream come to, and snapshots of it, kept in the log."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from treering import UsageError
from treering.fold import Pair
from treering.fold.kit import end_of

from .codec import Registry
from .event import HEAD, PLAIN, SCHEMA_MAX, SNAPSHOT, Event, RecordedEvent, Snapshot, encode
from .names import check_version, stream_name, wrong_version
from .reading import Aggregate, Readable
from .state import State

T = TypeVar("T")


class WithSnapshots(Readable):
    """Aggregates that go on from a snapshot."""

    def save_snapshot(
        self, stream: str, version: int, data: Any, *, schema: int = 1, durable: bool | None = None
    ) -> int:
        """Keep what the events of a stream up to and including `version` come to; its position.
        `data` as an event's. The newest one counts, and the log keeps all. `schema` is the version
        of your code's idea of it: raise it, and older ones are not loaded any more."""
        name = stream_name(stream)
        check_version(version, "version")
        flags, _, kind, value, _ = encode(
            Event(_kind_of(self._registry, data), data), self._registry
        )
        key = HEAD.pack(SNAPSHOT, flags, len(name), _check_schema(schema), version)

        def decide(state: State) -> list[Pair]:
            actual = state.version(name)
            if version > actual:
                raise wrong_version(stream, actual, version)
            return [(key + name + kind, value)]

        return self._fold.command(decide, durable=durable)[-1]

    def load_snapshot(self, stream: str, *, schema: int = 1) -> Snapshot | None:
        """The newest snapshot of a stream; None if there is none, or of another schema."""
        name = stream_name(stream)
        _check_schema(schema)
        position = self._look(lambda state: _snapshot_of(state, name))
        if position < 0 or position >= end_of(self._fold):
            return None
        event = RecordedEvent(self._fold.wal.read(position), self._registry)
        if event.schema != schema:
            return None
        return Snapshot(event.version, self._snapshot_data(event), position)

    def _snapshot_data(self, event: RecordedEvent) -> Any:
        if event._record.key[1] & PLAIN:
            return event.raw
        newest = self._registry.versions.get(event.type, 1)
        return self._registry.decode(event.type, newest, event.raw, event.position)

    def aggregate(
        self,
        stream: str,
        initial: T,
        apply: Callable[[T, RecordedEvent], T],
        *,
        snapshot_every: int | None = None,
        schema: int = 1,
    ) -> Aggregate[T]:
        """What the events of a stream come to: `apply(state, event)` returns the state after it,
        beginning with the newest snapshot, or with `initial`. With `snapshot_every` a snapshot is
        saved once so many events came after the one before. O(events after the snapshot)."""
        found = self.load_snapshot(stream, schema=schema)
        state, version = (initial, -1) if found is None else (found.data, found.version)
        before = version
        for event in self.read(stream, version + 1):
            state, version = apply(state, event), version + 1
        if snapshot_every is not None and version - before >= snapshot_every:
            self.save_snapshot(stream, version, state, schema=schema, durable=False)
        return Aggregate(state, version)


def _check_schema(schema: Any) -> int:
    if isinstance(schema, bool) or not isinstance(schema, int) or not 0 < schema <= SCHEMA_MAX:
        raise UsageError(f"a schema is a number from 1 to {SCHEMA_MAX}, not {schema!r:.40}")
    return schema


def _kind_of(registry: Registry, data: Any) -> str:
    """The type that a snapshot's data is kept under: that of its class, if it is registered."""
    return registry.known_name(data) or "snapshot"


def _snapshot_of(state: State, name: bytes) -> int:
    stream = state.streams.get(name)
    return -1 if stream is None else stream.snapshot
