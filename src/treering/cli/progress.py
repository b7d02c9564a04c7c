"""A progress display: a bar on a terminal, now and then a plain line elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from .showing import size

_BAR_COLUMNS = 30
_BAR_SECONDS = 0.1
_LINE_SECONDS = 5.0


class Progress:
    """Call it with the bytes done and the bytes there are. Writes to standard error only."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._bar = sys.stderr.isatty()
        self._started = self._said = time.monotonic()
        self._drawn = False

    def __call__(self, done: int, total: int) -> None:
        """So much of so much is done."""
        now = time.monotonic()
        pause = _BAR_SECONDS if self._bar else _LINE_SECONDS
        if self._quiet or now - self._said < pause:
            return
        self._said = now
        line = self._line(done, total, now - self._started)
        if self._bar:
            print(f"\r{line}\x1b[K", end="", file=sys.stderr, flush=True)
            self._drawn = True
        else:
            print(f"treering: {line}", file=sys.stderr, flush=True)

    def _line(self, done: int, total: int, seconds: float) -> str:
        share = done / total if total else 1.0
        speed = done / seconds if seconds else 0.0
        left = f", {(total - done) / speed:.0f} s left" if speed else ""
        text = f"{share:4.0%}  {size(done)} of {size(total)}, {size(speed)}/s{left}"
        if not self._bar:
            return text.strip()
        filled = round(share * _BAR_COLUMNS)
        return f"[{'#' * filled}{'.' * (_BAR_COLUMNS - filled)}] {text}"

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._drawn:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
