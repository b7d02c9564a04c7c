"""Tasks that wait for the disk: one fsync for many, one wake-up, and the truth about it."""

import asyncio
import errno
import random
import time

import pytest

from tests._logs import contents, told
from tests.aio._loop import Gate, asynchronous, settle, turns, until
from tests.threads._crew import Watched
from treering import (
    ClosedError,
    FailedError,
    FsyncPolicy,
    PositionError,
    WaitTimeoutError,
    Wal,
    aio,
)
from treering.testing import FaultyFiles, MemoryFiles, PowerCutFiles


@asynchronous
async def test_d2_what_was_acknowledged_survives_a_power_cut():
    files = PowerCutFiles()
    wal = await aio.Wal.open("/log", files=files)
    await asyncio.gather(*(wal.put(b"key-%d" % n, b"value-%d" % n) for n in range(100)))
    assert contents(Wal.open("/log", files=files.cut())) == told(0, 100)
    await wal.close()


@asynchronous
async def test_tasks_that_wait_share_one_fsync_and_are_woken_together():
    files, gate = FaultyFiles(MemoryFiles()), Gate()
    async with aio.Wal.open("/log", files=files) as wal:
        files.stall("sync", gate.wait, path=".seg")
        leader = asyncio.create_task(wal.put(b"leader", b""))
        await gate.reached()
        files.forget()
        tasks = [asyncio.create_task(wal.put(b"%d" % n, b"")) for n in range(1000)]
        await turns()
        assert await wal.current_position() == 1001
        gate.open()
        assert await leader == 0
        assert await asyncio.gather(*tasks) == list(range(1, 1001))
        assert files.count("sync", path=".seg") == 1


@asynchronous
async def test_no_fsync_runs_when_nobody_waits():
    files = FaultyFiles(MemoryFiles())
    async with aio.Wal.open("/log", files=files, fsync_policy=FsyncPolicy.OS) as wal:
        await wal.put(b"k", b"v", durable=True)
        files.forget()
        for _ in range(100):
            await wal.put(b"k", b"v")
        await wal.wait_durable(0)
        await asyncio.sleep(0.01)
        assert files.count("sync") == 0
        await wal.sync()
        await wal.sync()
        assert files.count("sync") == 1


@asynchronous
async def test_g15_what_was_written_during_an_fsync_waits_for_the_next_one():
    files, first, second = FaultyFiles(PowerCutFiles()), Gate(), Gate()
    async with aio.Wal.open("/log", files=files) as wal:
        files.stall("sync", first.wait, path=".seg")
        one = asyncio.create_task(wal.put(b"one", b""))
        await first.reached()
        files.stall("sync", second.wait, path=".seg")
        two = asyncio.create_task(wal.put(b"two", b""))
        await turns()
        first.open()
        assert await one == 0
        await second.reached()
        assert (wal.durable_position, two.done()) == (1, False)
        second.open()
        assert await two == 1


@pytest.mark.parametrize("seed", range(3))
@asynchronous
async def test_g15_whoever_is_acknowledged_was_in_place_when_a_finished_fsync_began(seed):
    random_pause = random.Random(seed).random
    files = Watched(lambda: time.sleep(random_pause() * 0.0005))
    async with aio.Wal.open("/log", files=files, segment_bytes_max=4096) as wal:
        files.wal = wal._wal

        async def work(number):
            for step in range(20):
                position = await wal.put(b"%d/%d" % (number, step), b"v")
                assert files.covers(position), "acknowledged before an fsync that covers it"

        await asyncio.gather(*(work(number) for number in range(40)))
        assert files.syncs < 400
        files.wal = None


@asynchronous
async def test_waiting_for_one_position():
    files, gate = FaultyFiles(MemoryFiles()), Gate()
    async with aio.Wal.open("/log", files=files, fsync_policy=FsyncPolicy.OS) as wal:
        await wal.put(b"k", b"v")
        with pytest.raises(PositionError):
            await wal.wait_durable(1)
        files.stall("sync", gate.wait, path=".seg")
        with pytest.raises(WaitTimeoutError) as caught:
            await wal.wait_durable(0, timeout=0.01)
        assert caught.value.position == 0
        gate.open()
        await wal.wait_durable(0, timeout=10)
        await wal.wait_durable(0, timeout=0)
        assert wal.durable_position == 1


@pytest.mark.parametrize("count", [1, 50])
@asynchronous
async def test_d6_after_a_failed_fsync_every_waiter_and_every_later_call_is_told(count):
    files, gate = FaultyFiles(PowerCutFiles()), Gate()
    wal = await aio.Wal.open("/log", files=files)
    await wal.put(b"safe", b"")
    files.stall("sync", gate.wait, path=".seg")
    files.fail("sync", path=".seg", number=errno.EIO)
    tasks = [asyncio.create_task(wal.put(b"%d" % n, b"")) for n in range(count)]
    await gate.reached()
    follower = asyncio.create_task(anext(wal.read_from(1 + count, follow=True, durable_only=True)))
    await turns()
    gate.open()
    errors = await settle(*tasks)
    assert [type(error) for error in errors] == [FailedError] * count
    assert len(set(map(id, errors))) == count
    for call in (wal.put(b"k", b"v"), wal.sync(), wal.append_batch([(b"k", b"v")])):
        with pytest.raises(FailedError):
            await call
    assert wal.durable_position == 1
    follower.cancel()
    await settle(follower)
    await settle(wal.close())
    assert wal.closed
    async with aio.Wal.open("/log", files=files) as again:
        assert (await again.read(0)).key == b"safe"


@asynchronous
async def test_closing_answers_everybody_who_waits():
    files, gate = FaultyFiles(PowerCutFiles()), Gate()
    wal = await aio.Wal.open("/log", files=files)
    files.stall("sync", gate.wait, path=".seg")
    tasks = [asyncio.create_task(wal.put(b"key-%d" % n, b"value-%d" % n)) for n in range(40)]
    await gate.reached()
    closing = asyncio.create_task(wal.close())
    again = asyncio.create_task(wal.close())
    await turns()
    late = asyncio.create_task(wal.put(b"late", b""))
    await turns()
    gate.open()
    await closing
    await again
    assert all(
        end == n or isinstance(end, ClosedError) for n, end in enumerate(await settle(*tasks))
    )
    assert isinstance((await settle(late))[0], ClosedError)
    assert contents(Wal.open("/log", files=files.inner.cut())) == told(0, 40)


@asynchronous
async def test_closing_finishes_the_appends_that_wait_in_line():
    files, gate = MemoryFiles(), Gate()
    wal = await aio.Wal.open("/log", files=files, fsync_policy=FsyncPolicy.OS)
    other = Wal.open("/log", files=files)
    holder = asyncio.create_task(asyncio.to_thread(other._engine.writer.lock.run, gate.wait))
    await gate.reached()
    tasks = [asyncio.create_task(wal.put(b"key-%d" % n, b"value-%d" % n)) for n in range(10)]
    await turns()
    closing = asyncio.create_task(wal.close())
    await turns()
    gate.open()
    await holder
    await closing
    assert await asyncio.gather(*tasks) == list(range(10))
    assert contents(other) == told(0, 10)
    other.close()


@asynchronous
async def test_d3_the_deadline_makes_records_durable_without_any_further_call():
    files = FaultyFiles(PowerCutFiles())
    async with aio.Wal.open("/log", files=files, fsync_policy=FsyncPolicy.batch(2)) as wal:
        for number in range(5):
            await wal.put(b"%d" % number, b"")
            await until(lambda: wal.durable_position == number + 1)
