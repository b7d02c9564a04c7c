"""The store: transactions, reading, care."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import chain
from typing import Any, TypeVar

from treering import DamageError, FsyncPolicy, LogNotFoundError, UsageError
from treering.fold import Store, SystemFiles

from . import records
from .arguments import folder, page_size, whole
from .cache import Cache
from .datafile import DataFile
from .errors import PageConflictError
from .folding import PageFold
from .state import State
from .transaction import PageTransaction
from .view import PageView

T = TypeVar("T")

PAGE_BYTES = 4096
_CACHE_BYTES = 16 << 20
_LOG = "log"


class PageStore(Store[State]):
    """Numbered pages of one size in a directory, changed in transactions. Thread-safe; several
    processes may have it open at once, and each sees what the others committed.

    `page_bytes` (a power of two from 512 to 65536; default 4096) is fixed when the store is made:
    UsageError for another one later on. `cache_bytes`: how much of the pages stays in memory.
    `fsync_policy` (default ALWAYS: durable when a commit returns), `exclusive`, `read_only`,
    `checkpoint_bytes` (how much change goes into the log before pages are brought to the data file;
    also `checkpoint_records`, `checkpoint_seconds`; None for all: only `checkpoint()` does it).
    Further options are those of `treering.Wal.open`.

    Every call raises what the log raises: ClosedError, ForkedError, FailedError, StorageError,
    DamageError; opening also VersionError.
    """

    _fold: PageFold

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        page_bytes: int | None = None,
        cache_bytes: int = _CACHE_BYTES,
        fsync_policy: FsyncPolicy = FsyncPolicy.ALWAYS,
        exclusive: bool = False,
        read_only: bool = False,
        **options: Any,
    ) -> None:
        wanted = None if page_bytes is None else page_size(page_bytes)
        cache = Cache(whole(cache_bytes, "cache_bytes", 1 << 62))
        self._path = folder(path)
        fold = PageFold(
            os.path.join(self._path, _LOG),
            DataFile(options.get("files") or SystemFiles(), self._path),
            cache,
            options.get("lock_timeout_seconds", 30.0),
            fsync_policy=fsync_policy,
            exclusive=exclusive,
            read_only=read_only,
            **options,
        )
        self._stand_on(fold, read_only)
        try:
            self._settle(fold, wanted)
        except BaseException:
            fold.close()
            raise

    def _settle(self, fold: PageFold, wanted: int | None) -> None:
        """Find out the size of the pages, or decide it, and see to the data file."""
        if not self.read_only:
            new = records.format_record(wanted or PAGE_BYTES)
            if not fold.state().page_bytes:
                fold.file.refuse_strangers()
            fold.command(lambda state: [] if state.page_bytes else [new])
        state = fold.state()
        found = state.page_bytes
        if not found:
            raise LogNotFoundError(
                "there is no page store yet",
                path=self._path,
                hint="Open it without read_only once, to make it",
            )
        if wanted not in (None, found):
            raise UsageError(
                f"the store has pages of {found} bytes, not {wanted}",
                path=self._path,
                hint="Leave page_bytes out, or choose another path",
            )
        fold.settle_on(found)
        if state.flushed_to:
            fold.file.check_header()
        elif not self.read_only:
            fold.file.create()

    # --- Queries ---

    def read(self, page: int) -> bytes:
        """The newest committed version of the page; zeros if there is none. From memory, or one
        read of the data file, or up to nine records of the log."""
        return self._fold.newest(whole(page, "a page", records.pages_max(self.page_bytes)))

    @property
    def page_bytes(self) -> int:
        """The size of a page."""
        return self._fold.file.page_bytes

    @property
    def page_count(self) -> int:
        """One more than the highest page that was ever written."""
        return self._fold.state().page_count

    @property
    def position(self) -> int:
        """The log's position of this moment, for `at`."""
        return self._fold.wal.current_position()

    def at(self, position: int | None = None, time: Any = None) -> PageView:
        """The store as it was when the log ended at `position` (see `position`), or at a time
        (seconds since 1970 or a datetime); at the beginning of a transaction that was just being
        written then. Reads the log from the snapshot before it on; pages are read when asked for.
        PrunedError when a checkpoint has removed what that takes; PositionError beyond the end."""
        if position is not None:
            position = self._between(whole(position, "a position", 1 << 62))
        elif time is not None:
            position, time = self._between(self._fold.position_at(time)), None
        state, position = self._past(position, time)
        source = self._fold.source
        assert source is not None
        return PageView(self._fold, state, source, position)

    def _between(self, position: int) -> int:
        """Where the transaction began that has a record at this position."""
        wal = self._fold.wal
        if not wal.first_position <= position < wal.current_position():
            return position
        record = wal.read(position)
        if record.key[:1] not in (records.IMAGE, records.DELTA):
            return position
        return position - records.page_change(record).number

    # --- Transactions ---

    def begin(self, *, serializable: bool = False, durable: bool | None = None) -> PageTransaction:
        """A transaction that sees the pages as they are now; commits when its `with` block ends.

        The first to commit wins: whoever changed a page that somebody else has changed since the
        beginning gets PageConflictError. With `serializable` that goes for pages that were read,
        too, and for the number of pages if it was asked for (`page_count`, `allocate`); then the
        outcome of such transactions is that of one after the other. Does not block, nor keep others
        from writing; but while it is open, checkpoints of this process leave what changed since in
        the log: end it soon. `durable` overrides the fsync policy.
        """
        return PageTransaction(self._fold, serializable, durable)

    def run(
        self,
        work: Callable[[PageTransaction], T],
        *,
        serializable: bool = False,
        durable: bool | None = None,
    ) -> T:
        """Call `work(transaction)` and commit, again and again until nobody else came in between;
        what it returned. What it raises ends it, and nothing is written. What it does to anything
        but the transaction is done each time."""
        while True:
            transaction = self.begin(serializable=serializable, durable=durable)
            try:
                with transaction:
                    return work(transaction)
            except PageConflictError as error:
                if error.transaction is not transaction:
                    raise

    # --- Care ---

    def checkpoint(self) -> int:
        """Bring the pages that are in the log alone to the data file, write a snapshot, and drop
        the log that nobody needs any more; its position. Durable at return. Commits go on
        meanwhile. O(pages that changed since the last one); happens by itself: see
        `checkpoint_bytes`. LockedError if another process's takes over `lock_timeout_seconds`.
        A failure changes nothing: the log has it all, and the next one begins again."""
        return self._fold.checkpoint()

    def check_state(self) -> None:
        """The part of `check` that is about pages: each one is whole where the log says it is."""
        fold, (state, position) = self._fold, self._fold.copy()
        if state.flushed_to:
            fold.file.check_header()
        last = -1
        placed = (page for page, _ in state.placed.pages())
        for page in chain(placed, state.dirty):
            fold.check_page(page)
            last = max(last, page)
        if last >= state.page_count:
            raise DamageError(
                f"page {last} is beyond the {state.page_count} pages that were counted",
                path=self._path,
                position=position,
                hint="Remove the newest snapshot if an older one is there",
            )

    def stats(self) -> dict[str, Any]:
        """Numbers for people and dashboards: the fold's, and how many pages there are, how many of
        them are in the log alone, up to where the log is in the data file, how many transactions
        of this handle are open."""
        state, fold = self._fold.state(), self._fold
        return {
            **fold.stats(),
            "page_bytes": self.page_bytes,
            "page_count": state.page_count,
            "dirty_pages": len(state.dirty),
            "flushed_position": state.flushed_to,
            "open_transactions": len(fold.versions),
        }

    @property
    def name(self) -> str:
        """The directory."""
        return self._path
