"""Following a log's entries, to send them to another node."""

from __future__ import annotations

import time
from collections.abc import Iterator

from treering.fold import Follower

from .reading import Place, Shelf
from .records import Entry
from .state import State

# A waiting iterator looks so often whether it was stopped.
_SLICE_SECONDS = 0.25


class Replication(Iterator[Entry]):
    """The entries from an index on, as `RaftLog.replicate_from` gives them; `next_index` is where
    to go on from. It ends when there was none for so long; a later step finds what came since. For
    one thread at a time, except for `stop`."""

    def __init__(
        self,
        fold: Follower[State],
        path: str,
        before: Place,
        timeout: float | None,
    ) -> None:
        self._fold, self._timeout = fold, timeout
        self._shelf = Shelf(fold, path, before)
        self._given = before
        self._block: list[Entry] = []
        self.stopped = False

    @property
    def next_index(self) -> int:
        """The index after that of the newest entry that was given."""
        return self._given[0] + 1

    def __iter__(self) -> Replication:
        return self

    def __next__(self) -> Entry:
        while not self.stopped:
            block, index = self._block, self.next_index
            if block and block[0].index <= index <= block[-1].index:
                if self._shelf.holds():
                    entry = block[index - block[0].index]
                    self._given = entry[:2]
                    return entry
                self._block = []  # some of it may have been replaced since it was fetched
            elif not self._fill():
                break
        raise StopIteration

    def _fill(self) -> bool:
        """Fetch more; whether there was some in time."""
        until = None if self._timeout is None else time.monotonic() + self._timeout
        while not self.stopped:
            seen = self._fold.position
            self._shelf.before = self._given
            found = self._shelf.fetch(self.next_index, None)
            if found:
                self._block = found
                return True
            left = _SLICE_SECONDS if until is None else until - time.monotonic()
            if left <= 0:
                return False
            self._fold.wait(min(left, _SLICE_SECONDS), position=seen)
        return False

    def stop(self) -> None:
        """End the iteration, from another thread or a signal's handler, within 0.25 s."""
        self.stopped = True

    def __enter__(self) -> Replication:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
