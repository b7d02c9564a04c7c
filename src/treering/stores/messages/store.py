"""The store: commands and queries."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Self

from treering import FsyncPolicy, PrunedError, Record, UsageError
from treering.fold import Follower

from . import records as rec
from . import retention
from .checking import check_topics
from .consumer import Consumer
from .group import Group
from .publishing import Publishing, RetainingFold
from .reading import Messages, start_in
from .state import State
from .topic import Topic
from .view import LogView

# How often a check begins anew because retention overtook it.
_CHECKS_MAX = 3


class MessageLog(Publishing):
    """Topics of messages in a directory, with durable consumers and groups. Thread-safe; several
    processes may have it open at once, and each sees what the others did with its next call.

    `fsync_policy` (default ALWAYS: durable when the call returns) and `durable=` of single calls
    as for the log; `exclusive=True` keeps others out. `checkpoint_bytes`, `checkpoint_records`,
    `checkpoint_seconds`: how much change between two snapshots. Further options are those of
    `treering.Wal.open`. In memory is an index of 12 bytes a message, and of compacted topics all.
    A topic begins with its first message; a topic's or consumer's name is a text of at most 249
    bytes, a key has at most 65,000 bytes.

    Every call raises what the log raises: ClosedError, ForkedError, FailedError, StorageError,
    DamageError; every command also DiskFullError and TooLargeError (nothing was changed) and
    ReadOnlyError. UsageError for wrong arguments.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        fsync_policy: FsyncPolicy = FsyncPolicy.ALWAYS,
        exclusive: bool = False,
        read_only: bool = False,
        **options: Any,
    ) -> None:
        fold = RetainingFold(
            path,
            partial(State, options.get("clock") or time.time_ns),
            own=True,
            fsync_policy=fsync_policy,
            exclusive=exclusive,
            read_only=read_only,
            **options,
        )
        self._begin(fold, read_only)

    @classmethod
    def on(cls, fold: Follower[State], *, read_only: bool = False, **options: Any) -> Self:
        """The store as a part of a database. Its host calls `apply_retention` when it is time."""
        store = cls.__new__(cls)
        store._begin(fold, read_only)
        return store

    @staticmethod
    def new_state(clock: Callable[[], int]) -> State:
        """An empty state, for a database."""
        return State(clock)

    # --- Reading (see also Readable) ---

    def consume_from(
        self,
        topic: str,
        position: int | None = None,
        *,
        time: Any = None,
        follow: bool = False,
        timeout: float | None = None,
    ) -> Messages:
        """An iterator over the topic's messages from `position` on, or from the first message of
        that time (seconds since 1970 or a datetime) or later, or from the oldest. With `follow` it
        waits for more, at most `timeout` seconds for each (None: for ever); for `async for`, too.

        PrunedError, also later, when retention removed messages from there on.
        """
        shelf = self._shelf(topic)
        return Messages(shelf, self._start(topic, position, time), follow, timeout)

    def consumer(
        self,
        name: str,
        topic: str,
        *,
        start: int | None = None,
        follow: bool = False,
        timeout: float | None = None,
    ) -> Consumer:
        """The consumer of that name, which goes on from its committed position. A new one is noted
        durably (as the policy says), and begins at `start`, or at the oldest message."""
        consumer = Consumer(self, topic, name, follow, timeout)
        packed, shelf_name = consumer._packed, consumer._shelf.name

        def decide(state: State) -> list[Record]:
            known = state.topics.get(shelf_name) or Topic()
            if packed in known.consumers:
                return []
            value = rec.NUMBER.pack(start_in(topic, known, start, state.end))
            return [Record(rec.named(rec.COMMIT, shelf_name, packed), value)]

        if name not in self.consumers(topic):
            self._fold.command(decide)
        consumer.resume()
        return consumer

    def group(
        self, name: str, topic: str, *, lease: float = 30.0, start: int | None = None
    ) -> Group:
        """A member of the group of that name, whose members share the topic's messages: each has
        what it gets for `lease` seconds, or until it acknowledges it. A new group is noted durably
        (as the policy says), and begins at `start`, or at the oldest message."""
        group = Group(self, topic, name, lease)
        packed, shelf_name = group._packed, group._shelf.name

        def decide(state: State) -> list[Record]:
            known = state.topics.get(shelf_name) or Topic()
            if packed in known.groups:
                return []
            return [group._record(rec.GROUP, start_in(topic, known, start, state.end), [])]

        if name not in self.groups(topic):
            self._fold.command(decide)
        return group

    def delete_consumer(self, name: str, topic: str) -> None:
        """Forget a consumer: retention waits for it no more. Nothing happens if there is none."""
        self._end(rec.FORGET, topic, rec.name_bytes(name, "consumer"))

    def delete_group(self, name: str, topic: str) -> None:
        """Forget a group. Nothing happens if there is none."""
        self._end(rec.DISBAND, topic, rec.name_bytes(name, "group"))

    def _end(self, kind: bytes, topic: str, name: bytes) -> None:
        packed = rec.name_bytes(topic)

        def decide(state: State) -> list[Record]:
            known = state.topics.get(packed) or Topic()
            there = name in (known.consumers if kind == rec.FORGET else known.groups)
            return [Record(rec.named(kind, packed, name))] if there else []

        self._fold.command(decide)

    # --- Retention ---

    def set_retention(
        self,
        topic: str,
        *,
        seconds: float | None = None,
        bytes: int | None = None,
        consumed: bool = False,
        compact: bool = False,
        tombstone_seconds: float = retention.DAY_SECONDS,
    ) -> None:
        """What the topic keeps from now on, in place of what was said before: messages younger than
        `seconds`, the newest `bytes` of keys and values, with `consumed` those that some consumer
        or group has not done yet. What any of these does not keep goes; without rules all stays.

        With `compact` only the newest message of each key stays, a deletion (value None) for
        `tombstone_seconds`; the topic is then in memory as a whole. This can be changed only while
        the topic has no messages: UsageError.
        """
        rules = retention.rules(seconds, bytes, consumed, compact, tombstone_seconds)
        name = rec.name_bytes(topic)

        def decide(state: State) -> list[Record]:
            known = state.topics.get(name) or Topic()
            if known.rules.compact != compact and known.count():
                raise UsageError(
                    f"the topic {topic!r} has messages: it is too late to change `compact`",
                    hint="Copy them into a new topic, or delete this one first",
                )
            return [Record(rec.named(rec.RETENTION, name), rules.pack())]

        self._fold.command(decide)

    def apply_retention(self) -> int:
        """Remove what the topics' rules do not keep; how many messages. Also done before every
        checkpoint. Whoever reads sees it at once; the disk gets room at the next checkpoint."""
        return retention.apply(self._fold)

    def delete_topic(self, topic: str) -> None:
        """Remove a topic, its consumers, groups and rules, atomically. Nothing happens if there is
        none. A message that comes later begins it anew."""
        name = rec.name_bytes(topic)

        def decide(state: State) -> list[Record]:
            return [Record(rec.named(rec.DELETE, name))] if name in state.topics else []

        self._fold.command(decide)

    # --- The past ---

    def at(self, position: int | None = None, time: Any = None) -> LogView:
        """The message log as it was when it ended at `position` (see `position`), or at a time
        (seconds since 1970 or a datetime). Reads the log from the snapshot before it on.
        PrunedError when a checkpoint has removed what that takes; PositionError beyond the end."""
        return LogView(self._fold, *self._past(position, time))

    @property
    def position(self) -> int:
        """Where the log ends: what is published later has this position or a later one."""
        with self._fold.lock:
            self._fold.state()
            return self._fold.position

    # --- Care ---

    def check_state(self) -> None:
        """The part of `check` that looks at what this store has in memory."""
        for _ in range(_CHECKS_MAX):
            try:
                return check_topics(self._fold)
            except PrunedError:
                continue  # retention and a checkpoint were faster
        return check_topics(self._fold)

    def stats(self) -> dict[str, Any]:
        """Numbers for people and dashboards: the fold's, how many topics and messages."""
        with self._fold.lock:
            topics = self._state().topics
            messages = sum(topic.count() for topic in topics.values())
            return {**self._fold.stats(), "topics": len(topics), "messages": messages}
