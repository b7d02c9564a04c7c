"""Stores for text, and the interface of the standard library's dbm modules."""

from __future__ import annotations

import os
from collections.abc import ItemsView, Iterator, MutableMapping, ValuesView
from typing import Any, Generic, TypeVar

from treering import TreeringError, UsageError

from .keys import NotBytesError
from .store import KeyValueStore

T = TypeVar("T")

error = TreeringError
"""What dbm modules call the base of their errors."""


class _Encoded(MutableMapping[Any, T], Generic[T]):
    """A store under another alphabet: every call is the store's, and as atomic."""

    def __init__(self, store: KeyValueStore, encoding: str = "utf-8") -> None:
        self.store = store
        self._encoding = encoding

    def _in(self, data: Any) -> bytes:
        raise NotImplementedError

    def _out(self, data: bytes) -> T:
        raise NotImplementedError

    def get(self, key: Any, default: Any = None) -> Any:
        """The value of `key`, or `default`."""
        value = self.store.get(self._in(key))
        return default if value is None else self._out(value)

    def __getitem__(self, key: Any) -> T:
        value = self.store.get(self._in(key))
        if value is None:
            raise KeyError(key)
        return self._out(value)

    def put(self, key: Any, value: Any, **options: Any) -> None:
        """As the store's."""
        self.store.put(self._in(key), self._in(value), **options)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.put(key, value)

    def delete(self, key: Any, **options: Any) -> None:
        """As the store's."""
        self.store.delete(self._in(key), **options)

    def __delitem__(self, key: Any) -> None:
        self.pop(key)

    def __contains__(self, key: object) -> bool:
        return self._in(key) in self.store

    def __iter__(self) -> Iterator[T]:
        return map(self._out, self.store)

    def __len__(self) -> int:
        return len(self.store)

    def items(self) -> ItemsView[Any, T]:
        """As a dict's, in order; going over it shows one moment."""
        return _Items(self)

    def values(self) -> ValuesView[T]:
        """As a dict's; going over it shows one moment."""
        return _Values(self)

    def pop(self, key: Any, *default: Any) -> Any:
        """Remove `key` and return its value; exactly one of many processes gets it."""
        value = self.store.pop(self._in(key), None)
        if value is not None:
            return self._out(value)
        if default:
            return default[0]
        raise KeyError(key)

    def popitem(self) -> tuple[Any, T]:
        """Remove and return one key and its value; KeyError when there is none."""
        key, value = self.store.popitem()
        return self._out(key), self._out(value)

    def setdefault(self, key: Any, default: Any = b"") -> T:
        """As the store's."""
        return self._out(self.store.setdefault(self._in(key), self._in(default)))

    def clear(self) -> None:
        """Remove everything, atomically."""
        self.store.clear()

    def update(self, *others: Any, **more: Any) -> None:
        """As a dict's; all of it or nothing."""
        pairs = dict(*others, **more)
        self.store.update({self._in(key): self._in(value) for key, value in pairs.items()})

    def sync(self) -> None:
        """Make everything durable."""
        self.store.sync()

    def close(self) -> None:
        """Close the store; idempotent."""
        self.store.close()

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Items(ItemsView[Any, Any]):
    _mapping: _Encoded[Any]

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        out = self._mapping._out
        return ((out(key), out(value)) for key, value in self._mapping.store.iterator())


class _Values(ValuesView[Any]):
    _mapping: _Encoded[Any]

    def __iter__(self) -> Iterator[Any]:
        return map(self._mapping._out, self._mapping.store.values())

    def __contains__(self, value: object) -> bool:
        return any(found == value for found in self)


class TextStore(_Encoded[str]):
    """A store of text, kept in an encoding; its keys are in the order of their bytes."""

    def _in(self, data: Any) -> bytes:
        if not isinstance(data, str):
            raise NotBytesError(f"keys and values are text here, not {type(data).__name__}")
        return data.encode(self._encoding)

    def _out(self, data: bytes) -> str:
        return str(data, self._encoding)

    def iterator(self, prefix: str = "", reverse: bool = False) -> Iterator[tuple[str, str]]:
        """Keys with a prefix, and their values, in the order of their bytes."""
        found = self.store.iterator(prefix=self._in(prefix), reverse=reverse)
        return ((self._out(key), self._out(value)) for key, value in found)


class Dbm(_Encoded[bytes]):
    """A store whose keys and values may be text or bytes; what it gives back is bytes, as in every
    dbm module. Works under `shelve.Shelf`."""

    def _in(self, data: Any) -> bytes:
        if isinstance(data, str):
            return data.encode(self._encoding)
        if isinstance(data, bytes | bytearray | memoryview):
            return bytes(data)
        raise NotBytesError(f"keys and values are bytes or text, not {type(data).__name__}")

    def _out(self, data: bytes) -> bytes:
        return data

    def keys(self) -> list[bytes]:  # type: ignore[override]
        """All keys, in order."""
        return list(self.store)

    def reorganize(self) -> None:
        """Make the files as small as the state."""
        self.store.checkpoint()


def open(file: str | os.PathLike[str], flag: str = "r", mode: int = 0o666, **options: Any) -> Dbm:
    """As `dbm.open`: "r" to read, "w" to write to an existing store, "c" to create it if need be,
    "n" to begin a new one, empty. `mode` is there for compatibility: files are private to their
    owner. Further options are those of `KeyValueStore`. LogNotFoundError if there is none."""
    if flag not in ("r", "w", "c", "n"):
        raise UsageError("the flag must be 'r', 'w', 'c' or 'n'")
    store = KeyValueStore(file, read_only=flag == "r", create=flag in "cn", **options)
    if flag == "n":
        store.clear()
    return Dbm(store)


__all__ = ["Dbm", "TextStore", "error", "open"]
