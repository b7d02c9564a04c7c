"""The session store on disks that fail and lose power: who was logged out durably stays out, and
an id that was rotated and its heir are never both there."""

from __future__ import annotations

import errno
from typing import ClassVar

import pytest

from tests.crash._scale import SHARE, cases
from tests.stores._crashing import OPTIONS, Program, failing_calls, power_cuts
from tests.stores._interrupting import broken_off
from treering import FsyncPolicy
from treering.stores.sessions import SessionStore
from treering.testing import FakeClock, PowerCutFiles

# The stores are Python in either build: once is enough.
pytestmark = pytest.mark.slow

TERMS = {"idle": 100, "lifetime": 500, "touch_seconds": 10, "sweep_seconds": None}
USERS = ("ada", "alan", None)


class SessionProgram(Program):
    """A state maps the name of a session, which is in its data, to what the store shows of it; but
    for what follows from the time, which is always the same in the end: over."""

    start: ClassVar = {}

    def __init__(self, files, rng, policy):
        super().__init__(files, rng, policy)
        self.clock = FakeClock()
        self.ids = {}  # by name: the newest id, and those before it
        self.count = 0

    def opened(self, files, policy=FsyncPolicy.OS):
        options = {**OPTIONS, **TERMS, "clock": self.clock}
        return SessionStore("/sessions", files=files, fsync_policy=policy, **options)

    def seen(self, store):
        return {
            session.data["name"]: (
                session.data["n"],
                session.user,
                session.version,
                session.seen_at,
            )
            for session in store
        }

    def look_closer(self, store, found):
        for name, ids in self.ids.items():
            alive = [id for id in ids if id in store]
            assert len(alive) <= 1, "an id and its heir are both there"
            assert not alive or name in found

    def go_on(self, store):
        store.create({"name": "after the cut", "n": 0})

    def now(self):
        return self.clock() / 1e9

    def step(self, chance):
        store, rng = self.store, self.rng
        durable = rng.random() < 0.2 or self.always
        self.clock.advance(rng.choice((0, 1, 11)))
        model = dict(self.states[-1])
        name = rng.choice(sorted(model)) if model else None
        if chance < 0.3 or name is None:
            name, user = f"s{self.count}", rng.choice(USERS)
            self.count += 1
            data = {"name": name, "n": "x" * rng.choice((1, 200))}
            model[name] = (data["n"], user, 1, self.now())
            self.begin(model)
            self.ids[name] = [
                store.create(data, user=user, lifetime=10**6, idle=10**6, durable=durable).id
            ]
            return durable
        n, user, version, seen = model[name]
        id = self.ids[name][-1]
        if chance < 0.45:
            model[name] = ("saved", user, version + 1, self.now())
            self.begin(model)
            store.save(id, {"name": name, "n": "saved"}, durable=durable)
        elif chance < 0.55:
            if self.now() - seen < 10:
                return False
            model[name] = (n, user, version, self.now())
            self.begin(model)
            assert store.touch(id, durable=durable)
        elif chance < 0.68:
            user = rng.choice(USERS)
            model[name] = (n, user, version + 1, self.now())
            self.begin(model)
            self.ids[name].append(store.rotate(id, user=user, durable=durable).id)
        elif chance < 0.76:
            del model[name]
            self.begin(model)
            assert store.delete(id, durable=durable)
        elif chance < 0.84 and user is not None:
            self.begin({each: what for each, what in model.items() if what[1] != user})
            store.logout_everywhere(user, durable=durable)
        elif chance < 0.95:
            store.checkpoint()
            return True
        else:
            self.reopen()
            return True
        return durable


# Under BATCH, too, what is lost is a suffix: none of the states before the one last known durable.
POLICIES = [FsyncPolicy.OS, FsyncPolicy.ALWAYS, FsyncPolicy.batch(milliseconds=1000)]


@pytest.mark.parametrize("policy", POLICIES, ids=["os", "always", "batch"])
def test_a_power_cut_after_every_operation(policy, record_property):
    record_property("counts", dict(power_cuts(SessionProgram, policy, cases(160))))


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_every_call_of_the_disk_fails_once(number):
    failing_calls(SessionProgram, number, step=2 if cases(10) >= 10 else 5, steps=40)


ENDS = {
    "delete": lambda store, session, **how: store.delete(session, **how),
    "rotate": lambda store, session, **how: store.rotate(session, **how),
    "everywhere": lambda store, session, **how: store.logout_everywhere(session.user, **how),
}


@pytest.mark.parametrize("end", ENDS)
def test_only_what_was_ended_durably_is_sure_to_stay_over(end):
    """Under BATCH a power cut within the window may undo a logout, unless it was waited for."""
    files = PowerCutFiles()
    options = {**OPTIONS, **TERMS, "fsync_policy": FsyncPolicy.batch(milliseconds=1000)}
    store = SessionStore("/sessions", files=files, **options)
    surely, perhaps = (store.create("x" * 300, user=user, durable=True) for user in ("ada", "alan"))
    ENDS[end](store, surely, durable=True)
    ENDS[end](store, perhaps)
    assert surely.id not in store and perhaps.id not in store
    found = set()
    for image in files.images(40, 5):
        with SessionStore("/sessions", files=image, **options) as after:
            assert surely.id not in after
            found.add(perhaps.id in after)
            after.check()
    assert found == {True, False}
    store.close()


# --- Interrupts ---


class Known(SessionProgram):
    """Its sessions are found by user."""

    def seen(self, store):
        return {
            (session.data["name"], session.data["n"], session.user, session.version)
            for session in store
        }


def some_sessions(store):
    for number in range(6):
        store.create({"name": f"s{number}", "n": 0}, user=f"u{number % 2}")
    store.sessions("u1")


def named(store, name):
    return next(session for session in store if session.data["name"] == name)


def create(store):
    store.create({"name": "new", "n": 0})


def save(store):
    store.save(named(store, "s1"), {"name": "s1", "n": 1})


def rotate(store):
    store.rotate(named(store, "s1"), user="alan")


def logout(store):
    store.logout_everywhere("u0")


def delete(store):
    store.delete(named(store, "s2"))


def one_more(store):
    store.create({"name": "theirs", "n": 0}, user="u1")


@pytest.mark.parametrize("call", [create, save, rotate, logout, delete])
def test_interrupts(call):
    counts = broken_off(Known, some_sessions, call, round(5 / SHARE), one_more)
    assert counts["broken off"] >= 5
