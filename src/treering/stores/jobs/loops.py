"""A queue's worker loops, as its methods."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, cast

from .agenda import Job

if TYPE_CHECKING:
    from .store import JobQueue


class Loops:
    """Methods that take jobs, one after the other, and wait for more."""

    def work(self, handler: Callable[[Job], object], **options: Any) -> int:
        """Run `handler(job)` for each job until told to stop; how many were acknowledged. Options:
        `threads`, `stop`, `lease`, `prefetch`, `until_empty`: see
        `treering.stores.jobs.working.work`."""
        from .working import work

        return work(cast("JobQueue", self), handler, **options)

    async def work_async(self, handler: Callable[[Job], Awaitable[object]], **options: Any) -> int:
        """As `work`, for a coroutine function. Options: `concurrency`, `stop`, `lease`,
        `until_empty`: see `treering.stores.jobs.tasks.work_async`."""
        from .tasks import work_async

        return await work_async(cast("JobQueue", self), handler, **options)

    async def get_async(
        self,
        timeout: float | None = None,  # noqa: ASYNC109 - as get's
        *,
        lease: float | None = None,
    ) -> Job | None:
        """As `get`, without blocking the event loop while it waits. A task that is cancelled
        meanwhile takes no job along."""
        from .tasks import get_async

        return await get_async(cast("JobQueue", self), timeout, lease)

    async def jobs_async(self, *, lease: float | None = None) -> AsyncIterator[Job]:
        """The jobs as they come, for ever: `async for job in queue.jobs_async(): …`. Acknowledge
        each with `await asyncio.to_thread(queue.ack, job)`."""
        while True:
            job = await self.get_async(lease=lease)
            if job is not None:
                yield job
