"""A state in memory that follows a log of somebody else's, and never writes to it."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable
from itertools import islice
from typing import Any, Generic, Self, TypeVar

from treering import (
    ClosedError,
    PositionError,
    PrunedError,
    Reader,
    ReentrantError,
    RewoundError,
    UsageError,
    Wal,
)
from treering.fold.kit import Mark, Moment, Pace, moment, wait_for_news, why_lost

from .keeping import Keeping
from .state import State

S = TypeVar("S", bound=State)
Progress = Callable[[int, int], object]

# How often `progress` is called, and a limit looked at.
_STRIDE = 65_536
# At the end so many new records are worth a snapshot.
_WORTH_KEEPING = 10_000
_TROUBLE_KEPT = 20


class Following(Generic[S]):
    """What an index has besides its queries: the log, the state, its snapshots. Thread-safe."""

    def __init__(
        self,
        log: Wal | str | os.PathLike[str],
        path: str | os.PathLike[str] | None,
        new: Callable[[], S],
        *,
        copies: bool,
        progress: Progress | None,
        checkpoint_records: int | None,
        options: dict[str, Any],
    ) -> None:
        if progress is not None and not callable(progress):
            raise UsageError("progress is a function of two numbers: done, and in all")
        self._new, self._copies, self._progress = new, copies, progress
        self._keeping: Keeping | None = None
        self._trouble: list[str] = []
        self._clock = options.get("clock") or time.time_ns
        self._closed = False
        make = weakref.WeakMethod(self._checkpoint_when_due)
        self._pace = Pace(make, None, checkpoint_records if path is not None else None, None)
        self._owns_log = not isinstance(log, Wal)
        files = {key: options[key] for key in ("files", "clock") if key in options}
        self.wal = log if isinstance(log, Wal) else Wal.open(log, read_only=True, **files)
        self._make_locks()
        try:
            self._refuse_same(path)
            state, rewinds = new(), moment(self.wal).rewinds  # from before it is looked at
            if path is not None:
                self._keeping = Keeping(path, self.wal, new, options)
                state = self._keeping.load()  # type: ignore[assignment]
            self._begin(state)
            self._rewinds = rewinds
            self._kept_at = state.reached
            self.catch_up()
        except BaseException:
            self._kept_at = 1 << 62
            self.close()
            raise
        _followers.add(self)

    def _refuse_same(self, path: str | os.PathLike[str] | None) -> None:
        if path is not None and os.path.realpath(path) == os.path.realpath(self.wal.path):
            raise UsageError(
                "the index cannot be kept in the log that it follows",
                path=self.wal.path,
                hint="Give it a directory of its own",
            )

    def _make_locks(self) -> None:
        self.lock = threading.RLock()
        self._keep_lock = threading.RLock()
        self._reader: Reader | None = None

    # --- Following --------------------------------------------------------------------------------

    def _begin(self, state: S) -> None:
        """Go on from that state."""
        self._rewinds = moment(self.wal).rewinds
        self._reader = None
        self.current = state

    def state(self) -> S:
        """The state with every record that is in the log now. Two memory reads when there is
        nothing new; on a read-only handle a look at the files."""
        state = self.current
        end, _, first, rewinds = moment(self.wal)
        if end != state.reached or rewinds != self._rewinds or first > state.began:
            self.catch_up()
        return self.current

    def catch_up(self, limit: int | None = None) -> int:
        """Take in the records that are in the log now, at most `limit`; how many. Queries do this
        by themselves, without a limit. Errors as `Wal.read_from`; ReentrantError in the handler of
        a signal that interrupted another call."""
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int)):
            raise UsageError(f"limit must be a whole number, not {limit!r:.40}")
        if self._closed:
            self.wal.current_position()  # says so if it is the log that was closed
            raise ClosedError("the index is closed", hint="Make another one")
        if self.lock._is_owned():  # type: ignore[attr-defined]
            raise ReentrantError(
                "the index was called from a signal handler that interrupted a call on it",
                hint="Set a flag in the handler and call afterwards",
            )
        with self.lock:
            return self._catch_up(1 << 62 if limit is None else limit)

    def _catch_up(self, limit: int) -> int:
        taken, goal = 0, None
        while True:
            now = moment(self.wal)
            if now.rewinds != self._rewinds:
                self._after_a_cut(now)
            state = self.current
            state.epoch, state.log_id = now.epoch, self.wal.log_id
            if now.first > state.began:
                state.begin_at(now.first)
            goal = now.end if goal is None else min(goal, now.end)
            if state.reached >= goal or taken >= limit:
                return taken
            before = state.reached
            try:
                self._read(state, min(goal, before + limit - taken), goal)
            except PrunedError:
                pass  # truncation was faster: what it removed is not wanted any more
            except (PositionError, RewoundError):
                if moment(self.wal).rewinds == self._rewinds:
                    raise
            taken += state.reached - before

    def _read(self, state: S, stop: int, goal: int) -> None:
        apply = state.apply
        while state.reached < stop:
            reader, before = self._reader_at(state.reached), state.reached
            self._reader = None  # one that is broken off is not used again
            for record in islice(reader, min(_STRIDE, stop - before)):
                apply(record)
            if state.reached == before:
                return  # it ended: the log was cut
            self._reader = reader
            if self._progress is not None:
                self._progress(state.reached - state.began, goal - state.began)
            self._pace.count(state.reached - before, 0)

    def _reader_at(self, position: int) -> Reader:
        reader = self._reader
        if reader is None or reader.position != position:
            return self.wal.read_from(position, copy=self._copies)
        return reader

    def _after_a_cut(self, now: Moment) -> None:
        """Records were taken back: if we know some of them, all is read again."""
        state = self.current
        mark = Mark(state.reached, state.log_id, state.began, state.epoch)
        why = why_lost(self.wal, mark)
        if why:
            self._begin(self._new())
        self._reader = None  # it may hold records that were taken back
        self._rewinds = now.rewinds

    def now_ns(self) -> int:
        """The time by which records expire: never back behind the newest record's."""
        return max(self._clock(), self.current.newest_ns)

    def wait(self, timeout: float | None = None) -> bool:
        """Block until the log has records that the index has not seen, whoever appends them, or for
        `timeout` seconds (None: for ever); whether it has."""
        return wait_for_news(self.wal, self.current.reached, self._rewinds, timeout)

    # --- Snapshots --------------------------------------------------------------------------------

    def checkpoint(self) -> int:
        """Keep what is known in the index's directory, so that the next opening goes on from there;
        the position up to which it knows the log. Durable at return; O(keys). Queries go on
        meanwhile, but for the time of a copy. UsageError for an index without a directory."""
        if self._keeping is None:
            raise UsageError(
                "the index has no directory to keep a snapshot in", hint="Index(log, path)"
            )
        self.catch_up()
        with self._keep_lock:
            with self.lock:
                state = self.current.copy()
            self._keeping.save(state)
            self._kept_at = state.reached
        return state.reached

    def _checkpoint_when_due(self) -> None:
        """The background thread's, and the end's."""
        keeping = self._keeping
        if keeping is not None:
            with self._keep_lock:
                with self.lock:
                    state = self.current.copy()
                keeping.save_if_possible(state)
                self._kept_at = state.reached

    def note(self, text: str) -> None:
        """Remember in `trouble` what went wrong."""
        self._trouble = [*[each for each in self._trouble if each != text], text][-_TROUBLE_KEPT:]

    @property
    def trouble(self) -> list[str]:
        """What went wrong with snapshots, in words; the last few."""
        kept = [] if self._keeping is None else self._keeping.archive.trouble
        return [*self._trouble, *kept]

    # --- Knowing and closing ----------------------------------------------------------------------

    @property
    def reached(self) -> int:
        """Records of the log before this position are known."""
        return self.current.reached

    @property
    def lag(self) -> int:
        """How many records of the log are not yet known; the next query reads them."""
        return max(0, self.wal.current_position() - self.current.reached)

    def stats(self) -> dict[str, Any]:
        """Numbers: `keys`, `reached`, `lag`, `first_position`, `expiring`, `kept` (up to where the
        newest snapshot knows the log; None without a directory), `trouble`."""
        state = self.current
        return {
            "path": self.wal.path,
            "keys": len(state.table),
            "reached": state.reached,
            "lag": self.lag,
            "first_position": state.began,
            "expiring": len(state.expiries),
            "kept": None if self._keeping is None else self._kept_at,
            "trouble": self.trouble,
        }

    @property
    def name(self) -> str:
        """The log's directory."""
        return self.wal.path

    @property
    def closed(self) -> bool:
        """Whether `close` was called, or the log closed."""
        return self._closed or self.wal.closed

    def close(self) -> None:
        """Let go of the index, and of the log if it was given as a path; idempotent. Keeps a
        snapshot if much is new (what goes wrong with it is in `trouble`)."""
        self._pace.end()
        if not self._closed and self._keeping is not None and not self.wal.closed:
            state = getattr(self, "current", None)
            if state is not None and state.reached - self._kept_at >= _WORTH_KEEPING:
                self._checkpoint_when_due()
        self._closed = True
        if self._keeping is not None:
            self._keeping.wal.close()
        if self._owns_log:
            self.wal.close()

    def _after_fork(self) -> None:
        """In the child: the parent's threads are gone, with what they held or were doing."""
        self._make_locks()
        self._pace.restart()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        closed = " closed" if self.closed else ""
        return f"<treering.stores.views.{type(self).__name__} of {self.wal.path!r}{closed}>"


_followers: weakref.WeakSet[Following[Any]] = weakref.WeakSet()


def _forget_parents_threads() -> None:
    for follower in list(_followers):
        follower._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parents_threads)
