"""The job queue's loops: in threads, in asyncio tasks, in processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
import time

import pytest

from tests.processes.jobs_tasks import die_once, note
from treering import FailedError, FsyncPolicy, UsageError
from treering.stores.jobs import JobQueue, WorkersDieError, work_processes
from treering.testing import FaultyFiles, MemoryFiles

OPTIONS = {"fsync_policy": FsyncPolicy.OS, "checkpoint_bytes": None, "segment_bytes_max": 16384}
PATIENCE_SECONDS = 20


@pytest.fixture
def queue():
    with JobQueue("/jobs", files=MemoryFiles(), retry_delay=0.01, **OPTIONS) as queue:
        yield queue
        queue.check()


def until(condition):
    end = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


# --- threads ---


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("prefetch", [1, 7])
def test_every_job_is_handled_once(queue, threads, prefetch):
    queue.put_many([b"%d" % n for n in range(200)])
    seen = []
    count = queue.work(
        lambda job: seen.append(int(job.body)),
        threads=threads,
        prefetch=prefetch,
        until_empty=True,
    )
    assert count == 200 and sorted(seen) == list(range(200))
    assert threads > 1 or seen == list(range(200)), "one thread keeps the order"


def test_a_handler_that_raises_has_its_job_tried_again_and_then_buried(queue):
    queue.put(b"bad")
    queue.put(b"good")
    tries = []

    def handle(job):
        tries.append(job.body)
        if job.body == b"bad":
            raise ValueError("no such thing")

    assert queue.work(handle, until_empty=True) == 1
    assert tries.count(b"bad") == 5 and tries.count(b"good") == 1
    (dead,) = queue.dead()
    assert dead.error == "ValueError: no such thing" and dead.reason == "failed"


def test_a_stop_finishes_what_is_in_hand_and_gives_back_the_rest(queue):
    queue.put_many([b"%d" % n for n in range(10)])
    stop, begun, go_on = threading.Event(), threading.Event(), threading.Event()
    counts = []

    def handle(job):
        begun.set()
        assert go_on.wait(PATIENCE_SECONDS)

    thread = threading.Thread(
        target=lambda: counts.append(queue.work(handle, stop=stop, prefetch=5))
    )
    thread.start()
    assert begun.wait(PATIENCE_SECONDS)
    assert queue.counts()["leased"] == 5
    stop.set()
    go_on.set()
    thread.join(PATIENCE_SECONDS)
    assert counts == [1]
    assert queue.counts() == {"ready": 9, "delayed": 0, "leased": 0, "dead": 0}
    assert {job.attempt for job in queue.jobs()} == {0}


def test_the_heartbeat_keeps_a_long_job(queue):
    """For the job in hand and for those that wait behind it."""
    queue.put_many([b"long", b"next"])
    stolen, stop = [], threading.Event()

    def handle(job):
        if job.body == b"long":
            time.sleep(1)

    thread = threading.Thread(
        target=queue.work, args=(handle,), kwargs={"lease": 0.3, "prefetch": 2, "stop": stop}
    )
    thread.start()
    until(lambda: queue.counts()["leased"] == 2)
    while len(queue):
        stolen.append(queue.get(timeout=0.05))
    stop.set()
    thread.join(PATIENCE_SECONDS)
    assert not any(stolen)


def test_a_job_that_was_cancelled_meanwhile_does_not_stop_the_loop(queue):
    queue.put_many([b"cancelled", b"next"])

    def handle(job):
        if job.body == b"cancelled":
            queue.cancel(job.id)

    assert queue.work(handle, until_empty=True) == 1


def test_a_loop_ends_when_the_log_fails():
    memory = MemoryFiles()
    files = FaultyFiles(memory)
    queue = JobQueue("/jobs", files=files, checkpoint_bytes=None)
    queue.put_many([b"%d" % n for n in range(10)])

    def handle(job):
        if job.body == b"5":
            files.fail(lambda call: call.name.startswith("sync"), number=5)

    with pytest.raises(FailedError):
        queue.work(handle, threads=2)
    files.heal()
    with contextlib.suppress(FailedError):
        queue.close()


def test_an_exit_within_a_handler_ends_the_loop_and_keeps_the_job(queue):
    queue.put(b"one")

    def handle(job):
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        queue.work(handle)
    assert queue.get().attempt == 1


def test_an_interrupt_finishes_what_is_in_hand(queue):
    queue.put(b"one")
    begun = threading.Event()

    def handle(job):
        begun.set()
        time.sleep(0.2)

    def press():
        begun.wait(PATIENCE_SECONDS)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        queue.work(handle)
    thread.join()
    assert len(queue) == 0


def test_many_threads_on_one_handle_get_each_job_once(queue):
    """Putters, takers that ack, nack, release or let their leases run out, and checkpoints."""
    acked, put, over = [], [], threading.Event()

    def putting(number):
        for n in range(150):
            put.append(queue.put(b"%d/%d" % (number, n), priority=n % 3))

    def taking(number):
        n = 0
        while not over.is_set() or len(queue):
            job = queue.get(0.02)
            if job is None:
                continue
            n += 1
            if n % 5 == 0:
                queue.nack(job, 0)
            elif n % 7 == 0:
                queue.release(job)
            else:
                queue.ack(job)
                acked.append(job.id)

    def checkpointing():
        while not over.is_set():
            queue.checkpoint()
            time.sleep(0.01)

    queue._terms = queue._terms._replace(attempts_max=None)
    putters = [threading.Thread(target=putting, args=(n,)) for n in range(3)]
    others = [threading.Thread(target=taking, args=(n,)) for n in range(4)]
    others.append(threading.Thread(target=checkpointing))
    for thread in (*putters, *others):
        thread.start()
    for thread in putters:
        thread.join()
    over.set()
    for thread in others:
        thread.join(PATIENCE_SECONDS)
    assert sorted(acked) == sorted(put) and len(set(put)) == 450


# --- asyncio ---


def test_tasks_work_off_a_queue(queue):
    queue.put_many([b"%d" % n for n in range(100)])
    queue.put(b"bad")
    running = most = 0

    async def handle(job):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001)
        running -= 1
        if job.body == b"bad":
            raise ValueError("bad")

    assert asyncio.run(queue.work_async(handle, concurrency=8, until_empty=True)) == 100
    assert most == 8 and queue.dead()[0].error == "ValueError: bad"


def test_a_cancelled_task_takes_no_job_along(queue):
    async def main():
        waiting = asyncio.create_task(queue.get_async())
        await asyncio.sleep(0.05)
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waiting
        queue.put(b"one")
        await asyncio.sleep(0.05)
        return await queue.get_async(5)

    assert asyncio.run(main()).attempt == 1


def test_a_cancelled_loop_gives_back_what_it_has(queue):
    queue.put_many([b"one", b"two", b"three"])

    async def main():
        async def handle(job):
            await asyncio.sleep(60)

        task = asyncio.create_task(queue.work_async(handle, concurrency=2))
        while queue.counts()["leased"] < 2:
            await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert queue.counts()["ready"] == 3


def test_async_for_waits_for_jobs_and_the_loop_goes_on(queue):
    async def main():
        turns = 0

        async def turn():
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0.005)

        async def put():
            await asyncio.sleep(0.1)
            await asyncio.to_thread(queue.put, b"two")

        queue.put(b"one")
        tasks = [asyncio.create_task(turn()), asyncio.create_task(put())]
        found = []
        async for job in queue.jobs_async():
            found.append(job.body)
            await asyncio.to_thread(queue.ack, job)
            if len(found) == 2:
                break
        for task in tasks:
            task.cancel()
        return found, turns

    found, turns = asyncio.run(main())
    assert found == [b"one", b"two"] and turns >= 5


def test_the_heartbeat_of_tasks_and_their_stop(queue):
    queue.put_many([b"one", b"two"])

    async def main():
        stop = asyncio.Event()

        async def handle(job):
            stop.set()
            await asyncio.sleep(0.6)
            assert queue.job(job.id).token == job.token

        return await queue.work_async(handle, stop=stop, lease=0.2)

    assert asyncio.run(main()) == 1
    assert [job.attempt for job in queue.jobs()] == [0]


# --- processes ---


def test_processes_work_off_a_queue_and_dead_ones_are_replaced(tmp_path):
    path = str(tmp_path / "jobs")
    with JobQueue(path, **OPTIONS) as queue:
        queue.put_many([os.fsencode(tmp_path / f"note-{n}") for n in range(30)])
        queue.put(os.fsencode(tmp_path / "poison"), priority=1)
        replaced = work_processes(
            path,
            die_once,
            processes=2,
            start_method="fork",
            queue={"lease": 0.3, "fsync_policy": FsyncPolicy.OS},
            until_empty=True,
        )
        assert replaced == 1 and len(queue) == 0 and not queue.dead()
    assert len(list(tmp_path.glob("note-*"))) == 30
    assert (tmp_path / "poison").read_bytes() == b"2", "the second attempt"


def test_processes_stop_at_a_signal_and_finish_what_they_have(tmp_path):
    path = str(tmp_path / "jobs")
    with JobQueue(path, **OPTIONS) as queue:
        queue.put_many([os.fsencode(tmp_path / f"note-{n}") for n in range(4000)])

        def stop():
            until(lambda: len(queue) < 3990)
            os.kill(os.getpid(), signal.SIGTERM)

        thread = threading.Thread(target=stop)
        thread.start()
        work_processes(path, note, processes=2, start_method="fork")
        thread.join()
        counts = queue.counts()
        assert 0 < counts["ready"] == len(queue) < 4000, "nobody holds a lease"
        assert len(list(tmp_path.glob("note-*"))) == 4000 - len(queue)


def test_processes_are_spawned_by_default(tmp_path):
    path = str(tmp_path / "jobs")
    with JobQueue(path, **OPTIONS) as queue:
        queue.put(os.fsencode(tmp_path / "note"))
        assert work_processes(path, note, processes=1, until_empty=True) == 0
        assert len(queue) == 0


def test_workers_that_cannot_start_end_it(tmp_path):
    with pytest.raises(WorkersDieError):
        work_processes(
            str(tmp_path / "jobs"), note, processes=2, start_method="fork", queue={"lease": -1}
        )
    with pytest.raises(UsageError):
        work_processes(str(tmp_path / "jobs"), note, start_method="telepathy")
