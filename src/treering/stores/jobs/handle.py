"""A handle on a queue: what every store's handle has, and who holds which job."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from treering import NotThereError, UsageError
from treering.fold import Follower, Store

from .agenda import Entry, Job
from .reading import Readable, View
from .state import State
from .terms import Terms


class LeaseLostError(NotThereError):
    """The job is not yours any more: it was given to another worker after your lease was over, or
    is done, dead, cancelled or purged. Nothing was changed; drop what you have of it."""


class DuplicateJobError(UsageError):
    """A job with that deduplication key is there already."""


class Handle(Store[State], Readable):
    """Opening and closing, the past, and care of the log."""

    _terms: Terms

    def _begin(
        self, fold: Follower[State], clock: Callable[[], int] | None, read_only: bool
    ) -> None:
        self._stand_on(fold, read_only)
        self._clock = clock or time.time_ns

    def _now_ns(self, state: State) -> int:
        return max(self._clock(), state.newest_ns)

    @contextmanager
    def _looking(self) -> Iterator[tuple[State, int]]:
        with self._fold.lock:
            state = self._fold.state()
            yield state, self._now_ns(state)

    def at(self, position: int | None = None, time: Any = None) -> View:
        """The queue as it was when the log ended at `position` (see `position`), or at a time
        (seconds since 1970 or a datetime). Reads the log from the snapshot before it on.
        PrunedError when a checkpoint has removed what that takes; PositionError beyond the end."""
        return View(*self._past(position, time))

    @property
    def position(self) -> int:
        """How many records the log has seen: of this moment, for `at`."""
        return self._fold.wal.current_position()

    def check_state(self) -> None:
        """The part of `check` that looks at memory alone."""
        with self._fold.lock:
            self._fold.state().check()

    def stats(self) -> dict[str, Any]:
        """Numbers for people and dashboards: the fold's, and `jobs`, which is `counts()`."""
        return {**self._fold.stats(), "jobs": self.counts()}

    def close(self) -> None:
        """Make everything durable and let go of the log; idempotent. Jobs that you have stay
        leased: `release` them first, or they come back when their leases are over."""
        self._fold.close()


def check_job(job: Any) -> None:
    """UsageError for what is not a job with a lease."""
    if not isinstance(job, Job) or not job.token:
        raise UsageError("this takes a job that get() returned", hint="peek and jobs lease nothing")


def token_of(state: State, job: Job) -> int:
    """The token of the lease that the job has now; 0 for none."""
    entry = state.jobs.get(job.id)
    return 0 if entry is None else entry.token


def check_held(state: State, job: Job) -> Entry:
    """The job's entry; LeaseLostError if its lease is not that of `job` any more."""
    if token_of(state, job) != job.token:
        raise lost(job, state)
    return state.jobs[job.id]


def lost(job: Job, state: State | None) -> LeaseLostError:
    """The error that says what became of it."""
    entry = state.jobs.get(job.id) if state is not None else None
    if state is None:
        became = "done, removed, or another worker's"
    elif entry is None:
        became = "a dead letter" if job.id in state.dead else "done, cancelled or purged"
    elif entry.token:
        became = f"leased to {entry.worker.decode(errors='replace')}"
    else:
        became = "waiting again"
    return LeaseLostError(
        f"job {job.id} is not yours any more: it is {became}",
        position=job.token,
        hint="Drop it. Extend leases in time, or ask for longer ones",
    )
