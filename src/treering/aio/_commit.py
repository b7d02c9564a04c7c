"""Durability for tasks: one thread per handle waits for fsyncs, and wakes whole groups of tasks.

While an fsync runs, the tasks that were woken by the one before append again; they are the next
group. The thread takes part in the log's group commit like any other (see _core/commit.py), so
tasks, threads and processes share their fsyncs.
"""

from __future__ import annotations

import asyncio
import copy
import threading
from collections import deque

from .._core import format as fmt
from .._core.background import Background, Signal
from .._core.commit import Commit
from .._core.control import Control
from .._core.errors import TreeringError
from ._threads import call_soon, closed_error

Waiters = deque[asyncio.Future[None]]


class Committer:
    """Wakes tasks when what they appended is durable. Thread-safe.

    Knows the commit, not the handle: a forgotten handle can be collected while the thread lives.
    """

    def __init__(self, commit: Commit, control: Control) -> None:
        self._commit = commit
        self._control = control
        self._waiting: dict[asyncio.AbstractEventLoop, Waiters] = {}
        self._lock = threading.Lock()  # around starting, stopping and joining of loops
        self._asked = Signal()
        self._idle = True
        self._thread = Background(self._run)
        self._stopped = False
        self._over = False

    def wait(self) -> asyncio.Future[None]:
        """A future, done once all that was appended before this call is durable.

        Its exception is FailedError when a write or an fsync failed.
        """
        loop = asyncio.get_running_loop()
        waiters = self._waiting.get(loop)
        if waiters is None:
            waiters = self._join(loop)
        future = loop.create_future()
        # Append, then look: the thread says that it is idle, then looks for waiters once more.
        waiters.append(future)
        if self._idle:
            self._rouse()
        return future

    def _join(self, loop: asyncio.AbstractEventLoop) -> Waiters:
        with self._lock:
            # A new dict each time: the thread may be looking at the old one.
            open_ones = {loop: each for loop, each in self._waiting.items() if not loop.is_closed()}
            waiters = open_ones.setdefault(loop, deque())
            self._waiting = open_ones
        return waiters

    def _rouse(self) -> None:
        """Wake the thread, once: those who come before it looks around find it busy."""
        with self._lock:
            if self._over:
                self._settle(self._groups(), closed_error())
                return
            self._thread.start()
            try:
                self._idle = False
            finally:
                self._asked.set()

    def _run(self) -> None:
        while True:
            self._idle = False
            while groups := self._groups():
                self._settle(groups, self._sync())
            # Say so, then look again: whoever appended in between did not wake us.
            self._idle = True
            if self._groups():
                continue
            if self._stopped:
                return
            self._asked.wait()

    def _groups(self) -> list[tuple[asyncio.AbstractEventLoop, Waiters, int]]:
        """Who waits now. Their records are in the log already, so the next sync is for them."""
        everybody = self._waiting.items()
        return [(loop, waiters, len(waiters)) for loop, waiters in everybody if waiters]

    def _sync(self) -> BaseException | None:
        """Make all that is in the log durable, or wait until somebody has."""
        try:
            end = self._control.load(fmt.WORD_END)
            if end:
                self._commit.wait(end - 1)
        except BaseException as error:
            return error
        return None

    def _settle(
        self,
        groups: list[tuple[asyncio.AbstractEventLoop, Waiters, int]],
        error: BaseException | None,
    ) -> None:
        for loop, waiters, count in groups:
            group = [waiters.popleft() for _ in range(count)]
            call_soon(loop, _wake, group, error)

    def stop(self) -> None:
        """Serve those who wait, then end; whoever comes later gets ClosedError. Idempotent."""
        self.release()
        self._thread.join()
        with self._lock:
            self._over = self._idle = True
            self._settle(self._groups(), closed_error())

    def release(self) -> None:
        """As `stop`, without waiting for the thread."""
        with self._lock:
            self._stopped = True
        self._asked.set()


def _wake(group: list[asyncio.Future[None]], error: BaseException | None) -> None:
    """Settle the futures whose tasks still wait."""
    for future in group:
        if not future.done():
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(_own(error))


def _own(error: BaseException) -> BaseException:
    """An error for one task alone: raising one adds to its traceback."""
    if not isinstance(error, TreeringError):
        return error
    own = copy.copy(error)
    own.__cause__ = error
    return own
