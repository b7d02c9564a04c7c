"""Two crashes in a row, each at every operation: the process dies, and while the log is opened
again, the power goes out (G9, G12).

The first crash leaves things in the cache that are not on the disk. Opening must make durable
whatever it relies on before it relies on it. Instead of dying, the process may also meet an fsync
that fails, after which the cache says that all is clean.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from typing import Any

from treering import FsyncPolicy, StorageError, Wal
from treering.testing import FaultyFiles, PowerCutFiles

from .harness import LOG, Budget, Row, abandon, repeatable
from .ledger import Expected, Ledger
from .powercut import QUIET, Camera, develop
from .workloads import Driver

OPTIONS: dict[str, Any] = {"segment_bytes_max": 1024, "fsync_policy": FsyncPolicy.OS}
EACH = 4


def _some(d: Driver) -> None:
    d.open()
    for _ in range(5):
        d.put()
    d.sync()
    d.put()
    d.put()


# What is done before anything goes wrong, and the call during which it does.
CALLS: dict[str, tuple[Callable[[Driver], None], Callable[[Driver], None]]] = {
    "create": (lambda d: None, lambda d: d.open()),
    "appends and rolls": (_some, lambda d: [d.put() for _ in range(6)] and None),
    "sync": (_some, lambda d: d.sync()),
    "truncate_after": (_some, lambda d: d.cut(d.ledger.end - 2)),
    "truncate_after all": (_some, lambda d: d.cut(0)),
    "truncate_before": (_some, lambda d: d.prune(d.ledger.end - 1)),
    "truncate_before all": (_some, lambda d: d.prune(d.ledger.end)),
    "close": (_some, lambda d: d.close()),
    "open": (lambda d: (_some(d), d.close()) and None, lambda d: (d.open(), d.put()) and None),
}


class Fixed:
    """A ledger that expects the same at all times."""

    def __init__(self, expected: Expected) -> None:
        self._expected = expected

    def expected(self, durable: int = 0) -> Expected:
        return self._expected


def crash_twice(name: str, seed: int, budget: Budget) -> Row:
    """Every operation of the call, every operation of the next opening."""
    row = Row("two crashes", name)
    started = time.perf_counter()
    run = 0
    while budget.left(row):
        once(name, f"{seed}/{run}", row, budget)
        run += 1
    row.seconds = time.perf_counter() - started
    return row


def once(name: str, seed: str, row: Row, budget: Budget) -> None:
    """One program; all first crashes of it."""
    for what, files, power, cache in [*_deaths(name, seed), *_failed_syncs(name, seed)]:
        if not budget.left(row):
            return
        row.counts["first crashes"] += 1
        rng = random.Random(f"{name}/{seed}/{what}")
        case = f"twice:{name}:{seed}:{what}"
        camera = Camera(files, Fixed(power), rng, each=EACH, torn=0.7)
        with repeatable(rng):
            problem = _open_again(files, camera, cache)
            if problem:
                row.violate(case, problem)
            develop(camera, row, case, OPTIONS, rng)


def _open_again(files: PowerCutFiles, camera: Camera, cache: Expected) -> str | None:
    camera.start()
    wal = None
    try:
        wal = Wal.open(LOG, files=files, **OPTIONS)
        first, end = wal.first_position, wal.current_position()
        problem = cache.problem(first, end, wal.read_from(first))
        camera.ledger = Fixed(cache.shown(first, end))
        camera.take("after it was shown")
    except Exception as error:
        problem = f"G6: opening failed: {type(error).__name__}: {error}"
    camera.stop()
    if wal is not None:
        abandon(wal)
    return problem


Crash = tuple[str, PowerCutFiles, Expected, Expected]


def _deaths(name: str, seed: str) -> Iterator[Crash]:
    """The process dies after each operation."""
    rng = random.Random(f"{name}/{seed}")
    files = PowerCutFiles()
    driver = Driver(files, Ledger(), rng, OPTIONS)
    found: list[Crash] = []

    def look(operation: str, path: str) -> None:
        if operation not in QUIET:
            ledger = driver.ledger
            what = f"death {len(found)} after {operation} {path}".replace(":", ";")
            expected = ledger.expected(driver.durable())
            found.append((what, files.crash(), expected, ledger.expected_of_cache()))

    before, call = CALLS[name]
    with repeatable(rng):
        before(driver)
        files.on_operation = look
        call(driver)
        files.on_operation = None
        for wal in driver.wals:
            abandon(wal)
    return iter(found)


def _failed_syncs(name: str, seed: str) -> Iterator[Crash]:
    """Each sync fails, and leaves clean pages in the cache; the process gives up."""
    before, call = CALLS[name]
    for nth in range(1, 100):
        rng = random.Random(f"{name}/{seed}")
        disk = PowerCutFiles(failed_sync="clean")
        files = FaultyFiles(disk, record=False)
        driver = _Plain(disk, Ledger(), rng, {**OPTIONS, "files": files})
        durable = 0
        with repeatable(rng):
            before(driver)
            fault = files.fail("sync", nth=nth, lasting=True)
            try:
                call(driver)
            except StorageError:
                pass
            durable = driver.durable()
            for wal in driver.wals:
                abandon(wal)
        if not fault.hits:
            return
        ledger = driver.ledger
        cache = ledger.expected_of_cache()
        yield f"sync {nth} fails", disk.crash(), ledger.expected(durable), cache


class _Plain(Driver):
    """A driver whose log stands on other files than those that are looked at."""

    def open(self, handles: int = 1, **changes: Any) -> None:
        self.wals.append(Wal.open(LOG, **{**self.options, **changes}))
        self.ledger.synced()
        self.look("open")
