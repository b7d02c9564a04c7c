"""A disk that is really full: a small tmpfs, a limit on file sizes, a quota."""

from __future__ import annotations

import shutil

import pytest

from tests.processes.nursery import run_alone

# A mount namespace of its own: what is mounted there goes with the process.
APART = ["unshare", "--mount", "--propagation", "private"]


def on_a_small_disk(task, folder, **options):
    """The task's result on a tmpfs of its own; skips, and says so, where none can be mounted."""
    folder.mkdir()
    told = None
    if shutil.which("unshare") and shutil.which("mount"):
        try:
            told = run_alone(task, prefix=APART, folder=str(folder), **options)
        except AssertionError as error:
            if "unshare failed" not in str(error):
                raise
    if told is None:
        pytest.skip(
            "no tmpfs can be mounted here (that takes root): a really full disk was NOT tried; "
            "the tests of the file-size limit and of the quota below stand in"
        )
    return told


@pytest.mark.parametrize("policy", ["os", "batch:2", "always"])
@pytest.mark.parametrize("mode", ["shared", "exclusive", "written"])
def test_a_full_disk_refuses_appends_and_nothing_else(tmp_path, policy, mode):
    """D7, G10: filled: DiskFullError, everything readable, batches refused whole; truncating,
    syncing, closing and opening work with not a byte free; emptied: appends go on in the same
    handle, without a gap."""
    counts = on_a_small_disk(
        "fill_a_small_disk",
        tmp_path / "disk",
        size="600k",
        policy=policy,
        exclusive=mode == "exclusive",
        map_tail=False if mode == "written" else None,
    )
    assert counts[0] > 200


def test_a_tail_that_was_copied_with_holes_kills_nobody_on_a_full_disk(tmp_path):
    """D7, D12, G10: a store into a hole would be a SIGBUS; it is a DiskFullError, and then goes on."""
    assert on_a_small_disk("open_a_copy_with_holes", tmp_path / "disk", size="600k") == 100


def test_two_processes_on_a_full_disk_both_go_on_when_there_is_room(tmp_path):
    """D7, D9: one truncates, both append again."""
    assert on_a_small_disk("fill_with_two_processes", tmp_path / "disk", size="600k") > 100


def test_the_file_size_limit_is_a_full_disk(tmp_path):
    """D7, G10: RLIMIT_FSIZE gives DiskFullError; with the limit raised the handle goes on."""
    assert run_alone("reach_the_file_size_limit", log=str(tmp_path / "log"), limit=256 << 10) < 1000


def test_the_quota_is_a_full_disk(tmp_path):
    """D7, G10: EDQUOT gives DiskFullError; with the quota raised the handle goes on."""
    assert run_alone("reach_the_quota", log=str(tmp_path / "log")) < 1000
