"""The store: commands and queries."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, Self, TypeVar, overload

from treering import ConflictError, DamageError, FsyncPolicy, UsageError
from treering.fold import Fold, Follower, Pair, Store
from treering.fold.kit import as_text

from .aggregates import WithSnapshots
from .codec import Codec, Registry, Upcaster
from .event import (
    ANY,
    NO_STREAM,
    Appended,
    Encoded,
    Event,
    encode,
)
from .names import check_version, stream_name
from .projecting import Handler, Projection
from .reading import View, wanted_types
from .state import State
from .subscribing import Subscription

T = TypeVar("T")

# As Appended(…), without its checks of names: every append makes one.
_appended = partial(tuple.__new__, Appended)

_SAFE = "abcdefghijklmnopqrstuvwxyz0123456789-_"
# What a projection's log has in common with the store's.
_SHARED_OPTIONS = ("clock", "create", "files", "lock_timeout_seconds", "map_tail", "process_lock")


class EventStore(Store[State], WithSnapshots):
    """Streams of events in a directory. Thread-safe; several processes may have it open at once,
    and each sees what the others appended with its next call.

    `fsync_policy` (default ALWAYS: durable when the call returns) and `durable=` of single calls as
    for the log; `exclusive=True` keeps others out. `codec` makes bytes of data (default: JSON).
    Snapshots of the index: `checkpoint_bytes`, `checkpoint_records`, `checkpoint_seconds` as for
    any fold; events are never removed. Further options are those of `treering.Wal.open`.

    In memory are the names of the streams, 8 bytes for each event and some 140 for each id that a
    caller gave. Every call raises what the log raises: ClosedError, ForkedError, FailedError,
    StorageError, DamageError; every command also DiskFullError and TooLargeError (nothing was
    changed) and ReadOnlyError.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        fsync_policy: FsyncPolicy = FsyncPolicy.ALWAYS,
        exclusive: bool = False,
        read_only: bool = False,
        codec: Codec | None = None,
        **options: Any,
    ) -> None:
        fold = Fold(
            path,
            State,
            own=True,
            fsync_policy=fsync_policy,
            exclusive=exclusive,
            read_only=read_only,
            **options,
        )
        self._begin(fold, codec, {**options, "read_only": read_only})

    @staticmethod
    def new_state(clock: Callable[[], int]) -> State:
        """An empty state, for a database. An event store's has no need of a clock."""
        return State()

    @classmethod
    def on(cls, fold: Follower[State], *, codec: Codec | None = None, **options: Any) -> Self:
        """The store as a part of a database; `options` are those of its projections' logs."""
        store = cls.__new__(cls)
        store._begin(fold, codec, options)
        return store

    def _begin(self, fold: Follower[State], codec: Codec | None, options: dict[str, Any]) -> None:
        self._stand_on(fold, bool(options.get("read_only")))
        self._registry = Registry(codec)
        self._options = {
            name: options[name] for name in (*_SHARED_OPTIONS, "read_only") if name in options
        }
        self._projections: list[Projection] = []

    def _limit(self) -> None:
        return None

    # --- Types ---

    @overload
    def register(self, cls: type[T], name: str | None = None, version: int = 1) -> type[T]: ...

    @overload
    def register(
        self, cls: None = None, name: str | None = None, version: int = 1
    ) -> Callable[[type[T]], type[T]]: ...

    def register(
        self, cls: type[T] | None = None, name: str | None = None, version: int = 1
    ) -> Any:
        """Say that a class is the data of the type `name` (default: the class's name), in its
        `version`: instances can be appended as they are, and reading gives instances. A decorator,
        too. For this handle: each program registers what it knows."""
        if cls is None:
            return lambda found: self._registry.register(found, name, version)
        return self._registry.register(cls, name, version)

    def upcast(self, type: str, from_version: int, function: Upcaster) -> None:
        """Say how data of that version of a type becomes data of the next one: `function` takes the
        old plain values (dict …) and returns the new. Events in the log stay as they are."""
        as_text(type, "an event's type", 1024)
        self._registry.upcast(type, from_version, function)

    # --- Commands: written at return; durable under ALWAYS, or with durable=True ---

    def append(
        self,
        stream: str,
        events: Event | Any | Sequence[Event | Any],
        *,
        expected_version: int = ANY,
        durable: bool | None = None,
    ) -> Appended:
        """Append one event or a sequence of them to a stream, all or nothing. An event is an
        `Event`, or an instance of a registered class.

        With `expected_version` (that of the stream's newest event, or NO_STREAM) only if it has
        that; otherwise WrongVersionError, and nothing is appended. Events with an `id` that are in
        the stream already are not appended again: the call gives what the first one gave, whatever
        version it expects; DuplicateEventError if only some are. Blocks for an fsync if it has to
        be durable. O(size of the events). UsageError for what cannot be written.
        """
        name = stream_name(stream)
        if type(events) is Event:
            encoded = [encode(events, self._registry)]
        else:
            encoded = self._encoded(events)
        if expected_version != ANY:
            check_version(expected_version, "expected_version", NO_STREAM)
        if self._own is not None:
            return self._append(self._own, stream, name, encoded, expected_version, durable)
        return self._append_hosted(stream, name, encoded, expected_version, durable)

    def _encoded(self, events: Any) -> list[Encoded]:
        some = list(events) if isinstance(events, list | tuple) else [events]
        if not some:
            raise UsageError("there are no events to append")
        found = []
        for event in some:
            if not isinstance(event, Event):
                event = Event(self._registry.name_of(event), event)
            found.append(encode(event, self._registry))
        ids = [each[4] for each in found if each[4]]
        if len(ids) != len(set(ids)):
            raise UsageError("two events of the call have the same id")
        return found

    def _append(
        self,
        fold: Fold[State],
        stream: str,
        name: bytes,
        events: list[Encoded],
        expected: int,
        durable: bool | None,
    ) -> Appended:
        """As `Fold.command`, without a Record for each event."""
        while True:
            with fold.lock:
                state = fold.state()
                seen = fold.position
                placed = state.place(stream, name, events, expected)
                if isinstance(placed, Appended):
                    result = placed
                    break
                version, pairs = placed
                try:
                    positions = fold.wal.append_batch(pairs, at=seen)
                except ConflictError:
                    continue  # somebody else was faster: look at what came
                # An interrupt from here on leaves the position behind, and so these are read back.
                size = state.add_all(name, version, seen, events)
                fold.position = seen + len(pairs)
                fold.pace.count(len(pairs), size)
                result = _appended((version, positions))
                break
        fold.settle(result.positions[-1], durable)
        return result

    def _append_hosted(
        self, stream: str, name: bytes, events: list[Encoded], expected: int, durable: bool | None
    ) -> Appended:
        """In a log that is shared with other stores, whose host has to see what is appended."""
        placed: tuple[int, list[Pair]] | Appended = (0, [])

        def decide(state: State) -> list[Pair]:
            nonlocal placed
            placed = state.place(stream, name, events, expected)
            return [] if isinstance(placed, Appended) else placed[1]

        positions = self._fold.command(decide, durable=durable)
        return placed if isinstance(placed, Appended) else Appended(placed[0], positions)

    # --- Following ---

    def subscribe(
        self,
        from_position: int | None = None,
        *,
        stream: str | None = None,
        types: Iterable[str] | str | None = None,
        timeout: float | None = None,
    ) -> Subscription:
        """The events from a position on (default: from now on), those of one stream or all, and
        then those that come, by any process. Waits at most `timeout` seconds for each event (None:
        for ever). For `for` and `async for`."""
        start = self.position if from_position is None else from_position
        check_version(start, "from_position")
        name = None if stream is None else stream_name(stream)
        return Subscription(self, start, name, wanted_types(types), timeout)

    def _positions_from(self, name: bytes, position: int, most: int) -> list[int]:
        """Where the next events of a stream lie, from a position on."""
        return self._look(lambda state: state.positions_from(name, position, most))

    def projection(
        self,
        name: str,
        handler: Handler,
        types: Iterable[str] | str | None = None,
        **options: Any,
    ) -> Projection:
        """A read model that `handler(view, event)` makes of the events: `view` is a dict of texts
        to JSON values, which survives. Kept under `projections/` in the store's directory. The
        handler gets each event once, in order, and changes nothing but the view. `options` are
        those of the projection's own log and its checkpoints (default: FsyncPolicy.OS)."""
        as_text(name, "a projection's name", 80)
        wanted_types(types)
        options = {**self._options, **options}
        projection = Projection(self, name, self._path_of(name), handler, types, options)
        self._projections = [each for each in self._projections if not each.closed]
        self._projections.append(projection)
        return projection

    def _path_of(self, name: str) -> str:
        """A directory for it: small letters, digits, and everything else by its code."""
        # Capitals too: there are file systems that do not tell them from small letters.
        safe = "".join(each if each in _SAFE else _coded(each) for each in name)
        host = f"{self._fold.stream}." if self._fold.stream else ""
        return os.path.join(self._fold.wal.path, "projections", host + safe)

    # --- The past ---

    def at(self, position: int | None = None, time: Any = None) -> View:
        """The store as it was when the log ended at `position`, or before the first event with that
        time (seconds since 1970 or a datetime) or a later one. O(log n). PositionError beyond the
        end."""
        if (position is None) == (time is None):
            raise UsageError("give a position or a time, and not both")
        if position is None:
            position = self._fold.position_at(time)
        check_version(position, "position")
        self._fold.wal.read_from(position).close()  # which refuses what is beyond the end
        return View(self._fold, self._registry, position)

    @property
    def position(self) -> int:
        """The end of the log: the next event's position, or a later one."""
        return self._fold.wal.current_position()

    # --- Care ---

    def check_state(self) -> None:
        """The part of `check` that compares the events with the index."""
        end, seen = self.position, dict[str, int]()
        for event in self.read_all(stop=end):
            stream, version = event.stream, event.version
            place = self._positions(stream_name(stream), version, version + 1)
            if version != seen.get(stream, -1) + 1 or list(place) != [event.position]:
                raise DamageError(
                    "an event is not where the index says", path=self.name, position=event.position
                )
            seen[stream] = version
            event.type, event.metadata  # noqa: B018 - takes key and value apart
        for projection in self._projections:
            if not projection.closed:
                projection.check()

    def stats(self) -> dict[str, Any]:
        """Numbers for people and dashboards: the fold's, and how many streams, events and given ids
        there are."""

        def count(state: State) -> dict[str, int]:
            streams = list(state.streams.values())
            return {
                "streams": len(streams),
                "events": sum(stream.count for stream in streams),
                "ids": sum(len(stream.ids) for stream in streams if stream.ids),
            }

        return {**self._fold.stats(), **self._look(count)}

    def close(self) -> None:
        """Make everything durable and let go of the log, and of the projections made here;
        idempotent."""
        with ExitStack() as last:  # all of them, also if one has failed
            last.callback(self._fold.close)
            for projection in self._projections:
                last.callback(projection.close)


def _coded(letter: str) -> str:
    return "".join(f"%{byte:02x}" for byte in letter.encode())
