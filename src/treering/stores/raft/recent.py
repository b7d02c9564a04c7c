"""The newest entries, with their data, in so many bytes of memory."""

from __future__ import annotations

from .records import Entry

# What an entry takes besides its data, roughly: the tuple, two numbers, the head of the bytes.
_ENTRY_BYTES = 200
_LET_GO = 1024


class Recent:
    """Consecutive entries from `first` on, the newest of the log; `size` is what they take."""

    __slots__ = ("_entries", "_gone", "first", "limit", "size")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.forget(1)

    def forget(self, first: int) -> None:
        """All; the next entry gets index `first`."""
        self._entries: list[Entry | None] = []
        self._gone = 0  # so many at the beginning of the list
        self.first, self.size = first, 0

    def add(self, entry: Entry) -> None:
        """The next entry."""
        if entry.index != self.first + len(self._entries) - self._gone:
            self.forget(entry.index)
        self._entries.append(entry)
        self.size += len(entry.data) + _ENTRY_BYTES
        if self.size > self.limit:
            self._shrink()

    def _shrink(self) -> None:
        while self.size > self.limit:
            self._drop()
        if self._gone >= _LET_GO and 2 * self._gone >= len(self._entries):
            del self._entries[: self._gone]
            self._gone = 0

    def _drop(self) -> None:
        entry = self._entries[self._gone]
        assert entry is not None
        self._entries[self._gone] = None
        self._gone += 1
        self.first += 1
        self.size -= len(entry.data) + _ENTRY_BYTES

    def cut(self, last: int) -> None:
        """Forget the entries after `last`."""
        if last < self.first:
            self.forget(last + 1)
            return
        keep = self._gone + last + 1 - self.first
        for entry in self._entries[keep:]:
            assert entry is not None
            self.size -= len(entry.data) + _ENTRY_BYTES
        del self._entries[keep:]

    def trim(self, before: int) -> None:
        """Forget the entries up to `before`."""
        if before >= self.first + len(self._entries) - self._gone:
            self.forget(before + 1)
            return
        while self.first <= before:
            self._drop()
        self._shrink()

    def some(self, low: int, high: int) -> list[Entry]:
        """The entries from `low`, which is at least `first`, to before `high`."""
        start = self._gone + low - self.first
        return self._entries[start : start + high - low]  # type: ignore[return-value]
