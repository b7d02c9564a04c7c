"""Damage: a seeded slice of the battery that `make crash` runs in full.

Promises: damage to anything durable is reported with its place, never skipped, shown or cut (D5,
G7); what nothing can tell is counted and listed (G8).
"""

import random

import pytest

from tests.battery import damage, misplaced
from tests.battery.harness import Budget, Row
from tests.battery.jobs import SHAPES
from tests.crash._scale import assert_nothing_violated, cases

SPECIMENS = ["closed", "in use", "lazy", "cut"]


@pytest.mark.parametrize("name", SPECIMENS)
def test_a_flipped_bit_is_reported_or_harmless(name):
    """D5, G7: bits of every file of a log of 64 KiB, by chance."""
    row, healthy = Row("bits", name), damage.specimen(name)
    chosen = random.Random(7).sample(damage.all_bits(healthy), cases(400))
    damage.flip_bits(healthy, chosen, row, Budget(10_000))
    assert_nothing_violated(row)


@pytest.mark.parametrize("name", SPECIMENS)
@pytest.mark.parametrize("shape", SHAPES)
def test_larger_damage_is_reported_or_harmless(shape, name):
    """G7: sectors and files lost, swapped, repeated, misplaced, cut short, of another log."""
    row = Row("damage", name)
    misplaced.run(shape, name, "7", cases(60), row, Budget(10_000))
    assert_nothing_violated(row)


def test_what_nothing_can_tell_is_a_cut_at_a_border_above_the_last_durable_mark():
    """G8: the tail of a log that was not closed, emptied from every frame's start on."""
    healthy = damage.specimen("in use")
    patient = damage.Patient(healthy)
    tail = [frame for frame in healthy.frames if frame.path == healthy.tail]
    data = healthy.contents[healthy.tail]
    answers = {
        patient.examine({healthy.tail: data[: f.start] + bytes(len(data) - f.start)}, write=False)
        for f in tail
    }
    assert answers == {"cut, silent"}
    closed = damage.specimen("closed")
    patient = damage.Patient(closed)
    last = closed.frames[-1]
    data = closed.contents[closed.tail]
    emptied = data[: last.start] + bytes(len(data) - last.start)
    assert patient.examine({closed.tail: emptied}, write=True) in ("refused", "reported")
