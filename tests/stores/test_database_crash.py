"""A database on disks that fail and lose power: what belongs together is there together."""

from __future__ import annotations

import errno

import pytest

from tests.crash._scale import cases
from tests.stores._crashing import OPTIONS, Program, failing_calls, power_cuts
from treering import Database, FsyncPolicy

NAMES = ("from", "to", "log")


class Transfers(Program):
    """Money moves between two stores, and a third one counts the moves."""

    start = ({}, {}, {})

    @staticmethod
    def opened(files, policy=FsyncPolicy.OS):
        return Database("/db", files=files, fsync_policy=policy, **OPTIONS)

    @staticmethod
    def seen(db):
        there = db.stores()
        shown = tuple(dict(db.kv(name)) if name in there else {} for name in NAMES)
        moved = -sum(int(store.get(b"n", 0)) for store in shown[:1])
        assert moved == int(shown[1].get(b"n", 0)), "money was lost or made"
        return shown

    @classmethod
    def go_on(cls, db):
        db.kv("log")[b"after"] = b"the cut"

    def step(self, chance):
        db, rng = self.store, self.rng
        source, target, log = (dict(state) for state in self.states[-1])
        durable = rng.random() < 0.2 or self.always
        if chance < 0.6:
            stores = [db.kv(name) for name in NAMES]
            amount = rng.randrange(1, 100)
            source[b"n"] = b"%d" % (int(source.get(b"n", 0)) - amount)
            target[b"n"] = b"%d" % (int(target.get(b"n", 0)) + amount)
            log[b"%d" % len(log)] = b"x" * rng.choice((1, 300))
            self.begin((source, target, log))
            with db.transaction(durable=durable or None):
                stores[0].increment(b"n", -amount)
                stores[2][b"%d" % (len(log) - 1)] = log[b"%d" % (len(log) - 1)]
                stores[1].increment(b"n", amount)
        elif chance < 0.7:
            log[b"alone"] = b"%d" % rng.randrange(100)
            self.begin((source, target, log))
            db.kv("log").put(b"alone", log[b"alone"], sync=durable)
        elif chance < 0.8:
            logged = db.kv("log")
            with pytest.raises(ZeroDivisionError), db.transaction():
                logged.clear()
                raise ZeroDivisionError
            return False
        elif chance < 0.93:
            db.checkpoint()
            return True
        else:
            self.reopen()
        return durable


@pytest.mark.parametrize("policy", [FsyncPolicy.OS, FsyncPolicy.ALWAYS], ids=["os", "always"])
def test_a_power_cut_after_every_operation(policy, record_property):
    record_property("counts", dict(power_cuts(Transfers, policy, cases(600))))


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_every_call_of_the_disk_fails_once(number):
    failing_calls(Transfers, number, step=2)
