"""The job queue on disks that fail and lose power: no acknowledged job comes back, none is lost."""

from __future__ import annotations

import errno
from typing import ClassVar

import pytest

from tests.crash._scale import cases
from tests.stores._crashing import OPTIONS, Program, failing_calls, power_cuts
from treering import FsyncPolicy, TreeringError
from treering.stores.jobs import JobQueue
from treering.testing import FakeClock

# The stores are Python in either build: once is enough.
pytestmark = pytest.mark.slow

SECOND = 1_000_000_000
LEASE = 10


class JobProgram(Program):
    """A state is what the queue says of its jobs, but for what follows from the time."""

    start: ClassVar = {}
    left = 3  # a death, and the lease after it, are two records of one call

    def __init__(self, files, rng, policy):
        super().__init__(files, rng, policy)
        self.clock = FakeClock()
        self.hands = []

    def opened(self, files, policy=FsyncPolicy.OS):
        options = {**OPTIONS, "attempts_max": 2, "clock": self.clock}
        return JobQueue("/jobs", files=files, fsync_policy=policy, **options)

    def seen(self, store):
        return {
            job.id: (
                job.body,
                job.key,
                job.attempt,
                job.token,
                round(job.due_at, 3),
                job.expires_at and round(job.expires_at, 3),
                job.reason,
                job.error,
            )
            for job in store.jobs()
        }

    def go_on(self, store):
        store.put(b"after the cut")

    def now(self):
        return round(self.clock() / SECOND, 3)

    def step(self, chance):
        durable = self.rng.random() < 0.2 or self.always
        self.clock.advance(self.rng.choice((1, 1, 1, LEASE + 1)))
        model = dict(self.states[-1])
        if chance < 0.35:
            durable = self.put(model, durable)
        elif chance < 0.55:
            self.get(model)
            durable = False
        elif chance < 0.8 and self.hands:
            durable = self.finish(model, durable)
        elif chance < 0.84 and model:
            id = self.rng.choice(list(model))
            del model[id]
            self.hands = [job for job in self.hands if job.id != id]
            self.begin(model)
            self.store.cancel(id, durable=durable)
        elif chance < 0.93:
            self.store.checkpoint()
            durable = True
        elif chance < 0.97:
            self.reopen()
            return True
        else:
            return False
        return durable

    def put(self, model, durable):
        body = b"%d" % self.rng.randrange(1000) * self.rng.choice((1, 60))
        key = b"k%d" % self.rng.randrange(3) if self.rng.random() < 0.4 else None
        id = self.store.position
        new = key is None or not any(job[1] == key and job[6] is None for job in model.values())
        if new:
            model[id] = (body, key, 0, 0, self.now(), None, None, "")
        self.begin(model)
        self.store.put(body, key=key, durable=durable)
        return durable and new  # the job that was there may be older than other changes

    def get(self, model):
        """The position, and the deaths of jobs before, are the model's own guess."""
        token, now = self.store.position, self.now()
        ready = sorted(
            (job[4], id)
            for id, job in model.items()
            if job[6] is None and (job[5] if job[3] else job[4]) <= now
        )
        for _, id in ready:
            body, key, attempt, _, due, _, _, error = model[id]
            if attempt == 2 and model[id][3]:
                model[id] = (body, key, attempt, 0, due, None, "expired", error)
                token += 1
                self.begin(dict(model))  # a death of its own
                continue
            model[id] = (body, key, attempt + 1, token, due, now + LEASE, None, error)
            break
        self.begin(model)
        job = self.store.get(lease=LEASE)
        if job is not None:
            self.hands.append(job)

    def finish(self, model, durable):
        job = self.hands.pop(self.rng.randrange(len(self.hands)))
        if job.id not in model or model[job.id][3] != job.token:
            with pytest.raises(TreeringError):
                self.store.ack(job)
            return False
        body, key, attempt, _, due, _, _, _ = model[job.id]
        if self.rng.random() < 0.6:
            del model[job.id]
            self.begin(model)
            self.store.ack(job, durable=durable)
        else:
            dead = attempt == 2
            due = due if dead else self.now() + 5
            reason = "failed" if dead else None
            model[job.id] = (body, key, attempt, 0, due, None, reason, "why")
            self.begin(model)
            self.store.nack(job, 5, error="why", durable=durable)
        return durable


@pytest.mark.parametrize("policy", [FsyncPolicy.OS, FsyncPolicy.ALWAYS], ids=["os", "always"])
def test_a_power_cut_after_every_operation(policy, record_property):
    record_property("counts", dict(power_cuts(JobProgram, policy, cases(400), steps=25)))


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_every_call_of_the_disk_fails_once(number):
    failing_calls(JobProgram, number, step=2 if cases(10) >= 10 else 5, steps=60)
