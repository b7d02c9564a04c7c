"""A newer version or an unknown flag is refused, and nothing is touched (D8, G23)."""

import json
import os
import shutil
import struct
import zlib

import pytest

from tests.format._golden import golden
from treering import DamageError, VersionError, Wal
from treering._core import format as fmt

LOG = golden("plain")
FIRST, MIDDLE, TAIL = (fmt.segment_name(base) for base in (0, 40, 51))
HEADER, FRAME = fmt.SEGMENT_HEADER_BYTES, fmt.FRAME_HEADER_BYTES
SEALED_RECORDS = (1, 20)  # positions in the first segment: in a frame of its own, in a batch


@pytest.fixture
def log(tmp_path):
    """A copy of a golden log in a real directory; its lock files are there already."""
    path = tmp_path / "log"
    shutil.copytree(LOG.folder, path)
    for name in (fmt.LOCK_NAME, fmt.OPENING_NAME):
        (path / name).touch()
    return path


# --- Spoilers: each makes an intact file that a newer treering may have written ------------------


def change(data, at, value, *, start, end):
    """The bytes with `value` at `at`, and with the checksum in the last 4 of [start, end) right."""
    data = bytearray(data)
    data[at : at + len(value)] = value
    data[end - 4 : end] = struct.pack("<I", zlib.crc32(data[start : end - 4]))
    return bytes(data)


def in_header(at, value):
    return lambda data: change(data, at, value, start=0, end=HEADER)


def in_trailer(at, value):
    def spoil(data):
        start = len(data) - fmt.TRAILER_BYTES
        return change(data, start + at, value, start=start, end=len(data))

    return spoil


def in_manifest(at, value, slots=fmt.MANIFEST_SLOT_OFFSETS):
    def spoil(data):
        for start in slots:
            end = start + fmt.MANIFEST_SLOT.size
            data = change(data, start + at, value, start=start, end=end)
        return data

    return spoil


def in_record(position, at, value):
    """The record's header with `value` at `at`, its frame's checksum right."""

    def spoil(data):
        header = fmt.SegmentHeader.unpack(data)
        start, first = header.frames_start, header.base
        while True:
            _, _, length, count, _, _ = fmt.FRAME_HEADER.unpack_from(data, start)
            if position < first + count:
                break
            start, first = start + length, first + count
        offset = start + FRAME
        for _ in range(position - first):
            _, _, key_bytes, value_bytes, _ = fmt.RECORD_HEADER.unpack_from(data, offset)
            offset += fmt.RECORD_HEADER_BYTES + key_bytes + value_bytes  # these have no options
        body = bytearray(data[start + 8 : start + length])
        body[offset - start - 8 + at : offset - start - 8 + at + len(value)] = value
        check = struct.pack("<I", zlib.crc32(body, header.seed))
        return data[: start + 4] + check + bytes(body) + data[start + length :]

    return spoil


TWO, FLAG = b"\x02\x00", b"\x01"

REFUSED_AT_ONCE = {
    f"{what} of {which}": (name, spoil)
    for which, name in {"the first": FIRST, "a middle": MIDDLE, "the last": TAIL}.items()
    for what, spoil in {
        "version 2": in_header(8, TWO),
        "version 65535": in_header(8, b"\xff\xff"),
        "version 0": in_header(8, b"\0\0"),
        "a longer header": in_header(10, struct.pack("<H", 128)),
        "a flag": in_header(12, FLAG),
        "the highest flag": in_header(15, b"\x80"),
        "another alignment": in_header(44, struct.pack("<I", 16)),
    }.items()
}
REFUSED_AT_ONCE |= {
    f"footer {what} of {which}": (name, spoil)
    for which, name in {"the first": FIRST, "a middle": MIDDLE}.items()
    for what, spoil in {
        "version 2": in_trailer(8, TWO),
        "version 0": in_trailer(8, b"\0\0"),
        "flag": in_trailer(10, FLAG),
    }.items()
}
REFUSED_AT_ONCE |= {
    f"manifest {what}": (fmt.MANIFEST_NAME, spoil)
    for what, spoil in {
        "version 2": in_manifest(8, TWO),
        "version 2 in the first slot": in_manifest(8, TWO, (0,)),
        "version 2 in the second slot": in_manifest(8, TWO, (4096,)),
        "version 0": in_manifest(8, b"\0\0"),
        "flag": in_manifest(10, FLAG),
    }.items()
}

RECORD_FLAGS = {
    "flag 0x40": (0, b"\x40"),
    "flag 0x80": (0, b"\x80"),
    "compression 3": (0, b"\x30"),
    "all flags": (0, b"\xff"),
    "a reserved byte": (1, b"\x01"),
}


@pytest.mark.parametrize(("name", "spoil"), REFUSED_AT_ONCE.values(), ids=REFUSED_AT_ONCE)
def test_a_newer_file_is_refused_and_no_byte_or_time_changes(log, name, spoil):
    rewrite(log / name, spoil)
    before = state(log)
    for options in ({}, {"read_only": True}, {"exclusive": True}):
        with pytest.raises(VersionError) as caught:
            Wal.open(log, **options)
        assert caught.value.path == str(log / name)
        assert "newer" in str(caught.value)
    assert state(log) == before


@pytest.mark.parametrize("flag", RECORD_FLAGS.values(), ids=RECORD_FLAGS)
def test_a_newer_record_in_the_tail_is_refused_and_no_byte_or_time_changes(log, flag):
    rewrite(log / TAIL, in_record(51, *flag))
    rewrite(log / fmt.MANIFEST_NAME, in_manifest(80, bytes(8)))  # not closed cleanly: it is scanned
    before = state(log)
    for options in ({}, {"read_only": True}):
        with pytest.raises(VersionError) as caught:
            Wal.open(log, **options)
        assert caught.value.path == str(log / TAIL)
    assert state(log) == before


@pytest.mark.parametrize("flag", RECORD_FLAGS.values(), ids=RECORD_FLAGS)
def test_a_newer_record_in_a_segment_without_a_footer_is_refused(log, flag):
    def spoil(data):
        return in_record(20, *flag)(data)[: -fmt.TRAILER_BYTES]

    rewrite(log / FIRST, spoil)
    rewrite(log / fmt.MANIFEST_NAME, in_manifest(80, bytes(8)))
    before = state(log)
    with pytest.raises(VersionError), Wal.open(log, read_only=True) as wal:
        list(wal.read_from())
    assert state(log) == before


@pytest.mark.parametrize("flag", RECORD_FLAGS.values(), ids=RECORD_FLAGS)
@pytest.mark.parametrize("position", SEALED_RECORDS)
def test_a_newer_record_in_a_sealed_segment_is_told_from_damage_when_it_is_read(
    log, flag, position
):
    """Opening reads no record of a sealed segment. Reading never skips or misreads one."""
    rewrite(log / FIRST, in_record(position, *flag))
    with Wal.open(log, read_only=True) as wal:
        readings = {
            "read_from": lambda: list(wal.read_from()),
            "read_from there": lambda: list(wal.read_from(position)),
            "without copying": lambda: list(wal.read_from(copy=False)),
            "read": lambda: wal.read(position),
            "read_backwards": lambda: list(wal.read_backwards()),
            "by time": lambda: list(wal.read_from(time=1_700_000_000.000_02)),
            "check": wal.check,
        }
        for name, read in readings.items():
            with pytest.raises(VersionError) as caught:
                read()
            assert caught.value.path == str(log / FIRST), name
        assert [record.position for record in wal.read_from(stop=1)] == [0]


def test_damage_in_a_sealed_segment_is_never_skipped_however_it_is_read(log):
    """D11, G7: also not by a search for a time."""

    def spoil(data):
        at = data.index(b"batch-5")
        return data[:at] + b"X" + data[at + 1 :]

    rewrite(log / FIRST, spoil)
    with Wal.open(log, read_only=True) as wal:
        for read in (
            lambda: list(wal.read_from()),
            lambda: wal.read(13),
            lambda: list(wal.read_backwards()),
            lambda: list(wal.read_from(time=1_700_000_000.000_02)),
            wal.check,
        ):
            with pytest.raises(DamageError) as caught:
                read()
            assert caught.value.path == str(log / FIRST)


@pytest.mark.parametrize("version", [0, 2, 1.5, "1", None])
def test_pins_of_another_version_are_refused(log, version):
    pins = {"version": version, "pins": {}, "checksum": fmt.checksum(b"[]")}
    (log / fmt.PINS_NAME).write_text(json.dumps(pins))
    before = (log / fmt.PINS_NAME).read_bytes()
    with Wal.open(log) as wal:
        for call in (wal.pins, lambda: wal.pin("a", 50), lambda: wal.truncate_before(50)):
            with pytest.raises(VersionError) as caught:
                call()
            assert caught.value.path == str(log / fmt.PINS_NAME)
        assert wal.first_position == 0
    assert (log / fmt.PINS_NAME).read_bytes() == before


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        (FIRST, lambda data: data[:8] + TWO + data[10:]),
        (MIDDLE, lambda data: data[:12] + FLAG + data[13:]),
    ],
    ids=["version", "flag"],
)
def test_a_version_under_a_wrong_checksum_is_damage(log, name, spoil):
    rewrite(log / name, spoil)
    with pytest.raises(DamageError):
        Wal.open(log)


def test_reserved_fields_are_ignored(log):
    """They are written as zeros; a later version may put there what an older one may ignore."""
    rewrite(log / TAIL, in_header(56, b"\xff" * 4))
    rewrite(log / FIRST, in_trailer(44, b"\xff" * 4))
    for at in (12, 44):
        rewrite(log / fmt.MANIFEST_NAME, in_manifest(at, b"\xff" * 4))
    with Wal.open(log) as wal:
        assert wal.current_position() == LOG.content["end"]


def rewrite(path, spoil):
    path.write_bytes(spoil(path.read_bytes()))
    os.utime(path, ns=(1, 1))


def state(path):
    """Names, bytes and times of everything in the directory, and of itself."""
    times = [path.stat().st_mtime_ns]
    for entry in sorted(path.iterdir()):
        times.append((entry.name, entry.stat().st_mtime_ns, entry.read_bytes()))
    return times
