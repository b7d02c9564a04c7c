"""What a Raft log refuses, in treering's tree of errors. Nothing was changed when one is raised."""

from __future__ import annotations

from treering import ConflictError, NotThereError, PrunedError


class CompactedError(PrunedError):
    """The entry is in the snapshot now; `oldest` is the first index that is left. A follower that
    needs it gets the snapshot (etcd: ErrCompacted, ErrSnapOutOfDate)."""


class UnavailableError(NotThereError):
    """The log has not reached this index (etcd: ErrUnavailable)."""


class EntryConflictError(ConflictError):
    """An entry of another term has this index: `index`, its `term`. Truncate the log before it, or
    append with overwrite=True."""

    index: int | None = None
    term: int | None = None


class CommittedError(ConflictError):
    """Committed entries would be removed or replaced, which Raft never does."""


class HardStateError(ConflictError):
    """The term or the commit index would fall, a vote change within its term, or the commit index
    pass the last entry."""


class ReplacedError(ConflictError):
    """Entries that an iterator had given were replaced by others; `index` is the newest of them."""

    index: int | None = None


def compacted(index: int, first: int) -> CompactedError:
    """For an entry that only the snapshot has."""
    error = CompactedError(
        f"the log begins at index {first}, after {index}",
        hint=f"Send snapshot() first, then the entries from {first} on",
    )
    error.oldest = first
    return error


def outdated(index: int, newest: int, first: int) -> CompactedError:
    """For a snapshot that is no newer than the one there."""
    error = CompactedError(
        f"there is a snapshot up to index {newest} already, so none up to {index} is stored",
        hint=f"Nothing has to be done, or compact from {newest + 1} on",
    )
    error.oldest = first
    return error


def unavailable(index: int, last: int) -> UnavailableError:
    """For an entry that is not there yet."""
    return UnavailableError(
        f"the log ends at index {last}, before {index}",
        hint="Ask for less, or wait for more with replicate_from()",
    )


def entry_conflict(index: int, ours: int, theirs: int) -> EntryConflictError:
    """For an entry of another term than the one that is there."""
    error = EntryConflictError(
        f"the entry at index {index} is of term {ours}, the new one of term {theirs}",
        hint=f"Call truncate_after({index - 1}) first, or give overwrite=True",
    )
    error.index, error.term = index, ours
    return error


def committed(last: int, commit: int) -> CommittedError:
    """For a truncation of what is committed."""
    return CommittedError(
        f"the entries up to {commit} are committed, so the log cannot end at {last}",
        hint="Committed entries are the same on all nodes: look for a node with foreign data",
    )


def replaced(index: int) -> ReplacedError:
    """For entries that were replaced under an iterator."""
    error = ReplacedError(
        f"the entry at index {index} was replaced since it was given",
        hint="Find the newest entry that the follower shares, and go on from the one after it",
    )
    error.index = index
    return error
