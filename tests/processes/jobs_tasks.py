"""What worker processes do with a job queue."""

from __future__ import annotations

import os
import signal
import time
from random import Random

from tests.processes.records import Words
from tests.processes.talk import say
from treering import FsyncPolicy
from treering.stores.jobs import JobQueue, LeaseLostError


def note(job) -> None:
    """Handle a job by making the file that it names."""
    with open(job.body, "wb") as file:
        file.write(b"%d" % job.attempt)


def die_once(job) -> None:
    """The same, but the first attempt at poison is deadly."""
    if job.body.endswith(b"poison") and job.attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    note(job)


def _opened(path, policy="os", **options) -> JobQueue:
    queue = JobQueue(path, fsync_policy=FsyncPolicy.parse(policy), **options)
    say("open", jobs=len(queue))
    return queue


class Ledger:
    """What the workers did, for the tester, whoever is killed: of each job how often its ack
    returned, when it was last leased (ns; 0 once it was given back), whether its put returned; of
    each worker how many puts it began; the latest redelivery (ms); lost leases; the end."""

    def __init__(self, path, jobs, workers, *, create=False):
        self.jobs = jobs
        self.words = Words(path, 3 * jobs + workers + 3 if create else 0)
        self.acked, self.leased, self.put = 0, jobs, 2 * jobs
        self.begun = 3 * jobs
        self.latest = self.begun + workers
        self.lost, self.over = self.latest + 1, self.latest + 2

    def of(self, first):
        """The words of all jobs that begin there."""
        return [self.words[first + number] for number in range(self.jobs)]


def produce_and_consume(path, words, worker, quota, workers, lease, seed, **options):
    """Put jobs up to the quota, and work off whatever comes, until the end or a kill."""
    ledger = Ledger(words, quota * workers, workers)
    marks, rng = ledger.words, Random(seed)
    with _opened(path, lease=lease, attempts_max=None, retry_delay=0, **options) as queue:
        while not marks[ledger.over]:
            begun = marks[ledger.begun + worker]
            if begun < quota and rng.random() < 0.6:
                number = worker * quota + begun
                marks[ledger.begun + worker] = begun + 1
                queue.put(b"%d" % number)
                marks[ledger.put + number] = 1
            else:
                _consume(queue, ledger, rng)


def _consume(queue, ledger, rng) -> None:
    marks, job = ledger.words, queue.get(timeout=0.05)
    if job is None:
        return
    number, now = int(job.body), time.monotonic_ns()
    last, marks[ledger.leased + number] = marks[ledger.leased + number], now
    if last:
        marks[ledger.latest] = max(marks[ledger.latest], (now - last) // 1_000_000)
    chance = rng.random()
    if chance < 0.05:
        marks[ledger.leased + number] = 0
        queue.nack(job)
        return
    if chance < 0.15:
        time.sleep(0.002)  # a good moment to be killed, with a lease in hand
    try:
        queue.ack(job)
    except LeaseLostError:
        marks[ledger.lost] += 1
    else:
        marks[ledger.acked + number] += 1


def queue_at_random(path, worker, count, seed, **options):
    """Random commands; says what each of them returned."""
    rng, told, hands = Random(f"{seed} {worker}"), [], []
    with _opened(path, attempts_max=2, retry_delay=0, lease=0.05, **options) as queue:
        for _ in range(count):
            chance = rng.random()
            if chance < 0.35:
                key = b"k%d" % rng.randrange(4) if rng.random() < 0.3 else None
                told.append(("put", queue.put(b"%d" % worker, key=key), key and key.decode()))
            elif chance < 0.6:
                for job in queue.get_many(rng.choice((1, 1, 3))):
                    hands.append(job)
                    told.append(("get", job.id, job.token, job.attempt))
            elif chance < 0.9 and hands:
                job = hands.pop(rng.randrange(len(hands)))
                told.append(_finish(queue, job, rng.random()))
            elif chance < 0.93 and hands:
                job = rng.choice(hands)
                told.append(("cancel", job.id, job.token, queue.cancel(job.id)))
            elif chance < 0.95:
                queue.checkpoint()
    for start in range(0, len(told), 100):
        say("told", told=told[start : start + 100])
    say("said")


def _finish(queue, job, chance) -> tuple:
    kind = "ack" if chance < 0.6 else "nack" if chance < 0.9 else "release"
    try:
        getattr(queue, kind)(job)
    except LeaseLostError:
        return ("lost", job.id, job.token, kind)
    return (kind, job.id, job.token, None)
