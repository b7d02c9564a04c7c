"""Async readers give what plain ones give, in chunks; leaving or cancelling loses nothing."""

import asyncio
import gc

import pytest

from tests._logs import contents, pairs, told
from tests.aio._loop import Gate, asynchronous, settle, turns, until
from treering import (
    ClosedError,
    DamageError,
    FsyncPolicy,
    PositionError,
    PrunedError,
    RewoundError,
    UsageError,
    Wal,
    aio,
)
from treering.aio import _reader
from treering.testing import FakeClock, FaultyFiles, MemoryFiles


@pytest.fixture
def files():
    return FaultyFiles(MemoryFiles())


def log_of(files, count, **options):
    """An asyncio handle (to be awaited) on a log with so many records in small segments."""
    options = {"fsync_policy": FsyncPolicy.OS, "segment_bytes_max": 2048} | options
    with Wal.open("/log", files=files, **options) as wal:
        for pair in pairs(0, count):
            wal.put(*pair)
    return aio.Wal.open("/log", files=files, **options)


async def collected(reader):
    return contents([record async for record in reader])


@asynchronous
async def test_reading_forwards_backwards_and_in_ranges(files):
    async with log_of(files, 100) as wal:
        assert await collected(wal.read_from()) == told(0, 100)
        assert await collected(wal.read_from(20, stop=75)) == told(20, 75)
        assert await collected(wal.read_from(100)) == []
        assert await collected(wal.read_from(copy=False)) == told(0, 100)
        assert await collected(wal.read_from(50, durable_only=True)) == told(50, 100)
        assert await collected(wal.read_backwards()) == told(0, 100)[::-1]
        assert await collected(wal.read_backwards(70, stop=30)) == told(30, 70)[::-1]
        assert await collected(wal) == told(0, 100)


@asynchronous
async def test_reading_from_a_time():
    clock = FakeClock(step=1_000_000_000)
    async with log_of(MemoryFiles(), 50, clock=clock) as wal:
        moment = (await wal.read(30)).timestamp
        assert await collected(wal.read_from(time=moment)) == told(30, 50)


@asynchronous
async def test_mistakes_and_losses_come_with_the_first_step(files):
    async with log_of(files, 100) as wal:
        await wal.truncate_before(90)
        for reader, error in [
            (wal.read_from(0), PrunedError),
            (wal.read_from(101), PositionError),
            (wal.read_from("text"), UsageError),
            (wal.read_from(95, time=0), UsageError),
            (wal.read_backwards(101), PositionError),
            (wal.read_from(0, follow=True), PrunedError),
        ]:
            with pytest.raises(error):
                await anext(reader)


@asynchronous
async def test_a_loop_that_was_left_early_can_be_taken_up_again(files):
    async with log_of(files, 60) as wal, wal.read_from() as reader:
        found = []
        for number in (7, 20, 3):
            async for record in reader:
                found.append(record)
                if len(found) % number == 0:
                    break
        assert await collected(reader) == told(len(found), 60)
        assert contents(found) == told(0, len(found))
        with pytest.raises(StopAsyncIteration):
            await anext(reader)


@asynchronous
async def test_a_cancelled_step_loses_no_record(files):
    async with log_of(files, 60) as wal:
        gate = Gate()
        files.stall("read_into", gate.wait, path=".seg")
        reader = wal.read_from()
        step = asyncio.create_task(anext(reader))
        await gate.reached()
        step.cancel()
        assert [type(error) for error in await settle(step)] == [asyncio.CancelledError]
        gate.open()
        assert await collected(reader) == told(0, 60)


@asynchronous
async def test_records_come_in_chunks_not_one_thread_hop_each(monkeypatch):
    hops = []
    loop = asyncio.get_running_loop()
    real = loop.run_in_executor
    monkeypatch.setattr(loop, "run_in_executor", lambda *args: hops.append(args) or real(*args))
    async with log_of(MemoryFiles(), 5000, segment_bytes_max=1 << 20) as wal:
        hops.clear()
        assert len(await collected(wal.read_from())) == 5000
        assert len(hops) < 10


@asynchronous
async def test_memory_stays_flat_however_long_the_log(monkeypatch):
    monkeypatch.setattr(_reader, "CHUNK_BYTES", 4096)
    async with aio.Wal.open("/log", files=MemoryFiles(), fsync_policy=FsyncPolicy.OS) as wal:
        for _ in range(20):
            await wal.append_batch([(b"k", b"v" * 1000)] * 20)
        await wal.append_batch([(b"large", b"v" * 100_000)] * 3)
        for reader in (wal.read_from(), wal.read_backwards()):
            most = 0
            async for _ in reader:
                waiting = reader._ready.__length_hint__()
                most = max(most, waiting)
            assert most <= 4


@asynchronous
async def test_records_before_damage_are_given_before_it_is_told(files):
    async with log_of(files, 60, segment_bytes_max=1 << 16) as wal:
        path = "/log/00000000000000000000.seg"
        content = bytearray(files.inner.contents()[path])
        content[content.index(b"value-40")] ^= 1
        files.inner.put_file(path, bytes(content))
        reader, found = wal.read_from(), []
        with pytest.raises(DamageError) as caught:
            async for record in reader:
                found.append(record)
        assert contents(found) == told(0, 40)
        assert caught.value.position == 40


# --- Following ------------------------------------------------------------------------------------


@asynchronous
async def test_a_follower_sees_each_record_after_it_was_appended(opened):
    async with opened() as wal:
        reader = wal.read_from(follow=True)
        for number in range(60):
            step = asyncio.create_task(anext(reader))
            await turns(number % 3)
            await wal.put(b"key-%d" % number, b"value-%d" % number)
            assert contents([await step]) == told(number, number + 1)
        await reader.aclose()


@asynchronous
async def test_many_followers_are_served_by_one_thread(files):
    async with log_of(files, 10) as wal, asyncio.TaskGroup() as group:
        readers = [wal.read_from(follow=True, stop=30) for _ in range(50)]
        tasks = [group.create_task(collected(reader)) for reader in readers]
        await turns()
        for pair in pairs(10, 30):
            await wal.put(*pair)
            await turns(3)
        for task in tasks:
            assert await task == told(0, 30)
        assert len(wal._growths) == 1


@asynchronous
async def test_a_follower_gives_up_after_its_timeout_and_can_go_on(files):
    async with log_of(files, 3) as wal:
        reader = wal.read_from(follow=True, timeout=0.01)
        assert await collected(reader) == told(0, 3)
        assert not wal._growths[False]._waiting
        await wal.put(*pairs(3, 4)[0])
        assert await collected(reader) == told(3, 4)


@asynchronous
async def test_a_durable_follower_shows_nothing_that_could_be_lost(files):
    async with log_of(files, 0) as wal:
        reader = wal.read_from(follow=True, durable_only=True)
        step = asyncio.create_task(anext(reader))
        await wal.put(*pairs(0, 1)[0])
        await asyncio.sleep(0.01)
        assert not step.done()
        await wal.sync()
        assert contents([await step]) == told(0, 1)
        await reader.aclose()


@asynchronous
async def test_stopping_ends_a_waiting_loop_at_once(files):
    async with log_of(files, 5) as wal:
        reader = wal.read_from(follow=True)
        loop = asyncio.create_task(collected(reader))
        # It registers before it looks, so that alone does not tell that it has all there is.
        await until(lambda: reader._source and reader._source.position == 5)
        await until(lambda: reader._waiting is not None and reader._fetching is None)
        reader.stop()
        assert await loop == told(0, 5)
        assert await collected(reader) == []


@asynchronous
async def test_closing_a_reader_releases_its_file_even_in_mid_step(files):
    async with log_of(files, 60) as wal:
        reader = wal.read_from()
        await anext(reader)
        await reader.aclose()
        await reader.aclose()
        assert await collected(reader) == []
        gate = Gate()
        files.stall("read_into", gate.wait, path=".seg")
        reader = wal.read_from()
        step = asyncio.create_task(anext(reader))
        await gate.reached()
        closing = asyncio.create_task(reader.aclose())
        await turns()
        gate.open()
        await closing
        await settle(step)
    assert files.inner.open_paths == []


@asynchronous
async def test_a_follower_is_told_when_the_log_is_closed_or_cut_behind_it(files):
    async with log_of(files, 20) as wal:
        rewound = asyncio.create_task(collected(wal.read_from(follow=True)))
        await turns()
        await until(lambda: wal._growths[False]._thread is not None)
        await asyncio.sleep(0.01)
        await wal.truncate_after(10)
        assert isinstance((await settle(rewound))[0], RewoundError)
        closed = asyncio.create_task(collected(wal.read_from(follow=True)))
        durable = asyncio.create_task(collected(wal.read_from(follow=True, durable_only=True)))
        await asyncio.sleep(0.01)
    assert [type(end) for end in await settle(closed, durable)] == [ClosedError] * 2


@asynchronous
async def test_a_follower_of_a_read_only_handle_sees_a_writer_elsewhere(files):
    async with (
        log_of(files, 5) as wal,
        aio.Wal.open("/log", files=files, read_only=True) as quiet,
    ):
        follow = asyncio.create_task(collected(quiet.read_from(follow=True, stop=9)))
        for pair in pairs(5, 9):
            await asyncio.sleep(0.002)
            await wal.put(*pair)
        assert await follow == told(0, 9)


@asynchronous
async def test_a_forgotten_reader_is_released(files):
    async with log_of(files, 60) as wal:
        reader = wal.read_from()
        await anext(reader)
        del reader
        gc.collect()
    assert files.inner.open_paths == []
