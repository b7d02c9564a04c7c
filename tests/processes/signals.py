"""Tasks for the tests of signals: who holds a lock and is stopped, who waits for it, who is
interrupted all the time."""

from __future__ import annotations

import os
import signal
import time
from random import Random

from tests.processes import workers
from tests.processes.records import Words, make, make_batch
from tests.processes.steps import interrupt_at
from treering import TreeringError
from treering._core import format as fmt

STORM_FROM = 1000


def _stop() -> None:
    workers.say("holding")
    os.kill(os.getpid(), signal.SIGSTOP)


def hold_append_lock(log, **options):
    """Stop in the middle of an append, the lock in hand; finish it when continued."""
    wal = workers.opened(log, **options)
    writer = wal._engine.writer
    store = writer._segment.store

    def stop_half_way(frame, offset):
        store(frame[: len(frame) // 2], offset)
        _stop()
        store(frame, offset)

    writer._segment.store = stop_half_way
    wal.append_batch([make(0, 0)], compression="none")  # natively only this way in Python
    wal.put(*make(0, 0), headers={"way": b"slow"})
    wal.close()


def hold_sync_lock(log, **options):
    """Stop in the middle of an fsync, as the leader of all who wait for it."""
    wal = workers.opened(log, policy="os", **options)
    wal._engine.commit._sync_file = lambda file: (_stop(), file.sync())
    wal.put(*make(0, 0), durable=True)
    wal._engine.commit._sync_file = lambda file: file.sync()
    wal.close()


def append_patiently(log, **options):
    """Append, whatever interrupts."""
    wal = workers.opened(log, **options)
    try:
        workers.say("waiting")
        wal.put(*make(1, 0))
        workers.say("not interrupted")
    except KeyboardInterrupt:
        workers.say("interrupted")
    wal.put(*make(2, 0))
    workers.say("appended")
    wal.close()


def weather_a_storm(log, words, seed, until, **options):
    """Append while Ctrl-C comes again and again; then one record more, which nobody interrupts
    and nobody waits for."""
    storm = 0
    wal = workers.opened(log, **options)
    counters = Words(words)
    rng = Random(seed)
    number = 0
    workers.say("storm")
    while counters[0] < until:
        try:
            number += 1
            if rng.random() < 0.2:
                wal.append_batch(make_batch(0, number, 3), durable=rng.random() < 0.2)
            elif rng.random() < 0.1:
                wal.sync()
                continue
            else:
                length = rng.choice((8, 60, 3000))
                wal.put(*make(0, number, length=length), durable=rng.random() < 0.1)
            counters[STORM_FROM + number] = 1
        except KeyboardInterrupt:
            storm += 1
    counters[1] = number
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    position = wal.put(*make(0, number + 1))
    durable = _comes_true(lambda: wal.durable_position > position) if wal_is_batch(options) else 0
    workers.say("over", interrupted=storm, numbers=number, durable=durable)
    wal.close()


def wal_is_batch(options) -> bool:
    return options.get("policy", "batch").startswith("batch")


def _comes_true(condition, seconds=10.0) -> bool:
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.002)
    return True


def interrupt_the_deadline(log):
    """Interrupt an append at every step of setting the deadline off; the next append has one."""
    step, interrupted = 1, True
    wal = workers.opened(log, policy="batch:1")
    while interrupted:
        _comes_true(lambda: wal.durable_position == wal.current_position())
        try:
            with interrupt_at(step, {"arm", "_start", "start", "wake"}) as left:
                wal.put(*make(0, step))
        except (KeyboardInterrupt, TreeringError):
            pass
        interrupted = not left
        position = wal.put(*make(1, step))
        assert _comes_true(lambda at=position: wal.durable_position > at), f"step {step}"
        step += 1
    wal.close()
    return step


def tail_base(wal) -> int:
    return wal._engine.control.load(fmt.WORD_TAIL_BASE)
