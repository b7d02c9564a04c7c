"""Walking the invariants of a message log."""

from __future__ import annotations

from treering import DamageError
from treering.fold import Follower

from .reading import Messages, Shelf
from .state import State
from .topic import Topic


def check_topics(fold: Follower[State]) -> None:
    """Every message of the index is in the log, and nothing is out of order; else DamageError.
    PrunedError when retention and a checkpoint were faster."""
    state, position = fold.copy()
    for name, topic in state.topics.items():
        reason = _broken(topic, position)
        shelf = Shelf(fold, name.decode(), state)
        with Messages(shelf, topic.gone) as messages:
            if not reason and sum(1 for _ in messages) != topic.count():
                reason = "the index has messages that the log has not"
        if reason:
            raise DamageError(
                f"the topic {name.decode()!r} is damaged: {reason}",
                path=fold.wal.path,
                hint="Close and open again: the state is made anew from the log",
            )


def _broken(topic: Topic, end: int) -> str:
    """What does not hold; empty if all does."""
    if not topic.index.rising():
        return "its positions do not rise"
    if not topic.gone <= topic.next <= end:
        return "its bounds are out of order"
    if topic.kept is not None:
        named = {message.key: at for at, message in topic.kept.items() if message.key is not None}
        if named != topic.newest:
            return "a key has not its newest message"
    for members in topic.groups.values():
        if any(not topic.gone <= at < members.frontier for at in members.leases):
            return "a group has a lease on what is not there"
    return ""
