"""An index on the disk: snapshots in a small log of its own, so that opening reads what is new.

What cannot be used is never in the way: the index is then made anew, and `trouble` says why.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from treering import DamageError, FsyncPolicy, ReadOnlyError, TreeringError, Wal
from treering.fold.kit import Archive, last_print, why_lost

from .state import State

_SEGMENT_BYTES = 64 << 10


class Keeping:
    """The snapshots of an index of the log `source`."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        source: Wal,
        new: Callable[[], State],
        options: dict[str, Any],
    ) -> None:
        self._source, self._new = source, new
        # What power loss takes from an index is read again: there is no hurry.
        defaults = {"fsync_policy": FsyncPolicy.OS, "segment_bytes_max": _SEGMENT_BYTES}
        self.wal = Wal.open(path, **{**defaults, **options})
        try:
            self.archive: Archive[State] = Archive(self.wal, new)
            self.archive.claim(writable=not options.get("read_only"))
        except BaseException:
            self.wal.close()
            raise

    def load(self) -> State:
        """The newest state that belongs to the log as it is now; else an empty one."""
        try:
            state, _ = self.archive.load(None)
        except DamageError as error:
            self.archive.note(f"made anew: {error}")
            return self._new()
        if state.reached == 0:
            return self._new()
        why = why_lost(self._source, state.loaded)
        if not why and not state.made_so:
            why = "it was made with another key function, version or stream"
        if why:
            self.archive.note(f"made anew: {why}")
            return self._new()
        return state

    def save(self, state: State) -> None:
        """Keep the state, a copy that nobody changes; durable at return. If need be the log is made
        durable first: an index never knows more. (A read-only handle cannot: then the fingerprint
        of the last record tells, later on.)"""
        source, reached = self._source, state.reached
        try:
            if source.durable_position < reached:
                source.wait_durable(reached - 1)
        except ReadOnlyError:
            pass
        state.loaded = state.mark(last_print(source, reached))
        end = self.wal.put(b"index", state.loaded.pack()) + 1
        self.archive.write(state, end, 0)

    def save_if_possible(self, state: State) -> None:
        """The same, in the background or at the end: what goes wrong is noted."""
        try:
            self.save(state)
        except TreeringError as error:
            self.archive.note(f"checkpoint: {error}")
