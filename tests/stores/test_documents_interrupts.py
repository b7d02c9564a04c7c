"""A document store's calls broken off at every point where a signal may come."""

from __future__ import annotations

import pytest

from tests.crash._scale import SHARE
from tests.stores._interrupting import broken_off
from tests.stores.test_documents_crash import DocumentProgram

# The stores are Python in either build: once is enough.
pytestmark = pytest.mark.slow


def some_documents(store):
    store.put_many({id: {"n": 1, "list": [1], "pad": "x" * 300} for id in ("a", "b", "c")})
    store.find(n=1)


def two_more(store):
    store.increment("a", "/n", 7)
    store.put("d", {"n": 8, "list": []})


def put(store):
    store.put("a", {"n": 5, "list": [1, 2], "pad": "x" * 300})


def increment(store):
    store.increment("b", "/n")


def update(store):
    store.update("a", lambda document: dict(document, n=9, list=[], new={"x": 1}))


def delete(store):
    store.delete("c")


def look(store):
    store.find(n=1)
    store.history("a")


def checkpoint(store):
    store.checkpoint()


@pytest.mark.parametrize("call", [put, increment, update, delete, look, checkpoint])
def test_a_document_store(call):
    share = round((40 if call is checkpoint else 12) / SHARE)
    counts = broken_off(DocumentProgram, some_documents, call, share, two_more)
    assert counts["broken off"] >= 5
