"""The part of a cache that keeps it within its bound, and tells others what was used."""

from __future__ import annotations

from collections.abc import Callable, Collection

from treering import DiskFullError, Record, TooLargeError, TreeringError
from treering.fold import Fold, Store

from .state import State, cost
from .usage import NOTED_MAX, Usage
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
        keys = [record.key for record in made]
        if len(keys) + len(self._used.noted) >= NOTED_MAX:
            self._tell()
        self._used.note_set(keys)
        if positions and (fold.current.size > self._bound or fold.current.torn):
            self._make_room(keys)
        return positions

    def _make_room(self, spare: Collection[bytes]) -> None:
        """Evict until the cache is within its bound; `spare` was set just now. On a full disk the
        next call does it: this one has set what it had to."""
        used, evicted = self._used.untold(), 0
        news: list[Record] | None = None  # made once, however often somebody else is quicker

        def decide(state: State) -> list[Record]:
            nonlocal evicted, news
            seen = self._log.position
            try:
                records, evicted = room_records(state, self._bound, self._policy, used, spare)
            except (RuntimeError, KeyError):
                if self._log.position == seen:
                    raise
                return []  # a signal's handler set something meanwhile, so it made room
            if records and news is None:
                news = self._used.news(state.size)
            return [*(news or ()), *records] if records else []

        try:
            while self._log.command(decide, durable=False):
                self._used.evictions += evicted
                news = []
            if news:  # somebody else made room
                self._log.append(news, durable=False)
        except DiskFullError:
            pass

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
        news = self._used.news(self._log.current.size, last=last)
        try:
            if news and not self.read_only:
                self._log.append(news, durable=False)
        except TreeringError:
            pass

    def _missed(self) -> None:
        used = self._used
        used.misses += 1
        if used.noted and used.due():
            self._tell()
