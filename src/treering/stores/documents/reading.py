"""Looking at documents: the same for a store and a store as it was."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import takewhile
from typing import Any

from treering import UsageError

from .errors import NoIndexError, NoPathError, no_document
from .index import Index, after, key_of
from .pointer import check_id, parse
from .state import Entry, State
from .tree import copied, find


class Document:
    """A document as it was when it was asked for; later changes do not show. `id`, `version`,
    `position` (where its last change begins in the log), `timestamp` (seconds since 1970)."""

    __slots__ = ("_entry", "id")

    def __init__(self, id: str, entry: Entry) -> None:
        self.id, self._entry = id, entry

    @property
    def version(self) -> int:
        """How many changes it has seen."""
        return self._entry.version

    @property
    def position(self) -> int:
        """Where its last change begins in the log."""
        return self._entry.position

    @property
    def timestamp(self) -> float:
        """When it was changed last, in seconds since 1970."""
        return self._entry.time_ns / 1e9

    @property
    def content(self) -> dict[str, Any]:
        """The document, as a copy of its own each time. O(size)."""
        content: dict[str, Any] = copied(self._entry.root)
        return content

    def get(self, path: str, default: Any = None) -> Any:
        """A copy of what is at the path, or `default`. O(size of that)."""
        try:
            return copied(find(self._entry.root, parse(path)))
        except NoPathError:
            return default

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Document)
            and (self.id, self.version) == (other.id, other.version)
            and bool(self._entry.root == other._entry.root)
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<Document {self.id!r:.60} version {self.version}>"


class Readable(ABC):
    """What a store shows of itself. What is returned is a copy: to change it changes nothing."""

    @abstractmethod
    def _locked(self) -> Any:
        """A context manager: the state stands still in its block."""

    @abstractmethod
    def _state(self) -> State:
        """The state. Entries and trees of it never change; its orders do, unless it stands
        still."""

    def get(self, id: str, default: Any = None, *, path: str = "") -> Any:
        """A copy of the document, or of what is there at the path; `default` if there is none.
        O(size of what is copied)."""
        check_id(id)
        entry = self._state().documents.get(id)
        if entry is None:
            return default
        return Document(id, entry).get(path, default) if path else copied(entry.root)

    def read(self, id: str) -> Document | None:
        """The document with its version; None if there is none. O(1): copies nothing yet."""
        check_id(id)
        entry = self._state().documents.get(id)
        return None if entry is None else Document(id, entry)

    def version(self, id: str) -> int:
        """The version of the document; 0 if there is none (it may have had versions before it was
        deleted)."""
        found = self.read(id)
        return 0 if found is None else found.version

    def __getitem__(self, id: str) -> dict[str, Any]:
        found = self.read(id)
        if found is None:
            raise no_document(id)
        return found.content

    def __contains__(self, id: object) -> bool:
        return isinstance(id, str) and id in self._state().documents

    def __len__(self) -> int:
        return len(self._state().documents)

    def __bool__(self) -> bool:
        return True

    def __iter__(self) -> Iterator[str]:
        return iter(self.ids())

    def ids(
        self,
        prefix: str = "",
        *,
        start: str | None = None,
        stop: str | None = None,
        reverse: bool = False,
    ) -> list[str]:
        """The ids of this moment, in the order of their characters: with a prefix, or from `start`
        on and before `stop`. O(those), and O(n log n) the first time."""
        for bound in (prefix, start, stop):
            if not isinstance(bound, str | None):
                raise UsageError(f"an id is text, not {bound!r:.40}", hint="Use str(id), say")
        if prefix and not start is stop is None:
            raise UsageError("a prefix goes with no bounds", hint="Give it, or start and stop")
        with self._locked():
            found = self._state().ids().between(prefix or start, stop)
        if prefix:
            found = list(takewhile(lambda id: id.startswith(prefix), found))
        return found[::-1] if reverse else found

    def documents(self, prefix: str = "", **bounds: Any) -> list[Document]:
        """The documents of this moment, in the order of their ids; bounds as of `ids`."""
        with self._locked():
            documents = self._state().documents
            return [Document(id, documents[id]) for id in self.ids(prefix, **bounds)]

    # --- Indexes ---

    def indexes(self) -> dict[str, Index]:
        """The indexes by name."""
        with self._locked():
            return {name: entries.index for name, entries in self._state().indexes.items()}

    def find(self, /, **where: Any) -> list[Document]:
        """The documents that have these values in these indexes, in the order of their ids. 1 and
        1.0 are the same number, true is none. O(log n + what each index finds), and O(n log n)
        when an index is used for the first time. NoIndexError."""
        if not where:
            raise UsageError("say what to find", hint='As find(city="Vienna")')
        keys = {name: key_of(value) for name, value in where.items()}
        with self._locked():
            state = self._state()
            found: set[str] | None = None
            for name, key in keys.items():
                entries = _entries(state, name).between(key, after(key))
                ids = {id for _, _, id in entries}
                found = ids if found is None else found & ids
            return [Document(id, state.documents[id]) for id in sorted(found or ())]

    def find_range(
        self,
        name: str,
        start: Any = None,
        stop: Any = None,
        *,
        include_start: bool = True,
        include_stop: bool = False,
        reverse: bool = False,
        limit: int | None = None,
    ) -> list[Document]:
        """The documents whose value in the index is from `start` on and before `stop` (None: no
        bound), at most `limit`, in the order of the values, then of the ids; each once. Null comes
        before booleans, these before numbers, these before text. Costs as `find`."""
        if limit is not None and (type(limit) is not int or limit < 0):
            raise UsageError("limit is a whole number from 0 on", hint="None: no limit")
        low = None if start is None else key_of(start)
        high = None if stop is None else key_of(stop)
        with self._locked():
            state = self._state()
            entries = _entries(state, name).between(
                low if low is None or include_start else after(low),
                after(high) if high is not None and include_stop else high,
            )
            ids = dict.fromkeys(id for _, _, id in (reversed(entries) if reverse else entries))
            return [Document(id, state.documents[id]) for id in list(ids)[:limit]]


def _entries(state: State, name: str) -> Any:
    if name not in state.indexes:
        raise NoIndexError(
            f"there is no index {name!r:.60}", hint="Make it with create_index, or when you open"
        )
    return state.entries(name)


class View(Readable):
    """A store as it was at a position: read-only, and standing still. Thread-safe."""

    def __init__(self, state: State, position: int) -> None:
        self._then = state
        self._lock = threading.RLock()
        self.position = position

    def _locked(self) -> Any:
        return self._lock

    def _state(self) -> State:
        return self._then
