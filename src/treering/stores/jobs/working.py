"""Working off a queue in threads: take, handle, acknowledge, and keep the leases alive."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from treering import DiskFullError, TreeringError

from .agenda import Job
from .handle import LeaseLostError
from .records import SECOND, check_count

if TYPE_CHECKING:
    from .store import JobQueue

# How long a loop may sleep before it looks whether it was told to stop.
SLICE_SECONDS = 0.25
# A lease is extended so many times while it lasts.
BEATS = 3


class Stop(Protocol):
    """What says that a loop shall stop: a `threading.Event`, for instance."""

    def is_set(self) -> bool:
        """Whether it shall."""


def work(
    queue: JobQueue,
    handler: Callable[[Job], object],
    *,
    threads: int = 1,
    stop: Stop | None = None,
    lease: float | None = None,
    prefetch: int = 1,
    until_empty: bool = False,
) -> int:
    """Run `handler(job)` for each job, in so many threads; how many jobs were acknowledged.

    A handler that returns acknowledges its job; one that raises an Exception has it tried again
    later, or buried, with the exception's text as `error`. Leases are extended while handlers run,
    so a handler may take longer than `lease`. Each thread takes up to `prefetch` jobs at once.

    Blocks until `stop` (a `threading.Event`, say) is set, noticed within 0.25 s: what is in hand is
    finished, what was prefetched is given back. The same happens at KeyboardInterrupt, which is
    then raised, and when the log fails. With `until_empty` it also ends when no job is left, be it
    ready, delayed or leased to anybody.
    """
    loop = _Loop(queue, handler, stop, lease, check_count(prefetch, "prefetch"), until_empty)
    return loop.run(check_count(threads, "threads"))


class Hands:
    """The jobs that a loop has, and the extending of their leases. Thread-safe."""

    def __init__(self, queue: JobQueue, lease: float | None) -> None:
        self._queue = queue
        self._lease_ns = queue._lease_ns(lease)
        self._lock = threading.Lock()
        self._jobs: dict[int, Job] = {}

    @property
    def pause_seconds(self) -> float:
        """Between two rounds of extending."""
        return self._lease_ns / SECOND / BEATS

    def take(self, jobs: Sequence[Job]) -> None:
        """These are ours now."""
        with self._lock:
            self._jobs.update((job.token, job) for job in jobs)

    def drop(self, job: Job) -> None:
        """This one is not any more."""
        with self._lock:
            self._jobs.pop(job.token, None)

    def beat(self) -> None:
        """Extend the leases of all. Those that were lost are dropped; a full disk is no reason to
        stop, as the leases hold for a while."""
        with self._lock:
            jobs = list(self._jobs.values())
        if jobs:
            with suppress(DiskFullError):
                for job in self._queue._extend_all(jobs, self._lease_ns):
                    self.drop(job)

    def give_back(self, jobs: Sequence[Job]) -> None:
        """Release what was taken and not begun."""
        for job in jobs:
            self.drop(job)
            with suppress(TreeringError):  # then it comes back by itself when its lease is over
                self._queue.release(job)


class _Loop:
    def __init__(
        self,
        queue: JobQueue,
        handler: Callable[[Job], object],
        stop: Stop | None,
        lease: float | None,
        prefetch: int,
        until_empty: bool,
    ) -> None:
        self._queue, self._handler = queue, handler
        self._stop, self._halt = stop, threading.Event()
        self._lease, self._prefetch = lease, prefetch
        self._until_empty = until_empty
        self._hands = Hands(queue, lease)
        self._changed, self._over = threading.Event(), threading.Event()
        self._lock = threading.Lock()
        self._count = self._begun = self._ended = self._acknowledged = 0
        self._failures: list[BaseException] = []

    def run(self, count: int) -> int:
        """Start the threads and wait for them."""
        self._count = count
        try:
            for target in (self._beat, *[self._serve] * count):
                threading.Thread(target=target, daemon=True).start()
            self._wait()
        except BaseException:
            with self._lock:
                self._halt.set()
            self._wait()  # they finish what they have in hand
            raise
        finally:
            self._over.set()
        for failure in self._failures:
            raise failure
        return self._acknowledged

    def _wait(self) -> None:
        # Not with join: an interrupted join takes the thread for dead (CPython issue 89437).
        while not self._is_done():
            self._changed.wait(SLICE_SECONDS)
            self._changed.clear()

    def _is_done(self) -> bool:
        with self._lock:
            return self._ended >= (self._begun if self._halt.is_set() else self._count)

    def _is_over(self) -> bool:
        return self._halt.is_set() or (self._stop is not None and self._stop.is_set())

    def _serve(self) -> None:
        with self._lock:
            if self._halt.is_set():
                return  # nobody waits for a thread that begins so late
            self._begun += 1
        jobs: list[Job] = []
        try:
            while not self._is_over():
                jobs = self._queue.get_many(self._prefetch, SLICE_SECONDS, lease=self._lease)
                self._hands.take(jobs)
                while jobs and not self._is_over():
                    self._handle(jobs.pop(0))
                if not jobs and self._until_empty and not len(self._queue):
                    return
        except BaseException as failure:
            self._fail(failure)
        finally:
            self._hands.give_back(jobs)
            with self._lock:
                self._ended += 1
            self._changed.set()

    def _handle(self, job: Job) -> None:
        try:
            self._handler(job)
        except Exception as error:
            self._finish(self._queue.nack, job, error=failure_text(error))
        except BaseException:
            self._hands.give_back([job])
            raise
        else:
            if self._finish(self._queue.ack, job):
                with self._lock:
                    self._acknowledged += 1

    def _finish(self, command: Callable[..., object], job: Job, **options: Any) -> bool:
        """Ack or nack; whether the job was still ours."""
        try:
            command(job, **options)
        except LeaseLostError:
            return False  # somebody else has it, or had: nothing is lost
        finally:
            self._hands.drop(job)
        return True

    def _beat(self) -> None:
        try:
            while not self._over.wait(self._hands.pause_seconds):
                self._hands.beat()
        except BaseException as failure:
            self._fail(failure)

    def _fail(self, failure: BaseException) -> None:
        self._failures.append(failure)
        self._halt.set()


def failure_text(error: BaseException) -> str:
    """What is kept of an exception."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # of its own making, and no reason to end the loop
        return type(error).__name__
