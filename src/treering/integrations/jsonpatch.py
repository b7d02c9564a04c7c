"""JSON Patch (RFC 6902) on documents, by the library jsonpatch (extra `jsonpatch`).

from treering.integrations.jsonpatch import patch

patch(people, "ada", [{"op": "replace", "path": "/address/city", "value": "Vienna"}])
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from treering import ConflictError, MissingExtraError, UsageError
from treering.stores.documents import DocumentStore, NoPathError

try:
    import jsonpatch
except ImportError as error:
    raise MissingExtraError(
        "jsonpatch is not installed", hint="pip install 'treering[jsonpatch]'"
    ) from error


_NO_PATCH = (
    jsonpatch.JsonPatchException,
    jsonpatch.JsonPointerException,
    TypeError,
    ValueError,
    LookupError,
    RecursionError,
)


class PatchTestError(ConflictError):
    """A `test` of a patch found something else, so nothing was changed."""


def patch(
    store: DocumentStore,
    id: str,
    operations: Iterable[dict[str, Any]] | str,
    *,
    expected_version: int | None = None,
    durable: bool | None = None,
) -> int:
    """Do the operations of a JSON Patch (a list, or JSON text) to a document: all of them or none,
    as one command; the version. What differs at the end is logged.

    PatchTestError if a `test` fails, NoPathError where there is nothing, UsageError for what is no
    patch; else as `DocumentStore.update`.
    """
    try:
        if isinstance(operations, str):
            wanted = jsonpatch.JsonPatch.from_string(operations)
        else:
            wanted = jsonpatch.JsonPatch(list(operations))
    except _NO_PATCH as error:
        raise _no_patch(error) from error

    def patched(document: dict[str, Any]) -> Any:
        try:
            return wanted.apply(document)
        except jsonpatch.JsonPatchTestFailed as error:
            raise PatchTestError(
                f"a test of the patch failed: {error}", hint="Read the document again"
            ) from error
        except (jsonpatch.JsonPatchConflict, jsonpatch.JsonPointerException) as error:
            raise NoPathError(
                f"the patch does not fit {id!r:.60}: {error}", hint="Look at the document"
            ) from error
        except _NO_PATCH as error:
            raise _no_patch(error) from error

    return store.update(id, patched, expected_version=expected_version, durable=durable)


def _no_patch(error: Exception) -> UsageError:
    return UsageError(
        f"this is no JSON Patch: {type(error).__name__}: {error}",
        hint="A patch is a list of operations; see RFC 6902",
    )
