"""The key-value store on disks that fail and lose power."""

from __future__ import annotations

import errno
from typing import ClassVar

import pytest

from tests.crash._scale import cases
from tests.stores._crashing import OPTIONS, Program, failing_calls, power_cuts
from treering import FsyncPolicy
from treering.stores.kv import KeyValueStore

# The stores are Python in either build: once is enough.
pytestmark = pytest.mark.slow

KEYS = [b"k%d" % n for n in range(6)]


class KeyValueProgram(Program):
    start: ClassVar = {}
    seen = staticmethod(dict)

    def opened(self, files, policy=FsyncPolicy.OS):
        return KeyValueStore("/kv", files=files, fsync_policy=policy, **OPTIONS)

    def go_on(self, store):
        store[b"after"] = b"the cut"

    def step(self, chance):
        store, rng, model = self.store, self.rng, dict(self.states[-1])
        key, value = rng.choice(KEYS), b"%d" % rng.randrange(1, 1000) * rng.choice((1, 90))
        sync = rng.random() < 0.2 or self.always
        if chance < 0.45:
            model[key] = value
            self.begin(model)
            store.put(key, value, sync=sync)
        elif chance < 0.55:
            model.pop(key, None)
            self.begin(model)
            store.delete(key, sync=sync)
        elif chance < 0.7:
            batch = store.write_batch(sync=sync)
            for each in rng.sample(KEYS, 3):
                model[each] = value
                batch.put(each, value)
            self.begin(model)
            batch.write()
        elif chance < 0.8:
            model[b"n"] = b"%d" % (int(model.get(b"n", 0)) + 1)
            self.begin(model)
            store.increment(b"n", sync=sync)
        elif chance < 0.83:
            self.begin({})
            store.clear()
            return self.always
        elif chance < 0.95:
            store.checkpoint()
            return True
        else:
            self.reopen()
        return sync


@pytest.mark.parametrize("policy", [FsyncPolicy.OS, FsyncPolicy.ALWAYS], ids=["os", "always"])
def test_a_power_cut_after_every_operation(policy, record_property):
    record_property("counts", dict(power_cuts(KeyValueProgram, policy, cases(400))))


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_every_call_of_the_disk_fails_once(number):
    failing_calls(KeyValueProgram, number, step=2 if cases(10) >= 10 else 5)
