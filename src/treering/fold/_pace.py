"""When a fold makes a checkpoint by itself: after so many bytes, records or seconds of changes."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable

from .._core.background import Background, Signal
from .._core.errors import UsageError


class Pace:
    """Counts what was taken in, and has `make()` called by a thread of its own when it is time.

    The thread begins with the first need, and knows the fold only weakly: a fold that is forgotten
    can be collected. `count` is called by one thread at a time.
    """

    def __init__(
        self,
        make: weakref.WeakMethod[Callable[[], None]],
        bytes_max: int | None,
        records_max: int | None,
        seconds_max: float | None,
    ) -> None:
        _check_limits(bytes_max, records_max, seconds_max)
        self._make = make
        self._bytes_max = math.inf if bytes_max is None else bytes_max
        self._records_max = math.inf if records_max is None else records_max
        self._seconds_max = seconds_max
        self._ended = False
        self.restart()

    def restart(self) -> None:
        """As new; in a forked child, which has none of its parent's threads."""
        self._due = Signal()
        self._loop = _Loop(self._make, self._due, self._seconds_max)
        self._thread = Background(self._loop)
        self.begin()

    def begin(self) -> None:
        """Count from nothing: a checkpoint was made."""
        self.bytes = self.records = 0

    def count(self, records: int, size: int) -> None:
        """So many records with so many bytes were taken in."""
        self.records += records
        self.bytes += size
        if self.bytes >= self._bytes_max or self.records >= self._records_max:
            self.begin()
            if not self._ended and self._thread.start():
                self._due.set()
        elif self._seconds_max is not None and not self._ended:
            self._thread.start()

    def stop(self) -> None:
        """No more; without waiting for what is under way. Idempotent."""
        self._ended = True
        self._loop.ended = True
        self._due.set()

    def end(self) -> None:
        """No more; a checkpoint that is being made is finished first. Idempotent."""
        self.stop()
        self._thread.join()


class _Loop:
    """What the thread does."""

    def __init__(
        self,
        make: weakref.WeakMethod[Callable[[], None]],
        due: Signal,
        seconds: float | None,
    ) -> None:
        self._make, self._due = make, due
        self._seconds = -1 if seconds is None else seconds
        self.ended = False

    def __call__(self) -> None:
        while not self.ended:
            self._due.wait(self._seconds)
            make = self._make()
            if make is None:
                return
            if not self.ended:
                make()
            del make  # while it sleeps, nothing keeps the fold


def _check_limits(
    bytes_max: int | None, records_max: int | None, seconds_max: float | None
) -> None:
    limits = {"bytes": bytes_max, "records": records_max, "seconds": seconds_max}
    for name, limit in limits.items():
        whole = name != "seconds"
        kinds = (int,) if whole else (int, float)
        if limit is None:
            continue
        if isinstance(limit, bool) or not isinstance(limit, kinds) or not 0 < limit < 1 << 62:
            least = "at least 1" if whole else "over 0"
            raise UsageError(f"checkpoint_{name} must be {least}, or None, not {limit!r:.40}")
