"""JSON Patch (RFC 6902) on documents, by the library."""

from __future__ import annotations

import pytest

from tests.stores._opening import opener
from treering import ConflictError, UsageError
from treering.stores.documents import (
    DocumentStore,
    DuplicateError,
    Index,
    NoDocumentError,
    NoPathError,
    VersionConflictError,
)

pytest.importorskip("jsonpatch")

DOCUMENT = {"a": 1, "list": ["x", "y"], "in": {"b": 2}, "pad": "x" * 500}


@pytest.fixture
def opened(files):
    with opener(DocumentStore, "/documents", files=files) as open_store:
        yield open_store


@pytest.fixture
def patched(store):
    from treering.integrations.jsonpatch import patch

    store.put("d", DOCUMENT)

    def call(operations, **options):
        return patch(store, "d", operations, **options)

    return call


@pytest.mark.parametrize(
    ("operations", "changes"),
    [
        ([{"op": "add", "path": "/new", "value": {"k": []}}], [("set", "/new", {"k": []})]),
        ([{"op": "add", "path": "/list/1", "value": 1}], [("insert", "/list/1", 1)]),
        ([{"op": "add", "path": "/list/-", "value": 1}], [("insert", "/list/2", 1)]),
        ([{"op": "remove", "path": "/list/0"}], [("remove", "/list/0", None)]),
        ([{"op": "replace", "path": "/in/b", "value": 3}], [("set", "/in/b", 3)]),
        (
            [{"op": "move", "from": "/a", "path": "/in/a"}],
            [("remove", "/a", None), ("set", "/in/a", 1)],
        ),
        ([{"op": "copy", "from": "/in", "path": "/c"}], [("set", "/c", {"b": 2})]),
        ([{"op": "test", "path": "/a", "value": 1}], []),
        ('[{"op": "replace", "path": "/a", "value": 2}]', [("set", "/a", 2)]),
    ],
)
def test_operations_log_what_differs(store, patched, operations, changes):
    version = patched(operations)
    assert version == store.version("d") == 1 + bool(changes)
    assert [tuple(change) for change in store.history("d")[-1].changes] == changes or version == 1


def test_all_or_nothing(store, patched):
    good = {"op": "replace", "path": "/a", "value": 2}
    for bad, error in (
        ({"op": "test", "path": "/a", "value": 7}, ConflictError),
        ({"op": "remove", "path": "/nobody"}, NoPathError),
        ({"op": "replace", "path": "/list/9", "value": 1}, NoPathError),
        ({"op": "add", "path": "/list/x", "value": 1}, (NoPathError, UsageError)),
        ({"op": "jump", "path": "/a"}, UsageError),
        ({"op": "add", "path": "/a"}, UsageError),
        ({"path": "/a"}, UsageError),
        ({"op": "replace", "path": "/a", "value": float("nan")}, UsageError),
        ({"op": "replace", "path": "", "value": []}, UsageError),
        (7, UsageError),
    ):
        with pytest.raises(error):
            patched([good, bad])
    for bad in ("{", "7", 7, None):
        with pytest.raises(UsageError):
            patched(bad)
    assert store["d"] == DOCUMENT and store.version("d") == 1


def test_versions_and_unique_indexes(store, patched):
    from treering.integrations.jsonpatch import patch

    store.create_index("a", "/a", unique=True)
    store.put("e", {"a": 7})
    operation = {"op": "replace", "path": "/a", "value": 7}
    with pytest.raises(DuplicateError):
        patched([operation])
    with pytest.raises(VersionConflictError):
        patched([operation], expected_version=2)
    with pytest.raises(NoDocumentError):
        patch(store, "nobody", [operation])
    assert store.indexes() == {"a": Index("/a", unique=True)}
    assert patched([{**operation, "value": 8}], expected_version=1, durable=True) == 2


@pytest.mark.parametrize(
    "operations",
    [
        [{"op": "add", "path": "/~2", "value": 1}],
        '[{"op": "add", "path": "/d", "value": %s}]' % ("[" * 100_000 + "]" * 100_000),
    ],
    ids=["escape", "depth"],
)
def test_a_patch_that_the_library_cannot_read_is_none(patched, operations):
    with pytest.raises(UsageError, match="no JSON Patch"):
        patched(operations)
