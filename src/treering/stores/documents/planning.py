"""What a command does to a document: it is looked at, and the changes are made out."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

from treering import TooLargeError, UsageError

from .content import Codec, check_document, check_value, encoded
from .difference import Differ
from .errors import duplicate, version_conflict
from .index import Entries, Index
from .pointer import NESTING_MAX, Tokens, parse
from .state import Entry, State
from .tree import (
    DELETE,
    INSERT,
    PUT,
    REMOVE,
    Edit,
    changed,
    find,
    merged,
    refuse_path,
    resolved,
)

_COUNT_MAX = 1 << 63

# What to do to an entry; to None if there is no document, for commands that may make one.
Plan = Callable[[Any], list[Edit]]


class Planner:
    """Makes the plans of one handle's commands. All that is wrong with the arguments is said before
    the log is looked at."""

    def __init__(self, codec: Codec, document_bytes_max: int) -> None:
        for name in ("encode", "decode"):
            if not callable(getattr(codec, name, None)):
                raise UsageError(f"a codec has a method {name}", hint="See JsonCodec")
        self._codec = codec
        self._bytes_max = check_count(document_bytes_max, "document_bytes_max")
        self.differ = Differ(codec)

    def put(self, document: Any) -> Plan:
        """Make the document this one."""
        check_document(document)
        raw = encoded(self._codec, document)
        self._check_size(len(raw))

        def plan(entry: Entry | None) -> list[Edit]:
            if entry is None:
                return [Edit(PUT, (), raw, document)]
            return self.differ.between(entry.root, document)

        return plan

    def set(self, path: str, value: Any) -> Plan:
        """Set what is at the path."""
        tokens = parse(path)
        if not tokens:
            return self.put(value)
        edit = self._new(tokens, value)

        def plan(entry: Entry) -> list[Edit]:
            container, exact = resolved(entry.root, tokens)
            if type(container) is list and exact[-1] == str(len(container)):
                return [edit._replace(kind=INSERT, tokens=exact)]
            if type(container) is dict and exact[-1] not in container:
                return [edit]
            return self.differ.at(exact, find(entry.root, exact), value)

        return plan

    def remove(self, path: str) -> Plan:
        """Remove what is at the path."""
        tokens = parse(path)
        if not tokens:
            raise UsageError("this path is the whole document", hint="Use delete")

        def plan(entry: Entry) -> list[Edit]:
            find(entry.root, tokens)
            return [Edit(REMOVE, tokens)]

        return plan

    def increment(self, path: str, by: Any, keep: Callable[[int | float], None]) -> Plan:
        """Add to a number, and `keep` the sum."""
        tokens = parse(path)
        if type(by) not in (int, float):
            raise UsageError(f"by is a number, not {by!r:.40}", hint="Use an int or a float")
        if not tokens:
            raise UsageError("the whole document is no number", hint='Say where: "/count"')

        def plan(entry: Entry) -> list[Edit]:
            container, exact = resolved(entry.root, tokens)
            new = type(container) is dict and exact[-1] not in container
            before = 0 if new else find(entry.root, exact)
            total = _sum(exact, before, by)
            keep(total)
            same = not new and type(total) is type(before) and total == before
            return [] if same else [self._new(exact, total)]

        return plan

    def append(self, path: str, item: Any) -> Plan:
        """Add to the end of an array."""
        tokens = parse(path)
        edit = self._new((*tokens, "-"), item)

        def plan(entry: Entry) -> list[Edit]:
            array = find(entry.root, tokens)
            if type(array) is not list:
                refuse_path(tokens, f"this is {type(array).__name__}, and no array")
            return [edit._replace(kind=INSERT, tokens=(*tokens, str(len(array))))]

        return plan

    def merge(self, patch: Any) -> Plan:
        """Merge a patch in."""
        check_document(patch)
        encoded(self._codec, patch)
        return lambda entry: self.differ.between(entry.root, merged(entry.root, patch))

    def _new(self, tokens: Tokens, value: Any) -> Edit:
        check_value(value, NESTING_MAX - len(tokens))
        edit = self.differ.whole(tokens, value)
        self._check_size(len(edit.raw))
        return edit

    # --- What may be ---

    def check_version(self, id: str, entry: Entry | None, expected: int | None) -> None:
        """VersionConflictError unless the document is of that version."""
        found = 0 if entry is None else entry.version
        if expected is not None and found != expected:
            raise version_conflict(id, expected, found)

    def check_result(self, state: State, id: str, entry: Entry | None, edits: list[Edit]) -> None:
        """What the changes make of the document: its size is allowed, and its values in unique
        indexes are its own. NoPathError if they do not fit."""
        root, size = (None, 0) if entry is None else (entry.root, entry.size)
        before = root
        for edit in edits:
            if edit.kind in (PUT, DELETE):
                root, size = edit.value, len(edit.raw)
            else:
                root, grown = changed(root, edit)
                size += grown
        self._check_size(size)
        for name, entries in state.indexes.items():
            if entries.index.unique and not entries.untouched(before, root):
                for rank, value in entries.keys(root) - entries.keys(before):
                    holder = state.holder(name, value, id) if rank else None
                    if holder is not None:
                        raise duplicate(name, value, holder)

    def check_unique(self, state: State, name: str, index: Index) -> None:
        """DuplicateError if two documents have the same value in what is to be a unique index."""
        if not index.unique:
            return
        found = Entries(index).of(state.documents.items()).between()
        for one, other in pairwise(found):
            if one[0] and one[:2] == other[:2]:
                raise duplicate(name, one[1], one[2])

    def _check_size(self, size: int) -> None:
        if size > self._bytes_max:
            raise TooLargeError(
                f"the document has {size} bytes, document_bytes_max is {self._bytes_max}",
                hint="Make several documents of it, or allow more",
            )


def _sum(tokens: Tokens, before: Any, by: int | float) -> int | float:
    if type(before) not in (int, float):
        refuse_path(tokens, f"this is {type(before).__name__}, and no number")
    try:
        total: int | float = before + by
    except OverflowError:
        raise UsageError("the number is too large for a float", hint="Add a whole number") from None
    check_value(total)
    return total


def check_count(count: Any, name: str) -> int:
    """A number of things, at least one."""
    if type(count) is not int or not 1 <= count < _COUNT_MAX:
        raise UsageError(
            f"{name} is a whole number from 1 on, not {_shown(count)}", hint="Use an int"
        )
    return count


def check_expected(expected: Any) -> None:
    """UsageError for what cannot be a version."""
    if expected is not None and (type(expected) is not int or not 0 <= expected < _COUNT_MAX):
        raise UsageError(
            f"expected_version is a whole number, not {_shown(expected)}",
            hint="0 means that there is no document",
        )


def _shown(value: Any) -> str:
    """A value in a message; huge numbers cannot be written out."""
    return "a huge number" if type(value) is int and abs(value) >= _COUNT_MAX else f"{value!r:.40}"
