"""The metrics log on disks that fail and lose power, and calls that are broken off."""

from __future__ import annotations

import errno

import pytest

from tests.crash._scale import SHARE, cases
from tests.stores._crashing import OPTIONS, Program, failing_calls, power_cuts
from tests.stores._interrupting import broken_off
from treering import FsyncPolicy
from treering.stores.metrics import MetricsLog
from treering.testing import FakeClock

# The stores are Python in either build: once is enough.
pytestmark = pytest.mark.slow

S = 1_000_000_000
NOW = 1_800_000_000 * S
STEP, KEPT = 10, 200


class MetricsProgram(Program):
    """Every point has an interval of its own and the time of its beginning: so whatever is rolled
    up, dropped or merged, `range` shows the same."""

    start = ()

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.clock = FakeClock(NOW)

    def opened(self, files, policy=FsyncPolicy.OS):
        return MetricsLog(
            "/m",
            files=files,
            clock=self.clock,
            fsync_policy=policy,
            retention=KEPT,
            rollups=[(STEP, None), (10 * STEP, None)],
            **OPTIONS,
        )

    def seen(self, store):
        return tuple(sorted((time, value) for time, value in store.range("x")))

    def look_closer(self, store, found):
        store.rollup()
        assert self.seen(store) == found
        closed = [p for p in found if p[0] + STEP * S <= self.clock()]
        assert [(b.start, b.mean) for b in store.buckets("x", STEP)] == closed
        tens = store.buckets("x", 10 * STEP)
        upto = self.clock() - self.clock() % (10 * STEP * S)
        assert sum(b.count for b in tens) == sum(p[0] < upto for p in found)

    def go_on(self, store):
        store.record("y", 1)

    def times(self, count):
        """The beginnings of the next intervals, out of order."""
        first = self.clock() - self.clock() % (STEP * S)
        self.clock.advance(STEP * count)
        times = [first + n * STEP * S for n in range(count)]
        self.rng.shuffle(times)
        return times

    def step(self, chance):
        store, rng, durable = self.store, self.rng, self.rng.random() < 0.2
        if chance < 0.35:
            (time,) = self.times(1)
            self.add([(time, float(rng.randrange(9)))])
            store.record(
                "x", self.new[0][1], {"host": rng.choice("ab")}, time, durable=durable or None
            )
        elif chance < 0.5:
            self.add([(time, float(rng.randrange(9))) for time in self.times(rng.randint(2, 60))])
            times, values = zip(*self.new, strict=True)
            store.series("x", host="a").record_many(times, values, durable=durable or None)
        elif chance < 0.65:
            self.add([(time, float(rng.randrange(9))) for time in self.times(6)])
            points = [("x", value, {"host": rng.choice("abc")}, time) for time, value in self.new]
            store.record_many(points, durable=durable or None)
        elif chance < 0.72:
            store.compact()
            return self.always
        elif chance < 0.8:
            store.rollup()
            return self.always
        elif chance < 0.93:
            store.checkpoint()
            return True
        elif chance < 0.96:
            store.sync()
            return True
        else:
            self.reopen()
        return durable or self.always

    def add(self, new):
        self.new = new
        self.begin(tuple(sorted([*self.states[-1], *new])))


@pytest.mark.parametrize("policy", [FsyncPolicy.OS, FsyncPolicy.ALWAYS], ids=["os", "always"])
def test_a_power_cut_after_every_operation(policy, record_property):
    record_property("counts", dict(power_cuts(MetricsProgram, policy, cases(100), steps=7)))


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_every_call_of_the_disk_fails_once(number):
    failing_calls(MetricsProgram, number, step=5 if cases(10) >= 10 else 9)


# --- Calls that are broken off ---


def some_points(store):
    clock = store._clock
    clock.set(NOW)
    for n in range(12):
        store.record("x", n, time=NOW + n * STEP * S)
    clock.set(NOW + 100 * STEP * S)


def record(store):
    store.record("x", 7, {"host": "new"}, time=NOW + 50 * STEP * S)


def record_many(store):
    times = [NOW + (90 - n) * STEP * S for n in range(20)]
    store.record_many([("x", n, {"host": str(n % 2)}, time) for n, time in enumerate(times)])


def roll_up(store):
    store.rollup()


def merge(store):
    store.compact()


def checkpoint(store):
    store.checkpoint()


def look(store):
    store.aggregate("x", None, None, STEP, "p50")


def one_more(store):
    store.record("x", 3, time=NOW + 70 * STEP * S)


@pytest.mark.parametrize("call", [record, record_many, roll_up, merge, checkpoint, look])
def test_a_call_that_is_broken_off(call):
    share = {checkpoint: 160, roll_up: 120, merge: 40, record_many: 30}.get(call, 20)
    counts = broken_off(MetricsProgram, some_points, call, round(share / SHARE), one_more)
    assert counts["broken off"] >= 5
