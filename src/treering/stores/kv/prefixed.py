"""A part of a store: the keys that begin with a prefix, without it."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any

from .keys import check_key
from .reading import Prefixed
from .watching import Watch
from .writing import WriteBatch, collect

if TYPE_CHECKING:
    from .store import KeyValueStore


class PrefixedStore(Prefixed, MutableMapping[bytes, bytes]):
    """See `KeyValueStore.prefixed_db`; every method does what the store's does, to this part.
    Holds nothing of its own, so it need not be closed."""

    db: KeyValueStore

    def put(self, key: bytes, value: bytes, **options: Any) -> None:
        """As the store's."""
        self.db.put(self.prefix + check_key(key), value, **options)

    def delete(self, key: bytes, **options: Any) -> None:
        """As the store's."""
        self.db.delete(self.prefix + check_key(key), **options)

    def __setitem__(self, key: bytes, value: bytes) -> None:
        self.put(key, value)

    def __delitem__(self, key: bytes) -> None:
        self.pop(key)

    def pop(self, key: bytes, *default: Any) -> Any:
        """As the store's."""
        try:
            return self.db.pop(self.prefix + check_key(key), *default)
        except KeyError:
            raise KeyError(key) from None

    def popitem(self) -> tuple[bytes, bytes]:
        """Remove and return one key and its value; KeyError when there is none."""
        for key in reversed(self):
            value = self.pop(key, None)
            if value is not None:
                return key, value
        raise KeyError("there is no key with this prefix")

    def setdefault(self, key: bytes, default: bytes = b"") -> bytes:
        """As the store's."""
        return self.db.setdefault(self.prefix + check_key(key), default)

    def clear(self) -> None:
        """Remove all keys of this part, atomically."""
        self.db._clear(self.prefix)

    def update(self, *others: Any, **more: Any) -> None:
        """As the store's."""
        collect(self.write_batch(), others, more)

    def write_batch(self, *, transaction: bool = True, sync: bool = False) -> WriteBatch:
        """As the store's."""
        return WriteBatch(self.db, transaction=transaction, sync=sync, prefix=self.prefix)

    def compare_and_set(self, key: bytes, *args: Any, **options: Any) -> bool:
        """As the store's."""
        return self.db.compare_and_set(self.prefix + check_key(key), *args, **options)

    def increment(self, key: bytes, by: int = 1, **options: Any) -> int:
        """As the store's."""
        return self.db.increment(self.prefix + check_key(key), by, **options)

    def watch(self, prefix: bytes = b"", **options: Any) -> Watch:
        """As the store's, with the whole keys."""
        return self.db.watch(self.prefix + check_key(prefix), **options)

    def snapshot(self) -> Prefixed:
        """This part as it is now, read-only."""
        return Prefixed(self.db.snapshot(), self.prefix)
