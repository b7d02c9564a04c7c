"""Our figures in one process: append, batch, durable append, replay, verify, latencies."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from itertools import repeat
from pathlib import Path

import peers
import raw
from harness import (
    KEY,
    VALUE,
    Context,
    Group,
    at_least,
    at_most,
    percentile,
    ratio_at_least,
    ratio_at_most,
    rounds,
    row,
    timed,
)

import treering
from treering import FsyncPolicy, Record, Wal

OS, BATCH, ALWAYS = FsyncPolicy.OS, FsyncPolicy.batch(milliseconds=5), FsyncPolicy.ALWAYS
NS = 1e9


def put_loop(wal: Wal, count: int) -> float:
    """Seconds for `count` appends, one call for each."""
    put, key, value = wal.put, KEY, VALUE
    started = time.perf_counter()
    for _ in repeat(None, count):
        put(key, value)
    return time.perf_counter() - started


def fill(path: Path, count: int, value: bytes = VALUE, **options: object) -> None:
    """A log of `count` records, cleanly closed."""
    with Wal.open(path, fsync_policy=OS, **options) as wal:
        batch = [(KEY, value)] * max(1, min(1000, (1 << 20) // len(value)))
        for _ in range(count // len(batch)):
            wal.append_batch(batch)
        if count % len(batch):
            wal.append_batch(batch[: count % len(batch)])


# --- Append --------------------------------------------------------------------------------------


def append(context: Context) -> Group:
    """One call per record, within a segment, with pauses in which background threads may run."""
    count, per_round = context.pick((5_000, 8), (3_000, 2))
    kinds = {
        "put, OS, exclusive": (OS, True),
        "put, BATCH 5 ms, exclusive": (BATCH, True),
        "put, OS, shared": (OS, False),
        "put, BATCH 5 ms, shared": (BATCH, False),
    }
    with contextlib.ExitStack() as stack:
        logs = {
            name: stack.enter_context(
                Wal.open(context.path(f"append-{number}"), fsync_policy=policy, exclusive=exclusive)
            )
            for number, (name, (policy, exclusive)) in enumerate(kinds.items())
        }
        others = peers.writers(context, stack)
        blocks: dict[str, Callable[[], float]] = {
            "empty loop": lambda: raw.empty_loop(count) / count,
            "loop around operator.is_": lambda: raw.call_loop(count) / count,
        }
        for name, wal in logs.items():
            blocks[name] = _paused(lambda wal=wal: put_loop(wal, count) / count, per_round)
        for name, put in others.found.items():
            blocks[name] = lambda put=put: peers.put_block(put, count) / count
        samples = rounds(context, blocks)

    group = Group(
        "append",
        "Append, one call per record",
        f"Blocks of {count:,} calls inside one segment, 1 ms of pause between blocks, in which the "
        "background thread prepares the next pages. The loop is part of every figure; what it "
        "costs alone stands first. Peers write without sync: lmdb and sqlite3 inside one open "
        "transaction.",
    )
    group.rows += [row(samples, name, "ns", scale=NS) for name in list(blocks)[:2]]
    for name, (_, exclusive) in kinds.items():
        group.rows.append(at_most(row(samples, name, "ns", scale=NS), 150 if exclusive else 250))
    for name in others.found:
        ours = row(samples, name, "ns", scale=NS)
        if name in ("plyvel put", "rocksdict put"):
            ours.versus, ours.ratio = "put, OS, exclusive", 0.0
            compared = row(samples, "put, OS, exclusive", "ns", versus=name, faster=True)
            ours.ratio = compared.ratio
            ours = ratio_at_least(ours, 10)
        group.rows.append(ours)
    group.rows += others.missing
    return group


def _paused(block: Callable[[], float], times: int) -> Callable[[], float]:
    """The median of several blocks, with a pause before each."""

    def run() -> float:
        figures = []
        for _ in range(times):
            time.sleep(0.001)
            figures.append(block())
        return statistics.median(figures)

    return run


def sustained(context: Context) -> Group:
    """Without any pause, over several segments."""
    count = context.pick(2_000_000, 200_000)
    segment = context.pick(128 << 20, 16 << 20)
    kinds = {
        "put, OS, exclusive": (OS, True),
        "put, OS, shared": (OS, False),
        "put, BATCH 5 ms, shared": (BATCH, False),
    }

    def one(policy: FsyncPolicy, exclusive: bool) -> float:
        path = context.path("sustained")
        with Wal.open(
            path, fsync_policy=policy, exclusive=exclusive, segment_bytes_max=segment
        ) as wal:
            return put_loop(wal, count) / count

    def plain() -> float:
        path = context.path("sustained-raw")
        file = raw.RawFile(path, count * len(raw.FRAME) + 4096)
        try:
            return file.write(count) / count
        finally:
            file.close()

    blocks: dict[str, Callable[[], float]] = {"os.pwrite of the same bytes": plain}
    for name, (policy, exclusive) in kinds.items():
        blocks[name] = lambda policy=policy, exclusive=exclusive: one(policy, exclusive)
    samples = rounds(context, blocks, context.pick(5, 1))
    group = Group(
        "sustained",
        "Append without a pause, over several segments",
        f"{count:,} calls over segments of {segment >> 20} MiB: first touch of every page, the "
        "fsync of each full segment and the loop's own cost are in it. No target; it says what a "
        "bulk load can expect.",
    )
    for name in blocks:
        versus = "" if name.startswith("os.") else "os.pwrite of the same bytes"
        group.rows.append(row(samples, name, "ns", scale=NS, versus=versus))
    return group


def batch(context: Context) -> Group:
    """append_batch, per record."""
    size, times, per_round = 100, context.pick(50, 30), context.pick(8, 2)
    pairs = [(KEY, VALUE)] * size
    records = [Record.put(KEY, VALUE) for _ in range(size)]
    with Wal.open(context.path("batch"), fsync_policy=OS) as wal:

        def block(items: list[object]) -> Callable[[], float]:
            def run() -> float:
                append_batch = wal.append_batch
                started = time.perf_counter()
                for _ in repeat(None, times):
                    append_batch(items)
                return (time.perf_counter() - started) / (times * size)

            return _paused(run, per_round)

        samples = rounds(
            context, {"(key, value) pairs": block(pairs), "Record objects": block(records)}
        )
    group = Group(
        "batch", "append_batch", f"Batches of {size} records, OS, shared; time per record."
    )
    group.rows += [at_most(row(samples, name, "ns", scale=NS), 80) for name in samples]
    return group


# --- Durable -------------------------------------------------------------------------------------


def durable(context: Context) -> Group:
    """One thread, every append fsynced before the call returns."""
    count = context.pick(25, 10)
    times = context.pick(41, 11)
    options = {
        "put, ALWAYS, shared": {"fsync_policy": ALWAYS},
        "put, ALWAYS, exclusive": {"fsync_policy": ALWAYS, "exclusive": True},
        "put(durable=True), OS": {"fsync_policy": OS},
        "put, ALWAYS, tail written with pwrite": {"fsync_policy": ALWAYS, "map_tail": False},
    }
    base = "raw pwrite + fdatasync"
    with contextlib.ExitStack() as stack:
        file = raw.RawFile(context.path("durable-raw"))
        stack.callback(file.close)
        blocks: dict[str, Callable[[], float]] = {
            base: lambda: statistics.median(file.durable_latencies(count))
        }
        for number, (name, chosen) in enumerate(options.items()):
            wal = stack.enter_context(
                Wal.open(context.path(f"durable-{number}"), segment_bytes_max=64 << 20, **chosen)
            )
            blocks[name] = lambda wal=wal: statistics.median(durable_latencies(wal, count))
        others = peers.synced_writers(context, stack)
        for name, put in others.found.items():
            blocks[name] = lambda put=put: statistics.median(peers.latencies(put, count))
        samples = rounds(context, blocks, times)

    group = Group(
        "durable",
        "Durable append, one thread",
        f"Median of {count} calls per block, {times} interleaved rounds. Raw is os.pwrite of the "
        "same bytes and os.fdatasync on a preallocated (fallocate) file. Peers commit with sync.",
    )
    for name in blocks:
        ours = row(samples, name, "us", scale=1e6, versus="" if name == base else base)
        group.rows.append(ratio_at_most(ours, 1.10) if name == "put, ALWAYS, shared" else ours)
    group.rows += others.missing
    return group


def durable_latencies(wal: Wal, count: int) -> list[float]:
    """Seconds of each of `count` durable appends."""
    put, clock = wal.put, time.perf_counter
    found = []
    for _ in repeat(None, count):
        started = clock()
        put(KEY, VALUE, durable=True)
        found.append(clock() - started)
    return found


# --- Reading -------------------------------------------------------------------------------------


def replay(context: Context) -> Group:
    """All records through the public iterator."""
    count = context.pick(500_000, 100_000)
    with contextlib.ExitStack() as stack:
        path = context.path("replay")
        fill(path, count)
        wal = stack.enter_context(Wal.open(path, fsync_policy=OS))
        others = peers.scanners(context, stack, count)

        def ours(**options: bool) -> Callable[[], float]:
            return lambda: count / timed(lambda: _drain(wal.read_from(0, **options))) / 1e6

        def both_fields() -> float:
            return count / timed(lambda: _drain_fields(wal.read_from(0))) / 1e6

        blocks: dict[str, Callable[[], float]] = {
            "read_from": ours(),
            "read_from, key and value looked at": both_fields,
            "read_from, copy=False": ours(copy=False),
        }
        for name, scan in others.found.items():
            blocks[name] = lambda scan=scan: count / timed(scan) / 1e6
        samples = rounds(context, blocks)

    group = Group(
        "replay",
        "Replay",
        f"{count:,} records, warm page cache: `for record in wal.read_from(0)`. The peers' scans "
        "give keys and values of the same records.",
    )
    lmdb = "lmdb cursor scan"
    for name in blocks:
        ours_row = row(
            samples, name, "M/s", versus=lmdb if lmdb in samples and name != lmdb else ""
        )
        if name == "read_from":
            ours_row = at_least(ours_row, 8)
            if ours_row.ratio is not None:
                ours_row = ratio_at_least(ours_row, 1.0)
        group.rows.append(ours_row)
    group.rows += others.missing
    return group


def _drain(records: Iterator[Record]) -> None:
    for _ in records:
        pass


def _drain_fields(records: Iterator[Record]) -> None:
    for record in records:
        record.key  # noqa: B018
        record.value  # noqa: B018


def verify(context: Context) -> Group:
    """The whole log checked, on records of 1 KB."""
    count = context.pick(400_000, 50_000)
    path = context.path("verify")
    fill(path, count, b"v" * 1000)
    files = sorted(path.glob("*.seg"))
    total = sum(file.stat().st_size for file in files)

    def check() -> float:
        started = time.perf_counter()
        report = treering.verify(path)
        passed = time.perf_counter() - started
        assert report.ok and report.records == count, report
        return total / passed / 1e9

    samples = rounds(
        context,
        {
            "treering.verify": check,
            "reading the files, looking at nothing": lambda: total / raw.read_files(files) / 1e9,
        },
    )
    group = Group(
        "verify", "Verify", f"{count:,} records of 1,000 bytes, {total / 1e6:,.0f} MB, warm cache."
    )
    reading = "reading the files, looking at nothing"
    group.rows = [
        at_least(row(samples, "treering.verify", "GB/s", versus=reading), 5),
        row(samples, reading, "GB/s"),
    ]
    return group


# --- Latency -------------------------------------------------------------------------------------

SHARES = (0.5, 0.9, 0.99, 0.999, 0.9999)


def latency(context: Context) -> Group:
    """How long single calls take, under each policy, at a pace of short bursts."""
    group = Group(
        "latency",
        "Append latency",
        "Single calls, in bursts of 50 with 1 ms between bursts (ALWAYS: one after the other). The "
        "clock is read around every call and is part of it.",
    )
    curves: dict[str, list[float]] = {"clock alone": _clock_alone(context.pick(200_000, 20_000))}
    for name, policy in (("OS", OS), ("BATCH 5 ms", BATCH), ("ALWAYS", ALWAYS)):
        count = context.pick((200_000, 8_000), (20_000, 500))[policy is ALWAYS]
        with Wal.open(context.path(f"latency-{policy.name}"), fsync_policy=policy) as wal:
            curves[name] = _latencies(wal, count, burst=0 if policy is ALWAYS else 50)
        context.progress.show(len(curves) / 4)
    for name, found in curves.items():
        found.sort()
        figures = {f"p{100 * share:g}": percentile(found, share) * 1e6 for share in SHARES}
        named = row({name: [figures["p50"]]}, name, "us", note=_list(figures))
        named.spread = None
        group.rows.append(named)
    group.plot = {name: _curve(found) for name, found in curves.items()}
    return group


def _list(figures: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:,.3g}" for name, value in figures.items())


def _clock_alone(count: int) -> list[float]:
    clock = time.perf_counter
    found = []
    for _ in repeat(None, count):
        started = clock()
        found.append(clock() - started)
    return found


def _latencies(wal: Wal, count: int, burst: int) -> list[float]:
    put, clock = wal.put, time.perf_counter
    found = []
    for number in range(count):
        if burst and number % burst == 0:
            time.sleep(0.001)
        started = clock()
        put(KEY, VALUE)
        found.append(clock() - started)
    return found


def _curve(ordered: list[float]) -> dict[str, list[float]]:
    """Points of the distribution, dense towards its tail, in microseconds."""
    shares = [1 - 10 ** (-step / 20) for step in range(6, 81)]
    kept = [share for share in shares if (1 - share) * len(ordered) >= 1]
    return {"share": kept, "us": [percentile(ordered, share) * 1e6 for share in kept]}
