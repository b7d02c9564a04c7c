"""Who may open a log, and many who open it at once."""

from __future__ import annotations

import os
import threading

import pytest

from tests.processes.nursery import run_alone
from tests.processes.records import Witness, make
from tests.processes.talk import fire
from treering import FsyncPolicy, LockedError, Wal


def test_exclusive_use_refuses_others_and_names_its_process(tmp_path, words, nursery):
    """D9: LockedError with the holder's pid, for shared and exclusive openings; reading is open
    to all, and so is the log once the holder is gone."""
    log, gun = str(tmp_path / "log"), str(tmp_path / "gun")
    holder = nursery.start("stay", log=log, gun=gun, exclusive=True, appends=3)
    holder.hear("staying")
    for options in ({}, {"exclusive": True}):
        with pytest.raises(LockedError) as caught:
            Wal.open(log, **options)
        assert caught.value.pid == holder.pid
        assert str(holder.pid) in str(caught.value)
    with Wal.open(log, read_only=True) as wal:
        assert Witness().see_all(wal).position == 3
    fire(gun)
    holder.finish()
    with Wal.open(log, exclusive=True) as wal:
        assert wal.put(*make(0, 3)) == 3


def test_exclusive_use_is_refused_while_others_share(tmp_path, nursery):
    """D9: whoever shares the log keeps exclusive use away; its death gives way to it."""
    log, gun = str(tmp_path / "log"), str(tmp_path / "gun")
    sharer = nursery.start("stay", log=log, gun=gun, appends=1)
    sharer.hear("staying")
    with pytest.raises(LockedError):
        Wal.open(log, exclusive=True)
    with Wal.open(log) as wal:
        assert wal.recovery.state == "joined"
        assert wal.put(*make(0, 1)) == 1
    sharer.kill()
    with Wal.open(log, exclusive=True) as wal:
        assert Witness().see_all(wal).position == 2


def test_a_killed_exclusive_holder_is_no_obstacle(tmp_path, nursery):
    """D9: the kernel gives its lock up; the next one recovers."""
    log = str(tmp_path / "log")
    holder = nursery.start("stay", log=log, gun=str(tmp_path / "gun"), exclusive=True, appends=5)
    holder.hear("staying")
    holder.kill()
    with Wal.open(log) as wal:
        assert Witness().see_all(wal).position == 5


def told_at_once(workers, gun):
    """What each says of the log, opened at the same moment by all."""
    for worker in workers:
        worker.hear("ready")
    fire(gun)
    told = [worker.hear("opened") for worker in workers]
    for worker in workers:
        worker.finish()
    return told


@pytest.mark.parametrize("lock", ["auto", "file"])
def test_eight_processes_that_open_a_new_log_at_once_get_one_log(tmp_path, words, nursery, lock):
    """D9: one creates it, the others join; no record is lost, and there is one log id."""
    log, gun = str(tmp_path / "deep" / "log"), str(tmp_path / "gun")
    writers = range(8)
    workers = [
        nursery.start(
            "open_at_once", log=log, words=words.path, writer=n, gun=gun, process_lock=lock
        )
        for n in writers
    ]
    told = told_at_once(workers, gun)
    assert len({one["log_id"] for one in told}) == 1
    assert [one["state"] for one in told].count("created") == 1
    with Wal.open(log, process_lock=lock) as wal:
        assert wal.log_id.hex() == told[0]["log_id"]
        Witness().see_all(wal).has_all(words, writers)


def test_eight_processes_that_open_a_torn_log_at_once_recover_it_once(tmp_path, words, nursery):
    """D4, D9: after a crash that left a half-written frame; the bytes are kept once."""
    log, gun = str(tmp_path / "log"), str(tmp_path / "gun")
    with Wal.open(log, fsync_policy=FsyncPolicy.OS) as wal:
        for sequence in range(100):
            wal.put(*make(20, sequence))
        offset = wal._engine.control.load(17)  # where the next frame goes
    segment = os.path.join(log, f"{0:020}.seg")
    words[40] = words[41] = 100
    with open(segment, "r+b") as file:
        file.seek(offset)
        file.write(b"half a frame")
    manifest = os.path.join(log, "manifest")
    _forget_clean_close(manifest)
    workers = [
        nursery.start("open_at_once", log=log, words=words.path, writer=n, gun=gun)
        for n in range(8)
    ]
    told = told_at_once(workers, gun)
    assert [one["state"] for one in told].count("recovered") == 1
    with Wal.open(log) as wal:
        Witness().see_all(wal).has_all(words, [*range(8), 20])


def _forget_clean_close(path: str) -> None:
    """As if the process had died: nothing vouches for the tail."""
    from treering._core import manifest as manifests
    from treering._core.files import Directory, SystemFiles

    directory = Directory(SystemFiles(), os.path.dirname(path))
    found, _ = manifests.load(directory)
    manifests.store(directory, found._replace(sequence=found.sequence + 1, clean_offset=0))


def test_a_read_only_handle_never_finds_damage_beside_a_busy_writer(tmp_path, words, nursery):
    """D5, G6, G17: opened again and again while another process appends, rolls and truncates."""
    log = str(tmp_path / "log")
    writer = nursery.start(
        "write_and_truncate", log=log, words=words.path, segment_bytes_max=8 << 10
    )
    writer.hear("open")
    opened = 0
    while opened < 60:
        with Wal.open(log, read_only=True) as wal:
            assert wal.recovery.damage == (), wal.recovery
            first, end = wal.first_position, wal.current_position()
            assert first <= end
            opened += 1
    words[0] = 1
    writer.finish()
    with Wal.open(log, read_only=True) as wal:
        assert wal.recovery.damage == ()


def test_threads_and_processes_open_and_close_one_log_all_the_time(tmp_path, words, nursery):
    """D9, D13: whoever is first recovers, whoever is last vouches for the tail; nothing is lost
    in between."""
    log = str(tmp_path / "log")
    workers = [
        nursery.start("come_and_go", log=log, words=words.path, writer=n, rounds=25)
        for n in range(4)
    ]
    threads = [
        threading.Thread(
            target=run_alone,
            args=("come_and_go",),
            kwargs={"log": log, "words": words.path, "writer": 4, "rounds": 25, "pure": True},
        )
    ]
    for thread in threads:
        thread.start()
    for worker in workers:
        worker.finish()
    for thread in threads:
        thread.join()
    with Wal.open(log) as wal:
        assert wal.recovery.damage == ()
        Witness().see_all(wal).has_all(words, range(5))
