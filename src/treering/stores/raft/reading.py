"""Entries from wherever they are: from memory, or from the log in blocks."""

from __future__ import annotations

import struct
from itertools import accumulate

from treering import DamageError, PrunedError, Record
from treering.fold import Follower

from . import records as rec
from .errors import compacted, replaced, unavailable
from .records import Entry
from .state import State

BLOCK_ENTRIES = 1024
# Nobody knows how large entries are before they are read: so a few first, then more and more.
_FIRST_BLOCK = 4
_GROWTH = 8
# Of entries like those before, a block has about so much.
_BLOCK_BYTES = 1 << 20

Place = tuple[int, int]  # an index and its term

_new = tuple.__new__


class Shelf:
    """Fetches consecutive entries, block by block. For one thread at a time.

    Between two blocks the log may change: the next one is given only if the entry before it is
    still the one that was given; else ReplacedError.
    """

    def __init__(self, fold: Follower[State], path: str, before: Place | None = None) -> None:
        self._fold, self._path = fold, path
        self.before = before
        self._most = _FIRST_BLOCK

    def fetch(self, low: int, high: int | None) -> list[Entry]:
        """Some entries from `low` on, before `high` (None: as far as there are any); none only if
        there are none. CompactedError, UnavailableError, ReplacedError."""
        while True:
            with self._fold.lock:
                state = self._fold.state()
                self._check_before(state)
                end = check_span(state, low, high)
                if low >= state.recent.first:
                    found = state.recent.some(low, min(end, low + BLOCK_ENTRIES))
                    break
                end = min(end, low + self._most, state.recent.first)
                positions = state.index.positions(low, end)
            try:
                found = self._read(range(low, end), positions)
                self._learn(found)
                break
            except PrunedError:
                if self._in_place(low, positions):
                    raise
        if found:
            self.before = found[-1][:2]
        return found

    def holds(self) -> bool:
        """Whether what was fetched last is still the log's, or of the entries in its snapshot."""
        with self._fold.lock:
            return self._is_there(self._fold.state())

    def _is_there(self, state: State) -> bool:
        if self.before is None:
            return True
        index, term = self.before
        return state.index.before <= index <= state.index.last and state.term(index) == term

    def _check_before(self, state: State) -> None:
        if not self._is_there(state):
            assert self.before is not None
            index = self.before[0]
            if index < state.index.before:
                raise compacted(index + 1, state.index.before + 1)
            raise replaced(index)

    def _in_place(self, low: int, positions: list[int]) -> bool:
        """Whether the entries from `low` on are where they were: then that they cannot be read is
        not because they were compacted, or replaced and the old ones removed by a checkpoint."""
        end = low + len(positions)
        with self._fold.lock:
            index = self._fold.state().index
            there = index.before < low and end <= index.last + 1
            return there and index.positions(low, end) == positions

    def _learn(self, found: list[Entry]) -> None:
        """How many entries like these the next block may have."""
        mean = sum(len(entry.data) for entry in found) // max(len(found), 1)
        most = min(BLOCK_ENTRIES, _GROWTH * self._most, _BLOCK_BYTES // (mean + 1))
        self._most = max(1, most)

    def check(self, low: int) -> int | None:
        """Compare a block of entries in the log with the index, and with those in memory: from
        `low` on, or the oldest there is; where the next block begins, None at the end."""
        with self._fold.lock:
            state = self._fold.state()
            index, recent = state.index, state.recent
            low = max(low, index.before + 1)
            end = min(low + self._most, index.last + 1)
            if low >= end:
                return None
            indices = range(low, end)
            positions, terms = index.positions(low, end), [index.term(i) for i in indices]
            known = recent.some(low, end) if low >= recent.first else []
        try:
            found = self._read(indices, positions)
        except PrunedError:
            if self._in_place(low, positions):
                raise
            return low  # a compaction was faster, or others took their place
        self._learn(found)
        if [entry.term for entry in found] != terms or (known and known != found):
            raise DamageError(
                f"the entries from {low} on are not those that the index knows",
                path=self._path,
                hint="Get them from another node",
            )
        return end

    def _read(self, indices: range, positions: list[int]) -> list[Entry]:
        entries, unpack = [], rec.ENTRY_KEY.unpack
        for index, record in zip(indices, self._fold.wal.read_many(positions), strict=True):
            try:
                what, found, term, kind = unpack(record.key)
            except struct.error:
                raise self._foreign(index, record) from None
            if what != rec.ENTRY or found != index:
                raise self._foreign(index, record)
            entries.append(_new(Entry, (index, term, bytes(record.value), kind)))
        return entries

    def _foreign(self, index: int, record: Record) -> DamageError:
        return DamageError(
            f"where entry {index} should be is the record {record.key!r:.60}",
            path=self._path,
            position=record.position,
            hint="Run `treering verify`; get the entries from another node",
        )


def check_span(state: State, low: int, high: int | None) -> int:
    """The end of the entries from `low` to before `high`, which have to be there."""
    before, last = state.index.before, state.index.last
    if low <= before:
        raise compacted(low, before + 1)
    if high is None:
        high = last + 1
    if high > last + 1 or low > last + 1:
        raise unavailable(max(low, high - 1), last)
    return high


def within(entries: list[Entry], left: int) -> int:
    """How many of the entries have at most `left` bytes of data in all."""
    sums = accumulate(len(entry.data) for entry in entries)
    return next((at for at, size in enumerate(sums) if size > left), len(entries))
