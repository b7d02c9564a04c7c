"""One log, many tasks: durable appends share fsyncs, and a cancelled one is whole or absent (G16)."""

from __future__ import annotations

import asyncio
import errno
import random

import pytest

import treering
from treering import aio
from treering.testing import FaultyFiles, MemoryFiles


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 60))


def test_tasks_append_and_read_what_they_appended(tmp_path):
    async def story():
        async with aio.Wal.open(tmp_path / "log") as wal:
            positions = await asyncio.gather(*(wal.put(b"k%d" % n, b"v") for n in range(200)))
            assert sorted(positions) == list(range(200))
            assert wal.durable_position == 200
            async with wal.batch() as batch:
                batch.put(b"a", b"1")
                batch.delete(b"b")
            assert batch.positions == range(200, 202)
            seen = [record.position async for record in wal.read_from(0)]
            assert seen == list(range(202))
            assert (await wal.read(7)).value == b"v"

    run(story())


def test_a_thousand_durable_appends_share_a_few_fsyncs():
    files = FaultyFiles(MemoryFiles())

    async def story():
        async with aio.Wal.open("/log", files=files) as wal:
            await wal.put(b"warm", b"up")
            before = files.count("sync", path=".seg")
            await asyncio.gather(*(wal.put(b"k", b"v") for _ in range(1000)))
            return files.count("sync", path=".seg") - before

    assert run(story()) < 500


def test_a_cancelled_append_is_whole_or_absent_and_blocks_nobody():
    """G16: cancelled at random moments, 300 times; what is in the log is dense and intact, and
    whoever was not cancelled gets an answer."""
    chance = random.Random(16)

    async def story():
        async with aio.Wal.open("/log", files=MemoryFiles(), segment_bytes_max=4096) as wal:
            confirmed = set()

            async def append(n):
                position = await wal.put(b"k%d" % n, b"v" * 30)
                confirmed.add((position, b"k%d" % n))

            tasks = [asyncio.create_task(append(n)) for n in range(300)]
            for task in chance.sample(tasks, 150):
                if chance.random() < 0.5:
                    await asyncio.sleep(0)
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            assert await wal.put(b"after", b"all") == wal.durable_position - 1
            found = [(r.position, r.key) async for r in wal.read_from(0)]
            assert [position for position, _ in found] == list(range(len(found)))
            assert confirmed <= set(found)
            assert len({key for _, key in found}) == len(found)

    run(story())


def test_following_wakes_for_what_comes_and_ends_by_its_timeout(tmp_path):
    async def story():
        async with aio.Wal.open(tmp_path / "log") as wal:

            async def follow():
                return [r.position async for r in wal.read_from(0, follow=True, timeout=0.5)]

            following = asyncio.create_task(follow())
            for n in range(20):
                await wal.put(b"k", b"%d" % n)
            assert await following == list(range(20))

    run(story())


def test_a_failed_fsync_reaches_every_waiter():
    files = FaultyFiles(MemoryFiles())

    async def story():
        wal = await aio.Wal.open("/log", files=files)
        await wal.put(b"k", b"v")
        files.fail("sync", number=errno.EIO, path=".seg", lasting=True)
        tasks = [asyncio.create_task(wal.put(b"k", b"v")) for _ in range(50)]
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(result, treering.FailedError) for result in results)
        files.heal()
        with pytest.raises(treering.FailedError):
            await wal.put(b"k", b"v")
        with pytest.raises(treering.FailedError):
            await wal.close()

    run(story())


def test_a_closed_log_says_so(tmp_path):
    async def story():
        wal = await aio.Wal.open(tmp_path / "log")
        await wal.close()
        await wal.close()
        assert wal.closed
        with pytest.raises(treering.ClosedError):
            await wal.put(b"k", b"v")

    run(story())
