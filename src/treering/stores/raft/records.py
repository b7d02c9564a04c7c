"""What a Raft log writes: the layouts of its records, and of its snapshots' records.

A record's key begins with one byte that says its kind; little-endian numbers follow. What may be
long (an entry's data, a chunk of a snapshot, its metadata, the vote) is the value.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Iterable
from typing import Any, NamedTuple

from treering import Record, TooLargeError, UsageError
from treering.fold.kit import Foreign

_foreign = Foreign("a Raft log")
damaged = _foreign.damaged
unknown = _foreign.unknown

ENTRY = b"e"  # index, term, kind; the data
TRUNCATE = b"t"  # the last index that stays
HARD_STATE = b"h"  # term, commit; the vote
BEGIN = b"b"  # a snapshot begins: index, term; its metadata. Its id is this record's position
CHUNK = b"c"  # id, number; the data
DONE = b"d"  # id, chunks, bytes, the index before the entries that stay, its term, whether any do
ABANDON = b"x"  # id
# Only in the files of a checkpoint:
HEADER, SNAPSHOT, PENDING, PIECE = b"H", b"S", b"P", b"I"

NUMBER_MAX = (1 << 63) - 1
VOTE_BYTES_MAX = 4096
METADATA_BYTES_MAX = 1 << 20

ENTRY_KEY = struct.Struct("<cQQB")
ONE = struct.Struct("<cQ")
TWO = struct.Struct("<cQQ")
DONE_KEY = struct.Struct("<cQQQQQ?")
HEADER_KEY = struct.Struct("<cQQQQQ")
STORED_KEY = struct.Struct("<cQQQQ")

Vote = bytes | str | int | None


class Entry(NamedTuple):
    """One entry of the log. `kind` is for you, 0 to 255: a command, a configuration change …"""

    index: int  # type: ignore[assignment]  # tuples have a method of that name
    term: int
    data: bytes
    kind: int = 0


class HardState(NamedTuple):
    """What a node must not forget: its term, the candidate it voted for in that term (bytes, text
    or a number; None: nobody), and the index up to which it knows entries to be committed."""

    term: int = 0
    voted_for: Vote = None
    commit: int = 0


def check_number(value: Any, what: str, least: int = 0) -> int:
    """A term or an index; UsageError for what is none."""
    if type(value) is not int or not least <= value <= NUMBER_MAX:
        raise UsageError(f"{what} is a whole number from {least} on, not {value!r:.60}")
    return value


def check_entries(entries: Any) -> list[Entry]:
    """Entries that follow on each other; UsageError if these do not."""
    if not isinstance(entries, Iterable):
        raise UsageError(
            f"entries come as a list, not as {type(entries).__name__}",
            hint="Give [Entry(index, term, data), …]",
        )
    found, following, newest = [], 0, 0
    for entry in entries:
        if type(entry) is not Entry:
            raise UsageError(f"an entry is an Entry, not {type(entry).__name__}")
        index, term, data, kind = entry
        if type(data) is not bytes:
            entry = Entry(index, term, as_bytes(data, "the data of an entry"), kind)
        if type(index) is not int or type(term) is not int or not 0 < index <= NUMBER_MAX:
            raise UsageError(
                "an entry's index is a number from 1 on, its term one from 0 on, "
                f"not {index!r:.60} and {term!r:.60}"
            )
        if type(kind) is not int or not 0 <= kind < 256:
            raise UsageError(f"the kind of an entry is a number from 0 to 255, not {kind!r:.60}")
        if index != following and following:
            raise UsageError(
                f"index {index} comes after {following - 1}",
                hint="Give the entries in their order, without gaps",
            )
        if not newest <= term <= NUMBER_MAX:
            raise UsageError(
                f"term {term} at index {index} comes after term {newest}",
                hint="Terms do not fall along the log: these are not the entries of one leader",
            )
        following, newest = index + 1, term
        found.append(entry)
    return found


def check_hard_state(state: Any) -> HardState:
    """The hard state; UsageError for what is none."""
    if not isinstance(state, HardState):
        raise UsageError(
            f"a hard state is a HardState, not {type(state).__name__}",
            hint="Give HardState(term, voted_for, commit), or change log.hard_state._replace(…)",
        )
    check_number(state.term, "a term")
    check_number(state.commit, "the commit index")
    pack_vote(state.voted_for)
    return state


def as_bytes(data: Any, what: str, most: int | None = None) -> bytes:
    """Data as bytes; UsageError for what is none, TooLargeError for too much."""
    if not isinstance(data, bytes | bytearray | memoryview):
        raise UsageError(f"{what} is bytes, not {type(data).__name__}", hint="Encode it first")
    if most is not None and memoryview(data).nbytes > most:
        raise TooLargeError(
            f"{what} has {memoryview(data).nbytes} bytes, the limit is {most}",
            hint="Put what is long into the data",
        )
    return bytes(data)


# --- Votes ---


def pack_vote(vote: Any) -> bytes:
    """The stored form of a vote: empty for none, else a letter for its type, and itself."""
    if vote is None:
        return b""
    if type(vote) is bytes:
        packed = b"b" + vote
    elif type(vote) is str:
        try:
            packed = b"s" + vote.encode()
        except UnicodeEncodeError:
            raise UsageError(f"the name of the candidate is no text: {vote!r:.60}") from None
    elif type(vote) is int and 0 <= vote < 1 << 64:
        packed = b"i" + vote.to_bytes(8, "little")
    else:
        raise UsageError(
            f"a vote is for bytes, a text, a number of 64 bits, or None, not {vote!r:.60}"
        )
    if len(packed) > VOTE_BYTES_MAX:
        raise TooLargeError(
            f"the candidate's name has over {VOTE_BYTES_MAX - 1} bytes", hint="Vote for a short id"
        )
    return packed


def unpack_vote(record: Record, packed: bytes) -> Vote:
    """What `pack_vote` packed."""
    kind, rest = packed[:1], packed[1:]
    if not kind:
        return None
    if kind == b"b":
        return rest
    if kind == b"s":
        try:
            return rest.decode()
        except UnicodeDecodeError:
            raise damaged(record, "its vote is no text") from None
    if kind == b"i" and len(rest) == 8:
        return int.from_bytes(rest, "little")
    raise damaged(record, "its vote is none")


# --- Layouts ---


def fields(layout: struct.Struct, record: Record) -> tuple[Any, ...]:
    """The numbers in a record's key, without the kind; DamageError if the key is another one."""
    try:
        return layout.unpack(record.key)[1:]
    except struct.error:
        raise damaged(record, "its numbers are cut short") from None


def little(numbers: array[int]) -> bytes:
    """An array's bytes, the same on every machine."""
    if sys.byteorder == "big":
        numbers = numbers[:]
        numbers.byteswap()
    return numbers.tobytes()


def from_little(record: Record, data: bytes) -> array[int]:
    """Such an array; DamageError if the bytes of the record are none."""
    found: array[int] = array("Q")
    if len(data) % found.itemsize:
        raise damaged(record, "a list of numbers is cut short")
    found.frombytes(data)
    if sys.byteorder == "big":
        found.byteswap()
    return found
