"""Looking at a queue: the same for a queue and a queue as it was."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from .agenda import Job
from .records import check_count
from .state import State

STATUSES = ("ready", "delayed", "leased", "dead")


class Readable(ABC):
    """What a queue shows of itself. Nothing here takes a job."""

    @abstractmethod
    def _looking(self) -> AbstractContextManager[tuple[State, int]]:
        """The state, which stands still meanwhile, and the time it goes by."""

    def job(self, id: int) -> Job | None:
        """The job or dead letter of that id; None if it is done, cancelled or never was. O(1)."""
        with self._looking() as (state, now_ns):
            return state.show(id, now_ns)

    def jobs(self, status: str | None = None) -> list[Job]:
        """All jobs, or those that are "ready", "delayed", "leased" or "dead", in the order of their
        ids. O(n log n)."""
        with self._looking() as (state, now_ns):
            ids = sorted((*state.jobs, *state.dead))
            found = [job for id in ids if (job := state.show(id, now_ns)) is not None]
        return [job for job in found if status is None or job.status == status]

    def dead(self) -> list[Job]:
        """The dead letters: `reason` says "failed" or "expired", `error` what was said last."""
        with self._looking() as (state, now_ns):
            return [job for id in sorted(state.dead) if (job := state.show(id, now_ns)) is not None]

    def peek(self, count: int = 1) -> list[Job]:
        """The jobs that come next, at most so many, in their order; they stay where they are.
        O(count * log(jobs))."""
        check_count(count, "count")
        with self._looking() as (state, now_ns):
            state.agenda.advance(now_ns)
            found = (state.show(id, now_ns) for id in state.agenda.first(count))
            return [job for job in found if job is not None]

    def counts(self) -> dict[str, int]:
        """How many jobs are "ready", "delayed", "leased" and "dead" now. O(delayed and leased)."""
        with self._looking() as (state, now_ns):
            state.agenda.advance(now_ns)
            waiting = state.agenda.waiting()
            leased = sum(1 for id in waiting if state.jobs[id].token)
            numbers = (
                len(state.jobs) - len(waiting),
                len(waiting) - leased,
                leased,
                len(state.dead),
            )
        return dict(zip(STATUSES, numbers, strict=True))

    def __len__(self) -> int:
        """How many jobs are not done yet; dead letters do not count."""
        with self._looking() as (state, _):
            return len(state.jobs)

    def __bool__(self) -> bool:
        return True


class View(Readable):
    """A queue as it was at a position: read-only, and standing still. Thread-safe."""

    def __init__(self, state: State, position: int) -> None:
        self._state = state
        self._lock = threading.RLock()
        self.position = position

    @contextmanager
    def _looking(self) -> Iterator[tuple[State, int]]:
        with self._lock:
            yield self._state, self._state.newest_ns
