"""The message log on disks that fail and lose power, through its own calls, with checkpoints.

What a call reported as durable is there after the cut; what no call had begun is not; a call that
was under way happened or did not, as a whole: so a commit is there with the messages of its batch,
and an acknowledged message does not come again.
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
from treering import FsyncPolicy, TreeringError
from treering.stores.messages import MessageLog
from treering.testing import FaultyFiles, MemoryFiles, PowerCutFiles

OPTIONS = {"segment_bytes_max": 2048, "checkpoint_bytes": None}
OUT_BYTES = 60
BEGINNING = {"in": (), "out": (), "table": {}, "done": None, "left": ()}


def opened(files, policy=FsyncPolicy.OS):
    return MessageLog("/log", files=files, fsync_policy=policy, **OPTIONS)


def shown(log):
    """What the log comes to, for whoever uses it: messages, what the consumer has done, what the
    group has not."""
    members = log._fold.state().topics.get(b"in")
    members = None if members is None else members.groups.get(b"g")
    messages = list(log.consume_from("in"))
    return {
        "in": tuple(m.value for m in messages),
        "out": tuple(m.value for m in log.consume_from("out")),
        "table": {m.key: m.value for m in log.consume_from("table")},
        "done": None
        if "c" not in log.consumers("in")
        else sum(m.position < log.consumers("in")["c"] for m in messages),
        "left": ()
        if members is None
        else tuple(
            m.value
            for m in messages
            if m.position in members.leases or m.position >= members.frontier
        ),
    }


class Program:
    """A random program on a log, and what a crash may leave: `states` since the one that is known
    to be durable, the newest last."""

    def __init__(self, files, rng, policy):
        self.files, self.rng, self.policy = files, rng, policy
        self.states: list[dict] = [BEGINNING]
        self.store = None
        self.number = 0
        self.counts: Counter[str] = Counter()

    def begin(self, **changes):
        self.states.append({**self.states[-1], **changes})

    def durable(self):
        del self.states[:-1]

    def run(self, steps):
        self.store = store = opened(self.files, self.policy)
        store.set_retention("table", compact=True)
        store.set_retention("out", bytes=OUT_BYTES)
        self.begin(done=0)
        self.consumer = store.consumer("c", "in")
        self.begin()
        self.group = store.group("g", "in", lease=1e-9)
        for _ in range(steps):
            self.step(self.rng.random())
        self.store.close()
        self.durable()

    def value(self):
        self.number += 1
        return b"%d" % self.number * self.rng.choice((1, 1, 60))

    def step(self, chance):
        store, now = self.store, self.states[-1]
        sync = self.rng.random() < 0.2
        durable = sync or None
        if chance < 0.25:
            value = self.value()
            self.begin(**{"in": (*now["in"], value), "left": (*now["left"], value)})
            store.publish("in", value, durable=durable)
        elif chance < 0.35:
            many = [self.value() for _ in range(3)]
            self.begin(**{"in": (*now["in"], *many), "left": (*now["left"], *many)})
            store.publish_many("in", many, durable=durable)
        elif chance < 0.5:
            key, value = self.rng.choice((b"k", b"l")), self.value()
            self.begin(table={**now["table"], key: value})
            store.publish("table", value, key, durable=durable)
        elif chance < 0.65:
            sync = self.exactly_once(now, durable) and sync
        elif chance < 0.8:
            sync = self.in_the_group(now, durable) and sync
        elif chance < 0.95:
            self.begin(out=retained(now["out"]))
            store.checkpoint()
            sync = True
        else:
            store.close()
            self.durable()
            self.store = store = opened(self.files, self.policy)
            self.consumer = store.consumer("c", "in")
            self.group = store.group("g", "in", lease=1e-9)
        if sync or self.policy == FsyncPolicy.ALWAYS:
            self.durable()
        assert shown(store) == self.states[-1]

    def exactly_once(self, now, durable):
        self.consumer.resume()
        found = self.consumer.poll(1)
        for message in found:
            self.begin(out=(*now["out"], message.value[:9]), done=now["done"] + 1)
            with self.store.batch(durable=durable) as batch:
                batch.publish("out", message.value[:9])
                batch.commit(self.consumer)
            self.counts["commits"] += 1
        return found

    def in_the_group(self, now, durable):
        found = self.group.get(2)  # it tells nobody what it had done before
        assert [d.value for d in found] == list(now["left"][:2])
        if found:
            self.begin(left=now["left"][len(found) :])
            self.group.ack(*found, durable=durable)
            self.counts["acks"] += len(found)
        return found


def retained(values):
    """The newest of them that have so many bytes."""
    while sum(map(len, values)) > OUT_BYTES:
        values = values[1:]
    return values


def after(files):
    """What is there after the crash; the log works and is sound."""
    with opened(files) as store:
        found = shown(store)
        store.publish("in", b"after the cut")
        store.checkpoint()
        store.check()
        trouble = store.stats()["trouble"]
    with opened(files) as store:
        assert [m.value for m in store.consume_from("in")] == [*found["in"], b"after the cut"]
        group = store.group("g", "in", start=store.bounds("in")[0])
        got = [d.value for d in group.get(1000)]
        if found["left"]:
            assert got == [*found["left"], b"after the cut"]
    assert trouble == [], "an ordinary crash looks like damage"
    return found


@pytest.mark.parametrize("policy", [FsyncPolicy.OS, FsyncPolicy.ALWAYS], ids=["os", "always"])
def test_a_power_cut_after_every_operation(policy, record_property):
    counts: Counter[str] = Counter()
    run = 0
    while counts["images"] < cases(500):
        rng = random.Random(f"messages {policy} {run}")
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
            program.run(20)
        files.on_operation = files.during_sync = None
        for number, (what, allowed, images) in enumerate(shots):
            for image in images:
                counts["images"] += 1
                counts["snapshots"] += any(".snap" in path for path in image.contents())
                found = after(image)
                assert found in allowed, f"run {run}, moment {number}, {what}: {found}"
        counts["moments"] += len(shots)
        counts += program.counts
        run += 1
    record_property("counts", dict(counts))
    print(f"\nmessage log, {policy}: {run} runs, {dict(counts)}")
    assert counts["snapshots"] and counts["commits"] and counts["acks"]


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_every_call_of_the_disk_fails_once(number):
    """The log then shows what had been acknowledged, at most with the one call under way."""
    counts: Counter[str] = Counter()
    for nth in range(1, 400, 1 if cases(10) == 10 else 5):
        memory = MemoryFiles()
        files = FaultyFiles(memory)
        program = Program(files, random.Random(5), FsyncPolicy.OS)
        fault = files.fail(lambda call: call.modifies, number=number, nth=nth)
        try:
            with repeatable(program.rng):
                program.run(40)
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
    print(f"\nmessage log, errno {number}: {dict(counts)}")
    assert counts["calls"] > 20


def live_on(program, error):
    """What a program does that goes on after the error."""
    store = program.store
    if store is None:
        return
    with contextlib.suppress(TreeringError):
        assert shown(store) in program.states[-2:]
    abandon(store._fold.wal)
