"""The store under the interface of the standard library's dbm modules."""

from __future__ import annotations

import os
from collections.abc import Iterator, MutableMapping
from typing import Any

from treering import UsageError

from .store import KeyValueStore

error = (OSError,)
"""What dbm modules call the errors they raise."""


class Dbm(MutableMapping[str | bytes, str | bytes]):
    """A store whose keys and values may be text, kept as UTF-8; what it gives back is bytes, as in
    every dbm module. Works under `shelve.Shelf`."""

    def __init__(self, store: KeyValueStore, encoding: str = "utf-8") -> None:
        self.store = store
        self._encoding = encoding

    def _bytes(self, data: Any) -> bytes:
        if isinstance(data, str):
            return data.encode(self._encoding)
        if isinstance(data, bytes | bytearray | memoryview):
            return bytes(data)
        raise TypeError(f"keys and values are bytes or text, not {type(data).__name__}")

    def __getitem__(self, key: str | bytes) -> bytes:
        return self.store[self._bytes(key)]

    def __setitem__(self, key: str | bytes, value: str | bytes) -> None:
        self.store.put(self._bytes(key), self._bytes(value))

    def __delitem__(self, key: str | bytes) -> None:
        del self.store[self._bytes(key)]

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str | bytes) and self._bytes(key) in self.store

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.store)

    def __len__(self) -> int:
        return len(self.store)

    def keys(self) -> list[bytes]:  # type: ignore[override]
        """All keys, in order."""
        return list(self.store)

    def sync(self) -> None:
        """Make everything durable."""
        if not self.store.read_only:
            self.store.sync()

    def reorganize(self) -> None:
        """Make the files as small as the state."""
        self.store.checkpoint()

    def close(self) -> None:
        """Close the store; idempotent."""
        self.store.close()

    def __enter__(self) -> Dbm:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open(file: str | os.PathLike[str], flag: str = "r", mode: int = 0o666, **options: Any) -> Dbm:
    """As `dbm.open`: "r" to read, "w" to write to an existing store, "c" to create it if need be,
    "n" to begin a new one, empty. `mode` is there for compatibility: files are private to their
    owner. Further options are those of `KeyValueStore`."""
    if flag not in ("r", "w", "c", "n"):
        raise UsageError("the flag must be 'r', 'w', 'c' or 'n'")
    store = KeyValueStore(file, read_only=flag == "r", create=flag in "cn", **options)
    if flag == "n":
        store.clear()
    return Dbm(store)
