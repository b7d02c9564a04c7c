"""The queue: commands."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from treering import FsyncPolicy, Record, UsageError
from treering.fold import Fold, Follower

from . import records as rec
from .agenda import Entry, Job
from .care import Care
from .handle import check_held, check_job, lost, token_of
from .loops import Loops
from .state import State
from .terms import Terms, make_terms

_pack = rec.PUT.pack
# A call that waits for a job to become due looks so often how late it is.
_SLICE_SECONDS = 0.25


class JobQueue(Care, Loops):
    """Jobs in a directory, in memory as a whole. Thread-safe; several processes may have it open
    at once. Each job is delivered at least once, to one worker at a time, and is acknowledged
    at most once.

    A worker has a job for `lease` seconds (`extend` gives it more); then it goes to another one,
    at most `attempts_max` times in all (None: no limit), after which it is a dead letter. A nack
    delays the next attempt by `retry_delay` seconds, doubled with each attempt up to
    `retry_delay_max`. `worker` names this one in inspections (default: host and process).

    `fsync_policy` (default ALWAYS: put, ack and nack are durable when they return; leases are only
    written) and `durable=` of single calls as for the log; `exclusive=True` keeps others out.
    `checkpoint_bytes`, `checkpoint_records`, `checkpoint_seconds` and further options are those of
    `treering.fold.Fold` and `treering.Wal.open`.

    Every call raises what the log raises: ClosedError, ForkedError, FailedError, StorageError,
    DamageError; every command also DiskFullError and TooLargeError (nothing was changed) and
    ReadOnlyError; UsageError for arguments that cannot be right.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        lease: float = 30.0,
        attempts_max: int | None = 5,
        retry_delay: float = 1.0,
        retry_delay_max: float = 600.0,
        worker: str | None = None,
        fsync_policy: FsyncPolicy = FsyncPolicy.ALWAYS,
        exclusive: bool = False,
        read_only: bool = False,
        **options: Any,
    ) -> None:
        self._terms = make_terms(lease, attempts_max, retry_delay, retry_delay_max, worker)
        fold = Fold(
            path,
            State,
            own=True,
            fsync_policy=fsync_policy,
            exclusive=exclusive,
            read_only=read_only,
            **options,
        )
        self._begin(fold, options.get("clock"), read_only)

    @classmethod
    def on(
        cls,
        fold: Follower[State],
        *,
        clock: Callable[[], int] | None = None,
        read_only: bool = False,
        files: Any = None,
        **terms: Any,
    ) -> JobQueue:
        """The queue as a part of a database, which is what has the log and its `files`, and knows
        whether it is `read_only`. `terms` are `lease`, `attempts_max`, `retry_delay`,
        `retry_delay_max` and `worker`."""
        queue = cls.__new__(cls)
        queue._terms = make_terms(**terms)
        queue._begin(fold, clock, read_only)
        return queue

    @staticmethod
    def new_state(clock: Callable[[], int]) -> State:
        """An empty state, for a database. A queue's has no need of a clock."""
        return State()

    # --- Putting: durable at return under ALWAYS, or with durable=True ---

    def put(
        self,
        body: bytes,
        *,
        delay: float | None = None,
        run_at: Any = None,
        priority: int = 0,
        key: bytes | None = None,
        headers: dict[str, bytes] | None = None,
        durable: bool | None = None,
    ) -> int:
        """Add a job; its id. It is due at once, after `delay` seconds, or at `run_at` (seconds
        since 1970 or a datetime); of those that are due, the highest `priority` goes first, then
        what was due first. `headers` maps short texts to bytes.

        With a deduplication `key` nothing is added while a job with that key is there (waiting or
        leased, not dead): the id is that job's. O(log(jobs))."""
        if type(body) is not bytes:
            body = rec.check_body(body)
        if key is not None:
            return self._put_once(body, delay, run_at, priority, key, headers, durable)
        if priority or type(priority) is not int:
            priority = rec.check_priority(priority)
        fold = self._own
        if fold is None:
            packed = rec.put_key(self._due_ns(delay, run_at), priority, b"")
            record = Record(packed, body, headers=headers)
            return self._fold.append([record], durable=durable).start
        with fold.lock:
            state, due_ns = fold.current, self._clock()
            if not delay is None is run_at:
                due_ns = self._due_ns(delay, run_at)
            elif due_ns < state.newest_ns:
                due_ns = state.newest_ns
            packed = _pack(b"p", due_ns, priority)
            if headers is None:
                id = fold.wal.put(packed, body)
            else:
                id = fold.wal.put(packed, body, headers=headers)
                headers = {name: bytes(value) for name, value in headers.items()}
            if id == fold.position:  # so nothing came in between
                if delay is None is run_at:
                    state.newest_ns = due_ns  # which is now, as of `_now_ns`
                state.add(id, body, priority, headers, due_ns)
                fold.position = id + 1
                fold.pace.count(1, len(packed) + len(body))
        if fold.always if durable is None else durable:
            fold.wal.wait_durable(id)
        return id

    def _due_ns(self, delay: float | None, run_at: Any) -> int:
        if delay is None is run_at:
            return max(self._clock(), self._fold.current.newest_ns)
        if delay is None:
            return rec.moment_ns(run_at, "run_at")
        if run_at is not None:
            raise UsageError("give a delay or run_at, not both")
        now_ns = max(self._clock(), self._fold.current.newest_ns)
        return now_ns + rec.span_ns(delay, "delay")

    def _put_once(
        self,
        body: bytes,
        delay: float | None,
        run_at: Any,
        priority: int,
        key: bytes,
        headers: dict[str, bytes] | None,
        durable: bool | None,
    ) -> int:
        packed = rec.put_key(
            self._due_ns(delay, run_at), rec.check_priority(priority), rec.check_key(key)
        )
        record = Record(packed, body, headers=headers)
        found: int | None = None

        def decide(state: State) -> list[Record]:
            nonlocal found
            found = state.keys.get(key)
            return [record] if found is None else []

        positions = self._fold.command(decide, durable=durable)
        return positions.start if found is None else found

    def put_many(
        self,
        bodies: Iterable[bytes],
        *,
        delay: float | None = None,
        run_at: Any = None,
        priority: int = 0,
        headers: dict[str, bytes] | None = None,
        durable: bool | None = None,
    ) -> range:
        """Add jobs, all or none; their ids. At most 64 MiB at a time (`batch_bytes_max`)."""
        packed = rec.put_key(self._due_ns(delay, run_at), rec.check_priority(priority), b"")
        jobs: list[Any] = [(packed, rec.check_body(body)) for body in bodies]
        if headers:
            jobs = [Record(key, body, headers=headers) for key, body in jobs]
        if not jobs:
            return range(0)
        return self._fold.append(jobs, durable=durable)

    # --- Taking: written at return, so that no other process gets it ---

    def get(self, timeout: float | None = 0, *, lease: float | None = None) -> Job | None:
        """The job that comes next, leased to the caller for `lease` seconds (default: the
        handle's); None if there is none within `timeout` seconds (None: wait for ever). Wakes
        when any process puts a job, and when the next one becomes due. O(log(jobs))."""
        jobs = self.get_many(1, timeout, lease=lease)
        return jobs[0] if jobs else None

    def get_many(
        self, count: int, timeout: float | None = 0, *, lease: float | None = None
    ) -> list[Job]:
        """As `get`, up to `count` jobs at once: as soon as there is one, those that are there."""
        lease_ns = self._lease_ns(lease)
        rec.check_count(count, "count")
        until = rec.moment_after(timeout) if timeout else timeout
        while True:
            jobs, seen, pause = self._take(count, lease_ns)
            if jobs or until == 0:
                return jobs
            if until is not None:
                left = until - time.monotonic()
                if left <= 0:
                    return []
                pause = left if pause is None else min(pause, left)
            if pause is not None:  # in slices: the clock may jump, or the machine sleep, meanwhile
                pause = min(pause, _SLICE_SECONDS)
            self._fold.wait(pause, position=seen)

    def _lease_ns(self, lease: float | None) -> int:
        return self._terms.lease_ns if lease is None else rec.span_ns(lease, "lease", least=1)

    def _take(self, count: int, lease_ns: int) -> tuple[list[Job], int, float | None]:
        """Jobs, now leased; the position of what was looked at; seconds until looking again."""
        chosen: list[tuple[int, int, Entry]] = []
        pause: float | None = None
        expires_ns = 0

        def decide(state: State) -> list[tuple[bytes, bytes]]:
            nonlocal pause, expires_ns
            chosen.clear()
            now_ns = self._now_ns(state)
            state.agenda.advance(now_ns)
            ids = state.agenda.first(count)
            if not ids:
                due_ns = state.agenda.next_ns()
                pause = None if due_ns is None else max(0, due_ns - now_ns) / rec.SECOND
                return []
            expires_ns = now_ns + lease_ns
            return self._leases(state, ids, expires_ns, chosen)

        positions = self._fold.command(decide, durable=False)
        while positions and not chosen:  # only deaths: on to the next
            positions = self._fold.command(decide, durable=False)
        jobs = [
            _leased(id, entry, positions[at], expires_ns, self._terms) for at, id, entry in chosen
        ]
        return jobs, positions.stop, pause

    def _leases(
        self, state: State, ids: list[int], expires_ns: int, chosen: list[tuple[int, int, Entry]]
    ) -> list[tuple[bytes, bytes]]:
        """A lease for each of these jobs, which is `chosen` then; or its death if the last worker
        let its lease run out and there is no attempt left."""
        changes = []
        for id in ids:
            entry = state.jobs[id]
            if entry.token and self._terms.is_spent(entry):
                changes.append((rec.DIE.pack(b"d", id, entry.token, rec.EXPIRED), b""))
            else:
                chosen.append((len(changes), id, entry))
                changes.append((rec.LEASE.pack(b"l", id, expires_ns), self._terms.worker))
        return changes

    # --- Finishing: LeaseLostError, and nothing changed, if the job is not the caller's ---

    def ack(self, job: Job, *, durable: bool | None = None) -> None:
        """The job is done: it is gone. Durable at return under ALWAYS. A lease that is over
        still holds until another worker gets the job."""
        self.ack_many((job,), durable=durable)

    def ack_many(self, jobs: Sequence[Job], *, durable: bool | None = None) -> None:
        """These jobs are done, all of them or, with an error, none."""
        for job in jobs:
            check_job(job)
        if len({job.id for job in jobs}) < len(jobs):
            raise UsageError("a job is named twice", hint="Acknowledge each once")

        def decide(state: State) -> list[tuple[bytes, bytes]]:
            for job in jobs:
                check_held(state, job)
            return [(rec.ACK.pack(b"a", job.id, job.token), b"") for job in jobs]

        self._fold.command(decide, durable=durable)

    def nack(
        self,
        job: Job,
        retry_in: float | None = None,
        *,
        error: str | None = None,
        durable: bool | None = None,
    ) -> bool:
        """The job failed: it is due again in `retry_in` seconds (default: see `retry_delay`), and
        True is returned; or it is a dead letter, after `attempts_max` attempts, and False is.
        `error` is kept for inspections, up to 4 KiB of it."""
        check_job(job)
        text = rec.error_bytes(error)
        retry_ns = None if retry_in is None else rec.span_ns(retry_in, "retry_in")
        again = True

        def decide(state: State) -> list[tuple[bytes, bytes]]:
            nonlocal again
            entry = check_held(state, job)
            again = not self._terms.is_spent(entry)
            if not again:
                return [(rec.DIE.pack(b"d", job.id, job.token, rec.FAILED), text)]
            wait_ns = self._terms.retry_after_ns(entry.attempts) if retry_ns is None else retry_ns
            due_ns = self._now_ns(state) + wait_ns
            return [(rec.NACK.pack(b"n", job.id, job.token, due_ns), text)]

        self._fold.command(decide, durable=durable)
        return again

    def release(self, job: Job) -> None:
        """Give the job back as it was, without counting the attempt. Written at return."""
        check_job(job)

        def decide(state: State) -> list[tuple[bytes, bytes]]:
            check_held(state, job)
            return [(rec.RELEASE.pack(b"b", job.id, job.token), b"")]

        self._fold.command(decide, durable=False)

    def extend(self, job: Job, lease: float | None = None) -> None:
        """The lease holds for `lease` seconds from now (default: the handle's). Written at
        return."""
        check_job(job)
        if self._extend_all([job], self._lease_ns(lease)):
            raise lost(job, None)

    def _extend_all(self, jobs: Sequence[Job], lease_ns: int) -> list[Job]:
        """Extend all that are still held; those that are not."""
        gone: list[Job] = []

        def decide(state: State) -> list[tuple[bytes, bytes]]:
            held = [job for job in jobs if token_of(state, job) == job.token]
            gone[:] = [job for job in jobs if token_of(state, job) != job.token]
            until_ns = self._now_ns(state) + lease_ns
            return [(rec.EXTEND.pack(b"e", job.id, job.token, until_ns), b"") for job in held]

        self._fold.command(decide, durable=False)
        return gone


def _leased(id: int, entry: Entry, token: int, expires_ns: int, terms: Terms) -> Job:
    """The job for the worker that has the lease now."""
    return Job(
        id,
        entry.body,
        entry.attempts + 1,
        entry.priority,
        entry.key or None,
        dict(entry.headers) if entry.headers else {},
        entry.due_ns / rec.SECOND,
        token,
        expires_ns / rec.SECOND,
        terms.name,
        entry.error.decode(errors="replace") if entry.error else "",
        "leased",
    )
