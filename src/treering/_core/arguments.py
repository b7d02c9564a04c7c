"""What every door asks of its arguments: the right kind, in range, and named in the error."""

from __future__ import annotations

import math
import operator
from typing import Any

from . import format as fmt
from .errors import UsageError


def whole_number(value: Any, what: str, least: int, most: int) -> int:
    """`value` as an int, whatever kind of whole number it is; a bool is none."""
    try:
        number = -1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = -1
    if not least <= number <= most:
        raise UsageError(f"{what} must be a number from {least} to {most}, not {value!r:.60}")
    return number


def check_position(value: Any) -> int:
    """A position: whether the log has it is another question."""
    return whole_number(value, "a position", 0, fmt.POSITION_MAX)


def check_seconds(value: Any, what: str) -> float:
    """A time span in seconds, 0 and infinity included."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
        raise UsageError(f"{what} must be a number of seconds from 0 on, not {value!r:.60}")
    return value


def whole_nanoseconds(seconds: Any, what: str) -> int:
    """A point in time or a span, in nanoseconds."""
    if not isinstance(seconds, bool) and isinstance(seconds, int | float):
        try:
            exact = seconds * 1_000_000_000
            if math.isfinite(exact):
                return round(exact)
        except OverflowError:
            pass
    raise UsageError(f"{what} must be a number of seconds, not {seconds!r:.60}")
