"""Sleeping until a log changes."""

from __future__ import annotations

import time

from .._core.arguments import check_seconds
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
