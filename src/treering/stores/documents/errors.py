"""What a document store raises of its own."""

from __future__ import annotations

from typing import Any

from treering import ConflictError, NotThereError, PrunedError, UsageError


class NoDocumentError(NotThereError, KeyError):
    """There is no document of that id, or none of that version."""


class NoPathError(NotThereError, KeyError):
    """The document has nothing at that path, or nothing that the call can work on."""


class NoIndexError(NotThereError, KeyError):
    """There is no index of that name."""


class VersionConflictError(ConflictError):
    """The document is of another version than the call expected: `expected`, `found` (0: there is
    no document). Nothing was changed."""

    expected = 0
    found = 0


class DuplicateError(UsageError):
    """Another document has that value in a unique index: `index`, `value`, and the `id` of that
    document. Nothing was changed."""

    index = ""
    value: Any = None
    id = ""


class VersionPrunedError(PrunedError):
    """The log does not reach back to that version any more; `oldest_version` is the oldest one
    that can be had."""

    oldest_version = 0


def no_document(id: str) -> NoDocumentError:
    """There is no such document."""
    return NoDocumentError(f"there is no document {id!r:.60}", hint="Make it with put")


def version_conflict(id: str, expected: int, found: int) -> VersionConflictError:
    """It is of another version."""
    error = VersionConflictError(
        f"{id!r:.60} is of version {found}, not {expected}",
        hint="Read it again, decide again, and try again",
    )
    error.expected, error.found = expected, found
    return error


def duplicate(index: str, value: Any, id: str) -> DuplicateError:
    """Another document has that value."""
    error = DuplicateError(
        f"{id!r:.60} has {value!r:.60} already, and {index!r:.60} is unique",
        hint="Choose another value, or change that document first",
    )
    error.index, error.value, error.id = index, value, id
    return error


def version_pruned(id: str, version: int, oldest: int) -> VersionPrunedError:
    """A checkpoint has removed what that takes."""
    error = VersionPrunedError(
        f"a checkpoint removed version {version} of {id!r:.60}",
        hint=f"The oldest version that can be had is {oldest}",
    )
    error.oldest_version = oldest
    return error
