"""How a handle treats its sessions: how long they live, how large they may be."""

from __future__ import annotations

from typing import Any, NamedTuple

from treering import UsageError

from . import records as rec
from .codec import Codec, Values

DAY = 86_400.0
_DATA_BYTES_MOST = 16 << 20


class Default:
    """Stands for "as the handle says" where None means something."""

    def __repr__(self) -> str:
        return "…"


DEFAULT: Any = Default()


class Terms(NamedTuple):
    """The options of a handle, checked."""

    idle_ns: int
    lifetime_ns: int
    touch_ns: int
    sweep_seconds: float | None
    values: Values

    def spans(self, idle: Any, lifetime: Any) -> tuple[int, int]:
        """Those of one session, in ns; 0 for none."""
        return _spans(
            self.idle_ns if idle is DEFAULT else _optional(idle, "idle"),
            self.lifetime_ns if lifetime is DEFAULT else _optional(lifetime, "lifetime"),
        )


def make_terms(
    idle: float | None = 2 * 3600.0,
    lifetime: float | None = 14 * DAY,
    touch_seconds: float = 60.0,
    session_bytes_max: int = 64 << 10,
    sweep_seconds: float | None = 60.0,
    codec: Codec | None = None,
) -> Terms:
    """The options of a handle; UsageError for what cannot be one."""
    whole = isinstance(session_bytes_max, int) and not isinstance(session_bytes_max, bool)
    if not whole or not 0 < session_bytes_max <= _DATA_BYTES_MOST:
        raise UsageError(
            f"session_bytes_max must be from 1 to {_DATA_BYTES_MOST}, not {session_bytes_max!r:.40}"
        )
    if codec is not None and not (hasattr(codec, "encode") and hasattr(codec, "decode")):
        raise UsageError(
            f"a codec has encode and decode, {codec!r:.60} has not",
            hint="MsgspecCodec() of treering.integrations.msgspec is one",
        )
    sweep_ns = _optional(sweep_seconds, "sweep_seconds")
    return Terms(
        *_spans(_optional(idle, "idle"), _optional(lifetime, "lifetime")),
        rec.span_ns(touch_seconds, "touch_seconds", least=0),
        sweep_ns / rec.SECOND if sweep_ns else None,
        Values(codec, session_bytes_max),
    )


def _optional(seconds: Any, name: str) -> int:
    return 0 if seconds is None else rec.span_ns(seconds, name)


def _spans(idle_ns: int, lifetime_ns: int) -> tuple[int, int]:
    if not idle_ns and not lifetime_ns:
        raise UsageError(
            "a session that neither idling nor age ends would stay for ever",
            hint="Give idle or lifetime, in seconds",
        )
    return idle_ns, lifetime_ns
