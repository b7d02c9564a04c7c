"""What is kept: from what callers give."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from treering import UsageError

from .given import SECOND_NS, duration_ns
from .state import Config

_LEVELS_MAX = 16


class TooOldError(UsageError):
    """The time lies before what raw points are kept: its interval is closed. Nothing was recorded.
    `floor` is the oldest time that is taken, in ns since 1970."""

    floor = 0

    @classmethod
    def at(cls, time: int, floor: int) -> TooOldError:
        """The error for a point of that time."""
        since = datetime.fromtimestamp(floor / SECOND_NS, UTC).isoformat(timespec="seconds")
        error = cls(
            f"raw points are kept since {since}, and this one is older: {time} ns since 1970",
            hint="Leave it out, or keep raw points longer. (An int is ns; a float is seconds.)",
        )
        error.floor = floor
        return error


def config_of(before: Config, retention: Any, rollups: Any) -> Config:
    """The configuration with these in place of what was; `...` leaves it as it is."""
    raw_ns = before.raw_ns if retention is ... else _kept(retention, "retention")
    levels = before.levels if rollups is ... else _levels(rollups)
    last_ns, last_resolution = raw_ns, 0
    for resolution, kept_ns in levels:
        if last_resolution and (resolution == last_resolution or resolution % last_resolution):
            raise UsageError(
                "a resolution is a multiple of the one before it",
                hint="As [(60, 30 * 86400), (3600, None)]",
            )
        if (kept_ns or math.inf) < (last_ns or math.inf):
            raise UsageError(
                "a level is kept for less time than what is finer than it",
                hint="Keep raw points least, and the coarsest level longest",
            )
        last_ns, last_resolution = kept_ns, resolution
    if raw_ns and levels and raw_ns < levels[-1][0]:
        raise UsageError(
            "raw points are kept for less time than an interval of the coarsest level",
            hint="Its buckets are made of raw points: keep these for longer than one",
        )
    return Config(raw_ns, levels)


def _kept(seconds: Any, what: str) -> int:
    if seconds is None or seconds == math.inf:
        return 0
    return duration_ns(seconds, what)


def _levels(rollups: Any) -> tuple[tuple[int, int], ...]:
    if isinstance(rollups, str | bytes) or not isinstance(rollups, Iterable):
        raise UsageError(f"rollups are pairs of seconds, not {rollups!r:.40}", hint=_HINT)
    levels = []
    for level in rollups:
        if not isinstance(level, tuple | list) or len(level) != 2:
            raise UsageError(f"a level is a pair of seconds, not {level!r:.40}", hint=_HINT)
        levels.append((duration_ns(level[0], "a resolution"), _kept(level[1], "a retention")))
    if len(levels) > _LEVELS_MAX:
        raise UsageError(f"there are at most {_LEVELS_MAX} levels, not {len(levels)}")
    return tuple(levels)


_HINT = "Say [(60, 30 * 86400), (3600, None)]: a resolution, and for how long; None is for ever"
