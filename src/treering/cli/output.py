"""How commands speak: lines for people, JSON for machines; bytes from logs made safe."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import treering

_BAR_WIDTH = 30
_LINE_SECONDS = 5.0
_BAR_SECONDS = 0.1


class Output:
    """Standard output in one of two forms; errors and progress go to standard error."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json

    def say(self, text: str) -> None:
        """A line for people; nothing with --json."""
        if not self.as_json:
            print(text)

    def data(self, content: Any) -> None:
        """A line of JSON; nothing without --json."""
        if self.as_json:
            print(json.dumps(content))

    def error(self, error: treering.TreeringError) -> None:
        """One line on standard error: what happened, where, and what to do."""
        if self.as_json:
            content: dict[str, Any] = {
                "error": type(error).__name__,
                "message": error.message,
                "path": error.path,
            }
            content |= {"offset": error.offset, "position": error.position, "hint": error.hint}
            print(json.dumps(content), file=sys.stderr)
        else:
            print(f"treering: {printable(str(error))}", file=sys.stderr)


class Progress:
    """Called with the bytes done and the bytes there are: a bar on a terminal, else now and then a
    line. Silent with --json."""

    def __init__(self, what: str, output: Output) -> None:
        self._what = what
        self._silent = output.as_json
        self._bar = sys.stderr.isatty()
        self._shown_at = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        """Show it, if it is time to."""
        pause = _BAR_SECONDS if self._bar else _LINE_SECONDS
        now = time.monotonic()
        if self._silent or now - self._shown_at < pause:
            return
        self._shown_at = now
        share = min(done / total, 1.0) if total else 1.0
        if self._bar:
            filled = round(share * _BAR_WIDTH)
            bar = "#" * filled + "." * (_BAR_WIDTH - filled)
            print(f"\r{self._what} [{bar}] {share:4.0%}", end="", file=sys.stderr, flush=True)
        else:
            print(f"{self._what}: {share:.0%} of {size(total)}", file=sys.stderr, flush=True)

    def finish(self) -> None:
        """Wipe the bar away."""
        if self._bar and not self._silent:
            print("\r" + " " * (len(self._what) + _BAR_WIDTH + 9) + "\r", end="", file=sys.stderr)


def printable(text: str) -> str:
    """The text with everything that could steer a terminal shown as an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def as_text(data: bytes, limit: int | None = None) -> str:
    """Bytes for people: UTF-8 where they are, escapes where not; at most `limit` bytes."""
    shown = data if limit is None else data[:limit]
    text = printable(shown.decode("utf-8", errors="backslashreplace"))
    return text if len(shown) == len(data) else f"{text}… ({len(data)} bytes)"


def size(count: float) -> str:
    """A number of bytes for people."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
