"""The store: commands and queries."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, MutableMapping
from functools import partial
from typing import TYPE_CHECKING, Any

from treering import DamageError, FsyncPolicy, Record, UsageError
from treering.fold import Fold, Follower, Store
from treering.fold.kit import clear_record

from .keys import NotBytesError, check_key, check_value
from .prefixed import PrefixedStore
from .reading import Bounds, KeyIterator, Readable, View, iterator_over
from .state import State
from .watching import Watch
from .writing import WriteBatch, collect

if TYPE_CHECKING:
    from .encoded import TextStore


class KeyValueStore(Store[State], Readable, MutableMapping[bytes, bytes]):
    """A dict of bytes in a directory, in memory as a whole. Thread-safe; several processes may have
    it open at once, and each sees what the others wrote with its next call.

    `fsync_policy` (default ALWAYS: durable when the call returns) and `sync=True` of single calls
    as for the log; `exclusive=True` keeps others out. `checkpoint_bytes`, `checkpoint_records`,
    `checkpoint_seconds`: how much change between two snapshots (None for all: only `checkpoint()`
    makes them). Further options are those of `treering.Wal.open`. Keys are at most 65,535 bytes.

    Every call raises what the log raises: ClosedError, ForkedError, FailedError, StorageError,
    DamageError; every command also DiskFullError and TooLargeError (nothing was changed) and
    ReadOnlyError. A key or value that is not bytes is a NotBytesError (a UsageError and TypeError).
    """

    _exclusive = False

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        fsync_policy: FsyncPolicy = FsyncPolicy.ALWAYS,
        exclusive: bool = False,
        read_only: bool = False,
        **options: Any,
    ) -> None:
        clock = options.get("clock") or time.time_ns
        fold = Fold(
            path,
            partial(State, clock),
            own=True,
            fsync_policy=fsync_policy,
            exclusive=exclusive,
            read_only=read_only,
            **options,
        )
        self._stand_on(fold, read_only)
        self._exclusive = exclusive

    @classmethod
    def on(cls, fold: Follower[State], *, read_only: bool = False, **options: Any) -> KeyValueStore:
        """The store as a part of a database; see `treering.Database`."""
        store = cls.__new__(cls)
        store._stand_on(fold, read_only)
        return store

    @staticmethod
    def new_state(clock: Callable[[], int]) -> State:
        """An empty state, for a database."""
        return State(clock)

    # --- Queries: from memory, after a look whether others wrote something ---

    def get(self, key: bytes, default: Any = None, **_: Any) -> Any:
        """The value of `key`, or `default`: O(1). Keywords of plyvel are ignored."""
        fold = self._fold
        if self._exclusive and fold.wal.current_position() == fold.position:
            state = fold.current  # nobody else can take records back
        else:
            state = fold.state()
        try:
            if state.expiries and key in state.expiries:
                value = state.get(key)
            else:
                value = state.items.get(key)
        except TypeError:
            value = state.items.get(check_key(key))
        if value is None:
            if type(key) is not bytes:
                check_key(key)
            return default
        return value

    def __len__(self) -> int:
        with self._fold.lock:
            return self._fold.state().count()

    def _iterate(
        self, reverse: bool, include_key: bool, include_value: bool, bounds: Bounds
    ) -> KeyIterator:
        with self._fold.lock:
            return iterator_over(self._fold.state(), reverse, include_key, include_value, bounds)

    def snapshot(self) -> View:
        """The store as it is now, read-only: O(number of keys) for a copy of the references."""
        state, position = self._fold.copy()
        return View(state, position, state.now_ns())

    def at(self, position: int | None = None, time: Any = None) -> View:
        """The store as it was when the log ended at `position` (see `position`), or at a time
        (seconds since 1970 or a datetime). Reads the log from the snapshot before it on.
        PrunedError when a checkpoint has removed what that takes; PositionError beyond the end."""
        state, position = self._past(position, time)
        return View(state, position, state.newest_ns)

    @property
    def position(self) -> int:
        """How many changes the log has seen: of this moment, for `at` and `watch`."""
        return self._fold.wal.current_position()

    # --- Commands: written at return; durable under ALWAYS, or with sync=True ---

    def put(
        self,
        key: bytes,
        value: bytes,
        *,
        sync: bool = False,
        ttl: float | None = None,
        expires_at: float | None = None,
    ) -> None:
        """Set `key` to `value`; with `ttl` (seconds from now) or `expires_at` (seconds since 1970)
        only until then. O(size)."""
        if not type(key) is type(value) is bytes:
            key, value = check_key(key), check_value(value)
        fold = self._own
        if fold is None or not ttl is None is expires_at:
            self._write([self._record(key, value, ttl, expires_at)], sync)
            return
        with fold.lock:
            position = fold.wal.put(key, value)
            if position == fold.position:  # so nothing came in between
                state = fold.current
                if state.expiries:
                    state.newest_ns = max(state.newest_ns, state.clock())
                state.set(key, value)
                fold.position = position + 1
                fold.pace.count(1, len(key) + len(value))
        if sync or fold.always:
            fold.wal.wait_durable(position)

    def delete(self, key: bytes, *, sync: bool = False) -> None:
        """Remove `key`; nothing happens if it is not there. (`del store[key]` raises KeyError.)"""
        if type(key) is not bytes:
            check_key(key)
        fold = self._own
        if fold is None:
            self._write([Record.delete(key)], sync)
            return
        with fold.lock:
            position = fold.wal.delete(key)
            if position == fold.position:
                fold.current.remove(key)
                fold.position = position + 1
                fold.pace.count(1, len(key))
        if sync or fold.always:
            fold.wal.wait_durable(position)

    def __setitem__(self, key: bytes, value: bytes) -> None:
        self.put(key, value)

    def __delitem__(self, key: bytes) -> None:
        self.pop(key)

    def pop(self, key: bytes, *default: Any) -> Any:
        """Remove `key` and return its value: exactly one of many processes gets it."""
        check_key(key)
        found: bytes | None = None

        def decide(state: State) -> list[Record]:
            nonlocal found
            found = state.get(key)
            return [] if found is None else [Record.delete(key)]

        self._fold.command(decide)
        if found is not None:
            return found
        if default:
            return default[0]
        raise KeyError(key)

    def popitem(self) -> tuple[bytes, bytes]:
        """Remove and return the last key in order and its value; KeyError when there is none.
        Exactly one of many processes gets it."""
        found: tuple[bytes, bytes] | None = None

        def decide(state: State) -> list[Record]:
            nonlocal found
            key = state.last_key()
            found = None if key is None else (key, state.items[key])
            return [] if key is None else [Record.delete(key)]

        self._fold.command(decide)
        if found is None:
            raise KeyError("the store is empty")
        return found

    def setdefault(self, key: bytes, default: bytes = b"") -> bytes:
        """The value of `key`; if there is none, `default`, which is set, once for all processes."""
        check_key(key)
        default = found = check_value(default)

        def decide(state: State) -> list[Record]:
            nonlocal found
            value = state.get(key)
            found = default if value is None else value
            return [Record.put(key, default)] if value is None else []

        self._fold.command(decide)
        return found

    def clear(self) -> None:
        """Remove everything, atomically; one small record, however much there is."""
        self._clear(b"")

    def _clear(self, prefix: bytes) -> None:
        self._write([clear_record(prefix)], False)

    def update(self, *others: Any, **more: Any) -> None:
        """As a dict's; all of it or nothing. TooLargeError over `batch_bytes_max` (64 MiB)."""
        collect(self.write_batch(), others, more)

    def write_batch(self, *, transaction: bool = True, sync: bool = False) -> WriteBatch:
        """A context manager that collects puts and deletes and writes them atomically at its end;
        nothing if the block raises (with transaction=False, what was collected until then)."""
        return WriteBatch(self, transaction=transaction, sync=sync)

    def _write(self, records: list[Record], sync: bool) -> None:
        self._fold.append(records, durable=sync or None)

    def _record(
        self, key: bytes, value: bytes, ttl: float | None, expires_at: float | None
    ) -> Record:
        if ttl is None:
            return Record.put(key, check_value(value), expires_at=expires_at)
        if expires_at is not None:
            raise UsageError("give ttl or expires_at, not both")
        if isinstance(ttl, bool) or not isinstance(ttl, int | float) or not 0 < ttl < 1 << 33:
            raise UsageError(f"ttl must be a number of seconds over 0, not {ttl!r:.40}")
        now_ns = self._fold.current.now_ns()
        return Record(key, check_value(value), expires_at_ns=now_ns + round(ttl * 1e9))

    def compare_and_set(
        self,
        key: bytes,
        expected: bytes | None,
        value: bytes | None,
        *,
        ttl: float | None = None,
        sync: bool = False,
    ) -> bool:
        """Set `key` to `value` (None: remove it) if it is `expected` (None: not there) now; whether
        it was. Of many that try at once, in all processes, one wins."""
        check_key(key)
        expected = None if expected is None else check_value(expected)
        change = Record.delete(key) if value is None else self._record(key, value, ttl, None)
        won = False

        def decide(state: State) -> list[Record]:
            nonlocal won
            won = state.get(key) == expected
            return [change] if won and not value is expected is None else []

        self._fold.command(decide, durable=sync or None)
        return won

    def increment(
        self, key: bytes, by: int = 1, *, ttl: float | None = None, sync: bool = False
    ) -> int:
        """Add to a number, kept as decimal digits; the sum. No value counts as 0, and is given the
        `ttl`; a value that is there keeps its own expiry. UsageError for what is not a number."""
        check_key(key)
        if isinstance(by, bool) or not isinstance(by, int):
            raise NotBytesError(f"by must be a whole number, not {type(by).__name__}")
        total = 0

        def decide(state: State) -> list[Record]:
            nonlocal total
            value = state.get(key)
            total = _number(key, value) + by
            if value is None:
                return [self._record(key, b"%d" % total, ttl, None)]
            return [Record(key, b"%d" % total, expires_at_ns=state.expiries.get(key))]

        self._fold.command(decide, durable=sync or None)
        return total

    def watch(
        self, prefix: bytes = b"", *, position: int | None = None, timeout: float | None = None
    ) -> Watch:
        """The changes to keys that begin with `prefix`, by any process, from now on or from
        `position`: an iterator of `Change`, which waits for more, at most `timeout` seconds for
        each record of the log (None: for ever). Expiry is not a change. PrunedError when a
        checkpoint overtakes it: read the store again, and go on from there."""
        start = self.position if position is None else position
        return Watch(self._fold, check_key(prefix), start, timeout)

    def prefixed_db(self, prefix: bytes) -> PrefixedStore:
        """The part of the store whose keys begin with `prefix`, which is left out of its keys."""
        return PrefixedStore(self, prefix)

    def text(self, encoding: str = "utf-8") -> TextStore:
        """The same store for keys and values that are text."""
        from .encoded import TextStore

        return TextStore(self, encoding)

    # --- Care ---

    def check_state(self) -> None:
        """The part of `check` that looks at memory alone."""
        with self._fold.lock:
            state = self._fold.state().copy()
            now_ns = state.now_ns()
            state.clock = lambda: now_ns  # nothing expires while we look
            known = state.expiries.keys() <= state.items.keys()
            if not known or state.keys_in_order() != sorted(
                k for k in state.items if state.get(k) is not None
            ):
                raise DamageError("the keys are out of order in memory", path=self.name)

    def stats(self) -> dict[str, Any]:
        """Numbers for people and dashboards: the fold's, and how many keys there are."""
        return {**self._fold.stats(), "keys": len(self)}


def _number(key: bytes, value: bytes | None) -> int:
    try:
        return int(value or b"0")
    except ValueError:
        raise UsageError(f"the value of {key!r:.60} is not a number: {value!r:.40}") from None
