"""Reading events: the same for a store and for a store as it was."""

from __future__ import annotations

from abc import abstractmethod
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Generic, NamedTuple, TypeVar

from treering import PositionError, Reader, Record, UsageError
from treering.fold import Follower
from treering.fold.kit import as_str, as_text, end_of

from .codec import Registry
from .event import EVENT, HEAD, SNAPSHOT, RecordedEvent, read_head
from .names import TYPE_BYTES_MAX, check_version, stream_name
from .state import State

T = TypeVar("T")

# Events are looked up so many at a time: enough to share reads, few enough to stay small.
BLOCK = 256
_BEGINS = bytes([EVENT])


class Aggregate(NamedTuple, Generic[T]):
    """What the events of a stream come to. `version` is that of the newest one (-1: there is none),
    which is what to expect when you append on the strength of it."""

    state: T
    version: int


def wanted_types(types: Iterable[str] | str | None) -> frozenset[bytes] | None:
    """Types as they are stored; None for all."""
    if types is None:
        return None
    if isinstance(types, str):
        types = (types,)
    return frozenset(as_text(each, "an event's type", TYPE_BYTES_MAX) for each in types)


def events_of(
    records: Iterable[Record],
    registry: Registry,
    types: frozenset[bytes] | None,
    stream: int,
) -> Iterator[RecordedEvent]:
    """The events among the log's records; `stream` is the store's, as several may share the log."""
    for record in records:
        key = record.key
        if record.stream != stream:
            continue
        if not key.startswith(_BEGINS) or len(key) <= HEAD.size:
            if read_head(record).kind == SNAPSHOT:  # which raises for what is unknown
                continue
        elif types is None or key[HEAD.size + (key[2] | key[3] << 8) :] in types:
            yield RecordedEvent(record, registry)


class EventReader:
    """The events of the log in their order; made by `read_all`. `position` is where to go on from
    after the event that came last. For one thread at a time, except for `stop`."""

    def __init__(
        self,
        reader: Reader,
        registry: Registry,
        types: frozenset[bytes] | None,
        stream: int,
    ) -> None:
        self._reader = reader
        self._chosen = (registry, types, stream)

    @property
    def position(self) -> int:
        """Of the next record that is looked at."""
        return self._reader.position

    def __iter__(self) -> Iterator[RecordedEvent]:
        return events_of(self._reader, *self._chosen)

    def __next__(self) -> RecordedEvent:
        return next(events_of(self._reader, *self._chosen))

    def stop(self) -> None:
        """End the iteration, from another thread or a signal's handler, within 0.25 s."""
        self._reader.stop()

    def close(self) -> None:
        """Let go of the log's file; idempotent."""
        self._reader.close()

    def __enter__(self) -> EventReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Readable:
    """What events can be read from."""

    _fold: Follower[State]
    _registry: Registry

    @abstractmethod
    def _limit(self) -> int | None:
        """Events from this position on do not show; None: all do."""

    def _look(self, look: Callable[[State], T]) -> T:
        """What `look` finds in the newest state, which stands still meanwhile."""
        with self._fold.lock:
            return look(self._fold.state())

    def _positions(self, name: bytes, start: int, stop: int | None) -> array[int]:
        """Where the events of a stream lie, between two versions."""
        limit = self._limit()

        def look(state: State) -> array[int]:
            stream = state.streams.get(name)
            if stream is None:
                return array("Q")
            end = stream.count if limit is None else bisect_left(stream.positions, limit)
            return stream.positions[start : end if stop is None else min(stop, end)]

        return self._look(look)

    def read(
        self,
        stream: str,
        from_version: int = 0,
        to_version: int | None = None,
        *,
        reverse: bool = False,
    ) -> Iterator[RecordedEvent]:
        """The events of a stream, from `from_version` up to, not including, `to_version`, as they
        are now; none if there is no such stream. O(events between) reads, of 256 events at a time;
        the others of the log are not touched.

        Raises DamageError, StorageError, ClosedError; UsageError for what are no versions, and
        within a transaction for events that it has added itself.
        """
        name = stream_name(stream)
        check_version(from_version, "from_version")
        if to_version is not None:
            check_version(to_version, "to_version")
        positions = self._positions(name, from_version, to_version)
        if positions and positions[-1] >= end_of(self._fold):
            raise UsageError(
                "events that this transaction adds cannot be read before it ends",
                hint="Read before you append, or after the transaction",
            )
        return self._events_at(positions, reverse)

    def _events_at(self, positions: Sequence[int], reverse: bool) -> Iterator[RecordedEvent]:
        registry, read_many = self._registry, self._fold.wal.read_many
        starts: Iterable[int] = range(0, len(positions), BLOCK)
        for start in reversed(starts) if reverse else starts:  # type: ignore[call-overload]
            records = read_many(positions[start : start + BLOCK])
            for record in reversed(records) if reverse else records:
                yield RecordedEvent(record, registry)

    def read_all(
        self,
        from_position: int = 0,
        types: Iterable[str] | str | None = None,
        stop: int | None = None,
        follow: bool = False,
        timeout: float | None = None,
    ) -> EventReader:
        """All events from a position on, in the order that everybody sees: positions rise, and
        nothing ever appears behind a reader. Positions between belong to other records.

        `types` chooses some, `stop` ends before that position. With `follow` it waits for more, at
        most `timeout` seconds for each record of the log (None: for ever), in any process. Memory
        stays flat. PositionError beyond the end; DamageError, StorageError.
        """
        limit = self._limit()
        if limit is not None:
            if follow:
                raise UsageError("the past does not go on", hint="Use the store's read_all")
            if from_position > limit:
                raise PositionError("the view ends before this position", position=from_position)
            stop = limit if stop is None else min(stop, limit)
        chosen = wanted_types(types)
        reader = self._fold.wal.read_from(from_position, stop=stop, follow=follow, timeout=timeout)
        return EventReader(reader, self._registry, chosen, self._fold.stream)

    def version(self, stream: str) -> int:
        """The version of a stream's newest event; -1 (`NO_STREAM`) if there is none. O(1); in the
        past O(log n)."""
        name, limit = stream_name(stream), self._limit()
        if limit is None:
            return self._look(lambda state: state.version(name))
        return self._look(lambda state: _count_before(state, name, limit)) - 1

    def streams(self, prefix: str = "") -> list[str]:
        """The names of the streams that begin with `prefix`, sorted. O(number of streams)."""
        begin = as_text(prefix, "a prefix", 1 << 16) if prefix else b""
        limit = self._limit()

        def look(state: State) -> list[bytes]:
            names = state.names(begin)
            if limit is None:
                return names
            return [name for name in names if state.streams[name].positions[0] < limit]

        return [as_str(name) for name in self._look(look)]

    def aggregate(
        self, stream: str, initial: T, apply: Callable[[T, RecordedEvent], T]
    ) -> Aggregate[T]:
        """What the events of a stream come to: `apply(state, event)` returns the state after it,
        beginning with `initial`. O(events of the stream)."""
        state, version = initial, -1
        for event in self.read(stream):
            state, version = apply(state, event), version + 1
        return Aggregate(state, version)


def _count_before(state: State, name: bytes, limit: int) -> int:
    stream = state.streams.get(name)
    return 0 if stream is None else bisect_left(stream.positions, limit)


class View(Readable):
    """The store as it was when the log ended at `position`: read-only, and standing still. Shares
    the store's index, so it costs nothing to make; it ends with the store."""

    def __init__(self, fold: Follower[State], registry: Registry, position: int) -> None:
        self._fold, self._registry = fold, registry
        self.position = position

    def _limit(self) -> int:
        return self.position

    def __repr__(self) -> str:
        return f"<events of {self._fold.wal.path!r} before position {self.position}>"
