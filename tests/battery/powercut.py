"""Cutting the power: pictures of a disk at every moment, and what must be true of each.

A `Camera` watches a program on PowerCutFiles. After every call of the door, and whenever the
program says so, it keeps what the disk might hold and what the log may be (an Expected). `develop`
then starts the log on each image.
"""

from __future__ import annotations

import dataclasses
import random
import threading
from collections.abc import Callable, Iterator
from typing import Any, Literal

from treering import DataError, FsyncPolicy, TreeringError, Wal
from treering.testing import PowerCutFiles

from .harness import LOG, Row

# Calls that change nothing on the disk: a picture after them shows what the one before did.
QUIET = frozenset(
    {
        "close",
        "status",
        "read_into",
        "map",
        "next_data",
        "try_lock",
        "unlock",
        "list_directory",
        "is_directory",
        "open",
    }
)

Lost = Literal["zeros", "random", "stale"]
LOST: tuple[Lost, ...] = ("zeros", "random", "stale")


@dataclasses.dataclass(frozen=True, slots=True)
class Shot:
    """One moment: the images of it are made when asked for."""

    number: int
    what: str
    images: Iterator[PowerCutFiles]
    expected: Any
    kind: str


class Camera:
    """Takes pictures of `files` after each operation. `durable()` asks the log how far it is."""

    def __init__(
        self,
        files: PowerCutFiles,
        ledger: Any,
        rng: random.Random,
        *,
        each: int,
        durable: Callable[[], int] = lambda: 0,
        only: int | None = None,
        lost: tuple[Lost, ...] = LOST,
    ) -> None:
        self.files = files
        self.ledger = ledger
        self.durable = durable
        self.shots: list[Shot] = []
        self.skipped = 0
        self._seed = rng.randrange(1 << 30)
        self._each = each
        self._lost = lost
        self._only = only
        self._count = 0
        self._off = 0
        self._lock = threading.Lock()

    def start(self) -> None:
        """Take a picture after each operation, and inside each sync, from now on."""
        self.files.on_operation = self._operation
        # Between a store and its sync there is no call; this is the moment before the sync.
        self.files.during_sync = lambda path: self._operation("during sync", path)

    def stop(self) -> None:
        """No more pictures."""
        self.files.on_operation = self.files.during_sync = None

    def _operation(self, name: str, path: str) -> None:
        if name not in QUIET and not self._off:
            self.take(f"{name} {path}")

    def take(self, what: str) -> None:
        """A picture of this moment, with what may be expected of it."""
        with self._lock:
            number = self._count
            self._count += 1
        if self._only is not None and number != self._only:
            return
        rng = random.Random(f"{self._seed}/{number}")
        before = self.ledger.expected(self.durable())
        lost = rng.choice(self._lost)
        torn, names = rng.random() < 0.3, rng.choice(("any", "any", "prefix"))
        images = self.files.images(
            self._each, rng.randrange(1 << 30), lost=lost, torn_sectors=torn, names=names
        )
        expected = before.until(self.ledger.expected())
        if expected is None:
            self.skipped += 1
            return
        kind = lost + ("+torn" if torn else "")
        self.shots.append(Shot(number, what, images, expected, kind))


def develop(
    camera: Camera, row: Row, case: str, options: dict[str, Any], rng: random.Random
) -> None:
    """Start the log on every image of every picture."""
    for shot in camera.shots:
        for number, image in enumerate(shot.images):
            row.cases += 1
            row.counts[shot.kind] += 1
            row.counts[f"sectors of {camera.files._disk.sector_bytes}"] += 1
            problem = examine(image, shot.expected, options, row)
            if problem:
                row.violate(f"{case}:at={shot.number}:image={number}", f"{shot.what}: {problem}")
    camera.shots.clear()


def after_options(options: dict[str, Any]) -> dict[str, Any]:
    """How the log is opened after the cut: as before, without a deadline's thread."""
    return {**options, "fsync_policy": FsyncPolicy.OS}


def examine(
    image: PowerCutFiles, expected: Any, options: dict[str, Any], row: Row | None = None
) -> str | None:
    """Start the log on one image, use it, start it again; what is wrong, or None."""
    options = after_options(options)
    try:
        with Wal.open(LOG, files=image, **options) as wal:
            first, end = wal.first_position, wal.current_position()
            records = list(wal.read_from(first))
            problem = expected.problem(first, end, records)
            if problem:
                return problem
            if wal.recovery.damage:
                return f"G6: a false alarm: {wal.recovery.damage}"
            if row is not None:
                row.counts[wal.recovery.state] += 1
                row.counts["cut"] += wal.recovery.cut is not None
            position = wal.put(b"after", b"the cut", durable=True)
            if position != end:
                return f"D11: the next record got {position}, the log ended at {end}"
            after = wal.read(position)
        return _again(image, first, [*records, after], options)
    except DataError as error:
        return f"G6: a false alarm: {error}"
    except TreeringError as error:
        return f"G6: opening or using the log failed: {error!r}"
    except Exception as error:  # a bug in the log must not end the battery
        return f"G6: {type(error).__name__}: {error}"


def _again(
    image: PowerCutFiles, first: int, records: list[Any], options: dict[str, Any]
) -> str | None:
    """A second start after a clean close shows the same and has nothing to do."""
    with Wal.open(LOG, files=image, **options) as wal:
        if list(wal.read_from(first)) != records or wal.first_position != first:
            return "G4: a clean restart shows another log"
        if wal.recovery.state != "clean" or wal.recovery.damage:
            return f"G6: a clean restart reports {wal.recovery}"
        wal.check()
    return None
