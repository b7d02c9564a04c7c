"""The one record that removes many keys: whoever follows a log of keys has to know it."""

from __future__ import annotations

from .._core.codec import Record

_CLEAR_HEADER = "treering-clear"


def clear_record(prefix: bytes) -> Record:
    """The record that removes all keys with a prefix: small, however many they are."""
    return Record(prefix, b"", tombstone=True, headers={_CLEAR_HEADER: b""})


def is_clear(record: Record) -> bool:
    """Whether it is one."""
    return record.tombstone and _CLEAR_HEADER in record.headers
