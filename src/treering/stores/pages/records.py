"""The records of a page store.

    key                                         value
    F                                           version, page size: the first record of all
    I page number                               the whole page, without the zeros at its end
    D page index, position of the version       the bytes that differ from that version
      before
    C position                                  nothing: what was newest below that position, and
                                                still is, is in the data file

`number` counts the records of one transaction, which are neighbours in the log. Numbers are
little-endian. A page's first change after a checkpoint is whole, so that a data file torn by a
crash is never needed.
"""

from __future__ import annotations

import struct
from itertools import pairwise
from typing import NamedTuple

from treering import DamageError, Record, VersionError
from treering.fold.kit import Foreign

_foreign = Foreign("a page store")
damaged = _foreign.damaged

FORMAT, IMAGE, DELTA, CHECKPOINT = b"F", b"I", b"D", b"C"
VERSION = 1

PAGE_BYTES_MIN, PAGE_BYTES_MAX = 512, 65536
# Below the largest file that common file systems can hold.
FILE_BYTES_MAX = 1 << 43

# So many changes in part follow a whole page at most: reading a page reads no more records.
CHANGES_MAX = 8
# What a log may ask of us at most.
_CHAIN_MAX = 255

_FORMAT = struct.Struct("<HI")
_IMAGE = struct.Struct("<cQI")
_DELTA = struct.Struct("<cQIQ")
_CHECKPOINT = struct.Struct("<cQ")
_RANGE = struct.Struct("<HH")

# Bytes are compared in pieces that halve down to this.
_GRAIN_BYTES = 8


class PageChange(NamedTuple):
    """What the key of a page's record says; `before` is None for a whole page."""

    page: int
    number: int
    before: int | None


def is_page_size(size: int) -> bool:
    """A power of two within the limits."""
    return PAGE_BYTES_MIN <= size <= PAGE_BYTES_MAX and size & (size - 1) == 0


def pages_max(page_bytes: int) -> int:
    """How many pages of that size a store can have."""
    return FILE_BYTES_MAX // (2 * page_bytes)


# --- Writing ---


def format_record(page_bytes: int) -> Record:
    """The first record of a store."""
    return Record(FORMAT, _FORMAT.pack(VERSION, page_bytes))


def image_record(page: int, number: int, data: bytes) -> Record:
    """A page as a whole."""
    return Record(_IMAGE.pack(IMAGE, page, number), data.rstrip(b"\0"))


def delta_record(page: int, number: int, before: int, delta: bytes) -> Record:
    """What changed since the version at `before`."""
    return Record(_DELTA.pack(DELTA, page, number, before), delta)


def checkpoint_record(position: int) -> Record:
    """The data file has what was newest below `position`."""
    return Record(_CHECKPOINT.pack(CHECKPOINT, position), b"")


def difference(old: bytes, new: bytes, bytes_max: int) -> bytes | None:
    """What turns one page into the other, as ranges of bytes; None if that is over `bytes_max`."""
    ranges: list[list[int]] = []
    size, pieces = 0, [(0, len(old))]
    while pieces:
        start, stop = pieces.pop()
        if old[start:stop] == new[start:stop]:
            continue
        if stop - start > _GRAIN_BYTES:
            middle = (start + stop) // 2
            pieces += (middle, stop), (start, middle)
            continue
        if ranges and start - ranges[-1][1] <= _RANGE.size:
            size += stop - ranges[-1][1]
            ranges[-1][1] = stop
        else:
            size += _RANGE.size + stop - start
            ranges.append([start, stop])
        if size > bytes_max:
            return None
    return b"".join(_RANGE.pack(at, end - at) + new[at:end] for at, end in ranges)


# --- Reading ---


def page_change(record: Record) -> PageChange:
    """What a page's record is about. VersionError for one of a kind that is not known here,
    DamageError for one that is not in its form."""
    key = record.key
    if key[:1] == IMAGE and len(key) == _IMAGE.size:
        _, page, number = _IMAGE.unpack(key)
        return PageChange(page, number, None)
    if key[:1] == DELTA and len(key) == _DELTA.size:
        return PageChange(*_DELTA.unpack(key)[1:])
    raise unknown(record)


def format_of(record: Record) -> int:
    """The page size that the first record tells."""
    version, page_bytes = _unpacked(_FORMAT, bytes(record.value), record)
    if version != VERSION:
        raise VersionError(
            f"the page store has format version {version}, this treering knows {VERSION}",
            position=record.position,
            hint="Open it with a newer treering",
        )
    if not is_page_size(page_bytes):
        raise damaged(record, f"a page size of {page_bytes} bytes")
    return int(page_bytes)


def checkpoint_of(record: Record) -> int:
    """The position that a checkpoint's record tells."""
    return int(_unpacked(_CHECKPOINT, record.key, record)[1])


def unknown(record: Record) -> DamageError | VersionError:
    """The error for a record that is not one of these."""
    if record.key[:1] in (FORMAT, IMAGE, DELTA, CHECKPOINT):
        return damaged(record, "a key of the wrong length")
    return _foreign.unknown(record)


def chain_is_full(changes: int) -> bool:
    """Whether a log has more of them in a row than any version writes."""
    return changes > _CHAIN_MAX


def page_from(records: list[Record], page: int, page_bytes: int) -> bytes:
    """The page that a whole one, and the changes after it, come to."""
    image = page_change(records[0])
    if image.page != page or image.before is not None or len(records[0].value) > page_bytes:
        raise damaged(records[0], f"not page {page} as a whole")
    data = bytes(records[0].value)
    if len(records) == 1:
        return data.ljust(page_bytes, b"\0")
    changed = bytearray(data.ljust(page_bytes, b"\0"))
    for before, record in pairwise(records):
        change = page_change(record)
        if change.page != page or change.before != before.position:
            raise damaged(record, f"not the next change of page {page}")
        _put_in(changed, record)
    return bytes(changed)


def _put_in(page: bytearray, record: Record) -> None:
    delta, at = bytes(record.value), 0
    while at < len(delta):
        start, length = _unpacked(_RANGE, delta[at : at + _RANGE.size], record)
        at += _RANGE.size
        if start + length > len(page) or at + length > len(delta) or not length:
            raise damaged(record, "a range beyond the end")
        page[start : start + length] = delta[at : at + length]
        at += length


def _unpacked(form: struct.Struct, data: bytes, record: Record) -> tuple[int, ...]:
    if len(data) != form.size:
        raise damaged(record, f"{len(data)} bytes in place of {form.size}")
    return form.unpack(data)
