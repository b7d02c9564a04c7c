"""Several stores in one log: the records of each carry its stream number, so that one frame can
change them all."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any, Generic

from .._core.codec import Record
from .._core.errors import ConflictError, DamageError, UsageError
from .._core.wal import Wal
from ._fold import Fold
from ._state import Pair, S, State, placed

_NOT_NEEDED = 1 << 62


class Shared:
    """The states of several stores, by stream. Stream 0 is the catalogue: which stores there are.

    `make(kind)` gives an empty state for a store of that kind, or raises; `label` as of a state.
    """

    label = b"treering database 1"

    def __init__(self, make: Callable[[str], State]) -> None:
        self._make = make
        self.names: dict[str, tuple[str, int]] = {}  # of each store: its kind and its stream
        self.parts: dict[int, Any] = {}

    def entry(self, name: str, kind: str) -> Record:
        """The record that adds a store to the catalogue."""
        return _entry(name, kind, 1 + max(self.parts, default=0))

    def apply(self, record: Record) -> None:
        """Take in one record: the catalogue's, or a store's."""
        if record.stream == 0:
            self._add(record)
        else:
            self._part(record).apply(record)

    def _add(self, record: Record) -> None:
        kind, _, number = bytes(record.value).partition(b" ")
        if not number.isdigit() or len(number) > 10 or int(number) in self.parts:
            raise DamageError(
                f"this is no entry of a database's catalogue: {bytes(record.value)!r:.60}",
                position=record.position,
                hint="Is this directory another store's?",
            )
        name, stream = record.key.decode(errors="replace"), int(number)
        self.parts[stream] = self._make(kind.decode(errors="replace"))
        self.names[name] = (kind.decode(), stream)

    def _part(self, record: Record) -> Any:
        part = self.parts.get(record.stream)
        if part is None:
            raise DamageError(
                f"a record of stream {record.stream}, which the catalogue does not have",
                position=record.position,
                hint="Is this directory another program's log?",
            )
        return part

    def dump(self) -> Iterator[Record]:
        """The catalogue, then what each store dumps."""
        for name, (kind, stream) in self.names.items():
            yield _entry(name, kind, stream)
        for stream, part in self.parts.items():
            yield from stamped(part.dump(), stream)

    def load(self, record: Record) -> None:
        """Take in one record of a snapshot."""
        if record.stream == 0:
            self._add(record)
        else:
            self._part(record).load(record)

    def copy(self) -> Shared:
        """Another one that stays as this one is now."""
        other = Shared(self._make)
        other.names = self.names.copy()
        other.parts = {stream: part.copy() for stream, part in self.parts.items()}
        return other

    def empty(self, stream: int) -> Any:
        """An empty state of the same kind as that store's."""
        return self._make(next(kind for kind, found in self.names.values() if found == stream))

    def oldest_needed(self) -> int:
        """What the store needs that needs most."""
        asked = (getattr(part, "oldest_needed", None) for part in self.parts.values())
        return min((ask() for ask in asked if ask is not None), default=_NOT_NEEDED)


def _entry(name: str, kind: str, stream: int) -> Record:
    return Record(name.encode(), b"%s %d" % (kind.encode(), stream))


def stamped(records: Iterable[Record | Pair], stream: int) -> Iterator[Record]:
    """These records as that stream's."""
    for each in records:
        record = each if isinstance(each, Record) else Record(*each)
        yield record._placed(-1, 0, stream)


class Part(Generic[S]):
    """One store's part of a fold that is shared: a `Follower`. Within a transaction of this thread
    it shows, and changes, the transaction's state."""

    def __init__(self, host: Host, stream: int) -> None:
        self._host = host
        self._fold = host.fold
        self.stream = stream

    @property
    def wal(self) -> Wal:
        """The log that all share."""
        return self._fold.wal

    @property
    def lock(self) -> Any:
        """As the fold's."""
        return self._fold.lock

    @property
    def current(self) -> S:
        """As of a fold; in a transaction the transaction's."""
        mine = self._host.mine()
        return self._of(self._fold.current) if mine is None else mine.state(self.stream)

    @property
    def position(self) -> int:
        """As of a fold; in a transaction where its next record will be."""
        mine = self._host.mine()
        return self._fold.position if mine is None else mine.position

    @property
    def transaction(self) -> Transaction | None:
        """That of this thread."""
        return self._host.mine()

    def _of(self, whole: Shared) -> S:
        part: S = whole.parts[self.stream]
        return part

    def state(self) -> S:
        """As of a fold; in a transaction the transaction's."""
        mine = self._host.mine()
        return self._of(self._host.state()) if mine is None else mine.state(self.stream)

    def copy(self) -> tuple[S, int]:
        """A copy of the state, and its position."""
        with self.lock:
            return self.state().copy(), self.position

    def at(self, position: int | None = None, time: Any = None) -> S:
        """The state as it was; empty before the store was made."""
        whole = self._fold.at(position, time)
        if self.stream not in whole.parts:
            empty: S = self._fold.current.empty(self.stream)
            return empty
        return self._of(whole)

    def position_at(self, time: Any) -> int:
        """As the fold's."""
        return self._fold.position_at(time)

    def wait(self, timeout: float | None = None, *, position: int | None = None) -> bool:
        """As the fold's: records of the other stores wake it, too."""
        self._host.refuse_within("wait for others")
        return self._fold.wait(timeout, position=position)

    def command(
        self, decide: Callable[[S], Sequence[Record | Pair]], *, durable: bool | None = None
    ) -> range:
        """As of a fold; in a transaction it joins that."""
        mine, stream = self._host.mine(), self.stream
        if mine is not None:
            return mine.add(decide(mine.state(stream)), stream, durable)
        return self._fold.command(
            lambda whole: list(stamped(decide(self._of(whole)), stream)), durable=durable
        )

    def append(self, records: Sequence[Record | Pair], *, durable: bool | None = None) -> range:
        """As of a fold; in a transaction it joins that."""
        mine = self._host.mine()
        if mine is not None:
            return mine.add(records, self.stream, durable)
        return self._fold.append(list(stamped(records, self.stream)), durable=durable)

    def settle(self, position: int, durable: bool | None = None) -> None:
        """As the fold's; in a transaction, at its end."""
        mine = self._host.mine()
        if mine is None:
            self._fold.settle(position, durable)
        else:
            mine.owe(position, durable)

    def checkpoint(self) -> int:
        """Of all stores in the log."""
        self._host.refuse_within("make a checkpoint")
        return self._fold.checkpoint()

    def check(self) -> None:
        """Of all stores in the log."""
        self._host.refuse_within("check")
        self._fold.check()

    def stats(self) -> dict[str, Any]:
        """Of the log that all share."""
        return self._fold.stats()

    def close(self) -> None:
        """Nothing: the log is closed by whoever opened it."""


def _none() -> None:
    """No transaction."""


class Host:
    """A fold of several stores, and the transaction that one of its threads may have begun."""

    def __init__(self, fold: Fold[Shared]) -> None:
        self.fold = fold
        # Weak: an interrupt may keep a block from calling `__exit__`; it is then collected.
        self.transaction: Callable[[], Transaction | None] = _none
        _hosts.add(self)

    def mine(self) -> Transaction | None:
        """The transaction of this thread."""
        found = self.transaction()
        return found if found is not None and found.owner == threading.get_ident() else None

    def state(self) -> Shared:
        """The states as they are in the log. Within a transaction they stand still: its own state
        lies over them."""
        return self.fold.state() if self.mine() is None else self.fold.current

    def refuse_within(self, what: str) -> None:
        """UsageError in a transaction."""
        if self.mine() is not None:
            raise UsageError(
                f"a transaction cannot {what}: nothing of it is in the log yet",
                hint="Do it before the block or after it",
            )


_hosts: weakref.WeakSet[Host] = weakref.WeakSet()


def _forget_other_threads() -> None:
    """In a forked child: the thread of a transaction is gone, and a new one may get its number."""
    for host in list(_hosts):
        if host.mine() is None:
            host.transaction = _none


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_other_threads)


class Transaction:
    """Commands of one thread on several stores, appended as one frame at the end of a `with` block,
    if the log is then still as it was at the beginning (ConflictError); nothing if it raises."""

    def __init__(self, host: Host, durable: bool | None) -> None:
        self._host, self._fold = host, host.fold
        self._durable = durable
        self.owner = 0
        self.positions = range(0)

    def __enter__(self) -> Transaction:
        self._host.refuse_within("contain another one")
        fold, self._guard = self._fold, _hold(self._fold.lock)
        try:
            next(self._guard)
            fold.catch_up()
            self._whole, self.begun_at = fold.current, fold.position
            self._states: dict[int, Any] = {}
            self._records: list[Record] = []
            self._undo: list[Callable[[], object]] = []
            self._owed, self.positions = -1, range(0)
            self.owner = threading.get_ident()
            self._host.transaction = weakref.ref(self)
        except BaseException:
            self._guard.close()
            raise
        return self

    @property
    def position(self) -> int:
        """Where the next record will be."""
        return self.begun_at + len(self._records)

    def state(self, stream: int) -> Any:
        """One store's state with what the transaction did."""
        found = self._states.get(stream)
        if found is None:
            found = self._whole.parts[stream].scratch()
            for record in self._records:
                if record.stream == stream:
                    found.apply(record)
            self._states[stream] = found
        return found

    def add(
        self, records: Sequence[Record | Pair], stream: int, durable: bool | None = None
    ) -> range:
        """Take in records of one store, to be appended at the end; the positions they will get."""
        first, state = self.position, self.state(stream)
        mine = placed(records, first, self._fold._clock(), stream)
        self._states.pop(stream, None)  # made anew if an interrupt leaves it half changed
        for record in mine:
            state.apply(record)
        self._records += mine
        self._states[stream] = state
        if durable or not mine:  # what made it add nothing may not be durable yet
            self.owe(self.position - 1, durable)
        return range(first, self.position)

    def owe(self, position: int, durable: bool | None) -> None:
        """The record at `position` has to be durable at the end, as `Fold.settle`."""
        durable = self._durable if durable is None else durable
        if self._fold.always if durable is None else durable:
            self._owed = max(self._owed, position)

    def if_undone(self, call: Callable[[], object]) -> None:
        """Make that call if nothing of the transaction comes into the log; the last one first."""
        self._undo.append(call)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        fold, self._host.transaction = self._fold, _none
        try:
            if kind is None and self._records:
                self.positions = fold.wal.append_batch(self._records, at=self.begun_at)
                fold._take_in(self._records)
        except ConflictError as error:
            raise self._overtaken() from error
        finally:
            self._guard.close()
            nothing = kind is not None or (self._records and not self.positions)
            while nothing and self._undo:
                self._undo.pop()()
        if self.positions:
            fold.settle(self.positions[-1], self._durable)
        if kind is None and self._owed >= 0:
            fold.settle(self._owed, True)

    def _overtaken(self) -> CommitConflictError:
        error = CommitConflictError(
            "another process wrote meanwhile, so nothing was appended",
            path=self._fold.wal.path,
            position=self.begun_at,
            hint="Run the block again: Database.run does so by itself",
        )
        error.transaction = self
        return error


def _hold(lock: Any) -> Generator[None, None, None]:
    """Hold a lock. Wherever an interrupt comes, also where it keeps `__exit__` from being called:
    the transaction is collected, and this with it, for it is in no cycle."""
    with lock:
        yield


class CommitConflictError(ConflictError):
    """A transaction found at its end that another process had written meanwhile. `transaction` is
    that one."""

    transaction: Transaction | None = None
