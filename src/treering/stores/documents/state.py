"""What a document store's records come to."""

from __future__ import annotations

import json
from collections.abc import Iterator, MutableMapping
from struct import error
from typing import Any, NamedTuple

from treering import DamageError, Record
from treering.fold import Overlay

from .content import STANDARD, Codec, JsonCodec, half_a_character, too_deep
from .errors import NoPathError
from .index import Entries, Index, after, as_index, check_name, key_of
from .order import Sorted
from .records import (
    DROP,
    GONE,
    HEAD,
    INDEX,
    KINDS,
    NONE,
    SAVED,
    TOTALS,
    Head,
    damage,
    read_head,
    refuse,
    refuse_unknown,
)
from .tree import DELETE, PUT, REMOVE, WORDS, Edit, changed


class Entry(NamedTuple):
    """A document; never changed. `position` is where its last change begins, `size` its bytes as
    JSON."""

    root: Any
    version: int
    position: int
    time_ns: int
    size: int


class Gone(NamedTuple):
    """The last version of a document that was deleted: the next one of that id goes on from it."""

    version: int
    position: int


_NEVER = Gone(0, NONE)


class _Draft:
    """A change of which not all records have come."""

    def __init__(self, head: Head, before: Entry | None, record: Record) -> None:
        self.head, self.before = head, before
        self.root: Any = None if before is None else before.root
        self.size = 0 if before is None else before.size
        self.position = NONE if record.position is None else record.position
        self.time_ns = record.timestamp_ns or 0


class State:
    """The documents, the indexes on them, and the last versions of those that are gone.

    Trees and entries are never changed: others may look at them while a change is taken in. A
    change shows when its last record has come, also in a view of a moment in its middle.
    """

    label = b"treering documents 1"

    def __init__(self, codec: Codec | None = None) -> None:
        self.codec = codec or JsonCodec()
        self.documents: MutableMapping[str, Entry] = {}
        self.gone: MutableMapping[str, Gone] = {}
        self.indexes: dict[str, Entries] = {}
        # Bytes of all changes; and what they had been, had each written the whole document.
        self.bytes_logged = self.bytes_whole = 0
        self._order: Sorted | None = None  # of the ids, made when it is first asked for
        self._draft: _Draft | None = None

    # --- apply ---

    def apply(self, record: Record) -> None:
        """Take in one record of the log."""
        kind = record.key[:1]
        if kind not in KINDS or record.tombstone:
            refuse_unknown(record)
        self.bytes_logged += len(record.key) + len(record.value)
        if kind in WORDS:
            self._take(record)
            return
        self.bytes_whole += len(record.key) + len(record.value)
        if self._draft is not None:
            refuse(record, "comes in the middle of a change")
        if kind == INDEX:
            name, index = read_index(record)
            self.indexes[name] = Entries(index)
        elif kind == DROP:
            self.indexes.pop(record.key[1:].decode(errors="replace"), None)
        elif len(record.key) > 1:
            refuse(record, "has a longer key than its kind has")
        else:
            self.gone.clear()

    def _take(self, record: Record) -> None:
        """A change to a field, or to a whole document."""
        head = read_head(record)
        draft = self._draft or self._begin(head, record)
        if (head.id, head.version) != (draft.head.id, draft.head.version):
            refuse(record, "is of another change than the one before it")
        self._change(draft, head, record)
        self._draft = draft if head.more else None
        if not head.more:
            self._install(draft)

    def _begin(self, head: Head, record: Record) -> _Draft:
        version, previous = self.last(head.id)
        if (head.version, head.previous) != (version + 1, previous):
            refuse(record, f"does not follow version {version} of its document")
        return _Draft(head, self.documents.get(head.id), record)

    def _change(self, draft: _Draft, head: Head, record: Record) -> None:
        raw = bytes(record.value)
        if head.kind == PUT:
            draft.root, draft.size = self._decoded(record, raw), len(raw)
            if head.tokens or type(draft.root) is not dict:
                refuse(record, "puts something that is no document")
            return
        if draft.root is None:
            refuse(record, "changes a document that is not there")
        if head.kind == DELETE:
            draft.root, draft.size = None, 0
            return
        value = None if head.kind == REMOVE else self._decoded(record, raw)
        if not head.tokens:
            refuse(record, "has no path")
        try:
            draft.root, grown = changed(draft.root, Edit(head.kind, head.tokens, raw, value))
        except NoPathError as error:
            raise damage(record, f"does not fit its document: {error.message}") from error
        draft.size = max(0, draft.size + grown)

    def _decoded(self, record: Record, raw: bytes) -> Any:
        try:
            value = self.codec.decode(raw)
        except (ValueError, TypeError, RecursionError) as error:
            raise damage(record, f"is no JSON: {error}") from error
        if too_deep(raw, value):
            refuse(record, "is nested too deeply")
        if half_a_character(raw, value):
            refuse(record, "has half a character")
        return value

    def _install(self, draft: _Draft) -> None:
        id, version, before = draft.head.id, draft.head.version, draft.before
        if draft.root is None:
            self.documents.pop(id, None)
            self.gone[id] = Gone(version, draft.position)
        else:
            self.documents[id] = Entry(
                draft.root, version, draft.position, draft.time_ns, draft.size
            )
            if before is None:
                self.gone.pop(id, None)
        self.bytes_whole += HEAD.size + len(id.encode()) + draft.size
        if self._order is not None and (before is None) != (draft.root is None):
            (self._order.add if before is None else self._order.discard)(id)
        for entries in self.indexes.values():
            entries.change(id, None if before is None else before.root, draft.root)

    # --- snapshots ---

    def dump(self) -> Iterator[Record]:
        """Counters, indexes, whole documents, and the versions of those that are gone."""
        self.refuse_half()
        yield Record(TOTALS.pack(b"t", self.bytes_logged, self.bytes_whole))
        for name, entries in self.indexes.items():
            yield index_record(name, entries.index)
        for id, (root, version, position, time_ns, size) in self.documents.items():
            key = SAVED.pack(b"d", version, position, time_ns, size) + id.encode()
            yield Record(key, STANDARD.encode(root))
        for id, gone in self.gone.items():
            yield Record(GONE.pack(b"g", *gone) + id.encode())

    def load(self, record: Record) -> None:
        """Take in one record of a snapshot."""
        kind, key = record.key[:1], record.key
        try:
            if kind == b"d":
                _, version, position, time_ns, size = SAVED.unpack_from(key)
                root = self._decoded(record, bytes(record.value))
                id = key[SAVED.size :].decode()
                self.documents[id] = Entry(root, version, position, time_ns, size)
            elif kind == b"g":
                self.gone[key[GONE.size :].decode()] = Gone(*GONE.unpack_from(key)[1:])
            elif kind == b"t":
                _, self.bytes_logged, self.bytes_whole = TOTALS.unpack(key)
            elif kind == INDEX:
                name, index = read_index(record)
                self.indexes[name] = Entries(index)
            else:
                refuse_unknown(record)
        except (error, UnicodeDecodeError) as problem:
            raise damage(record, "is not what a snapshot has") from problem

    def copy(self) -> State:
        """Another state that stays as this one is now: copies of references alone."""
        return self._with(dict(self.documents), dict(self.gone))

    def scratch(self) -> State:
        """Another state that shows this one, and later changes, which leave this one alone."""
        self.ids()  # made here, it need not be made in each scratch anew
        for name in self.indexes:
            self.entries(name)
        return self._with(Overlay(self.documents), Overlay(self.gone))

    def _with(
        self, documents: MutableMapping[str, Entry], gone: MutableMapping[str, Gone]
    ) -> State:
        other = State(self.codec)
        other.documents, other.gone = documents, gone
        other.indexes = {name: entries.copy() for name, entries in self.indexes.items()}
        other.bytes_logged, other.bytes_whole = self.bytes_logged, self.bytes_whole
        other._order = None if self._order is None else self._order.copy()
        other._draft = self._draft
        return other

    def refuse_half(self) -> None:
        """DamageError if the log ends within a change: what came next would be taken for the rest
        of it. No crash leaves that, for a change is one atomic batch."""
        if self._draft is not None:
            at = self._draft.position
            raise DamageError(
                f"the log was cut within a change to {self._draft.head.id!r:.60}",
                position=at,
                hint=f"Cut it before that change, with Wal.truncate_after({at}): it never showed",
            )

    # --- queries ---

    def last(self, id: str) -> Gone:
        """The version of a document, also if it is gone, and where its last change begins."""
        entry = self.documents.get(id)
        if entry is not None:
            return Gone(entry.version, entry.position)
        return self.gone.get(id, _NEVER)

    def ids(self) -> Sorted:
        """The ids, in order. The caller sees to it that nobody changes the state meanwhile."""
        if self._order is None:
            self._order = Sorted(self.documents)
        return self._order

    def entries(self, name: str) -> Sorted:
        """The entries of an index, in order; see `ids`."""
        return self.indexes[name].of(self.documents.items())

    def holder(self, name: str, value: Any, id: str) -> str | None:
        """The first document, other than `id`, that has a value in an index."""
        low = key_of(value)
        for _, found, other in self.entries(name).between(low, after(low)):
            if other != id and found == low[1]:
                return str(other)
        return None


def index_record(name: str, index: Index) -> Record:
    """The record that makes an index."""
    text = json.dumps({"path": index.path, "unique": index.unique}, sort_keys=True)
    return Record(INDEX + name.encode(), text.encode())


def read_index(record: Record) -> tuple[str, Index]:
    """The index that a record makes."""
    try:
        found = json.loads(bytes(record.value))
        if type(found) is not dict or found.keys() != {"path", "unique"}:
            raise ValueError("it has other fields")
        return check_name(record.key[1:].decode()), as_index(Index(**found))
    except (ValueError, RecursionError) as error:
        raise damage(record, f"is no index: {error}") from error
