"""A clock that tells what the test wants."""

from __future__ import annotations

import random
import threading

SECOND = 1_000_000_000

# Some time in 2023: what a test prints looks like a date.
_START = 1_700_000_000 * SECOND


class FakeClock:
    """Nanoseconds since 1970, as an int: `Wal.open(path, clock=FakeClock())`.

    Stands still until it is told to move; may go backwards, as real clocks do. Thread-safe.

    start: what it tells first, in nanoseconds.
    step: nanoseconds that it advances with each reading.
    jitter_seconds: each reading is off by up to this much, either way, so that successive
        readings may go backwards. The clock itself does not drift.
    seed: of the jitter.
    """

    def __init__(
        self, start: int = _START, *, step: int = 0, jitter_seconds: float = 0.0, seed: int = 0
    ) -> None:
        self.step = step
        self.jitter_seconds = jitter_seconds
        self._lock = threading.Lock()
        self._now = start
        self._rng = random.Random(seed)

    def __call__(self) -> int:
        """The time."""
        with self._lock:
            now, jitter = self._now, int(self.jitter_seconds * SECOND)
            self._now += self.step
            return now + (self._rng.randint(-jitter, jitter) if jitter else 0)

    def advance(self, seconds: float) -> None:
        """Let time pass; it cannot pass backwards (see `jump`)."""
        if seconds < 0:
            raise ValueError("time does not go backwards: use jump()")
        self.jump(seconds)

    def jump(self, seconds: float) -> None:
        """Set the clock forwards, or backwards if negative, as an administrator or NTP does."""
        with self._lock:
            self._now += round(seconds * SECOND)

    def set(self, nanoseconds: int) -> None:
        """Set the clock to this time."""
        with self._lock:
            self._now = nanoseconds
