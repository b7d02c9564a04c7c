"""JSON Pointers (RFC 6901): where in a document something is."""

from __future__ import annotations

import re
from typing import Any

from treering import TooLargeError, UsageError

Tokens = tuple[str, ...]

NESTING_MAX = 100
PATH_BYTES_MAX = 16_384
ID_BYTES_MAX = 1_024

_WRONG_ESCAPE = re.compile("~(?![01])")
_INDEX = re.compile("0|[1-9][0-9]{0,17}", re.ASCII)


def parse(path: Any) -> Tokens:
    """The names and numbers on the way to what the pointer says; UsageError if it is none."""
    if not isinstance(path, str) or (path and path[0] != "/"):
        raise UsageError(
            f"a path is a JSON Pointer, not {path!r:.60}", hint='As "/address/city" or "/tags/0"'
        )
    if len(as_bytes(path, "a path")) > PATH_BYTES_MAX:
        raise path_too_long()
    tokens = path.split("/")[1:]
    if len(tokens) > NESTING_MAX:
        raise TooLargeError(f"a path has at most {NESTING_MAX} steps", hint="Nest less deeply")
    if "~" in path:
        if _WRONG_ESCAPE.search(path):
            raise UsageError(
                f"in {path!r:.60} a ~ stands alone", hint="Write ~0 for ~ and ~1 for / in a name"
            )
        tokens = [token.replace("~1", "/").replace("~0", "~") for token in tokens]
    return tuple(tokens)


def path_too_long() -> TooLargeError:
    """A path over its limit."""
    return TooLargeError(
        f"a path has at most {PATH_BYTES_MAX} bytes", hint="Set what is above it as a whole"
    )


def written(tokens: Tokens) -> str:
    """The pointer to there."""
    return "".join("/" + token.replace("~", "~0").replace("/", "~1") for token in tokens)


def index_of(token: str) -> int | None:
    """The place in an array; None if the token says none."""
    return int(token) if _INDEX.fullmatch(token) else None


def check_id(id: Any) -> bytes:
    """A document's id as bytes; UsageError for what is none."""
    if not isinstance(id, str) or not id:
        raise UsageError(f"an id is text, and not empty: {id!r:.60}", hint="Use str(id), say")
    data = as_bytes(id, "an id")
    if len(data) > ID_BYTES_MAX:
        raise TooLargeError(
            f"an id of {len(data)} bytes, {ID_BYTES_MAX} are allowed", hint="Use a hash of it"
        )
    return data


def as_bytes(text: str, what: str) -> bytes:
    """Text as UTF-8."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(
            f"{what} has half a character: {text!r:.60}", hint="Surrogates come in pairs"
        ) from error
