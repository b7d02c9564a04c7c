"""A document store is plain dicts with versions, whatever is done in whatever order, in two
handles."""

from __future__ import annotations

from copy import deepcopy

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.crash._scale import cases
from treering import FsyncPolicy
from treering.stores.documents import (
    DocumentStore,
    DuplicateError,
    Index,
    NoDocumentError,
    VersionConflictError,
)
from treering.testing import MemoryFiles

INDEXES = {"n": "/n", "tag": "/tags/*", "deep": "/a/b", "key": Index("/key", unique=True)}

ids = st.sampled_from(["a", "b", "ž/~", "c"])
names = st.sampled_from(["n", "a", "b", "tags", "/", "~1", "key"])
leaves = st.sampled_from([None, True, 0, 1, 1.0, -1.5, 2**70, "", "x", "text " * 60])
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4),
    max_leaves=8,
)
documents = st.fixed_dictionaries(
    {},
    optional={
        "n": leaves,
        "a": values,
        "tags": st.lists(leaves, max_size=5),
        "/": values,
        "key": st.integers(0, 3),
    },
)


def exact(value):
    """For comparing: 1, 1.0 and True differ, the order of names does not."""
    if isinstance(value, dict):
        return {name: exact(each) for name, each in value.items()}
    return [exact(each) for each in value] if isinstance(value, list) else repr(value)


def places(value, path=()):
    """All places in a document."""
    yield path, value
    pairs = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for name, each in pairs:
        yield from places(each, (*path, name))


def at(document, path):
    for name in path:
        document = document[name]
    return document


def pointer(path):
    return "".join("/" + str(name).replace("~", "~0").replace("/", "~1") for name in path)


def scalars(value):
    return [value] if not isinstance(value, list | dict) else []


def indexed(document):
    """What the indexes have of a document."""
    a = document.get("a")
    return {
        "n": scalars(document["n"]) if "n" in document else [],
        "tag": [tag for tag in document.get("tags", []) if not isinstance(tag, list | dict)]
        if isinstance(document.get("tags"), list)
        else [],
        "deep": scalars(a["b"]) if isinstance(a, dict) and "b" in a else [],
        "key": scalars(document["key"]) if "key" in document else [],
    }


def like(one, other):
    """Equal in an index."""
    numbers = all(
        isinstance(each, int | float) and not isinstance(each, bool) for each in (one, other)
    )
    return one == other and (numbers or type(one) is type(other))


class Stores(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.files = MemoryFiles()
        self.model, self.versions, self.past = {}, {}, {}
        self.stores = [self.open(), self.open()]

    def open(self):
        return DocumentStore(
            "/documents",
            files=self.files,
            indexes=INDEXES,
            fsync_policy=FsyncPolicy.OS,
            segment_bytes_max=2048,
            checkpoint_bytes=None,
        )

    def taken(self, id, document):
        """Whether another document has its unique value."""
        mine = [value for value in indexed(document)["key"] if value is not None]
        return any(
            like(value, theirs)
            for other, each in self.model.items()
            if other != id
            for theirs in indexed(each)["key"]
            for value in mine
        )

    def become(self, id, document, call):
        """Do a call that makes the document this one (None: no document)."""
        old = self.model.get(id)
        if document is not None and self.taken(id, document):
            with pytest.raises(DuplicateError):
                call()
            return
        call()
        if exact(document) == exact(old):
            return
        version = self.versions[id] = self.versions.get(id, 0) + 1
        self.past[id, version] = deepcopy(document)
        if document is None:
            del self.model[id]
        else:
            self.model[id] = deepcopy(document)

    @rule(which=st.booleans(), id=ids, document=documents)
    def put(self, which, id, document):
        self.become(id, document, lambda: self.stores[which].put(id, document))

    @rule(which=st.booleans(), id=ids)
    def delete(self, which, id):
        self.become(id, None, lambda: self.stores[which].delete(id))

    @rule(
        which=st.booleans(),
        id=ids,
        data=st.data(),
        kind=st.sampled_from(["set", "remove", "append", "increment"]),
    )
    def change_a_part(self, which, id, data, kind):
        store, document = self.stores[which], deepcopy(self.model.get(id))
        if document is None:
            with pytest.raises(NoDocumentError):
                store.set(id, "/n", 1)
            return
        path, value = data.draw(st.sampled_from(list(places(document))))
        new = data.draw(values)
        if kind == "append":
            if isinstance(value, list):
                value.append(new)
                self.become(id, document, lambda: store.append(id, pointer(path), new))
        elif kind == "increment":
            if isinstance(value, int | float) and not isinstance(value, bool):
                at(document, path[:-1])[path[-1]] = value + 3
                self.become(id, document, lambda: store.increment(id, pointer(path), 3))
        elif kind == "set" and isinstance(value, dict):
            name = data.draw(names)
            value[name] = new
            self.become(id, document, lambda: store.set(id, pointer((*path, name)), new))
        elif path and kind == "set":
            at(document, path[:-1])[path[-1]] = new
            self.become(id, document, lambda: store.set(id, pointer(path), new))
        elif path:
            del at(document, path[:-1])[path[-1]]
            self.become(id, document, lambda: store.remove(id, pointer(path)))

    @rule(which=st.booleans(), id=ids, document=documents, stale=st.booleans())
    def update_what_was_seen(self, which, id, document, stale):
        if id not in self.model:
            return
        expected = self.versions[id] - stale
        if stale:
            with pytest.raises(VersionConflictError):
                self.stores[which].update(id, lambda _: document, expected_version=expected)
            return
        new = {**self.model[id], **document}
        self.become(
            id,
            new,
            lambda: self.stores[which].update(
                id, lambda d: d | document, expected_version=expected
            ),
        )

    @rule(which=st.booleans(), pairs=st.dictionaries(ids, documents, max_size=3))
    def put_many(self, which, pairs):
        keys = [each["key"] for each in pairs.values() if "key" in each]
        # One after the other: a document that gives its value up first makes room for the next.
        if len(keys) != len(set(keys)) or any(self.taken(id, each) for id, each in pairs.items()):
            return
        self.stores[which].put_many(pairs)
        for id, document in pairs.items():
            self.become(id, document, lambda: None)

    @rule(which=st.booleans())
    def checkpoint(self, which):
        self.stores[which].checkpoint()

    @rule(which=st.booleans())
    def reopen(self, which):
        self.stores[which].close()
        self.stores[which] = self.open()

    @rule()
    def crash(self):
        self.files = self.files.crash()
        for store in self.stores:
            store.close()
        self.stores = [self.open(), self.open()]

    @rule(which=st.booleans(), id=ids)
    def look_back(self, which, id):
        store = self.stores[which]
        for version in store.history(id):
            wanted = self.past[id, version.version]
            if wanted is None:
                assert [change.op for change in version.changes] == ["delete"]
        last = self.versions.get(id, 0)
        for version in range(max(1, last - 3), last + 1):
            wanted = self.past[id, version]
            try:
                assert exact(store.get(id, version=version)) == exact(wanted)
            except NoDocumentError:
                assert wanted is None
            except LookupError as error:
                assert error.oldest_version > version

    @invariant()
    def both_are_the_dicts(self):
        for store in self.stores:
            assert list(store) == sorted(self.model)
            for id, document in self.model.items():
                assert exact(store[id]) == exact(document)
                assert store.version(id) == self.versions[id]

    @invariant()
    def indexes_find_what_a_look_at_all_finds(self):
        everything = {id: indexed(document) for id, document in self.model.items()}
        for name in INDEXES:
            for value in (None, True, 0, 1.0, "x", 3):
                wanted = [
                    id
                    for id, keys in sorted(everything.items())
                    if any(like(value, k) for k in keys[name])
                ]
                for store in self.stores:
                    assert [found.id for found in store.find(**{name: value})] == wanted

    def teardown(self):
        for store in self.stores:
            store.check()
            assert store.stats()["trouble"] == []
            store.close()


TestStores = Stores.TestCase
TestStores.settings = settings(max_examples=cases(20), stateful_step_count=25, deadline=None)
