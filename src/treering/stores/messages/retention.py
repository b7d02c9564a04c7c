"""What goes: decided here, with the clock; what was decided is a record, and the state obeys."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from treering import PrunedError, Record, UsageError
from treering.fold import Follower

from . import records as rec
from .records import Retention
from .state import State, deletions
from .topic import Message, Topic

DAY_SECONDS = 86_400


def rules(
    seconds: float | None,
    size: int | None,
    consumed: bool,
    compact: bool,
    tombstone_seconds: float,
) -> Retention:
    """The rules that these arguments make; UsageError for what makes none."""
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
        raise UsageError(f"bytes must be a number from 1 on, or None, not {size!r:.40}")
    return Retention(
        0 if seconds is None else _whole_ns(seconds, "seconds"),
        size or 0,
        _whole_ns(tombstone_seconds, "tombstone_seconds"),
        bool(consumed),
        bool(compact),
    )


def _whole_ns(seconds: Any, what: str) -> int:
    bad = isinstance(seconds, bool) or not isinstance(seconds, int | float)
    if bad or not 0 < seconds < 1 << 33:
        raise UsageError(f"{what} must be a number of seconds over 0, not {seconds!r:.40}")
    return max(1, round(float(seconds) * 1e9))


def apply(fold: Follower[State]) -> int:
    """Remove what no rule keeps any longer: one atomic append, and none if nothing goes. How many
    messages that are."""
    removed = 0
    with fold.lock:
        state = fold.state()
        # Not `now_ns()`: after a clock that was wrong for a while, it would be far ahead of the
        # messages' times, and all of them seem old.
        now_ns = state.clock()
        plain = [topic.rules for topic in state.topics.values() if topic.kept is None]
    ages = {found.seconds_ns for found in plain if found.seconds_ns}
    places = {age: _place(fold, now_ns - age) for age in ages}

    def decide(state: State) -> list[Record]:
        nonlocal removed
        removed, records = 0, []
        for name, topic in state.topics.items():
            for record, count in _records(name, topic, places, now_ns):
                records.append(record)
                removed += count
        return records

    fold.command(decide, durable=False)  # a checkpoint makes it durable before it removes anything
    return removed


def _place(fold: Follower[State], time_ns: int) -> int:
    """Every record before this position is older than that."""
    if time_ns <= 0:
        return 0
    try:
        return fold.position_at(time_ns / 1e9)
    except PrunedError:
        return 0  # all that are left are newer


def _records(
    name: bytes, topic: Topic, places: dict[int, int], now_ns: int
) -> Iterator[tuple[Record, int]]:
    """What says that messages go, and how many."""
    first = topic.first()
    if first is None:
        return
    upto = max(_bounds(topic, places, now_ns), default=0)
    if upto > first:
        trim = Record(rec.named(rec.TRIM, name), rec.NUMBER.pack(upto))
        yield trim, topic.count() - topic.from_position(upto)
    before_ns = now_ns - topic.rules.tombstone_ns
    swept = sum(at >= upto for at in deletions(topic, before_ns))
    if swept:
        yield Record(rec.named(rec.SWEEP, name), rec.NUMBER.pack(before_ns)), swept


def _bounds(topic: Topic, places: dict[int, int], now_ns: int) -> Iterator[int]:
    """From where on each of the rules keeps messages."""
    found = topic.rules
    kept = None if topic.kept is None else [topic.kept[at] for at in sorted(topic.kept)]
    if found.seconds_ns:
        if kept is None:
            yield min(places.get(found.seconds_ns, 0), topic.next)
        else:
            since = (now_ns - found.seconds_ns) / 1e9
            newer = (message.position for message in kept if (message.time or 0) >= since)
            yield next(newer, topic.next)
    if found.size:
        newest = topic.index.newest(found.size) if kept is None else _newest(kept, found.size)
        yield topic.next if newest is None else newest
    if found.consumed and (topic.consumers or topic.groups):
        yield min(_consumed(topic))


def _consumed(topic: Topic) -> Iterable[int]:
    yield from (committed.position for committed in topic.consumers.values())
    yield from (members.floor() for members in topic.groups.values())


def _newest(kept: list[Message], limit: int) -> int | None:
    found = None
    for message in reversed(kept):
        limit -= len(message.key or b"") + len(message.value or b"")
        if limit < 0:
            break
        found = message.position
    return found
