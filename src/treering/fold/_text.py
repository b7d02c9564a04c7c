"""Names that are texts, on their way into a log and out of it."""

from __future__ import annotations

from typing import Any

from .._core.errors import DamageError, UsageError


def as_text(text: Any, what: str, bytes_max: int) -> bytes:
    """A name as it is stored; UsageError for what is none."""
    if not isinstance(text, str):
        raise UsageError(f"{what} is a text, not {type(text).__name__}")
    try:
        encoded = text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"{what} has characters that cannot be stored: {text!r:.60}") from error
    size = len(encoded)
    if not size or size > bytes_max:
        raise UsageError(f"{what} must have 1 to {bytes_max} bytes as UTF-8, not {size}")
    return encoded


def as_str(data: bytes, position: int | None = None) -> str:
    """A text of the log; DamageError if it is none."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise DamageError(f"a name is no text: {data!r:.60}", position=position) from error
