"""What a fold asks of its log, besides reading it."""

from __future__ import annotations

import time
from typing import Any

from .._core.arguments import check_seconds
from .._core.errors import PrunedError
from .._core.source import WAIT_SLICE_SECONDS
from .._core.wal import Wal


def wait_for_news(wal: Wal, position: int, rewinds: int, timeout: float | None) -> bool:
    """Block until the log ends elsewhere than at `position`, or was cut more than `rewinds` times,
    at most `timeout` seconds; whether that is so."""
    until = None if timeout is None else time.monotonic() + check_seconds(timeout, "timeout")
    while True:
        if wal.current_position() != position or wal._rewinds() != rewinds:
            return True
        left = WAIT_SLICE_SECONDS if until is None else until - time.monotonic()
        if left <= 0:
            return False
        # In slices, so that `close` in another thread is noticed.
        wal._any().source.wait(position, False, min(left, WAIT_SLICE_SECONDS))


def position_at(wal: Wal, time: Any) -> int:
    """The position of the first record with that time or a later one, or the log's end.
    PrunedError if records that old were removed."""
    with wal.read_from(time=time) as reader:
        position = reader.position
    if position == wal.first_position > 0:
        error = PrunedError(
            "a checkpoint removed the records of that time",
            position=position,
            hint=f"The oldest is of {wal.read(position).timestamp}",
        )
        error.oldest = position
        raise error
    return position
