"""A part of a store: the keys that begin with a prefix, without it."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import TYPE_CHECKING, Any

from .iterating import KeyIterator, check_key

if TYPE_CHECKING:
    from .store import KeyValueStore


class PrefixedStore(MutableMapping[bytes, bytes]):
    """See `KeyValueStore.prefixed_db`. Holds nothing of its own, so it need not be closed."""

    def __init__(self, db: KeyValueStore, prefix: bytes) -> None:
        self.db = db
        self.prefix = prefix

    def get(self, key: bytes, default: Any = None, **_: Any) -> Any:
        """As the store's."""
        return self.db.get(self.prefix + check_key(key), default)

    def put(self, key: bytes, value: bytes, **options: Any) -> None:
        """As the store's."""
        self.db.put(self.prefix + check_key(key), value, **options)

    def delete(self, key: bytes, **options: Any) -> None:
        """As the store's."""
        self.db.delete(self.prefix + check_key(key), **options)

    def iterator(
        self,
        reverse: bool = False,
        start: bytes | None = None,
        stop: bytes | None = None,
        include_start: bool = True,
        include_stop: bool = False,
        prefix: bytes | None = None,
        include_key: bool = True,
        include_value: bool = True,
        **_: Any,
    ) -> KeyIterator:
        """As the store's, of this part and without its prefix."""
        whole = self.db.iterator(prefix=self.prefix + (prefix or b""), reverse=reverse)
        return whole.part(
            len(self.prefix), start, stop, include_start, include_stop, include_key, include_value
        )

    def __getitem__(self, key: bytes) -> bytes:
        value: bytes | None = self.get(key)
        if value is None:
            raise KeyError(key)
        return value

    def __setitem__(self, key: bytes, value: bytes) -> None:
        self.put(key, value)

    def __delitem__(self, key: bytes) -> None:
        del self.db[self.prefix + check_key(key)]

    def __contains__(self, key: object) -> bool:
        return isinstance(key, bytes) and self.get(key) is not None

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.iterator(include_value=False))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def prefixed_db(self, prefix: bytes) -> PrefixedStore:
        """A part of this part."""
        return PrefixedStore(self.db, self.prefix + check_key(prefix))
