"""Working off a queue in asyncio tasks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from .agenda import Job
from .handle import LeaseLostError
from .records import check_count, moment_after
from .working import SLICE_SECONDS, Hands, Stop, failure_text

if TYPE_CHECKING:
    from .store import JobQueue


async def get_async(
    queue: JobQueue,
    timeout: float | None,  # noqa: ASYNC109 - as get's
    lease: float | None,
) -> Job | None:
    """See `JobQueue.get_async`. The taking itself writes to memory only, so it is done right here,
    where nobody can cancel between the lease and the return; a thread does the waiting."""
    lease_ns = queue._lease_ns(lease)
    until = None if timeout is None else moment_after(timeout)
    while True:
        jobs, seen, pause = queue._take(1, lease_ns)
        if jobs:
            return jobs[0]
        pause = SLICE_SECONDS if pause is None else min(pause, SLICE_SECONDS)
        if until is not None:
            left = until - time.monotonic()
            if left <= 0:
                return None
            pause = min(pause, left)
        # In slices: a thread that waits for a task that is gone soon ends.
        await asyncio.to_thread(queue._fold.wait, pause, position=seen)


async def work_async(
    queue: JobQueue,
    handler: Callable[[Job], Awaitable[object]],
    *,
    concurrency: int = 1,
    stop: Stop | asyncio.Event | None = None,
    lease: float | None = None,
    until_empty: bool = False,
) -> int:
    """Run `await handler(job)` for each job, so many at once; how many were acknowledged.

    As `work`, in one event loop: acks and nacks, which may wait for the disk, are done in threads.
    Ends as that does. When it is cancelled, handlers are cancelled, and what they had is given
    back.
    """
    loop = _Loop(queue, handler, stop, lease, until_empty)
    return await loop.run(check_count(concurrency, "concurrency"))


class _Loop:
    def __init__(
        self,
        queue: JobQueue,
        handler: Callable[[Job], Awaitable[object]],
        stop: Stop | asyncio.Event | None,
        lease: float | None,
        until_empty: bool,
    ) -> None:
        self._queue, self._handler, self._stop = queue, handler, stop
        self._lease, self._until_empty = lease, until_empty
        self._hands = Hands(queue, lease)
        self._acknowledged = 0
        # One waits at a time: each would take a thread of the loop's pool, which the acks need.
        self._turn = asyncio.Lock()

    async def run(self, count: int) -> int:
        beat = asyncio.create_task(self._beat())
        tasks = {asyncio.create_task(self._serve()) for _ in range(count)}
        try:
            waiting = {beat, *tasks}
            while tasks & waiting:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()  # an error ends all
        finally:
            for task in (beat, *tasks):
                task.cancel()
            await asyncio.gather(beat, *tasks, return_exceptions=True)
        return self._acknowledged

    def _is_over(self) -> bool:
        return self._stop is not None and self._stop.is_set()

    async def _serve(self) -> None:
        while not self._is_over():
            job = await self._next()
            if job is not None:
                await self._handle(job)
            if self._is_empty():
                return

    def _is_empty(self) -> bool:
        return self._until_empty and not len(self._queue)

    async def _next(self) -> Job | None:
        async with self._turn:
            if self._is_over() or self._is_empty():
                return None
            return await get_async(self._queue, SLICE_SECONDS, self._lease)

    async def _handle(self, job: Job) -> None:
        self._hands.take([job])
        try:
            await self._handler(job)
        except Exception as error:
            await self._finish(self._queue.nack, job, error=failure_text(error))
        except BaseException:
            self._hands.give_back([job])
            raise
        else:
            if await self._finish(self._queue.ack, job):
                self._acknowledged += 1  # not in one with the await: other tasks count meanwhile

    async def _finish(self, command: Callable[..., object], job: Job, **options: Any) -> bool:
        try:
            await asyncio.to_thread(command, job, **options)
        except LeaseLostError:
            return False
        finally:
            self._hands.drop(job)
        return True

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._hands.pause_seconds)
            with suppress(LeaseLostError):
                self._hands.beat()
