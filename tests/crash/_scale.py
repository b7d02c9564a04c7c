"""How much of each battery runs with the other tests; `make crash` does the rest."""

import os

import pytest

import treering
from tests.battery.harness import Row

# The readable codec is slower, so it gets a smaller slice. TREERING_SCALE multiplies it.
SHARE = (1.0 if treering.backend == "native" else 0.4) * float(os.environ.get("TREERING_SCALE", 1))


def cases(count):
    """So many cases, or fewer in pure Python."""
    return max(1, round(count * SHARE))


def assert_nothing_violated(row: Row):
    """Fail with the cases to play again: python -m tests.battery.crash --replay CASE."""
    if row.violation_count:
        pytest.fail(f"{row.violation_count} violations:\n" + "\n".join(row.violations))
    assert row.cases, "nothing was tried"
