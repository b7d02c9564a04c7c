"""A writer is killed at the k-th bytecode of a call on the log, for one k after another (G13).

The others have the log open all the time: they wait for nobody, mend what the dead one left, and
find the call either done or not begun. `Bystander` is such a process (the tester's own), and knows
what the log must hold.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

import treering
from tests.processes.nursery import Nursery
from tests.processes.records import Words, make, make_batch
from treering import FsyncPolicy, Record, RewoundError, Wal

PACKAGE = str(Path(treering.__file__).parent)
SEGMENT_BYTES = 4096
# Longer than this, an append was not let in by the kernel but by somebody's patience.
PROMPT_SECONDS = 5.0
VICTIMS = 3
NEVER = 1 << 60
# The shared numbers: whether the call returned, and how many steps it had.
DONE, STEPS = 0, 1


# --- In the process that dies ---------------------------------------------------------------------


def kill_at(step: int) -> Callable[[], int]:
    """From now on count the bytecodes that run inside the package, in every thread that starts,
    and die at the one with that number. Call the result to stop and learn how many there were."""
    count = 0

    def each(frame, event, argument):
        nonlocal count
        if event == "opcode":
            count += 1
            if count == step:
                os.kill(os.getpid(), signal.SIGKILL)
        return each

    def enter(frame, event, argument):
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return each

    def stop() -> int:
        sys.settrace(None)
        threading.settrace(None)
        return count

    threading.settrace(enter)
    sys.settrace(enter)
    return stop


def die(log, words, writer, step, call, policy="os", **options):
    """Open the log, then die at a step of the call."""
    counters = Words(words)
    options.update(fsync_policy=FsyncPolicy.parse(policy), segment_bytes_max=SEGMENT_BYTES)
    wal = None if call == "opening" else Wal.open(log, **options)
    stop = kill_at(step)
    if wal is None:
        wal = Wal.open(log, **options)
    else:
        CALLS[call](wal, writer)
    counters[DONE] = 1
    counters[STEPS] = stop()
    os._exit(0)


def die_holding(log, mutex_offset):
    """Open the log, take one of its mutexes, and die."""
    wal = Wal.open(log)
    wal._engine.control.page.lock(mutex_offset, 1)
    os.kill(os.getpid(), signal.SIGKILL)


def put(wal, writer):
    wal.put(*make(writer, 0))


def put_durable(wal, writer):
    wal.put(*make(writer, 0), durable=True)


def put_thoroughly(wal, writer):
    """As is done when a segment is full, and in pure Python."""
    wal._engine.writer.append((Record.put(*make(writer, 0)),), False)


def append_batch(wal, writer):
    wal.append_batch(make_batch(writer, 0, 5))


def roll(wal, writer):
    """A record that no longer fits, and the chores that a full segment causes."""
    wal.put(*make(writer, 0, length=SEGMENT_BYTES - 200))
    wal._engine.writer.chores.stop()


def sync(wal, writer):
    wal.put(*make(writer, 0))
    wal.sync()


def truncate_before(wal, writer):
    wal.truncate_before(wal.current_position())


def truncate_after(wal, writer):
    wal.truncate_after(wal.current_position() - VICTIMS + 1)


def truncate_after_at_base(wal, writer):
    wal.truncate_after(wal._engine.control.load(18))  # the whole tail segment goes


def pin(wal, writer):
    wal.pin("name", wal.current_position())


def close(wal, writer):
    wal.put(*make(writer, 0))
    wal.close()


def opening(wal, writer):
    """Nothing: it is the opening itself that is interrupted."""


CALLS = {
    call.__name__: call
    for call in (
        put,
        put_durable,
        put_thoroughly,
        append_batch,
        roll,
        sync,
        truncate_before,
        truncate_after,
        truncate_after_at_base,
        pin,
        close,
        opening,
    )
}
# What each call may have appended when it was interrupted: nothing, or all of this.
APPENDED = {
    "put": [make(0, 0)],
    "put_durable": [make(0, 0)],
    "put_thoroughly": [make(0, 0)],
    "append_batch": make_batch(0, 0, 5),
    "roll": [make(0, 0, length=SEGMENT_BYTES - 200)],
    "sync": [make(0, 0)],
    "close": [make(0, 0)],
}


# --- An interrupt instead of a death ---------------------------------------------------------------


@contextlib.contextmanager
def interrupt_at(step: int, functions: set[str]):
    """KeyboardInterrupt at the bytecode with that number among those that these functions of the
    package run. Gives a list that is empty if there are not so many."""
    left = [step]

    def each(frame, event, argument):
        if event == "opcode":
            left[0] -= 1
            if left[0] == 0:
                left.clear()
                raise KeyboardInterrupt
        return each

    def enter(frame, event, argument):
        code = frame.f_code
        if code.co_name not in functions or not code.co_filename.startswith(PACKAGE):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return each

    sys.settrace(enter)
    try:
        yield left
    finally:
        sys.settrace(None)


# --- In the process that goes on ------------------------------------------------------------------


class Bystander:
    """Has the log open while others die in it; or, with survives=False, opens it after each."""

    def __init__(self, folder: Path, nursery: Nursery, call: str, *, survives=True, **options):
        self.log = str(folder / "log")
        self.words = Words(folder / "words", 2)
        self.nursery = nursery
        self.call = call
        self.survives = survives
        self.options = options
        self.first = 0
        self.expected: list[tuple[bytes, bytes]] = []
        self.own = 0
        self.writer = 0
        self.deaths = 0
        self._steps = 0
        self.wal = self._open()
        self._prepare()

    def _open(self) -> Wal:
        wal = Wal.open(
            self.log, fsync_policy=FsyncPolicy.OS, segment_bytes_max=SEGMENT_BYTES, **self.options
        )
        assert wal.recovery.damage == ()
        end = min(len(self.expected), wal.current_position())  # a dead one may have cut
        self.reader = wal.read_from(end, follow=True, timeout=0)
        return wal

    def kill_at(self, step: int) -> bool:
        """Let a process die at that step; False if the call has no such step."""
        self.writer += 1
        self.words[DONE] = 0
        if not self.survives:
            self.wal.close()
        worker = self.nursery.start(
            "die",
            log=self.log,
            words=self.words.path,
            writer=self.writer,
            step=step,
            call=self.call,
            **self.options,
        )
        died = worker.wait() == -signal.SIGKILL
        assert died or worker.wait() == 0, self.nursery.complaints()
        self.deaths += died
        if not self.survives:
            self.wal = self._open()
        self._look(died)
        self._prepare()
        return died

    def steps(self) -> int:
        """How many steps the call has, just now."""
        if not self._steps:
            assert not self.kill_at(NEVER)
            self._steps = self.words[STEPS]
        return self._steps

    def _prepare(self) -> None:
        """Records for the next one to truncate, and not too many segments."""
        if len(self.expected) - self.first > 30:
            self.first = self.wal.truncate_before(len(self.expected) - 1)
        for _ in range(VICTIMS if "truncate" in self.call else 1):
            record, position = self._put()
            assert position == len(self.expected)
            self.expected.append(record)
        self._check_reader(was_cut=False)

    def _put(self) -> tuple[tuple[bytes, bytes], int]:
        record = make(99_999, self.own, length=100)
        self.own += 1
        started = time.monotonic()
        position = self.wal.put(*record)
        assert time.monotonic() - started < PROMPT_SECONDS
        return record, position

    def _look(self, died: bool) -> None:
        """The call was done or not; the log goes on, and every reader knows what happened."""
        done = self.words[DONE] == 1
        before = len(self.expected)
        record, end = self._put()
        if self.call in APPENDED:
            added = self._added()
            assert end in ((before + len(added),) if done else (before, before + len(added)))
            self.expected += added[: end - before]
        elif self.call == "truncate_after":
            assert end in ((before - 2,) if done else (before, before - 2))
            del self.expected[end:]
        elif self.call == "truncate_after_at_base":
            assert end < before or not done
            del self.expected[end:]
        assert end == len(self.expected), f"{before} records, then {end}"
        self.expected.append(record)
        self._check_reader(was_cut=end < before)
        first = self.wal.first_position
        assert self.first <= first <= before
        assert first > self.first or not (done and self.call == "truncate_before")
        self.first = first
        found = [(record.key, record.value) for record in self.wal.read_from()]
        assert found == self.expected[first:]

    def _added(self) -> list[tuple[bytes, bytes]]:
        if self.call == "roll":
            return [make(self.writer, 0, length=SEGMENT_BYTES - 200)]
        size = len(APPENDED[self.call])
        return make_batch(self.writer, 0, size) if size > 1 else [make(self.writer, 0)]

    def _check_reader(self, was_cut: bool) -> None:
        """A reader that had seen the old end sees what is new, or is told that it was cut."""
        if was_cut and self.survives:
            with pytest.raises(RewoundError):
                list(self.reader)
            self.reader = self.wal.read_from(len(self.expected), follow=True, timeout=0)
        else:
            for record in self.reader:
                assert (record.key, record.value) == self.expected[record.position]
        assert self.reader.position == len(self.expected)

    def close(self) -> None:
        """Leave; the log tells the next one the same."""
        self.wal.close()
        with Wal.open(self.log, read_only=True) as wal:
            first = wal.first_position  # what a dead one had begun to remove may be gone now
            found = [(record.key, record.value) for record in wal.read_from()]
        assert first >= self.first
        assert found == self.expected[first:]


def kill_at_random(bystander: Bystander, rng: Random, count: int) -> None:
    """At `count` of the call's steps."""
    for _ in range(count):
        bystander.kill_at(rng.randint(1, bystander.steps()))
    bystander.close()


def kill_at_every(bystander: Bystander, stride: int = 1) -> None:
    """At every `stride`-th step of the call."""
    step = 1
    while bystander.kill_at(step):
        step += stride
    bystander.close()
