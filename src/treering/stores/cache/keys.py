"""Keys: text, bytes, whole numbers and tuples of these, each kind apart from the others.

A key's bytes begin with its kind; a tuple's parts are written with their lengths. So each key has
one form, no two have the same, and it can be read back.
"""

from __future__ import annotations

from typing import Any

from treering import DamageError, TooLargeError, UsageError

Key = str | bytes | int | tuple[Any, ...]

KEY_BYTES_MAX = 65_000
KINDS = b"sbit"
_DEPTH_MAX = 32


def encode_key(key: Any) -> bytes:
    """The key as bytes; UsageError for what is none, TooLargeError for one that is too long."""
    coded = _encode(key, _DEPTH_MAX)
    if len(coded) > KEY_BYTES_MAX:
        raise _too_long(len(coded))
    return coded


def _encode(key: Any, depth: int, other: Any = None) -> bytes:
    kind = type(key)
    if kind is str:
        return b"s" + str.encode(key, "utf-8", "surrogatepass")
    if kind is bytes:
        return b"b%b" % key
    if kind is int:
        if key.bit_length() > 4 * KEY_BYTES_MAX:
            raise _too_long(key.bit_length() // 4)
        return b"i%x" % key
    if kind is tuple:
        if not depth:
            raise UsageError(f"a key has tuples in tuples, {_DEPTH_MAX} deep at most")
        parts = (_encode(part, depth - 1, other) for part in key)
        return b"t" + b"".join([b"%d:%b" % (len(part), part) for part in parts])
    if other is not None:
        coded: bytes = other(key)
        return coded
    raise UsageError(
        f"a key is text, bytes, a whole number, or a tuple of these, not {kind.__name__}",
        hint="Make a text of it first, or a tuple",
    )


def _too_long(length: int) -> TooLargeError:
    return TooLargeError(
        f"a key of {length} bytes, {KEY_BYTES_MAX} are allowed", hint="Use a hash of it"
    )


def encode_arguments(arguments: tuple[Any, ...]) -> bytes:
    """Arguments of a call as bytes: keys, and None, bool and float besides."""
    return _encode(arguments, _DEPTH_MAX, _other_argument)


def _other_argument(value: Any) -> bytes:
    if value is None:
        return b"n"
    if type(value) is bool:
        return b"o%d" % value
    if type(value) is float:
        return b"f" + value.hex().encode()
    raise UsageError(
        f"an argument of {type(value).__name__} makes no key",
        hint="Say what the key is: memoize(key=lambda ...: ...)",
    )


def decode_key(coded: bytes) -> Any:
    """The key that has these bytes; DamageError if none has."""
    try:
        key = _decode(coded)
        if encode_key(key) == coded:
            return key
    except (ValueError, IndexError, RecursionError, OverflowError) as error:
        raise _no_key(coded) from error
    raise _no_key(coded)


def _decode(coded: bytes) -> Any:
    kind, body = coded[:1], coded[1:]
    if kind == b"s":
        return body.decode("utf-8", "surrogatepass")
    if kind == b"b":
        return body
    if kind == b"i":
        return int(body, 16)
    if kind != b"t":
        raise ValueError("no such kind of key")
    parts = []
    while body:
        digits, _, rest = body.partition(b":")
        length = int(digits)
        if not 0 < length <= len(rest):
            raise ValueError("a part is cut short")
        parts.append(_decode(rest[:length]))
        body = rest[length:]
    return tuple(parts)


def _no_key(coded: bytes) -> DamageError:
    return DamageError(
        f"these bytes are no key of a cache: {coded!r:.60}",
        hint="Is this directory another store's? If not, restore it, or remove it: it is a cache",
    )
