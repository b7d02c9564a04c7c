"""The reading half: the same for a message log, and for one as it was."""

from __future__ import annotations

import asyncio
import os
import threading
import time as clock
from abc import abstractmethod
from collections.abc import AsyncIterator, Iterator
from itertools import chain, compress, islice
from typing import Any

from treering import PositionError, PrunedError, Reader, Record, TreeringError, UsageError
from treering.fold import Follower
from treering.fold.kit import end_of

from . import records as rec
from .state import State
from .topic import Message, Topic

BLOCK_MESSAGES = 256
# No more is fetched ahead than this, except for a single message.
BLOCK_BYTES = 4 << 20
# A waiting iterator looks so often whether it was stopped.
_SLICE_SECONDS = 0.25
# For fewer than these, a reader is not worth its while.
_MANY_MESSAGES = 16
# With so many others between two messages, or so many to the next one, they are looked up.
_SPARSE, _SKIPPED_MAX = 8, 2048

_new = tuple.__new__


class Shelf:
    """Fetches the messages of one topic from wherever they are. For one thread at a time."""

    def __init__(self, fold: Follower[State], topic: str, view: State | None = None) -> None:
        self.fold, self.topic, self.view = fold, topic, view
        self.name = rec.name_bytes(topic)
        self._plain = rec.PLAIN + self.name
        self._reader: Reader | None = None
        self._process = os.getpid()

    def state(self) -> State:
        """The newest state, or the view's; with the fold's lock held."""
        return self.fold.state() if self.view is None else self.view

    def fetch(self, position: int, most: int = BLOCK_MESSAGES) -> list[Message]:
        """The first messages from `position` on; none only if there are none. PrunedError if
        retention removed some of these."""
        while True:
            with self.fold.lock:
                state = self.state()
                topic = state.topics.get(self.name)
                if topic is None:
                    return []
                if position < topic.gone:
                    raise pruned(self.topic, topic, position)
                end = end_of(self.fold)
                positions = topic.positions(position, min(most, BLOCK_MESSAGES), end)
                if topic.kept is None:
                    positions = topic.index.within(positions, BLOCK_BYTES)
                if topic.kept is not None:
                    return topic.copies(positions)
            try:
                return self.read(positions)
            except PrunedError:
                if not self._was_removed(position):
                    raise

    def read(self, positions: list[int]) -> list[Message]:
        """The messages at these positions of a topic that is not compacted."""
        return self._read(positions) if positions else []

    def _was_removed(self, position: int) -> bool:
        """Whether retention has overtaken us, so that the next try says it better."""
        with self.fold.lock:
            topic = self.state().topics.get(self.name)
            return self.view is None and (topic is None or position < topic.gone)

    def _read(self, positions: list[int]) -> list[Message]:
        """The messages at these positions, which are in the log."""
        topic, plain, name = self.topic, self._plain, self.name
        return [
            _new(
                Message,
                (
                    topic,
                    record.position,
                    None if record.key == plain else rec.key_of(record, name),
                    None if record.tombstone else record.value,
                    record.headers,
                    record.timestamp,
                ),
            )
            for record in self._records(positions)
        ]

    def _records(self, positions: list[int]) -> list[Record]:
        """Passing over a few others is quicker than looking each one up."""
        first, last = positions[0], positions[-1]
        reader, self._reader = self._reader, None
        if self._process != os.getpid():  # a parent's reader is not ours
            reader, self._process = None, os.getpid()
        ahead = -1 if reader is None else first - reader.position
        if last - first >= _SPARSE * len(positions):
            return self.fold.wal.read_many(positions)
        if reader is None or not 0 <= ahead <= _SKIPPED_MAX:
            if len(positions) < _MANY_MESSAGES:
                return self.fold.wal.read_many(positions)
            reader, ahead = self.fold.wal.read_from(first), 0
        some = islice(reader, ahead, ahead + last - first + 1)
        if len(positions) <= last - first:
            wanted = bytearray(last - first + 1)
            for position in positions:
                wanted[position - first] = 1
            found = list(compress(some, wanted))  # the others are let go of at once
        else:
            found = list(some)
        if len(found) < len(positions):  # the log was cut, or closed: this says which
            return self.fold.wal.read_many(positions)
        self._reader = reader  # and not after an error
        return found

    def close(self) -> None:
        """Let go of the log's file."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None


class Messages(Iterator[Message], AsyncIterator[Message]):
    """The messages of a topic from a position on, as `consume_from` gives them; `position` is where
    to go on from. Without `follow` it ends when there is none any more; a later step finds what
    came meanwhile. For one thread at a time, except for `stop`. `async for` works, too: then a
    thread of the event loop's pool does the waiting."""

    def __init__(
        self, shelf: Shelf, position: int, follow: bool = False, timeout: float | None = None
    ) -> None:
        self._shelf = shelf
        self._follow, self._timeout = follow, check_timeout(timeout)
        self._given = self._next = position
        self._block: Iterator[Message] = iter(())
        self._last: Message | None = None
        self._filling: asyncio.Future[bool] | None = None
        self._left = False
        self._turn = 0
        self._turning = threading.Lock()
        self.stopped = False

    @property
    def position(self) -> int:
        """After the last message that was given."""
        return self._given if self._last is None else self._last.position + 1

    def __iter__(self) -> Messages:
        return self

    def __next__(self) -> Message:
        while True:
            for message in self._block:
                self._last = message
                return message
            if not self._fill(self._timeout if self._follow else 0):
                raise StopIteration

    def take(self, most: int, timeout: float | None = 0) -> list[Message]:
        """Up to `most` messages, waiting for the first of them up to `timeout` seconds."""
        found = list(islice(self._block, most))
        try:
            while len(found) < most and self._fill(0 if found else timeout):
                found += islice(self._block, most - len(found))
        except BaseException as error:
            if not found or not isinstance(error, TreeringError):
                self._block = chain(found, self._block)  # an interrupt loses none
                raise
        if found:  # if there was an error, the next call tells
            self._last = found[-1]
        return found

    def _fill(self, timeout: float | None) -> bool:
        """Fetch more; whether there was some in that time."""
        until = None if timeout is None else clock.monotonic() + timeout
        turn = self._turn
        while turn == self._turn and not (self.stopped or self._left):
            seen = self._shelf.fold.position
            found = self._shelf.fetch(self._next)
            if found:
                return self._take_in(found, turn)
            left = _SLICE_SECONDS if until is None else until - clock.monotonic()
            if left <= 0:
                return False
            self._shelf.fold.wait(min(left, _SLICE_SECONDS), position=seen)
        return False

    def _take_in(self, found: list[Message], turn: int) -> bool:
        with self._turning:
            if turn != self._turn:
                return False  # a thread that nobody waits for any more
            self._next = found[-1].position + 1
            self._block = iter(found)
            return True

    def _go(self, position: int) -> None:
        """Go on from there."""
        with self._turning:
            self._turn += 1
            self._given = self._next = position
            self._block, self._last, self._filling = iter(()), None, None

    def __aiter__(self) -> Messages:
        return self

    async def __anext__(self) -> Message:
        """The next message; a cancelled step loses none: the next one goes on with it."""
        while True:
            for message in self._block:
                self._last = message
                return message
            if self._filling is None:
                self._left = False
                timeout = self._timeout if self._follow else 0
                loop = asyncio.get_running_loop()
                self._filling = loop.run_in_executor(None, self._fill, timeout)
            try:
                more = await asyncio.shield(self._filling)
            except asyncio.CancelledError:
                self._left = True  # the thread is free within 0.25 s
                raise
            except BaseException:
                self._filling = None
                raise
            self._filling = None
            if not more and not self._left:
                raise StopAsyncIteration

    def stop(self) -> None:
        """End the iteration, from another thread or a signal's handler, within 0.25 s."""
        self.stopped = True

    def close(self) -> None:
        """End the iteration and let go of the log's file; idempotent."""
        self.stopped = True
        self._block = iter(())
        self._shelf.close()

    def __enter__(self) -> Messages:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Readable:
    """What can be read: a message log, or one as it was."""

    _fold: Follower[State]

    @abstractmethod
    def _state(self) -> State:
        """With the fold's lock held."""

    @abstractmethod
    def _shelf(self, topic: str) -> Shelf:
        """Where the messages of a topic are."""

    def _topic(self, topic: str) -> Topic:
        """An unknown topic is an empty one."""
        return self._state().topics.get(rec.name_bytes(topic)) or Topic()

    def topics(self) -> list[str]:
        """The names of all topics that have messages, consumers, groups or rules, sorted."""
        with self._fold.lock:
            return sorted(name.decode() for name in self._state().topics)

    def bounds(self, topic: str) -> tuple[int, int]:
        """The position of the topic's oldest message, and the one after its newest; the same number
        twice if it has none."""
        with self._fold.lock:
            found = self._topic(topic)
            first = found.first()
            return (found.next if first is None else first), found.next

    def count(self, topic: str) -> int:
        """How many messages the topic has. O(1)."""
        with self._fold.lock:
            return self._topic(topic).count()

    def size(self, topic: str) -> int:
        """The bytes of their keys and values."""
        with self._fold.lock:
            return self._topic(topic).size()

    def consumers(self, topic: str) -> dict[str, int]:
        """The committed position of each consumer of the topic."""
        with self._fold.lock:
            found = self._topic(topic).consumers.items()
            return {name.decode(): committed.position for name, committed in found}

    def groups(self, topic: str) -> dict[str, int]:
        """For each group of the topic, the position before which everything is acknowledged."""
        with self._fold.lock:
            found = self._topic(topic).groups.items()
            return {name.decode(): members.floor() for name, members in found}

    def _start(self, topic: str, position: int | None, time: Any) -> int:
        """Where to begin: at a position, a time, or the oldest message. PrunedError if retention
        removed messages from there on."""
        if position is not None and time is not None:
            raise UsageError("give a position or a time, not both")
        if time is not None:
            position = self._at_time(topic, time)
        with self._fold.lock:
            return start_in(topic, self._topic(topic), position)

    def _at_time(self, topic: str, time: Any) -> int:
        """The position of the first record of that time or later."""
        try:
            return self._fold.position_at(time)
        except PrunedError:
            with self._fold.lock:
                found = self._topic(topic)
                if found.gone:
                    raise pruned(topic, found, 0) from None
                return 0  # whatever the log has lost, nothing of this topic


def start_in(name: str, topic: Topic, position: Any, end: int | None = None) -> int:
    """Where to begin in a topic, at the oldest message for None. PrunedError; PositionError beyond
    `end`: what comes before that position would never be shown."""
    if position is None:
        first = topic.first()
        return max(topic.gone, topic.next if first is None else first)
    bad = isinstance(position, bool) or not isinstance(position, int)
    if bad or not 0 <= position < 1 << 63:
        raise UsageError(f"a position is a number from 0 on, not {position!r:.40}")
    if position < topic.gone:
        raise pruned(name, topic, position)
    if end is not None and position > end:
        raise PositionError(
            "no message has come that far", position=position, hint=f"The log ends at {end}"
        )
    return int(position)


def pruned(name: str, topic: Topic, position: int) -> PrunedError:
    """The error for messages that retention removed."""
    first = topic.first()
    oldest = topic.gone if first is None else first
    error = PrunedError(
        f"retention removed messages of {name!r} from there on",
        position=position,
        hint=f"Go on from {oldest}, the oldest there is, with seek({oldest})",
    )
    error.oldest = oldest
    return error


def check_timeout(timeout: Any) -> float | None:
    """Seconds to wait, None for ever."""
    if timeout is None:
        return None
    bad = isinstance(timeout, bool) or not isinstance(timeout, int | float)
    if bad or not 0 <= timeout < 1 << 33:
        raise UsageError(f"timeout must be seconds from 0 on, or None, not {timeout!r:.40}")
    return float(timeout)
