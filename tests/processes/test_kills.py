"""Processes killed with SIGKILL at random times; `tests/battery/kills.py` runs it at length."""

from __future__ import annotations

from random import Random

import pytest

from tests.battery import kills, soak

KILLS = 10


def one_life(tmp_path, nurseries, name, **settings):
    life = kills.Life(tmp_path, Random(name), nurseries)
    life.choose(**settings)
    life.live(KILLS)
    assert life.counts["kills"] >= KILLS
    return life.counts


@pytest.mark.parametrize("policy", ["os", "batch:2", "always"])
@pytest.mark.parametrize("processes", [1, 2, 4])
def test_kill_9_loses_nothing_that_had_returned(place, nursery, policy, processes):
    """D1, G3: 1, 2 and 4 writers and a follower, everybody killed again and again: what had
    returned is there, in order, whole; no damage is ever reported; the log goes on."""
    one_life(
        place,
        [nursery],
        f"{policy} {processes}",
        policy=policy,
        processes=processes,
        survives=False,
    )


@pytest.mark.parametrize("processes", [2, 4])
def test_those_who_survive_a_kill_go_on_without_reopening(place, nursery, processes):
    """D9, G13: the witness and a follower have the log open all the time."""
    one_life(place, [nursery], f"survive {processes}", processes=processes, survives=True)


def test_an_exclusive_writer_is_killed_under_the_eyes_of_a_reader(place, nursery):
    """D1, D9, G17: one writer after another, a read-only follower all the time."""
    one_life(place, [nursery], "exclusive", processes=1, exclusive=True, survives=False)


def test_processes_that_lock_files_are_killed(place, nursery):
    """D9, G13: with process_lock="file" the kernel gives the locks of the dead up as well."""
    one_life(place, [nursery], "file", processes=2, survives=True, process_lock="file")


def test_both_twins_share_a_log_and_are_killed(place, nursery, other_nursery):
    """D9, G13: native and pure-Python processes take the same lock and mend each other's frames."""
    one_life(place, [nursery, other_nursery], "mixed", processes=4, survives=True)


def test_everything_at_once(tmp_path):
    """D9, G3, G13: a few seconds of the soak."""
    found = soak.run(3, seed=1)
    assert found["problems"] == []
    assert found["records"] > 100
    assert found["kills"] > 0


def test_kills_count_what_they_did():
    """What `make crash` prints."""
    found = kills.run(4, seed=1)
    assert found["problems"] == []
    assert found["kills"] >= 4
