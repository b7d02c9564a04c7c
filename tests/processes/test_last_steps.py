"""A writer killed at any step of any call, lock in hand, harms nobody (D9, G13)."""

from __future__ import annotations

import time
from random import Random

import pytest

from tests.processes.records import Witness, make
from tests.processes.steps import (
    CALLS,
    PROMPT_SECONDS,
    Bystander,
    interrupt_at,
    kill_at_random,
)
from treering import Wal
from treering._core import format as fmt

DEATHS = 16


@pytest.mark.parametrize("call", CALLS)
def test_the_others_go_on_when_a_writer_dies_at_any_step(call, tmp_path, nursery):
    """D9, G13: those that have the log open mend what is half-written and append at once; the call
    of the dead one is done or not begun; readers miss nothing and are told of cuts."""
    bystander = Bystander(tmp_path, nursery, call)
    kill_at_random(bystander, Random(f"dies in {call}"), DEATHS)
    assert bystander.deaths > 0


@pytest.mark.parametrize("call", CALLS)
def test_the_next_one_recovers_when_the_last_process_dies_at_any_step(call, tmp_path, nursery):
    """D4, D5, G6, G12: nobody is left; the next opening finds no damage and the call done or not
    begun."""
    bystander = Bystander(tmp_path, nursery, call, survives=False)
    kill_at_random(bystander, Random(f"last in {call}"), DEATHS)
    assert bystander.deaths > 0


LOCKING = {"_acquire", "_acquire_slice", "lock", "unlock", "_release", "_give_back"}


@pytest.mark.parametrize("mutex", [fmt.APPEND_MUTEX_OFFSET, fmt.SYNC_MUTEX_OFFSET])
def test_taking_over_a_dead_ones_lock_may_be_interrupted(mutex, tmp_path, nursery):
    """D9, D10, G13, G14: Ctrl-C at any step of taking the lock from its dead holder leaves the
    lock usable, for this process and the others."""
    log = str(tmp_path / "log")
    with Wal.open(log) as wal, Wal.open(log) as other:
        step, sequence, interrupted = 1, 0, True
        while interrupted:
            worker = nursery.start("die_holding", log=log, mutex_offset=mutex)
            assert worker.wait() == -9, nursery.complaints()
            try:
                with interrupt_at(step, LOCKING | {"join_sync", "join", "release"}) as left:
                    wal.put(*make(0, sequence))
            except KeyboardInterrupt:
                pass
            interrupted = not left
            sequence = wal.current_position()
            for handle in (other, wal):
                started = time.monotonic()
                assert handle.put(*make(0, sequence)) == sequence
                assert time.monotonic() - started < PROMPT_SECONDS
                sequence += 1
            step += 3
        Witness().see_all(wal)
