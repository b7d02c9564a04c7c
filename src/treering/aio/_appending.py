"""The appending half of `Wal`: by the loop's thread where nothing has to be waited for."""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from types import TracebackType
from typing import Any, NoReturn, TypeVar, cast

from .._core.arguments import check_position
from .._core.batch import Batch as PlainBatch
from .._core.codec import Record, Tail
from .._core.engine import Engine
from .._core.errors import UsageError
from .._core.wal import Wal as PlainWal
from ._cancelled import remember, remember_alone
from ._commit import Committer
from ._reader import Growth
from ._threads import Worker, in_thread

T = TypeVar("T")


class Appending:
    """A handle's threads, and the methods that append."""

    def __init__(self, wal: PlainWal) -> None:
        self._wal = wal
        self._always = wal._config.fsync_policy.name == "always"
        self._compresses = wal._config.compression is not None
        self._start()
        _open_handles.add(self)

    def _start(self) -> None:
        """The threads' side; the threads themselves start when there is something to do."""
        self._closing = threading.Lock()
        self._worker = Worker()
        self._growths: dict[bool, Growth] = {}
        # Known to the finalizer, so in the order of stopping, and without a way back to the handle.
        self._parts: list[Worker | Committer | Growth] = [self._worker]
        self._finalizer = weakref.finalize(self, _release, self._parts)
        self._bind()

    def _bind(self) -> None:
        """Take the append from the engine, so that it is one call."""
        engine = self._wal._engine
        self._try_put: Callable[[bytes, bytes], int] = never
        self._try_append: Callable[[tuple[Any, ...]], int] = never
        self._committer: Committer | None = None
        if isinstance(engine, Engine):
            self._committer = Committer(engine.commit, engine.control)
            self._parts.append(self._committer)
            self._try_put = engine.writer.tail.try_put
            self._try_append = engine.writer.tail.try_append

    async def put(
        self,
        key: bytes,
        value: bytes,
        *,
        ttl: float | None = None,
        expires_at: float | None = None,
        headers: dict[str, bytes] | None = None,
        compression: str | None = None,
        stream: int = 0,
        durable: bool = False,
    ) -> int:
        """Append a record that sets `key` to `value`; its position. See `treering.Wal.put`.

        Appended before the first point where the task can be cancelled, unless that has to wait.
        """
        if (
            ttl is None
            and expires_at is None
            and headers is None
            and compression is None
            and stream == 0
        ):
            position = -1 if self._worker.jobs else self._try_put(key, value)
        else:
            position = self._try_make(
                key, value, False, ttl, expires_at, headers, compression, stream
            )
        if position < 0:
            position = await self._put_later(
                key,
                value,
                ttl=ttl,
                expires_at=expires_at,
                headers=headers,
                compression=compression,
                stream=stream,
            )
        if durable or self._always:
            # As `_durable`, without the price of one more coroutine.
            assert self._committer is not None
            try:
                await self._committer.wait()
            except asyncio.CancelledError as error:
                remember(error, position)
                raise
        return position

    async def _put_later(self, key: bytes, value: bytes, **options: Any) -> int:
        # Apart, for a closure makes every call of `put` dearer, not only those that come here.
        return await self._later(lambda tail: tail.put(key, value, **options))

    async def delete(
        self,
        key: bytes,
        *,
        ttl: float | None = None,
        expires_at: float | None = None,
        headers: dict[str, bytes] | None = None,
        stream: int = 0,
        durable: bool = False,
    ) -> int:
        """Append a tombstone: a record that says that `key` is gone; its position. As `put`."""
        position = self._try_make(key, b"", True, ttl, expires_at, headers, None, stream)
        if position < 0:
            position = await self._later(
                lambda tail: tail.delete(
                    key, ttl=ttl, expires_at=expires_at, headers=headers, stream=stream
                )
            )
        if durable or self._always:
            await self._durable(position)
        return position

    async def append(
        self, record: Record, *, compression: str | None = None, durable: bool = False
    ) -> int:
        """Append a record made with `Record(...)`; its position. See `treering.Wal.append`."""
        batch = self.append_batch((record,), compression=compression, durable=durable)
        try:
            return (await batch)[0]
        except asyncio.CancelledError as error:
            remember_alone(error)
            raise

    async def append_batch(
        self,
        records: Iterable[Record | tuple[bytes, bytes]],
        *,
        compression: str | None = None,
        durable: bool = False,
        at: int | None = None,
    ) -> range:
        """Append records, or (key, value) pairs, as one atomic group; the range of positions.

        See `treering.Wal.append_batch`.
        """
        if not isinstance(records, Iterable):
            raise UsageError(f"a batch must be iterable, not {type(records).__name__}")
        batch = tuple(records)
        at = None if at is None else check_position(at)
        if not batch:
            end = await self.current_position()
            return range(end, end)
        first = -1
        if compression is None and at is None and not (self._compresses or self._worker.jobs):
            first = self._try_append(batch)
        positions = range(first, first + len(batch))
        if first < 0:
            positions = await self._later(partial(self._append_slowly, batch, compression, at))
        if durable or self._always:
            await self._durable(positions)
        return positions

    def _append_slowly(
        self, batch: tuple[Any, ...], compression: str | None, at: int | None, tail: Tail
    ) -> range:
        if compression is not None or self._compresses:
            intake = self._wal._live().writer.intake
            batch = tuple(intake.compressed(intake.as_record(r), compression) for r in batch)
        first = tail.append_records(batch, False, -1 if at is None else at)
        return range(first, first + len(batch))

    def batch(self, *, durable: bool = False) -> Batch:
        """An async context manager that collects puts and deletes, and appends them atomically.

        `async with wal.batch() as batch: batch.put(key, value)`. Nothing is appended if the block
        raises or is cancelled. Afterwards `positions` is the range they got.
        """
        return Batch(self.append_batch, self._wal._live().writer.intake.with_ttl, durable)

    async def current_position(self) -> int:
        """The position that the next record will get: the end of the log."""
        engine = self._wal._engine
        if isinstance(engine, Engine):
            return engine.source.end(False)
        return await in_thread(self._wal.current_position)

    def _try_make(self, *fields: Any) -> int:
        """Append the record that a call's keywords describe, if that need not wait; else -1."""
        engine, compression = self._wal._engine, fields[6]
        compresses = compression is not None or self._compresses
        if compresses or self._worker.jobs or not isinstance(engine, Engine):
            return -1
        return self._try_append((engine.writer.intake.make(*fields),))

    async def _later(self, call: Callable[[Tail], T]) -> T:
        """Have the worker append, after everything that was asked for before."""
        wal = self._wal
        job = self._worker.submit(lambda: call(wal._live().writer.tail))
        try:
            await job.wait()
        except asyncio.CancelledError as error:
            job.withdraw()
            remember(error, job)
            raise
        self._bind_again()
        return cast(T, job.result())

    async def _durable(self, positions: int | range) -> None:
        assert self._committer is not None
        try:
            await self._committer.wait()
        except asyncio.CancelledError as error:
            remember(error, positions)
            raise

    # --- The threads' life ------------------------------------------------------------------------

    async def _live(self) -> Engine:
        """The engine of a handle that may append; opens it anew in a forked child."""
        engine = self._wal._engine
        if not isinstance(engine, Engine):
            engine = await in_thread(self._wal._live)
            self._bind_again()
        return engine

    def _bind_again(self) -> None:
        """In a forked child the log was opened anew."""
        if self._committer is None:
            self._bind()

    def _after_fork(self) -> None:
        """In the child: the parent's threads do not exist, and they may have held locks."""
        self._finalizer.detach()
        self._start()

    def _shut(self) -> None:
        with self._closing:
            for part in self._parts:
                part.stop()
            self._wal.close()


class Batch(PlainBatch):
    """Collects records for one atomic append; see `Wal.batch`. For one task at a time."""

    def __init__(
        self,
        append: Callable[..., Coroutine[Any, Any, range]],
        make: Callable[..., Record],
        durable: bool,
    ) -> None:
        super().__init__(_use_async_with, make, durable)
        self._append_later = append

    def __enter__(self) -> PlainBatch:
        _use_async_with()

    async def __aenter__(self) -> Batch:
        self._check_open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self.positions = await self._append_later(self._records, durable=self._durable)
        finally:
            self._forget_failed()


def _use_async_with(*_: Any, **__: Any) -> NoReturn:
    raise UsageError("a batch of treering.aio is used with `async with`")


def never(*_: Any) -> int:
    """Stands in for the append where it may not be made by the loop's thread."""
    return -1


def _release(parts: list[Worker | Committer | Growth]) -> None:
    for part in parts:
        part.release()


_open_handles: weakref.WeakSet[Appending] = weakref.WeakSet()


def _forget_parents_threads() -> None:
    for wal in list(_open_handles):
        wal._after_fork()


# After the log's own, which was registered when its module was imported.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parents_threads)
