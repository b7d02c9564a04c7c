"""The commands of a store, on documents."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from threading import get_ident
from typing import Any

from treering import ReadOnlyError, Record, UsageError
from treering.fold import Follower

from .errors import no_document
from .planning import Plan, Planner, check_expected
from .pointer import check_id
from .reading import Readable
from .records import FORGET, change_records
from .state import Entry, State
from .tree import DELETE, Edit, copied


class _Inside:
    """A function of `update` is running, in this thread."""

    def __init__(self) -> None:
        self.thread = get_ident()


def _nowhere() -> None:
    """None is."""


class Writable(Readable):
    """What changes documents."""

    _fold: Follower[State]
    _planner: Planner
    read_only: bool
    # Weak: an interrupt may keep the end of a function of `update` from being noted.
    _updating: Callable[[], _Inside | None] = staticmethod(_nowhere)

    # --- Commands: written at return; durable under ALWAYS, or with durable=True ---

    def put(
        self,
        id: str,
        document: dict[str, Any],
        *,
        expected_version: int | None = None,
        durable: bool | None = None,
    ) -> int:
        """Make this the document of that id; its version. Where there was one, what differs is
        logged. O(size)."""
        plan = self._planner.put(document)
        return self._change(id, plan, expected_version, durable, create=True)

    def put_many(
        self, documents: Mapping[str, dict[str, Any]], *, durable: bool | None = None
    ) -> None:
        """Put them all, or none: one atomic batch, one fsync. They take their values in unique
        indexes one after the other. TooLargeError over the log's `batch_bytes_max` (64 MiB)."""
        if not isinstance(documents, Mapping):
            raise UsageError("put_many takes documents by their ids", hint="As {id: document}")
        plans = [(id, check_id(id), self._planner.put(each)) for id, each in documents.items()]

        def decide(state: State) -> list[Record]:
            work, records = state.scratch(), []
            for id, key, plan in plans:
                entry = work.documents.get(id)
                mine = self._records(work, id, key, entry, plan(entry))
                for record in mine:
                    work.apply(record)
                records += mine
            return records

        self._command(decide, durable)

    def delete(
        self, id: str, *, expected_version: int | None = None, durable: bool | None = None
    ) -> bool:
        """Remove the document; whether there was one. A document that is made under its id later
        goes on from its version. O(1)."""
        there = False

        def plan(entry: Entry | None) -> list[Edit]:
            nonlocal there
            there = entry is not None
            return [Edit(DELETE, ())] if there else []

        self._change(id, plan, expected_version, durable, create=True)
        return there

    def set(
        self,
        id: str,
        path: str,
        value: Any,
        *,
        expected_version: int | None = None,
        durable: bool | None = None,
    ) -> int:
        """Set what is at the path (a JSON Pointer; "-" is the place after the end of an array); the
        version. What is above it has to be there. NoDocumentError, NoPathError. O(path + size of
        the value + width of what contains it)."""
        return self._change(id, self._planner.set(path, value), expected_version, durable)

    def remove(
        self,
        id: str,
        path: str,
        *,
        expected_version: int | None = None,
        durable: bool | None = None,
    ) -> int:
        """Remove what is at the path; the version. NoDocumentError, NoPathError."""
        return self._change(id, self._planner.remove(path), expected_version, durable)

    def increment(
        self,
        id: str,
        path: str,
        by: int | float = 1,
        *,
        expected_version: int | None = None,
        durable: bool | None = None,
    ) -> int | float:
        """Add to the number at the path; the sum. A name that is not there counts as 0. Exact with
        however many processes. NoDocumentError, NoPathError; UsageError for what is no number."""
        total: int | float = 0

        def keep(number: int | float) -> None:
            nonlocal total
            total = number

        self._change(id, self._planner.increment(path, by, keep), expected_version, durable)
        return total

    def append(
        self,
        id: str,
        path: str,
        item: Any,
        *,
        expected_version: int | None = None,
        durable: bool | None = None,
    ) -> int:
        """Add an item to the end of the array at the path; the version. NoDocumentError,
        NoPathError (also if no array is there)."""
        return self._change(id, self._planner.append(path, item), expected_version, durable)

    def merge(
        self,
        id: str,
        patch: dict[str, Any],
        *,
        expected_version: int | None = None,
        durable: bool | None = None,
    ) -> int:
        """Change the document by a JSON Merge Patch (RFC 7396): a dict of what is new, in which
        None removes; the version. NoDocumentError."""
        return self._change(id, self._planner.merge(patch), expected_version, durable)

    def update(
        self,
        id: str,
        function: Callable[[dict[str, Any]], dict[str, Any]],
        *,
        expected_version: int | None = None,
        durable: bool | None = None,
    ) -> int:
        """Make the document what a function returns, which is given a copy that it may change; what
        differs is logged; the version. It is called again if another process was faster, and with
        the store's lock held: let it be short and use no store. What it raises is raised, and
        nothing is changed. NoDocumentError. O(size)."""
        if not callable(function):
            raise UsageError(
                f"update takes a function, not {function!r:.60}", hint="Use put for a document"
            )

        def plan(entry: Entry) -> list[Edit]:
            inside = _Inside()
            self._updating = weakref.ref(inside)
            try:
                found = function(copied(entry.root))
            finally:
                self._updating = _nowhere
            if found is None:
                raise UsageError(
                    "the function returned None", hint="Let it return the document, or use edit"
                )
            return self._planner.put(found)(entry)

        return self._change(id, plan, expected_version, durable)

    @contextmanager
    def edit(self, id: str, *, durable: bool | None = None) -> Iterator[dict[str, Any]]:
        """A block that changes a copy of the document, of which what differs is logged at its end;
        nothing if it raises. VersionConflictError at the end if anybody changed the document
        meanwhile. NoDocumentError. O(size)."""
        found = self.read(id)
        if found is None:
            raise no_document(id)
        content = found.content
        yield content
        self.put(id, content, expected_version=found.version, durable=durable)

    def forget_deleted(self) -> int:
        """Forget the versions of deleted documents, which take memory: how many. Who is made under
        such an id begins at 1 again, without a past."""
        count = 0

        def decide(state: State) -> list[Record]:
            nonlocal count
            count = len(state.gone)
            return [Record(FORGET)] if count else []

        self._command(decide)
        return count

    def _change(
        self,
        id: str,
        plan: Plan,
        expected: int | None,
        durable: bool | None,
        *,
        create: bool = False,
    ) -> int:
        """Do to a document what `plan` says of it (`create`: also if there is none); its
        version."""
        key = check_id(id)
        check_expected(expected)
        version = 0

        def decide(state: State) -> list[Record]:
            nonlocal version
            entry = state.documents.get(id)
            self._planner.check_version(id, entry, expected)
            if entry is None and not create:
                raise no_document(id)
            edits = plan(entry)
            version = state.last(id).version + bool(edits)
            return self._records(state, id, key, entry, edits)

        self._command(decide, durable)
        return version

    def _command(
        self, decide: Callable[[State], list[Record]], durable: bool | None = None
    ) -> range:
        if self.read_only:
            raise ReadOnlyError("the store was opened for reading", hint="Open it for writing")
        inside = self._updating()
        if inside is not None and inside.thread == get_ident():
            raise UsageError(
                "a function given to update changes the document that it is given, and no other",
                hint="Use a transaction of a Database for more than one",
            )

        def decide_on_whole(state: State) -> list[Record]:
            state.refuse_half()
            return decide(state)

        return self._fold.command(decide_on_whole, durable=durable)

    def _records(
        self, state: State, id: str, key: bytes, entry: Entry | None, edits: list[Edit]
    ) -> list[Record]:
        """The records of a change, if the document may become what they make of it."""
        if not edits:
            return []
        self._planner.check_result(state, id, entry, edits)
        version, previous = state.last(id)
        return change_records(key, version + 1, previous, edits)
