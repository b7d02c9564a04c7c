"""How durable appends scale when many wait at once: threads, tasks, processes."""

from __future__ import annotations

import asyncio
import statistics
import threading
import time
from collections.abc import Callable
from typing import Any

import raw
from core import ALWAYS
from harness import KEY, VALUE, Context, Group, ratio_at_least, row
from processes import rate_in_sum

from treering import Wal

TARGETS = {("threads", 64): 8, ("tasks", 1024): 50, ("processes", 4): 3}


def group_commit(context: Context) -> Group:
    """Every append durable at return; each measurement between two of the raw rate."""
    counts = {
        "threads": context.pick((1, 2, 4, 8, 16, 32, 64), (1, 64)),
        "tasks": context.pick((1, 4, 16, 64, 256, 1024), (1, 1024)),
        "processes": context.pick((1, 2, 4), (1, 4)),
    }
    rates = {"threads": _thread_rate, "tasks": _task_rate, "processes": _process_rate}
    seconds = context.pick(0.5, 0.2)
    file = raw.RawFile(context.path("group-raw"))
    found: dict[tuple[str, int], list[tuple[float, float]]] = {}
    times = context.pick(7, 5)
    todo = [(kind, count) for kind in counts for count in counts[kind]] * times
    try:
        before = file.durable_rate(seconds / 3)
        for number, (kind, count) in enumerate(todo):
            rate = rates[kind](context, count, seconds)
            after = file.durable_rate(seconds / 3)
            found.setdefault((kind, count), []).append((rate, (before + after) / 2))
            before = after
            context.progress.show(number / len(todo))
    finally:
        file.close()
    return _report(found, counts)


def _report(
    found: dict[tuple[str, int], list[tuple[float, float]]], counts: dict[str, tuple[int, ...]]
) -> Group:
    group = Group(
        "group",
        "Durable appends, many at once",
        "Appends per second under ALWAYS, as a multiple of the rate at which one thread does raw "
        "pwrite + fdatasync; that is measured just before and just after each.",
    )
    for kind, several in counts.items():
        points = []
        for count in several:
            name = f"{count:,} {kind}"
            pairs = found[kind, count]
            samples = {name: [rate for rate, _ in pairs], "raw": [plain for _, plain in pairs]}
            ours = row(samples, name, "/s", note=f"raw {statistics.median(samples['raw']):,.0f} /s")
            ours.versus = "raw, one thread"
            ours.ratio = statistics.median(rate / plain for rate, plain in pairs)
            if (kind, count) in TARGETS:
                ratio_at_least(ours, TARGETS[kind, count])
            group.rows.append(ours)
            points.append((count, ours.ratio))
        group.plot[kind] = points
    return group


def _thread_rate(context: Context, count: int, seconds: float) -> float:
    with Wal.open(context.path("group"), fsync_policy=ALWAYS) as wal:
        return thread_rate(count, seconds, lambda: wal.put(KEY, VALUE))


def synced(context: Context, make: Callable[[], Any], call: Callable[[Any], object]) -> list[float]:
    """Calls per second of 64 threads on a store that `make` opens anew each time."""
    rates = []
    for _ in range(context.pick(5, 3)):
        with make() as store:
            seconds = context.pick(0.5, 0.2)
            rates.append(thread_rate(64, seconds, lambda store=store: call(store)))
    return rates


def thread_rate(count: int, seconds: float, call: Callable[[], object]) -> float:
    calls = [0] * count
    ready = threading.Barrier(count + 1)
    over = threading.Event()

    def work(number: int) -> None:
        done, is_over = 0, over.is_set
        ready.wait()
        while not is_over():
            call()
            done += 1
        calls[number] = done

    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    ready.wait()
    started = time.perf_counter()
    time.sleep(seconds)
    over.set()
    for thread in threads:
        thread.join()
    return sum(calls) / (time.perf_counter() - started)


def _task_rate(context: Context, count: int, seconds: float) -> float:
    return asyncio.run(_task_rate_in_loop(context, count, seconds))


async def _task_rate_in_loop(context: Context, count: int, seconds: float) -> float:
    import treering.aio

    async with treering.aio.Wal.open(context.path("group"), fsync_policy=ALWAYS) as wal:
        clock = time.perf_counter
        started = clock()
        until = started + seconds

        async def work() -> int:
            done = 0
            while clock() < until:
                await wal.put(KEY, VALUE)
                done += 1
            return done

        done = sum(await asyncio.gather(*(work() for _ in range(count))))
        return done / (clock() - started)


def _process_rate(context: Context, count: int, seconds: float) -> float:
    return rate_in_sum(context.path("group"), count, "always", seconds)
