"""What is due when: heaps over the jobs, made from them when need be and never written.

A job that changes leaves its old entries behind: they are dropped when they come up, or swept when
they are many. An entry that still holds says when its job is due, or when its lease is over.
"""

from __future__ import annotations

from collections.abc import Mapping
from heapq import heapify, heappop, heappush
from typing import NamedTuple

_SWEEP_LEAST = 1024


class Entry(NamedTuple):
    """A job as the state has it. Entries are replaced, never changed. `token` is the position of
    the lease, 0 without one, `expires_ns` until when it holds."""

    body: bytes
    priority: int
    key: bytes
    headers: dict[str, bytes] | None
    due_ns: int
    attempts: int = 0
    token: int = 0
    expires_ns: int = 0
    worker: bytes = b""
    error: bytes = b""

    @property
    def when_ns(self) -> int:
        """From when on somebody may have it."""
        return self.expires_ns if self.token else self.due_ns


class Job(NamedTuple):
    """A job, as a worker gets it and as an inspection shows it.

    `attempt` counts the leases it has had; `token` is the position of its lease, which proves that
    the job is yours; `status` is "ready", "delayed", "leased" or "dead"; times are seconds since
    1970. `error` is the text of the last failure; `reason`, of a dead one, "failed" or "expired".
    """

    id: int
    body: bytes
    attempt: int
    priority: int
    key: bytes | None
    headers: dict[str, bytes]
    due_at: float
    token: int
    expires_at: float | None
    worker: str
    error: str
    status: str
    reason: str | None = None
    died_at: float | None = None


class Agenda:
    """The order in which jobs are handed out: priority, then due, then id. For one thread at a
    time."""

    def __init__(self, jobs: Mapping[int, Entry]) -> None:
        self._jobs = jobs
        self._now_ns = 0
        self._ready: list[tuple[int, int, int]] = []  # -priority, due, id
        self._later = [(entry.when_ns, id) for id, entry in jobs.items()]
        heapify(self._later)
        self._ready_max = _SWEEP_LEAST
        self._later_max = _SWEEP_LEAST + 2 * len(self._later)

    def add(self, when_ns: int, id: int) -> None:
        """This job is new, or has changed, and may be had from then on."""
        heappush(self._later, (when_ns, id))
        if len(self._later) > self._later_max:
            self._later = [item for item in self._later if self._holds(item)]
            heapify(self._later)
            self._later_max = _SWEEP_LEAST + 2 * len(self._later)

    def _holds(self, item: tuple[int, int]) -> bool:
        entry = self._jobs.get(item[1])
        return entry is not None and entry.when_ns == item[0]

    def _is_ready(self, item: tuple[int, int, int]) -> bool:
        entry = self._jobs.get(item[2])
        if entry is None or entry.due_ns != item[1]:
            return False
        return not entry.token or entry.expires_ns <= self._now_ns

    def advance(self, now_ns: int) -> None:
        """It is so late now: what has become due is ready."""
        back, self._now_ns = now_ns < self._now_ns, now_ns
        if back:
            self._turn_back()
        later, jobs = self._later, self._jobs
        while later and later[0][0] <= now_ns:
            when_ns, id = heappop(later)
            entry = jobs.get(id)
            if entry is not None and entry.when_ns == when_ns:
                heappush(self._ready, (-entry.priority, entry.due_ns, id))
        if len(self._ready) > self._ready_max:
            self._ready = [item for item in self._ready if self._is_ready(item)]
            heapify(self._ready)
            self._ready_max = _SWEEP_LEAST + 2 * len(self._ready)

    def _turn_back(self) -> None:
        """The clock was set back. What was due stays so, but no lease is over before its time, also
        by the clock of now: whoever extends it goes by that. O(jobs)."""
        ready = self.ready()
        self._later = [(entry.when_ns, id) for id, entry in self._jobs.items() if id not in ready]
        heapify(self._later)

    def first(self, count: int) -> list[int]:
        """The jobs that come next, at most so many; they stay. O(count * log(jobs))."""
        ready = self._ready
        while ready and not self._is_ready(ready[0]):
            heappop(ready)
        if count == 1 or not ready:
            return [ready[0][2]] if ready else []
        found: list[tuple[int, int, int]] = []
        while ready and len(found) < count:
            item = heappop(ready)
            if self._is_ready(item) and (not found or item != found[-1]):
                found.append(item)
        for item in found:
            heappush(ready, item)
        return [item[2] for item in found]

    def next_ns(self) -> int | None:
        """When the next job becomes due, or a lease is over; None if nothing will."""
        later = self._later
        while later and not self._holds(later[0]):
            heappop(later)
        return later[0][0] if later else None

    def waiting(self) -> set[int]:
        """Those that are not ready: delayed or leased."""
        return {item[1] for item in self._later if self._holds(item)}

    def ready(self) -> set[int]:
        """Those that are."""
        return {item[2] for item in self._ready if self._is_ready(item)}
