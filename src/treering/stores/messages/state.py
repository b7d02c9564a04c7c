"""What a message log's records come to: an index of every topic, consumers, groups."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from typing import Any

from treering import Record
from treering.fold import Overlay

from . import records as rec
from .topic import Committed, Lease, Members, Message, Topic, message_of

_LEASES_IN_RECORD = 4096
_PLAIN = rec.PLAIN[0]
_NOT_NEEDED = 1 << 62


class State:
    """The topics by name. Values are left in the log, except those of compacted topics.

    `newest_ns` is the newest time of what consumers and groups wrote: a clock that steps back
    brings no lease back. `end` is where the log ended. Copies share the topics; who changes one
    that it does not own makes itself a copy of it first.
    """

    label = b"treering message-log 1"

    def __init__(self, clock: Callable[[], int] = time.time_ns) -> None:
        self.topics: MutableMapping[bytes, Topic] = {}
        self.newest_ns = 0
        self.end = 0
        self.clock = clock
        self._owner = object()
        self._layered = False

    def topic(self, name: bytes) -> Topic:
        """The topic, to be changed; a new one if there is none."""
        topic = self.topics.get(name)
        if topic is None or topic.owner is not self._owner:
            topic = _new_topic(name) if topic is None else topic.copy(self._layered)
            topic.owner = self._owner
            self.topics[name] = topic
        return topic

    # --- apply ---

    def apply(self, record: Record) -> None:
        """Take in one record of the log."""
        key = record.key
        if not key:
            raise rec.unknown(record)
        position = record.position or 0
        if key[0] == _PLAIN:
            self.message(key[1:], None, record, position)
        else:
            change = _CHANGES.get(key[:1])
            if change is None:
                raise rec.unknown(record)
            change(self, record, *rec.split(record))
        self.end = position + 1

    def message(self, name: bytes, key: bytes | None, record: Record, position: int) -> None:
        """A message was published."""
        topic = self.topic(name)
        size = len(record.value) + (len(key) if key else 0)
        if topic.kept is None:
            topic.index.append(position, size)
        else:
            topic.keep(message_of(name.decode(), position, key, record), size)
        topic.next = position + 1

    def messages(self, name: bytes, positions: range, sizes: Sequence[int]) -> None:
        """Many were, to a topic that is not compacted."""
        topic = self.topic(name)
        topic.index.extend(positions, sizes)
        topic.next = self.end = positions.stop

    def _keyed(self, record: Record, name: bytes, key: bytes) -> None:
        self.message(name, key, record, record.position or 0)

    def _at(self, record: Record) -> int:
        """The position of a record that consumers, groups or people wrote; its time counts."""
        self.newest_ns = max(self.newest_ns, record.timestamp_ns or 0)
        return record.position or 0

    def _commit(self, record: Record, name: bytes, consumer: bytes) -> None:
        committed = Committed(rec.number(record), self._at(record))
        self.topic(name).consumers[consumer] = committed

    def _forget(self, record: Record, name: bytes, consumer: bytes) -> None:
        self._at(record)
        self.topic(name).consumers.pop(consumer, None)

    def _group(self, record: Record, name: bytes, group: bytes) -> None:
        self.topic(name).groups[group] = Members(rec.number(record), self._at(record))

    def _disband(self, record: Record, name: bytes, group: bytes) -> None:
        self._at(record)
        self.topic(name).groups.pop(group, None)

    def _leased(self, record: Record, name: bytes, group: bytes) -> None:
        at, (time_ns, positions) = self._at(record), rec.time_and_positions(record)
        members = self.topic(name).groups.get(group)
        if members is None:
            raise rec.damaged(record, "there is no such group")
        if record.key[:1] == rec.LEASE:
            members.lease(positions, time_ns, at)
        elif record.key[:1] == rec.ACK:
            members.ack(positions)
        else:
            members.change(positions, time_ns, at if record.key[:1] == rec.NACK else None)

    def _skip(self, record: Record, name: bytes, group: bytes) -> None:
        self._at(record)
        topic = self.topic(name)
        members = topic.groups.get(group)
        if members is None:
            raise rec.damaged(record, "there is no such group")
        members.frontier, members.missed = max(members.frontier, members.missed), 0

    def _retention(self, record: Record, name: bytes, _: bytes) -> None:
        self._at(record)
        self.topic(name).set_rules(rec.retention(record, bytes(record.value)))

    def _trim(self, record: Record, name: bytes, _: bytes) -> None:
        self._at(record)
        self.topic(name).trim(rec.number(record))

    def _sweep(self, record: Record, name: bytes, _: bytes) -> None:
        self._at(record)
        topic, before_ns = self.topic(name), rec.number(record)
        if topic.kept is not None:
            topic.drop(deletions(topic, before_ns))

    def _delete(self, record: Record, name: bytes, _: bytes) -> None:
        self._at(record)
        self.topics.pop(name, None)

    # --- snapshots ---

    def dump(self) -> Iterator[Record]:
        """The state as records, for a snapshot: a topic's index as a few large ones."""
        yield Record(rec.HEADER, rec.PAIR.pack(self.newest_ns, self.end))
        for name, topic in self.topics.items():
            start = topic.index.start if topic.kept is None else 0
            numbers = rec.packed((topic.gone, topic.next, start))
            yield Record(rec.named(rec.TOPIC, name), numbers + topic.rules.pack())
            yield from _dump_messages(name, topic)
            for consumer, committed in topic.consumers.items():
                yield Record(rec.named(rec.COMMIT, name, consumer), rec.PAIR.pack(*committed))
            for group, members in topic.groups.items():
                yield from _dump_group(name, group, members)

    def load(self, record: Record) -> None:
        """Take in one record of a snapshot."""
        if record.key == rec.HEADER:
            self.newest_ns, self.end = rec.numbers(record)
            return
        load = _LOADS.get(record.key[:1])
        if load is None:
            raise rec.unknown(record)
        name, rest = rec.split(record)
        try:
            load(self.topic(name), record, name, rest)
        except (ValueError, KeyError, TypeError, struct.error):
            raise rec.damaged(record, "its numbers do not fit") from None

    def copy(self) -> State:
        """Another state that stays as this one is now: one copy of a dict of topics."""
        other = State(self.clock)
        other.topics = dict(self.topics)
        other.newest_ns, other.end = self.newest_ns, self.end
        self._owner = object()
        return other

    def scratch(self) -> State:
        """A state that shows this one with later changes on top; this one must stay as it is
        meanwhile. O(1), and O(its index / 4096) for each topic that changes."""
        other = State(self.clock)
        other.topics = Overlay(self.topics)
        other.newest_ns, other.end = self.newest_ns, self.end
        other._layered = True
        return other

    def oldest_needed(self) -> int:
        """The oldest message's position: its value is nowhere but in the log."""
        plain = (topic.index.first for topic in self.topics.values() if topic.kept is None)
        return min((first for first in plain if first is not None), default=_NOT_NEEDED)

    # --- queries ---

    def now_ns(self) -> int:
        """The time by which leases expire."""
        return max(self.clock(), self.newest_ns)


def _new_topic(name: bytes) -> Topic:
    try:
        rec.name_bytes(name.decode())
    except ValueError:  # also what UsageError is
        raise rec.damaged(Record(rec.PLAIN + name), "it names no topic") from None
    return Topic()


def deletions(topic: Topic, before_ns: int) -> list[int]:
    """A compacted topic's messages without a value that are older than that."""
    return [
        message.position
        for message in (topic.kept or {}).values()
        if message.value is None and _time_ns(message) < before_ns
    ]


def _time_ns(message: Message) -> int:
    return round((message.time or 0) * 1e9)


def _dump_messages(name: bytes, topic: Topic) -> Iterator[Record]:
    if topic.kept is None:
        for count, positions, sizes in topic.index.pieces():
            data = rec.PAIR.pack(count, len(positions)) + rec.little(positions) + rec.little(sizes)
            yield Record(rec.named(rec.CHUNK, name, rec.NUMBER.pack(count)), data)
        return
    for position in sorted(topic.kept):
        message = topic.kept[position]
        keyed = message.key is not None
        key = rec.PAIR.pack(position, keyed) + (message.key or b"")
        yield Record(
            rec.named(rec.KEPT, name, key),
            message.value or b"",
            headers=message.headers,
            timestamp=message.time,
            tombstone=message.value is None,
        )


def _dump_group(name: bytes, group: bytes, members: Members) -> Iterator[Record]:
    numbers = (members.frontier, members.version, members.missed)
    yield Record(rec.named(rec.MEMBER, name, group), rec.packed(numbers))
    order = sorted(members.leases)
    for at in range(0, len(order), _LEASES_IN_RECORD):
        part = order[at : at + _LEASES_IN_RECORD]
        flat = [number for each in part for number in (each, *members.leases[each])]
        key = rec.named(rec.LEASES, name, rec.NUMBER.pack(part[0]) + group)
        yield Record(key, rec.packed(flat))


def _load_topic(topic: Topic, record: Record, name: bytes, rest: bytes) -> None:
    value = bytes(record.value)
    topic.set_rules(rec.retention(record, value[24:]))
    topic.gone, topic.next, start = rec.from_little("Q", record, value[:24])
    topic.index.begin_at(start)


def _load_chunk(topic: Topic, record: Record, name: bytes, rest: bytes) -> None:
    value = bytes(record.value)
    size = rec.PAIR.size
    count, length = rec.numbers(Record(record.key, value[:size]))
    positions = rec.from_little("Q", record, value[size : size + 8 * length])
    sizes = rec.from_little("I", record, value[size + 8 * length :])
    if not topic.index.load(count, positions, sizes):
        raise rec.damaged(record, "its part of the index does not fit")


def _load_kept(topic: Topic, record: Record, name: bytes, rest: bytes) -> None:
    if topic.kept is None:
        raise ValueError("the topic is not compacted")
    position, keyed = rec.PAIR.unpack_from(rest)
    key = rest[rec.PAIR.size :] if keyed else None
    size = len(key or b"") + len(record.value)
    topic.keep(message_of(name.decode(), position, key, record), size)


def _load_consumer(topic: Topic, record: Record, name: bytes, rest: bytes) -> None:
    topic.consumers[rest] = Committed(*rec.numbers(record))


def _load_group(topic: Topic, record: Record, name: bytes, rest: bytes) -> None:
    frontier, version, missed = rec.unpacked(record)
    topic.groups[rest] = members = Members(frontier, version)
    members.missed = missed


def _load_leases(topic: Topic, record: Record, name: bytes, rest: bytes) -> None:
    flat = rec.unpacked(record)
    leases = topic.groups[rest[rec.NUMBER.size :]].leases
    for at in range(0, len(flat), 4):
        leases[flat[at]] = Lease(*flat[at + 1 : at + 4])


_CHANGES: dict[bytes, Callable[[State, Record, bytes, bytes], None]] = {
    rec.KEYED: State._keyed,
    rec.COMMIT: State._commit,
    rec.FORGET: State._forget,
    rec.GROUP: State._group,
    rec.DISBAND: State._disband,
    rec.LEASE: State._leased,
    rec.EXTEND: State._leased,
    rec.NACK: State._leased,
    rec.ACK: State._leased,
    rec.SKIP: State._skip,
    rec.RETENTION: State._retention,
    rec.TRIM: State._trim,
    rec.SWEEP: State._sweep,
    rec.DELETE: State._delete,
}
_LOADS: dict[bytes, Callable[[Topic, Record, bytes, bytes], Any]] = {
    rec.TOPIC: _load_topic,
    rec.CHUNK: _load_chunk,
    rec.KEPT: _load_kept,
    rec.COMMIT: _load_consumer,
    rec.MEMBER: _load_group,
    rec.LEASES: _load_leases,
}
