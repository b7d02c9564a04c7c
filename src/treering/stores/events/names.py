"""What callers may name, and the errors of this store."""

from __future__ import annotations

from typing import Any

from treering import ConflictError, UsageError
from treering.fold.kit import as_text

STREAM_BYTES_MAX = 4096
TYPE_BYTES_MAX = 1024
ID_BYTES_MAX = 255


class WrongVersionError(ConflictError):
    """The stream has another version than the caller expected, so nothing was appended. `actual`
    is the version of its newest event (-1: there is none), `expected` what the caller said."""

    stream: str = ""
    actual: int = -1
    expected: int = -1


class DuplicateEventError(UsageError):
    """Some events of the call are in the stream already, and others are not, or elsewhere: so it
    is no repetition of an earlier call. Nothing was appended."""


def wrong_version(stream: str, actual: int, expected: int) -> WrongVersionError:
    """The error for an append that expected another version."""
    there = f"is at version {actual}" if actual >= 0 else "has no events"
    wanted = f"version {expected}" if expected >= 0 else "a stream without events"
    error = WrongVersionError(
        f"the stream {stream!r:.80} {there}, but the call expected {wanted}",
        hint="Read what came, decide again, and try again with the new version",
    )
    error.stream, error.actual, error.expected = stream, actual, expected
    return error


def stream_name(stream: Any) -> bytes:
    """A stream's name as it is stored."""
    return as_text(stream, "a stream's name", STREAM_BYTES_MAX)


def check_version(version: Any, what: str, least: int = 0) -> int:
    """A version; UsageError for what is none."""
    if isinstance(version, bool) or not isinstance(version, int) or version < least:
        raise UsageError(f"{what} must be a whole number from {least} on, not {version!r:.40}")
    return version
