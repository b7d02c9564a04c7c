"""The job queue on disks that fail and lose power, through its own calls, with checkpoints.

What a call reported as durable is there after the cut; what no call had begun is not; a call that
was under way happened or did not, as a whole. So no acknowledged job comes back, no job is lost.
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
from treering.stores.jobs import JobQueue
from treering.testing import FakeClock, MemoryFiles, PowerCutFiles
from treering.testing import FaultyFiles as Faulty

OPTIONS = {"segment_bytes_max": 2048, "checkpoint_bytes": None, "attempts_max": 2}
SECOND = 1_000_000_000
LEASE = 10


def opened(files, clock, policy=FsyncPolicy.OS):
    return JobQueue("/jobs", files=files, clock=clock, fsync_policy=policy, **OPTIONS)


def shown(queue):
    """All that a queue says of its jobs, but for what follows from the time."""
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
        for job in queue.jobs()
    }


class Program:
    """A random program on a queue, its model, and the states that a crash may leave: `states` since
    the one that is known to be durable, the newest last."""

    def __init__(self, files, rng, policy):
        self.files, self.rng, self.policy = files, rng, policy
        self.clock = FakeClock()
        self.states: list[dict] = [{}]
        self.queue = None
        self.hands = []

    def begin(self, model):
        self.states.append(model)

    def durable(self):
        del self.states[:-1]

    def run(self, steps):
        self.queue = opened(self.files, self.clock, self.policy)
        for _ in range(steps):
            self.step(self.rng.random())
        self.queue.close()
        self.durable()

    def now(self):
        return round(self.clock() / SECOND, 3)

    def step(self, chance):
        always = self.policy == FsyncPolicy.ALWAYS
        durable = self.rng.random() < 0.2 or always
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
            self.queue.cancel(id, durable=durable)
        elif chance < 0.93:
            self.queue.checkpoint()
            durable = True
        elif chance < 0.97:
            self.queue.close()
            self.durable()
            self.queue = opened(self.files, self.clock, self.policy)
            durable = True
        else:
            return
        if durable:
            self.durable()
        assert shown(self.queue) == self.states[-1]

    def put(self, model, durable):
        body = b"%d" % self.rng.randrange(1000) * self.rng.choice((1, 60))
        key = b"k%d" % self.rng.randrange(3) if self.rng.random() < 0.4 else None
        id = self.queue.position
        new = key is None or not any(job[1] == key and job[6] is None for job in model.values())
        if new:
            model[id] = (body, key, 0, 0, self.now(), None, None, "")
        self.begin(model)
        self.queue.put(body, key=key, durable=durable)
        return durable and new  # the job that was there may be older than other changes

    def get(self, model):
        """The position, and the deaths of jobs before, are the model's own guess."""
        token, now = self.queue.position, self.now()
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
        job = self.queue.get(lease=LEASE)
        if job is not None:
            self.hands.append(job)

    def finish(self, model, durable):
        job = self.hands.pop(self.rng.randrange(len(self.hands)))
        if job.id not in model or model[job.id][3] != job.token:
            with pytest.raises(TreeringError):
                self.queue.ack(job)
            return False
        body, key, attempt, _, due, _, _, _ = model[job.id]
        if self.rng.random() < 0.6:
            del model[job.id]
            self.begin(model)
            self.queue.ack(job, durable=durable)
        else:
            dead = attempt == 2
            due = due if dead else self.now() + 5
            reason = "failed" if dead else None
            model[job.id] = (body, key, attempt, 0, due, None, reason, "why")
            self.begin(model)
            self.queue.nack(job, 5, error="why", durable=durable)
        return durable


def after(image, clock):
    """What a restart shows, and shows again after one more checkpoint."""
    with opened(image, clock) as queue:
        found = shown(queue)
        trouble = queue.stats()["trouble"]
        queue.check()
        queue.put(b"after the cut")
        before = shown(queue)
        queue.checkpoint()
    with opened(image, clock) as queue:
        assert shown(queue) == before and len(before) == len(found) + 1
        queue.check()
    assert trouble == [], "an ordinary crash looks like damage"
    return found


@pytest.mark.parametrize("policy", [FsyncPolicy.OS, FsyncPolicy.ALWAYS], ids=["os", "always"])
def test_a_power_cut_after_every_operation(policy, record_property):
    counts: Counter[str] = Counter()
    run = 0
    while counts["images"] < cases(900):
        rng = random.Random(f"jobs {policy} {run}")
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
            program.run(25)
        files.on_operation = files.during_sync = None
        for number, (what, allowed, images) in enumerate(shots):
            for image in images:
                counts["snapshots"] += any(".snap" in path for path in image.contents())
                found = after(image, program.clock)
                assert found in allowed, f"run {run}, moment {number}, {what}: {found}"
                counts["images"] += 1
                counts["jobs"] += len(found)
        counts["moments"] += len(shots)
        run += 1
    record_property("counts", dict(counts))
    print(f"\njob queue, {policy}: {run} runs, {dict(counts)}")
    assert counts["images"] > counts["snapshots"] > 0 < counts["jobs"]


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_every_call_of_the_disk_fails_once(number):
    """The queue then shows what had been acknowledged, at most with the one call under way."""
    counts: Counter[str] = Counter()
    for nth in range(1, 400, 1 if cases(10) == 10 else 5):
        memory = MemoryFiles()
        files = Faulty(memory)
        program = Program(files, random.Random(7), FsyncPolicy.OS)
        fault = files.fail(lambda call: call.modifies, number=number, nth=nth)
        try:
            with repeatable(program.rng):
                program.run(60)
        except TreeringError as error:
            counts[type(error).__name__] += 1
            live_on(program, error)
        files.heal()
        if not fault.hits:
            break
        found = after(memory.crash(), program.clock)
        # All that was written survives the process; the call that failed may have got through.
        assert found in program.states[-3:], nth
        counts["calls"] += 1
    print(f"\njob queue, errno {number}: {dict(counts)}")
    assert counts["calls"] > 20


def live_on(program, error):
    """What a program does that goes on after the error."""
    queue = program.queue
    if queue is None:
        return
    with contextlib.suppress(TreeringError):
        assert shown(queue) in program.states[-3:]
        if not isinstance(error, FailedError):
            assert queue.stats()["jobs"]["dead"] <= len(program.states[-1])
    abandon(queue._fold.wal)
