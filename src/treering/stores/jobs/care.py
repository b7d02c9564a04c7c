"""Commands on jobs that are nobody's: cancel, purge, requeue."""

from __future__ import annotations

from treering import NotThereError

from . import records as rec
from .handle import DuplicateJobError, Handle
from .state import State


class Care(Handle):
    """What those do who look after a queue. Durable at return under ALWAYS, or with
    durable=True."""

    def cancel(self, id: int, *, durable: bool | None = None) -> bool:
        """Remove a job, whatever its status, or a dead letter; whether it was there. A worker that
        has it gets a LeaseLostError."""
        rec.check_id(id)

        def decide(state: State) -> list[tuple[bytes, bytes]]:
            there = id in state.jobs or id in state.dead
            return [(rec.CANCEL.pack(b"c", id), b"")] if there else []

        return bool(self._fold.command(decide, durable=durable))

    def purge(self, *, durable: bool | None = None) -> int:
        """Remove all jobs, leased ones too, but no dead letters; how many. One small record."""
        return self._purge(rec.JOBS, durable)

    def purge_dead(self, *, durable: bool | None = None) -> int:
        """Remove all dead letters; how many."""
        return self._purge(rec.DEAD, durable)

    def _purge(self, which: bytes, durable: bool | None) -> int:
        count = 0

        def decide(state: State) -> list[tuple[bytes, bytes]]:
            nonlocal count
            count = len(state.jobs if which == rec.JOBS else state.dead)
            return [(rec.PURGE.pack(b"w", which), b"")] if count else []

        self._fold.command(decide, durable=durable)
        return count

    def requeue(self, id: int, *, delay: float | None = None, durable: bool | None = None) -> None:
        """Make a dead letter a job again, with the same id and its attempts counted anew.
        NotThereError if there is no such letter; DuplicateJobError if its key is in use."""
        rec.check_id(id)
        delay_ns = rec.span_ns(delay or 0, "delay")

        def decide(state: State) -> list[tuple[bytes, bytes]]:
            dead = state.dead.get(id)
            if dead is None:
                raise NotThereError(f"job {id} is no dead letter", hint="dead() lists them")
            if dead.entry.key and dead.entry.key in state.keys:
                other = state.keys[dead.entry.key]
                raise DuplicateJobError(
                    f"job {other} has the key {dead.entry.key!r:.60} now",
                    hint="Cancel one of the two, or wait until that one is done",
                )
            return [(rec.REQUEUE.pack(b"r", id, self._now_ns(state) + delay_ns), b"")]

        self._fold.command(decide, durable=durable)
