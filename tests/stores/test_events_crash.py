"""The event store and a projection on disks that fail and lose power: no acknowledged event lost,
none invented, and the view is that of a prefix of the events, each taken in once."""

from __future__ import annotations

import errno
from typing import ClassVar

import pytest

from tests.battery.harness import abandon
from tests.crash._scale import cases
from tests.stores._crashing import OPTIONS, Program, failing_calls, power_cuts
from treering import FsyncPolicy
from treering.stores.events import Event, EventStore

# The stores are Python in either build: once is enough.
pytestmark = pytest.mark.slow

STREAMS = ["a", "b", "c"]


def tally(view, event):
    view["n"] = view.get("n", 0) + 1
    view["sum"] = view.get("sum", 0) + event.data
    view["last"] = [event.position, "." * 100]


class EventProgram(Program):
    """A state is the list of the events' (stream, data)."""

    start: ClassVar = []
    projection = None
    views = 0  # how many images had a view that knew some events

    def opened(self, files, policy=FsyncPolicy.OS):
        return EventStore("/events", files=files, fsync_policy=policy, **OPTIONS)

    def seen(self, store):
        return [(event.stream, event.data) for event in store.read_all()]

    def go_on(self, store):
        store.append("a", Event("after", 1))

    def open(self):
        super().open()
        self.projection = self.store.projection("tally", tally, **OPTIONS)

    def abandon(self):
        super().abandon()
        if self.projection is not None and not self.projection.closed:
            abandon(self.projection._fold.wal)

    def step(self, chance):
        store, rng, history = self.store, self.rng, self.states[-1]
        stream, data = rng.choice(STREAMS), rng.randrange(1000)
        durable = rng.random() < 0.15 or self.always
        if chance < 0.6:
            count = rng.choice((1, 1, 1, 2, 4))
            events = [
                Event("t" * rng.choice((1, 200)), data + n, id=f"{len(history) + n}")
                for n in range(count)
            ]
            mine = sum(1 for name, _ in history if name == stream)
            self.begin([*history, *((stream, data + n) for n in range(count))])
            store.append(stream, events, expected_version=mine - 1, durable=durable)
            if rng.random() < 0.3:  # again, as after a lost answer
                assert store.append(stream, events).first_version == mine
            return durable
        if chance < 0.65 and store.version(stream) >= 0:
            store.save_snapshot(stream, store.version(stream), data)
        elif chance < 0.84:
            self.projection.catch_up()
            assert self.projection.view.get("n", 0) == len(history)
        elif chance < 0.95:
            store.checkpoint()
            return True
        else:
            self.reopen()
        return False

    def look_closer(self, store, found):
        with store.projection("tally", tally, **OPTIONS) as projection:
            view = dict(projection.view)
            count = view.get("n", 0)
            assert count <= len(found), "the view knows events that are not there"
            assert view.get("sum", 0) == sum(data for _, data in found[:count])
            assert projection.position <= store.position
            positions = [event.position for event in store.read_all()]
            assert sum(1 for at in positions if at < projection.position) == count
            projection.catch_up()
            assert projection.view.get("n", 0) == len(found), "not each event once"
            assert projection.view.get("sum", 0) == sum(data for _, data in found)
        type(self).views += count > 0


@pytest.mark.parametrize("policy", [FsyncPolicy.OS, FsyncPolicy.ALWAYS], ids=["os", "always"])
def test_a_power_cut_after_every_operation(policy, record_property):
    before = EventProgram.views
    record_property("counts", dict(power_cuts(EventProgram, policy, cases(200), steps=16)))
    assert EventProgram.views > before


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_every_call_of_the_disk_fails_once(number):
    failing_calls(EventProgram, number, step=4 if cases(10) >= 10 else 9)
