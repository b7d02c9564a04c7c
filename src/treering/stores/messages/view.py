"""A message log as it was."""

from __future__ import annotations

from typing import Any

from treering.fold import Follower

from .reading import Messages, Readable, Shelf
from .state import State


class LogView(Readable):
    """A message log as it was at a position: read-only, and standing still. Messages that retention
    has removed since are there as long as the log has them (else PrunedError)."""

    def __init__(self, fold: Follower[State], state: State, position: int) -> None:
        self._fold, self._then = fold, state
        self.position = position

    def _state(self) -> State:
        return self._then

    def _shelf(self, topic: str) -> Shelf:
        return Shelf(self._fold, topic, self._then)

    def consume_from(
        self, topic: str, position: int | None = None, *, time: Any = None
    ) -> Messages:
        """The messages that were there, as `MessageLog.consume_from`."""
        return Messages(self._shelf(topic), self._start(topic, position, time))
