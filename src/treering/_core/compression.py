"""Optional compression of values. The libraries come with extras and are loaded on first use.

Knows only names and functions: each library's module in `treering.integrations` offers
`compress(data)` and `decompress(data, raw_bytes)`, the latter bounded by `raw_bytes`.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from .errors import DamageError, MissingExtraError
from .format import COMPRESSIONS, FRAME_BYTES_LIMIT

_NAMES = {number: name for name, number in COMPRESSIONS.items()}


def _library(name: str) -> ModuleType:
    try:
        return importlib.import_module(f"treering.integrations.{name}")
    except ImportError as error:
        raise MissingExtraError(
            f"compression {name!r} needs a library that is not installed",
            hint=f"pip install 'treering[{name}]'",
        ) from error


def compress(name: str, value: bytes) -> bytes | None:
    """`value` compressed, or None if that would not make it smaller. MissingExtraError."""
    packed: bytes = _library(name).compress(value)
    # The record needs four more bytes to say how long the value was.
    return packed if len(packed) + 4 < len(value) else None


def decompress(number: int, stored: bytes, raw_bytes: int) -> bytes:
    """The value that was stored compressed; never more than `raw_bytes` and the format's limit.

    MissingExtraError without the library; DamageError for bytes that do not decompress to exactly
    what the record declares.
    """
    name = _NAMES[number]
    if raw_bytes > FRAME_BYTES_LIMIT:
        raise DamageError(f"a compressed value claims {raw_bytes} bytes, over the format's limit")
    library = _library(name)
    try:
        value: bytes = library.decompress(stored, raw_bytes)
    except MemoryError:
        raise  # says nothing about the bytes
    except Exception as error:
        raise DamageError(f"a value does not decompress as {name}") from error
    if len(value) != raw_bytes:
        raise DamageError(f"a value decompresses to {len(value)} bytes instead of {raw_bytes}")
    return value
