"""What only a page store raises."""

from __future__ import annotations

from typing import TYPE_CHECKING

from treering import ConflictError

if TYPE_CHECKING:
    from .transaction import PageTransaction


class PageConflictError(ConflictError):
    """Somebody else committed a change to `page` (None: to the number of pages) after the
    transaction began, so nothing of it was written. Begin again: `PageStore.run` does so by itself.
    """

    page: int | None = None
    transaction: PageTransaction | None = None


class SnapshotTooOldError(PageConflictError):
    """Another process's checkpoint has removed the version of `page` that a transaction sees.
    Begin again."""
