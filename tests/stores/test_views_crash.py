"""A log with a kept index and a view, on disks that fail and lose power."""

from __future__ import annotations

import errno
from contextlib import ExitStack
from typing import ClassVar

import pytest

from tests.battery.harness import abandon
from tests.crash._scale import SHARE, cases
from tests.stores._crashing import Program, failing_calls, power_cuts
from tests.stores._interrupting import broken_off
from treering import FsyncPolicy, Wal
from treering.stores.views import Index, View, view

# The stores are Python in either build: once is enough.
pytestmark = pytest.mark.slow

KEYS = [b"k%d" % n for n in range(6)]
LOG = {"segment_bytes_max": 2048}
# Three logs are opened for each image: few steps, unless there is time.
STEPS = 4 if SHARE <= 1 else 18


@view("same")
def same(view, record):
    """What the log comes to, once more."""
    view["#"] = view.get("#", 0) + 1
    if record.tombstone:
        view.pop(record.key.decode(), None)
    else:
        view[record.key.decode()] = bytes(record.value).decode()


class Followed:
    """A log, its index and its view, opened and closed together."""

    def __init__(self, files, policy):
        with ExitStack() as stack:
            self.wal = stack.enter_context(
                Wal.open("/log", files=files, fsync_policy=policy, **LOG)
            )
            self.index = stack.enter_context(Index(self.wal, "/index", files=files))
            self.view = stack.enter_context(
                View(self.wal, "/view", same, files=files, segment_bytes_max=2048)
            )
            self._stack = stack.pop_all()

    def seen(self):
        return dict(self.index.items())

    def stats(self):
        return {"trouble": [*self.index.trouble, *self.view.trouble]}

    def check(self):
        self.index.check()
        self.view.check()

    def checkpoint(self):
        self.index.checkpoint()
        self.view.checkpoint()

    @property
    def closed(self):
        return self.wal.closed

    def close(self):
        self._stack.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class FollowedProgram(Program):
    start: ClassVar = {}
    seen = staticmethod(Followed.seen)

    def opened(self, files, policy=FsyncPolicy.OS):
        return Followed(files, policy)

    def open(self):
        super().open()
        self.store.checkpoint()
        self.marks = {}

    def abandon(self):
        abandon(self.store.wal)
        abandon(self.store.index._keeping.wal)
        abandon(self.store.view._fold.wal)

    def go_on(self, store):
        store.wal.put(b"after", b"the cut")

    def look_closer(self, store, found):
        """The view comes to the same, and has seen each record once."""
        viewed, wal = store.view, store.wal
        viewed.catch_up()
        state = viewed._begun(viewed._fold.state().mark)
        shown = dict(viewed.view)
        count = shown.pop("#", 0)
        assert count == state.reached - state.began == wal.current_position() - state.began
        assert {key.encode(): value.encode() for key, value in shown.items()} == found

    def step(self, chance):
        store, rng, model = self.store, self.rng, dict(self.states[-1])
        wal = store.wal
        key, value = rng.choice(KEYS), b"%d" % rng.randrange(1, 1000) * rng.choice((1, 90))
        durable = rng.random() < 0.2 or self.always
        self.marks[wal.current_position()] = model
        if chance < 0.4:
            self.begin({**model, key: value})
            wal.put(key, value, durable=durable)
        elif chance < 0.5:
            self.begin({k: v for k, v in model.items() if k != key})
            wal.delete(key, durable=durable)
        elif chance < 0.65:
            chosen = rng.sample(KEYS, 3)
            self.begin({**model, **dict.fromkeys(chosen, value)})
            wal.append_batch([(each, value) for each in chosen], durable=durable)
        elif chance < 0.75:
            store.view.catch_up(rng.choice((1, None)))
            return False  # what it took in is durable now, but perhaps not all there is
        elif chance < 0.8:
            store.view.checkpoint()
            return False
        elif chance < 0.87:
            store.index.checkpoint()
            return True
        elif chance < 0.91:
            store.view.catch_up()
            store.view.sync()  # what power loss takes from it, the log would not have any more
            store.index.compact(wal)
            self.marks = {}
            return True
        elif chance < 0.95:
            return self._take_back()
        else:
            self.reopen()
        return durable

    def _take_back(self):
        """Only what no view has seen: else the view is made anew, and says so."""
        wal, reached = self.store.wal, self.store.view.reached
        least = max(reached, self.store.index.stats()["kept"])
        places = [at for at in self.marks if least <= at < wal.current_position()]
        if places:
            at = self.rng.choice(places)
            self.begin(self.marks[at])
            wal.truncate_after(at)
            self.marks = {place: seen for place, seen in self.marks.items() if place <= at}
            return True
        return False


@pytest.mark.parametrize("policy", [FsyncPolicy.OS, FsyncPolicy.ALWAYS], ids=["os", "always"])
def test_a_power_cut_after_every_operation(policy, record_property):
    record_property("counts", dict(power_cuts(FollowedProgram, policy, cases(100), STEPS)))


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_every_call_of_the_disk_fails_once(number):
    failing_calls(FollowedProgram, number, step=14 if SHARE <= 1 else 2)


def some_keys(followed):
    for number in range(8):
        followed.wal.put(b"%d" % number, b"v" * 200)


def two_more(followed):
    followed.wal.append_batch([(b"5", b"theirs"), (b"n", b"1")])
    followed.wal.delete(b"6")


def look(followed):
    followed.index.keys()


def compact(followed):
    followed.index.compact(followed.wal)


def keep(followed):
    followed.index.checkpoint()


def run(followed):
    followed.view.catch_up()


@pytest.mark.parametrize("call", [look, compact, keep, run])
def test_a_call_that_is_broken_off(call):
    """Ctrl-C or no memory in its middle changes nothing of what the index and the log say."""
    share = {look: 20, compact: 60, keep: 60, run: 60}[call]
    counts = broken_off(FollowedProgram, some_keys, call, round(share / SHARE), two_more)
    assert counts["broken off"] >= 5
