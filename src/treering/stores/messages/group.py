"""Groups: several processes share a topic's messages, and each gets some of them."""

from __future__ import annotations

import threading
import time as clock
from collections.abc import Callable
from typing import Any, NamedTuple

from treering import ConflictError, NotThereError, Record, UsageError
from treering.fold.kit import end_of

from . import records as rec
from .reading import BLOCK_MESSAGES, Readable, check_timeout, pruned
from .state import State
from .topic import Members, Message, Topic

# A waiting member looks so often whether a lease of another one is over.
_SLICE_SECONDS = 0.25


class LeaseLostError(ConflictError):
    """The message is not this member's any more: it has been acknowledged, or its lease was over
    and it was given to another member."""


class Delivery(NamedTuple):
    """A message that a member got: `deliveries` counts how often members did, this time included;
    `lease` is the record that gave it, until `expires_at` (seconds since 1970)."""

    topic: str
    position: int
    key: bytes | None
    value: bytes | None
    headers: dict[str, bytes]
    time: float | None
    deliveries: int
    lease: int
    expires_at: float


class Group:
    """A member of a group; made by `MessageLog.group`. Thread-safe: the threads are one member.

    A message that a member got is its own for the time of the lease. Acknowledged, it never comes
    again; else it goes to whoever asks next. Every call that tells of a message raises
    LeaseLostError if it is not this member's any more, and then changes nothing.
    """

    def __init__(self, log: Readable, topic: str, name: str, lease: float) -> None:
        self.topic, self.name = topic, name
        self._log = log
        self._shelf = log._shelf(topic)
        self._packed = rec.name_bytes(name, "group")
        self._lease_ns = _lease_ns(lease)
        self._reading = threading.Lock()

    # --- Commands ---

    def get(self, most: int = 1, timeout: float | None = 0) -> list[Delivery]:
        """Messages that nobody has, at most so many (and 256), for the time of the lease: first
        those that come again, in order, then new ones. Waits up to `timeout` seconds (None: for
        ever) for the first; empty if there is none.

        Written at return, not durable: after a power failure others may get them, too. PrunedError
        if retention removed messages that the group had not acknowledged: see `skip_removed`.
        """
        if isinstance(most, bool) or not isinstance(most, int) or most < 1:
            raise UsageError(f"most is a number from 1 on, not {most!r:.40}")
        most = min(most, BLOCK_MESSAGES)
        if self._shelf.fold.transaction is not None:
            raise UsageError(
                "a transaction cannot take messages: nobody would know of the lease if it fails",
                hint="Call get before the block, and ack within it",
            )
        timeout = check_timeout(timeout)
        until = None if timeout is None else clock.monotonic() + timeout
        while True:
            seen = self._shelf.fold.position
            found = self._take(most)
            if found:
                return found
            left = _SLICE_SECONDS if until is None else until - clock.monotonic()
            if left <= 0:
                return []
            pause = max(0.0, min(left, _SLICE_SECONDS, self._until_due()))
            self._shelf.fold.wait(pause, position=seen)

    def _take(self, most: int) -> list[Delivery]:
        chosen: dict[int, int] = {}  # by position: how often it was delivered, this time included
        kept: list[Message] | None = None
        expires_ns = 0

        def decide(state: State) -> list[Record]:
            nonlocal kept, expires_ns
            topic, members = self._known(state)
            if members.missed:
                raise pruned(self.topic, topic, members.floor())
            over = members.due(state.now_ns())
            stale = [at for at in over if topic.kept is not None and at not in topic.kept]
            again = [at for at in over if topic.kept is None or at in topic.kept][:most]
            room = most - len(again)
            end = min(state.end, end_of(self._shelf.fold))
            new = topic.positions(members.frontier, room, end) if room > 0 else []
            expires_ns = state.now_ns() + self._lease_ns
            chosen.clear()
            chosen.update((at, members.leases[at].deliveries + 1) for at in again)
            chosen.update((at, 1) for at in new)
            kept = None if topic.kept is None else topic.copies(chosen)
            records = [self._record(rec.LEASE, expires_ns, list(chosen))] if chosen else []
            return records + ([self._record(rec.ACK, 0, stale)] if stale else [])

        positions = self._shelf.fold.command(decide, durable=False)
        if not chosen:
            return []
        version, expires_at = positions[0], expires_ns / 1e9
        messages = self._read(list(chosen)) if kept is None else kept
        return [
            Delivery(*message, chosen[message.position], version, expires_at)
            for message in messages
        ]

    def _read(self, positions: list[int]) -> list[Message]:
        """Values of what was leased; one thread at a time, so that each goes on from the last."""
        with self._reading:
            return self._shelf.read(sorted(positions))

    def ack(self, *deliveries: Delivery, durable: bool | None = None) -> None:
        """These are done: they never come again. Durable at return under ALWAYS or with
        durable=True. All or none; LeaseLostError."""
        self._shelf.fold.command(self._acking(deliveries), durable=durable)

    def nack(self, *deliveries: Delivery, delay: float = 0) -> None:
        """Give these back; whoever asks gets them, at the earliest after `delay` seconds."""
        delay_ns = round((check_timeout(delay) or 0) * 1e9)
        self._shelf.fold.command(self._telling(rec.NACK, deliveries, delay_ns), durable=False)

    def extend(self, *deliveries: Delivery, seconds: float | None = None) -> None:
        """Keep these for so long from now on (None: the time of the lease)."""
        length_ns = self._lease_ns if seconds is None else _lease_ns(seconds)
        self._shelf.fold.command(self._telling(rec.EXTEND, deliveries, length_ns), durable=False)

    def seek(self, position: int | None = None, *, time: Any = None) -> None:
        """Begin anew, for all members, from a position, a time, or without either from the oldest
        message: what was acknowledged from there on comes again, every lease is lost."""
        start = self._log._start(self.topic, position, time)

        def decide(state: State) -> list[Record]:
            self._known(state)
            return [self._record(rec.GROUP, start, [])]

        self._shelf.fold.command(decide)

    def skip_removed(self) -> None:
        """Go on behind messages that retention removed before the group acknowledged them."""

        def decide(state: State) -> list[Record]:
            _, members = self._known(state)
            return [self._record(rec.SKIP, 0, [])] if members.missed else []

        self._shelf.fold.command(decide)

    # --- Queries ---

    @property
    def pending(self) -> int:
        """How many messages members have got, or given back, and not acknowledged."""
        with self._shelf.fold.lock:
            return len(self._known(self._shelf.state())[1].leases)

    @property
    def lag(self) -> int:
        """How many messages are not acknowledged."""
        with self._shelf.fold.lock:
            topic, members = self._known(self._shelf.state())
            return topic.from_position(members.frontier) + len(members.leases)

    # --- What these are made of ---

    def _known(self, state: State) -> tuple[Topic, Members]:
        topic = state.topics.get(self._shelf.name)
        members = None if topic is None else topic.groups.get(self._packed)
        if topic is None or members is None:
            raise NotThereError(
                f"there is no group {self.name!r} of {self.topic!r} any more",
                hint="Make it anew with log.group(…)",
            )
        return topic, members

    def _until_due(self) -> float:
        with self._shelf.fold.lock:
            state = self._shelf.state()
            _, members = self._known(state)
            return (members.next_ns(1 << 62) - state.now_ns()) / 1e9

    def _record(self, kind: bytes, at_ns: int, positions: list[int]) -> Record:
        return rec.timed(kind, self._shelf.name, self._packed, at_ns, positions)

    def _acking(self, deliveries: tuple[Delivery, ...]) -> Callable[[State], list[Record]]:
        return self._telling(rec.ACK, deliveries, None)

    def _telling(
        self, kind: bytes, deliveries: tuple[Delivery, ...], later_ns: int | None
    ) -> Callable[[State], list[Record]]:
        """What decides on a record about these, if they are still this member's."""
        for each in deliveries:
            if not isinstance(each, Delivery):
                raise UsageError(f"give what get() returned, not {type(each).__name__}")

        def decide(state: State) -> list[Record]:
            self._check_held(state, deliveries)
            at_ns = 0 if later_ns is None else state.now_ns() + later_ns
            positions = list({each.position: None for each in deliveries})
            return [self._record(kind, at_ns, positions)] if positions else []

        return decide

    def _check_held(self, state: State, deliveries: tuple[Delivery, ...]) -> None:
        _, members = self._known(state)
        for each in deliveries:
            lease = members.leases.get(each.position)
            if each.topic != self.topic or lease is None or lease.version != each.lease:
                raise LeaseLostError(
                    f"this message of {each.topic!r} is not this member's any more",
                    position=each.position,
                    hint="It is acknowledged, or another member has it: let go of its results",
                )

    def __repr__(self) -> str:
        return f"<treering.stores.messages.Group {self.name!r} of {self.topic!r}>"


def _lease_ns(seconds: Any) -> int:
    if not check_timeout(seconds):
        raise UsageError(f"a lease is a number of seconds over 0, not {seconds!r:.40}")
    return max(1, round(float(seconds) * 1e9))
