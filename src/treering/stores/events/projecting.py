"""Read models: what a handler makes of the events, each taken in exactly once.

A projection has a log of its own. Each batch of events is one atomic record group there: what the
handler changed in the view, and how far it has come. It is appended only if nobody else came
further meanwhile, and only when the events in it are durable: so a view never knows more than the
log of events.
"""

from __future__ import annotations

import json
import struct
import time
from collections.abc import (
    Callable,
    ItemsView,
    Iterable,
    Iterator,
    Mapping,
    MutableMapping,
    ValuesView,
)
from itertools import islice
from typing import TYPE_CHECKING, Any

from treering import DamageError, FsyncPolicy, Record, UsageError, VersionError
from treering.fold import Fold

from .event import RecordedEvent, as_str
from .names import as_text
from .reading import EventReader

if TYPE_CHECKING:
    from .store import EventStore

Handler = Callable[["WritableView", RecordedEvent], object]

# Events in one atomic commit.
BATCH = 256
_SLICE_SECONDS = 0.25
_SEGMENT_BYTES = 4 << 20
_KEY_BYTES_MAX = 65_000

_VALUE, _CLEAR, _PROGRESS = b"v", b"c", b"p"
_REACHED = struct.Struct("<Q16s")


class ViewState:
    """The view's values as JSON, how far it has come, and in which log."""

    label = b"treering projection 1"

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.reached = 0
        self.log_id = bytes(16)

    def apply(self, record: Record) -> None:
        """Take in one record of the projection's log."""
        kind, name = record.key[:1], record.key[1:]
        if kind == _VALUE and record.tombstone:
            self.values.pop(as_str(name, record.position), None)
        elif kind == _VALUE:
            self.values[as_str(name, record.position)] = bytes(record.value)
        elif kind == _PROGRESS and len(record.value) == _REACHED.size:
            self.reached, self.log_id = _REACHED.unpack(record.value)
        elif kind == _CLEAR:
            self.values = {}
        else:
            raise VersionError(
                f"a record that is no projection's: {record.key!r:.40}",
                position=record.position,
                hint="A newer treering wrote it, or another store",
            )

    def dump(self) -> Iterator[Record]:
        """The values, then how far they go."""
        for name, value in self.values.items():
            yield Record(_VALUE + name.encode(), value)
        yield Record(_PROGRESS, _REACHED.pack(self.reached, self.log_id))

    load = apply

    def copy(self) -> ViewState:
        """Another state that stays as this one is now."""
        other = ViewState()
        other.values, other.reached = self.values.copy(), self.reached
        other.log_id = self.log_id
        return other


class ProjectionView(Mapping[str, Any]):
    """What a projection has come to: texts to JSON values, each a copy of its own. Shows what any
    process has committed."""

    def __init__(self, fold: Fold[ViewState]) -> None:
        self._fold = fold

    def __getitem__(self, key: str) -> Any:
        return _decoded(self._fold.state().values[key])

    def __iter__(self) -> Iterator[str]:
        with self._fold.lock:
            return iter(list(self._fold.state().values))

    def __len__(self) -> int:
        return len(self._fold.state().values)

    def copy(self) -> dict[str, Any]:
        """All of it, of one moment."""
        with self._fold.lock:
            found = list(self._fold.state().values.items())
        return {key: _decoded(value) for key, value in found}

    # Python's own views look each key up, and another process may just have removed it.
    def items(self) -> ItemsView[str, Any]:
        """As a dict's, of one moment."""
        return self.copy().items()

    def values(self) -> ValuesView[Any]:
        """As a dict's, of one moment."""
        return self.copy().values()

    def __repr__(self) -> str:
        return f"<view with {len(self)} keys>"


def _decoded(value: bytes) -> Any:
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise DamageError("a view's value is not JSON", hint="Call rebuild()") from error


class WritableView(MutableMapping[str, Any]):
    """The view as a handler sees it. Values are copies: to change one, set it again."""

    def __init__(self, values: Mapping[str, bytes]) -> None:
        self._values = values
        self.changes: dict[str, bytes | None] = {}

    def _stored(self, key: str) -> bytes:
        value = self.changes[key] if key in self.changes else self._values[key]
        if value is None:
            raise KeyError(key)
        return value

    def __getitem__(self, key: str) -> Any:
        return _decoded(self._stored(key))

    def __setitem__(self, key: str, value: Any) -> None:
        as_text(key, "a view's key", _KEY_BYTES_MAX)
        try:
            self.changes[key] = json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise UsageError(f"a view's values are JSON values: {error}") from error

    def __delitem__(self, key: str) -> None:
        self._stored(key)
        self.changes[key] = None

    def __contains__(self, key: object) -> bool:
        if key in self.changes:
            return self.changes[key] is not None
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        for key in [*self._values, *(key for key in self.changes if key not in self._values)]:
            if key in self:
                yield key

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def records(self) -> list[Record]:
        """The changes, for the log."""
        return [
            Record(_VALUE + key.encode(), value or b"", tombstone=value is None)
            for key, value in self.changes.items()
        ]


class Projection:
    """A read model that follows the store; made by `EventStore.projection`. Any number of processes
    may run the same one: each event is taken in once. Thread-safe."""

    def __init__(
        self,
        store: EventStore,
        name: str,
        path: str,
        handler: Handler,
        types: Iterable[str] | str | None,
        options: dict[str, Any],
    ) -> None:
        if not callable(handler):
            raise UsageError("a projection's handler is a function of the view and an event")
        self._store, self._handler, self._types = store, handler, types
        self.name = name
        # What power loss takes from a view is made again from the events: there is no hurry.
        defaults = {"fsync_policy": FsyncPolicy.OS, "segment_bytes_max": _SEGMENT_BYTES}
        self._fold: Fold[ViewState] = Fold(path, ViewState, own=True, **{**defaults, **options})
        self._stops = self._stops_obeyed = 0

    @property
    def view(self) -> ProjectionView:
        """What it has come to, read-only. Does not catch up with the events: `catch_up` does."""
        return ProjectionView(self._fold)

    @property
    def position(self) -> int:
        """Events before this position are in the view."""
        return self._fold.state().reached

    @property
    def lag(self) -> int:
        """How many positions of the log the view is behind; 0: it has seen all."""
        return max(0, self._store.position - self.position)

    def catch_up(self) -> int:
        """Take in the events that are in the store now, 256 in one commit; how many this call did.

        An exception of the handler is raised, with a note which event it was; of its batch nothing
        is kept, and the next call begins with that batch again. Blocks while the events of a batch
        are not durable. Raises UsageError for a view of another log; ReadOnlyError, DiskFullError.
        """
        handled, end = 0, self._store.position
        reader: EventReader | None = None
        while True:
            with self._fold.lock:
                state, seen = self._fold.state(), self._fold.position
                start, values = state.reached, state.values
                self._refuse_others(state)
            if start >= end:
                return handled
            if reader is None or reader.position != start:
                reader = self._store.read_all(start, self._types, stop=end)
            events = list(islice(iter(reader), BATCH))
            reached = reader.position if len(events) == BATCH else end
            if self._commit(seen, self._handled(seen, values, events), reached):
                handled += len(events)
                if reached == end:
                    reader = None

    def _refuse_others(self, state: ViewState) -> None:
        wal = self._store._fold.wal
        foreign = state.log_id not in (bytes(16), wal.log_id)
        if foreign or state.reached > wal.current_position():
            raise UsageError(
                "the view knows events that this log does not have",
                path=self._fold.wal.path,
                position=state.reached,
                hint="The store was restored from a copy? Call rebuild()",
            )

    def _handled(
        self, seen: int, values: Mapping[str, bytes], events: list[RecordedEvent]
    ) -> list[Record]:
        """What the handler makes of these events."""
        view, handler = WritableView(values), self._handler
        for event in events:
            try:
                handler(view, event)
            except Exception as error:
                if self._moved(seen):
                    return []  # the view changed under it: all of this is begun again
                error.add_note(f"in the projection {self.name!r} at {event!r}")
                raise
        return view.records()

    def _moved(self, seen: int) -> bool:
        self._fold.state()
        return self._fold.position != seen

    def _commit(self, seen: int, records: list[Record], reached: int) -> bool:
        """Append, unless somebody has come further than `seen` meanwhile; whether we did."""
        wal, fold = self._store._fold.wal, self._fold
        if wal.durable_position < reached:
            wal.wait_durable(reached - 1)
        progress = Record(_PROGRESS, _REACHED.pack(reached, wal.log_id))

        def decide(state: ViewState) -> list[Record]:
            return [*records, progress] if fold.position == seen else []

        return bool(fold.command(decide))

    def rebuild(self) -> int:
        """Forget the view, and take in all events from the first on; how many. Other readers see
        it grow anew."""
        progress = _REACHED.pack(0, self._store._fold.wal.log_id)
        self._fold.append([Record(_CLEAR), Record(_PROGRESS, progress)])
        return self.catch_up()

    def run(
        self,
        live: bool = True,
        stop: Callable[[], bool] | None = None,
        timeout: float | None = None,
    ) -> int:
        """Catch up, then go on live with what comes, from any process, until `stop()` says True,
        `Projection.stop` was called or nothing came for `timeout` seconds; how many events this
        call took in. Blocks; looks at `stop` at least every 0.25 s. Errors as `catch_up`."""
        handled, quiet_since = 0, time.monotonic()
        obeyed = self._stops_obeyed
        try:
            while self._stops == obeyed and not (stop is not None and stop()):
                some = self.catch_up()
                handled += some
                now = time.monotonic()
                quiet_since = now if some else quiet_since
                left = _SLICE_SECONDS
                if timeout is not None:
                    left = min(left, quiet_since + timeout - now)
                if not live or left <= 0:
                    break
                self._store._fold.wait(left, position=self.position)
        finally:
            self._stops_obeyed = self._stops
        return handled

    def stop(self) -> None:
        """End `run`, from another thread or a signal's handler, within 0.25 s. If none is going on,
        the next one ends at once: the thread that is about to begin it may not have come so far."""
        self._stops += 1

    def check(self) -> None:
        """Walk the invariants of the projection's log and snapshots; DamageError."""
        self._fold.check()
        self.view.copy()

    def stats(self) -> dict[str, Any]:
        """Numbers about it: those of its log, and `reached`, `lag`, `keys`."""
        state = self._fold.state()
        return {
            **self._fold.stats(),
            "reached": state.reached,
            "lag": self.lag,
            "keys": len(state.values),
        }

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._fold.wal.closed

    def close(self) -> None:
        """Let go of its log; idempotent. The store does it, too."""
        self._stops += 1
        self._fold.close()

    def __enter__(self) -> Projection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<projection {self.name!r} of {self._store.name!r}>"
