"""Damage: a known log, changed on disk in every way one can think of (G7, G8, G21).

The log may answer in three ways: as if nothing had happened, because nothing had that matters; with
an error that names the place; or, above the last position that anything left knows to have been
durable, by cutting a torn tail. It never shows a wrong record, never keeps silent about a lost one
that something still knows of, never fails in any other way.
"""

from __future__ import annotations

import dataclasses
import os
import random
from collections.abc import Iterable
from typing import Any

from treering import DamageError, FsyncPolicy, Record, VersionError, Wal
from treering._core import format as fmt
from treering._core import reader
from treering.testing import PowerCutFiles

from .harness import LOG, Budget, Row, abandon, repeatable

SEGMENT_BYTES = 16384
OPTIONS: dict[str, Any] = {"segment_bytes_max": SEGMENT_BYTES, "fsync_policy": FsyncPolicy.ALWAYS}


@dataclasses.dataclass(frozen=True)
class Frame:
    """Where a frame lies, what it holds and what it knows."""

    path: str
    start: int
    end: int
    first: int
    after: int
    durable: int


@dataclasses.dataclass
class Specimen:
    """A log to be damaged, with all that is known of it."""

    name: str
    files: PowerCutFiles
    contents: dict[str, bytes]
    records: list[Any]
    frames: list[Frame]
    closed: bool
    first: int = 0

    @property
    def tail(self) -> str:
        """The path of the newest segment."""
        return max(path for path in self.contents if path.endswith(fmt.SEGMENT_SUFFIX))

    def segments(self) -> list[str]:
        """The paths of all segments, oldest first."""
        return sorted(path for path in self.contents if path.endswith(fmt.SEGMENT_SUFFIX))


def specimen(
    name: str, seed: int = 1, *, size: int = 60_000, shape: dict[str, Any] | None = None
) -> Specimen:
    """A log of about `size` bytes. "closed": cleanly; "in use": its process died with all durable;
    "lazy": it died with the last records written, not durable."""
    rng = random.Random(f"specimen/{name}/{seed}")
    files = PowerCutFiles()
    options = {**OPTIONS, **(shape or {})}
    if name == "lazy":
        options["fsync_policy"] = FsyncPolicy.OS
    with repeatable(rng):
        wal = Wal.open(LOG, files=files, **options)
        written = 0
        while written < size:
            records = [_record(rng) for _ in range(rng.choice((1, 1, 1, 3)))]
            wal.append_batch(records)
            written += sum(80 + len(record.value) for record in records)
            if name == "lazy" and rng.random() < 0.3:
                wal.sync()
        if name == "cut":
            _cut_and_go_on(wal, rng)
        records = list(wal.read_from())
        wal._engine.writer.chores._do_due()  # type: ignore[union-attr]
        if name == "closed":
            wal.close()
        else:
            abandon(wal)
    after = files.crash()
    first = records[0].position
    contents = {path: data for path, data in after.contents().items() if path.startswith(LOG)}
    return Specimen(name, after, contents, records, _frames(contents), name == "closed", first)


def _cut_and_go_on(wal: Wal, rng: random.Random) -> None:
    """Both truncations behind it, and more than one epoch."""
    wal.truncate_after(wal.current_position() - 15)
    for _ in range(20):
        wal.append(_record(rng))
    wal.truncate_before(20)


def _record(rng: random.Random) -> Record:
    value = rng.randbytes(rng.choice((0, 20, 100, 700)))
    if rng.random() < 0.2:
        return Record(rng.randbytes(8), value, headers={"h": b"1"}, stream=3, expires_at_ns=5)
    return Record(rng.randbytes(8), value)


def _frames(contents: dict[str, bytes]) -> list[Frame]:
    """Every frame of a healthy log, by following lengths; no checksum is asked."""
    frames = []
    paths = sorted(path for path in contents if path.endswith(fmt.SEGMENT_SUFFIX))
    for path, following in zip(paths, [*paths[1:], None], strict=True):
        data = contents[path]
        # Behind a cut, older frames than those of the next segment speak of another history.
        limit = fmt.segment_base(os.path.basename(following)) if following else fmt.POSITION_MAX
        header = fmt.SegmentHeader.unpack(data)
        at = header.frames_start
        while at + fmt.FRAME_HEADER_BYTES <= len(data):
            tag, _, length, count, first, durable = fmt.FRAME_HEADER.unpack_from(data, at)
            if tag != header.tag or first >= limit:
                break
            frames.append(Frame(path, at, at + length, first, first + count, durable))
            at += length
    return frames


# --- What the log says ---------------------------------------------------------------------------


class Patient:
    """A copy of a specimen that is damaged, looked at, and healed again."""

    def __init__(self, healthy: Specimen) -> None:
        self.healthy = healthy
        self.files = healthy.files.crash()
        # Nobody writes meanwhile: bytes that are wrong need no second look, only time.
        reader._LOOK_AGAIN = 0

    def examine(self, changed: dict[str, bytes | None], *, write: bool) -> str:
        """What the log says with these files changed or (None) removed; the kind of its answer.

        AssertionError if it is not an answer that it may give. `write`: by opening for appends,
        which may change files, so a fresh copy is taken for it.
        """
        files = self.healthy.files.crash() if write else self.files
        self._change(files, changed)
        try:
            return self._answer(files, changed, write=write)
        finally:
            if not write:
                self._restore(changed)

    def _change(self, files: PowerCutFiles, changed: dict[str, bytes | None]) -> None:
        for path, data in changed.items():
            if data is not None:
                files.put_file(path, data)
            elif path in files.contents():
                files.remove(path)

    def _restore(self, changed: dict[str, bytes | None]) -> None:
        for path in changed:
            if path in self.healthy.contents:
                self.files.put_file(path, self.healthy.contents[path])
            elif path in self.files.contents():
                self.files.remove(path)

    def _answer(
        self, files: PowerCutFiles, changed: dict[str, bytes | None], *, write: bool
    ) -> str:
        shown: list[Any] = []
        before = files.contents() if write else {}
        try:
            wal = Wal.open(LOG, files=files, **OPTIONS, read_only=not write)
        except (DamageError, VersionError) as error:
            _check_place(error)
            if write:
                _check_untouched(before, files.contents())
            return "refused"
        with wal:
            try:
                return self._read(wal, shown, changed)
            except (DamageError, VersionError) as error:
                self._check_prefix(shown)
                _check_place(error)
                return "reported"

    def _read(self, wal: Wal, shown: list[Any], changed: dict[str, bytes | None]) -> str:
        for record in wal.read_from(wal.first_position):
            shown.append(record)
        self._check_prefix(shown)
        if len(shown) == len(self.healthy.records):
            assert not wal.recovery.damage, "damage in the report, but the log is whole"
            return "whole"
        end = self.healthy.first + len(shown)
        floor = self._known(changed)
        assert end >= floor, f"G7: the log ends at {end} without a word, {floor} was durable"
        return "cut, reported" if wal.recovery.cut is not None else "cut, silent"

    def _check_prefix(self, shown: list[Any]) -> None:
        records = self.healthy.records
        assert len(shown) <= len(records), f"G4: {len(shown)} records of {len(records)}"
        if shown != records[: len(shown)]:
            wrong = next(
                at for at, (a, b) in enumerate(zip(shown, records, strict=False)) if a != b
            )
            raise AssertionError(f"G4: record {wrong} reads {shown[wrong]!r}")

    def _known(self, changed: dict[str, bytes | None]) -> int:
        """The highest position that anything left knows to have been durable."""
        healthy, floor = self.healthy, 0
        for frame in healthy.frames:
            data = changed.get(frame.path, healthy.contents[frame.path])
            here = slice(frame.start, frame.end)
            if data is not None and data[here] == healthy.contents[frame.path][here]:
                floor = max(floor, frame.durable)
        manifest = fmt.MANIFEST_NAME
        if manifest not in {os.path.basename(path) for path in changed}:
            if healthy.closed:
                return healthy.first + len(healthy.records)
            floor = max(floor, int(os.path.basename(healthy.tail).partition(".")[0]))
        return floor


def _check_place(error: DamageError | VersionError) -> None:
    """The error names the file and, unless it is about the log as a whole, a position."""
    assert error.path and error.path.startswith(LOG), f"G7: no file named: {error}"
    manifest = os.path.basename(error.path) == fmt.MANIFEST_NAME
    if isinstance(error, DamageError) and not manifest:
        known = (error.position, error.positions)
        assert known != (None, None), f"G7: no position named: {error}"


def _check_untouched(before: dict[str, bytes], after: dict[str, bytes]) -> None:
    """Opening that refuses changes no file of the log (its control page and locks aside)."""
    ours = {fmt.CONTROL_NAME, fmt.LOCK_NAME, fmt.OPENING_NAME}
    for path, data in before.items():
        if os.path.basename(path) not in ours:
            assert after.get(path) == data, f"G7: {path} was changed though the log is refused"


def look(
    patient: Patient, row: Row, case: str, changed: dict[str, bytes | None], *, write: bool
) -> None:
    """One case, counted by its answer."""
    row.cases += 1
    try:
        row.counts[patient.examine(changed, write=write)] += 1
    except Exception as error:
        row.violate(case, f"{type(error).__name__}: {error}")


# --- Bits ----------------------------------------------------------------------------------------

# One of so many flips is looked at by opening for appends too; the rest read-only.
WRITE_EVERY = 16


def flip_bits(healthy: Specimen, bits: Iterable[tuple[str, int]], row: Row, budget: Budget) -> None:
    """Each of the bits (path, number) flipped."""
    patient = Patient(healthy)
    for count, (path, bit) in enumerate(bits):
        if not budget.left(row):
            row.notes.append("not every bit: the budget was used up")
            return
        data = bytearray(healthy.contents[path])
        data[bit // 8] ^= 1 << bit % 8
        case = f"flip:{healthy.name}:{os.path.basename(path)}:bit={bit}"
        look(patient, row, case, {path: bytes(data)}, write=False)
        if count % WRITE_EVERY == 0:
            look(patient, row, case + ":write", {path: bytes(data)}, write=True)


def all_bits(healthy: Specimen) -> list[tuple[str, int]]:
    """Every bit of every file of the log."""
    return [
        (path, bit)
        for path in sorted(healthy.contents)
        for bit in range(8 * len(healthy.contents[path]))
    ]
