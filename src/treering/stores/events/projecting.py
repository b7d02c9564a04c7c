"""Read models: what a handler makes of the events, each taken in exactly once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from treering import UsageError, Wal
from treering.fold.kit import Projection as FoldProjection
from treering.fold.kit import WritableView

from .event import RecordedEvent
from .reading import EventReader

if TYPE_CHECKING:
    from .store import EventStore

Handler = Callable[[WritableView, RecordedEvent], object]


class Projection(FoldProjection[RecordedEvent]):
    """A read model that follows the store; made by `EventStore.projection`. Any number of processes
    may run the same one: each event is taken in once. Thread-safe. The store closes it, too."""

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
        self._store, self._types = store, types
        super().__init__(name, path, handler, options)

    @property
    def _wal(self) -> Wal:
        return self._store._fold.wal

    def _items(self, start: int, stop: int) -> EventReader:
        return self._store.read_all(start, self._types, stop=stop)

    def __repr__(self) -> str:
        return f"<projection {self.name!r} of {self._store.name!r}>"
