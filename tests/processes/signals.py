"""Tasks for the tests of signals: who holds a lock and is stopped, who waits for it, who is
interrupted all the time."""

from __future__ import annotations

import os
import signal
import time
from random import Random

from tests.processes.records import Words, make, make_batch
from tests.processes.steps import interrupt_at
from tests.processes.talk import opened, say, wait_for_gun
from treering import TreeringError
from treering.testing import FaultyFiles

STORM_FROM = 1000


def _stop() -> None:
    say("holding")
    os.kill(os.getpid(), signal.SIGSTOP)


def hold_append_lock(log, **options):
    """Stop in the middle of an append, the lock in hand; finish it when continued."""
    wal = opened(log, clock=time.time_ns, **options)
    writer = wal._engine.writer
    store = writer._segment.store

    def stop_half_way(frame, offset):
        store(frame[: len(frame) // 2], offset)
        _stop()
        store(frame, offset)

    writer._segment.store = stop_half_way
    # A clock sends the native twin there, headers the readable one.
    wal.put(*make(0, 0), headers={"a": b"b"})
    wal.close()


def hold_sync_lock(log, **options):
    """Stop in the middle of an fsync, as the leader of all who wait for it."""
    files = FaultyFiles()
    wal = opened(log, policy="os", files=files, **options)
    files.stall("sync", _stop)
    wal.put(*make(0, 0), durable=True)
    wal.close()


def append_patiently(log, gun, durable=False, **options):
    """Append once the gun has fired, whatever interrupts."""
    wal = opened(log, **options)
    wait_for_gun(gun)
    try:
        say("waiting")
        wal.put(*make(1, 0), durable=durable)
        say("not interrupted")
    except KeyboardInterrupt:
        say("interrupted")
    wal.put(*make(2, 0), durable=durable)
    say("appended")
    wal.close()


def weather_a_storm(log, words, seed, **options):
    """Append while Ctrl-C comes again and again, until words[0]; then one record more, which nobody
    interrupts and nobody waits for."""
    wal = opened(log, **options)
    counters = Words(words)
    rng = Random(seed)
    state = {"inside": False, "interrupted": 0}

    def interrupt(number, frame):
        if state["inside"]:
            state["inside"] = False
            state["interrupted"] += 1
            raise KeyboardInterrupt

    def call(action, *arguments, **how):
        """Whether the call returned."""
        try:
            state["inside"] = True
            action(*arguments, **how)
            state["inside"] = False
            return True
        except KeyboardInterrupt:
            return False

    signal.signal(signal.SIGINT, interrupt)
    say("storm")
    number = 0
    while not counters[0]:
        number += 1
        durable = rng.random() < 0.1
        if rng.random() < 0.2:
            batch = make_batch(0, number, 3)
            counters[STORM_FROM + number] = call(wal.append_batch, batch, durable=durable)
        elif rng.random() < 0.1:
            call(wal.sync)
        else:
            record = make(0, number, length=rng.choice((8, 60, 3000)))
            counters[STORM_FROM + number] = call(wal.put, *record, durable=durable)
    position = wal.put(*make(0, number + 1))
    durable = not is_batch(options) or comes_true(lambda: wal.durable_position > position)
    say("over", interrupted=state["interrupted"], numbers=number, durable=durable)
    wal.close()


def is_batch(options) -> bool:
    return options.get("policy", "batch").startswith("batch")


def comes_true(condition, seconds=10.0) -> bool:
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.002)
    return True


def interrupt_the_deadline(log):
    """Interrupt an append at every step of setting the deadline off; the next append has one."""
    step, interrupted = 1, True
    wal = opened(log, policy="batch:1")
    while interrupted:
        comes_true(lambda: wal.durable_position == wal.current_position())
        try:
            with interrupt_at(step, {"_plain", "append", "arm", "_start", "start", "wake"}) as left:
                wal.put(*make(0, step))
        except (KeyboardInterrupt, TreeringError):
            pass
        interrupted = not left
        position = wal.put(*make(1, step))
        assert comes_true(lambda at=position: wal.durable_position > at), f"step {step}"
        step += 1
    wal.close()
    return step
