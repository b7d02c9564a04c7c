"""Power cuts on simulated files: a seeded slice of the battery that `make crash` runs in full.

Promises: durable records survive (D2, G1, G2), a crash leaves a prefix and never part of a batch
(D4, G4, G5), no crash looks like damage (D5, G6), names are durable in time (G11), and recovery may
be interrupted as often as you like (G12).
"""

import pytest

from tests.battery import cuts, lifetimes, pairs, windows
from tests.battery.harness import Budget
from tests.battery.workloads import WORKLOADS
from tests.crash._scale import assert_nothing_violated, cases


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_power_cut_leaves_all_that_was_durable_and_only_what_was_written(name):
    """D2, D4, D5, G1, G4, G5, G6, G11: the power is cut after every operation of a program."""
    assert_nothing_violated(cuts.cut_power(name, 7, Budget(cases(150))))


@pytest.mark.parametrize("name", ["memory", "written", "untrusted"])
def test_a_log_lives_through_crashes_while_it_recovers_from_crashes(name):
    """G12, D1, D4: 50 crashes of one log, of the machine or of the process, at any operation."""
    assert_nothing_violated(lifetimes.live(name, 7, Budget(cases(150))))


@pytest.mark.parametrize("name", pairs.CALLS)
def test_the_power_goes_while_a_log_recovers_from_a_crash(name):
    """G9, G11, G12: the first crash is a death, a power cut or a failed fsync of one call."""
    assert_nothing_violated(pairs.crash_twice(name, 7, Budget(cases(150))))


@pytest.mark.parametrize("milliseconds", [1, 20])
def test_every_record_is_durable_after_the_window_without_any_further_call(milliseconds):
    """D3, G2: measured in real time; what is late by over a second fails."""
    assert_nothing_violated(windows.keep_windows(milliseconds, 7, Budget(cases(150))))
