"""G16: a cancelled append is in the log as a whole or not at all, and blocks nobody else."""

import asyncio

import pytest

from tests.aio._cancelling import IN_THE_WAY, append, cancel_at_each_step, cancel_at_random
from tests.aio._loop import PATIENCE, Gate, asynchronous, settle, turns, until
from treering import FsyncPolicy, UsageError, Wal, aio
from treering.testing import FaultyFiles, MemoryFiles

DURABLE = {"put durably": 1, "put": 1, "append_batch": 3, "batch": 2, "delete": 1}


async def error_of(task):
    """The CancelledError that comes out of the task."""
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    return caught.value


@pytest.mark.parametrize("kind", DURABLE)
@asynchronous
async def test_g16_an_append_cancelled_while_it_waits_for_the_disk_is_in_the_log(kind):
    files, gate, count = FaultyFiles(MemoryFiles()), Gate(), DURABLE[kind]
    async with aio.Wal.open("/log", files=files) as wal:
        files.stall("sync", gate.wait, path=".seg")
        await_it = asyncio.create_task(append(wal, kind, b"cancelled"))
        await gate.reached()
        other = asyncio.create_task(wal.put(b"other", b""))
        await until(lambda: wal._wal.current_position() == count + 1)
        await_it.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await await_it
        told = await aio.cancelled_position(caught.value)
        assert told == (range(count) if count > 1 else 0)
        gate.open()
        assert await other == count
        await wal.wait_durable(0)
        assert [record.key async for record in wal] == [b"cancelled"] * count + [b"other"]


@asynchronous
async def test_g16_an_append_cancelled_while_it_waits_in_line_is_not_in_the_log():
    files, gate = MemoryFiles(), Gate()
    wal = await aio.Wal.open("/log", files=files)
    other = Wal.open("/log", files=files)
    holder = asyncio.create_task(asyncio.to_thread(other._engine.writer.lock.run, gate.wait))
    await gate.reached()
    tasks = [asyncio.create_task(wal.put(b"%d" % n, b"")) for n in range(4)]
    # The worker has the first one in its hands already; the others wait behind it.
    await until(lambda: len(wal._worker.jobs) == 4 and wal._worker.jobs[0]._claim.locked())
    for task in tasks[:3]:
        task.cancel()
    errors = [await error_of(task) for task in tasks[:3]]
    assert [await aio.cancelled_position(error) for error in errors[1:]] == [None, None]
    gate.open()
    await holder
    assert await aio.cancelled_position(errors[0]) == 0
    assert await tasks[3] == 1
    assert [record.key async for record in wal] == [b"0", b"3"]
    await wal.close()
    other.close()


@asynchronous
async def test_g16_an_append_cancelled_before_its_first_step_is_not_in_the_log():
    async with aio.Wal.open("/log", files=MemoryFiles()) as wal:
        task = asyncio.create_task(wal.put(b"k", b"v"))
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        assert await aio.cancelled_position(caught.value) is None
        assert await wal.put(b"k", b"v") == 0


@asynchronous
async def test_g16_timeouts_tell_too_where_the_append_is():
    files, gate = FaultyFiles(MemoryFiles()), Gate()
    async with aio.Wal.open("/log", files=files) as wal:
        files.stall("sync", gate.wait, path=".seg")
        told = []
        with pytest.raises(TimeoutError) as caught:
            async with asyncio.timeout(0.02):
                await wal.put(b"0", b"")
        told.append((b"0", await aio.cancelled_position(caught.value)))
        with pytest.raises(TimeoutError) as caught:
            await asyncio.wait_for(wal.append_batch([(b"1", b""), (b"1", b"")]), 0.02)
        told.append((b"1", await aio.cancelled_position(caught.value)))
        with pytest.raises(TimeoutError) as caught:
            async with asyncio.timeout(0.001), wal.batch() as batch:
                batch.put(b"never", b"")
                await asyncio.sleep(1)
        assert await aio.cancelled_position(caught.value) is None
        gate.open()
        await wal.put(b"after", b"")
        # Nearly always 0 and range(1, 3); on a busy machine they may not have been begun.
        for key, where in told:
            found = [record.position async for record in wal if record.key == key]
            assert found == ([where] if isinstance(where, int) else list(where or ()))


@asynchronous
async def test_g16_a_shielded_append_goes_on_and_its_caller_may_wait_for_it():
    files, gate = FaultyFiles(MemoryFiles()), Gate()
    async with aio.Wal.open("/log", files=files) as wal:
        files.stall("sync", gate.wait, path=".seg")
        put = asyncio.create_task(wal.put(b"k", b"v"))

        async def caller():
            try:
                await asyncio.shield(put)
            except asyncio.CancelledError:
                gate.open()
                return await put

        task = asyncio.create_task(caller())
        await gate.reached()
        task.cancel()
        assert await task == 0
        assert wal.durable_position == 1


@asynchronous
async def test_g16_a_task_group_that_fails_cancels_its_appends_and_leaves_the_log_usable():
    files, gate = FaultyFiles(MemoryFiles()), Gate()
    async with aio.Wal.open("/log", files=files) as wal:
        files.stall("sync", gate.wait, path=".seg")

        async def fail():
            await gate.reached()
            raise ZeroDivisionError

        with pytest.raises(ExceptionGroup):
            async with asyncio.TaskGroup() as group:
                for number in range(30):
                    group.create_task(wal.put(b"%d" % number, b""))
                group.create_task(fail())
        gate.open()
        # Those that were not begun are not in.
        assert 1 <= await wal.put(b"after", b"") <= 30
        await wal.check()


@asynchronous
async def test_g16_cancelling_a_wait_leaves_the_others_waiting():
    files, gate = FaultyFiles(MemoryFiles()), Gate()
    async with aio.Wal.open("/log", files=files, fsync_policy=FsyncPolicy.OS) as wal:
        await wal.put(b"k", b"v")
        files.stall("sync", gate.wait, path=".seg")
        waits = [asyncio.create_task(wal.wait_durable(0)) for _ in range(3)]
        syncs = [asyncio.create_task(wal.sync()) for _ in range(3)]
        await gate.reached()
        waits[1].cancel()
        syncs[1].cancel()
        await turns()
        assert [task.done() for task in waits + syncs] == [False, True, False] * 2
        gate.open()
        await waits[0], await waits[2]
        assert [await syncs[0], await syncs[2]] == [1, 1]


@asynchronous
async def test_g16_an_error_that_does_not_know_is_refused():
    async with aio.Wal.open("/log", files=MemoryFiles()) as wal:
        task = asyncio.create_task(wal.put(b"k", b"v"))
        await asyncio.sleep(0)
        task.cancel()
        # It makes an error of its own in the place of the one that was raised.
        made = (await settle(task))[0]
        with pytest.raises(UsageError, match="never raised"):
            await aio.cancelled_position(made)


@asynchronous
async def test_g16_an_older_cancelled_append_is_not_taken_for_this_one():
    files, gate = FaultyFiles(MemoryFiles()), Gate()
    async with aio.Wal.open("/log", files=files) as wal:
        files.stall("sync", gate.wait, path=".seg")
        older = asyncio.create_task(wal.put(b"older", b""))
        await gate.reached()
        older.cancel()
        try:
            await older
        except asyncio.CancelledError as error:
            with pytest.raises(TimeoutError) as caught:
                # It never begins.
                await asyncio.wait_for(wal.put(b"never", b""), 0)
            assert await aio.cancelled_position(caught.value) is None
            assert await aio.cancelled_position(error) == 0
        gate.open()
        assert await wal.put(b"k", b"v") == 1


def test_g16_the_next_loop_may_ask_where_the_append_is():
    files, gate = MemoryFiles(), Gate()
    other = Wal.open("/log", files=files)
    caught = []

    async def begin():
        wal = await aio.Wal.open("/log", files=files)
        held = asyncio.get_running_loop().run_in_executor(
            None, other._engine.writer.lock.run, gate.wait
        )
        await gate.reached()
        put = asyncio.create_task(wal.put(b"k", b"v"))
        await until(lambda: wal._worker.jobs and wal._worker.jobs[0]._claim.locked())
        put.cancel()
        caught.append(await error_of(put))
        held.add_done_callback(lambda _: None)
        return wal

    async def go_on():
        asking = asyncio.create_task(aio.cancelled_position(caught[0]))
        await turns()
        assert not asking.done()
        gate.open()
        assert await asking == 0
        await wal.close()

    with asyncio.Runner() as first:
        wal = first.run(begin())
        asyncio.run(asyncio.wait_for(go_on(), PATIENCE))
    other.close()


@pytest.mark.parametrize("in_the_way", IN_THE_WAY)
@pytest.mark.parametrize("policy", ["os", "batch:1", "always"])
@asynchronous
async def test_g16_cancelled_at_each_step_each_call_is_whole_or_absent_and_told(policy, in_the_way):
    """9 kinds of calls x 8 steps, under 3 policies, with 3 things in the way: 648 are asked to
    stop; those that were done by then count as returned."""
    cancelled = await cancel_at_each_step(FsyncPolicy.parse(policy), in_the_way)
    assert cancelled >= {"nothing": 9, "the append lock": 40, "the disk": 20}[in_the_way]


@pytest.mark.parametrize("seed", range(3))
@asynchronous
async def test_g16_cancelled_at_random_each_append_is_whole_or_absent_and_told(seed):
    """3 x 200 cancellations of 3 x 250 appends."""
    assert await cancel_at_random(250, seed) >= 100
