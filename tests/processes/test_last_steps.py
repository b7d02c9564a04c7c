"""A writer killed at any step of any call, lock in hand, harms nobody (D9, G13)."""

from __future__ import annotations

import pytest

from tests.processes.nursery import is_pure
from tests.processes.steps import CALLS, Bystander, kill_at_every

# In pure Python the append itself has steps; natively it is one, and only the rest has any.
STRIDE = 61


@pytest.mark.parametrize("call", CALLS)
def test_the_others_go_on_when_a_writer_dies_at_any_step(call, tmp_path, nursery):
    """D9, G13: those that have the log open mend the half-written bytes and append at once; the
    call of the dead one is done or not, readers miss nothing."""
    bystander = Bystander(tmp_path, nursery, call)
    deaths = kill_at_every(bystander, STRIDE)
    assert deaths > (0 if call == "put" and not is_pure() else 1)
