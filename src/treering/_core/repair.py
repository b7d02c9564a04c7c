"""`repair`: bring a damaged log back to its longest intact prefix, without losing a byte.

    in place     damaged and later segments are renamed to `….cut`, never removed; the manifest then
                 says where the log ends, under a new epoch, so that nothing old comes back to life
    into=DIR     a repaired copy; the log itself is left as it is
    salvage=DIR  readable records from behind the damage, in a log of their own

What is only redundant (a segment's header, the manifest, a footer) is rebuilt from the rest.
Every step leaves a log that opening either refuses or accepts, and that repair can go on with.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator

from . import format as fmt
from . import manifest as manifests
from . import retention, snapshots
from . import segment as segments
from .content import Content
from .control import Control
from .errors import DamageError, LockedError, StorageError, TreeringError, UsageError
from .files import CREATE_NEW, WRITE, Directory, File, SystemFiles
from .judge import Verdict
from .labels import Finding, Label
from .locks import HandleLocks
from .mending import Mending, plan_mending
from .salvage import salvage_records
from .survey import newer_error
from .verify import Examination, examine_log

GUARD_PIN = "treering-repair"
_LOCK_TIMEOUT_SECONDS = 5.0


@dataclasses.dataclass(frozen=True, slots=True)
class RepairReport:
    """What `repair` found and did.

    `state` is "nothing to repair", "planned" (dry_run), "repaired" or "copied". The repaired log
    holds [`first_position`, `end`). `removed` is the range of positions that the log had and the
    repaired one has not; `kept` are the files with the bytes that were taken out. `salvaged`
    counts the records saved from behind the damage, `skipped` those that could not be decoded.
    """

    path: str
    state: str
    damage: tuple[Finding, ...]
    actions: tuple[str, ...]
    first_position: int
    end: int
    removed: tuple[int, int] | None = None
    kept: tuple[str, ...] = ()
    into: str | None = None
    salvage: str | None = None
    salvaged: int = 0
    skipped: int = 0


def repair(
    path: str | os.PathLike[str],
    *,
    into: str | os.PathLike[str] | None = None,
    salvage: str | os.PathLike[str] | None = None,
    dry_run: bool = False,
    files: SystemFiles | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> RepairReport:
    """Bring a damaged log back to its longest intact prefix. Does nothing to an undamaged one.

    In place, unless `into` names a directory for a repaired copy. Every byte that is taken out is
    kept in a file ending in `.cut` beside the log. `salvage` names a directory for a new log with
    the readable records from behind the damage, each with its old position in the header
    `treering-position`. `dry_run` only says what would be done. Durable at return.

    The positions behind the new end will be given again, under a new epoch. Raises VersionError
    for a log of a newer version, LockedError in place while the log is open elsewhere, UsageError
    for a directory that is not empty, StorageError, LogNotFoundError.
    """
    door = files or SystemFiles()
    directory = Directory(door, os.path.abspath(os.fspath(path)))
    targets = [_new_directory(door, target) for target in (into, salvage)]
    job = _Job(directory, targets[0], targets[1], progress)
    if dry_run or into is not None:
        return job.run(dry_run=dry_run)
    with _alone(directory):
        return job.run(dry_run=False)


def _new_directory(files: SystemFiles, path: str | os.PathLike[str] | None) -> Directory | None:
    if path is None:
        return None
    directory = Directory(files, os.path.abspath(os.fspath(path)))
    if directory.exists() and directory.names():
        raise UsageError(
            "the directory is not empty", path=directory.path, hint="Name one that does not exist"
        )
    return directory


@contextlib.contextmanager
def _alone(directory: Directory) -> Iterator[None]:
    """Nobody else has the log open, and nobody opens it meanwhile."""
    if not directory.exists():
        yield  # examining it says so
        return
    locks = HandleLocks(directory)
    try:
        locks.begin(_LOCK_TIMEOUT_SECONDS, directory.path)
        if not locks.alone():
            raise _locked(directory)
        yield
    finally:
        locks.close()


def _locked(directory: Directory) -> LockedError:
    pid = None
    with contextlib.suppress(TreeringError, OSError, ValueError):
        control = Control.join(directory, write=False)
        pid = control.load(fmt.WORD_OWNER_PID)
        control.close()
    error = LockedError(
        "the log is open in another process" + (f" (opened first by {pid})" if pid else ""),
        path=directory.path,
        hint="Close it there, or repair a copy with into=DIR",
    )
    error.pid = pid
    return error


class _Job:
    """One repair: examine, decide, act, examine again."""

    def __init__(
        self,
        directory: Directory,
        into: Directory | None,
        salvage: Directory | None,
        progress: Callable[[int, int], object] | None,
    ) -> None:
        self.directory = directory
        self.into = into
        self.salvage = salvage
        self.progress = progress
        self.kept: list[str] = []

    def run(self, *, dry_run: bool) -> RepairReport:
        found = examine_log(self.directory, self.progress)
        damage = found.verdict.damage
        _refuse_newer(found.verdict)
        if not damage:
            first, end = found.verdict.first_position, found.verdict.end
            return RepairReport(self.directory.path, "nothing to repair", (), (), first, end)
        mending = plan_mending(found)
        self._beyond = _snapshots_beyond(self.directory, mending)
        salvaged = skipped = 0
        if not dry_run:
            if self.into is None:
                _refuse_failing_disk(damage)
            if self.salvage is not None:
                # First of all: nothing has been moved yet, and nothing will be unless this works.
                with _whole_or_absent(self.salvage) as making:
                    salvaged, skipped = salvage_records(self.directory, making, mending)
            self._act(found, mending)
        return RepairReport(
            self.directory.path,
            "planned" if dry_run else "repaired" if self.into is None else "copied",
            damage,
            (*mending.describe(copy=self.into is not None), *self._about_snapshots()),
            mending.first_position,
            mending.end,
            mending.removed(found.verdict),
            tuple(self.kept),
            self.into.path if self.into is not None else None,
            self.salvage.path if self.salvage is not None else None,
            salvaged,
            skipped,
        )

    def _about_snapshots(self) -> list[str]:
        verb = "left out" if self.into is not None else "set aside"
        return [f"{name}: {verb}, it lies beyond the end" for name in self._beyond]

    def _act(self, found: Examination, mending: Mending) -> None:
        if self.into is None:
            _InPlace(self.directory, mending, self.kept).run()
            kept = "Nothing was lost: what was taken out lies in files ending in .cut"
            _refuse_damage(self.directory, kept)
            return
        with _whole_or_absent(self.into) as making:
            _copy(self.directory, making, found, mending)
            _refuse_damage(making, "The log itself was not changed, and no copy was made")


def _refuse_damage(repaired: Directory, hint: str) -> None:
    left = examine_log(repaired).verdict.damage
    if left:
        raise DamageError(
            f"the repaired log is still damaged: {left[0].describe()}",
            path=repaired.path,
            hint=hint,
        )


def _refuse_newer(verdict: Verdict) -> None:
    for finding in verdict.findings:
        if finding.label is Label.NEWER:
            raise newer_error(finding.path, finding.detail)


def _refuse_failing_disk(damage: tuple[Finding, ...]) -> None:
    for finding in damage:
        if finding.label is Label.UNREADABLE:
            raise StorageError(
                "the device cannot read parts of the log, so nothing is changed there",
                path=finding.path,
                offset=finding.offset,
                hint="Repair into another directory, on another device: into=DIR",
            )


# --- In place ------------------------------------------------------------------------------------


class _InPlace:
    """The steps, in the order that makes each of them safe to be the last one."""

    def __init__(self, directory: Directory, mending: Mending, kept: list[str]) -> None:
        self.directory = directory
        self.mending = mending
        self.kept = kept
        self.number = _free_number(directory.names())

    def run(self) -> None:
        mending = self.mending
        if mending.rebuilt_manifest is not None:
            # It describes what is there, damage included, so opening goes on refusing.
            self._move_aside(fmt.MANIFEST_NAME)
            manifests.create(self.directory, mending.rebuilt_manifest)
        for content in mending.headers:
            self._rebuild_header(content)
        for content in mending.footers:
            self._take_footer(content)
        # The newest first: as long as one is left, the manifest knows of a segment that is missing.
        for content in reversed(mending.aside):
            self._move_aside(os.path.basename(content.path))
        for name in _snapshots_beyond(self.directory, mending):
            self._move_aside(name)
        self.directory.sync()
        if mending.manifest is not None:
            manifests.store(self.directory, mending.manifest)
        if mending.guard_pins:
            with self.directory.open(fmt.PINS_NAME) as file:
                _save(self.directory, self._aside_name(fmt.PINS_NAME), file, 0, file.size())
            _guard(self.directory, mending)

    def _move_aside(self, name: str) -> None:
        if name not in self.directory.names():
            return
        aside = self._aside_name(name)
        self.directory.rename(name, aside)

    def _aside_name(self, name: str) -> str:
        aside = f"{name}.repair{self.number}{fmt.ASIDE_SUFFIX}"
        self.kept.append(self.directory.join(aside))
        return aside

    def _rebuild_header(self, content: Content) -> None:
        assert content.header is not None
        name = os.path.basename(content.path)
        with self.directory.open(name, WRITE) as file:
            _save(self.directory, self._aside_name(f"{name}.header"), file, 0, 64)
            file.write(content.header.pack(), 0)
            file.sync()

    def _take_footer(self, content: Content) -> None:
        assert content.trailer is not None
        name, start = os.path.basename(content.path), content.trailer.frames_end
        with self.directory.open(name, WRITE) as file:
            aside = self._aside_name(f"{name}.footer")
            _save(self.directory, aside, file, start, content.size_bytes)
            file.truncate(start)
            file.sync()


def _free_number(names: list[str]) -> int:
    number = 1
    while any(name.endswith(f".repair{number}{fmt.ASIDE_SUFFIX}") for name in names):
        number += 1
    return number


def _save(directory: Directory, name: str, source: File, start: int, stop: int) -> None:
    """Keep a range of a file under a new name; durable at return."""
    with directory.open(name, CREATE_NEW) as file:
        _copy_range(source, file, start, stop, -start)
        file.sync()
    directory.sync()


def _copy_range(source: File, target: File, start: int, stop: int, shift: int) -> None:
    at = start
    while at < stop:
        block = source.read(min(segments.CHUNK_BYTES, stop - at), at)
        if not block:
            raise DamageError("the file became shorter", path=source.path, offset=at)
        target.write(block, at + shift)
        at += len(block)


def _guard(directory: Directory, mending: Mending) -> None:
    """Nobody knows what consumers still need: one pin keeps everything until a person looks."""
    retention.store_pins(directory, {GUARD_PIN: mending.first_position})


# --- A copy --------------------------------------------------------------------------------------


def _copy(source: Directory, making: Directory, found: Examination, mending: Mending) -> None:
    """The repaired log in a new directory."""
    for content, stop in mending.copies():
        _copy_segment(source, making, content, stop)
    manifests.create(making, mending.manifest_of_copy(found.verdict.manifest))
    if mending.guard_pins:
        _guard(making, mending)
    elif fmt.PINS_NAME in found.picture.names:
        retention.store_pins(making, retention.load_pins(source))
    left_out = _snapshots_beyond(source, mending)
    for name in source.names():
        if snapshots.is_name(name) and name not in left_out:
            with source.open(name) as file:
                _save(making, name, file, 0, file.size())


def _snapshots_beyond(directory: Directory, mending: Mending) -> list[str]:
    """Those that know of positions which are given up, and will be given again."""
    end = mending.end
    return [name for name in directory.names() if snapshots.is_name(name) and int(name[:20]) > end]


def _copy_segment(source: Directory, target: Directory, content: Content, stop: int) -> None:
    assert content.header is not None
    name = os.path.basename(content.path)
    with source.open(name) as old, target.open(name, CREATE_NEW) as new:
        new.write(content.header.pack(), 0)
        _copy_range(old, new, fmt.SEGMENT_HEADER_BYTES, stop, 0)
        new.sync()


@contextlib.contextmanager
def _whole_or_absent(target: Directory) -> Iterator[Directory]:
    """A new directory, which gets the target's name when the block has filled it.

    Whatever interrupts that, nothing is under the target's name; a kill leaves `….tmp` beside it.
    """
    parent = Directory(target.files, os.path.dirname(target.path))
    making = _unused_name(target)
    making.make()
    try:
        yield making
        making.sync()
        parent.rename(os.path.basename(making.path), os.path.basename(target.path))
    except BaseException:
        _empty(making)
        raise
    parent.sync()
    target.sync_way()


def _unused_name(target: Directory) -> Directory:
    """Beside the target, of this process alone, without what an earlier try has left."""
    number = 1
    while True:
        name = f"{target.path}.{os.getpid()}-{number}{fmt.TEMPORARY_SUFFIX}"
        directory = Directory(target.files, name)
        if not directory.exists() or not directory.names():
            return directory
        number += 1


def _empty(directory: Directory) -> None:
    """Give the space back, as far as that can be done."""
    with contextlib.suppress(StorageError):
        for name in directory.names():
            directory.remove(name)
