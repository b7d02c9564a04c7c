"""The cache on disks that fail and lose power, and broken off in the middle of its calls."""

from __future__ import annotations

import errno
from typing import ClassVar

import pytest

from tests.crash._scale import SHARE, cases
from tests.stores._crashing import OPTIONS, Program, failing_calls, power_cuts
from tests.stores._interrupting import broken_off
from treering import FsyncPolicy
from treering.stores.cache import Cache
from treering.stores.cache.keys import encode_key
from treering.stores.cache.state import ENTRY_BYTES

# The stores are Python in either build: once is enough.
pytestmark = pytest.mark.slow

KEYS = ["k0", b"k1", 2, ("k", 3), "n"]


class CacheProgram(Program):
    start: ClassVar = {}

    def opened(self, files, policy=FsyncPolicy.OS, **options):
        options = {**OPTIONS, "checkpoint_seconds": None, **options}
        return Cache("/cache", files=files, fsync_policy=policy, **options)

    def seen(self, store):
        return {key: (store[key], store.expires_at(key) is None) for key in store}

    def go_on(self, store):
        store["after"] = "the cut"

    def step(self, chance):
        store, rng, model = self.store, self.rng, dict(self.states[-1])
        key, value = rng.choice(KEYS[:4]), b"%d" % rng.randrange(1, 1000) * rng.choice((1, 90))
        if chance < 0.4:
            model[key] = (value, True)
            self.begin(model)
            store.set(key, value)
        elif chance < 0.5:
            model[key] = (value, False)
            self.begin(model)
            store.set(key, value, ttl=10_000, tags=["t"])
        elif chance < 0.55:
            model.pop(key, None)
            self.begin(model)
            store.delete(key)
        elif chance < 0.65:
            for each in rng.sample(KEYS[:4], 3):
                model[each] = (value, True)
            self.begin(model)
            store.set_many({each: value for each in model if model[each] == (value, True)})
        elif chance < 0.75:
            model["n"] = (model.get("n", (0,))[0] + 1, True)
            self.begin(model)
            store.incr("n")
        elif chance < 0.78:
            self.begin({key: found for key, found in model.items() if found[1]})
            store.evict("t")
        elif chance < 0.8:
            self.begin({})
            store.clear()
        elif chance < 0.83:
            store.sync()
            return True
        elif chance < 0.95:
            store.checkpoint()
            return True
        else:
            self.reopen()
        return self.always


@pytest.mark.parametrize("policy", [FsyncPolicy.OS, FsyncPolicy.ALWAYS], ids=["os", "always"])
def test_a_power_cut_after_every_operation(policy, record_property):
    record_property("counts", dict(power_cuts(CacheProgram, policy, cases(40))))


class Evicted(dict):
    """All that was set, and the `newest` of it; equal to it is what an eviction leaves of it."""

    newest = None

    def __eq__(self, found):
        return found.items() <= self.items() and (self.newest is None or self.newest in found)

    __hash__ = None


class FullCacheProgram(CacheProgram):
    """One that evicts: a crash leaves values that were set last, and the newest of them."""

    start = Evicted()

    bound = 5 * ENTRY_BYTES

    def opened(self, files, policy=FsyncPolicy.OS):
        return super().opened(files, policy, size_bytes_max=self.bound)

    def run(self, steps):
        self.open()
        for step in range(steps):
            key = self.rng.randrange(12)
            model = Evicted({**self.states[-1], key: (b"%d" % step, True)})
            model.newest = key
            self.begin(model)
            self.store.set(key, b"%d" % step)
            self.store.get(self.rng.randrange(12))
            assert self.store.stats()["size_bytes"] <= self.bound
            if self.always:
                self.durable()
            if self.rng.random() < 0.15:
                self.store.checkpoint()
                self.durable()
        self.store.close()
        self.durable()


@pytest.mark.parametrize("policy", [FsyncPolicy.OS, FsyncPolicy.ALWAYS], ids=["os", "always"])
def test_a_power_cut_while_it_evicts(policy, record_property):
    record_property("counts", dict(power_cuts(FullCacheProgram, policy, cases(40))))


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_every_call_of_the_disk_fails_once(number):
    failing_calls(CacheProgram, number, step=2 if cases(10) >= 10 else 9)


# --- broken off ---


def some_entries(store):
    for number in range(8):
        store.set(number, b"v" * 200, tags=["t"] if number % 2 else [])
    store.set("e", b"5", ttl=10_000)
    store.incr("n")


def set_one(store):
    store.set(1, b"new")


def set_with_all(store):
    store.set(2, b"new", ttl=10_000, tags=["t", "u"])


def incr(store):
    store.incr("n")


def evict(store):
    store.evict("t")


def many(store):
    store.set_many({1: b"x", 2: b"y", "n": 7})


def memoized(store):
    store.memoize(name="f")(lambda: b"result")()


def look(store):
    CacheProgram.seen(None, store)


def two_more(store):
    store.set(1, b"theirs")
    store.set_many({5: b"theirs", "e": b"6"})


_SHARES = {look: 40, set_one: 5, set_with_all: 7}


@pytest.mark.parametrize(
    "call",
    [set_one, set_with_all, incr, evict, many, memoized, look],
    ids=lambda call: call.__name__,
)
def test_broken_off(call):
    share = round(_SHARES.get(call, 9) / SHARE) or 1
    counts = broken_off(CacheProgram, some_entries, call, share, two_more)
    assert counts["broken off"] >= 5


class SmallProgram(CacheProgram):
    def opened(self, files, policy=FsyncPolicy.OS):
        return super().opened(files, policy, size_bytes_max=11 * (ENTRY_BYTES + 205))

    def seen(self, store):
        """Eviction takes a record of its own: what is left of the twelve, whether `big` is there."""
        store.expire()
        state = store._fold.state()
        state.mend()
        state.check()
        return encode_key("big") in state.items


def big(store):
    store.set("big", b"b" * 3000)


def test_broken_off_while_it_evicts():
    counts = broken_off(SmallProgram, some_entries, big, round(15 / SHARE) or 1)
    assert counts["broken off"] >= 5
