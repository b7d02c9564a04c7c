"""A writer killed at any step of any call, lock in hand, harms nobody (D9, G13)."""

from __future__ import annotations

from random import Random

import pytest

from tests.processes.steps import CALLS, Bystander, kill_at_random

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
