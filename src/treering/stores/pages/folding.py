"""The fold of a page store: versions of pages, commits, and checkpoints that fill the data file."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from treering import DamageError, PositionError, PrunedError, Record
from treering.fold import Fold

from . import records
from .cache import Cache
from .datafile import DataFile, Writer
from .errors import PageConflictError, SnapshotTooOldError
from .reading import Source
from .state import State
from .versions import VOID, Snapshot, Version, Versions, newest

# So many pages are read from the log at once on their way to the data file.
_BLOCK_PAGES = 256
# A page that is read from the log costs as much as all of its transaction. After a larger one a
# checkpoint is due at once, whatever `checkpoint_bytes` is; not if there are to be none.
_LARGE_BYTES = 4 << 20
_DUE_BYTES = 1 << 60
# How often a flush begins anew because others' checkpoints removed records under it.
_FLUSHES_MAX = 3


class Changes(Protocol):
    """A transaction, as far as a commit asks."""

    written: dict[int, bytes]

    def validate(self, state: State) -> None:
        """PageConflictError if `state` has what the transaction should have seen."""


class PageFold(Fold[State]):
    """A fold whose state says where pages are. Before each checkpoint, also those of the
    background, what is in the log alone goes to the data file."""

    def __init__(
        self, path: str, data_file: DataFile, cache: Cache, timeout: float, **options: Any
    ) -> None:
        self.file, self.versions = data_file, Versions()
        self._cache, self._timeout = cache, timeout
        self.source: Source | None = None
        self.read_only = bool(options.get("read_only"))
        super().__init__(path, State, own=True, **options)

    def settle_on(self, page_bytes: int) -> None:
        """Begin to read and write pages of that size."""
        self.file.belong(self.wal.log_id, page_bytes)
        self.source = Source(self.wal, self.file, self._cache)

    def _reload(self) -> None:
        """As `Fold._reload`. If records were taken back, others may have their positions now."""
        if self.source is not None and self.wal._rewinds() != self._rewinds:
            self.versions.void()
            # New ones: other threads may be about to put into the old cache what they have read.
            self._cache = self._cache.another()
            self.source = Source(self.wal, self.file, self._cache)
        super()._reload()

    # --- Snapshots ---

    def begin(self, snapshot: Snapshot) -> int:
        """Say of which position `snapshot` is, and keep what it sees until `end`; how many pages
        there are then."""
        with self.lock:
            state = self.state()
            state.versions = self.versions  # not there yet if the state was just loaded
            snapshot.begun_at = self.position
            self.versions.begin(snapshot)
            return state.page_count

    def end(self, snapshot: Snapshot) -> None:
        """No longer."""
        with self.lock:
            self.versions.end(snapshot)

    # --- Reading: another process's checkpoint may move a page while we look ---

    def newest(self, page: int) -> bytes:
        """The newest committed version."""
        return self._find(page, lambda: self.state().version(page))

    def as_of(self, page: int, snapshot: Snapshot) -> bytes:
        """The version that a snapshot sees; SnapshotTooOldError if it is gone."""

        def version() -> Version:
            with self.lock:
                if self.wal._rewinds() != self._rewinds:
                    self.catch_up()
                position = snapshot.begun_at
                found = self.versions.as_of(page, position, self.current.version(page))
            if newest(found) >= position:
                raise too_old(page, position)
            return found

        try:
            return self._find(page, version)
        except DamageError:
            if newest(self.state().version(page)) >= snapshot.begun_at:
                raise too_old(page, snapshot.begun_at) from None  # it was replaced, and not by us
            raise

    def _find(self, page: int, version: Callable[[], Version]) -> bytes:
        missed: object = self
        while True:
            found = version()
            source = self.source  # after the version, see `_reload`
            assert source is not None
            data = source.read(page, found)
            if data is not None:
                return data
            if found == missed:  # we caught up in between, so nobody is about to replace it
                raise self.file.damaged_page(page, newest(found))
            missed = found
            self.state()

    def check_page(self, page: int) -> None:
        """DamageError unless the newest version is where the log says."""
        source, missed = self.source, object()
        assert source is not None
        while not source.is_there(page, found := self.state().version(page)):
            if found == missed:
                raise self.file.damaged_page(page, newest(found))
            missed = found

    # --- Commits ---

    def commit(self, changes: Changes, durable: bool | None) -> None:
        """Append all changed pages in one frame, if `changes.validate` agrees to what is there."""
        written, cache = changes.written, self._cache
        deltas = {page: self._delta(page, data) for page, data in written.items()}

        def decide(state: State) -> list[Record]:
            changes.validate(state)
            return [
                _record(state, page, index, written[page], deltas[page])
                for index, page in enumerate(written)
            ]

        positions = self.command(decide, durable=durable)
        for position, (page, data) in zip(positions, written.items(), strict=True):
            cache.put((page, position), data)
        if len(written) * self.file.page_bytes > _LARGE_BYTES:
            with self.lock:
                self.pace.count(0, _DUE_BYTES)

    def _delta(self, page: int, data: bytes) -> tuple[int, bytes] | None:
        """What changed since the newest version, and its position; None if the log should get the
        whole page: because it is no longer, or nothing is known to compare with."""
        version = self.current.version(page)
        if not isinstance(version, tuple) or self.source is None:
            return None
        old = self.source.remembered(page, version)
        if old is None:
            return None
        delta = records.difference(old, data, len(data) // 4)
        return None if delta is None else (newest(version), delta)

    # --- Checkpoints ---

    def checkpoint(self) -> int:
        """As `Fold.checkpoint`, after a flush."""
        if self.source is not None and not self.read_only:
            self.flush()
        return super().checkpoint()

    def flush(self) -> None:
        """Bring pages from the log to the data file, fsync it, then say so in the log.

        Open snapshots go on seeing what they saw: pages that changed after the oldest of them began
        wait until it has ended. What was not said in the log is done again by whoever is next.
        """
        with self.file.writing(self._timeout) as writer:
            for tries_left in reversed(range(_FLUSHES_MAX)):
                try:
                    self._flush(writer)
                    break
                except (PrunedError, PositionError):  # these pages have other versions meanwhile
                    if not tries_left:
                        raise

    def _flush(self, writer: Writer) -> None:
        with self.lock:
            self.catch_up()
            dirty, limit = self.current.dirty.copy(), self._flush_limit()
            new, rewinds = self.current.flushed_to == 0, self._rewinds
        pages = [page for page, chain in dirty.items() if chain[-1] < limit]
        if not pages:
            return
        pages.sort(key=dirty.__getitem__)  # in the log's order: a transaction is read but once
        self.wal.sync()  # the log first: a page in the data file is never ahead of it
        if new:
            writer.header()
        for block in _blocks(pages):
            self._write(writer, [(page, dirty[page]) for page in block])
        writer.sync()
        done = [records.checkpoint_record(limit)]
        # Not if what was written has been taken back: the log has these pages as before.
        self.command(lambda _: done if self._rewinds == rewinds else [], durable=False)

    def _flush_limit(self) -> int:
        oldest = self.versions.oldest()
        return self.position if oldest is None else min(self.position, oldest)

    def _write(self, writer: Writer, block: Sequence[tuple[int, tuple[int, ...]]]) -> None:
        assert self.source is not None
        positions = sorted(position for _, chain in block for position in chain)
        found = dict(zip(positions, self.wal.read_many(positions), strict=True))
        for page, chain in block:
            data = self.source.build(page, [found[position] for position in chain])
            writer.page(page, chain[-1], data)

    # --- Closing, forking ---

    def _after_fork(self) -> None:
        super()._after_fork()
        self.versions.end_all_but(threading.get_ident())

    def close(self) -> None:
        """As `Fold.close`, and of the data file."""
        try:
            super().close()
        finally:
            self.file.close()


def _record(
    state: State, page: int, index: int, data: bytes, delta: tuple[int, bytes] | None
) -> Record:
    chain = state.dirty.get(page)
    if chain is None or delta is None or delta[0] != chain[-1] or len(chain) > records.CHANGES_MAX:
        return records.image_record(page, index, data)
    return records.delta_record(page, index, *delta)


def _blocks(pages: Sequence[int]) -> Iterable[Sequence[int]]:
    for start in range(0, len(pages), _BLOCK_PAGES):
        yield pages[start : start + _BLOCK_PAGES]


def too_old(page: int, position: int) -> SnapshotTooOldError:
    """The error for a version that another process's checkpoint has removed."""
    error = SnapshotTooOldError(
        f"page {page} as it was when the transaction began is gone: another process changed it and "
        "made a checkpoint, or cut the log",
        position=position,
        hint="Begin again, or use PageStore.run, which does so by itself",
    )
    error.page = page
    return error


def conflict(page: int | None, begun_at: int, found: int) -> PageConflictError:
    """The error for a page that somebody else has changed."""
    what = "the number of pages" if page is None else f"page {page}"
    why = f"{what} was changed by another transaction after this one began at {begun_at}"
    error = PageConflictError(
        "the log was cut after the transaction began" if begun_at == VOID else why,
        position=found,
        hint="Nothing was written. Begin again, or use PageStore.run, which does so by itself",
    )
    error.page = page
    return error
