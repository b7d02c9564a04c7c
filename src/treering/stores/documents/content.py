"""What may be in a document, and how it becomes bytes."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn, Protocol

from treering import UsageError

from .pointer import NESTING_MAX

# What is safe to read again in any process, whatever its limit for digits is set to.
_INTEGER_BITS_MAX = 2_126

_PLAIN = frozenset({str, int, float, bool, type(None)})


class Codec(Protocol):
    """How values become JSON. All that use one log have to use codecs that read each other's."""

    def encode(self, data: Any) -> bytes:
        """`data` as compact JSON in UTF-8; TypeError or ValueError for what cannot be written."""

    def decode(self, raw: bytes) -> Any:
        """The value; ValueError for what is no JSON."""


class JsonCodec:
    """JSON, with the standard library."""

    def __init__(self) -> None:
        self._encode = json.JSONEncoder(
            ensure_ascii=False, check_circular=False, separators=(",", ":"), allow_nan=False
        ).encode
        self._decode = json.JSONDecoder(parse_constant=_refuse, parse_float=_finite).decode

    def encode(self, data: Any) -> bytes:
        """See Codec."""
        return self._encode(data).encode()

    def decode(self, raw: bytes) -> Any:
        """See Codec."""
        return self._decode(str(raw, "utf-8"))


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text:.40} is out of range")
    return number


STANDARD = JsonCodec()


def size_of(value: Any) -> int:
    """How many bytes it has as JSON, whatever codec a store was opened with."""
    return len(STANDARD.encode(value))


def encoded(codec: Codec, value: Any) -> bytes:
    """A checked value as bytes; UsageError for text that is none."""
    try:
        return codec.encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(
            f"this cannot be written as JSON: {error}", hint="Surrogates in text come in pairs"
        ) from error


def check_value(value: Any, room: int = NESTING_MAX) -> None:
    """UsageError unless JSON says exactly this value, so that what is read is what was written;
    `room` is how deeply it may be nested. O(size)."""
    kind = type(value)
    if kind is dict:
        _check_room(room)
        for name, each in value.items():
            if type(name) is not str:
                raise UsageError(
                    f"a name in a document is text, not {name!r:.40}", hint="Use str(name), say"
                )
            if type(each) is not str:
                check_value(each, room - 1)
    elif kind is list:
        _check_room(room)
        for each in value:
            if type(each) is not str:
                check_value(each, room - 1)
    elif kind is float:
        if not math.isfinite(value):
            raise UsageError(f"JSON has no {value!r}", hint="Use None, or text")
    elif kind is int:
        if value.bit_length() > _INTEGER_BITS_MAX:
            raise UsageError("a whole number has at most 640 digits", hint="Keep it as text")
    elif kind not in _PLAIN:
        raise UsageError(
            f"JSON cannot say {kind.__name__}: {value!r:.60}",
            hint="A document has dict, list, str, int, float, bool and None, nothing else",
        )


def _check_room(room: int) -> None:
    if room <= 0:
        raise UsageError(
            f"a document is nested at most {NESTING_MAX} levels deep", hint="Nest less deeply"
        )


def check_document(document: Any) -> dict[str, Any]:
    """A whole document: an object of JSON."""
    if type(document) is not dict:
        raise UsageError(
            f"a document is a dict, not {type(document).__name__}",
            hint="Put what it is under a name",
        )
    check_value(document)
    return document


def too_deep(raw: bytes, value: Any) -> bool:
    """Whether the value that these bytes say is nested too deeply to work on."""
    if raw.count(b"{") + raw.count(b"[") <= NESTING_MAX:
        return False  # not worth a look
    level = [value]
    for _ in range(NESTING_MAX + 1):
        level = [each for node in level for each in _within(node)]
    return bool(level)


def _within(node: Any) -> Any:
    if type(node) is dict:
        return node.values()
    return node if type(node) is list else ()


def half_a_character(raw: bytes, value: Any) -> bool:
    """Whether these bytes say text that cannot be written again: a surrogate alone."""
    if b"\\ud" not in raw and b"\\uD" not in raw:
        return False
    try:
        STANDARD.encode(value)
    except UnicodeEncodeError:
        return True
    return False
