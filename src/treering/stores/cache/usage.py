"""What this process used of a cache, until it tells the others: in small records, seldom."""

from __future__ import annotations

import math
import os
import time
import weakref
from collections.abc import Iterable
from itertools import dropwhile

from treering import Record

from .records import news_record

# So many entries are noted at most.
NOTED_MAX = 256
# And so many bytes of keys are told at most.
_NEWS_BYTES_MAX = 64 << 10
# Below this part of its bound the cache is far from evicting: nobody needs to know.
_FILL_THAT_MATTERS = 0.5
# After a miss the news goes out, at most so often.
_SECONDS_BETWEEN = 1.0


class Usage:
    """Hits by key, the last used last, and counts, of this process. No lock: a count may get lost
    between threads, never an entry."""

    def __init__(self, policy: str, bound: int) -> None:
        # The order counts under "lru", the number of uses under "lfu", nothing under "none".
        self._kind = b"+" if policy == "lfu" else b"~"
        self._matters = math.inf if policy == "none" else bound * _FILL_THAT_MATTERS
        self.begin()
        _usages.add(self)

    def begin(self) -> None:
        """As new; in a forked child, too: what was noted before, the parent tells."""
        self.noted: dict[bytes, int] = {}
        self.misses = self.sets = self.evictions = self._past_hits = 0
        self._told_at = time.monotonic()
        self._told = (0, 0, 0, 0)

    @property
    def counts(self) -> tuple[int, int, int, int]:
        """Hits, misses, sets, evictions of this process since it opened the cache."""
        hits = self._past_hits + sum(self.noted.copy().values())
        return hits, self.misses, self.sets, self.evictions

    def note_set(self, keys: Iterable[bytes]) -> None:
        """These were set: a use that the log knows, noted for its place among the others."""
        for key in keys:
            self.noted[key] = self.noted.pop(key, 0)

    def untold(self) -> dict[bytes, int]:
        """What was used and how often, the last used last."""
        return _since_first_hit(self.noted.copy())

    def due(self) -> bool:
        """Whether the last news is so old that a miss is a reason for more."""
        return time.monotonic() - self._told_at > _SECONDS_BETWEEN

    def news(self, size: int, *, last: bool = False) -> list[Record]:
        """A record with what was used and the counts since the one before, if that matters when the
        entries have this size, or as the `last`; what was noted until now is noted no more."""
        counts = self.counts
        noted, self.noted = self.noted.copy(), {}
        self._past_hits = counts[0]
        self._told_at = time.monotonic()
        if counts == self._told or (size < self._matters and not last):
            return []
        used = _newest(_since_first_hit(noted))
        if not used and not last:
            return []
        # Another thread may have told meanwhile more than we counted.
        since = tuple(max(0, now - then) for now, then in zip(counts, self._told, strict=True))
        self._told = counts
        return [news_record(self._kind, since, used.items())]


def _newest(used: dict[bytes, int]) -> dict[bytes, int]:
    """The last used of them, as many as go into a small record."""
    room, found = _NEWS_BYTES_MAX, list[tuple[bytes, int]]()
    for key, uses in reversed(used.items()):
        room -= len(key)
        if room < 0 and found:
            break
        found.append((key, uses))
    return dict(reversed(found))


def _since_first_hit(noted: dict[bytes, int]) -> dict[bytes, int]:
    """Without what was set before: the log has that in its place, among what others told."""
    return dict(dropwhile(lambda entry: not entry[1], noted.items()))


_usages: weakref.WeakSet[Usage] = weakref.WeakSet()


def _begin_in_child() -> None:
    for usage in list(_usages):
        usage.begin()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_in_child)
