"""Several stores in one log: one directory, one fsync, and transactions over all of them.

from treering import Database

with Database("shop") as db:
    orders, mail = db.kv("orders"), db.queue("mail")
    with db.transaction():                      # all of it or nothing
        orders[b"1"] = b"paid"
        mail.put(b"receipt for 1")
"""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any, TypeVar, cast

from treering import DiskFullError, FsyncPolicy, UsageError, VersionError
from treering.fold import CommitConflictError, Fold, Host, Part, Shared, State, Store, Transaction
from treering.stores.documents import DocumentStore
from treering.stores.events import EventStore
from treering.stores.jobs import JobQueue
from treering.stores.kv import KeyValueStore
from treering.stores.messages import MessageLog
from treering.stores.sessions import SessionStore

T = TypeVar("T")
Clock = Callable[[], int]

# The class of each kind of store, which says how its part of the state begins (`new_state`).
_KINDS: dict[str, type[Any]] = {
    "key-value": KeyValueStore,
    "events": EventStore,
    "messages": MessageLog,
    "jobs": JobQueue,
    "sessions": SessionStore,
    "documents": DocumentStore,
}

_NAME_BYTES_MAX = 1024
_BESIDE = ("lock_timeout_seconds", "map_tail", "process_lock")


class Database(Store[Shared]):
    """Stores that share one log, by name. Thread-safe; several processes may have it open at once.

    Each method named after a kind of store gives the store of that name, and makes it if there is
    none. The stores are used as those with a directory of their own, in transactions and outside;
    their `close` does nothing, their `checkpoint`, `check` and `stats` are those of the whole log.
    Options as of the single stores: `fsync_policy` (default ALWAYS), `exclusive`, `read_only`,
    `checkpoint_bytes`, `checkpoint_records`, `checkpoint_seconds`, and those of `Wal.open`.

    Raises what opening a `treering.fold.Fold` raises; VersionError if it has a kind of store that
    this version does not know.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        fsync_policy: FsyncPolicy = FsyncPolicy.ALWAYS,
        read_only: bool = False,
        **options: Any,
    ) -> None:
        clock: Clock = options.get("clock") or time.time_ns
        # What a store has to know of how the log was opened.
        self._opened: dict[str, Any] = {
            name: options[name] for name in ("clock", "files") if name in options
        }
        self._opened["read_only"] = read_only
        # And what the logs of projections have in common with it.
        self._beside = {name: options[name] for name in _BESIDE if name in options}
        new = partial(Shared, partial(_new_state, clock))
        fold = _RetainingFold(
            path, new, own=True, fsync_policy=fsync_policy, read_only=read_only, **options
        )
        self._stand_on(fold, read_only)
        self._host = Host(fold)
        self._stores: dict[str, Any] = {}
        self._with_projections: weakref.WeakSet[EventStore] = weakref.WeakSet()
        self._with_sweeping: weakref.WeakSet[SessionStore] = weakref.WeakSet()

    # --- Stores ---

    def kv(self, name: str) -> KeyValueStore:
        """The key-value store of that name."""
        return cast(KeyValueStore, self._store(name, "key-value"))

    def events(self, name: str, **options: Any) -> EventStore:
        """The event store of that name; `codec` as of `EventStore`."""
        return cast(EventStore, self._store(name, "events", **options))

    def messages(self, name: str) -> MessageLog:
        """The message log of that name."""
        return cast(MessageLog, self._store(name, "messages"))

    def queue(self, name: str, **terms: Any) -> JobQueue:
        """The job queue of that name; `terms` (`lease`, `attempts_max` …) as of `JobQueue`."""
        return cast(JobQueue, self._store(name, "jobs", **terms))

    def sessions(self, name: str, **terms: Any) -> SessionStore:
        """The session store of that name; `terms` (`idle`, `lifetime` …) as of `SessionStore`."""
        return cast(SessionStore, self._store(name, "sessions", **terms))

    def documents(self, name: str, **options: Any) -> DocumentStore:
        """The document store of that name; `indexes` and `document_bytes_max` as of
        `DocumentStore`."""
        return cast(DocumentStore, self._store(name, "documents", **options))

    def stores(self) -> dict[str, str]:
        """The names of all stores, and of which kind each is."""
        return {name: kind for name, (kind, _) in self._host.state().names.items()}

    def _store(self, name: str, kind: str, **options: Any) -> Any:
        if not _is_name(name):
            raise UsageError(
                f"a store's name is text of 1 to {_NAME_BYTES_MAX} bytes: {name!r:.60}"
            )
        found = self._host.state().names.get(name) or self._make(name, kind)
        if found[0] != kind:
            raise UsageError(
                f"{name!r:.60} is a store of another kind: {found[0]}", hint="Choose another name"
            )
        store = self._stores.get(name)
        if store is None or options:
            part: Part[Any] = Part(self._host, found[1])
            beside = self._beside if kind == "events" else {}
            store = _KINDS[kind].on(part, **self._opened, **beside, **options)
            self._stores[name] = store
            if isinstance(store, EventStore):
                self._with_projections.add(store)
            elif isinstance(store, SessionStore):
                self._with_sweeping.add(store)
        return store

    def _make(self, name: str, kind: str) -> tuple[str, int]:
        """Add a store to the catalogue; once, however many try."""
        self._host.refuse_within("make a store")
        self._fold.command(lambda whole: [] if name in whole.names else [whole.entry(name, kind)])
        return self._host.state().names[name]

    # --- Transactions ---

    def transaction(self, *, durable: bool | None = None) -> Transaction:
        """A context manager: what this thread does in its block to stores of this database becomes
        one atomic frame at its end, or nothing if the block raises.

        The block sees the stores as they were at its beginning, with its own changes; other threads
        of this process wait with their writes, and with many queries, until it ends: let it be
        short, and do not `await` in it. If another process wrote meanwhile, nothing is appended and
        CommitConflictError is raised at the end: see `run`. Durable at its end under ALWAYS, with
        durable=True, or if one of its calls asks for it. What reads the log rather than the state
        (`watch`, followers, `read_all`) shows nothing of what the block adds.

        Raises at its end what an append raises (nothing was changed); UsageError in another one.
        """
        return Transaction(self._host, durable)

    def run(self, work: Callable[[], T], *, durable: bool | None = None) -> T:
        """Call `work()` in a transaction, again and again until no other process came in between;
        what it returned. What it raises ends it, and nothing is appended. What it does to anything
        but the stores, and the consumers of message logs, is done each time."""
        while True:
            transaction = self.transaction(durable=durable)
            try:
                with transaction:
                    result = work()
            except CommitConflictError as error:
                if error.transaction is not transaction:
                    raise
                continue
            return result

    # --- Care ---

    @property
    def position(self) -> int:
        """The log's position up to which the stores' states have been read."""
        return self._fold.position

    def checkpoint(self) -> int:
        """Write a snapshot of all stores, and drop the log that none of them needs; its position.
        Durable at return. See `treering.fold.Fold.checkpoint`."""
        self._host.refuse_within("make a checkpoint")
        return super().checkpoint()

    def check(self) -> None:
        """Walk all invariants: the log's, the snapshots', each store's. DamageError at the first
        that does not hold. Reads everything."""
        self._host.refuse_within("check")
        super().check()

    def check_state(self) -> None:
        """The part of `check` that asks each store."""
        with self._fold.lock:
            for name, (kind, _) in self._host.state().names.items():
                self._store(name, kind).check_state()

    def stats(self) -> dict[str, Any]:
        """The fold's numbers, and how many stores there are."""
        return {**self._fold.stats(), "stores": len(self._fold.current.names)}

    def close(self) -> None:
        """Make everything durable and let go of the log, for all stores, and of the projections of
        event stores; idempotent. UsageError in a transaction."""
        self._host.refuse_within("close the database")
        with ExitStack() as last:
            last.callback(self._fold.close)
            for store in list(self._with_projections):
                last.callback(store.close)
            for sessions in list(self._with_sweeping):
                last.callback(sessions.end_sweeping)


class _RetainingFold(Fold[Shared]):
    """Before each checkpoint, also those of the background, what message logs need not keep
    goes."""

    def checkpoint(self) -> int:
        """As `Fold.checkpoint`."""
        host = Host(self)
        for kind, stream in list(self.state().names.values()):
            if kind == "messages":
                with suppress(DiskFullError):  # the checkpoint itself may make room
                    MessageLog.on(Part(host, stream)).apply_retention()
        return super().checkpoint()


def _is_name(name: Any) -> bool:
    try:
        return isinstance(name, str) and 0 < len(name.encode()) <= _NAME_BYTES_MAX
    except UnicodeEncodeError:
        return False


def _new_state(clock: Clock, kind: str) -> State:
    store = _KINDS.get(kind)
    if store is None:
        raise VersionError(
            f"the database has a store of a kind that this version does not know: {kind!r:.60}",
            hint="Open it with a newer treering",
        )
    return cast(State, store.new_state(clock))
