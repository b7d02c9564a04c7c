"""A job queue, and a worker that is killed with a job in its hands."""

from __future__ import annotations

import time
from pathlib import Path

from story import check, last_words, say, start, tell

from treering.stores.jobs import JobQueue


def show(path: Path) -> None:
    """A job queue, and a worker that is killed with a job in its hands."""
    say("A job queue: 300 jobs, two workers; one is killed with -9 while it has a job.")
    with JobQueue(path) as queue:
        ids = queue.put_many([b"%d" % number for number in range(300)])
        workers = [start(worker, path) for _ in range(2)]
        while len(queue) > 200 or len({job.worker for job in queue.jobs("leased")}) < 2:
            time.sleep(0.001)
        workers[0].kill()
        done = last_words(workers[0])
        left = [job for job in queue.jobs("leased") if job.worker.endswith(f":{workers[0].pid}")]
        tell(f"the dead worker had finished {len(done)} jobs; in its hands: {len(left)}")
        others = last_words(workers[1])
        again = [id for id, attempt in others if attempt > 1]
        tell(f"the other finished {len(others)}; of the dead one's, after its lease: {again}")
        finished = sorted(id for id, _ in done + others)
        unsaid = {job.id for job in left} - set(again)
        check(not unsaid, "what it had in hand was delivered again")
        check(len(set(finished)) == len(finished), "no job was acknowledged twice")
        check(len(queue) == 0 and len(finished) >= len(ids) - 1, "no job was lost")
        queue.check()


def worker(path: str) -> int:
    """Work off a queue; print each job and its attempt once its ack has returned."""
    with JobQueue(path, lease=0.5) as queue:
        while len(queue):
            job = queue.get(timeout=0.1)
            if job is not None:
                time.sleep(0.002)
                queue.ack(job)
                print(job.id, job.attempt, flush=True)
    return 0
