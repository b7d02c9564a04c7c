"""Event loops that stop with appends still in line: nothing hangs, nothing that returned is lost."""

import asyncio
import gc
import random
import threading
import time

import pytest

from tests.aio._loop import PATIENCE, Gate
from treering import FsyncPolicy, Wal, aio
from treering.testing import FaultyFiles, MemoryFiles

TASKS = 30


class Crowd:
    """Tasks that append, whichever loop they are in; remembers what returned."""

    def __init__(self, files, rng, **options):
        self.files = files
        self.rng = rng
        self.options = {"files": files, "segment_bytes_max": 4096, **options}
        self.returned = {}
        self.wal = None

    async def put(self, key):
        """Append; note it when that has returned."""
        position = await self.wal.put(key, b"v" * self.rng.randrange(200))
        assert position not in self.returned
        self.returned[position] = key

    async def follow(self):
        """Read what is there and comes."""
        async for record in self.wal.read_from(follow=True):
            assert record.position >= 0

    async def begin(self, number):
        """Open the log if there is no handle, and start the tasks."""
        if self.wal is None:
            self.wal = await aio.Wal.open("/log", **self.options)
        tasks = [asyncio.create_task(self.put(b"%d/%d" % (number, n))) for n in range(TASKS)]
        tasks.append(asyncio.create_task(self.follow()))
        return tasks

    async def look(self):
        """A later loop: the log works, and has all that returned."""
        position = await self.wal.put(b"later", b"", durable=True)
        assert self.wal.durable_position > position
        found = {record.position: record.key async for record in self.wal}
        assert found[position] == b"later"
        # Threads of handles that were left may still be appending what was asked of them.
        assert list(found) == list(range(len(found)))
        assert self.returned.items() <= found.items()
        keys = [key for key in found.values() if key != b"later"]
        assert len(keys) == len(set(keys))


def run_for(seconds, crowd, number, end):
    """A loop that stops after a while, whatever its tasks are doing, and ends in that way."""
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)  # that tasks die with their loop is what we want
    tasks = loop.run_until_complete(crowd.begin(number))
    loop.call_later(seconds, loop.stop)
    loop.run_forever()
    end(loop, tasks)
    loop.close()


def abandon(loop, tasks):
    """The tasks are left as they are."""


def cancel(loop, tasks):
    """As asyncio.run does it."""
    for task in tasks:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    loop.run_until_complete(loop.shutdown_default_executor())


def within_patience(coroutine):
    """Run it in a loop of its own."""
    asyncio.run(asyncio.wait_for(coroutine, PATIENCE))


@pytest.mark.filterwarnings("ignore:coroutine")
@pytest.mark.parametrize("handle", ["the same handle", "a new handle"])
@pytest.mark.parametrize("end", [abandon, cancel])
@pytest.mark.parametrize("policy", ["os", "batch:1", "always"])
def test_loops_that_stop_with_appends_in_line_harm_nobody(policy, end, handle):
    rng = random.Random(f"{policy} {end.__name__} {handle}")
    files = FaultyFiles(MemoryFiles(), record=False)
    moment = threading.Event()
    files.stall("sync", lambda: moment.wait(rng.random() * 0.002), path=".seg", lasting=True)
    crowd = Crowd(files, rng, fsync_policy=FsyncPolicy.parse(policy))
    with Wal.open("/log", **crowd.options) as rival:
        for number in range(12):
            hold = threading.Thread(target=rival._engine.writer.lock.run, args=(moment.wait, 0.003))
            hold.start()
            run_for(rng.random() * 0.006, crowd, number, end)
            if handle == "a new handle":
                crowd.wal = None
            hold.join()
            if number % 3 == 2:
                crowd.wal = crowd.wal or within(crowd)
                within_patience(crowd.look())
        crowd.wal = crowd.wal or within(crowd)
        asyncio.run(crowd.wal.close())
    del crowd
    gc.collect()  # what dies with the tasks that were left makes no noise


def within(crowd):
    async def open_it():
        return await aio.Wal.open("/log", **crowd.options)

    return asyncio.run(open_it())


@pytest.mark.parametrize("process_lock", ["auto", "file"])
@pytest.mark.parametrize("step", ["open", "sync"])
def test_d13_the_collector_may_close_a_forgotten_handle_inside_an_append(step, process_lock):
    """The tasks of a loop that is gone are found by the collector, at any step of any thread."""
    files = FaultyFiles(MemoryFiles())
    options = {"files": files, "segment_bytes_max": 4096, "process_lock": process_lock}
    forget(Wal.open("/log", **options))
    with Wal.open("/log", fsync_policy=FsyncPolicy.OS, **options) as wal:
        collecting = files.stall(step, gc.collect, lasting=True)

        def write():
            for number in range(40):
                wal.put(b"%d" % number, b"v" * 500, durable=number % 8 == 0)

        writer = threading.Thread(target=write, daemon=True)
        started = time.monotonic()
        writer.start()
        writer.join(PATIENCE)
        assert time.monotonic() - started < PATIENCE / 3, "it waited for itself"
        assert collecting.hits
        files.heal(collecting)
        assert wal.current_position() == 40


def forget(wal):
    """Only the collector can find it."""
    circle = [wal]
    circle.append(circle)


def test_a_log_whose_opening_outlives_its_loop_is_closed_again(caplog):
    files, gate = FaultyFiles(MemoryFiles()), Gate()
    files.stall("open", gate.wait, path="lock")
    opening = []

    async def give_up():
        opening.append(asyncio.create_task(aio.Wal.open("/log", files=files)._open()))
        await gate.reached()
        threading.Timer(0.02, gate.open).start()

    # It cancels what is left, and ends the threads that the loop would need to close the log.
    asyncio.run(give_up())
    assert opening[0].cancelled()
    with Wal.open("/log", files=files, exclusive=True) as wal:
        assert wal.put(b"k", b"v") == 0
    assert not caplog.records


def test_an_interrupted_program_loses_nothing_that_returned():
    rng = random.Random(2)
    crowd = Crowd(MemoryFiles(), rng)

    async def until_interrupted():
        tasks = await crowd.begin(0)
        await tasks[3]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(until_interrupted())
    assert crowd.returned
    within_patience(crowd.look())
    asyncio.run(crowd.wal.close())
