"""Transactions: pages as of one moment, changes that go into the log together."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Any

from treering import ClosedError, DiskFullError, ReadOnlyError, TooLargeError, UsageError

from . import records
from .arguments import page_data, whole
from .errors import PageConflictError
from .folding import PageFold, conflict
from .state import State
from .versions import newest


class Savepoint:
    """A moment of a transaction, made by `PageTransaction.savepoint`. As a context manager it rolls
    back to that moment if its block raises."""

    def __init__(self, transaction: PageTransaction, undo: int, page_count: int) -> None:
        self._transaction = transaction
        self._undo, self._page_count = undo, page_count

    def __enter__(self) -> Savepoint:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and self._transaction.active:
            self._transaction.rollback_to(self)


class PageTransaction:
    """Made by `PageStore.begin`: the pages as they were then, with the transaction's own changes.
    Nothing that others commit shows, and nobody waits for anybody. Leaving the `with` block
    commits; an exception rolls back. For one thread at a time.

    `begun_at` is the log's position that it sees. What it changes is kept in memory until then.
    """

    def __init__(self, fold: PageFold, serializable: bool, durable: bool | None) -> None:
        self._fold, self._durable = fold, durable
        self.written: dict[int, bytes] = {}
        self._seen: set[int] | None = set() if serializable else None
        self._count_seen = False
        self._savepoints: list[Savepoint] = []
        self._undo: list[tuple[int, bytes | None]] = []
        self.active = True
        self.begun_at, self.thread = 0, threading.get_ident()
        self._page_count = fold.begin(self)
        self._count_then = self._page_count

    # --- Reading ---

    def read(self, page: int) -> bytes:
        """The page as it was at the beginning, or as this transaction has written it; zeros if
        nobody ever did. Raises UsageError, SnapshotTooOldError, DamageError, StorageError."""
        page = self._page(page)
        data = self.written.get(page)
        if data is not None:
            return data
        if self._seen is not None:
            self._seen.add(page)
        try:
            return self._fold.as_of(page, self)
        except PageConflictError as error:
            error.transaction = self
            raise

    @property
    def page_count(self) -> int:
        """One more than the highest page that was ever written, by this transaction or before."""
        self._live()
        self._count_seen = True
        return self._page_count

    # --- Writing: in memory until the commit ---

    def write(self, page: int, data: bytes) -> None:
        """Set the whole page. Raises UsageError for what is not a page's bytes, ReadOnlyError."""
        page = self._page(page)
        self._may_write()
        self._set(page, page_data(data, self._fold.file.page_bytes))

    def allocate(self) -> int:
        """A page that nobody has used, after all others; zeros until it is written. If another
        transaction is given the same one, the second to commit is refused."""
        self._live()
        self._may_write()
        page = self._page(self._page_count)
        self._count_seen = True
        self._set(page, bytes(self._fold.file.page_bytes))
        return page

    def _set(self, page: int, data: bytes) -> None:
        if self._savepoints:
            self._undo.append((page, self.written.get(page)))
        self.written[page] = data
        self._page_count = max(self._page_count, page + 1)

    def savepoint(self) -> Savepoint:
        """This moment, for `rollback_to`. O(1); any number, one in another."""
        self._live()
        self._savepoints.append(Savepoint(self, len(self._undo), self._page_count))
        return self._savepoints[-1]

    def rollback_to(self, savepoint: Savepoint) -> None:
        """Undo what was written since the savepoint, which stays; later ones are void."""
        self._live()
        if savepoint not in self._savepoints:
            raise UsageError(
                "this is no savepoint of the transaction, or it was rolled back over",
                hint="Use one that savepoint() gave, before going back to an earlier one",
            )
        while len(self._undo) > savepoint._undo:
            page, data = self._undo.pop()
            if data is None:
                self.written.pop(page, None)
            else:
                self.written[page] = data
        self._page_count = savepoint._page_count
        del self._savepoints[self._savepoints.index(savepoint) + 1 :]

    # --- The end ---

    def commit(self, *, durable: bool | None = None) -> None:
        """Write all changed pages, as one: after any crash the log has all of them or none.

        Written at return, and seen by whoever begins then; durable under ALWAYS or with
        durable=True (then it blocks for an fsync, shared with all who wait). The transaction is
        over, whatever is raised: PageConflictError (somebody else changed one of these pages, or,
        if it is serializable, one that was read), FailedError, StorageError; but after
        DiskFullError and TooLargeError (over `batch_bytes_max`) nothing was written, and it goes
        on.
        """
        self._live()
        try:
            if self.written:
                self._fold.commit(self, self._durable if durable is None else durable)
        except (DiskFullError, TooLargeError):
            raise
        except BaseException as error:
            if isinstance(error, PageConflictError):
                error.transaction = self
            self._end()
            raise
        self._end()

    def rollback(self) -> None:
        """Forget all changes; the transaction is over. Nothing happens if it was."""
        if self.active:
            self._end()

    def validate(self, state: State) -> None:
        """PageConflictError if somebody came in between; the commit asks this."""
        begun_at, seen = self.begun_at, self._seen
        for page in self.written if seen is None else self.written.keys() | seen:
            found = newest(state.version(page))
            if found >= begun_at:
                raise conflict(page, begun_at, found)
        if seen is not None and self._count_seen and state.page_count != self._count_then:
            raise conflict(None, begun_at, begun_at)

    def _end(self) -> None:
        self._fold.end(self)
        self.active = False
        self.written, self._undo, self._savepoints = {}, [], []

    def __enter__(self) -> PageTransaction:
        self._live()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None and self.active:
                self.commit()
        finally:
            self.rollback()

    # --- What may be asked ---

    def _live(self) -> None:
        if not self.active:
            raise UsageError(
                "the transaction is over: it was committed or rolled back",
                hint="Begin another one with store.begin()",
            )
        if self._fold.wal.closed:
            raise ClosedError("the store is closed", hint="Open it again")

    def _page(self, page: Any) -> int:
        self._live()
        return whole(page, "a page", records.pages_max(self._fold.file.page_bytes))

    def _may_write(self) -> None:
        if self._fold.read_only:
            raise ReadOnlyError(
                "the store was opened with read_only=True",
                path=self._fold.wal.path,
                hint="Open it without",
            )

    def __repr__(self) -> str:
        state = f"{len(self.written)} pages changed" if self.active else "over"
        return f"<treering.stores.pages.PageTransaction at {self.begun_at}, {state}>"
