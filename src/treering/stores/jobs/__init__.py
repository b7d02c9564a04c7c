"""A job queue: durable jobs, leased to one worker at a time, in as many processes as you like.

    from treering.stores.jobs import JobQueue

    with JobQueue("mail") as queue:
        queue.put(b"to: ada")                         # durable when it returns
        queue.put(b"to: alan", delay=60, priority=5)  # not before a minute from now
        job = queue.get(timeout=1)                    # leased to us, for 30 s
        try:
            send(job.body)
            queue.ack(job)                            # done, once and for all
        except Exception as error:
            queue.nack(job, error=str(error))         # again later; at last a dead letter
        queue.work(lambda job: send(job.body))        # the same as a loop, with a heartbeat

Records: each change of a job is one small record that names the job; a put carries its body. State:
the jobs, the dead letters, and an agenda of what is due when, made when somebody asks for a job.
"""

from __future__ import annotations

from .agenda import Job
from .handle import DuplicateJobError, LeaseLostError
from .processes import WorkersDieError, work_processes
from .reading import View
from .store import JobQueue
from .working import Stop

__all__ = [
    "DuplicateJobError",
    "Job",
    "JobQueue",
    "LeaseLostError",
    "Stop",
    "View",
    "WorkersDieError",
    "work_processes",
]
