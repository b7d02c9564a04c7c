"""What an event store's records come to: where the events of each stream lie.

Eight bytes an event; the events stay in the log. Ids that callers gave are kept besides.
"""

from __future__ import annotations

import struct
import sys
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from itertools import islice

from treering import DamageError, Record
from treering.fold import Overlay, Pair
from treering.fold.kit import as_str

from .event import (
    ANY,
    EVENT,
    HEAD,
    ID,
    SNAPSHOT,
    VERSION_MAX,
    Appended,
    Encoded,
    read_extras,
    read_head,
)
from .names import DuplicateEventError, wrong_version

_ENTRY = struct.Struct("<HIIQ")
_IDENTIFIED = struct.Struct("<IB")
# A dump's records have about so many bytes, and of one stream at most so many events each.
_BLOCK_BYTES = 64 << 10
_PIECE = 8192
_SWAPPED = sys.byteorder == "big"


Ids = MutableMapping[bytes, int]


class Stream:
    """Where a stream's events lie, by version; the versions of given ids; and where the newest
    snapshot lies (-1: nowhere). `owner` is the state that may change it."""

    __slots__ = ("ids", "owner", "positions", "snapshot")

    def __init__(
        self,
        owner: object,
        positions: array[int],
        ids: Ids | None,
        snapshot: int,
    ) -> None:
        self.owner, self.positions, self.ids, self.snapshot = owner, positions, ids, snapshot

    @property
    def count(self) -> int:
        """How many events it has."""
        return len(self.positions)

    def version_of(self, id: bytes) -> int | None:
        """The version of the event with that id. An entry beyond the end is of a later state that
        shares the dict, or of an append that was interrupted."""
        version = None if self.ids is None else self.ids.get(id)
        return None if version is None or version >= len(self.positions) else version


class State:
    """All streams. Copies share what they have in common: a stream that another state may see is
    copied before it is changed. Taking in a record again is the same as once."""

    label = b"treering events 1"

    def __init__(self) -> None:
        self.streams: MutableMapping[bytes, Stream] = {}
        self._owner = object()
        # What becomes of a stream's ids when we begin to change it: as a rule we go on adding to
        # the same dict, and who shares it sees from the versions what came later.
        self._ids_for_us: Callable[[Ids, int], Ids] = _the_same

    # --- apply ---

    def apply(self, record: Record) -> None:
        """Take in one record of the log."""
        head = read_head(record)
        position = record.position
        assert position is not None
        if head.kind == SNAPSHOT:
            self._take_snapshot(head.stream, head.version, position)
            return
        id = None
        if head.flags & ID:
            id = read_extras(head.flags, bytes(record.value), position).id
        self.add(head.stream, head.version, position, id)

    def add(self, name: bytes, version: int, position: int, id: bytes | None) -> None:
        """An event is in the log, as this version of the stream."""
        # From finding the stream to its change there is no call, so no signal's handler that takes
        # in the same event, or copies the state, comes in between.
        streams = self.streams
        while True:
            try:
                stream = streams[name]
            except KeyError:
                self._own(name, None)
                continue
            if stream.owner is self._owner:
                break
            self._own(name, stream)
        positions = stream.positions
        if positions[version:]:
            if positions[version] == position:
                return  # an interrupt came after we had taken it in
            raise self._out_of_turn(name, version, position)
        try:
            if version:
                positions[version - 1]
        except IndexError:
            raise self._out_of_turn(name, version, position) from None
        if id is not None:
            if stream.ids is None:
                stream.ids = {}
            stream.ids[id] = version
        positions.append(position)  # last: what counts is how many these are

    def _out_of_turn(self, name: bytes, version: int, position: int) -> DamageError:
        return DamageError(
            f"event {version} of {name!r:.60} where {self.version(name) + 1} is due",
            position=position,
            hint="Run `treering verify` on the log",
        )

    def add_all(self, name: bytes, version: int, position: int, events: Sequence[Encoded]) -> int:
        """As `add`, for events that were appended together; how many bytes they have."""
        size = 0
        for event in events:
            self.add(name, version, position, event[4])
            version, position = version + 1, position + 1
            size += HEAD.size + len(name) + len(event[2]) + len(event[3])
        return size

    def _own(self, name: bytes, stream: Stream | None) -> None:
        """Make the stream ours to change, unless a signal's handler just did."""
        if stream is None:
            self.streams.setdefault(name, Stream(self._owner, array("Q"), None, -1))
            return
        ids = stream.ids
        if ids is not None:
            ids = self._ids_for_us(ids, len(stream.positions))
        ours = Stream(self._owner, stream.positions[:], ids, stream.snapshot)
        if self.streams[name] is stream:
            self.streams[name] = ours

    def _take_snapshot(self, name: bytes, version: int, position: int) -> None:
        if version > self.version(name):
            raise DamageError(
                f"a snapshot of {name!r:.60} at an event that is not there", position=position
            )
        streams = self.streams
        while streams[name].owner is not self._owner:
            self._own(name, streams[name])
        streams[name].snapshot = position

    # --- snapshots ---

    def dump(self) -> Iterator[Record]:
        """Many streams a record: blocks of entries, in the order of the streams' first events."""
        block, size, number = [], 0, 0
        for name, stream in self.streams.items():
            for entry in _entries(name, stream):
                block.append(entry)
                size += len(entry)
                if size >= _BLOCK_BYTES:
                    yield Record(b"%d" % number, b"".join(block))
                    block, size, number = [], 0, number + 1
        if block:
            yield Record(b"%d" % number, b"".join(block))

    def load(self, record: Record) -> None:
        """Take in one block of a dump."""
        try:
            self._load(bytes(record.value))
        except (struct.error, ValueError, IndexError) as error:
            raise DamageError(
                "a block of the snapshot is none", position=record.position
            ) from error

    def _load(self, block: bytes) -> None:
        at, owner, streams = 0, self._owner, self.streams
        unpack, head = _ENTRY.unpack_from, _ENTRY.size
        while at < len(block):
            size, count, identified, snapshot = unpack(block, at)
            end = at + head + size
            name = block[at + head : end]
            at = end + 8 * count
            if at > len(block):
                raise ValueError("an entry is cut short")
            positions = array("Q")
            positions.frombytes(block[end:at])
            if _SWAPPED:
                positions.byteswap()
            stream = streams.get(name)
            if stream is None:
                stream = streams[name] = Stream(owner, positions, None, snapshot - 1)
            else:
                stream.positions += positions
            if identified:
                at = _load_ids(stream, identified, block, at)

    def copy(self) -> State:
        """Another state that stays as this one is now: one shallow copy of a dict."""
        other = State()
        other.streams = dict(self.streams)
        other._ids_for_us = _those_before
        self._owner = object()  # so that we copy a stream before we change it
        return other

    def scratch(self) -> State:
        """A state that shows this one with later changes on top, while this one stays: O(1), and
        O(its events) for each stream that is changed."""
        other = State()
        other.streams = Overlay(self.streams)
        other._ids_for_us = _on_top
        return other

    def oldest_needed(self) -> int:
        """Events stay in the log for ever."""
        return 0

    # --- commands ---

    def place(
        self, stream: str, name: bytes, events: Sequence[Encoded], expected: int
    ) -> tuple[int, list[Pair]] | Appended:
        """The first one's version and the records of these events; or what an earlier call with the
        same ids came to.

        WrongVersionError, DuplicateEventError."""
        found = self.streams.get(name)
        count = 0 if found is None else len(found.positions)
        if found is not None and found.ids is not None:
            earlier = _earlier(found, events)
            if earlier is not None:
                return earlier
        if expected != ANY and expected != count - 1:
            raise wrong_version(stream, count - 1, expected)
        if count + len(events) > VERSION_MAX:
            raise DuplicateEventError("a stream cannot have more events", hint="Begin another one")
        pack, size = HEAD.pack, len(name)
        if len(events) == 1:
            flags, schema, kind, value, _ = events[0]
            return count, [(pack(EVENT, flags, size, schema, count) + name + kind, value)]
        return count, [
            (pack(EVENT, flags, size, schema, version) + name + kind, value)
            for version, (flags, schema, kind, value, _) in enumerate(events, count)
        ]

    # --- queries ---

    def version(self, name: bytes) -> int:
        """Of the newest event; -1 if there is none."""
        stream = self.streams.get(name)
        return -1 if stream is None else len(stream.positions) - 1

    def positions_from(self, name: bytes, position: int, most: int) -> list[int]:
        """Where the next events of a stream lie, from a position on."""
        stream = self.streams.get(name)
        if stream is None:
            return []
        start = bisect_left(stream.positions, position)
        return stream.positions[start : start + most].tolist()

    def names(self, prefix: bytes) -> list[bytes]:
        """The streams whose names begin with the prefix, sorted."""
        return sorted(name for name in self.streams if name.startswith(prefix))


def _the_same(ids: Ids, count: int) -> Ids:
    return ids


def _those_before(ids: Ids, count: int) -> Ids:
    return {id: version for id, version in list(ids.items()) if version < count}


def _on_top(ids: Ids, count: int) -> Ids:
    return Overlay(ids)


def _earlier(stream: Stream, events: Sequence[Encoded]) -> Appended | None:
    """What the call came to that appended these events already; None if there was none."""
    known = [(at, stream.version_of(each[4])) for at, each in enumerate(events) if each[4]]
    versions = [(at, version) for at, version in known if version is not None]
    if not versions:
        return None
    first = versions[0][1] - versions[0][0]
    after = first + len(events)
    together = all(version - at == first for at, version in versions)
    if not together or len(versions) < len(known) or not 0 <= first <= after <= stream.count:
        at, version = versions[0]
        raise DuplicateEventError(
            f"event {as_str(events[at][4] or b'')!r:.60} is there as version {version}, but the "
            "call as a whole repeats none",
            hint="Repeat exactly the events of the first call, or give new events new ids",
        )
    positions = stream.positions[first:after]
    dense = range(positions[0], positions[-1] + 1)
    return Appended(first, dense if len(dense) == len(positions) else tuple(positions))


def _entries(name: bytes, stream: Stream) -> Iterator[bytes]:
    """A stream as entries of a dump, a limited number of events in each."""
    count = len(stream.positions)
    ids = [] if stream.ids is None else [(v, id) for id, v in list(stream.ids.items()) if v < count]
    ids.sort()
    identified = iter(ids)
    for start in range(0, max(count, 1), _PIECE):
        positions = stream.positions[start : start + _PIECE]
        if _SWAPPED:
            positions.byteswap()
        some = list(islice(identified, _PIECE))
        yield b"".join(
            (
                _ENTRY.pack(len(name), len(positions), len(some), stream.snapshot + 1),
                name,
                positions.tobytes(),
                *(_IDENTIFIED.pack(version, len(id)) + id for version, id in some),
            )
        )


def _load_ids(stream: Stream, count: int, block: bytes, at: int) -> int:
    if stream.ids is None:
        stream.ids = {}
    for _ in range(count):
        version, size = _IDENTIFIED.unpack_from(block, at)
        at += _IDENTIFIED.size
        stream.ids[block[at : at + size]] = version
        at += size
    return at
