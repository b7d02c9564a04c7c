"""References: which bytes are meant, by their digest; and what else a caller may say of a blob."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from treering import NotThereError, TooLargeError, UsageError

DIGEST_BYTES = 32
NAME_BYTES_MAX = 1024
METADATA_BYTES_MAX = 60_000
_NAMES_TOLD = 5

_TEXT = re.compile(r"([a-z0-9]{1,16}):([0-9a-f]{64})", re.ASCII)


class StillLinkedError(UsageError):
    """The blob has names. `names` are some of them."""

    names: tuple[str, ...] = ()


def still_linked(names: list[str]) -> StillLinkedError:
    """The error for a blob that has these names."""
    told = ", ".join(repr(name)[:60] for name in names[:_NAMES_TOLD])
    error = StillLinkedError(
        f"{len(names)} names stand for the blob: {told}", hint="Unlink them instead"
    )
    error.names = tuple(names)
    return error


@dataclass(frozen=True, slots=True)
class BlobRef:
    """A reference to a blob: `str(ref)` is text such as "sha256:…", which any other store may keep,
    and `BlobRef.parse` reads it again. `size` is in bytes; None if it was parsed. References to the
    same bytes are equal."""

    algorithm: str
    digest: bytes
    size: int | None = field(default=None, compare=False)

    @classmethod
    def parse(cls, text: str) -> BlobRef:
        """The reference that a text says; UsageError for any other text."""
        match = _TEXT.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            raise UsageError(
                f"this is no reference to a blob: {text!r:.100}",
                hint='It has the form "sha256:" and 64 hexadecimal digits, as str(ref) gives it',
            )
        return cls(match[1], bytes.fromhex(match[2]))

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.digest.hex()}"


class Hash(Protocol):
    """What hashlib's objects are."""

    def update(self, data: Any, /) -> Any:
        """Take in more bytes."""

    def digest(self) -> bytes:
        """The digest of all of them."""


class Hashing(NamedTuple):
    """How digests are made: `name` stands in references, `new()` begins one of 32 bytes."""

    name: str
    new: Callable[[], Hash]


SHA256 = Hashing("sha256", hashlib.sha256)


def check_hashing(hashing: Any) -> Hashing:
    """The hashing, tried out."""
    if not isinstance(hashing, Hashing) or not re.fullmatch(r"[a-z0-9]{1,16}", hashing.name):
        raise UsageError(
            f"hashing must be a Hashing, not {hashing!r:.60}",
            hint="Leave it out, or give treering.integrations.blake3.BLAKE3",
        )
    if len(hashing.new().digest()) != DIGEST_BYTES:
        raise UsageError(f"a digest of {hashing.name} has not {DIGEST_BYTES} bytes")
    return hashing


def digest_of(ref: Any, algorithm: str) -> bytes:
    """The digest that a reference or its text names, in a store with this algorithm."""
    found = ref if isinstance(ref, BlobRef) else BlobRef.parse(ref)
    if found.algorithm != algorithm:
        raise NotThereError(
            f"the store has no such blob: {found}",
            hint=f"Its references begin with {algorithm}:",
        )
    if not isinstance(found.digest, bytes) or len(found.digest) != DIGEST_BYTES:
        raise UsageError(f"a digest is {DIGEST_BYTES} bytes, not {found.digest!r:.60}")
    return found.digest


def name_bytes(name: Any) -> bytes:
    """A name as it is stored; UsageError for what is none."""
    try:
        packed = name.encode() if isinstance(name, str) else b""
    except UnicodeEncodeError:
        packed = b""
    if not 0 < len(packed) <= NAME_BYTES_MAX:
        raise UsageError(
            f"a name is text of 1 to {NAME_BYTES_MAX} bytes, not {name!r:.60}",
            hint="It never becomes a path, so any text will do",
        )
    return packed


def metadata_bytes(metadata: Any) -> bytes | None:
    """Metadata as they are stored: JSON, or nothing; None for those that are not given."""
    if metadata is None:
        return None
    if not isinstance(metadata, Mapping):
        raise _wrong_metadata(metadata)
    fields = dict(metadata)
    if not all(isinstance(text, str) for pair in fields.items() for text in pair):
        raise _wrong_metadata(metadata)
    packed = json.dumps(fields, separators=(",", ":")).encode() if fields else b""
    if len(packed) > METADATA_BYTES_MAX:
        raise TooLargeError(
            f"the metadata take {len(packed)} bytes, the limit is {METADATA_BYTES_MAX}",
            hint="Put them into a blob of their own",
        )
    return packed


def _wrong_metadata(metadata: Any) -> UsageError:
    return UsageError(
        f"metadata are a mapping of text to text, not {metadata!r:.60}", hint="Turn them into text"
    )
