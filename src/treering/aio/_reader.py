"""Reading for tasks: records come in chunks from a worker thread, never one thread hop each.

Reader     forwards, following the log if asked to
Backwards  from the newest to the oldest
Growth     one thread per handle that sleeps until the log grows, for all tasks that follow it
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

from .._core.background import Background, Signal
from .._core.codec import Record
from .._core.reader import Reader as PlainReader
from .._core.source import Source
from ._threads import call_soon, resolve

# A chunk ends with the record that fills it.
CHUNK_BYTES = 256 * 1024
_RECORD_COST_BYTES = 128
_SLICE_SECONDS = 0.25
# How long the thread goes on watching when nobody waits: followers come back for more.
_IDLE_SECONDS = 1.0


class Chunks:
    """An async iterator over what a plain one gives. For one task at a time.

    A step that is cancelled loses nothing: the next one goes on where it stopped.
    """

    def __init__(self, begin: Callable[[], Iterator[Record]]) -> None:
        self._begin = begin
        self._source: Iterator[Record] | None = None
        self._ready: Iterator[Record] = iter(())
        self._fetching: asyncio.Future[list[Record]] | None = None
        self._error: BaseException | None = None
        self._stopped = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Record:
        for record in self._ready:
            return record
        if not await self._more():
            raise StopAsyncIteration
        return next(self._ready)

    async def _more(self) -> bool:
        """Whether there are more records; they are ready then."""
        return await self._fetch()

    async def _fetch(self) -> bool:
        """Whether there are more records now."""
        if self._stopped:
            return False
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        if self._fetching is None:
            loop = asyncio.get_running_loop()
            self._fetching = loop.run_in_executor(None, self._read)
        # The thread cannot be stopped: when this task is, the chunk waits for the next step.
        records = await asyncio.shield(self._fetching)
        self._fetching = None
        self._ready = iter(records)
        if not records and self._error is not None:
            return await self._fetch()
        return bool(records)

    def _read(self) -> list[Record]:
        """One chunk; empty at the end. In a worker thread."""
        records: list[Record] = []
        room = CHUNK_BYTES
        try:
            if self._source is None:
                self._source = self._begin()
            for record in self._source:
                records.append(record)
                room -= len(record.key) + len(record.value) + _RECORD_COST_BYTES
                if room <= 0 or self._stopped:
                    break
        except BaseException as error:
            self._error = error  # raised after the records before it
        return records

    async def aclose(self) -> None:
        """End the iteration and release the file; idempotent."""
        self._stopped = True
        self._ready = iter(())
        fetching, self._fetching = self._fetching, None
        if fetching is not None:
            await asyncio.wait([fetching])
        self._release()

    def _release(self) -> None:
        self._source = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()


class Backwards(Chunks):
    """An async iterator over records, newest first; made by `Wal.read_backwards`."""


class Reader(Chunks):
    """An async iterator over records, in order of position; made by `Wal.read_from`.

    `aclose` releases the file; `stop` ends a following reader's loop. Raises PrunedError when
    truncation overtakes it, DamageError at damaged bytes, ClosedError when the log is closed.
    """

    def __init__(
        self,
        begin: Callable[[], PlainReader],
        growth: Callable[[], Growth] | None = None,
        timeout: float | None = None,
        stop: int | None = None,
    ) -> None:
        super().__init__(begin)
        self._growth = growth
        self._timeout = timeout
        self._stop_at = stop
        self._waiting: asyncio.Future[None] | None = None

    async def _more(self) -> bool:
        if self._growth is None:
            return await self._fetch()
        until = None if self._timeout is None else time.monotonic() + self._timeout
        while not self._stopped:
            growth = self._growth()
            # Registered before looking, so that nothing can come in between unnoticed.
            self._waiting = grown = growth.wait()
            try:
                if await self._fetch():
                    return True
                if self._at_stop() or not await _within(grown, until):
                    return False
            finally:
                self._waiting = None
                growth.forget(grown)
        return False

    def _at_stop(self) -> bool:
        plain = self._source
        assert isinstance(plain, PlainReader)
        return self._stop_at is not None and plain.position >= self._stop_at

    def stop(self) -> None:
        """End the iteration; a waiting loop ends at once. In the loop's thread."""
        self._stopped = True
        self._ready = iter(())
        if self._waiting is not None:
            resolve(self._waiting)

    def _release(self) -> None:
        if isinstance(self._source, PlainReader):
            self._source.close()
        super()._release()


async def _within(future: asyncio.Future[None], until: float | None) -> bool:
    """Wait for the future; False when the time is up first."""
    if until is None:
        await future
        return True
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(max(until - time.monotonic(), 0)):
            await future
            return True
    return False


class Growth:
    """Tells tasks that a log's end moved. Thread-safe.

    Knows the source, not the handle: a forgotten handle can be collected while the thread lives.
    """

    def __init__(self, source: Source, durable_only: bool) -> None:
        self._source = source
        self._durable_only = durable_only
        # One that the same thread may take again: the collector may come at any step, and close a
        # forgotten handle, or the tasks of a loop that is gone.
        self._lock = threading.RLock()
        self._waiting: set[asyncio.Future[None]] = set()
        self._asked = Signal()
        self._thread: Background | None = None
        self._stopped = False

    def wait(self) -> asyncio.Future[None]:
        """A future, done when the end has moved since this call, or may have."""
        future = asyncio.get_running_loop().create_future()
        with self._lock:
            self._waiting.add(future)
            if self._thread is None and not self._stopped:
                self._thread = Background(self._run)
                self._thread.start()
            stopped = self._stopped
        self._asked.set()
        if stopped:
            self._tell()
        return future

    def forget(self, future: asyncio.Future[None]) -> None:
        """Whoever waited has stopped waiting."""
        with self._lock:
            self._waiting.discard(future)
        if not future.get_loop().is_closed():  # it would call its task back there
            future.cancel()

    def _run(self) -> None:
        trouble = None
        try:
            while not self._stopped:
                self._asked.wait()
                self._watch()
        except Exception as error:  # a dead log, a closed one: that is for those who wait
            trouble = error
        with self._lock:
            self._thread = None
        self._tell(trouble)

    def _watch(self) -> None:
        """Look after the log until nobody has waited for a while."""
        end, last_seen = -1, time.monotonic()
        while not self._stopped:
            now_end = self._source.end(self._durable_only)
            if now_end != end:
                end = now_end
                self._tell()
            if self._waiting:
                last_seen = time.monotonic()
            elif time.monotonic() - last_seen > _IDLE_SECONDS:
                return
            self._source.wait(end, self._durable_only, _SLICE_SECONDS)

    def _tell(self, trouble: Exception | None = None) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, set()
        by_loop: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
        for future in waiting:
            by_loop.setdefault(future.get_loop(), []).append(future)
        for loop, futures in by_loop.items():
            call_soon(loop, _resolve_all, futures, trouble)

    def stop(self) -> None:
        """Wake everybody; the thread ends by itself. Idempotent."""
        with self._lock:
            self._stopped = True
        self._asked.set()
        self._tell()

    release = stop


def _resolve_all(futures: list[asyncio.Future[None]], trouble: Exception | None) -> None:
    for future in futures:
        resolve(future, trouble)
        if trouble is not None and not future.cancelled():
            future.exception()  # nobody need look: the task may have found records meanwhile
