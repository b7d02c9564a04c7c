"""Working off a queue in processes of their own, which are replaced when they die."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any

from treering import TreeringError, UsageError

from .agenda import Job
from .records import check_count
from .working import SLICE_SECONDS, Stop

# A worker that died younger than this counts as one that cannot start.
_YOUNG_SECONDS = 1.0
_YOUNG_DEATHS_MAX = 5

_TOLD_BY = (signal.SIGTERM, signal.SIGINT)


class WorkersDieError(TreeringError):
    """Workers die as soon as they are started; their complaints are on standard error."""


def work_processes(
    path: str | os.PathLike[str],
    handler: Callable[[Job], object],
    *,
    processes: int = 2,
    stop: Stop | None = None,
    grace: float = 30.0,
    start_method: str = "spawn",
    queue: dict[str, Any] | None = None,
    **options: Any,
) -> int:
    """Run `JobQueue(path, **queue).work(handler, **options)` in so many processes; how many had to
    be replaced because they died.

    `handler` is a function at the top of a module, so that a new process finds it. Blocks until
    `stop` is set, or SIGTERM or SIGINT comes (if this is the main thread), or, with
    `until_empty=True`, no job is left. Workers then finish what they have in hand; those that
    have not after `grace` seconds are killed, and their jobs come back when the leases are over.
    Workers end, too, when this process is gone. WorkersDieError if workers die as they start.
    """
    check_count(processes, "processes")
    if start_method not in multiprocessing.get_all_start_methods():
        raise UsageError(f"there is no start method {start_method!r:.40} here", hint="Use 'spawn'")
    context = multiprocessing.get_context(start_method)
    # A fork server's children are not ours.
    parent = None if start_method == "forkserver" else os.getpid()
    arguments = (os.fspath(path), handler, queue or {}, options, parent)

    def start() -> BaseProcess:
        process: BaseProcess = context.Process(target=_child, args=arguments)  # type: ignore[attr-defined]
        with _holding_signals() if start_method == "fork" else nullcontext():
            process.start()
        return process

    flock = _Flock(start, processes, stop)
    with _Signals() as signals:
        return flock.run(signals, grace)


class _Flock:
    """The workers, from start to end."""

    def __init__(self, start: Callable[[], BaseProcess], count: int, stop: Stop | None) -> None:
        self._start, self._count, self._stop = start, count, stop
        self._workers: dict[BaseProcess, float] = {}  # and when they began
        self._replaced = self._young_deaths = 0

    def run(self, signals: Stop, grace: float) -> int:
        try:
            for _ in range(self._count):
                self._workers[self._start()] = time.monotonic()
            while self._workers and not signals.is_set():
                if self._stop is not None and self._stop.is_set():
                    break
                wait([worker.sentinel for worker in self._workers], SLICE_SECONDS)
                for worker in [each for each in self._workers if not each.is_alive()]:
                    self._ended(worker)
        finally:
            self._end(grace)
        return self._replaced

    def _ended(self, worker: BaseProcess) -> None:
        """A worker is no more: gone home, or dead and to be replaced."""
        age = time.monotonic() - self._workers.pop(worker)
        if worker.exitcode == 0:
            return
        self._young_deaths = self._young_deaths + 1 if age < _YOUNG_SECONDS else 0
        if self._young_deaths > _YOUNG_DEATHS_MAX:
            raise WorkersDieError(
                f"{self._young_deaths} workers in a row died within {_YOUNG_SECONDS:g} s",
                hint=f"The last one's exit code was {worker.exitcode}. Try the handler by itself",
            )
        self._workers[self._start()] = time.monotonic()
        self._replaced += 1

    def _end(self, grace: float) -> None:
        for worker in self._workers:
            worker.terminate()  # which they take for a request
        until = time.monotonic() + grace
        for worker in self._workers:
            worker.join(max(0, until - time.monotonic()))
            if worker.is_alive():
                worker.kill()
                worker.join()


class _Signals:
    """Whether SIGTERM or SIGINT has come; in the main thread, which alone can know."""

    def __init__(self) -> None:
        self._came = False
        self._process = os.getpid()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _Signals:
        if threading.current_thread() is threading.main_thread():
            for number in _TOLD_BY:
                self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._came = True
        if os.getpid() != self._process:  # a child that a handler forked: it is not for us
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def is_set(self) -> bool:
        """Whether one has come."""
        return self._came

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


@contextmanager
def _holding_signals() -> Iterator[None]:
    """Those that come to a child as it is forked wait until it is ready for them: it is told to
    stop once, and before it has handlers of its own, nobody would notice."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _TOLD_BY)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Orphaned:
    """Whether to stop: a signal came, or the parent is gone."""

    def __init__(self, signals: _Signals, parent: int | None) -> None:
        self._signals, self._parent = signals, parent

    def is_set(self) -> bool:
        """Whether it is so."""
        return self._signals.is_set() or self._is_alone()

    def _is_alone(self) -> bool:
        if self._parent is not None:
            return os.getppid() != self._parent
        starter = multiprocessing.parent_process()
        return starter is not None and not starter.is_alive()


def _child(
    path: str,
    handler: Callable[[Job], object],
    queue: dict[str, Any],
    options: Any,
    parent: int | None,
) -> None:
    """The life of a worker."""
    from .store import JobQueue

    with _Signals() as signals, JobQueue(path, **queue) as jobs:
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _TOLD_BY)
        try:
            jobs.work(handler, stop=_Orphaned(signals, parent), **options)
        except SystemExit as error:  # a handler's: with 0 it would pass for one that has gone home
            raise SystemExit(error.code or 1) from error
