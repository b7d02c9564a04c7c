"""`Wal` for asyncio: the same log, the same methods, awaitable."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Generator, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Self

from .._core import format as fmt
from .._core.arguments import check_position, check_seconds
from .._core.background import Background
from .._core.codec import Record
from .._core.errors import PositionError, WaitTimeoutError
from .._core.options import WalConfig
from .._core.recovery import RecoveryReport
from .._core.snapshots import Snapshots
from .._core.wal import Wal as PlainWal
from ._appending import Appending, never
from ._reader import Backwards, Growth, Reader
from ._threads import in_thread


class Wal(Appending):
    """A durable, crash-safe, append-only log in a directory, for asyncio.

        async with treering.aio.Wal.open("orders") as wal:
            position = await wal.put(b"order-1", b"created")
            async for record in wal.read_from(treering.START):
                print(record.position, record.key, record.value)

    What `treering.Wal` promises holds here; errors are the same. An append is a store into memory,
    which the loop's own thread makes at once; whatever might have to wait (for another process that
    holds the append lock, a full segment, the disk) a worker thread does, so the loop never blocks.
    Appends asked for in one loop get positions in that order. Tasks that wait for durability share
    their fsyncs, with threads and other processes too.

    A cancelled append is in the log as a whole or not at all, and disturbs nobody else.
    `cancelled_position` tells which. May be used from several event loops, each in its thread.
    """

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], config: WalConfig | None = None, **options: Any
    ) -> Opening:
        """Open the log in the directory `path`, creating it if there is none.

        `wal = await Wal.open(path)`, or `async with Wal.open(path) as wal`. Arguments and errors
        as for `treering.Wal.open`.
        """
        return Opening(partial(PlainWal.open, path, config, **options))

    # --- Durability -------------------------------------------------------------------------------

    async def sync(self) -> int:
        """Make every record appended so far (by anybody) durable; the durable position."""
        engine = await self._live()
        engine.commit.check()
        end = engine.control.load(fmt.WORD_END)
        if engine.control.load(fmt.WORD_DURABLE) < end:
            await self._durable(end - 1)
        return self.durable_position

    async def flush(self) -> int:
        """The end of what is written. There is nothing to flush; for durability call `sync`."""
        return await self.current_position()

    async def wait_durable(
        self,
        position: int,
        timeout: float | None = None,  # noqa: ASYNC109 - as in treering.Wal
    ) -> None:
        """Return once the record at `position` is durable. See `treering.Wal.wait_durable`."""
        position = check_position(position)
        if timeout is not None:
            check_seconds(timeout, "timeout")
        engine = await self._live()
        if position >= engine.control.load(fmt.WORD_END):
            raise PositionError("no record has this position yet", position=position)
        if position < engine.control.load(fmt.WORD_DURABLE):
            return
        engine.commit.check()
        try:
            async with asyncio.timeout(timeout):
                await self._durable(position)
        except TimeoutError as error:
            raise WaitTimeoutError(
                "the record is written but not yet durable", position=position
            ) from error

    @property
    def durable_position(self) -> int:
        """Every record below this position is durable. Read-only handles look into the files."""
        return self._wal.durable_position

    @property
    def first_position(self) -> int:
        """The oldest position that was not truncated; equal to the end of an empty log."""
        return self._wal.first_position

    # --- Reading ----------------------------------------------------------------------------------

    def read_from(
        self,
        position: int | None = None,
        *,
        time: Any = None,
        stop: int | None = None,
        follow: bool = False,
        timeout: float | None = None,
        durable_only: bool = False,
        copy: bool = True,
    ) -> Reader:
        """An async iterator over the records from `position` (default: the oldest) on.

        Arguments and errors as for `treering.Wal.read_from`; errors come with the first step.
        Leaving the loop early, or cancelling a step, loses no records: the next step goes on.
        """
        begin = partial(
            self._wal.read_from,
            position,
            time=time,
            stop=stop,
            durable_only=durable_only,
            copy=copy,
        )
        growth = partial(self._growth, durable_only) if follow else None
        return Reader(begin, growth, timeout, stop)

    def _growth(self, durable_only: bool) -> Growth:
        growth = self._growths.get(durable_only)
        if growth is None:
            growth = self._growths[durable_only] = Growth(self._wal._any().source, durable_only)
            self._parts.append(growth)
        return growth

    def read_backwards(self, position: int | None = None, *, stop: int = 0) -> Backwards:
        """Records from `position` - 1 (default: the newest) down to `stop` or the oldest there is.

        An async iterator; errors as for `read_from`.
        """
        return Backwards(partial(self._wal.read_backwards, position, stop=stop))

    async def read_many(self, positions: Sequence[int]) -> list[Record]:
        """The records at these positions. See `treering.Wal.read_many`."""
        return await in_thread(partial(self._wal.read_many, positions))

    async def read(self, position: int) -> Record:
        """The record at `position`. See `treering.Wal.read`."""
        return await in_thread(partial(self._wal.read, position))

    def __aiter__(self) -> Reader:
        return self.read_from()

    # --- Truncation -------------------------------------------------------------------------------

    async def truncate_before(self, position: int) -> int:
        """Remove the oldest segments that hold only records below `position`; the new first
        position. See `treering.Wal.truncate_before`."""
        return await in_thread(partial(self._wal.truncate_before, position))

    async def truncate_after(self, position: int) -> None:
        """Remove every record from `position` on. See `treering.Wal.truncate_after`."""
        await in_thread(partial(self._wal.truncate_after, position))

    async def apply_retention(self) -> int:
        """Remove what the configured retention no longer wants; the first position."""
        return await in_thread(self._wal.apply_retention)

    async def pin(self, name: str, position: int) -> None:
        """Keep records from `position` on, whoever truncates: a durable, named low-water mark."""
        await in_thread(partial(self._wal.pin, name, position))

    async def unpin(self, name: str) -> None:
        """Remove a pin; nothing happens if there is none of that name."""
        await in_thread(partial(self._wal.unpin, name))

    async def pins(self) -> dict[str, int]:
        """All pins, by name."""
        return await in_thread(self._wal.pins)

    @property
    def snapshots(self) -> Snapshots:
        """The snapshots beside this log. Their methods block: call them in a thread."""
        return self._wal.snapshots

    # --- Knowing ----------------------------------------------------------------------------------

    @property
    def path(self) -> str:
        """The log's directory."""
        return self._wal.path

    @property
    def recovery(self) -> RecoveryReport:
        """What opening found and did."""
        return self._wal.recovery

    @property
    def log_id(self) -> bytes:
        """The log's 16 random bytes."""
        return self._wal.log_id

    async def stats(self) -> dict[str, Any]:
        """Numbers about the log, for people and dashboards."""
        return await in_thread(self._wal.stats)

    async def check(self) -> None:
        """Walk the whole log and every invariant; raises at the first that does not hold."""
        await in_thread(self._wal.check)

    # --- Closing ----------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._wal.closed

    async def close(self) -> None:
        """Make everything durable and let go of the log; idempotent.

        Appends that wait are finished first; what is asked for afterwards gets ClosedError. A
        handle that is forgotten instead is closed when it is collected, which may block the loop;
        what was written is safe in any case.
        """
        self._try_put = self._try_append = never
        await in_thread(self._shut)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<treering.aio.Wal {self.path!r}{' closed' if self.closed else ''}>"


class Opening:
    """A log being opened: await it for the `Wal`, or use it with `async with`."""

    def __init__(self, call: Callable[[], PlainWal]) -> None:
        self._call = call
        self._wal: Wal | None = None

    def __await__(self) -> Generator[Any, None, Wal]:
        return self._open().__await__()

    async def _open(self) -> Wal:
        attempt = _Attempt(self._call)
        try:
            return Wal(await asyncio.shield(in_thread(attempt.run)))
        except asyncio.CancelledError:
            attempt.give_up()
            raise

    async def __aenter__(self) -> Wal:
        self._wal = await self._open()
        return self._wal

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._wal is not None
        await self._wal.close()


class _Attempt:
    """An opening that a thread makes for a task, which may give up waiting for it.

    Whoever comes second, the thread that has opened the log or the task, closes it; without the
    loop's help, which may be about to end.
    """

    def __init__(self, call: Callable[[], PlainWal]) -> None:
        self._call = call
        self._claim = threading.Lock()
        self._wal: PlainWal | None = None

    def run(self) -> PlainWal:
        """Open the log. In a worker thread."""
        self._wal = wal = self._call()
        if not self._claim.acquire(blocking=False):
            wal.close()
        return wal

    def give_up(self) -> None:
        """The task does not want it any more."""
        if not self._claim.acquire(blocking=False) and self._wal is not None:
            Background(self._wal.close).start()
