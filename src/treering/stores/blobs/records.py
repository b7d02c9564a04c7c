"""What a blob store writes: the layouts of its records, and of its snapshots' records.

A record's key begins with one byte that says its kind. A reference is a digest and a name, or no
name: that is the store's own hold on a blob that was put without one. Numbers are little-endian.

    s                   how the store was made: "<algorithm> <kind of objects>"
    p digest [name]     a blob that the store had not: size, chunks, checksums, metadata
    l digest [name]     one more reference: 1 if a put found the bytes there, else 0; metadata
    u name              the name is gone
    d digest            the hold is gone
    c                   files that were removed: digests
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from typing import NamedTuple

from treering import Record
from treering.fold.kit import Foreign

from .refs import DIGEST_BYTES, NAME_BYTES_MAX
from .sums import COUNT_MAX, SHIFT, SHIFT_MAX, count_of

_foreign = Foreign("a blob store")
damaged = _foreign.damaged
unknown = _foreign.unknown

SETTINGS, NEW, LINK, UNLINK, DELETE, COLLECTED = b"s", b"p", b"l", b"u", b"d", b"c"
# Only in snapshots:
HEADER, BLOB, UNWANTED = b"H", b"B", b"U"

PAIR = struct.Struct("<QQ")
_BLOB = struct.Struct("<QQQB?I")  # size, position, time, shift, held, bytes of checksums
_NEW = struct.Struct("<QBI")  # size, shift, bytes of checksums


class Content(NamedTuple):
    """What is known of bytes that were read once."""

    digest: bytes
    size: int
    shift: int
    sums: bytes


class Blob(NamedTuple):
    """A blob that has references: how many names, whether it is held, the hold's metadata. The
    `position` and time are of the record that brought it."""

    size: int
    shift: int
    sums: bytes
    position: int
    time_ns: int
    names: int = 0
    held: bool = False
    metadata: bytes = b""


class Link(NamedTuple):
    """What a name stands for."""

    digest: bytes
    metadata: bytes


def settings(algorithm: str, kind: str) -> Record:
    """How the store was made."""
    return Record(SETTINGS, f"{algorithm} {kind}".encode())


def new(content: Content, name: bytes, metadata: bytes) -> Record:
    """A blob that the store had not, with its first reference."""
    head = _NEW.pack(content.size, content.shift, len(content.sums))
    return Record(NEW + content.digest + name, head + content.sums + metadata)


def link(digest: bytes, name: bytes, metadata: bytes, found: bool) -> Record:
    """One more reference; `found` by a put."""
    return Record(LINK + digest + name, (b"\1" if found else b"\0") + metadata)


def unlink(name: bytes) -> Record:
    """The name is gone."""
    return Record(UNLINK + name, b"")


def delete(digest: bytes) -> Record:
    """The hold is gone."""
    return Record(DELETE + digest, b"")


def collected(digests: Sequence[bytes]) -> list[Record]:
    """These files were removed: one record, or none."""
    return [Record(COLLECTED, b"".join(digests))] if digests else []


# --- reading them ---


def reference(record: Record) -> tuple[bytes, bytes]:
    """The digest and the name of a record about a reference."""
    digest, name = record.key[1 : 1 + DIGEST_BYTES], record.key[1 + DIGEST_BYTES :]
    if len(digest) != DIGEST_BYTES or len(name) > NAME_BYTES_MAX:
        raise damaged(record, "it names no blob")
    return digest, name


def brought(record: Record) -> tuple[Blob, bytes]:
    """The blob of a NEW record, without references, and the reference's metadata."""
    value = bytes(record.value)
    try:
        size, shift, length = _NEW.unpack_from(value)
    except struct.error:
        raise damaged(record, "it is cut short") from None
    sums, metadata = _cut(record, value[_NEW.size :], size, shift, length)
    return Blob(size, shift, sums, record.position or 0, record.timestamp_ns or 0), metadata


def linked(record: Record) -> tuple[bool, bytes]:
    """Whether a put found the bytes there, and the metadata."""
    value = bytes(record.value)
    if value[:1] not in (b"\0", b"\1"):
        raise damaged(record, "it says neither yes nor no")
    return value[:1] == b"\1", checked_metadata(record, value[1:])


def digests(record: Record) -> list[bytes]:
    """The digests of a COLLECTED record."""
    value = bytes(record.value)
    if len(value) % DIGEST_BYTES:
        raise damaged(record, "a digest is cut short")
    return [value[at : at + DIGEST_BYTES] for at in range(0, len(value), DIGEST_BYTES)]


def dumped(digest: bytes, blob: Blob) -> Record:
    """A blob in a snapshot; its names follow as LINK records."""
    head = _BLOB.pack(blob.size, blob.position, blob.time_ns, blob.shift, blob.held, len(blob.sums))
    return Record(BLOB + digest, head + blob.sums + blob.metadata)


def loaded(record: Record) -> Blob:
    """A blob of a snapshot."""
    value = bytes(record.value)
    try:
        size, position, time_ns, shift, held, length = _BLOB.unpack_from(value)
    except struct.error:
        raise damaged(record, "it is cut short") from None
    sums, metadata = _cut(record, value[_BLOB.size :], size, shift, length)
    return Blob(size, shift, sums, position, time_ns, 0, held, metadata)


def pair(record: Record) -> tuple[int, int]:
    """The two numbers that are a record's value."""
    try:
        one, other = PAIR.unpack(record.value)
    except struct.error:
        raise damaged(record, "it does not hold two numbers") from None
    return one, other


def _cut(record: Record, rest: bytes, size: int, shift: int, length: int) -> tuple[bytes, bytes]:
    """The checksums, which must be as many as the blob has chunks, and the metadata."""
    known = SHIFT <= shift <= SHIFT_MAX and length == 4 * count_of(size, shift)
    if not known or length > 4 * COUNT_MAX or len(rest) < length:
        raise damaged(record, "its checksums do not fit its size")
    return rest[:length], checked_metadata(record, rest[length:])


def checked_metadata(record: Record, packed: bytes) -> bytes:
    """The same bytes, if they are metadata."""
    try:
        metadata_of(packed)
    except (ValueError, RecursionError):
        raise damaged(record, "its metadata are none") from None
    return packed


def metadata_of(packed: bytes) -> dict[str, str]:
    """Metadata as they were given."""
    if not packed:
        return {}
    found = json.loads(packed)
    if not isinstance(found, dict) or not all(isinstance(text, str) for text in found.values()):
        raise ValueError("not a mapping of text to text")
    return found
