"""Forking a program that uses a log, at any moment and in any way (D9, G13)."""

from __future__ import annotations

import pytest

from tests.processes.nursery import run_alone


@pytest.mark.parametrize("lock", ["auto", "file"])
def test_forking_beside_busy_threads_harms_neither_parent_nor_child(tmp_path, words, lock):
    """D9, G13: while other threads append, read, roll and sync; children and their children use
    the inherited handle, and leave by os._exit or through the interpreter's end."""
    done = run_alone(
        "fork_in_a_crowd",
        log=str(tmp_path / "log"),
        words=words.path,
        forks=20,
        process_lock=lock,
    )
    assert done["children"] == 24


def test_an_exclusive_handle_refuses_in_the_child_and_stays_the_parents(tmp_path, words):
    """D9, G13: ForkedError in the child; its end leaves the parent's lock in place."""
    run_alone("fork_exclusive", log=str(tmp_path / "log"), words=words.path, forks=8)


def test_a_pool_of_forked_processes_shares_the_handle(tmp_path):
    """D9: multiprocessing's fork pool appends through a handle that its parent opened."""
    run_alone("fork_a_pool", log=str(tmp_path / "log"), count=200)


@pytest.mark.parametrize("exclusive", [False, True], ids=["shared", "exclusive"])
def test_a_signal_handler_may_fork_in_the_middle_of_an_append(tmp_path, words, exclusive):
    """D9, D10, G13: the record is the parent's alone and there once, whether the child leaves at
    once or returns into the append that was interrupted."""
    done = run_alone(
        "fork_in_a_handler",
        log=str(tmp_path / "log"),
        words=words.path,
        forks=40,
        seed=1,
        exclusive=exclusive,
    )
    assert done["forks"] >= 40


def test_a_child_keeps_no_lock_of_a_handle_in_the_making(tmp_path):
    """D9: forking while another thread opens a log; the child lives on and holds nothing."""
    run_alone("fork_while_opening", log=str(tmp_path / "log"), forks=40, folder=str(tmp_path))


@pytest.mark.parametrize(
    "task", ["fork_while_closing", "fork_while_reopening", "fork_beside_a_read_only_handle"]
)
def test_a_fork_while_another_thread_is_inside_a_handle_leaves_the_child_free(tmp_path, task):
    """D9, G13: the locks of a thread that does not exist in the child keep it waiting nowhere: not
    in its calls, and not at its end."""
    run_alone(task, log=str(tmp_path / "log"))
