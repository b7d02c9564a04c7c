"""What pages were before they changed, for as long as somebody in this process may look."""

from __future__ import annotations

import weakref
from collections import deque
from typing import Protocol

# Where a version of a page lies: the records of the log that it takes (a whole page and what
# changed since), or, as one number, in the data file, which has the version of that position. None
# for a page that nobody has written.
Version = tuple[int, ...] | int | None


def newest(version: Version) -> int:
    """The position of the change that made this version; -1 if there was none."""
    if isinstance(version, tuple):
        return version[-1]
    return -1 if version is None else version


# Where a snapshot began that nothing is known of any more: each version is newer, no version too.
VOID = -1


class Snapshot(Protocol):
    """Somebody who looks at the store as of a position, and in which thread that began."""

    begun_at: int
    thread: int


class Versions:
    """The open snapshots of one handle, and the versions that only they can see. All of it under
    the fold's lock.

    Snapshots are held weakly: one that an interrupt kept from being ended is collected.
    """

    def __init__(self) -> None:
        self._open: weakref.WeakSet[Snapshot] = weakref.WeakSet()
        # By page: which version it had until which position, the oldest first.
        self._before: dict[int, deque[tuple[int, Version]]] = {}
        self._order: deque[tuple[int, int]] = deque()

    def __len__(self) -> int:
        return len(self._open)

    def begin(self, snapshot: Snapshot) -> None:
        """From now on keep what it sees."""
        self._open.add(snapshot)

    def end(self, snapshot: Snapshot) -> None:
        """No longer."""
        self._open.discard(snapshot)
        self._forget()

    def end_all_but(self, thread: int) -> None:
        """In a forked child: the other threads are gone, and nobody ends what they began."""
        for snapshot in list(self._open):
            if snapshot.thread != thread:
                self._open.discard(snapshot)
        self._forget()

    def void(self) -> None:
        """Records were taken back, maybe some that the open snapshots see: each change conflicts
        with these, and what they saw is gone."""
        for snapshot in self._open:
            snapshot.begun_at = VOID
        self._open.clear()
        self._before, self._order = {}, deque()

    def oldest(self) -> int | None:
        """The position of the oldest open snapshot."""
        return min((snapshot.begun_at for snapshot in self._open), default=None)

    def keep(self, page: int, position: int, version: Version) -> None:
        """The page had this version until the record at `position` came."""
        if self._open:
            self._order.append((position, page))
            self._before.setdefault(page, deque()).append((position, version))

    def as_of(self, page: int, position: int, now: Version) -> Version:
        """The version that a snapshot of that position sees, if the page is at `now`: the one that
        the first later change replaced. It may be a newer one, if that change was not seen."""
        for until, version in self._before.get(page, ()):
            if until >= position:
                return version
        return now

    def oldest_needed(self) -> int | None:
        """The first record that one of the kept versions takes."""
        self._forget()  # snapshots that were not ended, but collected
        return min(
            (
                version[0]
                for kept in self._before.values()
                for _, version in kept
                if isinstance(version, tuple)
            ),
            default=None,
        )

    def _forget(self) -> None:
        """Let go of what nobody sees; an interrupt in the middle leaves it to the next call."""
        oldest, order = self.oldest(), self._order
        while order and (oldest is None or order[0][0] < oldest):
            position, page = order[0]
            kept = self._before.get(page, deque())
            while kept and kept[0][0] <= position:
                kept.popleft()
            if not kept:
                self._before.pop(page, None)
            order.popleft()
