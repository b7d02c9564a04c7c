"""The battery can fail: safeguards taken away one by one turn it red (G11, G24).

`make crash` hunts all mutants; here it is only seen that each one's text is still in the source,
and that a few, made in this process, are caught.
"""

import pytest

from tests.battery import cuts, damage, jobs, lifetimes, mutants
from tests.battery.harness import Budget, Row
from treering._core import commit, manifest, plan, recovery

EVERY = [*mutants.MUTANTS, *(mutant for mutant, _ in mutants.EQUIVALENT)]


@pytest.mark.parametrize("mutant", EVERY, ids=lambda mutant: mutant.name)
def test_the_text_that_a_mutant_changes_is_there(mutant):
    """G24: a mutant that cannot be made proves nothing; move its text with the source."""
    text = (mutants.SOURCE / "_core" / mutant.file).read_text()
    for old, _ in mutant.edits:
        assert text.count(old) == 1, f"in {mutant.file}: {old}"


def test_each_mutant_has_a_name_of_its_own():
    assert len({mutant.name for mutant in EVERY}) == len(EVERY)


def test_each_mutant_is_for_a_battery_or_a_test_that_exists():
    """G24: else nobody would notice it."""
    titles = [job.title for job in jobs.plan(True)]
    for mutant in mutants.MUTANTS:
        assert mutant.batteries, mutant.name
        for battery in mutant.batteries:
            found = any(battery in title for title in titles)
            assert found or (mutants.ROOT / battery).is_file(), battery


def test_an_append_without_a_sync_is_noticed(monkeypatch):
    """G1, G11."""
    monkeypatch.setattr(commit.Commit, "sync_file", lambda self, file: None)
    assert cuts.cut_power("single", 7, Budget(200)).violation_count


def test_recovery_that_trusts_the_cache_is_noticed(monkeypatch):
    """G9, G12."""
    monkeypatch.setattr(recovery, "_rewrite_tail", lambda directory, decided: None)
    monkeypatch.setattr(manifest, "settle", lambda directory: None)
    assert lifetimes.live("memory", 7, Budget(400)).violation_count


def test_damage_taken_for_a_torn_tail_is_noticed(monkeypatch):
    """D5, G7."""
    original = plan._Planner._open_tail

    def forgetful(self, fact, known):
        rest = fact.rest._replace(durable=0)
        original(self, plan.dataclasses.replace(fact, rest=rest), known)

    monkeypatch.setattr(plan._Planner, "_open_tail", forgetful)
    row, healthy = Row("bits", "in use"), damage.specimen("in use")
    frame = next(frame for frame in healthy.frames if frame.path == healthy.tail)
    damage.flip_bits(healthy, [(frame.path, 8 * frame.start + 400)], row, Budget(10))
    assert row.violation_count
