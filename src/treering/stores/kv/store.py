"""The store: commands and queries."""

from __future__ import annotations

import os
from collections.abc import Iterator, MutableMapping
from types import TracebackType
from typing import Any

from treering import DamageError, FsyncPolicy, Record, UsageError
from treering.fold import Fold

from .iterating import KeyIterator, View, check_key, span
from .prefixed import PrefixedStore
from .state import State
from .writing import WriteBatch


class KeyValueStore(MutableMapping[bytes, bytes]):
    """A dict of bytes in a directory. Thread-safe; several processes may have it open at once, and
    each sees what the others wrote with its next call.

    `fsync_policy` (default ALWAYS: durable when the call returns) and `sync=True` of single calls
    as for the log; `exclusive=True` is quickest and keeps others out. `checkpoint_bytes`: how many
    bytes of changes between two snapshots (None: only `checkpoint()` makes them). Further options
    are those of `treering.Wal.open`. Keys are at most 65,535 bytes. Raises what the log raises.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        fsync_policy: FsyncPolicy = FsyncPolicy.ALWAYS,
        exclusive: bool = False,
        read_only: bool = False,
        checkpoint_bytes: int | None = 64 << 20,
        **options: Any,
    ) -> None:
        self._fold = Fold(
            path,
            State,
            fsync_policy=fsync_policy,
            checkpoint_bytes=None if read_only else checkpoint_bytes,
            exclusive=exclusive,
            read_only=read_only,
            **options,
        )
        self.read_only = read_only
        # Nobody else can append, so what we have taken in is all there is.
        self._alone = exclusive
        self._waits = fsync_policy == FsyncPolicy.ALWAYS

    # --- Queries ---

    def get(self, key: bytes, default: Any = None, **_: Any) -> Any:
        """The value of `key`, or `default`. From memory: O(1). Keywords of plyvel are ignored."""
        fold = self._fold
        state = fold.current if self._alone else fold.state()
        value = state.items.get(key)
        if value is None:
            check_key(key)
            return default
        if state.expiries and state.expired(key):
            return default
        return value

    def __getitem__(self, key: bytes) -> bytes:
        value: bytes | None = self.get(key)
        if value is None:
            raise KeyError(key)
        return value

    def __contains__(self, key: object) -> bool:
        return isinstance(key, bytes) and self.get(key) is not None

    def __len__(self) -> int:
        state = self._fold.state()
        if not state.expiries:
            return len(state.items)
        return sum(1 for key in state.items if not state.expired(key))

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.iterator(include_value=False))

    def iterator(
        self,
        reverse: bool = False,
        start: bytes | None = None,
        stop: bytes | None = None,
        include_start: bool = True,
        include_stop: bool = False,
        prefix: bytes | None = None,
        include_key: bool = True,
        include_value: bool = True,
        **_: Any,
    ) -> KeyIterator:
        """Keys and values in the order of the keys, as they are now: later changes do not show."""
        with self._fold.lock:
            state = self._fold.state()
            keys = state.keys_in_order()
            chosen_span = span(keys, start, stop, include_start, include_stop, prefix)
            if include_value or state.expiries:
                chosen = [key for key in keys[chosen_span] if not state.expired(key)]
                values = {key: state.items[key] for key in chosen}
            else:
                chosen, values = keys[chosen_span], {}
        return KeyIterator(chosen, values, reverse, include_key, include_value)

    def raw_iterator(self, **options: Any) -> KeyIterator:
        """As `iterator`."""
        return self.iterator(**options)

    def snapshot(self) -> View:
        """The store as it is now, read-only: O(number of keys) for a copy of the references."""
        state, position = self._fold.copy()
        return View(state, position)

    def at(self, position: int | None = None, time: Any = None) -> View:
        """The store as it was when the log ended at `position`, or at a time. PrunedError when a
        checkpoint has removed what that takes."""
        state = self._fold.at(position, time)
        return View(state, position)

    # --- Commands ---

    def put(
        self,
        key: bytes,
        value: bytes,
        *,
        sync: bool = False,
        ttl: float | None = None,
        expires_at: float | None = None,
    ) -> None:
        """Set `key` to `value`; with `ttl` (seconds) or `expires_at` only until then."""
        fold = self._fold
        with fold.lock:
            if ttl is None and expires_at is None:
                position = fold.wal.put(key, value)
                if position == fold.position:
                    fold.current.set(key, value if type(value) is bytes else bytes(value))
                    fold.position += 1
                    fold.took_in(len(key) + len(value))
            else:
                position = fold.wal.put(key, value, ttl=ttl, expires_at=expires_at)
            if self._alone:
                fold.state()
        if sync or self._waits:
            fold.wal.wait_durable(position)

    def delete(self, key: bytes, *, sync: bool = False) -> None:
        """Remove `key`; nothing happens if it is not there. (`del store[key]` raises KeyError.)"""
        fold = self._fold
        with fold.lock:
            position = fold.wal.delete(key)
            if position == fold.position:
                fold.current.remove(key)
                fold.position += 1
                fold.took_in(len(key))
            if self._alone:
                fold.state()
        if sync or self._waits:
            fold.wal.wait_durable(position)

    def __setitem__(self, key: bytes, value: bytes) -> None:
        self.put(key, value)

    def __delitem__(self, key: bytes) -> None:
        self.pop(key)

    def pop(self, key: bytes, *default: Any) -> Any:
        """Remove `key` and return its value: exactly one of many processes gets it."""
        found: list[bytes] = []

        def decide(state: State) -> list[Record]:
            value = state.get(check_key(key))
            found[:] = [] if value is None else [value]
            return [Record.delete(key)] if found else []

        self._fold.command(decide)
        if found:
            return found[0]
        if default:
            return default[0]
        raise KeyError(key)

    def popitem(self) -> tuple[bytes, bytes]:
        """Remove and return one key and its value; KeyError when there is none."""
        for key in self:
            value = self.pop(key, None)
            if value is not None:
                return key, value
        raise KeyError("the store is empty")

    def setdefault(self, key: bytes, default: bytes = b"") -> bytes:
        """The value of `key`; if there is none, `default`, which is set, once for all processes."""
        found = default

        def decide(state: State) -> list[Record]:
            nonlocal found
            value = state.get(check_key(key))
            found = default if value is None else value
            return [Record.put(key, default)] if value is None else []

        self._fold.command(decide)
        return found

    def clear(self) -> None:
        """Remove everything, atomically."""
        self._fold.command(lambda state: [Record.delete(key) for key in state.items])

    def update(self, *others: Any, **more: Any) -> None:
        """As a dict's; all of it or nothing."""
        if more:
            raise UsageError("keys are bytes, so they cannot be keywords")
        with self.write_batch() as batch:
            for other in others:
                pairs = other.items() if hasattr(other, "items") else other
                for key, value in pairs:
                    batch.put(key, value)

    def write_batch(self, *, transaction: bool = True, sync: bool = False) -> WriteBatch:
        """A context manager that collects puts and deletes and writes them atomically at its end;
        nothing if the block raises (with transaction=False, what was collected until then)."""
        return WriteBatch(self._write, transaction=transaction, sync=sync)

    def _write(self, records: list[Record], sync: bool) -> None:
        self._fold.append(records, durable=sync)
        if self._alone:
            self._fold.state()

    def compare_and_set(
        self, key: bytes, expected: bytes | None, value: bytes | None, *, sync: bool = False
    ) -> bool:
        """Set `key` to `value` (None: remove it) if it is `expected` (None: not there) now; whether
        it was. Of many that try at once, in all processes, one wins."""
        won = False

        def decide(state: State) -> list[Record]:
            nonlocal won
            won = state.get(check_key(key)) == expected
            if not won or (value is None and expected is None):
                return []
            return [Record.delete(key) if value is None else Record.put(key, value)]

        self._fold.command(decide, durable=sync)
        return won

    def increment(self, key: bytes, by: int = 1, *, sync: bool = False) -> int:
        """Add to a number, kept as decimal digits (no value counts as 0); the sum."""
        total = 0

        def decide(state: State) -> list[Record]:
            nonlocal total
            total = _number(key, state.get(check_key(key))) + by
            return [Record.put(key, b"%d" % total)]

        self._fold.command(decide, durable=sync)
        return total

    def watch(self, prefix: bytes = b"", *, timeout: float | None = None) -> Iterator[Record]:
        """The changes from now on to keys that begin with `prefix`, by any process: records whose
        `tombstone` tells a delete from a put. Blocks while there is none, at most `timeout`
        seconds for each change in the log."""
        reader = self._fold.wal.read_from(
            self._fold.wal.current_position(), follow=True, timeout=timeout
        )
        return (record for record in reader if record.key.startswith(prefix))

    def prefixed_db(self, prefix: bytes) -> PrefixedStore:
        """The part of the store whose keys begin with `prefix`, which is left out of its keys."""
        return PrefixedStore(self, check_key(prefix))

    # --- Care ---

    def checkpoint(self) -> None:
        """Write a snapshot and drop the log that nobody needs any more. See `Fold.checkpoint`."""
        self._fold.checkpoint()

    def sync(self) -> None:
        """Make everything durable."""
        self._fold.wal.sync()

    def check(self) -> None:
        """Walk all invariants: the log's, the snapshots', and that both give this state."""
        self._fold.check()
        with self._fold.lock:
            state = self._fold.state()
            if state.keys_in_order() != sorted(state.items):
                raise DamageError("the keys are out of order in memory", path=self.name)

    def stats(self) -> dict[str, Any]:
        """Numbers for people and dashboards: the fold's, and how many keys there are."""
        return {**self._fold.stats(), "keys": len(self)}

    @property
    def name(self) -> str:
        """The directory."""
        return self._fold.wal.path

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._fold.wal.closed

    def close(self) -> None:
        """Make everything durable and let go of the log; idempotent."""
        self._fold.close()

    def __enter__(self) -> KeyValueStore:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<treering.stores.kv.KeyValueStore {self.name!r}{' closed' if self.closed else ''}>"


def _number(key: bytes, value: bytes | None) -> int:
    try:
        return int(value or b"0")
    except ValueError:
        raise UsageError(f"the value of {key!r:.60} is not a number: {value!r:.40}") from None
