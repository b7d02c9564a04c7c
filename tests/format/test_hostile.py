"""A slice of `make fuzz`: hostile frames and logs end in errors or in a prefix (G21, D12)."""

import pytest

from tests.battery import fuzz, hostile
from tests.battery.harness import LOG
from treering import DamageError, FsyncPolicy, Record, TooLargeError, Wal
from treering._core import format as fmt
from treering._core.codec import encode_frame
from treering.testing import MemoryFiles

SLICE = {"frames": 400, "frames-resealed": 400, "logs": 40, "logs-resealed": 40}


@pytest.mark.parametrize("family", fuzz.FAMILIES)
def test_a_slice_of_each_family_finds_nothing(family):
    told = fuzz.work(family, 1, 0, SLICE[family])
    assert told["findings"] == []
    assert len(told["told"]) == SLICE[family]
    assert told["slowest"] < fuzz.CASE_SECONDS


def test_the_same_case_tells_the_same_twice():
    for family in fuzz.FAMILIES:
        assert fuzz.run_case(family, 7, 3) == fuzz.run_case(family, 7, 3)


def test_a_finding_is_told_with_its_case(monkeypatch):
    def wrong(*_, **__):
        raise hostile.Finding("position 7 was never written")

    monkeypatch.setattr(hostile, "outcome", wrong)
    told = fuzz.work("logs", 1, 10, 3)
    assert [number for number, _ in told["findings"]] == [10, 11, 12]
    assert "position 7 was never written" in told["findings"][0][1]


def test_a_case_that_takes_too_long_is_a_finding(monkeypatch):
    def endless(*_, **__):
        while True:
            pass

    monkeypatch.setattr(hostile, "outcome", endless)
    monkeypatch.setattr(fuzz, "CASE_SECONDS", 0.1)
    [(_, text)] = fuzz.work("logs", 1, 0, 1)["findings"]
    assert text.startswith("TooSlow")


def test_the_judge_notices_a_record_that_was_never_written():
    specimen = next(s for s in hostile.specimens() if s.name == "v1-plain")
    forged = [*specimen.records]
    forged[3] = (*forged[3][:2], b"another value", *forged[3][3:])
    other = hostile.Specimen("forged", specimen.files, forged, frozenset(forged))
    with pytest.raises(hostile.Finding, match="position 3 was never written"):
        hostile.outcome(specimen.files, other, repaired=False, seed=1)


# --- Cases that a campaign found -----------------------------------------------------------------


def spoil(name, **changes):
    """A golden log with some files replaced, or removed (None)."""
    specimen = next(s for s in hostile.specimens() if s.name == f"v1-{name}")
    files = {**specimen.files, **changes}
    return specimen, {name: data for name, data in files.items() if data is not None}


def keys(files, **options):
    """The keys that reading gives until it ends or raises, and what it raised."""
    found = []
    try:
        with Wal.open(LOG, files=hostile._memory(files), **options) as wal:
            found.extend(record.key for record in wal.read_from())
            return found, None
    except DamageError as error:
        return found, error


def test_without_the_newest_segment_what_it_had_superseded_stays_so():
    """The manifest still says where it began."""
    for name, lost in (("superseded", 40), ("cut", 80)):
        specimen, files = spoil(name, **{fmt.segment_name(lost): None})
        found, error = keys(files, read_only=True)
        assert found == [key[1] for key in specimen.records if key[0] < lost]
        hostile.outcome(files, specimen, repaired=False, seed=1)
        assert error is None or error.position == lost


def test_a_log_with_records_and_without_its_manifest_is_damaged():
    """Before there was a manifest, nobody could append: so it was there, and a cut may be lost."""
    for name in ("pending", "compressed"):
        specimen, files = spoil(name, manifest=None)
        found, error = keys(files)
        assert error is not None
        assert found == []
        hostile.outcome(files, specimen, repaired=False, seed=1)


def test_a_file_named_beyond_the_last_position_is_none_of_ours():
    for base in (fmt.POSITION_MAX + 1, 2**64, 10**20 - 1):
        name = f"{base:020d}{fmt.SEGMENT_SUFFIX}"
        specimen, files = spoil("plain", **{name: b"garbage"})
        assert len(keys(files)[0]) == len(specimen.records)
        hostile.outcome(files, specimen, repaired=False, seed=1)


FORGED = {
    "far beyond the file": lambda entries: [entries[0], entries[1]._replace(offset=2**63)],
    "behind the frames": lambda entries: [entries[0], entries[1]._replace(offset=131_000)],
    "backwards": lambda entries: entries[::-1],
    "twice": lambda entries: [entries[0], entries[0]],
    "before the segment": lambda entries: [entries[0], entries[1]._replace(position=0)],
}


@pytest.mark.parametrize("forge", FORGED.values(), ids=FORGED)
def test_an_index_that_cannot_be_right_is_not_followed(forge):
    """A footer only saves a scan: one with a right checksum and wrong numbers is left alone."""
    files = MemoryFiles()
    with Wal.open(LOG, files=files, segment_bytes_max=128 * 1024) as wal:
        for number in range(60):
            wal.put(b"%d" % number, bytes(4000))
    name = f"{LOG}/{fmt.segment_name(0)}"
    data = files.contents()[name]
    trailer = fmt.Trailer.unpack(data[-fmt.TRAILER_BYTES :])
    start = len(data) - fmt.TRAILER_BYTES - trailer.entries * fmt.INDEX_ENTRY_BYTES
    entries = fmt.unpack_index(data[start : -fmt.TRAILER_BYTES], trailer)
    assert len(entries) == 2
    index = fmt.pack_index(forge(entries))
    forged = trailer._replace(index_checksum=fmt.checksum(index))
    files.put_file(name, data[:start] + index + forged.pack())
    for options in ({}, {"read_only": True}):
        with Wal.open(LOG, files=files, **options) as wal:
            assert [record.key for record in wal.read_from()] == [b"%d" % n for n in range(60)]
            assert [wal.read(position).key for position in (0, 20, 31)] == [b"0", b"20", b"31"]
            assert len(list(wal.read_backwards())) == 60


def forge_manifest(files, **numbers):
    """Both slots hold these numbers, under a right checksum."""
    name = f"{LOG}/manifest"
    data = bytearray(files.contents()[name])
    for at in fmt.MANIFEST_SLOT_OFFSETS:
        slot = fmt.Manifest.unpack(bytes(data[at : at + fmt.MANIFEST_SLOT.size]))
        data[at : at + fmt.MANIFEST_SLOT.size] = slot._replace(**numbers).pack()
    files.put_file(name, bytes(data))


# The greatest ones that can be read, and the first that cannot.
SEQUENCE, EPOCH = fmt.POSITION_MAX - 1, (1 << 32) - 2


@pytest.mark.parametrize("options", [{}, {"read_only": True}], ids=["write", "read"])
@pytest.mark.parametrize("numbers", [{"sequence": SEQUENCE + 1}, {"epoch": EPOCH + 1}], ids=str)
def test_a_manifest_whose_numbers_leave_no_room_for_the_next_is_damage(numbers, options):
    _, files = spoil("plain")
    files = hostile._memory(files)
    forge_manifest(files, **numbers)
    before = files.contents()
    for _ in range(2):
        with pytest.raises(DamageError, match="manifest"):
            Wal.open(LOG, files=files, **options).check()
    assert kept(files.contents()) == kept(before)


def kept(contents):
    """All but what an opening may make anew."""
    return {name: data for name, data in contents.items() if not name.endswith(SCRATCH)}


SCRATCH = ("control", "lock", "opening")


@pytest.mark.parametrize("numbers", [{"sequence": SEQUENCE}, {"epoch": EPOCH}], ids=str)
def test_what_nobody_could_read_is_not_written(numbers):
    """The last numbers there are: the next one is refused before it is written."""
    files = MemoryFiles()
    with Wal.open(LOG, files=files) as wal:
        wal.put(b"0", b"")
        wal.put(b"1", b"")
    forge_manifest(files, **numbers)
    before = files.contents()[f"{LOG}/manifest"]
    for _ in range(2):
        with pytest.raises(DamageError, match="manifest"), Wal.open(LOG, files=files) as wal:
            wal.truncate_after(1)
        with Wal.open(LOG, files=files, read_only=True) as wal:
            assert [record.key for record in wal.read_from()] == [b"0", b"1"]
    if "sequence" in numbers:
        assert files.contents()[f"{LOG}/manifest"] == before


def log_at(end):
    """A log of one record, before the position `end`, and 64 KiB of room."""
    base = end - 1
    header = fmt.SegmentHeader(bytes(16), base, 0, 8, 1)
    frame = encode_frame((Record(b"k", b"v"),), base, 0, header.tag, header.seed, 8, 5)
    slot = fmt.Manifest(header.log_id, 1, 0, base, base, fmt.NO_CUT, 0, 0, 0).pack()
    manifest = bytearray(fmt.MANIFEST_BYTES)
    for at in fmt.MANIFEST_SLOT_OFFSETS:
        manifest[at : at + len(slot)] = slot
    files = MemoryFiles()
    files.make_directory(LOG)
    name = f"{LOG}/{fmt.segment_name(base)}"
    files.put_file(name, (header.pack() + frame).ljust(1 << 16, b"\0"))
    files.put_file(f"{LOG}/manifest", bytes(manifest))
    return files


@pytest.mark.parametrize("beyond", [0, 1])
def test_a_log_that_ends_beyond_the_last_position_is_damage(beyond):
    files = log_at(fmt.POSITION_MAX + beyond)
    before = files.contents()
    for _ in range(2):
        with pytest.raises(DamageError):
            Wal.open(LOG, files=files)
    assert kept(files.contents()) == kept(before)


@pytest.mark.parametrize("room", [1, 2, 5])
def test_the_last_position_is_given_once_and_none_behind_it(room):
    files = log_at(fmt.POSITION_MAX - room)
    with Wal.open(LOG, files=files, fsync_policy=FsyncPolicy.OS, segment_bytes_max=1 << 16) as wal:
        end = wal.current_position()
        with pytest.raises(TooLargeError):
            wal.append_batch([(b"k", b"v")] * room)
        for number in range(room - 1):
            assert wal.put(b"k", b"v") == end + number
        for _ in range(2):
            with pytest.raises(TooLargeError):
                wal.put(b"k", b"v")
        assert wal.current_position() == fmt.POSITION_MAX - 1
        assert [record.position for record in wal] == list(range(end - 1, fmt.POSITION_MAX - 1))
    Wal.open(LOG, files=files).close()
