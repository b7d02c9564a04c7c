"""What a page store's records come to: where the newest version of each page is."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from treering import DamageError, Record

from . import records
from .placed import CHUNK_BYTES, CHUNK_PAGES, Placed
from .versions import Version, Versions

_ABOUT = struct.Struct("<IQQ")
_PAGE = struct.Struct("<cQ")
_KNOWN, _PLACED, _DIRTY = b"A", b"P", b"V"


class State:
    """The pages themselves stay in the log or in the data file. `dirty` has those whose newest
    version is in the log alone: its records, the whole page first.

    Other threads may ask for a `version` while one changes it: the order of the steps in
    `_checkpoint` sees to it that they find one. `versions` is this process's business: see there.
    """

    label = b"treering pages 1"

    def __init__(self) -> None:
        self.page_bytes = 0  # until the first record
        self.page_count = 0
        self.flushed_to = 0  # of the last checkpoint
        self.dirty: dict[int, tuple[int, ...]] = {}
        self.placed = Placed()
        self.versions: Versions | None = None
        self._kept_from: int | None = None

    # --- apply ---

    def apply(self, record: Record) -> None:
        """Take in one record of the log."""
        kind = record.key[:1]
        if kind == records.FORMAT and not self.page_bytes:
            self.page_bytes = records.format_of(record)
        elif kind == records.CHECKPOINT:
            self._checkpoint(record)
        elif kind == records.FORMAT or not self.page_bytes:
            raise records.damaged(record, "the page size, and only that, comes first")
        else:
            self._change(record)

    def _change(self, record: Record) -> None:
        change, position = records.page_change(record), record.position or 0
        page = change.page
        if page >= records.pages_max(self.page_bytes):
            raise records.damaged(record, f"page {page}")
        chain: tuple[int, ...] = (position,)
        if change.before is not None:
            chain = (*self.dirty.get(page, ()), position)
            if len(chain) < 2 or chain[-2] != change.before or records.chain_is_full(len(chain)):
                raise records.damaged(record, f"not the next change of page {page}")
        if self.versions is not None:
            self.versions.keep(page, position, self.version(page))
        self.dirty[page] = chain
        self.page_count = max(self.page_count, page + 1)

    def _checkpoint(self, record: Record) -> None:
        position = records.checkpoint_of(record)
        if not self.flushed_to <= position <= (record.position or 0):
            raise records.damaged(record, f"a checkpoint at {position}")
        self.flushed_to = position
        for page, chain in list(self.dirty.items()):
            if chain[-1] < position:
                self.placed.set(page, chain[-1])
                del self.dirty[page]

    # --- snapshots ---

    def dump(self) -> Iterator[Record]:
        """All of it, for a snapshot."""
        if self.page_bytes:
            yield Record(_KNOWN, _ABOUT.pack(self.page_bytes, self.page_count, self.flushed_to))
        for number, chunk in self.placed.dump():
            yield Record(_PAGE.pack(_PLACED, number), chunk)
        for page, chain in self.dirty.items():
            yield Record(_PAGE.pack(_DIRTY, page), struct.pack(f"<{len(chain)}Q", *chain))

    def load(self, record: Record) -> None:
        """Take in one record of a snapshot."""
        key, value = record.key, bytes(record.value)
        if key == _KNOWN and len(value) == _ABOUT.size:
            self.page_bytes, self.page_count, self.flushed_to = _ABOUT.unpack(value)
            if records.is_page_size(self.page_bytes):
                return
        elif len(key) == _PAGE.size:
            kind, number = _PAGE.unpack(key)
            if self._load_pages(kind, number, value):
                return
        raise DamageError(
            f"a snapshot's record is not in its form: {key!r:.40}",
            hint="Another snapshot, or the whole log, takes its place if there is one",
        )

    def _load_pages(self, kind: bytes, number: int, value: bytes) -> bool:
        """Take in a chunk, or a page's records, of that number; whether they can be ones."""
        most = records.pages_max(self.page_bytes) if self.page_bytes else 0
        if kind == _PLACED and len(value) == CHUNK_BYTES and number * CHUNK_PAGES < most:
            self.placed.load(number, value)
            return True
        if kind != _DIRTY or number >= most or not value or len(value) % 8:
            return False
        chain = struct.unpack(f"<{len(value) // 8}Q", value)
        self.dirty[number] = chain
        return not records.chain_is_full(len(chain)) and list(chain) == sorted(set(chain))

    def copy(self) -> State:
        """Another state that stays as this one is now: O(pages that are in the log alone)."""
        other = State()
        other.page_bytes, other.page_count = self.page_bytes, self.page_count
        other.flushed_to = self.flushed_to
        other.dirty, other.placed = self.dirty.copy(), self.placed.copy()
        if self.versions is not None:
            other._kept_from = self.versions.oldest_needed()
        return other

    def oldest_needed(self) -> int:
        """The first record that a page's newest version takes, or one that a snapshot sees."""
        needed = [chain[0] for chain in self.dirty.values()]
        if self._kept_from is not None:
            needed.append(self._kept_from)
        return min(needed, default=1 << 62)

    # --- queries ---

    def version(self, page: int) -> Version:
        """Where the page's newest version is."""
        chain = self.dirty.get(page)
        return self.placed.get(page) if chain is None else chain
