"""The key-value store on disks that fail and lose power, through its own calls, with checkpoints.

What a call reported as durable is there after the cut; what no call had begun is not; a call that
was under way happened or did not, as a whole.
"""

from __future__ import annotations

import contextlib
import errno
import random
from collections import Counter

import pytest

from tests.battery.harness import abandon, repeatable
from tests.battery.powercut import QUIET
from tests.crash._scale import cases
from treering import FailedError, FsyncPolicy, TreeringError
from treering.stores.kv import KeyValueStore
from treering.testing import FaultyFiles, MemoryFiles, PowerCutFiles

OPTIONS = {"segment_bytes_max": 2048, "checkpoint_bytes": None}
KEYS = [b"k%d" % n for n in range(6)]


def opened(files, policy=FsyncPolicy.OS):
    return KeyValueStore("/kv", files=files, fsync_policy=policy, **OPTIONS)


class Program:
    """A random program on a store, and the states that a crash may leave: `states` since the one
    that is known to be durable, the newest last."""

    def __init__(self, files, rng, policy):
        self.files, self.rng, self.policy = files, rng, policy
        self.states: list[dict] = [{}]
        self.store = None

    def begin(self, model):
        self.states.append(model)

    def durable(self):
        del self.states[:-1]

    def run(self, steps):
        self.store = opened(self.files, self.policy)
        for _ in range(steps):
            self.step(self.rng.random())
        self.store.close()
        self.durable()

    def step(self, chance):
        store, rng, model = self.store, self.rng, dict(self.states[-1])
        key, value = rng.choice(KEYS), b"%d" % rng.randrange(1, 1000) * rng.choice((1, 90))
        sync = rng.random() < 0.2 or self.policy == FsyncPolicy.ALWAYS
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
            sync = self.policy == FsyncPolicy.ALWAYS
        elif chance < 0.95:
            store.checkpoint()
            sync = True
        else:
            store.close()
            self.durable()
            self.store = store = opened(self.files, self.policy)
        if sync:
            self.durable()
        assert dict(store) == self.states[-1]


def after(image):
    """What a restart shows, and shows again after one more checkpoint."""
    with opened(image) as store:
        found = dict(store)
        trouble = store.stats()["trouble"]
        store.check()
        store[b"after"] = b"the cut"
        store.checkpoint()
    with opened(image) as store:
        assert dict(store) == {**found, b"after": b"the cut"}
        store.check()
    assert trouble == [], "an ordinary crash looks like damage"
    return found


@pytest.mark.parametrize("policy", [FsyncPolicy.OS, FsyncPolicy.ALWAYS], ids=["os", "always"])
def test_a_power_cut_after_every_operation(policy, record_property):
    counts: Counter[str] = Counter()
    run = 0
    while counts["images"] < cases(900):
        rng = random.Random(f"kv {policy} {run}")
        files = PowerCutFiles()
        program = Program(files, rng, policy)
        shots = []

        def look(name, path, shots=shots, program=program, files=files):
            if name not in QUIET:
                images = files.images(3, len(shots), lost="random")
                shots.append((f"{name} {path}", list(program.states), images))

        files.on_operation = look
        files.during_sync = lambda path, look=look: look("during sync", path)
        with repeatable(rng):
            program.run(18)
        files.on_operation = files.during_sync = None
        for number, (what, allowed, images) in enumerate(shots):
            # A call may have gone on to the next state before this moment's images are made.
            for image in images:
                found = after(image)
                assert found in allowed, f"run {run}, moment {number}, {what}: {found}"
                counts["images"] += 1
                counts["snapshots"] += any(".snap" in path for path in image.contents())
        counts["moments"] += len(shots)
        run += 1
    record_property("counts", dict(counts))
    print(f"\nkey-value store, {policy}: {run} runs, {dict(counts)}")
    assert counts["snapshots"]


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_every_call_of_the_disk_fails_once(number):
    """The store then shows what had been acknowledged, at most with the one call under way."""
    counts: Counter[str] = Counter()
    for nth in range(1, 400, 1 if cases(10) == 10 else 5):
        memory = MemoryFiles()
        files = FaultyFiles(memory)
        program = Program(files, random.Random(5), FsyncPolicy.OS)
        fault = files.fail(lambda call: call.modifies, number=number, nth=nth)
        try:
            with repeatable(program.rng):
                program.run(30)
        except TreeringError as error:
            counts[type(error).__name__] += 1
            live_on(program, error)
        files.heal()
        if not fault.hits:
            break
        found = after(memory.crash())
        # All that was written survives the process; the call that failed may have got through.
        assert found in program.states[-2:], nth
        counts["calls"] += 1
    print(f"\nkey-value store, errno {number}: {dict(counts)}")
    assert counts["calls"] > 20


def live_on(program, error):
    """What a program does that goes on after the error."""
    store = program.store
    if store is None:
        return
    with contextlib.suppress(TreeringError):
        assert dict(store) in program.states[-2:]
        if not isinstance(error, FailedError):
            assert store.stats()["keys"] in map(len, program.states[-2:])
    abandon(store._fold.wal)
