"""The message log: publishing, consuming, groups, following in another process, opening."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

from groups import synced
from harness import VALUE, Context, Group, Row, at_least, at_most, opening, percentile, rounds, row
from processes import Worker, _send

from treering import FsyncPolicy
from treering.stores.messages import MessageLog

_COUNT = 20_000
_AT_ONCE = 10_000
_LEASED = 100


def messages(context: Context) -> Group:
    """Messages a second, and how soon another process has one."""
    group = Group(
        "messages",
        "Message log",
        "100-byte messages without a key in one topic, a call each, not synced unless it says so. "
        f"publish_many takes {_AT_ONCE:,} at once, a group's member {_LEASED}. Opening loads a "
        "snapshot and the log after it.",
    )
    with contextlib.ExitStack() as stack:
        options = {"fsync_policy": FsyncPolicy.OS, "checkpoint_bytes": None}
        log = stack.enter_context(MessageLog(context.path("messages"), **options))
        samples = rounds(
            context,
            {
                "publish": _timed(lambda: _publish(log)),
                "publish_many": _timed(lambda: _publish_many(log)),
                "consume": _timed(lambda: _consume(log)),
                "consume, every 2nd": _timed(lambda: _consume_sparse(log)),
                "group": _timed(lambda: _work(log)),
            },
        )
    limits = {"publish": 200_000, "publish_many": 1_000_000, "consume": 1_000_000}
    for name, found in samples.items():
        made = row({name: found}, name, "/s")
        group.rows.append(at_least(made, limits[name]) if name in limits else made)
    group.rows += _followed(context)
    group.rows.append(_recovery(context))
    group.rows.append(_synced(context))
    return group


def _timed(work: Callable[[], int]) -> Callable[[], float]:
    def block() -> float:
        started = time.perf_counter()
        return work() / (time.perf_counter() - started)

    return block


def _publish(log: MessageLog) -> int:
    for _ in range(_COUNT):
        log.publish("single", VALUE)
    return _COUNT


def _publish_many(log: MessageLog) -> int:
    log.publish_many("many", [VALUE] * _AT_ONCE)
    return _AT_ONCE


def _consume(log: MessageLog) -> int:
    if log.count("read") == 0:
        for _ in range(10):
            log.publish_many("read", [VALUE] * _AT_ONCE)
    return sum(1 for _ in log.consume_from("read"))


def _consume_sparse(log: MessageLog) -> int:
    if log.count("even") == 0:
        for _ in range(_COUNT):
            log.publish("even", VALUE)
            log.publish("odd", VALUE)
    return sum(1 for _ in log.consume_from("even"))


def _work(log: MessageLog) -> int:
    log.publish_many("work", [VALUE] * _AT_ONCE)
    group, count = log.group("workers", "work"), 0
    while found := group.get(_LEASED):
        group.ack(*found)
        count += len(found)
    return count


def _followed(context: Context) -> list[Row]:
    """From a publish here until another process has the message."""
    count, path = context.pick(3000, 500), context.path("messages-follow")
    with MessageLog(path, fsync_policy=FsyncPolicy.OS) as log:

        def publish() -> None:
            log.publish("news", time.monotonic_ns().to_bytes(8, "little") + VALUE[8:])

        follower = Worker("follow_messages", path=str(path), count=count)
        try:
            delays = _send(follower, publish, count)
        finally:
            follower.process.kill()
            follower.end()
    rows = [
        Row(f"follow, p{100 * share:g}", percentile(delays, share) / 1e3, "us")
        for share in (0.5, 0.99)
    ]
    at_most(rows[0], 1000)
    return rows


def _recovery(context: Context) -> Row:
    """Seconds to open the log anew."""
    count, path = context.pick(10_000_000, 1_000_000), context.path("messages-recovery")
    options = {"fsync_policy": FsyncPolicy.OS, "checkpoint_bytes": None}
    with MessageLog(path, exclusive=True, **options) as log:
        for _ in range(count // _AT_ONCE):
            log.publish_many("a", [b"v"] * _AT_ONCE)
        log.checkpoint()
        for _ in range(10):
            log.publish_many("a", [b"v"] * _AT_ONCE)
    seconds = opening(context, lambda: MessageLog(path, **options))
    return at_most(row({"open": seconds}, "open", "s", label=f"open with {count:,} messages"), 1)


def _synced(context: Context) -> Row:
    """Durable messages per second of 64 threads."""
    rates = synced(
        context,
        lambda: MessageLog(context.path("messages-synced")),
        lambda log: log.publish("a", VALUE),
    )
    return row({"synced": rates}, "synced", "/s", label="64 threads, durable messages")
