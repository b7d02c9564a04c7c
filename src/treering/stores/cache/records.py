"""The records of a cache. An entry's key and value stand as they are in `keys` and `values`; the
first byte of other keys is the kind of the record.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from struct import Struct, error
from typing import Any, NamedTuple

from treering import Record, UsageError
from treering.fold.kit import Foreign

from .values import read_tags, tag_list

_foreign = Foreign("a cache")
refuse = _foreign.refuse
refuse_unknown = _foreign.refuse_unknown

SECOND = 1_000_000_000
TTL_SECONDS_MAX = 1 << 32

GONE = Struct("<cQ")  # the age of the cache; the value names the keys
NEWS = Struct("<cQQQQ")  # hits, misses, sets, evictions; the value says which keys were used
META = Struct("<QQQQQ")  # of a snapshot: the age, and those four
_NAME = Struct("<H")
_USED = Struct("<HI")
_LEASE = Struct("<16sq")


class Lease(NamedTuple):
    """The right to compute one entry, for a while."""

    token: bytes
    until_ns: int
    tags: tuple[bytes, ...]


# --- making them ---


def gone_record(keys: Iterable[bytes], age: int) -> Record:
    """These entries are evicted, or over."""
    return Record(GONE.pack(b"-", age), b"".join([_NAME.pack(len(key)) + key for key in keys]))


def news_record(kind: bytes, counts: tuple[int, ...], used: Iterable[tuple[bytes, int]]) -> Record:
    """These entries were used so often; kind `~`: only their order counts."""
    value = [_USED.pack(len(key), min(uses, (1 << 32) - 1)) + key for key, uses in used]
    return Record(NEWS.pack(kind, *counts), b"".join(value))


def lease_record(key: bytes, lease: Lease) -> Record:
    """Somebody computes the entry. In a snapshot it is over when the lease is."""
    value = _LEASE.pack(lease.token, lease.until_ns) + tag_list(list(lease.tags))
    return Record(b"L" + key, value, expires_at_ns=lease.until_ns)


def unlease_record(key: bytes, token: bytes) -> Record:
    """They gave up."""
    return Record(b"U" + key, token)


def evict_record(tag: bytes) -> Record:
    """All entries with the tag are gone."""
    return Record(b"#" + tag)


CLEAR = Record(b"*")


# --- reading them ---


def unpack(layout: Struct, data: bytes, record: Record) -> tuple[Any, ...]:
    """Numbers of a record; DamageError if it has not that layout."""
    try:
        return layout.unpack(data)
    except error:
        refuse(record, "has another length than its kind has")


def names(record: Record) -> list[bytes]:
    """The keys that a record names."""
    return [key for key, _ in _entries(record, _NAME)]


def uses(record: Record) -> list[tuple[bytes, int]]:
    """The keys that a record names, and how often each was used."""
    return [(key, numbers[1]) for key, numbers in _entries(record, _USED)]


def _entries(record: Record, layout: Struct) -> Iterator[tuple[bytes, tuple[Any, ...]]]:
    data, at, size = bytes(record.value), 0, layout.size
    while at < len(data):
        if len(data) - at < size:
            refuse(record, "ends in half a key")
        numbers = layout.unpack_from(data, at)
        at += size + numbers[0]
        if at > len(data):
            refuse(record, "ends in half a key")
        yield data[at - numbers[0] : at], numbers


def read_lease(record: Record) -> Lease:
    """The lease that a record grants."""
    data = bytes(record.value)
    token, until_ns = unpack(_LEASE, data[: _LEASE.size], record)
    try:
        tags, end = read_tags(data, _LEASE.size)
    except ValueError:
        end = -1
    if end != len(data):
        refuse(record, "is a lease with broken tags")
    return Lease(token, until_ns, tags)


def check_ttl(ttl: Any, name: str = "ttl") -> int:
    """Seconds as nanoseconds; UsageError for what is no length of time."""
    good = not isinstance(ttl, bool) and isinstance(ttl, int | float)
    if not good or not math.isfinite(ttl) or not 0 < ttl <= TTL_SECONDS_MAX:
        raise UsageError(
            f"{name} must be a number of seconds over 0, not {ttl!r:.40}",
            hint="None: for ever" if name == "ttl" else None,
        )
    return max(1, int(ttl * SECOND))
