"""The cache is a dict whose entries expire, whatever is done to it in whatever order, in two
handles, under clocks that jump; and within its bound it forgets only what it evicts."""

from __future__ import annotations

from typing import ClassVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.crash._scale import cases
from treering import FsyncPolicy
from treering.stores.cache import Cache
from treering.stores.cache.state import ENTRY_BYTES
from treering.testing import FakeClock, MemoryFiles

SECOND = 1_000_000_000

keys = st.sampled_from(["", "a", b"a", 1, "1", b"1", ("a", 1), (("a",), 1), *range(10, 18)])
values = st.sampled_from([b"", "1", 1, None, [1, {"a": 2}], "x" * 300, 1.5])
ttls = st.sampled_from([None, None, 1, 10, 1000])
tags = st.sets(st.sampled_from(["x", "y", "z"]), max_size=2)


class Caches(RuleBasedStateMachine):
    """`model`: of each key its value, when it expires, its tags."""

    options: ClassVar = {}

    def __init__(self):
        super().__init__()
        self.files, self.clock, self.model = MemoryFiles(), FakeClock(1_000_000 * SECOND), {}
        self.newest, self.position, self.evicted = 0, 0, 0
        self.stores = [self.open(), self.open()]

    def open(self):
        return Cache(
            "/cache",
            files=self.files,
            clock=self.clock,
            fsync_policy=FsyncPolicy.OS,
            segment_bytes_max=1024,
            checkpoint_bytes=None,
            checkpoint_seconds=None,
            **self.options,
        )

    @property
    def now(self):
        return max(self.clock(), self.newest)

    def live(self):
        now = self.now
        return {k: v for k, v in self.model.items() if v[1] is None or v[1] > now}

    def note(self):
        """After each call: what is over is gone for good, what was evicted too."""
        position = self.stores[0].position
        if position != self.position:
            self.newest, self.position = self.now, position
        self.model = self.live()
        evicted = sum(store.stats()["evictions"] for store in self.stores)
        if evicted != self.evicted:
            left = {(type(key), key) for key in self.stores[0]}
            gone = [key for key in self.model if (type(key), key) not in left]
            assert len(gone) <= evicted - self.evicted
            for key in gone:
                del self.model[key]
            self.evicted = evicted

    def put(self, key, value, ttl, having=()):
        self.model[key] = (value, None if ttl is None else self.now + ttl * SECOND, having)

    @rule(which=st.booleans(), key=keys, value=values, ttl=ttls, having=tags)
    def set(self, which, key, value, ttl, having):
        self.put(key, value, ttl, having)
        self.stores[which].set(key, value, ttl=ttl, tags=having)
        self.note()
        assert key in self.model, "what was set just now is not evicted"

    @rule(which=st.booleans(), key=keys, value=values, ttl=ttls)
    def add(self, which, key, value, ttl):
        there = key in self.live()
        if not there:
            self.put(key, value, ttl)
        assert self.stores[which].add(key, value, ttl=ttl) == (not there)
        self.note()

    @rule(which=st.booleans(), pairs=st.dictionaries(keys, values, max_size=5), ttl=ttls)
    def set_many(self, which, pairs, ttl):
        for key, value in pairs.items():
            self.put(key, value, ttl)
        self.stores[which].set_many(pairs, ttl=ttl)
        self.note()

    @rule(which=st.booleans(), key=keys, ttl=ttls)
    def touch(self, which, key, ttl):
        found = self.live().get(key)
        if found:
            self.put(key, found[0], ttl, found[2])
        assert self.stores[which].touch(key, ttl) == bool(found)
        self.note()

    @rule(which=st.booleans(), key=keys, by=st.integers(-(2**70), 2**70), ttl=ttls)
    def incr(self, which, key, by, ttl):
        found = self.live().get(key)
        if found is None:
            self.put(key, by, ttl)
        elif type(found[0]) is int:
            self.model[key] = (found[0] + by, *found[1:])
        else:
            return
        assert self.stores[which].incr(key, by, ttl=ttl) == self.model[key][0]
        self.note()

    @rule(which=st.booleans(), key=keys)
    def pop(self, which, key):
        found = self.live().get(key, ("none",))
        self.model.pop(key, None)
        assert self.stores[which].pop(key, "none") == found[0]
        self.note()

    @rule(which=st.booleans(), key=keys)
    def delete(self, which, key):
        there = key in self.live()
        self.model.pop(key, None)
        assert self.stores[which].delete(key) == there
        self.note()

    @rule(which=st.booleans(), key=keys)
    def get(self, which, key):
        assert self.stores[which].get(key, "none") == self.live().get(key, ("none",))[0]
        self.note()

    @rule(which=st.booleans(), tag=st.sampled_from(["x", "y", "z"]))
    def evict(self, which, tag):
        gone = [key for key, found in self.live().items() if tag in found[2]]
        assert self.stores[which].evict(tag) == len(gone)
        for key in gone:
            del self.model[key]
        self.note()

    @rule(which=st.booleans())
    def clear(self, which):
        self.model.clear()
        self.stores[which].clear()
        self.note()

    @rule(which=st.booleans())
    def expire(self, which):
        self.stores[which].expire()
        self.note()

    @rule(seconds=st.sampled_from([-2000, -5, 1, 5, 500]))
    def jump(self, seconds):
        self.clock.jump(seconds)

    @rule(which=st.booleans())
    def checkpoint(self, which):
        self.stores[which].checkpoint()

    @rule(which=st.booleans())
    def reopen(self, which):
        self.evicted -= self.stores[which].stats()["evictions"]
        self.stores[which].close()
        self.stores[which] = self.open()
        self.note()

    @rule()
    def crash(self):
        files, self.evicted = self.files, 0
        self.files = files.crash()
        for store in self.stores:
            store.close()
        self.stores = [self.open(), self.open()]
        self.note()

    @invariant()
    def both_are_the_model(self):
        live = {(type(k), k): v for k, v in self.live().items()}
        for store in self.stores:
            assert {(type(k), k) for k in store} == live.keys()
            assert len(store) == len(live)
            bound = store.stats()["size_bytes_max"]
            assert store.stats()["size_bytes"] <= bound
            for (_, key), (value, expiry, _) in live.items():
                assert key in store
                assert store._fold.state().expiries.get(_coded(key)) == expiry
                assert _value(store, key) == value

    def teardown(self):
        for store in self.stores:
            store.check()
            assert store.stats()["trouble"] == []
            store.close()


def _coded(key):
    from treering.stores.cache.keys import encode_key

    return encode_key(key)


def _value(store, key):
    """The value, without using it."""
    from treering.stores.cache.values import decode

    return decode(store._fold.state().get(_coded(key)), None)


class SmallCaches(Caches):
    options: ClassVar = {"size_bytes_max": 6 * ENTRY_BYTES}


class SmallCachesByUse(Caches):
    options: ClassVar = {"size_bytes_max": 6 * ENTRY_BYTES, "eviction": "lfu"}


TestCaches = Caches.TestCase
TestSmallCaches = SmallCaches.TestCase
TestSmallCachesByUse = SmallCachesByUse.TestCase
for _case in (TestCaches, TestSmallCaches, TestSmallCachesByUse):
    _case.settings = settings(max_examples=cases(10), stateful_step_count=30, deadline=None)
del _case
