"""Cancelling appends at every step: each is in the log or not, and the caller learns which."""

import asyncio
import random
import threading

from tests.aio._loop import Gate, turns
from treering import Record, Wal, aio
from treering.testing import FaultyFiles, MemoryFiles

APPENDS = ("put", "put with headers", "put durably", "delete", "append", "append_batch", "batch")
WAITS = ("sync", "wait_durable")
# The first steps are turns of the loop, the others also give the threads time to go on.
TURNS = 4
STEPS = 8
# What is in the way while somebody is cancelled.
IN_THE_WAY = ("nothing", "the append lock", "the disk")


async def append(wal, kind, key):
    """One of the ways to append, each record with that key; or to wait for what is there."""
    if kind == "put":
        return await wal.put(key, b"v" * 40)
    if kind == "put with headers":
        return await wal.put(key, b"v", headers={"a": b"b"})
    if kind == "put durably":
        return await wal.put(key, b"v", durable=True)
    if kind == "delete":
        return await wal.delete(key)
    if kind == "append":
        return await wal.append(Record.put(key, b"v" * 300))
    if kind == "append_batch":
        return await wal.append_batch([(key, b"1"), (key, b"2"), (key, b"3")])
    if kind == "sync":
        return await wal.sync()
    if kind == "wait_durable":
        return await wal.wait_durable(await wal.current_position() - 1)
    async with wal.batch() as batch:
        batch.put(key, b"1")
        batch.put(key, b"2")
    return batch.positions


class Outcome:
    """What became of one call, and what its caller learnt."""

    def __init__(self, wal, kind, key):
        self.kind = kind
        self.key = key
        self.cancelled = False
        self.told = None
        self.task = asyncio.create_task(append(wal, kind, key))

    async def learn(self):
        """Wait for the call's end; ask for the position when it was cancelled."""
        try:
            self.told = await self.task
        except asyncio.CancelledError as error:
            self.cancelled = True
            self.told = await aio.cancelled_position(error)

    def judge(self, log):
        """`log` maps each key to the positions where it is."""
        found = log.get(self.key, [])
        if self.kind in WAITS:
            assert not found
            return
        assert self.told is None or isinstance(self.told, range) == ("batch" in self.kind)
        told = [self.told] if isinstance(self.told, int) else list(self.told or ())
        assert found == told, f"{self.kind}: told {self.told}, found at {found}"
        assert self.cancelled or found, f"{self.kind} returned, and the record is not there"


async def judge(wal, outcomes):
    """Compare what the callers learnt with what is there; how many calls were cancelled."""
    end = await wal.put(b"and it goes on", b"")
    log = {}
    async for record in wal:
        log.setdefault(record.key, []).append(record.position)
    found = [position for positions in log.values() for position in positions]
    assert sorted(found) == list(range(end + 1))
    for outcome in outcomes:
        outcome.judge(log)
    await wal.check()
    return sum(outcome.cancelled for outcome in outcomes)


# --- Step by step --------------------------------------------------------------------------------


class Obstacle:
    """What is in the way, until it is taken away."""

    def __init__(self, kind, files, rival):
        self._gate = Gate()
        self._holding = None
        self._fault = None
        if kind == "the append lock":
            hold = rival._engine.writer.lock.run
            self._holding = asyncio.create_task(asyncio.to_thread(hold, self._gate.wait))
        if kind == "the disk":
            self._fault = files.stall("sync", self._gate.wait, path=".seg", lasting=True)
        self._files = files

    async def stand(self):
        """Return when it is in the way."""
        if self._holding is not None:
            await self._gate.reached()

    async def remove(self):
        """Let everybody go on."""
        self._gate.open()
        if self._holding is not None:
            await self._holding
        if self._fault is not None:
            self._files.heal(self._fault)


async def cancel_at_each_step(policy, in_the_way):
    """Cancel each kind of call after each step; how many were cancelled.

    Each has a neighbour before and one behind, whom it must not disturb.
    """
    files = FaultyFiles(MemoryFiles(), record=False)
    outcomes = []
    async with aio.Wal.open(
        "/log", files=files, fsync_policy=policy, segment_bytes_max=4096
    ) as wal:
        rival = Wal.open("/log", files=files, fsync_policy=policy)
        for kind in (*APPENDS, *WAITS):
            for step in range(STEPS):
                await wal.put(b"before all", b"", durable=step % 2 == 0)
                obstacle = Obstacle(in_the_way, files, rival)
                await obstacle.stand()
                number = len(outcomes)
                outcomes += await cancel_after(wal, kind, step, number, obstacle)
        rival.close()
        return await judge(wal, outcomes)


async def cancel_after(wal, kind, step, number, obstacle):
    """The outcomes of a call that was cancelled after `step` steps, and of its neighbours."""
    kinds = ("put durably", kind, "put durably")
    calls = [Outcome(wal, each, b"%d" % (number + n)) for n, each in enumerate(kinds)]
    await turns(min(step, TURNS))
    for _ in range(step - TURNS):
        await asyncio.sleep(0.0005)
    calls[1].task.cancel()
    await turns(3)
    await obstacle.remove()
    await asyncio.gather(*(call.learn() for call in calls))
    assert not calls[0].cancelled and not calls[2].cancelled
    return calls


# --- At random -----------------------------------------------------------------------------------


async def cancel_at_random(cases, seed):
    """Start appends and cancel most of them, some later than others; how many were cancelled.

    Segments are small, fsyncs take a moment, and another handle holds the append lock every now and
    then: so appends are cancelled at once, while they wait in line, in a worker's hands, and while
    they wait for the disk.
    """
    rng = random.Random(seed)
    files = FaultyFiles(MemoryFiles(), record=False)
    moment = threading.Event()
    files.stall("sync", lambda: moment.wait(rng.random() * 0.002), path=".seg", lasting=True)
    outcomes = []
    async with aio.Wal.open("/log", files=files, segment_bytes_max=4096) as wal:
        rival = Wal.open("/log", files=files)
        while len(outcomes) < cases:
            group = [
                Outcome(wal, rng.choice(APPENDS), b"%d" % (len(outcomes) + n)) for n in range(25)
            ]
            outcomes += group
            lock, held = rival._engine.writer.lock, None
            if rng.random() < 0.3:
                held = asyncio.create_task(asyncio.to_thread(lock.run, moment.wait, 0.001))
            for outcome in rng.sample(group, 20):
                await turns(rng.randrange(4))
                outcome.task.cancel()
            await asyncio.gather(*(outcome.learn() for outcome in group))
            if held is not None:
                await held
        rival.close()
        return await judge(wal, outcomes)
