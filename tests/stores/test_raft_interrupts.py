"""Ctrl-C or no memory in the middle of a Raft log's call: it happened or did not."""

from __future__ import annotations

import pytest

from tests.crash._scale import SHARE
from tests.stores._interrupting import broken_off
from tests.stores.test_raft_crash import RaftProgram
from treering.stores.raft import Entry, HardState

# The stores are Python in either build: once is enough.
pytestmark = pytest.mark.slow


def some_entries(log):
    log.append([Entry(i, 1, b"%d" % i * 40) for i in range(1, 9)])
    log.compact(2, b"old")


def one_more(log):
    log.append([Entry(9, 1, b"theirs")])


def save(log):
    log.save(
        entries=[Entry(8, 2, b"x"), Entry(9, 2, b"y")],
        hard_state=HardState(2, "a", 8),
        overwrite=True,
    )


def compact(log):
    log.compact(6, b"new", metadata=b"m")


def install(log):
    log.install_snapshot(20, 3, [b"new", b"er"])


def checkpoint(log):
    log.checkpoint()


@pytest.mark.parametrize("call", [save, compact, install, checkpoint])
def test_a_raft_log(call):
    share = round((18 if call is checkpoint else 6) / SHARE)
    counts = broken_off(RaftProgram, some_entries, call, share, one_more)
    assert counts["broken off"] >= 5
