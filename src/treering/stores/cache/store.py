"""The cache: commands and queries."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from treering import FsyncPolicy, Record, UsageError
from treering.fold import Fold

from .keys import KEY_BYTES_MAX, Key, decode_key, encode_key
from .memo import Memoizing
from .records import CLEAR, check_ttl, evict_record, gone_record
from .state import ENTRY_BYTES, State
from .usage import NOTED_MAX, Usage
from .values import (
    TAGGED,
    Codec,
    body,
    check_tag,
    check_tags,
    decode,
    encode,
    tagged,
    whole_number,
)
from .victims import check_policy, named

_MISSING: Any = object()


class Cache(Memoizing):
    """A cache in a directory, in memory as a whole; it survives restarts. Thread-safe; several
    processes may have it open at once, and each sees what the others did with its next call.

    `size_bytes_max` (default 256 MiB) bounds the entries: each counts its key, its value and 400
    bytes, and 600 for each of its tags. When a call that sets something returns, the cache is
    within the bound; what was over it was evicted by that call: what is over its time first, then
    by `eviction`: "lru" what is unused the longest, "lfu" what is used least, where old uses fade;
    with "none" nothing is evicted, and the call raises CacheFullError instead. Every process should
    give the same bound and policy: each keeps to its own.

    What was used: setting is in the log; reading is noted in memory by each process, and told to
    the others in one small record when 256 entries were noted, after a miss (at most once a
    second), when it evicts, and at `close`; only if the cache is at least half full. So eviction
    knows exactly what its own process used since then, and roughly what the others did. What a
    call sets itself it evicts last. On a full disk the next call that sets something evicts.

    `codec` carries values that are not bytes, text, numbers, bool, None, nor lists and dicts that
    JSON can carry unchanged. `fsync_policy` is OS by default: what was set survives the death of
    the process at once, a power cut may take the last seconds (never something in the middle).
    A snapshot is made every 60 s of changes (`checkpoint_seconds`) or 64 MiB (`checkpoint_bytes`).
    Further options are those of `treering.Wal.open`.

    Keys are text, bytes, whole numbers, or tuples of these; 1, "1" and b"1" are three keys.
    Every call raises what the log raises: ClosedError, ForkedError, FailedError, StorageError,
    DamageError; every command also DiskFullError and TooLargeError (nothing was changed) and
    ReadOnlyError; what is no key, value, tag or time is a UsageError.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        size_bytes_max: int = 256 << 20,
        eviction: str = "lru",
        codec: Codec | None = None,
        fsync_policy: FsyncPolicy = FsyncPolicy.OS,
        exclusive: bool = False,
        read_only: bool = False,
        checkpoint_seconds: float | None = 60,
        **options: Any,
    ) -> None:
        self._bound, self._policy = _check_bound(size_bytes_max), check_policy(eviction)
        self._codec = codec
        self._used = Usage(self._policy, self._bound)
        fold = Fold(
            path,
            partial(State, options.get("clock") or time.time_ns),
            own=True,
            fsync_policy=fsync_policy,
            exclusive=exclusive,
            read_only=read_only,
            checkpoint_seconds=checkpoint_seconds,
            **options,
        )
        self._stand_on(fold, read_only)
        self._log = fold
        self._begin_memoizing()

    # --- Queries: from memory, after a look whether others wrote something ---

    def get(self, key: Key, default: Any = None) -> Any:
        """The value of `key`, or `default`: O(size). A list or dict is the caller's own."""
        coded = b"s" + key.encode() if type(key) is str and key.isascii() else encode_key(key)
        state = self._log.state()
        if state.expiries and coded in state.expiries:
            raw = state.get(coded)
        else:
            raw = state.items.get(coded)
        if raw is None:
            self._missed()
            return default
        noted = self._used.noted
        noted[coded] = noted.pop(coded, 0) + 1
        if len(noted) >= NOTED_MAX:
            self._tell()
        return raw[1:] if raw[0] == 98 else decode(raw, self._codec)  # bytes at once

    def __getitem__(self, key: Key) -> Any:
        value = self.get(key, _MISSING)
        if value is _MISSING:
            raise KeyError(key)
        return value

    def get_many(self, keys: Iterable[Key]) -> dict[Any, Any]:
        """The values of those of the keys that are there."""
        found = ((key, self.get(key, _MISSING)) for key in keys)
        return {key: value for key, value in found if value is not _MISSING}

    def __contains__(self, key: object) -> bool:
        """Whether it has a value; that does not count as a use."""
        return self._log.state().get(encode_key(key)) is not None

    def __len__(self) -> int:
        """How many keys have a value: O(keys with an expiry)."""
        with self._log.lock:
            state = self._log.state()
            return len(state.items) - len(state.over())

    def __iter__(self) -> Iterator[Any]:
        """The keys of this moment, the longest unused first as far as the log knows; O(keys)."""
        with self._log.lock:
            state = self._log.state()
            coded = [key for key in state.items if state.get(key) is not None]
        return map(decode_key, coded)

    def expires_at(self, key: Key) -> float | None:
        """When it expires, in seconds since 1970; None: never. KeyError if it is not there."""
        coded = encode_key(key)
        with self._log.lock:
            state = self._log.state()
            if state.get(coded) is None:
                raise KeyError(key)
            expiry = state.expiries.get(coded)
        return None if expiry is None else expiry / 1e9

    @property
    def position(self) -> int:
        """How many records the log has seen."""
        return self._log.wal.current_position()

    # --- Commands: written at return ---

    def set(
        self, key: Key, value: Any, *, ttl: float | None = None, tags: Iterable[str] = ()
    ) -> None:
        """Set `key`; with `ttl` (seconds) only until then, with `tags` until one of them is
        evicted. What it had before, also its expiry and tags, is replaced. O(size), and O(entries)
        now and then to evict."""
        coded = b"s" + key.encode() if type(key) is str and key.isascii() else encode_key(key)
        raw = b"b" + value if type(value) is bytes else encode(value, self._codec)
        if tags != ():
            raw = tagged(raw, check_tags(tags))
        size = len(coded) + len(raw) + ENTRY_BYTES
        if size > self._bound or raw[0] == TAGGED or len(coded) > KEY_BYTES_MAX:
            encode_key(key)
            self._check_size(coded, raw)
        ttl_ns = None if ttl is None else check_ttl(ttl)
        if self._policy == "none":
            self._put(coded, raw, ttl_ns)
            return
        fold, expiry = self._log, None
        with fold.lock:
            if ttl_ns is None:
                position = fold.wal.put(coded, raw)
            else:
                expiry = _until(fold.state(), ttl_ns)
                position = fold.wal.append(Record(coded, raw, expires_at_ns=expiry))
            state = fold.current  # only now: a signal's handler may have loaded it anew
            if position == fold.position:  # so nothing came in between
                state.set(coded, raw, expiry, state.clock())
                fold.position = position + 1
                fold.pace.count(1, size - ENTRY_BYTES)
            else:
                state = fold.state()
        used = self._used
        used.sets += 1
        noted = used.noted
        noted[coded] = noted.pop(coded, 0)
        if state.size > self._bound or state.torn:
            self._make_room((coded,))
        elif len(noted) >= NOTED_MAX:
            self._tell()
        if fold.always:
            fold.wal.wait_durable(position)

    def __setitem__(self, key: Key, value: Any) -> None:
        self.set(key, value)

    def _put(self, coded: bytes, raw: bytes, ttl_ns: int | None) -> None:
        self._command(lambda state: [Record(coded, raw, expires_at_ns=_until(state, ttl_ns))])
        self._used.sets += 1

    def set_many(
        self,
        items: Mapping[Any, Any] | Iterable[tuple[Any, Any]],
        *,
        ttl: float | None = None,
        tags: Iterable[str] = (),
    ) -> None:
        """Set all of them, atomically. TooLargeError over `batch_bytes_max` (64 MiB)."""
        ttl_ns = None if ttl is None else check_ttl(ttl)
        checked = check_tags(tags)
        pairs = items.items() if isinstance(items, Mapping) else items
        found: dict[bytes, bytes] = {}
        for key, value in pairs:
            coded = encode_key(key)
            found[coded] = self._check_size(coded, tagged(encode(value, self._codec), checked))
        self._command(
            lambda state: [
                Record(coded, raw, expires_at_ns=_until(state, ttl_ns))
                for coded, raw in found.items()
            ]
        )
        self._used.sets += len(found)

    def add(
        self, key: Key, value: Any, *, ttl: float | None = None, tags: Iterable[str] = ()
    ) -> bool:
        """As `set`, but only if `key` has no value; whether. Of many that try, one gets True."""
        coded, ttl_ns = encode_key(key), None if ttl is None else check_ttl(ttl)
        raw = self._check_size(coded, tagged(encode(value, self._codec), check_tags(tags)))

        def decide(state: State) -> list[Record]:
            if state.get(coded) is not None:
                return []
            return [Record(coded, raw, expires_at_ns=_until(state, ttl_ns))]

        added = bool(self._command(decide))
        self._used.sets += added
        return added

    def touch(self, key: Key, ttl: float | None = None) -> bool:
        """Give `key` another `ttl` from now (None: for ever); whether it has a value. The value is
        written again, so O(size)."""
        coded, ttl_ns = encode_key(key), None if ttl is None else check_ttl(ttl)

        def decide(state: State) -> list[Record]:
            raw = state.get(coded)
            return [] if raw is None else [Record(coded, raw, expires_at_ns=_until(state, ttl_ns))]

        return bool(self._command(decide))

    def incr(self, key: Key, by: int = 1, default: int = 0, *, ttl: float | None = None) -> int:
        """Add to a whole number; the sum. If there is none, `default` is what is added to, and the
        sum gets the `ttl`; one that is there keeps its expiry and tags."""
        coded, ttl_ns = encode_key(key), None if ttl is None else check_ttl(ttl)
        for name, number in (("by", by), ("default", default)):
            if type(number) is not int:
                raise UsageError(f"{name} must be a whole number, not {type(number).__name__}")
        total = 0

        def decide(state: State) -> list[Record]:
            nonlocal total
            raw = state.get(coded)
            total = by + (default if raw is None else whole_number(key, raw, self._codec))
            before = b"" if raw is None else raw[: len(raw) - len(body(raw))]
            new = self._check_size(coded, before + encode(total, None))
            expiry = _until(state, ttl_ns) if raw is None else state.expiries.get(coded)
            return [Record(coded, new, expires_at_ns=expiry)]

        self._command(decide)
        self._used.sets += 1
        return total

    def pop(self, key: Key, *default: Any) -> Any:
        """Remove `key` and return its value: exactly one of many processes gets it. KeyError if
        there is none and no default is given."""
        found = self._remove(key, lambda raw: decode(raw, self._codec))
        if found is not _MISSING:
            return found
        if default:
            return default[0]
        raise KeyError(key)

    def delete(self, key: Key) -> bool:
        """Remove `key`; whether it had a value. Who is computing it now will not set it."""
        return self._remove(key, len) is not _MISSING

    def __delitem__(self, key: Key) -> None:
        if not self.delete(key):
            raise KeyError(key)

    def _remove(self, key: Key, look: Callable[[bytes], Any]) -> Any:
        """What `look` makes of the value before it goes; _MISSING if there is none."""
        coded, found = encode_key(key), _MISSING

        def decide(state: State) -> list[Record]:
            nonlocal found
            raw = state.get(coded)
            found = _MISSING if raw is None else look(raw)
            held = coded in state.items or coded in state.leases
            return [Record.delete(coded)] if held else []

        self._log.command(decide)
        return found

    def clear(self) -> None:
        """Remove everything, atomically; one small record."""
        self._log.append([CLEAR])

    def evict(self, tag: str) -> int:
        """Remove all entries that have the tag, atomically; how many. One small record. Who is
        computing one of them now will not set it."""
        coded, count = check_tag(tag), 0

        def decide(state: State) -> list[Record]:
            nonlocal count
            state.mend()
            keys = state.tags.get(coded, set())
            count = sum(1 for key in keys if state.get(key) is not None)
            leased = any(coded in lease.tags for lease in state.leases.values())
            return [evict_record(coded)] if keys or leased else []

        self._log.command(decide)
        return count

    def expire(self) -> int:
        """Remove what is over from memory now, rather than with the next record that comes after
        its time; how many entries. It is not shown in any case."""
        over: list[bytes] = []
        gone = set[bytes]()

        def decide(state: State) -> list[Record]:
            nonlocal over
            over = state.over()
            return [gone_record(named(over), state.age)] if over else []

        while self._log.command(decide, durable=False):
            gone.update(over)  # the record is later than they, so all leave, named or not
        return len(gone)

    # --- Care ---

    def check_state(self) -> None:
        """The part of `check` that looks at memory alone."""
        with self._log.lock:
            state = self._log.state()
            state.check()
            for coded, raw in state.items.items():
                decode_key(coded)
                body(raw)

    def stats(self) -> dict[str, Any]:
        """The fold's numbers; `keys`, `size_bytes` and its bound; `hits`, `misses`, `sets` and
        `evictions` of this process since it opened the cache, and as `told` those of all processes
        ever, as far as they told (a process that is killed takes some with it)."""
        hits, misses, sets, evictions = self._used.counts
        with self._log.lock:
            state = self._log.state()
            state.mend()
            return {
                **self._log.stats(),
                "keys": len(self),
                "size_bytes": state.size,
                "size_bytes_max": self._bound,
                "hits": hits,
                "misses": misses,
                "sets": sets,
                "evictions": evictions,
                "told": dict(zip(("hits", "misses", "sets", "evictions"), state.told, strict=True)),
            }

    def close(self) -> None:
        """Tell what was used, make everything durable and let go of the log; idempotent."""
        if not self.closed:
            self._tell(last=True)
        super().close()


def _check_bound(size: Any) -> int:
    if type(size) is not int or not 1024 <= size < 1 << 62:
        raise UsageError(f"size_bytes_max must be a number of bytes, 1024 at least: {size!r:.40}")
    return size


def _until(state: State, ttl_ns: int | None) -> int | None:
    return None if ttl_ns is None else state.now_ns() + ttl_ns
