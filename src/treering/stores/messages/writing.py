"""Messages, commits and acknowledgements that are written together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from treering import Record, UsageError
from treering.fold import Follower

from . import records as rec
from .state import State

if TYPE_CHECKING:
    from .consumer import Consumer
    from .group import Delivery, Group

Decide = Callable[[State], list[Record]]


def message_record(
    topic: bytes, value: Any, key: Any = None, headers: Mapping[str, bytes] | None = None
) -> Record:
    """The record of a message."""
    packed = rec.message_key(topic, key)
    if value is None:
        return Record(packed, b"", tombstone=True, headers=headers)
    return Record(packed, check_value(value), headers=headers)


def check_value(value: Any) -> bytes:
    """The value as bytes; UsageError for what is none."""
    if not isinstance(value, bytes | bytearray | memoryview):
        raise UsageError(
            f"a value is bytes or None, not {type(value).__name__}",
            hint="Encode it first, for example json.dumps(value).encode()",
        )
    return bytes(value)


class Batch:
    """What will be written together; see `MessageLog.batch`. For one thread at a time."""

    def __init__(
        self,
        fold: Follower[State],
        check_key: Callable[[bytes, bytes | None], None],
        durable: bool | None,
    ) -> None:
        self._fold, self._check_key, self._durable = fold, check_key, durable
        self._records: list[Record] = []
        self._decides: list[Decide] = []
        self._consumers: list[tuple[Consumer, int]] = []

    def publish(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None = None,
        headers: Mapping[str, bytes] | None = None,
    ) -> None:
        """Publish a message, when the batch is written."""
        name = rec.name_bytes(topic)
        self._check_key(name, key)
        self._records.append(message_record(name, value, key, headers))

    def commit(self, consumer: Consumer, position: int | None = None) -> None:
        """Commit a consumer's position (None: after what it has given so far), when the batch is
        written: with everything else, or not at all. Of one consumer, the last counts."""
        chosen = consumer._chosen(position)
        self._consumers = [(each, at) for each, at in self._consumers if each is not consumer]
        self._consumers.append((consumer, chosen))

    def ack(self, group: Group, *deliveries: Delivery) -> None:
        """Acknowledge a group's messages, when the batch is written."""
        self._decides.append(group._acking(deliveries))

    def __len__(self) -> int:
        return len(self._records) + len(self._decides) + len(self._consumers)

    def clear(self) -> None:
        """Forget what was collected."""
        self._records, self._decides, self._consumers = [], [], []

    def write(self) -> None:
        """Write what was collected, atomically, and begin anew. ConflictError if a consumer's
        position was committed by somebody else, LeaseLostError if a group's message was given to
        another member: then nothing is written, and all is still here."""
        if not self:
            return
        messages, decides, consumers = self._records, self._decides, self._consumers

        def decide(state: State) -> Sequence[Record]:
            commits = [each._committing(state, at) for each, at in consumers]
            others = [record for each in decides for record in each(state)]
            return [*commits, *others, *messages]

        fold = self._fold
        if decides or consumers:
            positions = fold.command(decide, durable=self._durable)
            for (consumer, _), version in zip(consumers, positions, strict=False):
                consumer._go_by(version)
        else:
            fold.append(messages, durable=self._durable)
        self.clear()

    def __enter__(self) -> Batch:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.write()
        else:
            self.clear()
