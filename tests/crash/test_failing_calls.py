"""Failing calls and full disks: a seeded slice of the battery that `make crash` runs in full.

Promises: a failed fsync or write is final until the log is opened again, and then nothing
acknowledged is gone (D6, G9); a full disk costs the append that met it, nothing else (D7, G10); an
unreadable sector is reported as such (G18).
"""

import pytest

from tests.battery import faults, hardware
from tests.battery.harness import Budget, Row
from tests.crash._scale import SHARE, assert_nothing_violated, cases


@pytest.mark.parametrize("name", faults.PROGRAMS)
def test_a_failing_call_loses_nothing_and_is_over_when_it_is_over(name):
    """D6, G9, G10: calls of a program fail, once or lastingly; the disk is left with clean pages."""
    share = round(60 / SHARE)
    assert_nothing_violated(faults.fail_calls(name, 7, Budget(10_000), images=2, share=share))


@pytest.mark.parametrize("name", ["memory", "untrusted"])
def test_a_full_disk_costs_only_the_append_that_met_it(name):
    """D7, G10: disks of every size fill up; reading, closing, opening and truncating go on."""
    assert_nothing_violated(hardware.full_disks(name, 7, Budget(cases(60))))


@pytest.mark.parametrize("name", ["closed", "in use"])
def test_an_unreadable_sector_is_never_the_end_of_the_log(name):
    """G18: each 8th sector of each file fails."""
    assert_nothing_violated(hardware.unreadable(name, Row("unreadable", name), share=8))
