"""Two crashes in a row: the process dies, or the power goes out, and while the log is opened again
the power goes out (G9, G12). Each of the two at every operation.

The first crash leaves things in the cache that are not on the disk, or on the disk only a part of
what was done. Opening must make durable whatever it relies on before it relies on it. Instead of
dying, the process may also meet an fsync that fails, after which the cache says that all is clean.
"""

from __future__ import annotations

import contextlib
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
# Images of each moment, beside those where nothing and where everything survives.
EACH = 4


def _some(d: Driver) -> None:
    d.open()
    for _ in range(5):
        d.put()
    d.sync()
    d.put()
    d.put()


def _more(d: Driver) -> None:
    for _ in range(6):
        d.put()


def _closed(d: Driver) -> None:
    _some(d)
    d.close()


def _reopened(d: Driver) -> None:
    d.open()
    d.put()


# What is done before anything goes wrong, and the call during which it does.
CALLS: dict[str, tuple[Callable[[Driver], None], Callable[[Driver], None]]] = {
    "create": (lambda d: None, lambda d: d.open()),
    "appends and rolls": (_some, _more),
    "sync": (_some, lambda d: d.sync()),
    "truncate_after": (_some, lambda d: d.cut(d.ledger.end - 2)),
    "truncate_after all": (_some, lambda d: d.cut(0)),
    "truncate_before": (_some, lambda d: d.prune(d.ledger.end - 1)),
    "truncate_before all": (_some, lambda d: d.prune(d.ledger.end)),
    "close": (_some, lambda d: d.close()),
    "open": (_closed, _reopened),
}


class Fixed:
    """A ledger that expects the same at all times."""

    def __init__(self, expected: Expected) -> None:
        self._expected = expected

    def expected(self, durable: int = 0) -> Expected:
        """What may be left now."""
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


def once(name: str, seed: str, row: Row, budget: Budget, only: str = "") -> None:
    """One program; all first crashes of it, or the one that is described so."""
    for what, files, power, cache in _first_crashes(name, seed):
        if not budget.left(row):
            return
        if only not in ("", what):
            continue
        row.counts["first crashes"] += 1
        rng = random.Random(f"{name}/{seed}/{what}")
        case = f"twice:{name}:{seed}:{what}"
        camera = Camera(files, Fixed(power), rng, each=EACH)
        with repeatable(rng):
            problem = _open_again(files, camera, cache)
            if problem is not None:
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


# What happened, what it left, and what may be left of that: without the cache, and with it.
Crash = tuple[str, PowerCutFiles, Expected, Expected]


def _first_crashes(name: str, seed: str) -> list[Crash]:
    """In an order of their own, so that a small budget meets some of every kind."""
    found = [*_deaths(name, seed), *_failed_syncs(name, seed)]
    random.Random(f"order/{name}/{seed}").shuffle(found)
    return found


def _deaths(name: str, seed: str) -> list[Crash]:
    """The process dies, or the power goes out, after each operation."""
    rng, chance = random.Random(f"{name}/{seed}"), random.Random(f"cuts/{name}/{seed}")
    files = PowerCutFiles()
    driver = Driver(files, Ledger(), rng, OPTIONS)
    found: list[Crash] = []

    def look(operation: str, path: str) -> None:
        if operation not in QUIET:
            ledger = driver.ledger
            what = f"{len(found)} after {operation} {path}".replace(":", ";")
            expected = ledger.expected(driver.durable())
            found.append((f"death {what}", files.crash(), expected, ledger.expected_of_cache()))
            image = chance.choice(list(files.images(EACH, len(found))))
            found.append((f"cut {what}", image, expected, expected))

    before, call = CALLS[name]
    with repeatable(rng):
        before(driver)
        files.on_operation = look
        call(driver)
        files.on_operation = None
        for wal in driver.wals:
            abandon(wal)
    return found


def _failed_syncs(name: str, seed: str) -> Iterator[Crash]:
    """Each sync fails, and leaves clean pages in the cache; the process gives up."""
    before, call = CALLS[name]
    for nth in range(1, 100):
        rng = random.Random(f"{name}/{seed}")
        disk = PowerCutFiles(failed_sync="clean")
        files = FaultyFiles(disk, record=False)
        driver = _Plain(disk, Ledger(), rng, {**OPTIONS, "files": files})
        with repeatable(rng):
            before(driver)
            fault = files.fail("sync", nth=nth, lasting=True)
            with contextlib.suppress(StorageError):
                call(driver)
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
        """Open the log; everything that it shows is durable from then on."""
        self.wals.append(Wal.open(LOG, **{**self.options, **changes}))
        self.ledger.synced()
        self.look("open")
