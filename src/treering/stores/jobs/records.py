"""The records of a job queue: what a key says, and how long each part may be.

The first byte of a key is the kind, numbers follow. A put's value is the body of the job, its
headers are the user's; a lease's value names the worker, a failure's the error.
"""

from __future__ import annotations

import math
import time
from datetime import datetime
from struct import Struct, error
from typing import Any

from treering import Record, TooLargeError, UsageError
from treering.fold.kit import Foreign

_foreign = Foreign("a job queue")
refuse = _foreign.refuse
refuse_unknown = _foreign.refuse_unknown

PUT = Struct("<cqi")  # due, priority; the deduplication key follows
LEASE = Struct("<cQq")  # job, until when
EXTEND = Struct("<cQQq")  # job, token, until when
ACK = Struct("<cQQ")  # job, token
NACK = Struct("<cQQq")  # job, token, due again
RELEASE = Struct("<cQQ")  # job, token
DIE = Struct("<cQQc")  # job, token, reason
REQUEUE = Struct("<cQq")  # job, due
CANCEL = Struct("<cQ")  # job
PURGE = Struct("<cc")  # of which

LAYOUTS = {
    b"l": LEASE,
    b"e": EXTEND,
    b"a": ACK,
    b"n": NACK,
    b"b": RELEASE,
    b"d": DIE,
    b"r": REQUEUE,
    b"c": CANCEL,
    b"w": PURGE,
}

# A job in a snapshot: id, due, until when, token, attempts, priority, reason, died, lengths.
SAVED = Struct("<cQqqQIicqHHH")

FAILED, EXPIRED, LIVE = b"f", b"x", b"-"
REASONS = {FAILED: "failed", EXPIRED: "expired"}
JOBS, DEAD = b"j", b"d"  # what a purge removes

KEY_BYTES_MAX = 4096
WORKER_BYTES_MAX = 255
ERROR_BYTES_MAX = 4096
PRIORITY_MAX = (1 << 31) - 1
SECOND = 1_000_000_000
NS_MAX = 1 << 62


def put_key(due_ns: int, priority: int, key: bytes) -> bytes:
    """The key of a put."""
    return PUT.pack(b"p", due_ns, priority) + key


def unpack(layout: Struct, record: Record) -> tuple[Any, ...]:
    """The numbers of a record's key; DamageError if it has not that layout."""
    try:
        return layout.unpack(record.key)[1:]
    except error:
        refuse(record, "has a key of another length")


# --- what people give us ---


def check_body(body: Any) -> bytes:
    """The body as bytes; UsageError for what is none."""
    if not isinstance(body, bytes | bytearray | memoryview):
        raise UsageError(
            f"a body is bytes, not {type(body).__name__}", hint="Encode it first, as JSON, say"
        )
    return bytes(body)


def check_key(key: Any) -> bytes:
    """A deduplication key."""
    if not isinstance(key, bytes) or not key:
        raise UsageError(f"a key is bytes, and not empty: {key!r:.40}", hint="Encode the text")
    if len(key) > KEY_BYTES_MAX:
        raise TooLargeError(
            f"a key of {len(key)} bytes, {KEY_BYTES_MAX} are allowed", hint="Use a hash of it"
        )
    return key


def check_priority(priority: Any) -> int:
    """A priority: higher goes first."""
    whole = isinstance(priority, int) and not isinstance(priority, bool)
    if not whole or abs(priority) > PRIORITY_MAX:
        raise UsageError(f"a priority is a whole number of 32 bits, not {priority!r:.40}")
    return int(priority)


def check_count(count: Any, name: str) -> int:
    """A number of things, at least one."""
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise UsageError(f"{name} must be at least 1, not {count!r:.40}")
    return count


def check_id(id: Any) -> int:
    """What may be a job's id."""
    if not isinstance(id, int) or isinstance(id, bool) or not 0 <= id < 1 << 63:
        raise UsageError(f"a job's id is a whole number from 0 on, not {id!r:.40}")
    return id


def span_ns(seconds: Any, name: str, *, least: int = 0) -> int:
    """Nanoseconds of so many seconds, at least `least`."""
    number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if not number or not math.isfinite(seconds) or not least <= seconds * SECOND < NS_MAX:
        raise UsageError(
            f"{name} must be seconds, {'over' if least else 'at least'} 0, not {seconds!r:.40}"
        )
    return int(seconds * SECOND)


def moment_after(timeout: Any) -> float:
    """What the monotonic clock will say after so many seconds."""
    return time.monotonic() + span_ns(timeout, "timeout") / SECOND


def moment_ns(moment: Any, name: str) -> int:
    """Nanoseconds since 1970 of a datetime with a zone, or of seconds since then."""
    if isinstance(moment, datetime):
        if moment.tzinfo is None:
            raise UsageError(f"{name} has no time zone", hint="Give it one: UTC, say")
        moment = moment.timestamp()
    return span_ns(moment, name)


def error_bytes(text: str | None) -> bytes:
    """As much of an error's text as is kept."""
    if not isinstance(text, str | None):
        raise UsageError(f"an error is text, not {type(text).__name__}", hint="Say str(error)")
    data = (text or "").encode(errors="replace")[:ERROR_BYTES_MAX]
    return data.decode(errors="ignore").encode()
