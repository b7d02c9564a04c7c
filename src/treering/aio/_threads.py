"""From threads to event loops and back: results of many, one wake-up of the loop.

Inbox    carries results to one event loop
Job      a call that a thread makes for a task, which may give up waiting for it
Worker   one thread that makes such calls, in the order in which they were asked for
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from .._core.background import Background, Signal
from .._core.errors import ClosedError

T = TypeVar("T")


class Inbox:
    """Where threads leave results for the tasks of one event loop.

    The loop is woken for the first one; what comes until it looks is taken along.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._jobs: deque[Job] = deque()
        self._called = False

    def serves(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether this is the loop whose tasks learn of results here."""
        return loop is self._loop

    def deliver(self, job: Job) -> None:
        """Wake whoever waits for the job; from any thread."""
        self._jobs.append(job)
        if not self._called:
            self._called = True
            call_soon(self._loop, self._open)

    def _open(self) -> None:
        # Before looking: what is delivered from here on calls again.
        self._called = False
        while self._jobs:
            self._jobs.popleft().wake()


class Job:
    """A call that a thread makes for a task."""

    __slots__ = (
        "_call",
        "_claim",
        "_error",
        "_guests",
        "_result",
        "_waiters",
        "inbox",
        "over",
        "withdrawn",
    )

    def __init__(self, call: Callable[[], Any], inbox: Inbox) -> None:
        self._call = call
        self._claim = threading.Lock()
        self._waiters: list[asyncio.Future[None]] = []
        self._guests: list[asyncio.Future[None]] = []  # of other loops than the inbox's
        self._result: Any = None
        self._error: BaseException | None = None
        self.inbox = inbox
        self.withdrawn = False
        self.over = False

    def run(self) -> None:
        """Make the call, unless it was withdrawn. In the worker's thread."""
        if self._claim.acquire(blocking=False):
            try:
                self._result = self._call()
            except BaseException as error:
                self._error = error
            self.over = True
            for future in tuple(self._guests):
                call_soon(future.get_loop(), resolve, future)

    def withdraw(self) -> None:
        """Take the call back, unless it has begun."""
        if self._claim.acquire(blocking=False):
            self.withdrawn = self.over = True

    async def wait(self) -> None:
        """Return when the call was made or withdrawn; cancelling changes nothing for the call."""
        if not self.over:
            loop = asyncio.get_running_loop()
            future = loop.create_future()
            (self._waiters if self.inbox.serves(loop) else self._guests).append(future)
            if not self.over:  # it may have been delivered just before
                await future

    def wake(self) -> None:
        """Resume the tasks that wait. In the loop's thread."""
        for future in self._waiters:
            resolve(future)
        self._waiters.clear()

    def result(self) -> Any:
        """What the call returned; raises what it raised. None when it was withdrawn."""
        if self._error is not None:
            raise self._error
        return self._result


class Worker:
    """One thread, started when needed, that makes calls in the order in which they came."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inboxes: dict[asyncio.AbstractEventLoop, Inbox] = {}
        self._more = Signal()
        self._thread = Background(self._run)
        self._stopped = False
        # The job that is being run stays in front until it is done: empty means idle.
        self.jobs: deque[Job] = deque()

    def submit(self, call: Callable[[], Any]) -> Job:
        """Have the call made after all earlier ones. ClosedError after `stop`."""
        loop = asyncio.get_running_loop()
        with self._lock:
            if self._stopped:
                raise closed_error()
            job = Job(call, self._inbox(loop))
            self._thread.start()
            self.jobs.append(job)
        self._more.set()
        return job

    def _inbox(self, loop: asyncio.AbstractEventLoop) -> Inbox:
        inbox = self._inboxes.get(loop)
        if inbox is None:
            for closed in [other for other in self._inboxes if other.is_closed()]:
                del self._inboxes[closed]
            inbox = self._inboxes[loop] = Inbox(loop)
        return inbox

    def _run(self) -> None:
        while True:
            self._more.wait()
            while self.jobs:
                job = self.jobs[0]
                job.run()
                self.jobs.popleft()
                job.inbox.deliver(job)
            if self._stopped:
                return

    def stop(self) -> None:
        """Refuse new calls, finish those that came, end the thread; idempotent."""
        self.release()
        self._thread.join()

    def release(self) -> None:
        """As `stop`, without waiting for the thread."""
        with self._lock:
            self._stopped = True
        self._more.set()


def closed_error() -> ClosedError:
    """The error of whatever is asked of a closed handle."""
    return ClosedError("the log is closed", hint="Open it again with Wal.open")


def call_soon(loop: asyncio.AbstractEventLoop, call: Callable[..., Any], *args: Any) -> None:
    """Have the loop make the call; nothing when it is closed, for then its tasks are dead."""
    try:
        loop.call_soon_threadsafe(call, *args)
    except RuntimeError:
        if not loop.is_closed():
            raise


def resolve(future: asyncio.Future[None], error: BaseException | None = None) -> None:
    """Settle the future, unless its task gave up waiting."""
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)


async def in_thread(call: Callable[[], T]) -> T:
    """What the call returns; made by a thread of the loop's default executor."""
    return await asyncio.get_running_loop().run_in_executor(None, call)
