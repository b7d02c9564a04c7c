"""Consumers: a durable position of one reader in a topic."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from treering import ConflictError, NotThereError, PositionError, Record, UsageError

from . import records as rec
from .reading import Messages, Readable, check_timeout
from .state import State
from .topic import Committed, Message


class Consumer(Messages):
    """Reads a topic from its committed position on; made by `MessageLog.consumer`.

    What was read and not committed when the process died is read again: at least once. To have the
    effect exactly once, write it in one `MessageLog.batch` with the commit, or, in a database, in
    one transaction: if that comes to nothing, what was read within it is read again. A loop over it
    (also `async for`) ends when there is nothing more, or with `follow` waits. For one thread at a
    time.
    """

    def __init__(
        self, log: Readable, topic: str, name: str, follow: bool, timeout: float | None
    ) -> None:
        self.topic, self.name = topic, name
        self._log = log
        self._packed = rec.name_bytes(name, "consumer")
        super().__init__(log._shelf(topic), 0, follow, timeout)
        self._version = -1
        self._read_in: Callable[[], object] = _nowhere

    def _known(self, state: State) -> Committed:
        topic = state.topics.get(self._shelf.name)
        found = None if topic is None else topic.consumers.get(self._packed)
        if found is None:
            raise NotThereError(
                f"there is no consumer {self.name!r} of {self.topic!r} any more",
                hint="Make it anew with log.consumer(…)",
            )
        return found

    def _chosen(self, position: int | None) -> int:
        if position is None:
            return self.position
        if isinstance(position, bool) or not isinstance(position, int) or position < 0:
            raise UsageError(f"a position is a number from 0 on, not {position!r:.40}")
        return position

    def _committing(self, state: State, position: int) -> Record:
        """The record that commits, if nobody else has since this one knows how far it is."""
        if self._known(state).version != self._version:
            raise ConflictError(
                f"another process has committed for the consumer {self.name!r} of {self.topic!r}",
                position=self._known(state).position,
                hint="Call resume() to go on from there; give each process a name, or use a group",
            )
        if position > max(state.end, self._known(state).position):
            raise PositionError(
                "no message has come that far", position=position, hint=f"Up to {state.end}"
            )
        key = rec.named(rec.COMMIT, self._shelf.name, self._packed)
        return Record(key, rec.NUMBER.pack(position))

    # --- Commands ---

    def commit(self, position: int | None = None, *, durable: bool | None = None) -> None:
        """Everything before `position` (None: what this consumer has given so far) is done: a new
        start goes on from there. Durable at return under ALWAYS or with durable=True.

        ConflictError if somebody else has committed for this consumer since it started from its
        position: nothing changes, then.
        """
        chosen = self._chosen(position)

        def decide(state: State) -> list[Record]:
            record = self._committing(state, chosen)
            return [] if self._known(state).position == chosen else [record]

        for version in self._shelf.fold.command(decide, durable=durable):
            self._go_by(version)

    def _go_by(self, version: int) -> None:
        """We know of this commit; unless the transaction that it is a part of comes to nothing."""
        before, self._version = self._version, version
        inside = self._shelf.fold.transaction
        if inside is not None and version >= inside.begun_at:
            inside.if_undone(lambda: self._forget(version, before))

    def _forget(self, version: int, before: int) -> None:
        if self._version == version:
            self._version = before

    def seek(self, position: int | None = None, *, time: Any = None) -> None:
        """Go on from a position, or from the first message of that time (seconds since 1970 or a
        datetime) or later; without either from the oldest. Nothing is committed.

        PrunedError if retention removed messages from there on (`oldest` says what there is).
        """
        self._go(self._log._start(self.topic, position, time))

    def resume(self) -> None:
        """Go back to the committed position, whoever committed it, and start from it."""
        with self._shelf.fold.lock:
            known = self._known(self._shelf.state())
        self._go_by(known.version)
        self._go(known.position)

    def _reading(self) -> None:
        """What is read within a transaction that comes to nothing is to be read again."""
        inside = self._shelf.fold.transaction
        if inside is not None and self._read_in() is not inside:
            position, self._read_in = self.position, weakref.ref(inside)
            inside.if_undone(lambda: self._go(position))

    def _go(self, position: int) -> None:
        self._reading()
        super()._go(position)

    # --- Queries ---

    def __next__(self) -> Message:
        if self._shelf.fold.transaction is not None:
            self._reading()
        return super().__next__()

    def take(self, most: int, timeout: float | None = 0) -> list[Message]:
        """As `poll`."""
        self._reading()
        return super().take(most, timeout)

    def poll(self, most: int = 100, timeout: float | None = 0) -> list[Message]:
        """The next messages, at most so many; waits up to `timeout` seconds (None: for ever) for
        the first. PrunedError if retention removed some of these: then `seek`."""
        if isinstance(most, bool) or not isinstance(most, int) or most < 0:
            raise UsageError(f"most is a number from 0 on, not {most!r:.40}")
        return self.take(most, check_timeout(timeout))

    @property
    def committed(self) -> int:
        """The committed position."""
        with self._shelf.fold.lock:
            return self._known(self._shelf.state()).position

    @property
    def lag(self) -> int:
        """How many messages there are from the committed position on."""
        with self._shelf.fold.lock:
            state = self._shelf.state()
            return state.topics[self._shelf.name].from_position(self._known(state).position)

    def __enter__(self) -> Consumer:
        return self

    def __repr__(self) -> str:
        return f"<treering.stores.messages.Consumer {self.name!r} of {self.topic!r}>"


def _nowhere() -> None:
    """In no transaction."""
