"""How a handle treats its jobs: lease, attempts, delays between them."""

from __future__ import annotations

import os
import socket
from typing import NamedTuple

from treering import UsageError

from .agenda import Entry
from .records import WORKER_BYTES_MAX, check_count, span_ns


class Terms(NamedTuple):
    """The options of a handle, checked."""

    lease_ns: int
    attempts_max: int | None
    retry_ns: int
    retry_max_ns: int
    worker: bytes
    name: str

    def is_spent(self, entry: Entry) -> bool:
        """Whether the job has had all its attempts."""
        return self.attempts_max is not None and entry.attempts >= self.attempts_max

    def retry_after_ns(self, attempts: int) -> int:
        """The delay before the next attempt: doubled with each, up to the cap."""
        doubled = self.retry_ns << min(max(attempts - 1, 0), 62)
        return min(doubled, self.retry_max_ns)


def make_terms(
    lease: float = 30.0,
    attempts_max: int | None = 5,
    retry_delay: float = 1.0,
    retry_delay_max: float = 600.0,
    worker: str | None = None,
) -> Terms:
    """The options of a handle; UsageError for what cannot be one."""
    if worker is None:
        worker = f"{socket.gethostname()}:{os.getpid()}"
    if not isinstance(worker, str):
        raise UsageError(f"a worker's name is text, not {type(worker).__name__}")
    named = worker.encode(errors="replace")[:WORKER_BYTES_MAX]
    return Terms(
        span_ns(lease, "lease", least=1),
        attempts_max if attempts_max is None else check_count(attempts_max, "attempts_max"),
        span_ns(retry_delay, "retry_delay"),
        span_ns(retry_delay_max, "retry_delay_max"),
        named,
        named.decode(errors="replace"),
    )
