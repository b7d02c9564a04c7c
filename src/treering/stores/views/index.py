"""The index: its queries."""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import Any, cast

from treering import DamageError, PositionError, PrunedError, Record, RewoundError, UsageError, Wal
from treering.fold.kit import after, moment

from .compacting import compact
from .following import Following, Progress
from .several import KeyFunction, Several
from .state import Newest, State

# So many records are looked up at once where there are many.
BLOCK = 256
# How often a look-up begins anew because the log changed under it.
_TRIES = 10


class Index(Following[State]):
    """Random access to a log: keys in memory, values in the log. Thread-safe; any number of
    processes may have one of the same log, beside its writers.

    `log` is an open `Wal`, or the path of one, which is then opened read-only. The index never
    writes to it. Of each key the newest record counts; a tombstone removes it, and so does its
    expiry, the log's truncation, or a tombstone with the header `treering-clear` (a key-value
    store's `clear`).

    `key` makes it an index over something else: a function of a record (never a tombstone) that
    returns bytes, several in a list, or None. Then a key has all records for which the function
    gave it; with `latest=True` only those that no later record with the same key of its own has
    replaced or removed. It must depend on the record alone; when you change it, raise `version`.
    `stream` chooses the records of one store in a log that several share.

    With `path` a directory of the index's own keeps snapshots: opening then reads only what is new.
    One that does not belong to the log as it is now is made anew, and `trouble` says so. A snapshot
    is kept after every `checkpoint_records` records, in the background, and when it is closed.
    `progress(done, in all)` is called now and then while many records are read. Further options are
    those of `Wal.open` for that directory. Opening blocks until all is read.

    Every query sees what anybody wrote before. Raises UsageError, LogNotFoundError, and what the
    log raises: ClosedError, DamageError, StorageError, VersionError.
    """

    def __init__(
        self,
        log: Wal | str | os.PathLike[str],
        path: str | os.PathLike[str] | None = None,
        *,
        key: KeyFunction | None = None,
        latest: bool = False,
        version: int = 1,
        stream: int | None = None,
        progress: Progress | None = None,
        checkpoint_records: int | None = 1_000_000,
        **options: Any,
    ) -> None:
        if key is not None and not callable(key):
            raise UsageError("key is a function of a record", hint="Without it the record's key is")
        if latest and key is None:
            raise UsageError("latest is for an index with a key function: without it always so")
        _check_number(version, "version", 1)
        if stream is not None:
            _check_number(stream, "stream", 0)
        kind = b"%s, version %d, stream %d" % (
            b"newest" if key is None else b"latest" if latest else b"all",
            version,
            -1 if stream is None else stream,
        )

        def new() -> State:
            if key is None:
                return Newest(kind, stream)
            return Several(kind, stream, key, latest)

        self._plain = key is None
        super().__init__(
            log,
            path,
            new,
            copies=not self._plain,
            progress=progress,
            checkpoint_records=checkpoint_records,
            options=options,
        )

    # --- One key ----------------------------------------------------------------------------------

    def get(self, key: bytes, default: Any = None) -> Any:
        """The value of the newest record of `key`, or `default`: one look-up in memory, and one or
        two reads of the log."""
        record = self.record(key)
        return default if record is None else record.value

    def __getitem__(self, key: bytes) -> bytes:
        record = self.record(key)
        if record is None:
            raise KeyError(key)
        return cast(bytes, record.value)

    def record(self, key: bytes) -> Record | None:
        """The newest record of `key`, with its time, headers and position; None if there is none.
        Costs as `get`."""
        if type(key) is not bytes:
            _check_key(key)
        if self._plain:
            position = self.state().newest(key)
            if position is None:
                return None
            try:
                record = self.wal.read(position)
            except (PrunedError, PositionError, RewoundError):
                pass  # the log was truncated meanwhile
            else:
                if record.key == key:
                    expiry = record.expires_at_ns
                    return None if expiry is not None and expiry <= self.now_ns() else record
        return self._look_up([key])[0]

    def position(self, key: bytes) -> int | None:
        """Of the newest record of `key`; None if there is none. From memory."""
        places = self.positions(key)
        return places[-1] if places else None

    def positions(self, key: bytes) -> list[int]:
        """Of all records of `key`, the oldest first; without a key function at most one. From
        memory."""
        _check_key(key)
        self.state()
        with self.lock:
            return self.current.positions(key, self.now_ns())

    def records(self, key: bytes) -> Iterator[Record]:
        """All records of `key` that there are now, the oldest first; read in blocks of 256. What
        truncation removes meanwhile is left out; RewoundError if it takes records back."""
        _check_key(key)
        self.state()
        with self.lock:
            places, rewinds = self.current.positions(key, self.now_ns()), self._rewinds
        for start in range(0, len(places), BLOCK):
            yield from self._still_there(places[start : start + BLOCK], rewinds)

    def __contains__(self, key: object) -> bool:
        return bool(self.positions(cast(bytes, key)))

    # --- Many keys --------------------------------------------------------------------------------

    def get_many(self, keys: Iterable[bytes], default: Any = None) -> list[Any]:
        """The values of these keys, in their order, `default` for those that have none. Reads those
        that lie near each other together: quicker than one `get` after the other."""
        found = self._look_up([_check_key(key) for key in _many(keys)])
        return [default if record is None else record.value for record in found]

    def keys(
        self,
        prefix: bytes | None = None,
        *,
        start: bytes | None = None,
        stop: bytes | None = None,
        reverse: bool = False,
    ) -> list[bytes]:
        """The keys in order: all, those that begin with `prefix`, or those from `start` on and
        before `stop`. From memory: O(keys between the bounds), and O(n log n) the first time."""
        if prefix is not None:
            if start is not None or stop is not None:
                raise UsageError("give a prefix, or start and stop, not both")
            start, stop = _check_key(prefix), after(prefix)
        self.state()
        with self.lock:
            state, now_ns = self.current, self.now_ns()
            found = state.keys()
            low = 0 if start is None else bisect_left(found, _check_key(start))
            high = len(found) if stop is None else bisect_left(found, _check_key(stop))
            chosen = found[low : max(low, high)]
            if state.expiries:
                chosen = [key for key in chosen if state.positions(key, now_ns)]
        return chosen[::-1] if reverse else chosen

    def items(
        self,
        prefix: bytes | None = None,
        *,
        start: bytes | None = None,
        stop: bytes | None = None,
        reverse: bool = False,
    ) -> Iterator[tuple[bytes, bytes]]:
        """Keys, as `keys`, and the values of their newest records, read in blocks of 256: not one
        moment, but each value is one that its key has had since the call."""
        keys = self.keys(prefix, start=start, stop=stop, reverse=reverse)
        for at in range(0, len(keys), BLOCK):
            block = keys[at : at + BLOCK]
            for key, record in zip(block, self._look_up(block), strict=True):
                if record is not None:
                    yield key, cast(bytes, record.value)

    def values(self, prefix: bytes | None = None) -> Iterator[bytes]:
        """The values that `items` gives."""
        return (value for _, value in self.items(prefix))

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.keys())

    def __len__(self) -> int:
        state = self.state()
        return len(self.keys()) if state.expiries else len(state.table)

    # --- Looking up -------------------------------------------------------------------------------

    def _look_up(self, keys: list[bytes]) -> list[Record | None]:
        """The newest records of these keys. Begun anew if the log is truncated meanwhile."""
        for _ in range(_TRIES):
            self.state()
            with self.lock:
                state, rewinds, now_ns = self.current, self._rewinds, self.now_ns()
                places = {key: state.positions(key, now_ns)[-1:] for key in keys}
            wanted = sorted({place[0] for place in places.values() if place})
            try:
                records = dict(zip(wanted, self.wal.read_many(wanted), strict=True))
            except (PrunedError, PositionError, RewoundError):
                continue
            if moment(self.wal).rewinds != rewinds:
                continue
            found = [records[places[key][0]] if places[key] else None for key in keys]
            if not self._plain or all(
                record is None or record.key == key for key, record in zip(keys, found, strict=True)
            ):
                return found
            self._distrust()
        raise DamageError(
            "the index and the log do not agree",
            path=self.name,
            hint="Is the log truncated all the time? Otherwise make the index anew",
        )

    def _distrust(self) -> None:
        """A record has another key than the index says: the log is not the one that we knew."""
        with self.lock:
            self._begin(self._new())
        self.note("made anew: a record had another key than the index said")

    def _still_there(self, places: list[int], rewinds: int) -> list[Record]:
        for _ in range(_TRIES):
            first = self.wal.first_position
            try:
                found = self.wal.read_many([place for place in places if place >= first])
            except PrunedError:
                continue
            except (PositionError, RewoundError):
                break
            if moment(self.wal).rewinds == rewinds:
                return found
            break
        raise RewoundError(
            "truncate_after removed records while they were read",
            path=self.name,
            hint="Ask for them again",
        )

    # --- Care -------------------------------------------------------------------------------------

    def compact(self, wal: Wal, *, until: int | None = None) -> int:
        """Make the log small: append the newest records of all keys that lie before `until`
        (default: the end) again, then truncate before it; the new first position. For a log that is
        a map from keys to values and yours to change, through `wal`, a handle that may write.

        What is not the newest of its key, and what has expired by the log's own time, is gone
        then; so is the log as it was at earlier positions. Others may write meanwhile: nothing of
        theirs is overtaken. The copies are durable before anything is removed, so a crash at any
        point leaves at worst some records twice. Blocks; reads the log up to `until`, writes what
        is alive. UsageError for an index with a key function or a stream, and for a log that a
        store or several share; DiskFullError, FailedError.
        """
        return compact(self, wal, until)

    def check(self) -> None:
        """Compare the index with the log, which is read as a whole; DamageError if it is not what
        the records come to."""
        self.wal.check()
        for _ in range(_TRIES):
            self.state()
            with self.lock:
                known = self.current.copy()
                fits = self.current.check()
            if not fits:
                raise DamageError("the index contradicts itself in memory", path=self.name)
            again = self._new()
            again.begin_at(known.began)
            try:
                records = self.wal.read_from(known.began, stop=known.reached, copy=self._copies)
                for record in records:
                    again.apply(record)
            except (PrunedError, PositionError, RewoundError):
                continue  # the log was truncated meanwhile
            again.newest_ns = known.newest_ns = max(again.newest_ns, known.newest_ns)
            if moment(self.wal).rewinds == self._rewinds and known.tells() != again.tells():
                raise DamageError(
                    "the index is not what the log's records come to",
                    path=self.name,
                    hint="Remove the index's directory: it is made anew",
                )
            return


def _check_key(key: Any) -> bytes:
    if not isinstance(key, bytes):
        raise UsageError(f"a key is bytes, not {type(key).__name__}", hint="Encode the text first")
    return key


def _many(keys: Any) -> Iterable[Any]:
    if isinstance(keys, bytes | str) or not isinstance(keys, Iterable):
        raise UsageError(f"give several keys, not {type(keys).__name__}", hint="get() is for one")
    return keys


def _check_number(number: Any, what: str, least: int) -> None:
    if isinstance(number, bool) or not isinstance(number, int) or not least <= number < 1 << 32:
        raise UsageError(f"{what} must be a whole number from {least} on, not {number!r:.40}")
