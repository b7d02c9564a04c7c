"""What takes several processes, or one of its own: appends at once, opening, following, memory."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from core import OS, fill
from harness import (
    KEY,
    VALUE,
    Context,
    Group,
    Row,
    at_least,
    at_most,
    judge,
    percentile,
    rounds,
    row,
)

from treering import Wal

WORKER = Path(__file__).with_name("worker.py")
MIB = 1 << 20


class Worker:
    """A process in one of the roles of worker.py."""

    def __init__(
        self,
        role: str,
        *,
        environment: dict[str, str] | None = None,
        keep: tuple[int, ...] = (),
        **arguments: Any,
    ) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(WORKER), role, json.dumps(arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | (environment or {}),
            pass_fds=keep,
        )

    def hear(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"a worker ended with status {self.process.wait()}")
        told: dict[str, Any] = json.loads(line)
        return told

    def say(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def end(self) -> None:
        """Let it finish, or help it to."""
        process = self.process
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def workers(count: int, role: str, **arguments: Any) -> Iterator[list[Worker]]:
    """That many workers of one kind, all of them ready."""
    started = [Worker(role, **arguments) for _ in range(count)]
    try:
        for worker in started:
            worker.hear()
        yield started
    finally:
        for worker in started:
            worker.end()


def rate_in_sum(path: Path, count: int, policy: str, seconds: float) -> float:
    """Appends per second of `count` processes at once."""
    with workers(count, "append_for", path=str(path), policy=policy, seconds=seconds) as appending:
        for worker in appending:
            worker.say()
        found = [worker.hear() for worker in appending]
        for worker in appending:
            worker.say()
    return sum(each["count"] / each["seconds"] for each in found)


def together(context: Context) -> Group:
    """Several processes append to one log, shared, at the same time."""
    seconds = context.pick(0.8, 0.3)
    blocks: dict[str, Callable[[], float]] = {}
    for count in (1, 2, 4):
        name = f"{count} process{'es' if count > 1 else ''}, OS"
        blocks[name] = lambda count=count: (
            rate_in_sum(context.path("together"), count, "os", seconds) / 1e6
        )
    samples = rounds(context, blocks, context.pick(7, 5))
    group = Group(
        "processes",
        "Several processes append to one log",
        f"Each appends for {seconds} s in its own loop; the sum of their rates. There are "
        f"{os.cpu_count()} processors.",
    )
    for name in blocks:
        found = row(samples, name, "M/s")
        group.rows.append(at_least(found, 2) if name.startswith("4") else found)
    return group


# --- Opening -------------------------------------------------------------------------------------


def opening(context: Context) -> Group:
    """How long Wal.open takes, in a new process each time, on logs of several sizes."""
    group = Group(
        "open",
        "Opening",
        "Wal.open in a new process, warm page cache. `after kill -9`: the one before had filled "
        "about 100 MiB of the newest segment with small records (1 MB: written 1,000) and died.",
    )
    sizes = {"1 MB": 1 << 20, context.pick("1 GB", "64 MB"): context.pick(1 << 30, 64 << 20)}
    if context.large:
        sizes["10 GB"] = 10 << 30
    for number, (name, size) in enumerate(sizes.items()):
        path = context.path("open")
        fill(path, size >> 16, bytes(65_000))
        clean = _openings(context, lambda path=path: Worker("open_clean", path=str(path)))
        group.rows.append(at_most(_open_row(f"clean, {name}", clean), 20))
        group.rows.append(_killed_row(context, path, name, number > 0))
        context.progress.show((number + 1) / len(sizes))
    context.path("open")
    return group


def _killed_row(context: Context, path: Path, name: str, full: bool) -> Row:
    """Opening after kill -9, with a tail of about 100 MiB of small records if `full`."""
    records = 100 * MIB // 168 if full else 1000
    Worker("open_and_die", path=str(path), records=records).end()
    died = _openings(context, lambda: Worker("open_and_die", path=str(path), records=0))
    found = at_most(_open_row(f"after kill -9, {name}", died), 200)
    return judge(found, "scans <= 1 segment", max(scanned for _, scanned in died) <= 128 * MIB)


def _openings(context: Context, start: Callable[[], Worker]) -> list[tuple[float, int]]:
    found = []
    for number in range(context.pick(9, 5) + 1):
        worker = start()
        told = worker.hear()
        worker.end()
        if number:
            found.append((told["seconds"] * 1e3, told["scanned"]))
    return found


def _open_row(name: str, found: list[tuple[float, int]]) -> Row:
    scanned = max(scanned for _, scanned in found)
    note = f"scanned {scanned / 1e6:,.1f} MB"
    return row({name: [ms for ms, _ in found]}, name, "ms", note=note)


# --- Following -----------------------------------------------------------------------------------


def following(context: Context) -> Group:
    """From an append here until another process has seen it."""
    count = context.pick(4000, 800)
    group = Group(
        "follow",
        "Following in another process",
        f"{count:,} records, one every millisecond or so; each carries the time just before its "
        "append, and the follower compares when it has it in hand. The pipe is the same with "
        "os.write and os.read.",
    )
    path = context.path("follow")
    with Wal.open(path, fsync_policy=OS) as wal:

        def append() -> None:
            wal.put(KEY, time.monotonic_ns().to_bytes(8, "little") + VALUE[8:])

        follower = Worker("follow", path=str(path), count=count)
        try:
            delays = _send(follower, append, count)
            idle = _idle_share(follower.process.pid, context.pick(5.0, 2.0))
        finally:
            follower.process.kill()
            follower.end()
    piped = _pipe_delays(count)
    for name, found in (("follow", delays), ("pipe", piped)):
        for share, limit in ((0.5, 25), (0.99, 200)):
            figure = percentile(found, share) / 1e3
            made = Row(f"{name}, p{100 * share:g}", figure, "us")
            if name == "follow":
                made.versus = f"pipe, p{100 * share:g}"
                made.ratio = percentile(found, share) / percentile(piped, share)
                at_most(made, limit)
            group.rows.append(made)
    group.rows.append(at_most(Row("idle CPU of a follower", idle * 100, "%"), 0.5))
    return group


def _send(receiver: Worker, send: Callable[[], None], count: int) -> list[int]:
    receiver.hear()
    receiver.say()
    time.sleep(0.05)
    for _ in range(count):
        send()
        time.sleep(0.001)
    return sorted(receiver.hear()["delays"])


def _pipe_delays(count: int) -> list[int]:
    reading, writing = os.pipe()
    receiver = Worker("receive", count=count, descriptor=reading, keep=(reading,))
    try:
        return _send(
            receiver,
            lambda: os.write(writing, time.monotonic_ns().to_bytes(8, "little")) and None,
            count,
        )
    finally:
        os.close(reading)
        os.close(writing)
        receiver.end()


def _idle_share(pid: int, seconds: float) -> float:
    """The share of one processor that a process uses while nothing happens (Linux)."""
    time.sleep(0.2)
    before, started = _run_seconds(pid), time.monotonic()
    time.sleep(seconds)
    return (_run_seconds(pid) - before) / (time.monotonic() - started)


def _run_seconds(pid: int) -> float:
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


# --- Memory, the pure build ----------------------------------------------------------------------


def memory(context: Context) -> Group:
    """How much memory reading a long log takes."""
    sizes = context.pick((64, 1024), (16, 128))
    group = Group(
        "memory",
        "Memory of reading",
        "How far the peak resident memory of a fresh process rises, on a small and a large log of "
        "1,000-byte records (flat: the same on both).",
    )
    for size in sizes:
        path = context.path("memory")
        fill(path, (size * MIB) // 1064, b"v" * 1000)
        for what in ("replay", "verify", "follow"):
            name = f"{what}, {size} MiB"
            found = []
            for _ in range(context.pick(3, 1)):
                worker = Worker("memory", path=str(path), what=what)
                told = worker.hear()
                worker.end()
                found.append((told["peak"] - told["before"]) / MIB)
            group.rows.append(at_most(row({name: found}, name, "MiB"), 64, "< 64 MiB"))
            context.progress.show(len(group.rows) / 6)
    context.path("memory")
    return group


def pure(context: Context) -> Group:
    """The build without the native module."""
    count = context.pick(30_000, 10_000)
    worker = Worker(
        "pure",
        environment={"TREERING_PURE": "1"},
        path=str(context.path("pure")),
        count=count,
    )
    worker.hear()
    found: list[dict[str, float]] = []
    try:
        for number in range(context.rounds + 1):
            worker.say()
            told = worker.hear()
            if number:
                found.append(told)
            context.progress.show(number / context.rounds)
    finally:
        worker.end()
    group = Group(
        "pure", "Pure-Python build", f"TREERING_PURE=1, OS, shared, blocks of {count:,} records."
    )
    for name in ("append", "replay"):
        samples = {name: [told[name] / 1e3 for told in found]}
        group.rows.append(at_least(row(samples, name, "k/s"), 300))
    return group
