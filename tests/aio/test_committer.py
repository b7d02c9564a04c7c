"""Trouble of the thread that waits for fsyncs: who is told, and what goes on (D6)."""

import asyncio
import errno
import threading

import pytest

from tests.aio._loop import Gate, asynchronous, settle, turns
from tests.threads._crew import crew
from treering import FailedError, FsyncPolicy, StorageError, Wal, aio
from treering.testing import FaultyFiles, MemoryFiles


def by_committer(wal, name):
    """Whether a call of this name is made by the handle's thread for fsyncs."""
    return lambda call: call.name == name and threading.get_ident() == wal._committer._thread._ident


async def rolled(files):
    """A handle whose fsyncs need a descriptor of a new tail: another one has rolled."""
    options = {"files": files, "segment_bytes_max": 4096, "fsync_policy": FsyncPolicy.OS}
    wal = await aio.Wal.open("/log", **options)
    await wal.put(b"0", b"", durable=True)
    with Wal.open("/log", **options) as rival:
        for _ in range(10):
            rival.put(b"fill", b"v" * 500)
        assert rival.stats()["segments"] > 1
    return wal


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR])
@asynchronous
async def test_d6_no_free_descriptor_is_told_to_those_who_wait_and_the_log_goes_on(number):
    files = FaultyFiles(MemoryFiles())
    wal = await rolled(files)
    fault = files.fail(by_committer(wal, "open"), number=number, lasting=True)
    puts = [asyncio.create_task(wal.put(b"%d" % n, b"", durable=True)) for n in range(30)]
    errors = await settle(*puts)
    assert fault.hits
    assert [type(error) for error in errors] == [StorageError] * 30
    assert {error.errno for error in errors} == {number}
    assert len({id(error) for error in errors}) == 30, "each task has an error of its own"
    with pytest.raises(StorageError):
        await wal.sync()
    files.heal()
    # What was appended meanwhile is in the log, and becomes durable with the next.
    position = await wal.put(b"after", b"", durable=True)
    assert wal.durable_position == position + 1
    await wal.check()
    keys = [record.key async for record in wal]
    assert keys[-31:] == [b"%d" % n for n in range(30)] + [b"after"]
    await wal.close()


def test_d6_a_failed_fsync_is_told_to_those_who_wait_in_every_loop_and_behind_it():
    files, gate = FaultyFiles(MemoryFiles()), Gate()
    wal = asyncio.run(opened(files))
    files.stall("sync", gate.wait, path=".seg")
    files.fail("sync", path=".seg", number=errno.EIO)

    async def work():
        first = [asyncio.create_task(wal.put(b"%d" % n, b"")) for n in range(10)]
        await gate.reached()
        behind = [asyncio.create_task(wal.put(b"%d" % n, b"")) for n in range(10)]
        await turns()
        assert not any(task.done() for task in first + behind)
        ready.wait()
        gate.open()
        return await settle(*first, *behind)

    ready = threading.Barrier(3)
    with crew() as start:
        hands = [start(asyncio.run, work()) for _ in range(3)]
    for hand in hands:
        assert [type(error) for error in hand.result] == [FailedError] * 20
    assert wal.durable_position == 1
    with pytest.raises(FailedError):
        asyncio.run(wal.close())


async def opened(files):
    """A handle, with one durable record."""
    wal = await aio.Wal.open("/log", files=files)
    await wal.put(b"durable", b"")
    return wal
