"""`treering.aio.Wal` writes what `treering.Wal` writes, in the order in which it was asked."""

import asyncio
import inspect

import pytest

from tests._logs import contents, told
from tests.aio._loop import Gate, asynchronous, until
from treering import (
    ClosedError,
    ConflictError,
    FsyncPolicy,
    ReadOnlyError,
    Record,
    TooLargeError,
    UsageError,
    Wal,
    aio,
)
from treering.testing import FakeClock, FaultyFiles, MemoryFiles, PowerCutFiles

# Not awaited: they return what is awaited or iterated over.
NOT_AWAITED = {"open", "read_from", "read_backwards", "batch"}


def public(kind):
    return {name for name in dir(kind) if not name.startswith("_")}


def test_the_twin_has_the_same_methods_and_properties():
    assert public(aio.Wal) == public(Wal)
    for name in public(Wal):
        plain, twin = inspect.getattr_static(Wal, name), inspect.getattr_static(aio.Wal, name)
        assert type(twin) is type(plain), name
        if not isinstance(plain, property):
            plain, twin = getattr(Wal, name), getattr(aio.Wal, name)
            assert list(inspect.signature(twin).parameters) == list(
                inspect.signature(plain).parameters
            ), name
            assert inspect.iscoroutinefunction(twin) == (name not in NOT_AWAITED), name


SCRIPT = [
    ("put", (b"key", b"value"), {}),
    ("put", (b"", b""), {}),
    ("put", (b"headers", b"v"), {"headers": {"a": b"1"}, "stream": 7}),
    ("put", (b"expires", b"v"), {"expires_at": 2e9}),
    ("put", (bytearray(b"not quite"), memoryview(b"bytes")), {}),
    ("put", (b"large", b"x" * 5000), {}),
    ("put", (b"durable", b"v"), {"durable": True}),
    ("put", (b"packed", b"x" * 900), {"compression": "zstd"}),
    ("delete", (b"key",), {}),
    ("delete", (b"key",), {"headers": {"why": b"x"}, "durable": True}),
    ("append", (Record.put(b"record", b"v"),), {}),
    ("append", (Record.delete(b"record"),), {"durable": True}),
    ("append_batch", ([(b"a", b"1"), Record.put(b"b", b"2")],), {}),
    ("append_batch", ([],), {}),
    ("append_batch", ([(b"c", b"3" * 1500)],), {"compression": "lz4", "durable": True}),
    ("sync", (), {}),
    ("flush", (), {}),
    ("current_position", (), {}),
    ("wait_durable", (3,), {}),
    ("wait_durable", (3, 0), {}),
    ("pin", ("me", 4), {}),
    ("truncate_before", (9,), {}),
    ("pins", (), {}),
    ("unpin", ("me",), {}),
    ("truncate_before", (9,), {}),
    ("truncate_after", (14,), {}),
    ("apply_retention", (), {}),
    ("put", (b"after", b"v"), {}),
    ("read", (14,), {}),
    ("check", (), {}),
]
MISTAKES = [
    ("put", ("text", b"v"), {}),
    ("put", (b"k" * 70_000, b"v"), {}),
    ("put", (b"k", b"v"), {"ttl": -1}),
    ("put", (b"k", b"v"), {"ttl": 1, "expires_at": 2e9}),
    ("put", (b"k", b"v"), {"compression": "rar"}),
    ("put", (b"k", b"v"), {"compression": ""}),
    ("put", (b"k", b"v"), {"stream": -1}),
    ("put", (b"k", b"v"), {"headers": {1: b"v"}}),
    ("delete", ("text",), {}),
    ("append", ("text",), {}),
    ("append_batch", (7,), {}),
    ("append_batch", ([(b"a", b"1"), "text"],), {}),
    ("wait_durable", (99,), {}),
    ("wait_durable", (-1,), {}),
    ("wait_durable", (0, -1), {}),
    ("read", (99,), {}),
    ("truncate_before", (99,), {}),
    ("truncate_after", (99,), {}),
    ("pin", ("", 1), {}),
]


def outcome(call, args, options):
    try:
        return plainly(call(*args, **options))
    except Exception as error:
        return type(error), str(error).replace("/twin", "/log")


async def awaited(call, args, options):
    try:
        return plainly(await call(*args, **options))
    except Exception as error:
        return type(error), str(error).replace("/twin", "/log")


def plainly(result):
    return contents([result])[0] if isinstance(result, Record) else result


@pytest.mark.parametrize("policy", ["always", "batch", "os"])
@asynchronous
async def test_the_same_calls_have_the_same_outcomes(policy):
    options = {"segment_bytes_max": 2048, "fsync_policy": FsyncPolicy.parse(policy)}
    wal = Wal.open("/log", files=MemoryFiles(), clock=FakeClock(), **options)
    async with aio.Wal.open("/twin", files=MemoryFiles(), clock=FakeClock(), **options) as twin:
        for name, args, keywords in SCRIPT + MISTAKES:
            said = await awaited(getattr(twin, name), args, keywords)
            assert said == outcome(getattr(wal, name), args, keywords), (name, args, keywords)
        assert twin.first_position == wal.first_position
        assert [record._key() for record in wal] == [record._key() async for record in twin]
        assert (await twin.stats()).keys() == wal.stats().keys()
    wal.close()


@asynchronous
async def test_every_way_to_append_works_in_every_mode(opened):
    async with opened() as wal:
        assert await wal.put(b"key-0", b"value-0") == 0
        assert await wal.append_batch([(b"key-1", b"value-1"), (b"key-2", b"value-2")]) == range(
            1, 3
        )
        assert await wal.append(Record.put(b"key-3", b"value-3")) == 3
        async with wal.batch() as batch:
            batch.put(b"key-4", b"value-4")
            batch.append(Record.put(b"key-5", b"value-5"))
        assert batch.positions == range(4, 6)
        assert await wal.put(b"key-6", b"value-6", headers={"a": b"b"}, ttl=100) == 6
        assert wal.durable_position == 7
        assert contents([record async for record in wal]) == told(0, 7)
        assert await wal.delete(b"key-6") == 7


@asynchronous
async def test_appends_get_positions_in_the_order_in_which_they_were_asked_for(opened):
    async with opened() as wal:
        # Small and large, plain and not: some are stored at once, others have to wait for a roll.
        calls = [
            wal.put(b"%d" % n, b"v" * (n % 700), headers={"h": b""} if n % 3 == 0 else None)
            if n % 5
            else wal.append(Record.put(b"%d" % n, b""))
            for n in range(300)
        ]
        assert await asyncio.gather(*calls) == list(range(300))
        assert [record.key async for record in wal] == [b"%d" % n for n in range(300)]


@asynchronous
async def test_each_policy_means_what_it_says():
    files = FaultyFiles(PowerCutFiles())
    async with aio.Wal.open("/always", files=files) as wal:
        assert await wal.put(b"k", b"v") == 0
        assert wal.durable_position == 1
    async with aio.Wal.open("/os", files=files, fsync_policy=FsyncPolicy.OS) as wal:
        files.forget()
        assert await wal.put(b"k", b"v") == 0
        assert (wal.durable_position, files.count("sync")) == (0, 0)
        assert await wal.put(b"k", b"v", durable=True) == 1
        assert wal.durable_position == 2
        await wal.put(b"k", b"v")
        assert await wal.sync() == 3
    async with aio.Wal.open("/batch", files=files, fsync_policy=FsyncPolicy.batch(1)) as wal:
        await wal.put(b"k", b"v")
        await until(lambda: wal.durable_position == 1)  # without any further call


@asynchronous
async def test_a_batch_is_appended_only_if_its_block_ends_well():
    async with aio.Wal.open("/log", files=MemoryFiles()) as wal:
        with pytest.raises(ZeroDivisionError):
            async with wal.batch() as batch:
                batch.put(b"k", b"v")
                _ = 1 / 0
        assert batch.positions is None
        assert await wal.current_position() == 0
        with pytest.raises(UsageError, match="async with"), wal.batch():
            pass
        async with wal.batch(durable=True) as batch:
            batch.put(b"k", b"v", ttl=5)
            batch.delete(b"k")
        assert batch.positions == range(2)
        with pytest.raises(UsageError, match="appended already"):
            batch.put(b"k", b"v")


@asynchronous
async def test_a_read_only_handle_reads_and_refuses_to_write():
    files = MemoryFiles()
    async with aio.Wal.open("/log", files=files) as wal:
        await wal.append_batch([(b"key-%d" % n, b"value-%d" % n) for n in range(5)])
        async with aio.Wal.open("/log", files=files, read_only=True) as quiet:
            assert await quiet.current_position() == 5
            assert contents([record async for record in quiet]) == told(0, 5)
            assert contents([await quiet.read(3)]) == told(3, 4)
            for call in (quiet.put(b"k", b"v"), quiet.append_batch([(b"k", b"v")]), quiet.sync()):
                with pytest.raises(ReadOnlyError):
                    await call


@asynchronous
async def test_limits_are_named():
    options = {"record_bytes_max": 100_000, "batch_bytes_max": 150_000}
    async with aio.Wal.open("/log", files=MemoryFiles(), **options) as wal:
        with pytest.raises(TooLargeError, match="record_bytes_max"):
            await wal.put(b"k", b"v" * 100_001)
        with pytest.raises(TooLargeError, match="batch_bytes_max"):
            await wal.append_batch([(b"k", b"v" * 80_000)] * 2)
        assert await wal.put(b"k", b"v") == 0


# --- The loop is never blocked --------------------------------------------------------------------


@asynchronous
async def test_the_loop_runs_while_an_append_waits_for_another_holder_of_the_lock():
    files = MemoryFiles()
    wal = await aio.Wal.open("/log", files=files, fsync_policy=FsyncPolicy.OS)
    other = Wal.open("/log", files=files)
    gate = Gate()
    holding = asyncio.to_thread(other._engine.writer.lock.run, gate.wait)
    holder = asyncio.create_task(holding)
    await gate.reached()
    first = asyncio.create_task(wal.put(b"0", b""))
    batch = asyncio.create_task(wal.append_batch([(b"1", b""), (b"2", b"")]))
    last = asyncio.create_task(wal.put(b"3", b"", headers={"a": b"b"}))
    await asyncio.sleep(0.01)  # a blocked loop would not come back from this
    assert not first.done() and not batch.done() and not last.done()
    gate.open()
    await holder
    assert [await first, await batch, await last] == [0, range(1, 3), 3]
    await wal.close()
    other.close()


@asynchronous
async def test_the_loop_runs_while_a_new_segment_is_made():
    files, gate = FaultyFiles(MemoryFiles()), Gate()
    options = {"files": files, "segment_bytes_max": 1024, "fsync_policy": FsyncPolicy.OS}
    async with aio.Wal.open("/log", **options) as wal:
        files.stall("rename", gate.wait, path=".seg")
        tasks = [asyncio.create_task(wal.put(b"%d" % n, b"v" * 60)) for n in range(20)]
        await gate.reached()
        await asyncio.sleep(0.01)
        assert 0 < sum(task.done() for task in tasks) < 20
        assert await wal.current_position() == sum(task.done() for task in tasks)
        gate.open()
        assert await asyncio.gather(*tasks) == list(range(20))


@asynchronous
async def test_other_tasks_append_while_one_waits_for_a_slow_fsync():
    files, gate = FaultyFiles(MemoryFiles()), Gate()
    async with aio.Wal.open("/log", files=files, fsync_policy=FsyncPolicy.OS) as wal:
        files.stall("sync", gate.wait, path=".seg")
        durable = asyncio.create_task(wal.put(b"durable", b"", durable=True))
        await gate.reached()
        assert [await wal.put(b"%d" % n, b"") for n in range(100)] == list(range(1, 101))
        assert not durable.done()
        gate.open()
        assert await durable == 0


@asynchronous
async def test_what_is_asked_of_a_closed_handle_says_so():
    wal = await aio.Wal.open("/log", files=MemoryFiles())
    await wal.put(b"k", b"v")
    await wal.close()
    await wal.close()
    assert wal.closed and "closed" in repr(wal)
    for name, args, keywords in SCRIPT:
        with pytest.raises(ClosedError):
            await getattr(wal, name)(*args, **keywords)
    with pytest.raises(ClosedError):
        _ = [record async for record in wal.read_from()]
    with pytest.raises(ClosedError):
        _ = [record async for record in wal.read_from(follow=True)]


def test_an_append_on_a_condition(tmp_path):
    async def story():
        async with aio.Wal.open(tmp_path / "conditional") as wal:
            assert await wal.append_batch([(b"k", b"v")], at=0) == range(1)
            with pytest.raises(ConflictError):
                await wal.append_batch([(b"k", b"v")], at=0)
            assert await wal.append_batch([(b"k", b"v")] * 2, at=1, durable=True) == range(1, 3)

    asyncio.run(story())
