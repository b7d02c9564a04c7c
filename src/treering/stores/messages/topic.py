"""What is known of one topic: its messages, its consumers, its groups."""

from __future__ import annotations

from collections.abc import Iterable, MutableMapping
from typing import NamedTuple

from treering import Record
from treering.fold import Overlay

from .index import Index
from .records import NO_RETENTION, Retention

# A compacted topic's index is made anew when most of what it names was superseded.
_SUPERSEDED_LEAST = 1024


class Message(NamedTuple):
    """One message. `value` is None for a deletion in a compacted topic, or where you published
    None; `time` is when it was published, in seconds since 1970."""

    topic: str
    position: int
    key: bytes | None
    value: bytes | None
    headers: dict[str, bytes]
    time: float | None


def message_of(topic: str, position: int, key: bytes | None, record: Record) -> Message:
    """The message that a record is."""
    value = None if record.tombstone else bytes(record.value)
    return Message(topic, position, key, value, record.headers, record.timestamp)


class Committed(NamedTuple):
    """How far a consumer is, and the record that says so."""

    position: int
    version: int


class Lease(NamedTuple):
    """Until when a member has a message, by which record, and how often members got it."""

    expires_ns: int
    version: int
    deliveries: int


class Members:
    """What a group's members have: `frontier` is where the messages begin that nobody got yet;
    before it, those with a lease are not acknowledged, the others are. `missed` tells how far
    retention removed what they had not acknowledged; 0 if it has not."""

    __slots__ = ("_earliest_ns", "frontier", "leases", "missed", "version")

    def __init__(self, frontier: int, version: int) -> None:
        self._earliest_ns = 0  # no lease ends before
        self.frontier = frontier
        self.version = version  # the record by which the group began, or began anew
        self.leases: MutableMapping[int, Lease] = {}
        self.missed = 0

    def copy(self) -> Members:
        """Another one, that stays as this one is now."""
        other = Members(self.frontier, self.version)
        other.leases, other.missed = dict(self.leases), self.missed
        other._earliest_ns = self._earliest_ns
        return other

    def due(self, now_ns: int) -> list[int]:
        """What is to be delivered again, in order; O(leases), but O(1) while none is over."""
        if now_ns < self._earliest_ns:
            return []
        found = sorted(at for at, lease in self.leases.items() if lease.expires_ns <= now_ns)
        if not found:
            self._earliest_ns = self.next_ns(1 << 63)
        return found

    def next_ns(self, default: int) -> int:
        """When the next lease ends."""
        return min((lease.expires_ns for lease in self.leases.values()), default=default)

    def floor(self) -> int:
        """Everything before it is acknowledged."""
        return min(self.leases, default=self.frontier)

    def trim(self, gone: int) -> None:
        """Retention removed what lies before `gone`."""
        lost = [position for position in self.leases if position < gone]
        for position in lost:
            del self.leases[position]
        if lost or self.frontier < gone:
            self.missed = gone

    def lease(self, positions: Iterable[int], expires_ns: int, version: int) -> None:
        """A member gets these."""
        leases = self.leases
        self._earliest_ns = min(self._earliest_ns, expires_ns)
        for position in positions:
            before = leases.get(position)
            deliveries = 1 + (before.deliveries if before else 0)
            leases[position] = Lease(expires_ns, version, deliveries)
            self.frontier = max(self.frontier, position + 1)

    def change(self, positions: Iterable[int], expires_ns: int, version: int | None) -> None:
        """The leases of these end at another time; with `version`, under another record."""
        self._earliest_ns = min(self._earliest_ns, expires_ns)
        for position in positions:
            before = self.leases.get(position)
            if before is not None:
                new = before.version if version is None else version
                self.leases[position] = Lease(expires_ns, new, before.deliveries)

    def ack(self, positions: Iterable[int]) -> None:
        """These are done."""
        for position in positions:
            self.leases.pop(position, None)


class Topic:
    """See above. `gone` is the position after the newest message that retention removed. A
    compacted topic has its messages here: `kept` by position, and where each key's newest is."""

    __slots__ = ("consumers", "gone", "groups", "index", "kept", "newest", "next", "owner", "rules")

    def __init__(self) -> None:
        self.owner: object = None
        self.index = Index()
        self.gone = 0
        self.next = 0  # after the newest message there ever was
        self.rules = NO_RETENTION
        self.kept: MutableMapping[int, Message] | None = None
        self.newest: MutableMapping[bytes, int] = {}
        self.consumers: dict[bytes, Committed] = {}
        self.groups: dict[bytes, Members] = {}

    def copy(self, layered: bool) -> Topic:
        """Another one, that stays as this one is now; with `layered` it takes no time to speak of,
        but the other must stay as it is."""
        other = Topic()
        other.index = self.index.copy()
        other.gone, other.next, other.rules = self.gone, self.next, self.rules
        if self.kept is not None:
            other.kept = Overlay(self.kept) if layered else dict(self.kept)
            other.newest = Overlay(self.newest) if layered else dict(self.newest)
        other.consumers = self.consumers.copy()
        other.groups = {name: members.copy() for name, members in self.groups.items()}
        return other

    # --- Changes ---

    def set_rules(self, rules: Retention) -> None:
        """Keep so much from now on."""
        self.rules = rules
        if not rules.compact:
            if self.kept is not None:
                self.index = Index()  # it also names messages that were superseded
            self.kept, self.newest = None, {}
        elif self.kept is None:
            self.kept = {}

    def keep(self, message: Message, size: int) -> None:
        """A message of a compacted topic: what was there with its key goes."""
        assert self.kept is not None
        self.index.append(message.position, size)
        self.kept[message.position] = message
        if message.key is not None:
            before = self.newest.get(message.key)
            self.newest[message.key] = message.position
            if before is not None and before != message.position:
                self.kept.pop(before, None)
        if len(self.index) > 2 * len(self.kept) + _SUPERSEDED_LEAST:
            self._index_anew()

    def _index_anew(self) -> None:
        assert self.kept is not None
        index = Index()
        for position in sorted(self.kept):
            message = self.kept[position]
            index.append(position, len(message.key or b"") + len(message.value or b""))
        self.index = index

    def drop(self, positions: Iterable[int]) -> None:
        """Remove these messages of a compacted topic."""
        assert self.kept is not None
        for position in list(positions):
            message = self.kept.pop(position, None)
            if message is not None and self.newest.get(message.key or b"") == position:
                del self.newest[message.key or b""]

    def trim(self, position: int) -> None:
        """Remove the messages before `position`."""
        if self.kept is not None:
            before = [found for found in self.kept if found < position]
            self.drop(before)
            newest = max(before, default=None)
            self.index.trim(position)
        else:
            newest = self.index.trim(position)
        if newest is not None:
            self.gone = newest + 1
            for members in self.groups.values():
                members.trim(self.gone)

    # --- Queries ---

    def count(self) -> int:
        """How many messages are there."""
        return len(self.index) if self.kept is None else len(self.kept)

    def copies(self, positions: Iterable[int]) -> list[Message]:
        """A compacted topic's messages with headers of their own: callers may change these."""
        assert self.kept is not None
        found = (self.kept[each] for each in positions)
        return [message._replace(headers=dict(message.headers)) for message in found]

    def first(self) -> int | None:
        """The oldest message's position."""
        if self.kept is None:
            return self.index.first
        return min(self.kept, default=None)

    def from_position(self, position: int) -> int:
        """How many messages are there from `position` on."""
        if self.kept is None:
            return self.index.end - self.index.find(position)
        return sum(1 for found in self.kept if found >= position)

    def positions(self, position: int, most: int, below: int) -> list[int]:
        """Where the messages are from `position` on and before `below`: at most so many, and only
        at the end none."""
        found: list[int] = []
        count = self.index.find(position)
        while not found:
            some = self.index.some(count, most)
            if not some:
                break
            count += len(some)
            if self.kept is None:
                found = some.tolist()
                if found[-1] >= below:
                    return [each for each in found if each < below]
            else:
                found = [each for each in some if each in self.kept]
        return found

    def size(self) -> int:
        """The bytes of keys and values that are there."""
        if self.kept is None:
            return self.index.size()
        return sum(len(m.key or b"") + len(m.value or b"") for m in self.kept.values())
