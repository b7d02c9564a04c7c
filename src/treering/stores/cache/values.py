"""Values as bytes: one byte says the type, so that what comes back is what was set.

Before it may stand the tags of the entry, and until when a memoized result is fresh.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from struct import Struct, error
from typing import Any, Protocol

from treering import DamageError, TooLargeError, UsageError

TAGGED = ord("T")
FRESH = ord("F")
TAG_BYTES_MAX = 255
TAGS_MAX = 64

_FLOAT = Struct("<d")
_FRESH = Struct("<cq")
_BEFORE = frozenset({TAGGED, FRESH})
_PLAIN = frozenset({str, int, float, bool, type(None)})


class Codec(Protocol):
    """Turns objects into bytes and back; for values other than bytes, text, numbers, bool, None."""

    def encode(self, value: Any, /) -> bytes:
        """The value as bytes."""

    def decode(self, raw: bytes, /) -> Any:
        """The value again."""


# --- encoding ---


def encode(value: Any, codec: Codec | None) -> bytes:
    """The value as bytes; UsageError if neither JSON nor the codec can carry it unchanged."""
    kind = type(value)
    if kind is bytes:
        return b"b" + value  # type: ignore[no-any-return]
    if kind is str:
        return b"s" + value.encode("utf-8", "surrogatepass")  # type: ignore[no-any-return]
    if kind is int:
        return b"i%x" % value
    if kind is bool:
        return b"1" if value else b"0"
    if value is None:
        return b"n"
    if kind is float:
        return b"f" + _FLOAT.pack(value)
    if codec is not None:
        return b"c" + _as_bytes(codec.encode(value))
    return b"j" + _as_json(value)


def _as_bytes(made: Any) -> bytes:
    if not isinstance(made, bytes | bytearray | memoryview):
        raise UsageError(f"the codec's encode must return bytes, not {type(made).__name__}")
    return bytes(made)


def _as_json(value: Any) -> bytes:
    try:
        _check_plain(value)
        # Not as ASCII: escaped, a pair of surrogates would come back as one character.
        text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
        return text.encode("utf-8", "surrogatepass")
    except (RecursionError, ValueError) as caught:
        if isinstance(caught, UsageError):
            raise
        raise UsageError(f"the value cannot be written as JSON: {caught}") from caught


def _check_plain(value: Any) -> None:
    """Refuse what JSON would change on the way: tuples, numbers as keys, subclasses."""
    kind = type(value)
    if kind in _PLAIN:
        return
    if kind is list:
        for each in value:
            _check_plain(each)
    elif kind is dict:
        for key, each in value.items():
            if type(key) is not str:
                raise UsageError(
                    f"the keys of a dict in the cache are text, not {type(key).__name__}",
                    hint="Make text of them, or give the cache a codec=",
                )
            _check_plain(each)
    else:
        raise UsageError(
            f"{kind.__name__} would not come back from JSON as it is",
            hint="Use lists and dicts of text, numbers, bool, None; or give the cache a codec=",
        )


# --- decoding ---


def decode(raw: bytes, codec: Codec | None) -> Any:
    """The value that has these bytes; DamageError if none has."""
    tag = raw[0]
    if tag == 98:  # b
        return raw[1:]
    if tag == 115:  # s
        try:
            return raw[1:].decode()
        except UnicodeDecodeError:
            return _or_damage(raw, lambda: raw[1:].decode("utf-8", "surrogatepass"))
    if tag in _BEFORE:
        return decode(body(raw), codec)
    if tag == 99:  # c
        if codec is None:
            raise UsageError("the value was set with a codec", hint="Open the cache with codec=")
        return codec.decode(raw[1:])
    return _or_damage(raw, lambda: _decode_rare(raw))


def _decode_rare(raw: bytes) -> Any:
    kind, rest = raw[:1], raw[1:]
    if kind == b"i":
        return int(rest, 16)
    if kind == b"j":
        return json.loads(rest)
    if kind == b"f":
        return _FLOAT.unpack(rest)[0]
    return {b"n": None, b"1": True, b"0": False}[raw]


def _or_damage(raw: bytes, make: Any) -> Any:
    try:
        return make()
    except (ValueError, KeyError, RecursionError, error) as caught:
        raise no_value(raw) from caught


def no_value(raw: bytes) -> DamageError:
    """DamageError about bytes that no cache has written."""
    return DamageError(
        f"these bytes are no value of a cache: {raw!r:.60}",
        hint="A newer version wrote it, or another store. Delete the key, or clear the cache",
    )


def whole_number(key: Any, raw: bytes, codec: Codec | None) -> int:
    """The value, which is to be a whole number; UsageError if it is none."""
    value = decode(raw, codec)
    if type(value) is not int:
        raise UsageError(
            f"the value of {key!r:.60} is no whole number: {value!r:.40}", hint="Set it anew"
        )
    return value


# --- what stands before a value ---


def check_tags(tags: Any) -> list[bytes]:
    """The tags as bytes, each once; UsageError for what is none."""
    if isinstance(tags, str | bytes) or not isinstance(tags, Iterable):
        raise UsageError("tags are a list of texts", hint="tags=['one']")
    found = sorted({check_tag(tag) for tag in tags})
    if len(found) > TAGS_MAX:
        raise TooLargeError(f"{len(found)} tags, {TAGS_MAX} are allowed", hint="Use fewer tags")
    return found


def check_tag(tag: Any) -> bytes:
    """A tag as bytes."""
    if type(tag) is not str or not tag:
        raise UsageError(f"a tag is text, and not empty: {tag!r:.40}", hint="tags=['one']")
    coded = tag.encode("utf-8", "surrogatepass")
    if len(coded) > TAG_BYTES_MAX:
        raise TooLargeError(f"a tag of {len(coded)} bytes, {TAG_BYTES_MAX} are allowed")
    return coded


def tag_list(tags: list[bytes]) -> bytes:
    """How many, then each with its length."""
    return bytes([len(tags)]) + b"".join([bytes([len(tag)]) + tag for tag in tags])


def tagged(raw: bytes, tags: list[bytes]) -> bytes:
    """The value with these tags before it."""
    return b"T" + tag_list(tags) + raw if tags else raw


def fresh(raw: bytes, until_ns: int) -> bytes:
    """The value, and until when it is fresh."""
    return _FRESH.pack(b"F", until_ns) + raw


def read_tags(raw: bytes, start: int) -> tuple[tuple[bytes, ...], int]:
    """The tags of a list that begins there, and where it ends; ValueError if it is cut short."""
    if start >= len(raw):
        raise ValueError("no tags")
    tags, at = [], start + 1
    for _ in range(raw[start]):
        length = raw[at] if at < len(raw) else 0
        tag, at = raw[at + 1 : at + 1 + length], at + 1 + length
        if not length or len(tag) < length:
            raise ValueError("a tag is cut short")
        tags.append(tag)
    return tuple(tags), at


def tags_of(raw: bytes) -> tuple[bytes, ...]:
    """The tags that stand before a value; DamageError if they are not whole."""
    if raw[0] != TAGGED:
        return ()
    try:
        tags, end = read_tags(raw, 1)
        if end >= len(raw):
            raise ValueError("no value after the tags")
    except ValueError as caught:
        raise no_value(raw) from caught
    return tags


def body(raw: bytes) -> bytes:
    """The value without what stands before it."""
    if raw[0] == TAGGED:
        raw = raw[2 + sum(1 + len(tag) for tag in tags_of(raw)) :]
    if raw[0] == FRESH:
        raw = raw[_FRESH.size :]
    if not raw or raw[0] in _BEFORE:
        raise no_value(raw)
    return raw


def fresh_until(raw: bytes) -> int | None:
    """Until when a memoized result is fresh; None for ever."""
    if raw[0] == TAGGED:
        raw = raw[2 + sum(1 + len(tag) for tag in tags_of(raw)) :]
    if raw[0] != FRESH:
        return None
    until_ns: int = _or_damage(raw, lambda: _FRESH.unpack_from(raw)[1])
    return until_ns
