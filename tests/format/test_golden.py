"""Logs of every format version: read for ever, appended to, still written alike (G23)."""

import shutil
from itertools import pairwise

import pytest

from tests.format._document import Decoder
from tests.format._golden import all_golden, golden
from tests.format.make_golden import GOLDEN, LOG, PROGRAMS, content, format_files
from treering import Record, Wal, WalConfig
from treering._core import compression
from treering._core import format as fmt
from treering._core.codec import RecordIterator

LOGS = all_golden()
OF_TODAY = [log for log in LOGS if log.version == fmt.FORMAT_VERSION]

# What opening finds in each, oldest segment first.
FOUND = {
    "plain": ["SEALED", "SEALED", "SEALED", "TAIL"],
    "cut": ["SEALED", "SEALED", "SEALED", "TAIL"],
    "superseded": ["SEALED", "SUPERSEDED", "TAIL"],
    "pending": ["TAIL_SEALED"],
    "torn": ["SEALED", "SEALED", "TAIL"],
    "aligned": ["SEALED", "TAIL_SHORT"],
    "compressed": ["TAIL"],
    "pruned": ["SEALED", "TAIL"],
    "unclean": ["UNSEALED", "TAIL"],
}

# After a clean close; a segment prepared ahead may be left unused.
CALM = {"SEALED", "SUPERSEDED", "TAIL", "TAIL_SHORT", "TAIL_SEALED", "TEMPORARY"}

every_log = pytest.mark.parametrize("log", LOGS, ids=str)
logs_of_today = pytest.mark.parametrize("log", OF_TODAY, ids=str)


def test_there_are_golden_logs_of_every_version_and_of_every_program():
    versions = {f"v{version}" for version in range(1, fmt.FORMAT_VERSION + 1)}
    assert {path.name for path in GOLDEN.iterdir()} == versions
    assert {log.name for log in OF_TODAY} == set(PROGRAMS)


def test_the_golden_logs_stay_small():
    for log in LOGS:
        assert sum(map(len, log.files.values())) < 64 * 1024, log


@every_log
def test_a_golden_log_says_what_it_said(log):
    with Wal.open(LOG, files=log.in_memory(), read_only=True) as wal:
        assert content(wal) == log.content
        assert [finding.label.name for finding in wal.recovery.findings] == FOUND[log.name]


@every_log
def test_a_golden_log_says_the_same_backwards_and_one_by_one(log):
    expected = log.content["records"]
    with Wal.open(LOG, files=log.in_memory()) as wal:
        backwards = [record.position for record in wal.read_backwards()]
        assert backwards == [record["position"] for record in reversed(expected)]
        for record in expected:
            assert wal.read(record["position"]).key.hex() == record["key"]
        wal.check()


@every_log
def test_a_golden_log_takes_appends_and_keeps_what_it_had(log, tmp_path):
    for options in ({"files": log.in_memory()}, {"files": None}):
        path = LOG if options["files"] else str(shutil.copytree(log.folder, tmp_path / "log"))
        config = WalConfig(segment_bytes_max=4096, **options)
        with Wal.open(path, config) as wal:
            end = wal.append_batch([Record(b"new"), Record.delete(b"old")])
            assert end == range(log.content["end"], log.content["end"] + 2)
            for number in range(100):
                wal.put(b"%d" % number, bytes(100))
        with Wal.open(path, config) as wal:
            found = content(wal)
            assert found["records"][: len(log.content["records"])] == log.content["records"]
            assert found["end"] == log.content["end"] + 102
            assert {finding.label.name for finding in wal.recovery.findings} <= CALM
            wal.check()


@logs_of_today
def test_the_same_calls_still_give_the_same_bytes(log, monkeypatch):
    packed = _packed_values(log)
    monkeypatch.setattr(compression, "compress", lambda name, value: packed.get((name, value)))
    found = format_files(PROGRAMS[log.name]())
    assert list(found) == list(log.files)
    for name, data in found.items():
        if name == fmt.MANIFEST_NAME:
            assert _slots(data) == _slots(log.files[name])
        else:
            assert data.hex(" ", 16) == log.files[name].hex(" ", 16), name


def _slots(manifest):
    """Both slots as they would be had the manifest been stored once, in bytes."""
    found = []
    for at in fmt.MANIFEST_SLOT_OFFSETS:
        block = manifest[at : at + fmt.MANIFEST_SLOT.size]
        slot = fmt.Manifest.unpack(block)
        assert slot.pack() == block
        found.append(slot._replace(sequence=1).pack().hex(" ", 16))
    assert len(manifest) == fmt.MANIFEST_BYTES
    return found


def _packed_values(log):
    """What the libraries of that time made of the values: other releases may pack otherwise."""
    packed = {}
    names = {number: name for name, number in fmt.COMPRESSIONS.items()}

    def keep(number, stored, raw_bytes):
        value = compression.decompress(number, stored, raw_bytes)
        packed[names[number], value] = stored
        return value

    for name, data in log.files.items():
        if name.endswith(fmt.SEGMENT_SUFFIX):
            header = fmt.SegmentHeader.unpack(data)
            iterator = RecordIterator(lambda _: False, keep)
            start, limit = header.frames_start, fmt.POSITION_MAX
            iterator.load(data, start, len(data), header.base, limit, 0, header.tag, header.seed)
            list(iterator)
    return packed


@logs_of_today
def test_the_document_decodes_every_segment_that_has_a_footer(log):
    decoder = Decoder()
    expected = {record["position"]: record["key"] for record in log.content["records"]}
    bases = [int(name[:20]) for name in log.files if name.endswith(fmt.SEGMENT_SUFFIX)]
    superseded = 0
    for base, following in pairwise(bases):
        data = log.files[fmt.segment_name(base)]
        if data[-96:-88] != b"TREEFOOT":
            continue
        header, frames, index, _ = decoder.segment(data)
        assert index[0]["offset"] == max(64, header["align"])
        for frame, records in frames:
            for position, record in enumerate(records, frame["position"]):
                if position < following:
                    assert record["key"].hex() == expected[position]
                superseded += position >= following
    assert (superseded > 0) == (log.name in ("cut", "superseded"))


def test_the_bytes_that_a_cut_left_out_are_still_there():
    """D5: what recovery cuts is kept."""
    log = golden("torn")
    assert b"lost-1" in log.files["00000000000000000000.seg"]
    assert b"lost-2" in log.files["00000000000000000003.seg.1.cut"]
    trailer = fmt.Trailer.unpack(log.files["00000000000000000000.seg"][-fmt.TRAILER_BYTES :])
    assert trailer.kept_bytes > 0
    text = str(log.content)
    assert b"lost".hex() not in text
    assert b"after".hex() in text
