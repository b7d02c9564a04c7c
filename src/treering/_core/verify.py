"""`verify`: read a whole log and list every problem, with its place and its meaning.

Writes nothing, needs no lock, and works on a log that other processes are writing: what looks like
damage while files change under the reading is looked at again before it is said.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterator

from . import format as fmt
from . import manifest as manifests
from . import recovery, retention
from . import segment as segments
from .content import Content, Meter
from .errors import DamageError, NotThereError, StorageError, VersionError
from .examine import examine
from .files import Directory, SystemFiles, no_such_file
from .judge import Picture, Verdict, judge
from .labels import Finding, Label
from .snapshots import read_snapshot, snapshot_name, snapshot_positions

# A log that changes while it is read is looked at again; real damage stays where it is.
_LOOKS_MAX = 10

# What is as it should be; everything else is worth a line.
_CALM = frozenset(
    {
        Label.SEALED,
        Label.UNSEALED,
        Label.SUPERSEDED,
        Label.TAIL,
        Label.TAIL_SEALED,
        Label.TAIL_SHORT,
        Label.TEMPORARY,
        Label.SNAPSHOT,
    }
)


@dataclasses.dataclass(frozen=True, slots=True)
class VerifyReport:
    """What `verify` found.

    `findings` has a line for every file; `damage` are those that are damage, `notes` those that the
    next opening tidies up. Records [`first_position`, `intact_end`) are whole; the log ends at
    `end`, as far as that is known. `records` counts the intact ones, behind damage too.
    """

    path: str
    log_id: bytes
    findings: tuple[Finding, ...]
    first_position: int
    intact_end: int
    end: int
    records: int
    segments: int
    read_bytes: int
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether there is no damage, and nothing that this version cannot read."""
        return not self.damage and not self.newer

    @property
    def damage(self) -> tuple[Finding, ...]:
        """The findings that are damage."""
        return tuple(finding for finding in self.findings if finding.label.is_damage)

    @property
    def newer(self) -> tuple[Finding, ...]:
        """What a newer version of treering wrote."""
        return tuple(finding for finding in self.findings if finding.label is Label.NEWER)

    @property
    def notes(self) -> tuple[Finding, ...]:
        """What is neither damage nor as it should be: leftovers of a crash, a footer to rebuild."""
        return tuple(
            finding
            for finding in self.findings
            if (finding.label not in _CALM or finding.detail)
            and not finding.label.is_damage
            and finding.label is not Label.NEWER
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Examination:
    """A log read from end to end, and what it means; what repair works from."""

    picture: Picture
    contents: dict[int, Content]
    verdict: Verdict


def verify(
    path: str | os.PathLike[str],
    *,
    files: SystemFiles | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> VerifyReport:
    """Read the log in the directory `path` from end to end, and list every problem.

    Checks every frame's checksum and records, footers and their indexes against the frames,
    headers, the chain of positions, both copies in the manifest, the pins, and the snapshots that
    stores keep beside the log. Writes nothing; memory stays flat. `progress` is called with the
    bytes done and the bytes there are.

    Raises LogNotFoundError and StorageError; damage is not raised but reported.
    """
    started = time.monotonic()
    directory = Directory(files or SystemFiles(), os.path.abspath(os.fspath(path)))
    found = examine_log(directory, progress)
    verdict = found.verdict
    return VerifyReport(
        directory.path,
        verdict.manifest.log_id,
        (*verdict.findings, *_snapshots(directory, verdict)),
        verdict.first_position,
        verdict.intact_end,
        verdict.end,
        verdict.records,
        len(found.contents),
        sum(content.end_offset for content in found.contents.values()),
        time.monotonic() - started,
    )


def _snapshots(directory: Directory, verdict: Verdict) -> Iterator[Finding]:
    """A line for each snapshot that may be loaded; others are a checkpoint's leftovers."""
    for position in reversed(snapshot_positions(directory)):
        if position < verdict.first_position:
            continue
        path = os.path.join(directory.path, snapshot_name(position))
        label, detail = Label.SNAPSHOT, ""
        try:
            for _ in read_snapshot(directory, position, verdict.manifest.log_id).records:
                pass
        except NotThereError:
            continue  # a checkpoint removed it meanwhile
        except VersionError as error:
            label, detail = Label.NEWER, error.message
        except (DamageError, StorageError) as error:
            label, detail = Label.DAMAGED_SNAPSHOT, error.message
        yield Finding(label, path, positions=(0, position), detail=detail)


def examine_log(
    directory: Directory, progress: Callable[[int, int], object] | None = None
) -> Examination:
    """Read all of it. Damage counts once the same was seen twice, with a fresh look in between."""
    if not directory.exists():
        raise recovery.not_found(directory.path)
    examiner = _Examiner(directory, progress)
    examiner.look(examiner.picture.bases)
    seen: object = None
    for _ in range(_LOOKS_MAX):
        verdict = judge(examiner.picture, examiner.contents)
        doubts = tuple(f for f in verdict.findings if f.label.is_damage or f.label is Label.NEWER)
        if not doubts or doubts == seen:
            break
        seen = doubts
        examiner.look_again(doubts)
    return Examination(examiner.picture, examiner.contents, verdict)


class _Examiner:
    """Pictures and contents, taken while others may change the log."""

    def __init__(self, directory: Directory, progress: Callable[[int, int], object] | None) -> None:
        self.directory = directory
        self.picture = take_picture(directory)
        if not self.picture.bases and self.picture.manifest_problems == ("missing",):
            raise recovery.not_found(directory.path)
        self.contents: dict[int, Content] = {}
        self.known = self._known()
        sizes = {base: self._size(base) for base in self.picture.bases}
        self.sizes = {base: size for base, size in sizes.items() if size is not None}
        self.meter = Meter(progress, sum(self.sizes.values()))

    def look(self, bases: tuple[int, ...]) -> None:
        """Read these segments; one that is gone by now is left out."""
        newest = max(self.picture.bases, default=-1)
        done = 0
        for base in bases:
            done += self.sizes.get(base, 0)
            try:
                self.contents[base] = examine(
                    self.directory, base, self.known, self.meter, live=base == newest
                )
            except StorageError as error:
                if not no_such_file(error):
                    raise
                self.contents.pop(base, None)
            self.meter.reach(done)

    def look_again(self, doubts: tuple[Finding, ...]) -> None:
        """A fresh picture, and another reading of what looked damaged and its neighbours."""
        self.picture = take_picture(self.directory)
        bases = self.picture.bases
        named = {os.path.basename(finding.path) for finding in doubts}
        again = {base for base in bases if base not in self.contents}
        for number, base in enumerate(bases):
            if fmt.segment_name(base) in named:
                again.update(bases[max(number - 1, 0) : number + 1])
        self.contents = {base: c for base, c in self.contents.items() if base in bases}
        self.known = self._known()
        self.look(tuple(sorted(again | set(bases[-1:]))))

    def _size(self, base: int) -> int | None:
        try:
            with segments.open_segment(self.directory, base) as file:
                return file.size()
        except StorageError as error:
            if no_such_file(error):
                return None
            raise

    def _known(self) -> dict[bytes, int]:
        """Ids of the log and its newest epoch, to rebuild a damaged header with."""
        manifest = self.picture.manifest
        if manifest is not None:
            return {manifest.log_id: manifest.epoch}
        known: dict[bytes, int] = {}
        for base in self.picture.bases:
            try:
                with segments.open_segment(self.directory, base) as file:
                    header = segments.read_header(file)
            except (fmt.FormatError, StorageError):
                continue
            known[header.log_id] = max(known.get(header.log_id, 0), header.epoch)
        return known


def take_picture(directory: Directory) -> Picture:
    """The manifest and the names as they were at one moment: such as a crash could leave."""
    before: object = None
    while True:
        manifest, problems, newer = _load_manifest(directory)
        names = directory.names()
        now = (manifest, problems, newer)
        if now == before:
            pins = _pins_problem(directory)
            return Picture(directory.path, *now, tuple(names), pins)
        before = now


def _load_manifest(directory: Directory) -> tuple[fmt.Manifest | None, tuple[str, ...], str]:
    try:
        manifest, problems = manifests.load(directory)
    except fmt.UnknownVersionError as error:
        return None, (), str(error)
    return manifest, tuple(problems), ""


def _pins_problem(directory: Directory) -> str:
    try:
        retention.load_pins(directory)
    except DamageError as error:
        return error.message
    return ""
