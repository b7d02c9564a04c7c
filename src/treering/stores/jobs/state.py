"""What a queue's records come to: the jobs, the dead letters, and who has which key."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from typing import NamedTuple, NoReturn

from treering import DamageError, Record, UsageError
from treering.fold import Overlay

from .agenda import Agenda, Entry, Job
from .records import (
    DEAD,
    ERROR_BYTES_MAX,
    EXPIRED,
    FAILED,
    JOBS,
    KEY_BYTES_MAX,
    LAYOUTS,
    LIVE,
    PUT,
    REASONS,
    SAVED,
    SECOND,
    WORKER_BYTES_MAX,
    refuse,
    refuse_unknown,
    unpack,
)

_new = tuple.__new__


class Dead(NamedTuple):
    """A dead letter: why, and when it died."""

    entry: Entry
    reason: bytes
    died_ns: int


class State:
    """The jobs by id, which is the position of their put. Entries are replaced whole, so a copy is
    a copy of the dicts. Taking in a record again changes nothing."""

    label = b"treering job queue 1"

    def __init__(self) -> None:
        self.jobs: MutableMapping[int, Entry] = {}
        self.dead: MutableMapping[int, Dead] = {}
        self.keys: MutableMapping[bytes, int] = {}  # of jobs, not of dead letters
        self.newest_ns = 0  # of all records: time does not go back behind it
        self._agenda: Agenda | None = None
        self._is_scratch = False
        self._next = 0  # the position of the next record

    # --- apply ---

    def apply(self, record: Record) -> None:
        """Take in one record of the log."""
        position = record.position or 0
        if position < self._next:
            return
        kind = record.key[:1]
        if kind == b"p":
            self._put(record, position)
        elif kind in LAYOUTS:
            _TAKE[kind](self, record, *unpack(LAYOUTS[kind], record))
        else:
            refuse_unknown(record)
        stamp_ns = record.timestamp_ns or 0
        if stamp_ns > self.newest_ns:
            self.newest_ns = stamp_ns
        self._next = position + 1

    def add(
        self, id: int, body: bytes, priority: int, headers: dict[str, bytes] | None, due_ns: int
    ) -> None:
        """A job without a key was put, and is the newest record."""
        # By position, not by keyword, and without another call: this is the hot path.
        self.jobs[id] = _new(Entry, (body, priority, b"", headers, due_ns, 0, 0, 0, b"", b""))
        if self._agenda is not None:
            self._agenda.add(due_ns, id)
        self._next = id + 1

    def _set(self, id: int, entry: Entry) -> None:
        self.jobs[id] = entry
        if self._agenda is not None:
            self._agenda.add(entry.when_ns, id)

    def _put(self, record: Record, position: int) -> None:
        if len(record.key) < PUT.size:
            refuse(record, "is too short for a put")
        _, due_ns, priority = PUT.unpack_from(record.key)
        key = record.key[PUT.size :]
        if key:
            if len(key) > KEY_BYTES_MAX:
                refuse(record, "has a key that is too long")
            if self.keys.get(key, position) != position:
                refuse(record, "has the key of a job that is there")
            self.keys[key] = position
        headers = record.headers or None
        self._set(position, Entry(bytes(record.value), priority, key, headers, due_ns))

    def _held(self, record: Record, id: int, token: int) -> Entry:
        entry = self.jobs.get(id)
        if entry is None or entry.token != token:
            refuse(record, f"is about a lease that job {id} does not have")
        return entry

    def _lease(self, record: Record, id: int, expires_ns: int) -> None:
        entry = self.jobs.get(id)
        if entry is None:
            refuse(record, f"leases job {id}, which is not there")
        self._set(
            id,
            Entry(
                *entry[:5],
                entry.attempts + 1,
                record.position or 0,
                expires_ns,
                bytes(record.value[:WORKER_BYTES_MAX]),
                entry.error,
            ),
        )

    def _extend(self, record: Record, id: int, token: int, expires_ns: int) -> None:
        self._set(id, self._held(record, id, token)._replace(expires_ns=expires_ns))

    def _ack(self, record: Record, id: int, token: int) -> None:
        self._drop(id, self._held(record, id, token))

    def _nack(self, record: Record, id: int, token: int, due_ns: int) -> None:
        entry = self._held(record, id, token)
        self._set(id, Entry(*entry[:4], due_ns, entry.attempts, error=_error(record)))

    def _release(self, record: Record, id: int, token: int) -> None:
        entry = self._held(record, id, token)
        attempts = max(0, entry.attempts - 1)
        self._set(id, Entry(*entry[:5], attempts, error=entry.error))

    def _die(self, record: Record, id: int, token: int, reason: bytes) -> None:
        entry = self._held(record, id, token)
        if reason not in REASONS:
            refuse_unknown(record)
        self._drop(id, entry)
        text = _error(record) or entry.error
        gone = Entry(*entry[:6], worker=entry.worker, error=text)
        self.dead[id] = Dead(gone, reason, record.timestamp_ns or 0)

    def _requeue(self, record: Record, id: int, due_ns: int) -> None:
        found = self.dead.get(id)
        if found is None:
            refuse(record, f"requeues {id}, which is no dead letter")
        entry = found.entry
        if entry.key and self.keys.setdefault(entry.key, id) != id:
            refuse(record, "brings back the key of a job that is there")
        del self.dead[id]
        self._set(id, Entry(*entry[:4], due_ns, error=entry.error))

    def _cancel(self, record: Record, id: int) -> None:
        entry = self.jobs.get(id)
        if entry is not None:
            self._drop(id, entry)
        elif id in self.dead:
            del self.dead[id]
        else:
            refuse(record, f"cancels job {id}, which is not there")

    def _purge(self, record: Record, which: bytes) -> None:
        if which == JOBS:
            self.jobs, self.keys, self._agenda = {}, {}, None
        elif which == DEAD:
            self.dead = {}
        else:
            refuse_unknown(record)

    def _drop(self, id: int, entry: Entry) -> None:
        del self.jobs[id]
        if entry.key:
            del self.keys[entry.key]

    # --- snapshots ---

    def dump(self) -> Iterator[Record]:
        """The jobs, then the dead letters, as records of a snapshot."""
        stamp_ns = self.newest_ns or None
        for id, entry in self.jobs.items():
            yield _saved(id, entry, LIVE, 0, stamp_ns)
        for id, dead in self.dead.items():
            yield _saved(id, dead.entry, dead.reason, dead.died_ns, stamp_ns)

    def load(self, record: Record) -> None:
        """Take in one record of a snapshot."""
        try:
            id, entry, reason, died_ns = _restored(record)
        except Exception as error:
            raise DamageError(
                f"a snapshot of a job queue has no records like {record.key!r:.60}",
                hint="Remove the snapshot if an older one, or the whole log, is there",
            ) from error
        if reason == LIVE:
            self.jobs[id] = entry
            if entry.key:
                self.keys[entry.key] = id
        else:
            self.dead[id] = Dead(entry, reason, died_ns)
        self.newest_ns = max(self.newest_ns, record.timestamp_ns or 0)

    def copy(self) -> State:
        """Another state that stays as this one is now: three shallow copies of dicts."""
        other = State()
        other.jobs, other.dead, other.keys = dict(self.jobs), dict(self.dead), dict(self.keys)
        other.newest_ns, other._next = self.newest_ns, self._next
        return other

    def scratch(self) -> State:
        """This state, to be changed while this one stays: for a transaction. O(1)."""
        other = State()
        other.jobs, other.dead = Overlay(self.jobs), Overlay(self.dead)
        other.keys = Overlay(self.keys)
        other.newest_ns, other._next = self.newest_ns, self._next
        other._is_scratch = True
        return other

    # --- queries: with the fold's lock in hand ---

    @property
    def agenda(self) -> Agenda:
        """What is due when: O(jobs) the first time."""
        if self._agenda is None:
            if self._is_scratch:
                _refuse_in_transaction()
            self._agenda = Agenda(self.jobs)
        return self._agenda

    def show(self, id: int, now_ns: int) -> Job | None:
        """A job or a dead letter for people."""
        entry = self.jobs.get(id)
        if entry is not None:
            waiting = "leased" if entry.token else "delayed"
            return shown(id, entry, waiting if entry.when_ns > now_ns else "ready")
        dead = self.dead.get(id)
        if dead is None:
            return None
        job = shown(id, dead.entry, "dead")
        return job._replace(reason=REASONS[dead.reason], died_at=dead.died_ns / SECOND)

    def check(self) -> None:
        """The keys, the letters and the agenda fit the jobs; DamageError otherwise."""
        keys = {entry.key: id for id, entry in self.jobs.items() if entry.key}
        if keys != dict(self.keys):
            raise DamageError("the deduplication keys in memory are not those of the jobs")
        if self.jobs.keys() & self.dead.keys():
            raise DamageError("a job is both live and dead in memory")
        if self._agenda is not None:
            ready, waiting = self._agenda.ready(), self._agenda.waiting()
            if ready | waiting != self.jobs.keys():
                raise DamageError("the agenda in memory lacks jobs")


def shown(id: int, entry: Entry, status: str) -> Job:
    """The job for people."""
    leased = entry.token != 0
    return Job(
        id,
        entry.body,
        entry.attempts,
        entry.priority,
        entry.key or None,
        dict(entry.headers) if entry.headers else {},
        entry.due_ns / SECOND,
        entry.token,
        entry.expires_ns / SECOND if leased else None,
        entry.worker.decode(errors="replace"),
        entry.error.decode(errors="replace"),
        status,
    )


def _error(record: Record) -> bytes:
    return bytes(record.value[:ERROR_BYTES_MAX])


def _refuse_in_transaction() -> NoReturn:
    raise UsageError(
        "a transaction cannot take or list jobs by their order",
        hint="Call get or peek before it; put, ack and nack may be part of it",
    )


def _saved(id: int, entry: Entry, reason: bytes, died_ns: int, stamp_ns: int | None) -> Record:
    head = SAVED.pack(
        b"j",
        id,
        entry.due_ns,
        entry.expires_ns,
        entry.token,
        entry.attempts,
        entry.priority,
        reason,
        died_ns,
        len(entry.key),
        len(entry.worker),
        len(entry.error),
    )
    key = head + entry.key + entry.worker + entry.error
    return Record(key, entry.body, headers=entry.headers, timestamp_ns=stamp_ns)


def _restored(record: Record) -> tuple[int, Entry, bytes, int]:
    head = SAVED.unpack_from(record.key)
    kind, id, due_ns, expires_ns, token, attempts, priority, reason, died_ns, *sizes = head
    texts, at = [], SAVED.size
    for size in sizes:
        texts.append(record.key[at : at + size])
        at += size
    if at != len(record.key) or kind != b"j" or reason not in (LIVE, FAILED, EXPIRED):
        raise ValueError("not a job")
    key, worker, text = texts
    entry = Entry(
        bytes(record.value),
        priority,
        key,
        record.headers or None,
        due_ns,
        attempts,
        token,
        expires_ns,
        worker,
        text,
    )
    return id, entry, reason, died_ns


_TAKE: dict[bytes, Callable[..., None]] = {
    b"l": State._lease,
    b"e": State._extend,
    b"a": State._ack,
    b"n": State._nack,
    b"b": State._release,
    b"d": State._die,
    b"r": State._requeue,
    b"c": State._cancel,
    b"w": State._purge,
}
