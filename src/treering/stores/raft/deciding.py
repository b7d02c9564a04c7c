"""What Raft allows: the records that a call comes to, or the error that names the cure.

Everything here looks at a state and changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from treering import ConflictError, UsageError
from treering.fold import Pair

from . import records as rec
from .errors import (
    HardStateError,
    committed,
    entry_conflict,
    outdated,
    unavailable,
)
from .records import Entry, HardState
from .state import State, Stored


def saving(
    state: State,
    entries: Sequence[Entry],
    hard: HardState | None,
    truncate_after: int | None,
    overwrite: bool,
) -> list[Pair]:
    """The records of a `save`: a truncation, then entries, then the hard state."""
    last, found = state.index.last, []
    if truncate_after is not None and truncate_after != last:
        check_cut(state, truncate_after)
        found.append((rec.ONE.pack(rec.TRUNCATE, truncate_after), b""))
        last = truncate_after
    if entries:
        cut, fresh = fresh_entries(state, entries, last, overwrite)
        if cut is not None:
            found.append((rec.ONE.pack(rec.TRUNCATE, cut), b""))
            last = cut
        pack, kind_of_record = rec.ENTRY_KEY.pack, rec.ENTRY
        found += [
            (pack(kind_of_record, index, term, kind), data) for index, term, data, kind in fresh
        ]
        last += len(fresh)
    if hard is not None and hard != state.hard:
        check_step(state.hard, hard, last)
        vote = rec.pack_vote(hard.voted_for)
        found.append((rec.TWO.pack(rec.HARD_STATE, hard.term, hard.commit), vote))
    return found


def check_cut(state: State, last: int) -> None:
    """Whether the log may end at `last`."""
    if last > state.index.last:
        raise unavailable(last, state.index.last)
    if last < state.hard.commit:
        raise committed(last, state.hard.commit)


def fresh_entries(
    state: State, entries: Sequence[Entry], last: int, overwrite: bool
) -> tuple[int | None, Sequence[Entry]]:
    """Which of the entries are not there yet, in a log that ends at `last`; and where that has to
    be truncated first, if at all.

    An entry that is there with the same term is the same one: Raft's Log Matching Property.
    """
    first = entries[0].index
    if first > last + 1:
        raise UsageError(
            f"entry {first} leaves a gap: the log ends at index {last}",
            hint=f"Append from {last + 1} on, or install_snapshot() if the leader has no older one",
        )
    if first == last + 1:
        known, cut = 0, None
    else:
        known, cut = _known(state, entries, last, overwrite)
    fresh = entries[known:]
    if fresh:
        at = fresh[0].index - 1
        if fresh[0].term < state.term(at):
            raise UsageError(
                f"term {fresh[0].term} at index {at + 1} comes after term {state.term(at)}",
                hint="Terms do not fall along a log: these are not a leader's entries",
            )
    return cut, fresh


def _known(
    state: State, entries: Sequence[Entry], last: int, overwrite: bool
) -> tuple[int, int | None]:
    """How many of the entries are there already, and where to truncate because of the next."""
    before, term_at = state.index.before, state.term
    for at, (index, term, _, _) in enumerate(entries):
        if index > last:
            return at, None
        if index < before or term_at(index) == term:
            continue
        if index - 1 < state.hard.commit:
            raise committed(index - 1, state.hard.commit)
        if not overwrite:
            raise entry_conflict(index, term_at(index), term)
        return at, index - 1
    return len(entries), None


def check_step(old: HardState, new: HardState, last: int) -> None:
    """Whether the hard state may become another one, in a log that ends at `last`."""
    if new.term < old.term:
        what = f"the term would fall from {old.term} to {new.term}"
        hint = f"Go on in term {old.term}, or a later one"
    elif new.term == old.term and old.voted_for is not None and new.voted_for != old.voted_for:
        what = f"the vote of term {old.term} is for {old.voted_for!r:.60}, and stays"
        hint = "Keep it with log.hard_state._replace(…); a new term has a new vote"
    elif new.commit < old.commit:
        what = f"the commit index would fall from {old.commit} to {new.commit}"
        hint = "Keep it with log.hard_state._replace(…)"
    elif new.commit > last:
        what = f"the commit index {new.commit} is beyond the last entry, {last}"
        hint = f"Save the entries first, or min(commit, {last})"
    else:
        return
    raise HardStateError(what, hint=hint)


# --- Snapshots ---


class Plan(NamedTuple):
    """What a snapshot does to the entries: those after `before` stay, if any do (`retain`)."""

    index: int  # type: ignore[assignment]  # as in Entry
    term: int
    before: int
    before_term: int
    retain: bool


def compaction(state: State, index: int, keep: int) -> Plan:
    """A snapshot of our own state machine, which has applied the entries up to `index`."""
    newest = 0 if state.snapshot is None else state.snapshot.index
    if index <= newest:
        raise outdated(index, newest, state.index.before + 1)
    if index > state.index.last:
        raise unavailable(index, state.index.last)
    before = max(state.index.before, index - keep)
    return Plan(index, state.term(index), before, state.term(before), True)


def installation(state: State, index: int, term: int) -> Plan | None:
    """A snapshot that the leader sent; None if we have that much ourselves."""
    newest = state.snapshot
    if newest is not None and index <= newest.index:
        return None
    known = state.index.before <= index <= state.index.last
    if known and state.term(index) == term:
        return Plan(index, term, index, term, True)
    commit = state.hard.commit
    if index <= commit or term < state.term(commit):
        raise ConflictError(
            f"a snapshot up to index {index} of term {term} contradicts what is committed here, "
            f"up to index {commit} of term {state.term(commit)}",
            hint="Snapshots hold committed entries only: look for a node with foreign data",
        )
    return Plan(index, term, index, term, False)


def begin(plan: Plan, metadata: bytes) -> list[Pair]:
    """The first record of a snapshot."""
    return [(rec.TWO.pack(rec.BEGIN, plan.index, plan.term), metadata)]


def chunk(state: State, id: int, data: bytes) -> list[Pair]:
    """The next chunk of the snapshot that begins at `id`."""
    pending = check_pending(state, id)
    return [(rec.TWO.pack(rec.CHUNK, id, len(pending.chunks)), data)]


def done(state: State, id: int, plan: Plan | None) -> list[Pair]:
    """The record that makes the snapshot valid."""
    pending = check_pending(state, id)
    if plan is None or (plan.index, plan.term) != (pending.index, pending.term):
        raise ConflictError(
            f"the entry at index {pending.index} was replaced while its snapshot was stored",
            hint="A snapshot holds committed entries only",
        )
    numbers = (id, len(pending.chunks), pending.size)
    key = rec.DONE_KEY.pack(rec.DONE, *numbers, plan.before, plan.before_term, plan.retain)
    return [(key, b"")]


def abandon(state: State, id: int | None) -> list[Pair]:
    """The record that ends a snapshot halfway: the one that begins at `id`, or any (None)."""
    pending = state.pending
    if pending is None or id not in (None, pending.id):
        return []
    return [(rec.ONE.pack(rec.ABANDON, pending.id), b"")]


def check_pending(state: State, id: int) -> Stored:
    """That snapshot, which has to be the one that is being stored."""
    if state.pending is None or state.pending.id != id:
        raise ConflictError(
            "another snapshot was begun meanwhile, so this one was not stored",
            hint="Look at snapshot(), and try again if it is older than yours",
        )
    return state.pending
