"""What became of an append whose task was cancelled."""

from __future__ import annotations

import asyncio
import contextlib

from .._core.errors import UsageError
from ._threads import Job

# The attributes of a CancelledError that tell it: where the records are, and if it is only one.
_APPENDED = "treering_appended"
_ALONE = "treering_alone"


def remember(error: BaseException, appended: int | range | Job) -> None:
    """Note in the error where the append is, or which job knows."""
    vars(error)[_APPENDED] = appended


def remember_alone(error: BaseException) -> None:
    """Note in the error that a batch was made for one record, whose caller wants its position."""
    vars(error)[_ALONE] = True


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

    Only the error that was raised first knows: a second `await` of one task raises another, and
    `asyncio.gather(..., return_exceptions=True)` returns others, which get UsageError here.
    """
    cause: BaseException | None = error
    while cause is not None and _APPENDED not in vars(cause):
        cause = _before(cause)
    if cause is None:
        if error.__traceback__ is None:
            raise UsageError(
                "this error was never raised, so it does not know of an append",
                hint="Await the task itself; gather(return_exceptions=True) makes new errors",
            )
        return None
    appended = await _outcome(vars(cause)[_APPENDED])
    return appended[0] if isinstance(appended, range) and _ALONE in vars(cause) else appended


def _before(error: BaseException) -> BaseException | None:
    """What the error came from. The context of a CancelledError is an older story: the append was
    made while that was handled."""
    if isinstance(error, asyncio.CancelledError):
        return error.__cause__
    return error.__cause__ or error.__context__


async def _outcome(appended: int | range | Job) -> int | range | None:
    if not isinstance(appended, Job):
        return appended
    await appended.wait()
    with contextlib.suppress(Exception):
        found: int | range | None = appended.result()
        return found
    return None
