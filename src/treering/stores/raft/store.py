"""The log: commands and queries."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from treering import DamageError, FsyncPolicy, StorageError, TreeringError, UsageError
from treering.fold import Fold, Pair, Store

from . import deciding
from . import records as rec
from .errors import CompactedError, ReplacedError, UnavailableError, compacted, unavailable
from .reading import Shelf, check_span, within
from .records import Entry, HardState, Vote, check_entries, check_hard_state, check_number
from .replicating import Replication
from .snapshots import Data, Snapshot, pieces
from .state import Held, State


class RaftLog(Store[State]):
    """The log, hard state and snapshot of one Raft node, in a directory. Indices begin at 1.

    Thread-safe. One process has it open, others may look on with read_only=True; with
    exclusive=False several may write, and every rule holds among them. `fsync_policy` is ALWAYS:
    durable when the call returns, as Raft needs before a node answers. `cache_bytes`: so much
    memory for the newest entries; beyond that an entry takes 16 bytes, its data stays in the log.
    `checkpoint_bytes` and the like as for `treering.fold.Fold`; further options are those of
    `treering.Wal.open`.

    Queries show what is written: what another thread is just saving may not be durable yet.

    Every call raises what the log raises: ClosedError, ForkedError, FailedError, StorageError,
    DamageError; every command also DiskFullError, TooLargeError and ReadOnlyError. After an error
    nothing was changed, but for FailedError: then open the log again and look.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        fsync_policy: FsyncPolicy = FsyncPolicy.ALWAYS,
        exclusive: bool = True,
        read_only: bool = False,
        cache_bytes: int = 16 << 20,
        **options: Any,
    ) -> None:
        check_number(cache_bytes, "cache_bytes")
        fold = Fold(
            path,
            partial(State, cache_bytes, Held()),
            own=True,
            fsync_policy=fsync_policy,
            exclusive=exclusive and not read_only,
            read_only=read_only,
            **options,
        )
        self._stand_on(fold, read_only)
        self._record_bytes_max: int = options.get("record_bytes_max", rec.NUMBER_MAX)
        if exclusive and not read_only:
            self._abandon(None)  # what a crash left: nobody else can be storing one

    # --- Commands: durable at return, under ALWAYS ---

    def save(
        self,
        *,
        entries: Iterable[Entry] = (),
        hard_state: HardState | None = None,
        truncate_after: int | None = None,
        overwrite: bool = False,
    ) -> None:
        """Truncate, append entries, set the hard state, in this order: all of it or nothing, with
        one fsync. O(entries).

        Entries that are there already, with the same term, are passed over, and so are compacted
        ones. Where the term is another one, EntryConflictError is raised; with `overwrite` that
        entry and all after it are replaced. CommittedError if one of them is committed.

        UsageError for entries with a gap (before them, too) or falling terms; HardStateError for a
        hard state that Raft does not allow to follow; UnavailableError for truncating beyond the
        end; TooLargeError over `batch_bytes_max` (64 MiB): then save some entries first, the hard
        state with the last.
        """
        batch = check_entries(entries)
        if hard_state is not None:
            check_hard_state(hard_state)
        if truncate_after is not None:
            check_number(truncate_after, "an index")
        self._fold.command(
            lambda state: deciding.saving(state, batch, hard_state, truncate_after, overwrite)
        )

    def append(
        self,
        entries: Iterable[Entry],
        *,
        hard_state: HardState | None = None,
        overwrite: bool = False,
    ) -> None:
        """Append entries, and set the hard state if one is given: as `save`."""
        self.save(entries=entries, hard_state=hard_state, overwrite=overwrite)

    def truncate_after(self, index: int) -> None:
        """Remove the entries after `index`, so that it is the last one. O(1); they leave the disk
        with checkpoints. CommittedError, UnavailableError."""
        self.save(truncate_after=index)

    def save_hard_state(
        self, *, term: int | None = None, voted_for: Vote = None, commit: int | None = None
    ) -> None:
        """Set what is given of the hard state; the rest stays, but for the vote in a new term,
        which is None unless it is given. HardStateError."""
        for number, what in ((term, "a term"), (commit, "the commit index")):
            if number is not None:
                check_number(number, what)
        rec.pack_vote(voted_for)

        def decide(state: State) -> Sequence[Pair]:
            old = state.hard
            now = old.term if term is None else term
            vote = old.voted_for if voted_for is None and now == old.term else voted_for
            hard = HardState(now, vote, old.commit if commit is None else commit)
            return deciding.saving(state, (), hard, None, False)

        self._fold.command(decide)

    def compact(self, index: int, snapshot: Data, *, metadata: bytes = b"", keep: int = 0) -> None:
        """Store a snapshot of the state machine as it is after the entry at `index`, which is
        committed thereby, and remove the entries up to there, but for the newest `keep` of them
        (for followers that are a little behind).

        The data is bytes, an iterable of bytes or a binary file, and is streamed in chunks of at
        most 1 MiB; other calls go on meanwhile. `metadata` (at most 1 MiB) is for you: the
        configuration, say. The new snapshot counts once it is stored as a whole; until then, and
        after any error, everything is as before. The space is free after checkpoints.

        CompactedError if the snapshot there is as new, UnavailableError beyond the last entry,
        ConflictError if another one was begun meanwhile; and what the iterable raises.
        """
        check_number(index, "an index", 1)
        check_number(keep, "keep")
        self._store(lambda state: deciding.compaction(state, index, keep), snapshot, metadata)

    def install_snapshot(self, index: int, term: int, data: Data, *, metadata: bytes = b"") -> bool:
        """Store a snapshot from the leader, up to `index`, whose entry is of `term`. If that entry
        is here, those after it stay; otherwise the log is empty afterwards, and goes on from
        `index` + 1. Data, durability and errors as `compact`.

        False, and nothing is done, if our own snapshot is as new. ConflictError if it contradicts
        what is committed here.
        """
        check_number(index, "an index", 1)
        check_number(term, "a term")
        return self._store(lambda state: deciding.installation(state, index, term), data, metadata)

    # --- Queries ---

    @property
    def first_index(self) -> int:
        """Of the oldest entry, or of the next one if there is none: 1 in a new log."""
        return self._fold.state().index.before + 1

    @property
    def last_index(self) -> int:
        """Of the newest entry, or the snapshot's if there is none: 0 in a new log."""
        with self._fold.lock:  # within a save it is others for a moment
            return self._fold.state().index.last

    @property
    def hard_state(self) -> HardState:
        """Term, vote and commit index as they were saved last. Storing a snapshot commits what is
        in it."""
        return self._fold.state().hard

    @property
    def position(self) -> int:
        """How many records the log beneath has seen."""
        return self._fold.wal.current_position()

    def __len__(self) -> int:
        with self._fold.lock:
            index = self._fold.state().index
            return index.last - index.before

    def term(self, index: int) -> int:
        """The term of an entry; also of the one before the first, in the snapshot (0 for index 0).
        O(1). CompactedError, UnavailableError."""
        check_number(index, "an index")
        with self._fold.lock:
            state = self._fold.state()
            if index < state.index.before:
                raise compacted(index, state.index.before + 1)
            if index > state.index.last:
                raise unavailable(index, state.index.last)
            return state.term(index)

    def entry(self, index: int) -> Entry:
        """The entry at `index`. CompactedError, UnavailableError."""
        return self.entries(index, check_number(index, "an index") + 1)[0]

    def entries(
        self, low: int, high: int | None = None, *, bytes_max: int | None = None
    ) -> list[Entry]:
        """The entries from `low` to before `high` (default: to the end), as far as their data has
        at most `bytes_max` bytes, but at least one. All of one moment. The newest come from
        memory, others are read from the log. CompactedError, UnavailableError."""
        check_number(low, "an index")
        if bytes_max is not None:
            check_number(bytes_max, "bytes_max")
        if high is not None and check_number(high, "an index") < low:
            raise UsageError(f"entries run from low to before high, not from {low} to {high}")
        while True:
            with self._fold.lock:
                end = check_span(self._fold.state(), low, high)
            try:
                return self._entries(low, end, bytes_max)
            except ReplacedError:
                continue  # some of the first were replaced before the last were read
            except UnavailableError:
                if high is not None:
                    raise  # else the log has become shorter

    def replicate_from(self, index: int, *, timeout: float | None = None) -> Replication:
        """The entries from `index` on, and those to come, whoever appends them: waits up to
        `timeout` seconds for each (None: for ever). For one follower.

        CompactedError, at once or in the middle, when the entry is only in the snapshot now: send
        that, then go on after it. ReplacedError when entries that were given were replaced since.
        UnavailableError for an index beyond the next one.
        """
        check_number(index, "an index", 1)
        if timeout is not None and (
            isinstance(timeout, bool)
            or not isinstance(timeout, int | float)
            or not 0 <= timeout < 1 << 33
        ):
            raise UsageError(f"timeout must be seconds from 0 on, or None, not {timeout!r:.40}")
        with self._fold.lock:
            state = self._fold.state()
            check_span(state, index, None)
            before = index - 1, state.term(index - 1)
        return Replication(self._fold, self.name, before, timeout)

    def snapshot(self) -> Snapshot | None:
        """The newest snapshot that is stored as a whole; None if there is none. Its data is read
        when it is asked for."""
        with self._fold.lock:
            stored = self._fold.state().snapshot
            return None if stored is None else Snapshot(self._fold, stored)

    # --- Beneath ---

    def _store(
        self, plan: Callable[[State], deciding.Plan | None], data: Any, metadata: Any
    ) -> bool:
        """Store a snapshot as the newest state's plan wants it; whether it wanted any."""
        metadata = rec.as_bytes(metadata, "the metadata", rec.METADATA_BYTES_MAX)
        chunks, fold = pieces(data, self._record_bytes_max), self._fold

        def begin(state: State) -> Sequence[Pair]:
            planned = plan(state)
            return [] if planned is None else deciding.begin(planned, metadata)

        positions = fold.command(begin, durable=False)
        if not positions:
            if positions.start:  # it is there already, and has to be durable, too
                fold.settle(positions.start - 1)
            return False
        begun = positions[0]
        try:
            for chunk in chunks:
                fold.command(partial(deciding.chunk, id=begun, data=chunk), durable=False)
            fold.command(lambda state: deciding.done(state, begun, plan(state)))
        except BaseException:
            with suppress(TreeringError):
                self._abandon(begun)
            raise
        return True

    def _abandon(self, id: int | None) -> None:
        """A snapshot that is not stored to its end keeps nothing in the log any more."""
        with suppress(StorageError):  # on a full disk, say: the next snapshot takes its place
            self._fold.command(lambda state: deciding.abandon(state, id), durable=False)

    def _entries(self, low: int, high: int, bytes_max: int | None) -> list[Entry]:
        shelf, left = Shelf(self._fold, self.name), bytes_max
        found: list[Entry] = []
        while low < high:
            some = shelf.fetch(low, high)
            if left is not None:
                fitting = within(some, left)
                if fitting < len(some):
                    return found + some[: max(fitting, not found)]
                left -= sum(len(entry.data) for entry in some)
            found += some
            low += len(some)
        return found

    # --- Care ---

    def check_state(self) -> None:
        """The part of `check` that is about this store: the index, the rules, and that each entry
        and the snapshot can be read and are what the index says."""
        with self._fold.lock:
            state = self._fold.state()
            hard, index, snapshot = state.hard, state.index, state.snapshot
            floor = 0 if snapshot is None else snapshot.index
            sound = index.before <= floor <= hard.commit <= index.last
            if not sound or not index.sound(state.before_term):
                raise DamageError("the index is out of order in memory", path=self.name)
            kept = self.snapshot()
        shelf = Shelf(self._fold, self.name)
        following: int | None = 0
        while following is not None:
            following = shelf.check(following)
        with suppress(CompactedError):  # another process stored a newer one
            for _ in kept or ():
                pass

    def stats(self) -> dict[str, Any]:
        """Numbers for people and dashboards: the fold's, and the log's own."""
        with self._fold.lock:
            state = self._fold.state()
            index, snapshot = state.index, state.snapshot
            return {
                **self._fold.stats(),
                "first_index": index.before + 1,
                "last_index": index.last,
                "term": state.hard.term,
                "commit": state.hard.commit,
                "snapshot_index": 0 if snapshot is None else snapshot.index,
                "snapshot_bytes": 0 if snapshot is None else snapshot.size,
                "cache_bytes": state.recent.size,
            }
