"""What calls are given: pages, their bytes, the folder."""

from __future__ import annotations

import operator
import os
from typing import Any

from treering import UsageError

from .records import PAGE_BYTES_MAX, PAGE_BYTES_MIN, is_page_size


def whole(value: Any, what: str, end: int) -> int:
    """A whole number from 0 on, below `end`; UsageError for anything else."""
    try:
        number = -1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = -1
    if not 0 <= number < end:
        raise UsageError(f"{what} is a whole number from 0 to {end - 1}, not {value!r:.60}")
    return number


def page_size(value: Any) -> int:
    """A size that pages can have."""
    if isinstance(value, bool) or not isinstance(value, int) or not is_page_size(value):
        raise UsageError(
            f"page_bytes must be a power of two from {PAGE_BYTES_MIN} to {PAGE_BYTES_MAX}, "
            f"not {value!r:.60}"
        )
    return value


def page_data(value: Any, page_bytes: int) -> bytes:
    """The bytes of a whole page."""
    if not isinstance(value, bytes | bytearray | memoryview):
        raise UsageError(f"a page is bytes, not {type(value).__name__}")
    data = bytes(value)
    if len(data) != page_bytes:
        raise UsageError(
            f"a page has {page_bytes} bytes, not {len(data)}",
            hint=f"Fill it up, say with data.ljust({page_bytes}, b'\\0')",
        )
    return data


def folder(path: Any) -> str:
    """The store's directory, as an absolute path."""
    text = path if isinstance(path, str) else getattr(path, "__fspath__", lambda: None)()
    if not isinstance(text, str) or not text or "\0" in text:
        raise UsageError(f"the path must be a text or a path object, not {path!r:.60}")
    return os.path.abspath(text)
