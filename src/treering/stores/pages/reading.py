"""From where a version lies to its bytes: memory, the log, the data file."""

from __future__ import annotations

from treering import PositionError, PrunedError, Record, StorageError, Wal

from . import records
from .cache import Cache
from .datafile import DataFile
from .versions import Version, newest

# What the log says of a record that was truncated at its beginning, or taken back at its end.
_GONE = (PrunedError, PositionError)


class Source:
    """The log and the data file of one store, read as one."""

    def __init__(self, wal: Wal, data_file: DataFile, cache: Cache) -> None:
        self._wal, self._file, self._cache = wal, data_file, cache

    def read(self, page: int, version: Version) -> bytes | None:
        """That version of the page; None if it is no longer where it was. One look-up, or one to
        nine reads of files."""
        if version is None:
            return bytes(self._file.page_bytes)
        key = page, newest(version)
        data = self._cache.get(key)
        if data is None:
            data = self._read(page, version)
            if data is not None:
                self._cache.put(key, data)
        return data

    def remembered(self, page: int, version: Version) -> bytes | None:
        """That version, if it is in memory."""
        return self._cache.get((page, newest(version)))

    def is_there(self, page: int, version: Version) -> bool:
        """Whether that version is whole in the one place where it belongs; not from memory."""
        if isinstance(version, int):
            return self._file.read(page, version) is not None
        return version is None or self._from_log(page, version) is not None

    def _read(self, page: int, version: tuple[int, ...] | int) -> bytes | None:
        """The other place may have it, too: the data file when a later checkpoint has dropped the
        log, the log when a later checkpoint has written the data file."""
        if isinstance(version, tuple):
            found = self._from_log(page, version)
            return self._file.read(page, version[-1]) if found is None else found
        try:
            found = self._file.read(page, version)
        except StorageError:  # a sector that cannot be read is as good as a damaged one
            found = self._walk_back(page, version)
            if found is None:
                raise
        return self._walk_back(page, version) if found is None else found

    def _from_log(self, page: int, chain: tuple[int, ...]) -> bytes | None:
        try:
            return self.build(page, self._wal.read_many(chain))
        except _GONE:
            return None

    def _walk_back(self, page: int, position: int) -> bytes | None:
        """The version of that position from the log, where it lies as long as nobody truncates."""
        try:
            change = self._wal.read(position)
            chain = [change]
            while (before := records.page_change(change).before) is not None:
                if before >= (change.position or 0) or records.chain_is_full(len(chain)):
                    raise records.damaged(change, "a change of what comes later")
                change = self._wal.read(before)
                chain.append(change)
        except _GONE:
            return None
        return self.build(page, chain[::-1])

    def build(self, page: int, chain: list[Record]) -> bytes:
        """The page that these records come to."""
        return records.page_from(chain, page, self._file.page_bytes)
