"""Secondary indexes: which documents have a value at a path."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from treering import TooLargeError, UsageError

from .order import Sorted
from .pointer import ID_BYTES_MAX, as_bytes, index_of, parse

# A value in the order of an index: null, booleans, numbers, text.
Key = tuple[int, Any]

_RANKS = {type(None): 0, bool: 1, int: 2, float: 2, str: 3}
# Greater than every id.
_LAST = chr(0x10FFFF) * (ID_BYTES_MAX // 4 + 1)

NAME_BYTES_MAX = 255


class Index(NamedTuple):
    """What an index is on: a JSON Pointer, in which `*` means each item of an array. With `unique`
    no two documents may have the same value, other than null."""

    path: str
    unique: bool = False


class Entries:
    """An index with its entries, which are made when they are first asked for."""

    def __init__(self, index: Index) -> None:
        self.index = index
        self.tokens = parse(index.path)
        self._sorted: Sorted | None = None

    def of(self, documents: Iterable[tuple[str, Any]]) -> Sorted:
        """The entries, (rank, value, id); `documents` are all there are."""
        if self._sorted is None:
            self._sorted = Sorted(
                (*key, id) for id, entry in documents for key in self.keys(entry.root)
            )
        return self._sorted

    def keys(self, root: Any) -> set[Key]:
        """The values that a document has there (None: there is no document)."""
        nodes = [root]
        for token in self.tokens:
            nodes = [found for node in nodes for found in _step(node, token)]
        return {_key(node) for node in nodes if type(node) in _RANKS}

    def untouched(self, before: Any, after: Any) -> bool:
        """Whether a change surely left these values alone: trees share what was not changed."""
        if before is None or after is None or not self.tokens:
            return False
        first = self.tokens[0]
        return before.get(first, self) is after.get(first, self)

    def change(self, id: str, before: Any, after: Any) -> None:
        """A document was another one, or none, before."""
        if self._sorted is None or self.untouched(before, after):
            return
        old, new = self.keys(before), self.keys(after)
        for key in old - new:
            self._sorted.discard((*key, id))
        for key in new - old:
            self._sorted.add((*key, id))

    def copy(self) -> Entries:
        """Another one."""
        other = Entries(self.index)
        other._sorted = None if self._sorted is None else self._sorted.copy()
        return other


def _step(node: Any, token: str) -> Any:
    if type(node) is dict:
        return (node[token],) if token in node else ()
    if type(node) is list:
        if token == "*":
            return node
        at = index_of(token)
        return (node[at],) if at is not None and at < len(node) else ()
    return ()


def key_of(value: Any) -> Key:
    """The place of a value in an index; UsageError for what is in none."""
    if type(value) not in _RANKS or value != value:
        raise UsageError(
            f"an index has null, booleans, numbers and text, not {value!r:.40}",
            hint="Make the index on a path to one of these",
        )
    return _key(value)


def _key(value: Any) -> Key:
    return _RANKS[type(value)], 0 if value is None else value


def after(key: Key) -> tuple[Any, ...]:
    """Greater than all entries of that key."""
    return (*key, _LAST)


def check_name(name: Any) -> str:
    """The name of an index."""
    if not isinstance(name, str) or not name:
        raise UsageError(f"an index has a name of text: {name!r:.40}", hint='As "city"')
    if len(as_bytes(name, "a name")) > NAME_BYTES_MAX:
        raise TooLargeError(f"a name has at most {NAME_BYTES_MAX} bytes", hint="Abbreviate it")
    return name


def as_index(given: Any) -> Index:
    """An index, from itself or from its path alone."""
    index = given if isinstance(given, Index) else Index(given)
    parse(index.path)
    if type(index.unique) is not bool:
        raise UsageError(
            f"unique is True or False, not {index.unique!r:.40}", hint="Index(path, unique=True)"
        )
    return index
