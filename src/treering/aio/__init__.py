"""treering for asyncio: `Wal` with the same methods, awaitable.

    from treering import aio

    async with aio.Wal.open("orders") as wal:
        position = await wal.put(b"order-1", b"created")
        async for record in wal.read_from(position, follow=True):
            print(record.position, record.key, record.value)

How it keeps the loop free: an append is a store into memory, so the loop's thread makes it, unless
it would have to wait for a lock, a new segment or the disk; then a worker thread does, in order.
One thread waits for fsyncs on behalf of all tasks and wakes whole groups of them. Reading fetches
chunks in the loop's default executor. A handle's threads start when there is something to do.
"""

from __future__ import annotations

from ._appending import Batch
from ._cancelled import cancelled_position
from ._reader import Backwards, Reader
from ._wal import Opening, Wal

__all__ = ["Backwards", "Batch", "Opening", "Reader", "Wal", "cancelled_position"]
