"""Several event loops, loops that end, forks, and handles that are forgotten (D9, D13)."""

import asyncio
import contextlib
import gc
import os

import pytest

from tests._logs import contents, told
from tests.aio._loop import PATIENCE, Gate, asynchronous, turns, until
from tests.threads._crew import crew
from treering import ClosedError, FsyncPolicy, LockedError, LogNotFoundError, Wal, aio
from treering.testing import FaultyFiles, MemoryFiles


def test_several_loops_in_threads_of_their_own_use_one_handle(either):
    wal = asyncio.run(opening(either))

    async def work(number):
        async def write(step):
            return await wal.put(b"%d/%d" % (number, step), b"v" * (step % 90))

        reader = wal.read_from(follow=True, stop=200)
        seen = asyncio.create_task(collect(reader))
        positions = await asyncio.gather(*(write(step) for step in range(50)))
        assert positions == sorted(positions)
        return positions, await seen

    with crew() as start:
        hands = [start(asyncio.run, work(number)) for number in range(4)]
    positions = sorted(position for hand in hands for position in hand.result[0])
    assert positions == list(range(200))
    assert all(hand.result[1] == list(range(200)) for hand in hands)
    asyncio.run(wal.close())


async def opening(log, **options):
    if log.files is not None:
        options["files"] = log.files
    return await aio.Wal.open(log.path, segment_bytes_max=2048, **options)


async def collect(reader):
    return [record.position async for record in reader]


def test_one_loop_after_another_uses_one_handle(memory):
    wal = asyncio.run(opening(memory))

    async def put():
        return await wal.put(b"k", b"v")

    assert [asyncio.run(put()) for _ in range(20)] == list(range(20))
    assert len(wal._committer._waiting) < 3, "loops that are closed are kept"
    asyncio.run(wal.close())


def test_a_loop_that_ends_before_the_fsync_does_harms_nobody():
    files, gate = FaultyFiles(MemoryFiles()), Gate()

    async def begin():
        wal = await aio.Wal.open("/log", files=files)
        files.stall("sync", gate.wait, path=".seg")
        put = asyncio.create_task(wal.put(b"key-0", b"value-0"))
        follow = asyncio.create_task(collect(wal.read_from(follow=True)))
        await gate.reached()
        assert not put.done() and not follow.done()
        return wal

    wal = asyncio.run(begin())  # cancels what is left and closes the loop

    async def go_on():
        put = asyncio.create_task(wal.put(b"key-1", b"value-1"))
        await turns()
        gate.open()
        assert await put == 1
        await wal.close()

    asyncio.run(go_on())
    assert contents(Wal.open("/log", files=files)) == told(0, 2)


@pytest.mark.parametrize("policy", ["always", "batch:1000", "os"])
def test_d13_a_forgotten_handle_loses_nothing_and_lets_go_of_the_log(either, policy):
    async def forget():
        wal = await opening(either, fsync_policy=FsyncPolicy.parse(policy))
        await asyncio.gather(
            *(wal.put(b"key-%d" % n, b"value-%d" % n, headers={}) for n in range(30))
        )
        reader = wal.read_from(follow=True)
        await anext(reader)
        await asyncio.wait([asyncio.create_task(anext(reader))], timeout=0.01)

    asyncio.run(forget())
    gc.collect()
    with either.open(exclusive=True) as again:
        assert contents(again) == told(0, 30)


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="counts threads as Linux does")
def test_d13_closing_ends_the_threads_of_the_handle(disk):
    async def threads():
        before = len(os.listdir("/proc/self/task"))
        async with await opening(disk) as wal:
            await asyncio.gather(*(wal.put(b"k", b"v" * 600) for n in range(30)))
            reader = wal.read_from(follow=True, timeout=0.001)
            assert len(await collect(reader)) == 30
        # Up to two threads are the loop's own, of its executor.
        await until(lambda: len(os.listdir("/proc/self/task")) <= before + 2)

    asyncio.run(asyncio.wait_for(threads(), PATIENCE))


@asynchronous
async def test_opening_is_awaited_or_used_with_a_block(memory):
    wal = await aio.Wal.open("/log", files=memory.files)
    assert await wal.put(b"key-0", b"value-0") == 0
    await wal.close()
    async with aio.Wal.open("/log", files=memory.files) as wal:
        assert wal.recovery.state == "clean"
        assert (wal.path, len(wal.log_id)) == ("/log", 16)
    assert wal.closed
    async with await aio.Wal.open("/log", files=memory.files) as wal:
        assert contents([await wal.read(0)]) == told(0, 1)
    with pytest.raises(LogNotFoundError):
        await aio.Wal.open("/nothing", files=memory.files, create=False)
    async with aio.Wal.open("/log", files=memory.files, exclusive=True):
        with pytest.raises(LockedError):
            await aio.Wal.open("/log", files=memory.files)


@asynchronous
async def test_a_log_whose_opening_was_cancelled_is_closed_again():
    files, gate = FaultyFiles(MemoryFiles()), Gate()
    files.stall("open", gate.wait, path="lock")
    opening = asyncio.create_task(aio.Wal.open("/log", files=files)._open())
    await gate.reached()
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    gate.open()
    while True:
        with contextlib.suppress(LockedError):
            async with aio.Wal.open("/log", files=files, exclusive=True) as wal:
                assert await wal.put(b"k", b"v") == 0
                return
        await asyncio.sleep(0.001)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_d9_a_forked_child_goes_on_with_the_handle_in_a_loop_of_its_own(disk):
    async def begin():
        wal = await opening(disk)
        await asyncio.gather(*(wal.put(b"key-%d" % n, b"value-%d" % n) for n in range(20)))
        return wal

    wal = asyncio.run(begin())
    child = os.fork()
    if child == 0:
        os._exit(asyncio.run(in_child(wal)))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

    async def go_on():
        assert await wal.put(b"parent", b"") == 21
        await wal.check()
        await wal.close()

    asyncio.run(go_on())


async def in_child(wal):
    """0 if all is well."""
    try:
        assert await wal.put(b"child", b"v" * 100, durable=True) == 20
        assert [record.position async for record in wal] == list(range(21))
        assert wal.durable_position == 21
        await wal.sync()
        await wal.close()
        with contextlib.suppress(ClosedError):
            await wal.put(b"closed", b"")
            return 2
    except BaseException:
        return 1
    return 0
