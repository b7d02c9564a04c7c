"""The publishing half of a message log."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from treering import DiskFullError, UsageError
from treering.fold import Fold, Follower, Store

from . import records as rec
from . import retention
from .reading import Readable, Shelf
from .state import State
from .writing import Batch, check_value, message_record

# So many topics' names are remembered in their stored form.
_NAMES_KEPT = 10_000


class RetainingFold(Fold[State]):
    """Before each checkpoint, also those of the background, what retention does not keep goes."""

    def checkpoint(self) -> int:
        """As `Fold.checkpoint`."""
        try:
            retention.apply(self)
        except DiskFullError:
            pass  # the checkpoint itself may make room
        return super().checkpoint()


class Publishing(Store[State], Readable):
    """What appends messages; `MessageLog` adds the rest."""

    def _begin(self, fold: Follower[State], read_only: bool = False) -> None:
        self._stand_on(fold, read_only)
        self._names: dict[str, bytes] = {}

    def _state(self) -> State:
        return self._fold.state()

    def _shelf(self, topic: str) -> Shelf:
        return Shelf(self._fold, topic)

    def publish(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None = None,
        headers: dict[str, bytes] | None = None,
        *,
        durable: bool | None = None,
    ) -> int:
        """Append a message to a topic; its position. In a compacted topic it takes the place of the
        one with its key, and a `value` of None says that the key is gone.

        Written at return; durable under ALWAYS or with durable=True (then it blocks for an fsync,
        shared with all who wait), not with durable=False. O(size).
        """
        plain = self._names.get(topic) or self._plain(topic)
        packed = plain if key is None else rec.message_key(plain[1:], key)
        if value is not None and type(value) is not bytes:
            value = check_value(value)
        with self._fold.lock:
            fold = self._takes_directly(plain[1:], key)
            if fold is None:
                record = message_record(plain[1:], value, key, headers)
                position = self._fold.append([record], durable=False)[0]
            else:
                if value is None:
                    position = fold.wal.delete(packed, headers=headers)
                    size = 0
                else:
                    position = fold.wal.put(packed, value, headers=headers)
                    size = len(value)
                if position == fold.position:  # so nothing came in between
                    state, size = fold.current, size + (len(key) if key else 0)
                    mine = state.topic(plain[1:])
                    mine.index.append(position, size)  # again, after an interrupt, is no harm
                    mine.next = state.end = fold.position = position + 1
                    fold.pace.count(1, size + len(plain))
        self._fold.settle(position, durable)
        return position

    def _takes_directly(self, name: bytes, key: bytes | None) -> Fold[State] | None:
        """The log of our own, if messages of this topic are only counted in memory."""
        topic = self._fold.current.topics.get(name)
        if topic is None or topic.kept is None:
            return self._own
        if key is None:
            raise UsageError(
                f"the topic {name.decode()!r} is compacted: every message needs a key",
                hint="Give publish a key, or use another topic",
            )
        return None

    def _check_key(self, name: bytes, key: bytes | None) -> None:
        with self._fold.lock:
            self._takes_directly(name, key)

    def _plain(self, topic: Any) -> bytes:
        """The key of the topic's messages that have none of their own."""
        plain = rec.PLAIN + rec.name_bytes(topic)
        if len(self._names) >= _NAMES_KEPT:
            self._names.clear()
        self._names[topic] = plain
        return plain

    def publish_many(
        self, topic: str, messages: Iterable[Any], *, durable: bool | None = None
    ) -> range:
        """Append many messages to a topic, atomically and with one fsync; their positions. Each is
        a value, or a tuple (key, value) or (key, value, headers). As `publish`; TooLargeError over
        `batch_bytes_max` (64 MiB). For several topics use `batch`."""
        plain, chosen = self._names.get(topic) or self._plain(topic), list(messages)
        if self._own is not None and set(map(type, chosen)) == {bytes}:
            return self._publish_values(self._own, plain, chosen, durable)
        records = []
        for message in chosen:
            key, value, *headers = message if isinstance(message, tuple) else (None, message)
            self._check_key(plain[1:], key)
            records.append(message_record(plain[1:], value, key, *headers))
        return self._fold.append(records, durable=durable)

    def _publish_values(
        self, fold: Fold[State], plain: bytes, values: list[bytes], durable: bool | None
    ) -> range:
        pairs, sizes = [(plain, value) for value in values], list(map(len, values))
        with fold.lock:
            self._takes_directly(plain[1:], None)
            positions = fold.wal.append_batch(pairs)
            if positions[0] == fold.position:
                fold.current.messages(plain[1:], positions, sizes)
                fold.position = positions.stop
                fold.pace.count(len(pairs), sum(sizes) + len(plain) * len(pairs))
        fold.settle(positions[-1], durable)
        return positions

    def batch(self, *, durable: bool | None = None) -> Batch:
        """A context manager that collects messages of any topics, commits of consumers and acks of
        groups, and writes them atomically at its end; nothing if the block raises."""
        return Batch(self._fold, self._check_key, durable)
