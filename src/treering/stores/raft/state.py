"""What a Raft log's records come to: an index of the entries, the hard state, the snapshot."""

from __future__ import annotations

import itertools
import struct
import weakref
from array import array
from collections.abc import Callable, Iterator
from typing import Any

from treering import Record

from . import records as rec
from .index import CHUNK_ENTRIES, Index
from .recent import Recent
from .records import Entry, HardState

_NOT_NEEDED = 1 << 62
_CHUNKS_IN_RECORD = 8192

_new = tuple.__new__
_unpack_entry = rec.ENTRY_KEY.unpack


class Held:
    """The positions from which on readers of this process still need the log."""

    def __init__(self) -> None:
        self._holders: dict[int, tuple[weakref.ref[Any], int]] = {}
        self._serial = itertools.count()

    def add(self, holder: object, position: int) -> None:
        """As long as `holder` lives."""
        holders, number = self._holders, next(self._serial)
        holders[number] = (weakref.ref(holder, lambda _: holders.pop(number, None)), position)

    def oldest(self) -> int:
        """The least of them."""
        return min((at for _, at in list(self._holders.values())), default=_NOT_NEEDED)


class Stored:
    """A snapshot of the state machine, or one that is being stored: where its chunks are. `id` is
    the position of its first record."""

    __slots__ = ("chunks", "id", "index", "metadata", "size", "term")

    def __init__(self, id: int, index: int, term: int, metadata: bytes, size: int = 0) -> None:
        self.id, self.index, self.term = id, index, term
        self.metadata, self.size = metadata, size
        self.chunks: array[int] = array("Q")

    def copy(self) -> Stored:
        """Another one: 8 bytes a chunk."""
        other = Stored(self.id, self.index, self.term, self.metadata, self.size)
        other.chunks = self.chunks[:]
        return other


class State:
    """The entries after `index.before`, whose term is `before_term`, up to `index.last`.

    `snapshot` is whole and does not change any more, `pending` is being stored. `recent` has the
    newest entries' data; copies have none of it, and dumps neither.
    """

    label = b"treering raft-log 1"

    def __init__(self, cache_bytes: int = 0, held: Held | None = None) -> None:
        self.index = Index()
        self.before_term = 0
        self.hard = HardState()
        self.snapshot: Stored | None = None
        self.pending: Stored | None = None
        self.recent = Recent(cache_bytes)
        self.held = held or Held()

    # --- apply ---

    def apply(self, record: Record) -> None:
        """Take in one record of the log."""
        change = _CHANGES.get(record.key[:1])
        if change is None:
            raise rec.unknown(record)
        if record.tombstone:
            raise rec.damaged(record, "nothing is deleted here")
        change(self, record)

    def _entry(self, record: Record) -> None:
        try:
            _, number, term, kind = _unpack_entry(record.key)
        except struct.error:
            raise rec.damaged(record, "its numbers are cut short") from None
        if number != self.index.last + 1 or term < self.last_term:
            raise rec.damaged(record, f"entry {number} of term {term} does not come next")
        self.index.append(record.position or 0, term)
        self.recent.add(_new(Entry, (number, term, bytes(record.value), kind)))

    def _truncate(self, record: Record) -> None:
        (last,) = rec.fields(rec.ONE, record)
        if not self.hard.commit <= last <= self.index.last:
            raise rec.damaged(record, f"the log cannot end at {last}")
        self.index.cut(last)
        self.recent.cut(last)

    def _hard_state(self, record: Record) -> None:
        term, commit = rec.fields(rec.TWO, record)
        vote = rec.unpack_vote(record, bytes(record.value))
        if term < self.hard.term or not self.hard.commit <= commit <= self.index.last:
            raise rec.damaged(record, "its term or commit index does not follow")
        self.hard = HardState(term, vote, commit)

    def _begin(self, record: Record) -> None:
        index, term = rec.fields(rec.TWO, record)
        self.pending = Stored(record.position or 0, index, term, bytes(record.value))

    def _chunk(self, record: Record) -> None:
        id, number = rec.fields(rec.TWO, record)
        pending = self._pending(record, id)
        if number != len(pending.chunks):
            raise rec.damaged(record, f"chunk {number} of the snapshot does not come next")
        pending.chunks.append(record.position or 0)
        pending.size += len(record.value)

    def _done(self, record: Record) -> None:
        id, count, size, before, before_term, retain = rec.fields(rec.DONE_KEY, record)
        pending = self._pending(record, id)
        if (count, size) != (len(pending.chunks), pending.size):
            raise rec.damaged(record, "the snapshot has lost some of its chunks")
        if not self._fits(pending, before, before_term, retain):
            raise rec.damaged(record, "the snapshot does not fit the entries")
        if retain:
            self.index.trim(before)
            self.recent.trim(before)
        else:
            self.index.begin_at(before)
            self.recent.forget(before + 1)
        self.before_term = before_term
        self.snapshot, self.pending = pending, None
        self.hard = self.hard._replace(commit=max(self.hard.commit, pending.index))

    def _fits(self, pending: Stored, before: int, before_term: int, retain: bool) -> bool:
        index = self.index
        if not retain:
            return before == pending.index >= self.hard.commit
        there = index.before <= before <= pending.index <= index.last
        return there and self.term(before) == before_term

    def _abandon(self, record: Record) -> None:
        self._pending(record, *rec.fields(rec.ONE, record))
        self.pending = None

    def _pending(self, record: Record, id: int) -> Stored:
        if self.pending is None or self.pending.id != id:
            raise rec.damaged(record, "no such snapshot is being stored")
        return self.pending

    # --- the files of checkpoints ---

    def dump(self) -> Iterator[Record]:
        """The state as records: the index as a few large ones."""
        index, hard = self.index, self.hard
        numbers = (hard.term, hard.commit, index.before, self.before_term, index.last)
        header = rec.HEADER_KEY.pack(rec.HEADER, *numbers)
        yield Record(header, rec.pack_vote(hard.voted_for))
        for kind, stored in ((rec.SNAPSHOT, self.snapshot), (rec.PENDING, self.pending)):
            if stored is not None:
                yield from _dump_stored(kind, stored)
        for first, piece in index.pieces():
            yield Record(rec.ONE.pack(rec.PIECE, first), rec.little(piece))

    def load(self, record: Record) -> None:
        """Take in one of these."""
        load = _LOADS.get(record.key[:1])
        if load is None:
            raise rec.unknown(record)
        load(self, record)

    def _load_header(self, record: Record) -> None:
        term, commit, before, before_term, last = rec.fields(rec.HEADER_KEY, record)
        if not before <= last <= rec.NUMBER_MAX:
            raise rec.damaged(record, "its entries end before they begin")
        self.hard = HardState(term, rec.unpack_vote(record, bytes(record.value)), commit)
        self.index.begin_at(before)
        self.before_term = before_term
        self.recent.forget(last + 1)

    def _load_stored(self, record: Record) -> None:
        id, index, term, size = rec.fields(rec.STORED_KEY, record)
        stored = Stored(id, index, term, bytes(record.value), size)
        if record.key[:1] == rec.SNAPSHOT:
            self.snapshot = stored
        else:
            self.pending = stored

    def _load_chunks(self, record: Record) -> None:
        id, number = rec.fields(rec.TWO, record)
        for stored in (self.snapshot, self.pending):
            if stored is not None and stored.id == id and len(stored.chunks) == number:
                stored.chunks += rec.from_little(record, bytes(record.value))
                return
        raise rec.damaged(record, "no snapshot has these chunks")

    def _load_piece(self, record: Record) -> None:
        (first,) = rec.fields(rec.ONE, record)
        piece = rec.from_little(record, bytes(record.value))
        if len(piece) > 2 * CHUNK_ENTRIES or not self.index.load(first, piece):
            raise rec.damaged(record, "this part of the index does not come next")

    def copy(self) -> State:
        """Another state that stays as this one is now; without the newest entries' data."""
        other = State(0, self.held)
        other.index, other.before_term = self.index.copy(), self.before_term
        other.hard, other.snapshot = self.hard, self.snapshot
        other.pending = self.pending and self.pending.copy()
        return other

    def oldest_needed(self) -> int:
        """The oldest entry, or chunk of a snapshot, that is nowhere but in the log."""
        index, needed = self.index, [self.held.oldest()]
        needed += (stored.id for stored in (self.snapshot, self.pending) if stored is not None)
        if index.last > index.before:
            needed.append(index.position(index.before + 1))
        return min(needed)

    # --- queries ---

    @property
    def last_term(self) -> int:
        """The term of the last entry, or of what came before."""
        index = self.index
        return index.term(index.last) if index.last > index.before else self.before_term

    def term(self, index: int) -> int:
        """The term of an entry that is there, or of the one before all of them."""
        return self.before_term if index == self.index.before else self.index.term(index)


def _dump_stored(kind: bytes, stored: Stored) -> Iterator[Record]:
    numbers = (stored.id, stored.index, stored.term, stored.size)
    yield Record(rec.STORED_KEY.pack(kind, *numbers), stored.metadata)
    for at in range(0, len(stored.chunks), _CHUNKS_IN_RECORD):
        some = stored.chunks[at : at + _CHUNKS_IN_RECORD]
        yield Record(rec.TWO.pack(rec.CHUNK, stored.id, at), rec.little(some))


_CHANGES: dict[bytes, Callable[[State, Record], None]] = {
    rec.ENTRY: State._entry,
    rec.TRUNCATE: State._truncate,
    rec.HARD_STATE: State._hard_state,
    rec.BEGIN: State._begin,
    rec.CHUNK: State._chunk,
    rec.DONE: State._done,
    rec.ABANDON: State._abandon,
}
_LOADS: dict[bytes, Callable[[State, Record], None]] = {
    rec.HEADER: State._load_header,
    rec.SNAPSHOT: State._load_stored,
    rec.PENDING: State._load_stored,
    rec.CHUNK: State._load_chunks,
    rec.PIECE: State._load_piece,
}
