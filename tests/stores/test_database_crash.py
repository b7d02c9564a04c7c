"""A database on disks that fail and lose power: what belongs together is there together."""

from __future__ import annotations

import errno

import pytest

from tests.crash._scale import cases
from tests.stores._crashing import OPTIONS, Program, failing_calls, power_cuts
from treering import Database, FsyncPolicy
from treering.stores.events import Event

# The stores are Python in either build: once is enough.
pytestmark = pytest.mark.slow

NAMES = ("from", "to", "log")


class Transfers(Program):
    """Money moves between two stores; a log, a job, an event and a message tell of each move. A
    state is what the key-value stores show."""

    start = ({}, {}, {})

    def opened(self, files, policy=FsyncPolicy.OS):
        return Database("/db", files=files, fsync_policy=policy, **OPTIONS)

    def seen(self, db):
        there = db.stores()
        return tuple(dict(db.kv(name)) if name in there else {} for name in NAMES)

    def look_closer(self, db, found):
        source, target, log = found
        assert -int(source.get(b"n", 0)) == int(target.get(b"n", 0)), "money was lost or made"
        moves = {key for key in log if key.isdigit()}
        told = {}
        if "mail" in db.stores():
            told["jobs"] = [job.body for job in db.queue("mail").jobs()]
        if "moved" in db.stores():
            told["events"] = [event.raw for event in db.events("moved").read_all()]
        if "news" in db.stores():
            told["messages"] = [each.value for each in db.messages("news").consume_from("moves")]
        for kind, said in told.items():
            assert sorted(said) == sorted(moves), f"the {kind} tell another story"

    def go_on(self, db):
        db.kv("log")[b"after"] = b"the cut"

    def step(self, chance):
        db, rng = self.store, self.rng
        source, target, log = (dict(state) for state in self.states[-1])
        durable = rng.random() < 0.2 or self.always
        if chance < 0.6:
            self.transfer(source, target, log, durable)
        elif chance < 0.7:
            log[b"alone"] = b"%d" % rng.randrange(100)
            self.begin((source, target, log))
            db.kv("log").put(b"alone", log[b"alone"], sync=durable)
        elif chance < 0.8:
            logged, mail = db.kv("log"), db.queue("mail")
            with pytest.raises(ZeroDivisionError), db.transaction():
                logged.clear()
                mail.put(b"no")
                raise ZeroDivisionError
            return False
        elif chance < 0.93:
            db.checkpoint()
            return True
        else:
            self.reopen()
        return durable

    def transfer(self, source, target, log, durable):
        db, amount = self.store, self.rng.randrange(1, 100)
        stores, mail = [db.kv(name) for name in NAMES], db.queue("mail")
        events, news = db.events("moved"), db.messages("news")
        move = b"%d" % sum(key.isdigit() for key in log)
        source[b"n"] = b"%d" % (int(source.get(b"n", 0)) - amount)
        target[b"n"] = b"%d" % (int(target.get(b"n", 0)) + amount)
        log[move] = b"x" * self.rng.choice((1, 300))
        self.begin((source, target, log))
        with db.transaction(durable=durable or None):
            stores[0].increment(b"n", -amount)
            mail.put(move)
            stores[2][move] = log[move]
            events.append("moves", Event("moved", move))
            stores[1].increment(b"n", amount)
            news.publish("moves", move)


@pytest.mark.parametrize("policy", [FsyncPolicy.OS, FsyncPolicy.ALWAYS], ids=["os", "always"])
def test_a_power_cut_after_every_operation(policy, record_property):
    record_property("counts", dict(power_cuts(Transfers, policy, cases(250), steps=14)))


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_every_call_of_the_disk_fails_once(number):
    failing_calls(Transfers, number, step=3)
