"""Keys: what may be one, and which lie between two bounds."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import Any

from treering import UsageError
from treering.fold.kit import after


class NotBytesError(UsageError, TypeError):
    """A key or a value that is not bytes."""


def check_key(key: Any) -> bytes:
    """The key; NotBytesError for what is not bytes."""
    if not isinstance(key, bytes):
        raise NotBytesError(
            f"a key is bytes, not {type(key).__name__}",
            hint="Encode the text first, or use store.text()",
        )
    return key


def check_value(value: Any) -> bytes:
    """The value as bytes; NotBytesError for what is none."""
    if not isinstance(value, bytes | bytearray | memoryview):
        raise NotBytesError(
            f"a value is bytes, not {type(value).__name__}",
            hint="Encode the text first, or use store.text()",
        )
    return bytes(value)


def span(
    keys: list[bytes],
    start: bytes | None,
    stop: bytes | None,
    include_start: bool,
    include_stop: bool,
    prefix: bytes | None,
) -> slice:
    """Which of the sorted keys lie between the bounds, and begin with the prefix."""
    low, high = 0, len(keys)
    if prefix is not None:
        if start is not None or stop is not None:
            raise UsageError("give a prefix, or start and stop, not both")
        start, include_start = check_key(prefix), True
        stop, include_stop = after(prefix), False
    if start is not None:
        low = (bisect_left if include_start else bisect_right)(keys, check_key(start))
    if stop is not None:
        high = (bisect_right if include_stop else bisect_left)(keys, check_key(stop))
    return slice(low, max(low, high))
