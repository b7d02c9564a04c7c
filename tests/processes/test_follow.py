"""Following a log in another process: how soon, at what price, through everything that happens."""

from __future__ import annotations

import signal
import time

import pytest

from tests.processes.nursery import is_pure
from tests.processes.talk import fire
from treering import FailedError, FsyncPolicy, Wal

# Natively a follower sleeps in the kernel; in pure Python, and read-only, it looks around.
IDLE_SHARE_MAX = 0.005
READ_ONLY = pytest.mark.parametrize("read_only", [False, True], ids=["shared", "read-only"])


def open_log(path, **options):
    options.setdefault("fsync_policy", FsyncPolicy.OS)
    return Wal.open(str(path), segment_bytes_max=16 << 10, **options)


@READ_ONLY
def test_a_follower_in_another_process_sees_appends_soon(tmp_path, nursery, read_only, capsys):
    """D9: followers are woken, or look often enough; the figures are printed."""
    count = 200
    with open_log(tmp_path / "log") as wal:
        follower = nursery.start(
            "measure_latency", log=str(tmp_path / "log"), count=count, read_only=read_only
        )
        follower.hear("following")
        for _ in range(count):
            time.sleep(0.002)
            wal.put(b"time", b"%d" % time.monotonic_ns())
        told = follower.hear("latency")
        follower.finish()
    with capsys.disabled():
        print(f" p50 {told['p50']:.0f} us, p99 {told['p99']:.0f} us ", end="")
    assert told["count"] == count
    assert told["p99"] < 1e6


@READ_ONLY
def test_a_follower_of_a_quiet_log_hardly_uses_the_processor(tmp_path, nursery, read_only, capsys):
    """D9: below half a per cent of one processor."""
    with open_log(tmp_path / "log") as wal:
        wal.put(b"k", b"v")
        follower = nursery.start(
            "idle", log=str(tmp_path / "log"), seconds=2.5, read_only=read_only
        )
        told = follower.hear("idled")
        follower.finish()
    with capsys.disabled():
        print(f" {told['share']:.2%} ", end="")
    assert told["seconds"] > 2.4
    assert told["share"] < IDLE_SHARE_MAX * (4 if is_pure() or read_only else 1)


@READ_ONLY
def test_a_follower_stops_cleanly_when_it_is_told_to(tmp_path, nursery, read_only):
    """D9, D13: from a signal handler, while it waits."""
    with open_log(tmp_path / "log") as wal:
        wal.put(b"k", b"v")
        follower = nursery.start(
            "follow_until_stopped", log=str(tmp_path / "log"), read_only=read_only
        )
        follower.hear("seen")
        wal.put(b"k", b"v")
        follower.hear("seen")
        follower.signal(signal.SIGTERM)
        assert follower.hear("stopped", 5)["count"] == 2
        follower.finish(5)


@READ_ONLY
def test_a_follower_follows_over_many_rolls_and_ends_at_its_timeout(
    tmp_path, words, nursery, read_only
):
    """D9, D11: 40 segments while it follows; without more to come it ends after its timeout."""
    from tests.processes.records import make

    with open_log(tmp_path / "log") as wal:
        wal.put(*make(0, 0))
        follower = nursery.start(
            "follow",
            log=str(tmp_path / "log"),
            words=words.path,
            slot=0,
            timeout=1.0,
            read_only=read_only,
        )
        follower.hear("following")
        for sequence in range(1, 1200):
            wal.put(*make(0, sequence, length=400))
        assert wal.stats()["segments"] >= 30
        assert follower.hear("end")["position"] == 1200
        follower.finish()


@READ_ONLY
def test_a_follower_that_truncation_overtakes_is_told_where_the_log_begins(
    tmp_path, nursery, read_only
):
    """D11: PrunedError with the oldest position, in the other process; nothing is skipped."""
    gun = str(tmp_path / "gun")
    with open_log(tmp_path / "log") as wal:
        for number in range(3000):
            wal.put(b"%d" % number, bytes(300))
        follower = nursery.start(
            "lag_behind", log=str(tmp_path / "log"), gun=gun, read_only=read_only
        )
        follower.hear("lagging")
        first = wal.truncate_before(2900)
        assert first > 2000
        fire(gun)
        told = follower.hear("end")
        follower.finish()
    assert told["error"] == "PrunedError"
    assert told["oldest"] == first
    seen = told["positions"]
    assert seen == list(range(len(seen)))


@READ_ONLY
def test_a_follower_that_a_cut_overtakes_is_told(tmp_path, nursery, read_only):
    """D11: after truncate_after by another process a follower that had read further gets
    RewoundError, though as many new records are there."""
    gun = str(tmp_path / "gun")
    with open_log(tmp_path / "log") as wal:
        wal.put(b"0", b"")
        follower = nursery.start(
            "lag_behind", log=str(tmp_path / "log"), gun=gun, read_only=read_only
        )
        follower.hear("lagging")
        wal.truncate_after(0)
        for number in range(20):
            wal.put(b"new-%d" % number, b"")
        fire(gun)
        told = follower.hear("end")
        follower.finish()
    assert told["error"] == "RewoundError"


def test_a_follower_of_a_dead_log_is_told(tmp_path, nursery):
    """D6, G9: after a failed fsync in another process a waiting follower gets FailedError, once
    it has seen what was written; it does not wait for ever on what nobody will continue."""
    gun = str(tmp_path / "gun")
    log = str(tmp_path / "log")
    wal = open_log(log)
    wal.put(b"0", b"")
    follower = nursery.start("lag_behind", log=log, gun=gun)
    follower.hear("lagging")
    failing = nursery.start("fail_to_sync", log=log, segment_bytes_max=16 << 10)
    failing.hear("failed")
    fire(gun)
    told = follower.hear("end", 10)
    assert told["error"] == "FailedError"
    assert told["positions"] == [0, 1]
    follower.finish()
    failing.wait()
    with pytest.raises(FailedError):
        wal.close()


def test_a_read_only_follower_outlives_failure_and_reopening(tmp_path, words, nursery):
    """D6, G9: it follows the files, through the death of the log and the next opening."""
    from tests.processes.records import Witness, make

    log = str(tmp_path / "log")
    failed = open_log(log)
    failed.put(*make(0, 0))
    follower = nursery.start(
        "follow", log=log, words=words.path, slot=10, until=6, read_only=True, timeout=30
    )
    follower.hear("following")
    failed._engine.control.fail(5)
    with open_log(log) as wal:
        for sequence in range(1, 6):
            wal.put(*make(0, sequence))
        told = follower.hear("end")
        assert told["digest"] == Witness().see_all(wal).digest
    follower.finish()
    with pytest.raises(FailedError):
        failed.close()


@READ_ONLY
def test_a_follower_of_durable_records_sees_none_that_is_not(tmp_path, words, nursery, read_only):
    """D2, G1: two processes append durably; followers of durable records see each once it is
    durable, never before, and miss none."""
    log = str(tmp_path / "log")
    with open_log(log) as wal:
        follower = nursery.start(
            "report_durable",
            log=log,
            words=words.path,
            slot=50,
            until=60,
            read_only=read_only,
        )
        follower.hear("following")
        written = [wal.put(b"undurable", b"") for _ in range(20)]
        assert not follower.heard_within("end", 0.2)
        assert words[50] == 0 if wal.durable_position == 0 else True
        wal.sync()
        writers = [
            nursery.start(
                "write",
                log=log,
                words=words.path,
                writers=[n],
                seed=n,
                count=20,
                policy="always",
                batches=0,
            )
            for n in range(2)
        ]
        for writer in writers:
            writer.finish()
        wal.put(b"last", b"", durable=True)
        assert follower.hear("end")["position"] == 60
        follower.finish()
        assert written == list(range(20))
