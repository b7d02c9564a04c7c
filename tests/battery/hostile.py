"""Hostile logs: known ones, spoiled in every way that bytes can be, and what may come of it (G21).

Without repaired checksums a spoiled log says a prefix of what it said before, or raises one of
treering's errors. With them it may say anything, but in order, in bounded time and memory, and
whatever it says it says again.
"""

from __future__ import annotations

import dataclasses
import json
import random
import struct
import zlib
from collections.abc import Callable
from typing import Any

from tests.battery.harness import LOG, repeatable
from tests.format._golden import all_golden
from treering import FsyncPolicy, TreeringError, Wal, repair, verify
from treering._core import format as fmt
from treering._core import manifest as manifests
from treering._core.codec import RecordIterator
from treering._core.compression import decompress
from treering._core.files import Directory
from treering.testing import FakeClock, MemoryFiles

Files = dict[str, bytes]
Rng = random.Random

OPTIONS: dict[str, Any] = {"segment_bytes_max": 4096, "fsync_policy": FsyncPolicy.OS}
EDGES = (0, 1, 2, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)


@dataclasses.dataclass(frozen=True)
class Specimen:
    """A log to be spoiled, and what it says unspoiled."""

    name: str
    files: Files
    records: list[tuple[Any, ...]]
    ever: frozenset[tuple[Any, ...]]  # with those that truncation removed, but whose bytes remain


def specimens() -> list[Specimen]:
    """The golden logs."""
    found = []
    for golden in all_golden():
        with Wal.open(LOG, files=golden.in_memory(), read_only=True) as wal:
            records = [record._key() for record in wal.read_from()]
        ever = frozenset(records).union(*map(_frames_of, golden.files.values()))
        found.append(Specimen(str(golden), golden.files, records, ever))
    return found


def _frames_of(data: bytes) -> list[tuple[Any, ...]]:
    """Every record in the frames of a segment file."""
    if data[:8] != fmt.SEGMENT_MAGIC:
        return []
    header = fmt.SegmentHeader.unpack(data)
    iterator = RecordIterator(lambda _: False, decompress)
    at, end = header.frames_start, fmt.POSITION_MAX
    iterator.load(data, at, len(data), header.base, end, 0, header.tag, header.seed)
    return [record._key() for record in iterator]


# --- Spoiling ------------------------------------------------------------------------------------


def spoiled(rng: Rng, specimen: Specimen, *, repaired: bool) -> Files:
    """The specimen's files after a few accidents; with every checksum right if `repaired`."""
    files = dict(specimen.files)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 5))):
        if files:
            rng.choice(SPOILERS)(rng, files)
    if repaired:
        files = {name: repair_checksums(name, data) for name, data in files.items()}
    return files


def _any(rng: Rng, files: Files) -> str:
    return rng.choice(sorted(files))


def _place(rng: Rng, data: bytes) -> int:
    """An offset: mostly where there is something."""
    used = len(data.rstrip(b"\0")) if rng.random() < 0.9 else len(data)
    return rng.randrange(max(used, 1))


def _put(files: Files, name: str, at: int, piece: bytes) -> None:
    data = files[name]
    files[name] = data[:at] + piece + data[at + len(piece) :]


def flip_bit(rng: Rng, files: Files) -> None:
    name = _any(rng, files)
    at = _place(rng, files[name])
    if files[name]:
        _put(files, name, at, bytes([files[name][at] ^ 1 << rng.randrange(8)]))


def set_bytes(rng: Rng, files: Files) -> None:
    name = _any(rng, files)
    piece = rng.choice((bytes(1), b"\xff", b"\xff" * 8, rng.randbytes(rng.choice((1, 4, 64, 512)))))
    _put(files, name, _place(rng, files[name]), piece)


def set_number(rng: Rng, files: Files) -> None:
    """Any aligned field of a segment or a manifest slot at an edge, or near what it was."""
    name = _any(rng, files)
    size = rng.choice((1, 2, 4, 8))
    at = _place(rng, files[name]) // size * size
    was = int.from_bytes(files[name][at : at + size], "little")
    value = rng.choice((*EDGES, was - 1, was + 1, was * 2, len(files[name]) - at, was ^ 0x40))
    _put(files, name, at, (value % (1 << 8 * size)).to_bytes(size, "little"))


# (offset, width) of those of a frame, and of its first record.
FRAME_FIELDS = ((8, 4), (12, 4), (16, 8), (24, 8), (32, 1), (33, 1), (34, 2), (36, 4), (40, 8))


def set_field(rng: Rng, files: Files) -> None:
    """A field of a frame header or of a record that stands where frames stand."""
    name = _any(rng, files)
    starts = list(frame_starts(files[name])) if name.endswith(fmt.SEGMENT_SUFFIX) else []
    if not starts:
        return set_number(rng, files)
    at = rng.choice(starts)
    field, size = rng.choice(FRAME_FIELDS)
    room = len(files[name]) - at - field
    value = rng.choice((*EDGES, room - 1, room, room + 1, rng.randrange(256), rng.randrange(4096)))
    _put(files, name, at + field, (value % (1 << 8 * size)).to_bytes(size, "little"))
    return None


def truncate(rng: Rng, files: Files) -> None:
    name = _any(rng, files)
    files[name] = files[name][: _place(rng, files[name])]


def extend(rng: Rng, files: Files) -> None:
    name = _any(rng, files)
    length = rng.choice((1, 8, 96, 4096))
    files[name] += rng.choice((bytes(length), rng.randbytes(length)))


def splice(rng: Rng, files: Files) -> None:
    """A piece of any file over, into, or out of any place of any file."""
    source, target = files[_any(rng, files)], _any(rng, files)
    start, at = _place(rng, source), _place(rng, files[target])
    if rng.random() < 0.7:
        start, at = start & ~7, at & ~7
    piece = source[start : start + rng.choice((1, 8, 24, 32, 64, 96, 512, 4096))]
    data = files[target]
    behind = at + rng.choice((0, len(piece), len(piece)))
    files[target] = data[:at] + rng.choice((piece, piece, b"")) + data[behind:]


def swap_sectors(rng: Rng, files: Files) -> None:
    name = _any(rng, files)
    size = rng.choice((512, 4096))
    one, other = (_place(rng, files[name]) // size * size for _ in range(2))
    a, b = (files[name][at : at + size] for at in (one, other))
    if len(a) == len(b):
        _put(files, name, one, b)
        _put(files, name, other, a)


def move_file(rng: Rng, files: Files) -> None:
    """Remove, swap, copy or rename a file."""
    one, other = _any(rng, files), _any(rng, files)
    done = rng.choice(("remove", "swap", "copy", "rename", "empty"))
    base = rng.choice((0, 1, 7, 50, 2**63, 2**64 - 1, 10**20 - 1))
    new = rng.choice((other, fmt.segment_name(base)))
    if done == "swap":
        files[one], files[other] = files[other], files[one]
    elif done == "copy":
        files[new] = files[one]
    elif done == "rename":
        files[new] = files.pop(one)
    elif done == "empty":
        files[one] = b""
    else:
        del files[one]


SPOILERS: tuple[Callable[[Rng, Files], None], ...] = (
    *(flip_bit, set_bytes, set_number, set_number, set_field, set_field),
    *(truncate, extend, splice, splice, swap_sectors, move_file),
)


# --- Repairing checksums, so that what is behind them is reached ---------------------------------


def _sealed(data: bytes, start: int, end: int) -> bytes:
    """With the checksum right in the last 4 bytes of [start, end)."""
    check = zlib.crc32(data[start : end - 4])
    return data[: end - 4] + struct.pack("<I", check) + data[end:]


def repair_checksums(name: str, data: bytes) -> bytes:
    """The file with every checksum in it right."""
    if name == fmt.MANIFEST_NAME:
        for start in fmt.MANIFEST_SLOT_OFFSETS:
            if len(data) >= start + fmt.MANIFEST_SLOT.size:
                data = _sealed(data, start, start + fmt.MANIFEST_SLOT.size)
        return data
    if name == fmt.PINS_NAME:
        return _repair_pins(data)
    if len(data) < fmt.SEGMENT_HEADER_BYTES:
        return data
    data = _sealed(data, 0, fmt.SEGMENT_HEADER_BYTES)
    return _repair_footer(_repair_frames(data))


def _header(data: bytes) -> fmt.SegmentHeader:
    f = fmt.SEGMENT_HEADER.unpack_from(data)
    return fmt.SegmentHeader(f[4], f[5], f[6], f[7] if f[7] in (8, 512, 4096) else 8, f[8])


def frame_starts(data: bytes) -> list[int]:
    """Where the frames of a segment begin, as far as their lengths tell."""
    found: list[int] = []
    if len(data) < fmt.SEGMENT_HEADER_BYTES:
        return found
    at = _header(data).frames_start
    while at + fmt.FRAME_HEADER_BYTES <= len(data):
        length = int.from_bytes(data[at + 8 : at + 12], "little")
        if not fmt.FRAME_HEADER_BYTES <= length <= len(data) - at:
            break
        found.append(at)
        at += length
    return found


def _repair_frames(data: bytes) -> bytes:
    header = _header(data)
    changed = bytearray(data)
    for at in frame_starts(data):
        length = int.from_bytes(data[at + 8 : at + 12], "little")
        check = zlib.crc32(data[at + 8 : at + length], header.seed)
        changed[at : at + 8] = struct.pack("<II", header.tag, check)
    return bytes(changed)


def _repair_footer(data: bytes) -> bytes:
    start = len(data) - fmt.TRAILER_BYTES
    if start < fmt.SEGMENT_HEADER_BYTES or data[start : start + 8] != fmt.TRAILER_MAGIC:
        return data
    entries = int.from_bytes(data[start + 12 : start + 16], "little")
    index = start - entries * fmt.INDEX_ENTRY_BYTES
    if index >= 0:
        check = struct.pack("<I", zlib.crc32(data[index:start]))
        data = data[: start + 88] + check + data[start + 92 :]
    return _sealed(data, start, len(data))


def _repair_pins(data: bytes) -> bytes:
    try:
        content = json.loads(data)
        said = json.dumps(sorted(content["pins"].items())).encode()
        content["checksum"] = zlib.crc32(said)
        return json.dumps(content).encode()
    except (ValueError, KeyError, TypeError, AttributeError):
        return data


# --- What may come of it -------------------------------------------------------------------------


class Finding(Exception):
    """Something that must never happen did."""


def outcome(files: Files, specimen: Specimen, *, repaired: bool, seed: int) -> list[Any]:
    """All that a spoiled log says to those who read it, open it, verify it and repair it.

    Raises Finding, or whatever the log should not have raised.
    """
    judge = _Judge(specimen, not repaired)
    with repeatable(random.Random(seed)):
        return [
            judge.read_only(_memory(files)),
            judge.verified(_memory(files)),
            judge.appended(_memory(files)),
            judge.mended(_memory(files)),
        ]


def _memory(files: Files) -> MemoryFiles:
    memory = MemoryFiles()
    for name, data in files.items():
        memory.put_file(f"{LOG}/{name}", data)
    return memory


def _open(files: MemoryFiles, **options: Any) -> Wal:
    return Wal.open(LOG, files=files, clock=FakeClock(), create=False, **OPTIONS, **options)


def _told(error: TreeringError) -> tuple[str, str]:
    return type(error).__name__, str(error)


class _Judge:
    """Asks a spoiled log everything, and holds the answers against what it was.

    `strict` (without repaired checksums) what is wrong may not stay unnoticed.
    """

    def __init__(self, specimen: Specimen, strict: bool) -> None:
        self.specimen = specimen
        self.original = {key[0]: key for key in specimen.records}
        self.strict = strict
        self.unsure = False  # the manifest is lost, so nobody knows of a cut that it alone told
        self.whole = False  # whether verify found nothing wrong

    def read_only(self, files: MemoryFiles) -> Any:
        before = files.contents()
        try:
            found, _ = manifests.load(Directory(files, LOG))
            self.unsure = found is None
        except fmt.FormatError:
            self.unsure = True
        try:
            with _open(files, read_only=True) as wal:
                return self._everything(wal)
        except TreeringError as error:
            return _told(error)
        finally:
            self._must(files.contents() == before, "reading only changed a file")

    def verified(self, files: MemoryFiles) -> Any:
        try:
            report = verify(LOG, files=files)
        except TreeringError as error:
            return _told(error)
        self.whole = report.ok
        return report.ok, report.end, [finding.describe() for finding in report.findings]

    def appended(self, files: MemoryFiles) -> Any:
        try:
            with _open(files) as wal:
                said = self._everything(wal)
                end = wal.current_position()
                self._must(wal.put(b"new", b"value") == end, "an append got another position")
                wal.delete(b"new")
        except TreeringError as error:
            self._expect(not self.whole, f"verify found nothing, and opening raised {error!r}")
            return _told(error)
        self._expect(not self.whole or said[2] is None, f"verify found nothing, but {said[2]}")
        try:
            with _open(files) as wal:
                again = self._everything(wal, appended=end)
        except TreeringError as error:
            self._expect(False, f"opening again after an append raised {error!r}")
            return said, _told(error)
        if said[2] is None:
            self._expect(again == (said[0], said[1] + 2, None), f"{said} became {again}")
        return said, again

    def mended(self, files: MemoryFiles) -> Any:
        try:
            report = repair(LOG, files=files)
            with _open(files) as wal:
                said = self._everything(wal, anywhere=True)
        except TreeringError as error:
            return _told(error)
        self._expect(said[2] is None, f"repaired, and reading raised {said[2]}")
        return said, [finding.describe() for finding in report.damage]

    def _everything(self, wal: Wal, appended: int | None = None, anywhere: bool = False) -> Any:
        """(first position, records read, error) of reading forwards; the same in other ways."""
        first, records, error = wal.first_position, [], None
        try:
            for record in wal.read_from():
                records.append(record._key())
                record.headers  # noqa: B018 - parsed when asked for
        except TreeringError as caught:
            error = _told(caught)
        positions = [key[0] for key in records]
        expected = list(range(first, first + len(records)))
        self._must(positions == expected, f"positions {positions[:5]}… from {first} on")
        if self.strict:
            self._compare(wal, records, appended, anywhere)
        self._read_otherwise(wal, records, whole=error is None)
        return first, len(records), error

    def _compare(
        self, wal: Wal, records: list[tuple[Any, ...]], appended: int | None, anywhere: bool
    ) -> None:
        """Nothing that was not written, nothing left out; `anywhere`: it may begin later."""
        first, begins = wal.first_position, min(self.original)
        anywhere = anywhere or wal.recovery.state == "damaged"  # and then it says so
        self._must(anywhere or first == begins or not records, f"it begins at {first}")
        for key in records:
            if appended is None or key[0] < appended:
                known = self.original.get(key[0]) == key
                known = known or (self.unsure and key in self.specimen.ever)
                self._must(known, f"position {key[0]} was never written")

    def _read_otherwise(self, wal: Wal, records: list[tuple[Any, ...]], *, whole: bool) -> None:
        """One by one and backwards it says the same, or raises."""
        try:
            for key in records[:: max(len(records) // 5, 1)]:
                self._must(wal.read(key[0])._key() == key, f"position {key[0]} reads otherwise")
            if whole:
                back = [record._key() for record in wal.read_backwards()]
                self._must(back[::-1] == records, "backwards it says something else")
        except TreeringError as error:
            self._expect(False, f"forwards it can be read, but {error!r}")

    def _must(self, holds: bool, otherwise: str) -> None:
        if not holds:
            raise Finding(otherwise)

    def _expect(self, holds: bool, otherwise: str) -> None:
        """What only a log that nobody forged has to keep."""
        self._must(holds or not self.strict, otherwise)
