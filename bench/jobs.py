"""The job queue beside queues that a Python user would otherwise pick."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from itertools import repeat
from typing import Any

import peers
from groups import thread_rate
from harness import VALUE, Context, Group, Row, opening, ratio_at_least, rounds, row

from treering import FsyncPolicy
from treering.stores.jobs import JobQueue

Stack = contextlib.ExitStack
Block = Callable[[], float]

_EACH = 40
_OURS = 2_000
_THREADS = 64
_TEXT = VALUE.decode()
_TARGET = 20


def job_queue(context: Context) -> Group:
    """put, and get with ack, in two classes of durability; many threads; opening."""
    depth = context.pick(2_000, 500)
    group = Group(
        "job-queue",
        "Job queue",
        f"100-byte bodies, a call each; jobs are taken from queues in which {depth:,} more wait "
        "(litequeue's pop takes time in proportion to them). litequeue does not sync, so it "
        "stands beside OS; "
        "persist-queue commits every call with sync, so it stands beside ALWAYS (whose get is only "
        "written). One thread cannot be quicker than the device's fsync.",
    )
    found = peers.Found()
    with Stack() as stack:
        written = _Ours(context, stack, "jobs-os", FsyncPolicy.OS, depth)
        durable = _Ours(context, stack, "jobs-always", FsyncPolicy.ALWAYS, depth)
        found.add("litequeue put", "litequeue", lambda lib: _Lite(lib, context, stack, 0).put)
        found.add(
            "litequeue pop + done", "litequeue", lambda lib: _Lite(lib, context, stack, depth).work
        )
        found.add("persist-queue put", "persistqueue", lambda lib: _Persist(lib, context, 0).put)
        found.add(
            "persist-queue get + ack",
            "persistqueue",
            lambda lib: _Persist(lib, context, depth).work,
        )
        samples = rounds(
            context,
            {
                "put, OS": written.put,
                "get + ack, OS": written.work,
                "put, ALWAYS": durable.put,
                "get + ack, ALWAYS": durable.work,
                **found.found,
            },
            context.pick(9, 5),
        )
    for ours, theirs in (
        ("put, OS", "litequeue put"),
        ("get + ack, OS", "litequeue pop + done"),
        ("put, ALWAYS", "persist-queue put"),
        ("get + ack, ALWAYS", "persist-queue get + ack"),
    ):
        versus = theirs if theirs in samples else ""
        mine = row(samples, ours, "us", scale=1e6, versus=versus, faster=True)
        if versus and "OS" in ours:
            ratio_at_least(mine, _TARGET)
        group.rows.append(mine)
        if versus:
            group.rows.append(row(samples, theirs, "us", scale=1e6))
    group.rows += [*found.missing, *_many_threads(context), _opening(context)]
    return group


class _Ours:
    def __init__(
        self, context: Context, stack: Stack, name: str, policy: FsyncPolicy, depth: int
    ) -> None:
        path = context.path(name)
        queue = JobQueue(path, fsync_policy=policy, checkpoint_bytes=None)
        self._queue, self._depth = stack.enter_context(queue), depth
        self._each = _EACH if policy == FsyncPolicy.ALWAYS else _OURS

    def put(self) -> float:
        self._queue.purge()
        return _times(lambda: self._queue.put(VALUE), self._each)

    def work(self) -> float:
        missing = self._depth + self._each - len(self._queue)
        self._queue.put_many(repeat(VALUE, max(0, missing)))
        return _times(lambda: self._queue.ack(self._queue.get()), self._each)


class _Lite:
    def __init__(self, library: Any, context: Context, stack: Stack, depth: int) -> None:
        path = context.path(f"jobs-lite-{depth}")
        path.mkdir()
        self._queue = library.LiteQueue(str(path / "db"))
        stack.callback(self._queue.close)
        for _ in repeat(None, depth):
            self._queue.put(_TEXT)

    def put(self) -> float:
        return _times(lambda: self._queue.put(_TEXT), _EACH)

    def work(self) -> float:
        for _ in repeat(None, _EACH):
            self._queue.put(_TEXT)
        return _times(lambda: self._queue.done(self._queue.pop().message_id), _EACH)


class _Persist:
    def __init__(self, library: Any, context: Context, depth: int) -> None:
        path = str(context.path(f"jobs-persist-{time.monotonic_ns()}"))
        self._queue = library.SQLiteAckQueue(path, auto_commit=True, multithreading=True)
        for _ in repeat(None, depth):
            self._queue.put(VALUE)

    def put(self) -> float:
        return _times(lambda: self._queue.put(VALUE), _EACH)

    def work(self) -> float:
        for _ in repeat(None, _EACH):
            self._queue.put(VALUE)
        return _times(lambda: self._queue.ack(self._queue.get(block=False)), _EACH)

    def rate(self, seconds: float) -> float:
        """Puts per second of many threads."""
        return thread_rate(_THREADS, seconds, lambda: self._queue.put(VALUE))


def _times(call: Callable[[], object], count: int) -> float:
    started = time.perf_counter()
    for _ in repeat(None, count):
        call()
    return (time.perf_counter() - started) / count


def _many_threads(context: Context) -> list[Row]:
    """Durable puts, and durable rounds of put, get and ack, per second."""
    seconds = context.pick(0.5, 0.2)
    found = peers.Found()

    def persist(library: Any) -> Block:
        return lambda: _Persist(library, context, 0).rate(seconds)

    found.add("persist-queue", "persistqueue", persist)
    blocks = {
        "put": lambda: _rate(context, seconds, lambda queue: queue.put(VALUE)),
        "round": lambda: _rate(context, seconds, _round),
        **found.found,
    }
    samples = rounds(context, blocks, context.pick(5, 3))
    rows = []
    for name, label in (
        ("put", f"{_THREADS} threads, durable puts"),
        ("round", f"{_THREADS} threads, put + get + ack, durable"),
        ("persist-queue", f"{_THREADS} threads, persist-queue puts"),
    ):
        if name in samples:
            rows.append(row(samples, name, "/s", label=label))
    if "persist-queue" in samples:
        rows[0].versus, rows[0].ratio = rows[2].name, rows[0].value / rows[2].value
        ratio_at_least(rows[0], _TARGET)
    return rows


def _rate(context: Context, seconds: float, call: Callable[[JobQueue], object]) -> float:
    with JobQueue(context.path("jobs-threads"), checkpoint_bytes=None) as queue:
        return thread_rate(_THREADS, seconds, lambda: call(queue))


def _round(queue: JobQueue) -> None:
    queue.put(VALUE)
    job = queue.get()
    if job is not None:
        queue.ack(job)


def _opening(context: Context) -> Row:
    """Seconds to open a queue, and to take its first job."""
    count = context.pick(1_000_000, 100_000)
    path = context.path("jobs-opening")
    options = {"fsync_policy": FsyncPolicy.OS, "checkpoint_bytes": None}
    with JobQueue(path, **options) as queue:
        for _ in range(count // 1000):
            queue.put_many([VALUE] * 1000)
        queue.checkpoint()
    seconds = opening(context, lambda: JobQueue(path, **options), lambda queue: queue.get())
    label = f"open with {count:,} jobs, and get one"
    return row({"open": seconds}, "open", "s", label=label)
