"""A fold's snapshots: loading the newest that is whole, writing one, removing what is not needed.

A snapshot that cannot be used is never in the way: the one before it, or the log from its
beginning, gives the same state, and `trouble` says what was passed over.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Generic

from .._core.errors import DamageError, NotThereError, PrunedError, StorageError, UsageError
from .._core.files import no_such_file
from .._core.wal import Wal
from ._state import S, difference, oldest_needed

# The newest, and the one before it should that one be damaged.
_KEPT_SNAPSHOTS = 2
_TROUBLE_KEPT = 20
# How often a snapshot is begun anew because another process removed it half written.
_TRIES = 10

# What a damaged device or a meddling hand makes of a file: as good as damaged bytes.
_UNREADABLE = frozenset({errno.EIO, errno.EISDIR, errno.ENXIO, errno.ELOOP})


class Archive(Generic[S]):
    """The snapshots of one fold. `trouble` tells, in words, the last things that went wrong."""

    def __init__(self, wal: Wal, new: Callable[[], S]) -> None:
        self._wal = wal
        self._new = new
        self.trouble: list[str] = []

    def note(self, text: str) -> None:
        """Remember what went wrong; said once, however often it happens."""
        if text not in self.trouble:
            self.trouble.append(text)
            del self.trouble[:-_TROUBLE_KEPT]

    def positions(self) -> list[int]:
        """Of all snapshots, the newest first."""
        return self._wal.snapshots.positions()

    def claim(self, *, writable: bool) -> None:
        """Refuse a log that is another kind of fold's, and mark a new one as ours: so that nobody
        takes the records of one kind for those of another."""
        label, positions = self._new().label, self.positions()
        end = self._wal.current_position()  # read after: a snapshot never knows more than the log
        hint = "Open it with the store that made it, or choose another path"
        self._refuse_foreign(label, positions, hint)
        newest = positions[0] if positions else 0
        if writable and newest > end and self._load_if_whole(newest) is not None:
            raise DamageError(
                f"the log ends at {end}, but a snapshot knows records up to {newest}",
                path=self._wal.path,
                position=end,
                hint="Durable records were lost: restore a backup, or remove the snapshot to go on",
            )
        if writable and end == 0 and not positions:
            try:
                self._wal.snapshots.write(0, label, [])
            except StorageError:
                pass  # a full disk, say: a mark is a help, no need

    def load(self, limit: int | None) -> tuple[S, int]:
        """A state and its position: the newest snapshot that is whole, not beyond the log's end
        nor `limit`, and that the log goes on from; else an empty state, at 0.

        DamageError, or PrunedError with a limit, if the log does not reach back to any of these.
        """
        looked_at: list[int] | None = None
        while True:
            most = self._wal.current_position()
            if limit is not None:
                most = min(most, limit)
            positions = self.positions()
            for position in positions:
                if not self._wal.first_position <= position <= most:
                    continue
                state = self._load_if_whole(position)
                if state is not None:
                    return state, position
            first = self._wal.first_position
            if first == 0:
                return self._new(), 0
            if positions == looked_at:
                raise self._out_of_reach(first, limit)
            looked_at = positions  # other processes may have put others in their place meanwhile

    def _load_if_whole(self, position: int) -> S | None:
        try:
            return self.load_one(position)
        except NotThereError as error:
            if position in self.positions():
                self.note(str(error))
        except DamageError as error:
            self.note(str(error))
        except StorageError as error:
            if error.errno not in _UNREADABLE:
                raise
            self.note(str(error))
        return None

    def _out_of_reach(self, first: int, limit: int | None) -> DamageError | PrunedError:
        text = "the log begins later, and no whole snapshot tells what came before"
        if limit is None:
            hint = "; ".join(self.trouble[-3:]) or "Restore the snapshots from a backup"
            return DamageError(text, path=self._wal.path, position=first, hint=hint)
        error = PrunedError(
            text,
            path=self._wal.path,
            position=limit,
            hint="A checkpoint removed what this takes. See stats()['snapshots']",
        )
        error.oldest = min((p for p in self.positions() if p >= first), default=None)
        return error

    def load_one(self, position: int) -> S:
        """The state that the snapshot of that position holds."""
        state = self._new()
        snapshot = self._wal.snapshots.read(position)
        if snapshot.label != state.label:
            raise DamageError(
                f"the snapshot is one of {snapshot.label!r:.60}, not of {state.label!r:.60}",
                path=self._wal.path,
                position=position,
                hint="Open it with the store and the version that wrote it",
            )
        load = state.load
        for record in snapshot.records:
            load(record)
        return state

    def write(self, state: S, position: int, rewinds: int) -> None:
        """Write the snapshot, read it again, then remove what neither it nor the one before it
        needs. Durable at return."""
        snapshots = self._wal.snapshots
        hint = "Open with checkpoint_bytes=None, and make none here"
        self._refuse_foreign(state.label, self.positions(), hint)
        self._wal.sync()  # a snapshot must not know more than the log
        if not self._proven(position):
            self._write_one(state, position, rewinds)
            if not self._proven(position):
                self._refuse_unless_newer(position)
                return
        snapshots.sync()  # another process may have named the one before a moment ago
        self._remove_older(position, oldest_needed(state, position))

    def _write_one(self, state: S, position: int, rewinds: int) -> None:
        """A process that recovers the log removes what a dead one left half written; if that was
        ours, we write it again."""
        for tries_left in reversed(range(_TRIES)):
            try:
                self._wal.snapshots.write(position, state.label, state.dump(), rewinds)
                return
            except StorageError as error:
                if not no_such_file(error) or not tries_left:
                    raise

    def check(self, state: S, position: int) -> None:
        """Each whole snapshot, or nothing, and the log after it up to `position` give `state`."""
        first = self._wal.first_position  # a snapshot of before is a checkpoint's leftover
        starts = [found for found in self.positions() if first <= found <= position]
        if first == 0 and 0 not in starts:
            starts.append(0)
        for start in starts:
            try:
                again = self.load_one(start) if start else self._new()
            except NotThereError:
                continue  # another process's checkpoint has removed it
            for record in self._wal.read_from(start, stop=position):
                again.apply(record)
            key = difference(state, again)
            if key is not None:
                raise DamageError(
                    f"a snapshot and the log after it give another state: look at {key!r:.60}",
                    path=self._wal.path,
                    position=start,
                    hint="Remove the snapshot if an older one, or the whole log, is there",
                )

    def _proven(self, position: int) -> bool:
        """Whether there is one of that position already, and whole."""
        try:
            for _ in self._wal.snapshots.read(position).records:
                pass
        except (DamageError, NotThereError):
            return False
        return True

    def _refuse_unless_newer(self, position: int) -> None:
        """Another process's newer checkpoints may have removed ours before we read it again."""
        if max(self.positions(), default=0) <= position:
            raise DamageError(
                "the snapshot that was just written does not read as it was written",
                path=self._wal.path,
                position=position,
                hint="Nothing was removed. Check the device",
            )

    def _refuse_foreign(self, label: bytes, positions: list[int], hint: str) -> None:
        for position in positions[:1]:
            try:
                found = self._wal.snapshots.label(position)
            except (DamageError, NotThereError):
                return
            if found != label:
                raise UsageError(
                    f"the log has snapshots of {found!r:.60}: only one kind of fold can make them",
                    path=self._wal.path,
                    hint=hint,
                )

    def _remove_older(self, position: int, needed: int) -> None:
        older = [found for found in self.positions() if found < position]
        if older:
            self._wal.truncate_before(min(older[0], needed))
        for found in older[_KEPT_SNAPSHOTS - 1 :]:
            self._wal.snapshots.remove(found)
