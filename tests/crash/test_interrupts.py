"""Exceptions anywhere: a seeded slice of the battery that `make crash` runs in full.

Promise: KeyboardInterrupt or MemoryError at any bytecode leaves the record whole or absent, and the
log in use or dead, never wrong, with no lock held (D10, G14).
"""

import pytest

from tests.battery import interrupts
from tests.battery.harness import Budget
from tests.crash._scale import SHARE, assert_nothing_violated


@pytest.mark.parametrize("name", [name for name in interrupts.CALLS if name != "put"])
def test_a_call_broken_off_anywhere_leaves_the_log_in_order(name):
    """D10, G14: every 100th bytecode or so (of short calls more)."""
    share = 10 if name in ("put-always", "batch", "sync") else round(120 / SHARE)
    row = interrupts.break_off(name, 7, Budget(10_000), share=share)
    if row.counts["bytecodes"] > share:
        assert_nothing_violated(row)
