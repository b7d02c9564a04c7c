"""Clean-up: what is over leaves memory, and so the next snapshots, without anybody's call."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Sequence

from treering import ClosedError, TreeringError
from treering.fold import Store
from treering.fold.kit import Pace

from . import records as rec
from .state import State

Decide = Callable[[State], Sequence[tuple[bytes, bytes]]]

# So many steps at a time are made with the lock in hand: well under a millisecond.
_STEPS = 256


class Sweeping(Store[State]):
    """The part of a store that cleans up, by a thread that knows the store only weakly."""

    def _begin_sweeping(self, seconds: float | None) -> None:
        self._trouble: list[str] = []
        self._sweeping = Pace(weakref.WeakMethod(self._sweep), None, None, seconds)
        # A part of a database is made anew for other terms: its thread goes when it goes.
        weakref.finalize(self, self._sweeping.stop)
        _stores.add(self)
        self._sweeping.count(1, 0)

    def _command(self, decide: Decide, durable: bool | None) -> range:
        positions = self._fold.command(decide, durable=durable)
        self._sweeping.count(1, 0)  # in a forked child the thread begins anew
        return positions

    def purge(self) -> int:
        """Drop now what is over, as the background does by and by; how many sessions that were. It
        is gone from memory at return, and from the disk after two checkpoints. O(all sessions), in
        steps."""
        count = 0

        def decide(state: State) -> list[tuple[bytes, bytes]]:
            nonlocal count
            now_ns = state.now_ns()
            every = state.sessions.values()
            over = [packed[rec.FLAGS_AT] for packed in every if rec.expires_ns(packed) <= now_ns]
            count = over.count(0)  # an id that was rotated away is no session
            return [(rec.TIME.pack(b"n", now_ns), b"")] if over else []

        self._command(decide, False)
        while self._reap():
            pass
        return count

    def _sweep(self) -> None:
        """The background thread's."""
        if self.closed:
            self._sweeping.stop()
            return
        try:
            self._drop_what_is_over()
        except ClosedError:
            return
        except TreeringError as error:  # a full disk, say: the next time may be better
            self._trouble[:] = [f"clean-up: {error}"]

    def _drop_what_is_over(self) -> None:
        """Tell the log the time if somebody's session is over by it: each process may then drop
        that one. Nothing is written otherwise."""

        def decide(state: State) -> list[tuple[bytes, bytes]]:
            now_ns = state.now_ns()
            over = next(state.overdue(now_ns, _STEPS), None)
            return [] if over is None else [(rec.TIME.pack(b"n", now_ns), b"")]

        while True:
            while self._reap():
                pass
            with self._fold.lock:
                state = self._fold.state()
                if not state.may_be_overdue(state.now_ns()):
                    return
            self._fold.command(decide, durable=False)

    def _reap(self) -> bool:
        with self._fold.lock:
            return self._fold.state().reap(_STEPS)

    def end_sweeping(self) -> None:
        """No more clean-up in the background: for `close`, and a database that is closed."""
        self._sweeping.end()

    def close(self) -> None:
        """Make everything durable and let go of the log; idempotent."""
        if self._own is not None:
            self.end_sweeping()
        super().close()


_stores: weakref.WeakSet[Sweeping] = weakref.WeakSet()


def _forget_parents_threads() -> None:
    for store in list(_stores):
        store._sweeping.restart()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parents_threads)
