"""A page store as it was."""

from __future__ import annotations

from treering import PrunedError

from . import records
from .arguments import whole
from .reading import Source
from .state import State


class PageView:
    """Made by `PageStore.at`: read-only, standing still. `position` is the log's position that it
    shows: where a transaction had ended. Thread-safe."""

    def __init__(self, state: State, source: Source, page_bytes: int, position: int) -> None:
        self._state, self._source = state, source
        self.page_bytes, self.position = page_bytes, position

    @property
    def page_count(self) -> int:
        """One more than the highest page that had been written."""
        return self._state.page_count

    def read(self, page: int) -> bytes:
        """The page then; zeros if nobody had written it. PrunedError if that version is gone: a
        checkpoint has put a newer one in its place and truncated the log."""
        page = whole(page, "a page", records.pages_max(self.page_bytes))
        data = self._source.read(page, self._state.version(page))
        if data is None:
            raise PrunedError(
                f"this version of page {page} is gone: checkpoints keep the newest ones",
                position=self.position,
                hint="Copy what you want to keep, or make checkpoints more seldom",
            )
        return data

    def __repr__(self) -> str:
        return f"<treering.stores.pages.PageView at {self.position}>"
