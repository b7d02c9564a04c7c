"""Failing calls: a program runs again and again, and each time another call of it fails (G9, G10).

Whatever fails, in whatever way: nothing reported durable is lost, a failed append is never seen,
a dead log stays dead for every handle until it is opened again, and everything else is a matter of
trying again once the trouble is over.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import gc
import random
import time
from collections.abc import Iterator
from typing import Any

from treering import DiskFullError, FailedError, FsyncPolicy, StorageError, TreeringError, Wal
from treering._core import format as fmt
from treering.testing import FaultyFiles, PowerCutFiles

from .harness import LOG, Budget, Row, abandon, do_chores, repeatable
from .ledger import Ledger
from .powercut import examine

ERRORS: dict[str, tuple[int, ...]] = {
    "open": (errno.EMFILE, errno.EIO),
    "close": (errno.EIO,),
    "status": (errno.EIO,),
    "read_into": (errno.EIO,),
    "write": (errno.EIO, errno.ENOSPC, errno.EINTR),
    "truncate": (errno.EIO,),
    "allocate": (errno.ENOSPC, errno.EIO, errno.EINTR, errno.EOPNOTSUPP),
    "sync": (errno.EIO, errno.ENOSPC),
    "sync_directory": (errno.EIO,),
    "map": (errno.ENOMEM,),
    "try_lock": (errno.ENOLCK,),
    "unlock": (errno.EIO,),
    "list_directory": (errno.EIO,),
    "make_directory": (errno.ENOSPC, errno.EIO),
    "rename": (errno.EIO, errno.ENOSPC),
    "remove": (errno.EIO,),
}
# Calls that may do their work and fail all the same.
AFTERWARDS = frozenset({"write", "sync", "rename", "remove", "truncate", "allocate"})
SHORT = frozenset({"write", "read_into"})


@dataclasses.dataclass(frozen=True)
class Trouble:
    """What happens to the nth call: an error number, or 0 for a transfer that comes up short."""

    nth: int
    name: str
    number: int
    lasting: bool = False
    after: bool = False

    def __str__(self) -> str:
        what = errno.errorcode.get(self.number, "short")
        return (
            f"{self.nth}.{self.name}.{what}"
            + (".lasting" if self.lasting else "")
            + (".after" if self.after else "")
        )

    @classmethod
    def parse(cls, text: str) -> Trouble:
        """The trouble that str() described."""
        nth, name, what, *rest = text.split(".")
        number = getattr(errno, what) if what != "short" else 0
        return cls(int(nth), name, number, "lasting" in rest, "after" in rest)


def troubles(names: list[str]) -> Iterator[Trouble]:
    """Everything that may happen to a program that makes these calls."""
    for index, name in enumerate(names):
        for number in ERRORS.get(name, ()):
            yield Trouble(index + 1, name, number)
            if number not in (errno.EINTR, errno.EOPNOTSUPP):
                yield Trouble(index + 1, name, number, lasting=True)
        if name in AFTERWARDS:
            yield Trouble(index + 1, name, errno.EIO, after=True)
        if name in SHORT:
            yield Trouble(index + 1, name, 0)


PROGRAMS: dict[str, dict[str, Any]] = {
    "always": {"fsync_policy": FsyncPolicy.ALWAYS},
    "os": {"fsync_policy": FsyncPolicy.OS},
    "written": {"fsync_policy": FsyncPolicy.OS, "map_tail": False},
    "untrusted": {"fsync_policy": FsyncPolicy.OS},
    "file-lock": {"fsync_policy": FsyncPolicy.OS, "process_lock": "file"},
}

STEPS = (
    "open", "put", "put", "batch", "sync", "big", "put", "put", "put", "prune", "put", "batch",
    "cut", "put", "put", "big", "close", "open", "put", "grow", "put", "sync", "put", "close",
)  # fmt: skip


class Program:
    """The steps, with what is to be true after each of them."""

    def __init__(self, name: str, seed: str, disk: PowerCutFiles, files: FaultyFiles) -> None:
        self.rng = random.Random(seed)
        self.options = {"segment_bytes_max": 2048, **PROGRAMS[name]}
        self.disk, self.files = disk, files
        self.ledger = Ledger()
        self.wal: Wal | None = None
        self.old: list[Wal] = []  # dead handles that are still open

    # --- steps -------------------------------------------------------------------------------

    def do(self, step: str) -> None:
        """One step; the ledger knows what came of it unless it raises."""
        getattr(self, f"_{step}")()
        if self.wal is not None:
            do_chores(self.wal)

    def _live(self) -> Wal:
        assert self.wal is not None
        return self.wal

    def _open(self) -> None:
        self.wal = Wal.open(LOG, files=self.files, **self.options)
        self.ledger.synced()

    def _close(self) -> None:
        wal, self.wal = self._live(), None
        wal.close()
        self.ledger.synced()

    def _put(self, size: int = 0) -> None:
        self._append([self.rng.randbytes(size or self.rng.choice((10, 100, 300)))])

    def _big(self) -> None:
        self._put(1500)

    def _batch(self) -> None:
        self._append([self.rng.randbytes(self.rng.choice((10, 100))) for _ in range(3)])

    def _append(self, values: list[bytes]) -> None:
        wal, ledger = self._live(), self.ledger
        items = [(b"%d" % (ledger.end + index), value) for index, value in enumerate(values)]
        ledger.appending([(key, value, False, 0, {}, None) for key, value in items])
        always = self.options["fsync_policy"] == FsyncPolicy.ALWAYS
        try:
            if len(items) == 1:
                position = wal.put(*items[0])
            else:
                position = wal.append_batch(items)[0]
        except BaseException as error:
            self._failed(wal, error, len(items), always)
            raise
        ledger.landed(position, len(items))
        assert position == ledger.end - len(items), f"D11: a gap: {position}, not {ledger.end}"
        ledger.appended([None] * len(items), durable=always)

    def _failed(self, wal: Wal, error: BaseException, count: int, durable: bool) -> None:
        """An append raised. Only one that had to be durable may be in the log nonetheless."""
        ledger = self.ledger
        before, now = ledger.end - count, wal.current_position()
        if now == before or now in ledger.ends:
            ledger.undo(count)  # a failed cut may be seen already; it is durable once it succeeds
            return
        ledger.appended([None] * count, durable=False)
        assert now == ledger.end, f"G5: {now - before} of {count} records appended"
        assert durable and not isinstance(error, DiskFullError), (
            f"G10: the append raised {error!r}, but its records are in the log"
        )

    def _sync(self) -> None:
        self._live().sync()
        self.ledger.synced()

    def _prune(self) -> None:
        target = self.ledger.first + (self.ledger.end - self.ledger.first) * 2 // 3
        self.ledger.pruning(target)
        self.ledger.pruned(self._live().truncate_before(target))

    def _cut(self) -> None:
        end = min(self.ledger.ends, default=self.ledger.end - 2)
        self.ledger.cutting(end)
        self._live().truncate_after(end)
        self.ledger.cut(end)

    def _grow(self) -> None:
        """Start again with larger segments, so that the tail is extended."""
        self._close()
        self.options["segment_bytes_max"] = 8192
        self._open()

    # --- what is left ------------------------------------------------------------------------

    def dead(self) -> bool:
        """Whether the log says that it is dead."""
        live = self.wal._engine if self.wal is not None else None
        return live is not None and bool(live.control.load(fmt.WORD_FAILED))

    def durable(self) -> int:
        """What the log reports as durable."""
        wals = [wal for wal in (self.wal, *self.old) if wal is not None and not wal.closed]
        return max((wal.durable_position for wal in wals), default=0)

    def images(self, count: int, what: str, row: Row) -> None:
        """The power is cut now."""
        expected = self.ledger.expected(self.durable())
        images = self.disk.images(count, self.rng.randrange(1 << 30), torn_sectors=True)
        for image in images:
            row.counts["images"] += 1
            problem = examine(image, expected, {"segment_bytes_max": 2048})
            assert problem is None, f"power cut {what}: {problem}"

    def shows(self) -> None:
        """What the handle shows is what was appended: all that was written, dead or alive."""
        wal = self._live()
        expected = self.ledger.expected_of_cache()
        first, end = wal.first_position, wal.current_position()
        problem = expected.problem(first, end, wal.read_from(first))
        assert problem is None, problem


def run(name: str, seed: str, trouble: Trouble | None, row: Row | None, images: int) -> list[str]:
    """The program with one trouble; the names of all calls. Raises AssertionError."""
    row = row or Row("", "")
    kind = "btrfs" if name == "untrusted" else "memory"
    disk = PowerCutFiles(kind, failed_sync="clean")
    files = FaultyFiles(disk, record=trouble is None)
    program = Program(name, seed, disk, files)
    with repeatable(random.Random(seed)):
        if trouble is not None:
            _arrange(files, trouble)
        try:
            for step in STEPS:
                _step(program, step, trouble, row, images)
            program.images(images, "at the end", row)
        finally:
            for wal in (program.wal, *program.old):
                if wal is not None:
                    abandon(wal)
        if disk.open_paths:
            gc.collect()  # what a raised error keeps alive is not forgotten
        assert trouble is None or not disk.open_paths, f"left open: {disk.open_paths}"
    return [call.name for call in files.calls if call.name in ERRORS]


def _arrange(files: FaultyFiles, trouble: Trouble) -> None:
    if trouble.number == 0:
        files.shorten(lambda call: True, bytes_max=7, nth=trouble.nth)
    elif not trouble.lasting:
        files.fail(None, number=trouble.number, nth=trouble.nth, after=trouble.after)
    else:
        seen = 0

        def matches(call: Any) -> bool:
            nonlocal seen
            seen += 1
            return seen >= trouble.nth and call.name == trouble.name

        files.fail(matches, number=trouble.number, lasting=True)


def _step(program: Program, step: str, trouble: Trouble | None, row: Row, images: int) -> None:
    """One step; if it fails, everything that has to hold then, and the step again."""
    error = _try(program, step)
    if error is None:
        return
    assert trouble is not None, f"{step} failed without any trouble: {error!r}"
    row.counts[type(error).__name__] += 1
    program.images(images, f"after {step} failed", row)
    if trouble.lasting and program.wal is not None:
        _try(program, "put")
    dead = program.dead()
    program.files.heal()
    if program.wal is None:
        _again(program, "open" if step in ("open", "close", "grow") else step)
        program.shows()
        return
    program.shows()
    if dead:
        row.counts["dead"] += 1
        _stays_dead(program)
        _reopen(program, in_place=trouble.nth % 2 == 0)
    if step != "cut" or program.ledger.ends:
        _again(program, step)
    program.shows()
    program.images(images, f"after {step} was done again", row)


def _try(program: Program, step: str) -> TreeringError | None:
    try:
        program.do(step)
    except StorageError as error:
        return error
    return None


def _again(program: Program, step: str) -> None:
    error = _try(program, step)
    assert error is None, f"{step} fails though the trouble is over: {error!r}"


def _stays_dead(program: Program) -> None:
    """The trouble is over, but nobody may go on with a dead log."""
    for action in (lambda wal: wal.put(b"x", b"y"), lambda wal: wal.append_batch([(b"x", b"y")])):
        try:
            action(program._live())
        except FailedError:
            continue
        raise AssertionError("D6: a dead log took an append")


def _reopen(program: Program, *, in_place: bool) -> None:
    """In the same boot, with the same cache: after a close, or beside the dead handle."""
    dead = program._live()
    written = program.ledger.expected_of_cache()
    if in_place:
        with contextlib.suppress(FailedError):  # what could not be made durable is told
            dead.close()
    else:
        program.old.append(dead)
    wal = Wal.open(LOG, files=program.files, **program.options)
    program.wal = wal
    first, end = wal.first_position, wal.current_position()
    problem = written.problem(first, end, wal.read_from(first))
    assert problem is None, f"reopened: {problem}"
    if end in written.ends:
        program.ledger.cut(end)
    else:
        assert end >= program.ledger.written, f"D1: reopened at {end}"
        program.ledger.adopt(first, end)
    if not in_place:
        try:
            dead.put(b"x", b"y")
        except FailedError:
            return
        raise AssertionError("D6: the dead handle took an append after another one reopened")


def once(name: str, seed: str, trouble: Trouble, row: Row, case: str, images: int = 3) -> None:
    """The program with one trouble, counted."""
    row.cases += 1
    row.counts[trouble.name] += 1
    try:
        run(name, seed, trouble, row, images)
    except Exception as error:
        row.violate(case, f"{type(error).__name__}: {error}")


def fail_calls(
    name: str, seed: int, budget: Budget, images: int = 3, share: int = 1, only: str = ""
) -> Row:
    """Every call of the program fails in every way; with `share`, one in so many cases is tried.

    `only`: calls of this name.
    """
    row = Row("failing calls", name)
    started = time.perf_counter()
    names = run(name, f"{seed}", None, None, 1)
    rng = random.Random(f"faults/{name}/{seed}")
    for trouble in troubles(names):
        if not budget.left(row):
            row.notes.append("not all calls: the budget was used up")
            break
        if not trouble.name.startswith(only) or (share > 1 and rng.randrange(share)):
            continue
        once(name, f"{seed}", trouble, row, f"fail:{name}:{seed}:{trouble}", images)
    row.seconds = time.perf_counter() - started
    return row
