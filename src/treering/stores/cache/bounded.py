"""The part of a cache that keeps it within its bound, and tells others what was used."""

from __future__ import annotations

from collections.abc import Callable

from treering import Record, TooLargeError, TreeringError
from treering.fold import Fold, Store

from .state import State, cost
from .usage import Usage
from .values import Codec
from .victims import room_records, within

Decide = Callable[[State], list[Record]]


class Bounded(Store[State]):
    """Commands end with it within its bound."""

    _log: Fold[State]  # the store's own: a cache is no part of a database
    _codec: Codec | None
    _used: Usage
    _bound: int
    _policy: str

    def _command(self, decide: Decide) -> range:
        """A command that may set something: afterwards the cache is within its bound."""
        fold, made = self._log, list[Record]()

        def noting(state: State) -> list[Record]:
            nonlocal made
            made = decide(state)
            return within(state, self._bound, made) if self._policy == "none" else made

        positions = fold.command(noting)
        self._used.note_set(record.key for record in made)
        if positions and (fold.current.size > self._bound or fold.current.torn):
            self._make_room()
        return positions

    def _make_room(self, spare: bytes = b"") -> None:
        """Evict until the cache is within its bound; `spare` was set just now."""
        evicted = 0

        def decide(state: State) -> list[Record]:
            nonlocal evicted
            used = self._used.untold()
            records, evicted = room_records(state, self._bound, self._policy, used, spare)
            return [*self._used.news(state.size), *records] if records else []

        while self._log.command(decide, durable=False):
            self._used.evictions += evicted

    def _check_size(self, coded: bytes, raw: bytes) -> bytes:
        size = cost(coded, raw)
        if size > self._bound:
            raise TooLargeError(
                f"an entry of {size} bytes is larger than the cache, {self._bound}",
                hint="Give the cache a larger size_bytes_max",
            )
        return raw

    def _tell(self, *, last: bool = False) -> None:
        """Tell other processes what this one used. Not a thing to fail for: it is a hint."""
        if self.read_only:
            self._used.noted = {}
            return
        news = self._used.news(self._log.current.size, last=last)
        try:
            if news:
                self._log.append(news, durable=False)
        except TreeringError:
            pass

    def _missed(self) -> None:
        used = self._used
        used.misses += 1
        if used.noted and used.due():
            self._tell()
