"""What became of an append whose task was cancelled."""

from __future__ import annotations

import contextlib
from typing import cast

from ._threads import Job

# The attribute of a CancelledError that tells it.
_APPENDED = "treering_appended"


def remember(error: BaseException, appended: int | range | Job) -> None:
    """Note in the error where the append is, or which job knows."""
    vars(error)[_APPENDED] = appended


async def cancelled_position(error: BaseException) -> int | range | None:
    """Where the append that was cancelled is in the log; None if it is not, and will never be.

        try:
            async with asyncio.timeout(0.1):
                await wal.put(key, value)
        except TimeoutError as error:
            position = await treering.aio.cancelled_position(error)

    `error` is the CancelledError (or TimeoutError) that came out of `put`, `delete`, `append` (an
    int is returned) or `append_batch` (a range). A record that is in the log will become durable
    like any other; `wait_durable` tells when. Waits if a thread is still appending.
    """
    cause: BaseException | None = error
    while cause is not None and _APPENDED not in vars(cause):
        cause = cause.__cause__ or cause.__context__
    found = None if cause is None else vars(cause)[_APPENDED]
    if not isinstance(found, Job):
        return cast("int | range | None", found)
    await found.wait()
    with contextlib.suppress(Exception):
        return cast("int | range | None", found.result())
    return None
