"""Disks that are full, at every size, and sectors that cannot be read (G10, G18, D7)."""

from __future__ import annotations

import errno
import os
import random
import time
from typing import Any

from treering import DiskFullError, FsyncPolicy, StorageError, Wal
from treering.testing import FaultyFiles, PowerCutFiles

from .damage import Specimen, specimen
from .harness import LOG, Budget, Row, abandon, do_chores, repeatable
from .ledger import Ledger
from .powercut import examine
from .workloads import Driver

BLOCK = 4096


def full_disks(name: str, seed: int, budget: Budget) -> Row:
    """Disks of every size, block by block, that fill up over a few rolls."""
    row = Row("full disk", name)
    started = time.perf_counter()
    for blocks in range(40):
        for turn in range(1_000_000):
            if not budget.left(row) or turn > budget.cases // 40:
                break
            once(name, f"full:{name}:{seed}:{blocks}.{turn}", row)
    row.seconds = time.perf_counter() - started
    return row


def once(name: str, case: str, row: Row) -> None:
    """One disk, of the size that the case names."""
    row.cases += 1
    blocks = int(case.rpartition(":")[2].partition(".")[0])
    try:
        _one_disk(name, blocks, random.Random(case), row)
    except Exception as error:
        row.violate(case, f"{type(error).__name__}: {error}")


def _one_disk(name: str, blocks: int, rng: random.Random, row: Row) -> None:
    disk = PowerCutFiles("btrfs" if name == "untrusted" else "memory")
    options: dict[str, Any] = {
        "segment_bytes_max": rng.choice((2048, 4096, 8192)),
        "fsync_policy": rng.choice((FsyncPolicy.OS, FsyncPolicy.ALWAYS)),
    }
    ledger = Ledger()
    driver = Driver(disk, ledger, rng, options)
    with repeatable(rng):
        disk.capacity_bytes = blocks * BLOCK
        try:
            if not _open(driver):
                row.counts["could not be created"] += 1
                disk.capacity_bytes = None
                assert _open(driver)
            for _ in range(3):
                _fill(driver, row)
                _use_while_full(driver)
                _give_space(driver, disk)
            driver.close()
        finally:
            for wal in driver.wals:
                abandon(wal)
    disk.capacity_bytes = None
    problem = examine(disk.reboot_keep_all(), ledger.expected(), options)
    assert problem is None, problem


def _open(driver: Driver) -> bool:
    try:
        driver.open()
    except DiskFullError:
        return False
    return True


def _fill(driver: Driver, row: Row) -> None:
    """Append until the disk is full; the append that fails leaves no trace."""
    ledger = driver.ledger
    for _ in range(60):
        try:
            driver.put() if driver.rng.random() < 0.7 else driver.batch(2)
        except DiskFullError:
            count = ledger.end - driver.wal.current_position()
            assert count > 0, "G10: the append raised, but the log is longer"
            ledger.undo(count)
            row.counts["full"] += 1
            return
    row.counts["not filled"] += 1


def _use_while_full(driver: Driver) -> None:
    """Reading, syncing, closing and opening work on a full disk; so does truncating."""
    wal, ledger = driver.wal, driver.ledger
    _shows(driver)
    driver.sync()
    if driver.rng.random() < 0.5:
        driver.close()
        driver.open()
        wal = driver.wal
        _shows(driver)
    driver.prune(driver.somewhere())
    if driver.rng.random() < 0.5:
        driver.cut(max(ledger.first, ledger.end - 1))
    assert wal.current_position() == ledger.end


def _give_space(driver: Driver, disk: PowerCutFiles) -> None:
    """With space again, the same handle goes on where the log ends, without a gap."""
    disk.capacity_bytes = disk.used_bytes + driver.rng.choice((3, 5, 9)) * BLOCK
    driver.put()
    _shows(driver)


def _shows(driver: Driver) -> None:
    wal = driver.wal
    first, end = wal.first_position, wal.current_position()
    problem = driver.ledger.expected_of_cache().problem(first, end, wal.read_from(first))
    assert problem is None, problem
    do_chores(wal)


# --- Unreadable sectors --------------------------------------------------------------------------


def unreadable(name: str, row: Row, share: int = 1) -> Row:
    """Each sector of each file fails; a log never ends because of that, nor shows anything else."""
    started = time.perf_counter()
    healthy = specimen(name)
    for path, data in healthy.contents.items():
        for offset in range(0, len(data), 512 * share):
            row.cases += 1
            case = f"unreadable:{name}:{os.path.basename(path)}:{offset}"
            for write in (False, True):
                try:
                    row.counts[_read_bad(healthy, path, offset, write=write)] += 1
                except Exception as error:
                    row.violate(case, f"{type(error).__name__}: {error}")
    row.seconds += time.perf_counter() - started
    return row


def _read_bad(healthy: Specimen, path: str, offset: int, *, write: bool) -> str:
    files = FaultyFiles(healthy.files.crash(), record=False)
    files.unreadable(path, offset, 512)
    shown: list[Any] = []
    what = "not opened"
    try:
        with Wal.open(LOG, files=files, read_only=not write, segment_bytes_max=16384) as wal:
            what = "not read"
            for record in wal.read_from(healthy.first):
                shown.append(record)
    except StorageError as error:
        assert error.errno == errno.EIO, f"G18: {error!r}"
        assert shown == healthy.records[: len(shown)], "G4: wrong records before a bad sector"
        return what
    assert shown == healthy.records, f"G18: a bad sector ends the log at {len(shown)}"
    return "not needed"
