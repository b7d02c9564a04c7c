"""One log through many crashes, the next one often before it has recovered from the last.

Each life opens the log, does a few things and dies at a chosen operation, which may be one of its
recovery: by a power cut, by the death of the process alone (the cache keeps what it wrote), or in
the middle of storing a frame. What one life has shown must be there in all later ones (G12, D1-D5).
"""

from __future__ import annotations

import dataclasses
import os
import random
import time

from treering import FsyncPolicy
from treering._core import format as fmt
from treering.testing import PowerCutFiles

from .harness import LOG, Budget, Row, abandon, repeatable
from .ledger import Expected, Ledger
from .powercut import LOST, QUIET, examine
from .workloads import Driver

ROUNDS = 50

# Logs of different kinds; "manifest" dies only while the manifest is being replaced.
KINDS = ("memory", "written", "untrusted", "manifest")

# Examined beside the image that the next life starts on.
SIDE_IMAGES = 2


class Death(BaseException):
    """The machine or the process stops here."""


@dataclasses.dataclass
class Remains:
    """What a life leaves: the disk, and what the log on it may be."""

    files: PowerCutFiles
    expected: Expected
    by_power: bool


class Reaper:
    """Ends a life at its nth operation; remembers what is left."""

    def __init__(
        self, files: PowerCutFiles, ledger: Ledger, rng: random.Random, after: int, where: str = ""
    ) -> None:
        self.files, self.ledger, self.rng = files, ledger, rng
        self.after, self.where = after, where
        self.remains: Remains | None = None
        self.side: list[tuple[PowerCutFiles, Expected]] = []
        self.driver: Driver | None = None
        files.on_operation = self._operation
        files.during_sync = lambda path: self._operation("during sync", path)

    def _operation(self, name: str, path: str) -> None:
        if name in QUIET or self.remains is not None or not path.endswith(self.where):
            return
        self.after -= 1
        if self.after < 0:
            self.strike()
            raise Death

    def take(self, what: str) -> None:
        """As a camera: called after each call of the program."""
        self._operation("call", what)

    def strike(self, *, by_power: bool | None = None) -> None:
        """Keep what is left now."""
        rng = self.rng
        durable = self.driver.durable() if self.driver is not None else 0
        by_power = rng.random() < 0.6 if by_power is None else by_power
        expected = self.ledger.expected(durable)
        lost, torn = rng.choice(LOST), rng.random() < (0.8 if self.where else 0.3)
        seed = rng.randrange(1 << 30)
        images = list(self.files.images(SIDE_IMAGES + 2, seed, lost=lost, torn_sectors=torn))
        self.side = [(image.crash(), expected) for image in images[:SIDE_IMAGES]]
        if by_power:
            self.remains = Remains(rng.choice(images), expected, True)
        else:
            cache = self.ledger.expected_of_cache()
            self.remains = Remains(self.files.crash(), cache, False)

    def tear(self, driver: Driver) -> None:
        """Die in the middle of storing a frame: its words are in place here and there."""
        control = driver.wals[0]._engine.control
        ledger, rng = self.ledger, self.rng
        fields = driver.fields()
        before = (control.load(fmt.WORD_TAIL_BASE), control.load(fmt.WORD_END_OFFSET))
        ledger.appending([fields])
        self.files.on_operation = self.files.during_sync = None
        driver.wals[0].put(fields[0], fields[1])
        base, end = control.load(fmt.WORD_TAIL_BASE), control.load(fmt.WORD_END_OFFSET)
        self.strike(by_power=False)
        assert self.remains is not None
        if base == before[0]:
            _tear(self.remains.files, base, before[1], end, rng)
        raise Death


def _tear(files: PowerCutFiles, base: int, start: int, end: int, rng: random.Random) -> None:
    """Take some words of the bytes away, as if they had not been stored yet."""
    path = os.path.join(LOG, fmt.segment_name(base))
    content = bytearray(files.contents()[path][start:end])
    words = len(content) // 8
    first = rng.randrange(words + 1)
    style = rng.randrange(3)
    for word in range(words):
        gone = (word >= first, word < first, rng.random() < 0.5)[style]
        if gone:
            content[8 * word : 8 * word + 8] = bytes(8)
    descriptor = files.open(path, os.O_RDWR)
    files.write(descriptor, memoryview(content), start)
    files.close(descriptor)


def live(name: str, seed: int, budget: Budget) -> Row:
    """Logs that live through ROUNDS crashes each, until the budget is used up."""
    row = Row("compound", name)
    started = time.perf_counter()
    run = 0
    while budget.left(row):
        once(name, f"{seed}/{run}", row)
        run += 1
    row.seconds = time.perf_counter() - started
    return row


def once(name: str, seed: str, row: Row, rounds: int = ROUNDS) -> None:
    """One log, `rounds` crashes."""
    rng = random.Random(f"lifetimes/{name}/{seed}")
    kind = "btrfs" if name == "untrusted" else "memory"
    files = PowerCutFiles(kind, sector_bytes=rng.choice((512, 4096)))
    ledger = Ledger()
    expected, by_power = ledger.expected(), True
    for number in range(rounds):
        case = f"compound:{name}:{seed}:at={number}"
        problem = _look(files, expected, ledger if by_power else None, row)
        if problem:
            row.violate(case, problem)
            return
        where, most = ("/manifest", (2, 8)) if name == "manifest" else ("", (3, 10, 25, 60))
        after = rng.choice(most) * rng.randint(0, 9) // 9
        reaper = Reaper(files, ledger, rng, after, where)
        with repeatable(rng):
            problem = _one_life(name, reaper, expected)
        if problem:
            row.violate(case, problem)
            return
        assert reaper.remains is not None
        row.counts["power cut" if reaper.remains.by_power else "process death"] += 1
        for image, side in reaper.side:
            row.cases += 1
            problem = examine(image, side, {"segment_bytes_max": 4096}, row)
            if problem:
                row.violate(case, f"beside: {problem}")
                return
        files, expected = reaper.remains.files, reaper.remains.expected
        by_power = reaper.remains.by_power


def _look(files: PowerCutFiles, expected: Expected, adopt: Ledger | None, row: Row) -> str | None:
    """Examine a copy. After a power cut what is there is fixed: whenever recovery ends, and however
    often it is interrupted, it must show just that."""
    row.cases += 1
    seen: list[tuple[int, int]] = []

    class Watch:
        def problem(self, first: int, end: int, records: list[object]) -> str | None:
            seen.append((first, end))
            return expected.problem(first, end, records)

    copy = files.crash()
    problem = examine(copy, Watch(), {"segment_bytes_max": 4096}, row)
    if problem is None and adopt is not None:
        adopt.entries = list(expected.entries)
        adopt.adopt(*seen[0])
    return problem


def _one_life(name: str, reaper: Reaper, expected: Expected) -> str | None:
    rng, ledger = reaper.rng, reaper.ledger
    options = {
        "segment_bytes_max": rng.choice((1024, 2048, 8192)),
        "frame_align_bytes": rng.choice((8, 8, 512)),
        "fsync_policy": rng.choice((FsyncPolicy.OS, FsyncPolicy.OS, FsyncPolicy.ALWAYS)),
        "map_tail": False if name == "written" else None,
    }
    driver = Driver(reaper.files, ledger, rng, options, reaper)  # type: ignore[arg-type]
    reaper.driver = driver
    try:
        problem = _begin(driver, expected)
        if problem:
            return problem
        _go_on(driver, reaper)
        reaper.strike()
    except Death:
        pass
    except Exception as error:
        return f"the program itself failed: {type(error).__name__}: {error}"
    finally:
        reaper.files.on_operation = reaper.files.during_sync = None
        for wal in driver.wals:
            abandon(wal)
    return None


def _begin(driver: Driver, expected: Expected) -> str | None:
    """Open, and see what there is: from then on it must stay."""
    from treering import Wal

    wal = Wal.open(LOG, files=driver.files, **driver.options)
    driver.wals.append(wal)
    first, end = wal.first_position, wal.current_position()
    problem = expected.problem(first, end, wal.read_from(first))
    if problem is None:
        times = [record.timestamp_ns for record in wal.read_from(first)]
        driver.ledger.adopt(first, end)
        for entry, time_ns in zip(driver.ledger.entries[first:], times, strict=True):
            entry.timestamp_ns = time_ns
    return problem


def _go_on(driver: Driver, reaper: Reaper) -> None:
    rng = driver.rng
    for _ in range(rng.randint(0, 12)):
        step = rng.random()
        if step < 0.5:
            driver.put(durable=rng.random() < 0.2)
        elif step < 0.65:
            driver.batch(rng.randint(1, 4))
        elif step < 0.75:
            driver.sync()
        elif step < 0.82:
            driver.cut(driver.somewhere())
        elif step < 0.89:
            driver.prune(driver.somewhere())
        elif step < 0.93:
            driver.close()
            driver.open()
        else:
            reaper.tear(driver)
