"""The bytes of pages that were used last, in memory."""

from __future__ import annotations

# A page, and the position of the change that made this version of it: it never becomes wrong, but
# when records are taken back, and their positions given again.
Key = tuple[int, int]


class Cache:
    """As many versions of pages as fit into so many bytes; those that were used longest ago go.
    Each step is one operation of a dict, so no lock is needed."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._pages: dict[Key, bytes] = {}

    def get(self, key: Key) -> bytes | None:
        """The page, if it is here."""
        data = self._pages.pop(key, None)
        if data is not None:
            self._pages[key] = data  # it is now the newest
        return data

    def put(self, key: Key, data: bytes) -> None:
        """Keep it, and let go of others."""
        pages = self._pages
        pages[key] = data
        while pages and len(pages) * len(data) > self._bytes_max:
            try:
                pages.pop(next(iter(pages)), None)
            except (RuntimeError, StopIteration):  # other threads do the same
                continue

    def another(self) -> Cache:
        """An empty one of the same size."""
        return Cache(self._bytes_max)
