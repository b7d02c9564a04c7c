"""The key-value store is a dict, whatever is done to it in whatever order, in two handles."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.crash._scale import cases
from treering import FsyncPolicy
from treering.stores.kv import KeyValueStore
from treering.testing import MemoryFiles

keys = st.sampled_from([b"", b"a", b"ab", b"b", b"\xff", b"\xff\xff", b"n"])
values = st.sampled_from([b"", b"1", b"22", b"x" * 300])


class Stores(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.files, self.model = MemoryFiles(), {}
        self.stores = [self.open(), self.open()]

    def open(self):
        return KeyValueStore(
            "/kv",
            files=self.files,
            fsync_policy=FsyncPolicy.OS,
            segment_bytes_max=1024,
            checkpoint_bytes=None,
        )

    @rule(which=st.booleans(), key=keys, value=values)
    def put(self, which, key, value):
        self.stores[which][key] = self.model[key] = value

    @rule(which=st.booleans(), key=keys)
    def delete(self, which, key):
        self.stores[which].delete(key)
        self.model.pop(key, None)

    @rule(which=st.booleans(), key=keys)
    def pop(self, which, key):
        assert self.stores[which].pop(key, None) == self.model.pop(key, None)

    @rule(which=st.booleans(), pairs=st.dictionaries(keys, values), gone=st.sets(keys))
    def batch(self, which, pairs, gone):
        with self.stores[which].write_batch() as batch:
            for key, value in pairs.items():
                batch.put(key, value)
            for key in gone:
                batch.delete(key)
        self.model.update(pairs)
        for key in gone:
            self.model.pop(key, None)

    @rule(which=st.booleans(), key=keys, expected=st.none() | values, value=st.none() | values)
    def compare_and_set(self, which, key, expected, value):
        won = self.model.get(key) == expected
        assert self.stores[which].compare_and_set(key, expected, value) == won
        if won and value is None:
            self.model.pop(key, None)
        elif won:
            self.model[key] = value

    @rule(which=st.booleans(), key=keys, value=values)
    def setdefault(self, which, key, value):
        assert self.stores[which].setdefault(key, value) == self.model.setdefault(key, value)

    @rule(which=st.booleans(), prefix=st.sampled_from([b"", b"a", b"\xff"]))
    def clear(self, which, prefix):
        self.stores[which].prefixed_db(prefix).clear()
        self.model = {k: v for k, v in self.model.items() if not k.startswith(prefix)}

    @rule(which=st.booleans())
    def checkpoint(self, which):
        self.stores[which].checkpoint()

    @rule(which=st.booleans(), clean=st.booleans())
    def reopen(self, which, clean):
        self.stores[which].close()
        self.stores[which] = self.open()

    @rule()
    def crash(self):
        files = self.files
        self.files = files.crash()
        for store in self.stores:
            store.close()
        self.stores = [self.open(), self.open()]

    @invariant()
    def both_are_the_dict(self):
        for store in self.stores:
            assert list(store.items()) == sorted(self.model.items())
            assert len(store) == len(self.model)
            assert list(reversed(store)) == sorted(self.model, reverse=True)

    def teardown(self):
        for store in self.stores:
            store.check()
            assert store.stats()["trouble"] == []
            store.close()


TestStores = Stores.TestCase
TestStores.settings = settings(max_examples=cases(25), stateful_step_count=30, deadline=None)
