"""The message log on disks that fail and lose power: a commit is there with the messages of its
batch, an acknowledged message does not come again, none is lost or invented."""

from __future__ import annotations

import errno
from collections import Counter
from typing import ClassVar

import pytest

from tests.crash._scale import cases
from tests.stores._crashing import OPTIONS, Program, failing_calls, power_cuts
from treering import FsyncPolicy
from treering.stores.messages import MessageLog

# The stores are Python in either build: once is enough.
pytestmark = pytest.mark.slow

OUT_BYTES = 60
COUNTS: Counter[str] = Counter()


class MessageProgram(Program):
    """A state is what the log comes to, for whoever uses it."""

    start: ClassVar = {"in": (), "out": (), "table": {}, "done": None, "left": ()}
    number = 0

    def opened(self, files, policy=FsyncPolicy.OS):
        return MessageLog("/log", files=files, fsync_policy=policy, **OPTIONS)

    def seen(self, log):
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

    def open(self):
        super().open()
        store, now = self.store, self.states[-1]
        if now["done"] is None:
            store.set_retention("table", compact=True)
            store.set_retention("out", bytes=OUT_BYTES)
            self.begin(now | {"done": 0})
        self.consumer = store.consumer("c", "in")
        self.group = store.group("g", "in", lease=1e-9)

    def change(self, **changes):
        self.begin({**self.states[-1], **changes})

    def go_on(self, store):
        store.publish("in", b"after the cut")

    def look_closer(self, store, found):
        if found["left"] and found["in"][-1] == b"after the cut":
            group = store.group("g", "in")
            assert [message.value for message in group.get(1000)] == list(found["left"])

    def value(self):
        self.number += 1
        return b"%d" % self.number * self.rng.choice((1, 1, 60))

    def step(self, chance):
        store, now = self.store, self.states[-1]
        sync = self.rng.random() < 0.2
        durable = sync or None
        if chance < 0.25:
            value = self.value()
            self.change(**{"in": (*now["in"], value), "left": (*now["left"], value)})
            store.publish("in", value, durable=durable)
        elif chance < 0.35:
            many = [self.value() for _ in range(3)]
            self.change(**{"in": (*now["in"], *many), "left": (*now["left"], *many)})
            store.publish_many("in", many, durable=durable)
        elif chance < 0.5:
            key, value = self.rng.choice((b"k", b"l")), self.value()
            self.change(table={**now["table"], key: value})
            store.publish("table", value, key, durable=durable)
        elif chance < 0.65:
            sync = self.exactly_once(now, durable) and sync
        elif chance < 0.8:
            sync = self.in_the_group(now, durable) and sync
        elif chance < 0.95:
            self.change(out=retained(now["out"]))
            store.checkpoint()
            sync = True
        else:
            self.reopen()
        return sync or self.always

    def exactly_once(self, now, durable):
        self.consumer.resume()
        found = self.consumer.poll(1)
        for message in found:
            self.change(out=(*now["out"], message.value[:9]), done=now["done"] + 1)
            with self.store.batch(durable=durable) as batch:
                batch.publish("out", message.value[:9])
                batch.commit(self.consumer)
            COUNTS["commits"] += 1
        return found

    def in_the_group(self, now, durable):
        found = self.group.get(2)  # it tells nobody what it had done before
        assert [d.value for d in found] == list(now["left"][:2])
        if found:
            self.change(left=now["left"][len(found) :])
            self.group.ack(*found, durable=durable)
            COUNTS["acks"] += len(found)
        return found


def retained(values):
    """The newest of them that have so many bytes."""
    while sum(map(len, values)) > OUT_BYTES:
        values = values[1:]
    return values


@pytest.mark.parametrize("policy", [FsyncPolicy.OS, FsyncPolicy.ALWAYS], ids=["os", "always"])
def test_a_power_cut_after_every_operation(policy, record_property):
    COUNTS.clear()
    record_property("counts", dict(power_cuts(MessageProgram, policy, cases(250), steps=20)))
    assert COUNTS["commits"] and COUNTS["acks"]


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_every_call_of_the_disk_fails_once(number):
    failing_calls(MessageProgram, number, step=2 if cases(10) >= 10 else 5, steps=40)
