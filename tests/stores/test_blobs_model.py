"""The blob store is two dicts, whatever is done to it in whatever order, in two handles."""

from __future__ import annotations

import io

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.crash._scale import cases
from treering import FsyncPolicy, NotThereError
from treering.stores.blobs import BlobStore, StillLinkedError
from treering.testing import FakeClock, MemoryFiles

contents = st.sampled_from([b"", b"a", b"b" * 70_000, b"c" * 300_000, b"d" * 10])
names = st.sampled_from(["a", "a/b", "ü", "z"])


class Stores(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.files, self.clock = MemoryFiles(), FakeClock()
        self.named, self.held = {}, set()
        self.known, self.unwanted = {}, {}  # of all that ever was: its reference; since when
        self.stores = [self.open(), self.open()]

    def open(self):
        return BlobStore(
            "/blobs",
            files=self.files,
            clock=self.clock,
            fsync_policy=FsyncPolicy.OS,
            segment_bytes_max=4096,
            checkpoint_bytes=None,
        )

    def there(self):
        return {*self.named.values(), *self.held}

    def settle(self, before):
        """What has lost its last reference, and what has one again."""
        for data in before - self.there():
            self.unwanted[data] = self.clock()
        for data in self.there():
            self.unwanted.pop(data, None)

    @rule(which=st.booleans(), data=contents, name=st.none() | names, form=st.integers(0, 3))
    def put(self, which, data, name, form):
        before = self.there()
        forms = (data, io.BytesIO(data), iter([data[:5], data[5:]]), bytearray(data))
        self.known[data] = self.stores[which].put(forms[form], name=name)
        if name is None:
            self.held.add(data)
        else:
            self.named[name] = data
        self.settle(before)

    @rule(which=st.booleans(), name=names, data=contents)
    def link(self, which, name, data):
        if data not in self.known:
            return
        before = self.there()
        if data in before:
            self.stores[which].link(name, str(self.known[data]))
            self.named[name] = data
        else:
            with pytest.raises(NotThereError):
                self.stores[which].link(name, self.known[data])
        self.settle(before)

    @rule(which=st.booleans(), name=names)
    def unlink(self, which, name):
        before = self.there()
        if name in self.named:
            self.stores[which].unlink(name)
            del self.named[name]
        else:
            with pytest.raises(NotThereError):
                self.stores[which].unlink(name)
        self.settle(before)

    @rule(which=st.booleans(), data=contents)
    def delete(self, which, data):
        if data not in self.known:
            return
        before = self.there()
        if data in self.named.values():
            with pytest.raises(StillLinkedError):
                self.stores[which].delete(self.known[data])
        elif data in self.held:
            self.stores[which].delete(self.known[data])
            self.held.discard(data)
        else:
            with pytest.raises(NotThereError):
                self.stores[which].delete(self.known[data])
        self.settle(before)

    @rule(which=st.booleans(), data=contents)
    def release(self, which, data):
        if data not in self.known:
            return
        before = self.there()
        if data in self.held:
            self.stores[which].release(self.known[data])
            self.held.discard(data)
        else:
            with pytest.raises(NotThereError):
                self.stores[which].release(self.known[data])
        self.settle(before)

    @rule(which=st.booleans(), grace=st.sampled_from([0, 10]), wait=st.sampled_from([0, 6]))
    def collect(self, which, grace, wait):
        self.clock.advance(wait)
        over = [
            data
            for data, since in self.unwanted.items()
            if self.clock() - since >= grace * 1_000_000_000
        ]
        found = self.stores[which].collect(grace_seconds=grace)
        assert found == (len(over), sum(map(len, over)), 0)
        for data in over:
            del self.unwanted[data]

    @rule(which=st.booleans())
    def checkpoint(self, which):
        self.stores[which].checkpoint()

    @rule(which=st.booleans())
    def reopen(self, which):
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
    def both_are_the_dicts(self):
        for store in self.stores:
            assert {name: store.get(ref) for name, ref in store.names().items()} == self.named
            assert {store.get(ref) for ref in store} == self.there()
            assert {store.get(r) for r in store if store.info(r).held} == self.held
            for data, ref in self.known.items():
                named = list(self.named.values()).count(data)
                assert store.count(ref) == named + (data in self.held)
            assert store.stats()["bytes"] == sum(map(len, self.there()))
            assert store.stats()["unwanted_files"] == len(self.unwanted)
        paths = [p for p in self.files.contents() if p.startswith(("/blobs/obj", "/blobs/inc"))]
        paths = [p for p in paths if not p.endswith(".lock")]
        assert len(paths) == len(self.there()) + len(self.unwanted)

    def teardown(self):
        for store in self.stores:
            store.check()
            assert store.stats()["trouble"] == []
            store.close()


TestStores = Stores.TestCase
TestStores.settings = settings(max_examples=cases(20), stateful_step_count=25, deadline=None)
