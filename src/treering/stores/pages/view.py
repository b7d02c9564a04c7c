"""A page store as it was."""

from __future__ import annotations

from treering import PrunedError

from . import records
from .arguments import whole
from .folding import PageFold
from .reading import Source
from .state import State
from .versions import newest


class PageView:
    """Made by `PageStore.at`: read-only, standing still. `position` is the log's position that it
    shows: where a transaction had ended. Thread-safe."""

    def __init__(self, fold: PageFold, state: State, source: Source, position: int) -> None:
        self._fold, self._state, self._source = fold, state, source
        self.page_bytes, self.position = fold.file.page_bytes, position

    @property
    def page_count(self) -> int:
        """One more than the highest page that had been written."""
        return self._state.page_count

    def read(self, page: int) -> bytes:
        """The page then; zeros if nobody had written it. PrunedError if that version is gone: a
        checkpoint has put a newer one in its place and truncated the log. DamageError."""
        page = whole(page, "a page", records.pages_max(self.page_bytes))
        version = self._state.version(page)
        data = self._source.read(page, version)
        if data is None:
            if newest(self._fold.state().version(page)) == newest(version):
                raise self._fold.file.damaged_page(page, newest(version))
            raise PrunedError(
                f"this version of page {page} is gone: checkpoints keep the newest ones",
                position=self.position,
                hint="Copy what you want to keep, or make checkpoints more seldom",
            )
        return data

    def __repr__(self) -> str:
        return f"<treering.stores.pages.PageView at {self.position}>"
