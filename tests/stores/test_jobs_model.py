"""The job queue against a plain model of it, whatever is done in whatever order, in two handles."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.crash._scale import cases
from treering import FsyncPolicy, NotThereError
from treering.stores.jobs import DuplicateJobError, JobQueue, LeaseLostError
from treering.testing import FakeClock, MemoryFiles

bodies = st.sampled_from([b"", b"1", b"x" * 300])
keys = st.none() | st.sampled_from([b"a", b"b"])
which = st.booleans()
SECOND = 1_000_000_000
LEASE, RETRY, ATTEMPTS_MAX = 10, 4, 3


@dataclass(frozen=True)
class Known:
    """What the model knows of a job; times in nanoseconds."""

    body: bytes
    key: bytes | None
    priority: int
    due: int
    attempts: int = 0
    until: int | None = None
    token: int = 0
    reason: str | None = None
    error: str = ""

    def is_free(self, now):
        return self.reason is None and (self.due if self.until is None else self.until) <= now

    def status(self, now):
        if self.reason is not None:
            return "dead"
        if self.is_free(now):
            return "ready"
        return "delayed" if self.until is None else "leased"


class Queues(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.files, self.clock = MemoryFiles(), FakeClock()
        self.known: dict[int, Known] = {}
        self.hands = []
        self.newest = 0
        self.queues = [self.open(), self.open()]

    def open(self):
        return JobQueue(
            "/jobs",
            files=self.files,
            clock=self.clock,
            fsync_policy=FsyncPolicy.OS,
            segment_bytes_max=1024,
            checkpoint_bytes=None,
            lease=LEASE,
            retry_delay=RETRY,
            retry_delay_max=2 * RETRY,
            attempts_max=ATTEMPTS_MAX,
        )

    @property
    def now(self):
        return max(self.clock(), self.newest)

    def wrote(self):
        self.newest = self.now

    def order(self):
        free = [(-job.priority, job.due, id) for id, job in self.known.items()]
        return [id for *_, id in sorted(free) if self.known[id].is_free(self.now)]

    # --- commands ---

    @rule(
        which=which,
        body=bodies,
        key=keys,
        priority=st.integers(-1, 1),
        delay=st.sampled_from([None, 0, 3, 30]),
    )
    def put(self, which, body, key, priority, delay):
        queue = self.queues[which]
        there = [
            id
            for id, job in self.known.items()
            if key is not None and job.key == key and job.reason is None
        ]
        expected = there[0] if there else queue.position
        assert queue.put(body, key=key, priority=priority, delay=delay) == expected
        if not there:
            due = self.now + (delay or 0) * SECOND
            self.known[expected] = Known(body, key, priority, due)
            self.wrote()

    @rule(which=which, count=st.integers(1, 4))
    def put_many(self, which, count):
        for id in self.queues[which].put_many([b"many"] * count):
            self.known[id] = Known(b"many", None, 0, self.now)
        self.wrote()

    @rule(which=which, count=st.sampled_from([1, 1, 1, 3]), lease=st.sampled_from([1, 10]))
    def get(self, which, count, lease):
        expected: list[int] = []
        while not expected and (found := self.order()[:count]):
            for id in found:
                job = self.known[id]
                if job.until is not None and job.attempts >= ATTEMPTS_MAX:
                    self.known[id] = replace(job, reason="expired", until=None, token=0)
                else:
                    expected.append(id)
        jobs = self.queues[which].get_many(count, lease=lease)
        assert [job.id for job in jobs] == expected
        for job in jobs:
            before = self.known[job.id]
            assert job.token > before.token
            until = self.now + lease * SECOND
            self.known[job.id] = replace(
                before, attempts=before.attempts + 1, until=until, token=job.token
            )
            assert (job.body, job.attempt) == (before.body, before.attempts + 1)
            self.hands.append(job)
        self.wrote()

    def finish(self, data, call):
        """Some job that somebody got once; what the model knows of it if it is still theirs."""
        job = self.hands.pop(data % len(self.hands))
        known = self.known.get(job.id)
        if known is None or known.token != job.token:
            with pytest.raises(LeaseLostError):
                call(job)
            return None, None, None
        now = self.now
        result = call(job)
        self.wrote()
        return job, replace(known, until=None, token=0), (now, result)

    some = st.integers(0, 99)

    @precondition(lambda self: self.hands)
    @rule(which=which, data=some)
    def ack(self, which, data):
        job, _, _ = self.finish(data, self.queues[which].ack)
        if job is not None:
            del self.known[job.id]

    @precondition(lambda self: self.hands)
    @rule(which=which, data=some, retry_in=st.sampled_from([None, 0, 20]))
    def nack(self, which, data, retry_in):
        def call(job):
            return self.queues[which].nack(job, retry_in, error=f"of {job.id}")

        job, known, told = self.finish(data, call)
        if job is None:
            return
        now, again = told
        assert again == (known.attempts < ATTEMPTS_MAX)
        if again:
            wait = min(RETRY << (known.attempts - 1), 2 * RETRY) if retry_in is None else retry_in
            known = replace(known, due=now + wait * SECOND)
        else:
            known = replace(known, reason="failed")
        self.known[job.id] = replace(known, error=f"of {job.id}")

    @precondition(lambda self: self.hands)
    @rule(which=which, data=some)
    def release(self, which, data):
        job, known, _ = self.finish(data, self.queues[which].release)
        if job is not None:
            self.known[job.id] = replace(known, attempts=known.attempts - 1)

    @precondition(lambda self: self.hands)
    @rule(which=which, data=some)
    def extend(self, which, data):
        def call(job):
            self.queues[which].extend(job, 50)

        job, known, told = self.finish(data, call)
        if job is not None:
            self.known[job.id] = replace(known, until=told[0] + 50 * SECOND, token=job.token)
            self.hands.append(job)

    @precondition(lambda self: self.known)
    @rule(which=which, data=some)
    def cancel(self, which, data):
        id = sorted(self.known)[data % len(self.known)]
        assert self.queues[which].cancel(id)
        assert not self.queues[which].cancel(id)
        del self.known[id]
        self.wrote()

    @rule(which=which, data=some)
    def requeue(self, which, data):
        ids = sorted(self.known)
        id = ids[data % len(ids)] if ids else 0
        job = self.known.get(id)
        taken = {job.key for job in self.known.values() if job.reason is None} - {None}
        if job is None or job.reason is None:
            with pytest.raises(NotThereError):
                self.queues[which].requeue(id)
        elif job.key in taken:
            with pytest.raises(DuplicateJobError):
                self.queues[which].requeue(id)
        else:
            self.queues[which].requeue(id)
            self.known[id] = replace(job, reason=None, attempts=0, due=self.now)
            self.wrote()

    @rule(which=which, dead=st.booleans())
    def purge(self, which, dead):
        queue = self.queues[which]
        gone = [id for id, job in self.known.items() if (job.reason is not None) == dead]
        assert (queue.purge_dead() if dead else queue.purge()) == len(gone)
        for id in gone:
            del self.known[id]
        if gone:
            self.wrote()

    # --- the world ---

    @rule(seconds=st.sampled_from([0.5, 2, 11, 60]))
    def time_passes(self, seconds):
        self.clock.advance(seconds)

    @rule(which=which)
    def checkpoint(self, which):
        self.queues[which].checkpoint()

    @rule(which=which)
    def reopen(self, which):
        self.queues[which].close()
        self.queues[which] = self.open()

    @rule()
    def crash(self):
        self.files = self.files.crash()
        for queue in self.queues:
            queue.close()
        self.queues = [self.open(), self.open()]

    @invariant()
    def one_is_the_model(self):
        """The other one has not looked since it last did something, and so has to catch up."""
        self.look(self.queues[:1])

    @rule()
    def both_are_the_model(self):
        self.look(self.queues)

    def look(self, queues):
        now = self.now
        for queue in queues:
            shown = {job.id: job for job in queue.jobs()}
            assert shown.keys() == self.known.keys()
            for id, known in self.known.items():
                job = shown[id]
                assert (job.body, job.key, job.priority) == (known.body, known.key, known.priority)
                assert (job.attempt, job.token) == (known.attempts, known.token)
                assert (job.status, job.reason) == (known.status(now), known.reason)
                assert job.error == known.error
            assert [job.id for job in queue.peek(1000)] == self.order()
            statuses = [known.status(now) for known in self.known.values()]
            assert queue.counts() == {
                name: statuses.count(name) for name in ("ready", "delayed", "leased", "dead")
            }

    def teardown(self):
        self.look(self.queues)
        for queue in self.queues:
            queue.check()
            assert queue.stats()["trouble"] == []
            queue.close()


TestQueues = Queues.TestCase
TestQueues.settings = settings(max_examples=cases(150), stateful_step_count=40, deadline=None)
