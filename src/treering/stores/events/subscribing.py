"""Events as they come."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

from treering.fold.kit import end_of

from .event import RecordedEvent
from .reading import BLOCK, events_of

if TYPE_CHECKING:
    from .store import EventStore

# A waiting subscription looks this often whether it was stopped.
_SLICE_SECONDS = 0.25


class Subscription:
    """The events from a position on, those there are and those that come, whoever appends them;
    made by `EventStore.subscribe`. For `for` and for `async for`. `position` is where to subscribe
    from later on so that nothing is missed or comes twice. For one thread or task at a time, except
    for `stop`."""

    def __init__(
        self,
        store: EventStore,
        position: int,
        name: bytes | None,
        types: frozenset[bytes] | None,
        timeout: float | None,
    ) -> None:
        self._store, self._name, self._types = store, name, types
        self._timeout = timeout
        self._next = position
        self._ready: deque[RecordedEvent] = deque()
        # A cancelled task's thread may still be fetching when the next one begins.
        self._fetching = threading.Lock()
        self._stopped = False

    @property
    def position(self) -> int:
        """Where the next event that was not yet given out will be looked for."""
        with self._fetching:
            return self._ready[0].position if self._ready else self._next

    def __iter__(self) -> Iterator[RecordedEvent]:
        return self

    def __next__(self) -> RecordedEvent:
        until = self._until()
        while not self._stopped:
            if self._ready or self._fetch(self._left(until)):
                return self._ready.popleft()
            if self._over(until):
                break
        raise StopIteration

    def __aiter__(self) -> AsyncIterator[RecordedEvent]:
        return self

    async def __anext__(self) -> RecordedEvent:
        until = self._until()
        while not self._stopped:
            found = bool(self._ready)
            if found or await asyncio.to_thread(self._fetch, self._left(until)):
                return self._ready.popleft()
            if self._over(until):
                break
        raise StopAsyncIteration

    def _until(self) -> float | None:
        return None if self._timeout is None else time.monotonic() + self._timeout

    def _left(self, until: float | None) -> float:
        if until is None:
            return _SLICE_SECONDS
        return min(max(until - time.monotonic(), 0.0), _SLICE_SECONDS)

    def _over(self, until: float | None) -> bool:
        return until is not None and time.monotonic() >= until

    def _fetch(self, seconds: float) -> bool:
        """Have events ready, waiting at most so long for the log to grow; whether there are any."""
        with self._fetching:
            if self._take():
                return True
            with self._store._fold.wal.read_from(
                self._next, follow=True, timeout=seconds
            ) as coming:
                for _ in coming:
                    return self._take()
            return False

    def _take(self) -> bool:
        """Whether events are ready, from what the log has now."""
        end = end_of(self._store._fold)
        while not self._ready and self._next < end and not self._stopped:
            found, after = (self._some if self._name is None else self._some_of_stream)(end)
            self._ready.extend(found)
            self._next = after
        return bool(self._ready)

    def _some(self, end: int) -> tuple[list[RecordedEvent], int]:
        """The events among the next records, and where those end."""
        store, stop = self._store, min(end, self._next + BLOCK)
        with store._fold.wal.read_from(self._next, stop=stop) as reader:
            return list(events_of(reader, store._registry, self._types, store._fold.stream)), stop

    def _some_of_stream(self, end: int) -> tuple[list[RecordedEvent], int]:
        """The stream's next events, by the index."""
        store = self._store
        assert self._name is not None
        positions = store._positions_from(self._name, self._next, BLOCK)
        positions = [position for position in positions if position < end]
        after = positions[-1] + 1 if len(positions) == BLOCK else max(end, self._next)
        records = store._fold.wal.read_many(positions)
        return list(events_of(records, store._registry, self._types, store._fold.stream)), after

    def stop(self) -> None:
        """End the iteration, from another thread or a signal's handler, within 0.25 s."""
        self._stopped = True

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
