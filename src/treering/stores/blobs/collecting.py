"""Removing files to which nothing refers.

Between the moment when a put gives a file its name and the moment when its record is in the log it
has the turn to place; a collector has the turn to remove. So what the collector finds without a
reference has none, and gets none meanwhile: only a put makes the first reference, and only with the
turn. A reference that is gone in memory may come back with a power cut: the log is made durable
before a file goes. docs/stores/blob-store.md has the table of what a crash leaves.
"""

from __future__ import annotations

import time
from contextlib import closing
from typing import NamedTuple

from treering.fold import Fold

from . import records as rec
from .objects import Objects
from .staging import Incoming
from .state import State
from .turns import Turns

# So many files go in one turn, or as many as go in so long: those that put wait for it.
_TURN_FILES, _TURN_SECONDS = 256, 0.1


class Collected(NamedTuple):
    """What `collect` removed: files of blobs, their bytes, and files that dead processes left
    half written."""

    files: int = 0
    bytes: int = 0
    leftovers: int = 0


class Collector:
    """Looks for files that nothing refers to, and removes them."""

    def __init__(
        self, fold: Fold[State], objects: Objects, incoming: Incoming, turns: Turns, grace_ns: int
    ) -> None:
        self._fold, self._objects = fold, objects
        self._incoming, self._turns = incoming, turns
        self._grace_ns = grace_ns

    def run(self) -> Collected:
        """All of it; what was removed."""
        files = size = 0
        candidates = self._candidates()
        for start in range(0, len(candidates), _TURN_FILES):
            rest = candidates[start : start + _TURN_FILES]
            while rest:
                removed, rest = self.remove(rest)
                files, size = files + len(removed), size + sum(removed)
                self._turns.let_pass()
        with self._turns.removing():  # nobody renames what is half written
            leftovers = self._incoming.sweep() + self._objects.sweep()
        return Collected(files, size, leftovers)

    def _candidates(self) -> list[bytes]:
        """What had no reference a moment ago: what the log knows of, and the files of puts that
        died before they were in the log. Whether it has one now is looked at with the turn."""
        there = {bytes.fromhex(name) for name in self._objects.names()}
        with self._fold.lock:
            state = self._fold.state()
            return sorted((there | state.unwanted.keys()) - state.blobs.keys())

    def remove(self, candidates: list[bytes]) -> tuple[list[int], list[bytes]]:
        """Remove those that have no reference and are old enough; the size of each file, and those
        for which there was no time."""
        with self._turns.removing():
            with self._fold.lock:
                state = self._fold.state()
                since = {
                    each: state.unwanted.get(each) for each in candidates if each not in state.blobs
                }
                now_ns = state.now_ns()
            doomed = [each for each, known in since.items() if self._is_over(each, known, now_ns)]
            if not doomed:
                return [], []
            self._fold.wal.sync()  # no reference comes back with a power cut
            sizes, gone, until = [], 0, time.monotonic() + _TURN_SECONDS
            while gone < len(doomed) and (not gone or time.monotonic() < until):
                if (size := self._remove_one(doomed[gone])) is not None:
                    sizes.append(size)
                gone += 1
            self._fold.command(
                lambda state: rec.collected([d for d in doomed[:gone] if d in state.unwanted]),
                durable=False,
            )
            return sizes, doomed[gone:]

    def _is_over(self, digest: bytes, known: tuple[int, int] | None, now_ns: int) -> bool:
        """Whether its grace is over. What the log does not know is as old as its file: a put died
        then; or the log was cut, and its owner may want the file."""
        if not self._grace_ns:
            return True
        since_ns = known[0] if known else self._objects.modified_ns(digest.hex())
        return now_ns - since_ns >= self._grace_ns

    def _remove_one(self, digest: bytes) -> int | None:
        """Remove one file; its size, None if there is none."""
        name = digest.hex()
        source = self._objects.open(name)
        if source is None:
            return None
        with closing(source):
            size = source.size()
        self._objects.remove(name)
        self._incoming.unmark(name)
        return size
