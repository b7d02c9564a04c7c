"""The records of a document store: what a key says.

A change to a document is one record for each field that changes, all of one atomic batch. The key
says the kind (`tree.WORDS`), whether more records of the change follow, the version that it makes,
where the change before it begins (so that the log can be followed back), the document's id, and the
path as a JSON Pointer; the value is JSON.
"""

from __future__ import annotations

from struct import Struct, error
from typing import NamedTuple, NoReturn

from treering import DamageError, Record, VersionError

from .pointer import PATH_BYTES_MAX, Tokens, check_id, parse, path_too_long, written
from .tree import WORDS, Edit

HEAD = Struct("<cBQqH")  # kind, whether more follow, version, the change before, length of the id
INDEX, DROP, FORGET = b"x", b"y", b"f"
KINDS = frozenset((*WORDS, INDEX, DROP, FORGET))

# In snapshots: a document (version, position, time, size), one that is gone, the counters.
SAVED = Struct("<cQqqQ")
GONE = Struct("<cQq")
TOTALS = Struct("<cQQ")

NONE = -1  # there is no change before


class Head(NamedTuple):
    """What a key says."""

    kind: bytes
    more: bool
    version: int
    previous: int
    id: str
    tokens: Tokens


def change_records(id: bytes, version: int, previous: int, edits: list[Edit]) -> list[Record]:
    """The records of a change."""
    last, records = len(edits) - 1, []
    for at, edit in enumerate(edits):
        path = written(edit.tokens).encode()
        if len(path) > PATH_BYTES_MAX:
            raise path_too_long()
        head = HEAD.pack(edit.kind, at < last, version, previous, len(id))
        records.append(Record(head + id + path, edit.raw))
    return records


def read_head(record: Record) -> Head:
    """What the key of a change's record says; DamageError if it is not put together like one."""
    try:
        kind, more, version, previous, length = HEAD.unpack_from(record.key)
        start = HEAD.size + length
        if more > 1 or version < 1 or previous < NONE or start > len(record.key):
            raise ValueError
        id, path = record.key[HEAD.size : start].decode(), record.key[start:].decode()
        check_id(id)
        return Head(kind, bool(more), version, previous, id, parse(path))
    except (error, ValueError):
        refuse(record, "has a key that says nothing")


def damage(record: Record, what: str) -> DamageError:
    """The error about a record that no document store can have written here."""
    return DamageError(
        f"the record {record.key!r:.80} {what}",
        position=record.position,
        hint="Is this directory another store's? If not, restore it from a backup",
    )


def refuse(record: Record, what: str) -> NoReturn:
    """Raise it."""
    raise damage(record, what)


def refuse_unknown(record: Record) -> NoReturn:
    """VersionError about a kind of record that this version does not have."""
    raise VersionError(
        f"a document store has no records like {record.key!r:.60}",
        position=record.position,
        hint="Open it with the newer treering, or the other store, that wrote it",
    )
