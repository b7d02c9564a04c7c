"""docs/format.md is the law: its drawings match its tables, and its tables decode what we write."""

import json
import re
import struct

import pytest

from tests.format._document import (
    Decoder,
    grid,
    grids,
    hexadecimal,
    identity,
    limits,
    page,
    record_parts,
    tables,
)
from tests.format._document import example as example_lines
from treering._core import format as fmt
from treering._core import retention
from treering._core.codec import INCOMPLETE, Record, RecordIterator, encode_frame, scan
from treering._core.files import Directory
from treering.testing import MemoryFiles

NOON = 1_700_000_000 * 10**9
SECOND = 10**9

CODE = {
    "segment header": fmt.SEGMENT_HEADER,
    "frame header": fmt.FRAME_HEADER,
    "record": fmt.RECORD_HEADER,
    "index entry": fmt.INDEX_ENTRY,
    "trailer": fmt.TRAILER,
    "manifest slot": fmt.MANIFEST_SLOT,
}


@pytest.fixture(scope="module")
def decoder():
    return Decoder()


@pytest.fixture(scope="module")
def example():
    return hexadecimal()


# --- The page agrees with itself -----------------------------------------------------------------


@pytest.mark.parametrize("structure", CODE)
def test_a_table_of_fields_has_no_gap_and_no_overlap(structure):
    at = 0
    for field in tables()[structure]:
        assert field.at == at, field
        at += field.size


def test_every_drawing_shows_its_table():
    assert grids() == [grid(fields) for fields in tables().values()]


def test_every_checksum_says_exactly_what_stands_before_it():
    for structure in ("segment header", "trailer", "manifest slot"):
        last = tables()[structure][-1]
        assert (last.name, last.meaning) == ("checksum", f"of bytes 0 to {last.at - 1}")


# --- The page agrees with the code ---------------------------------------------------------------


@pytest.mark.parametrize("structure", CODE)
def test_the_code_has_the_widths_of_the_table(structure):
    assert _widths(CODE[structure]) == [field.size for field in tables()[structure]]


def _widths(layout):
    """The width of each item of a struct, in order."""
    assert layout.format[0] == "<", "little-endian, without holes"
    items = re.findall(r"\d+s|[A-Za-z]", layout.format)
    return [struct.calcsize(f"<{item}") for item in items]


def test_the_code_has_the_limits_of_the_page():
    assert len(limits()) == 9
    for name, value in limits().items():
        assert getattr(fmt, name, getattr(retention, name, None)) == value, name


def test_the_code_has_the_magics_and_the_version_of_the_page():
    said = [
        (re.fullmatch("`(.*)`", fields[0].meaning)[1].encode(), int(fields[1].meaning))
        for fields in tables().values()
        if fields[0].name == "magic"
    ]
    magics = [fmt.SEGMENT_MAGIC, fmt.TRAILER_MAGIC, fmt.MANIFEST_MAGIC]
    assert said == [(magic, fmt.FORMAT_VERSION) for magic in magics]


def test_the_code_has_the_flags_of_the_page():
    order = [fmt.HAS_EXPIRY, fmt.HAS_STREAM, fmt.COMPRESSION_MASK, fmt.HAS_HEADERS]
    assert [part.flag for part in record_parts()] == order
    known = fmt.TOMBSTONE | sum(order)
    assert known | fmt.UNKNOWN_RECORD_FLAGS == 0xFF
    assert known & fmt.UNKNOWN_RECORD_FLAGS == 0
    assert f"Flag {fmt.TOMBSTONE:#04x} is a tombstone" in page()
    lz4, zstd = (number << fmt.COMPRESSION_SHIFT for number in fmt.COMPRESSIONS.values())
    assert f"{lz4:#04x} is an LZ4 block, {zstd:#04x} a Zstandard\nframe" in page()


def test_the_code_has_the_other_numbers_of_the_page():
    assert f"at each multiple of {fmt.INDEX_STEP_BYTES:,} bytes".replace("at ", "after ") in page()
    one, two = fmt.MANIFEST_SLOT_OFFSETS
    assert f"{fmt.MANIFEST_BYTES:,} bytes: one slot at {one}, the other at {two:,}" in page()
    assert (tables()["manifest slot"][9].name, fmt.NO_CUT) == ("tail_base", 2**64 - 1)
    assert fmt.checksum(b"123456789") == 0xCBF43926
    names = (fmt.MANIFEST_NAME, fmt.PINS_NAME, fmt.LOCK_NAME, fmt.OPENING_NAME, fmt.CONTROL_NAME)
    for name in (*names, fmt.segment_name(0), fmt.ASIDE_SUFFIX, f"*{fmt.TEMPORARY_SUFFIX}"):
        assert re.search(rf"[`>]{re.escape(name)}`", page()), name
    for align in (8, 512, 4096):
        assert fmt.SegmentHeader(bytes(16), 0, 0, align, 0).frames_start == max(64, align)


# --- The example, by the page alone --------------------------------------------------------------


def test_a_reader_decodes_the_example_with_the_tables(decoder, example):
    header, frames, index, trailer = decoder.segment(example)
    assert (header["version"], header["header_bytes"], header["flags"]) == (1, 64, 0)
    assert (header["base"], header["epoch"], header["align"]) == (5, 1, 8)
    assert header["created_ns"] == NOON
    [(first, [ring]), (second, [leaf, bark])] = frames
    assert (first["position"], first["records"], first["durable"]) == (5, 1, 5)
    assert (second["position"], second["records"], second["durable"]) == (6, 2, 5)
    assert (ring["key"], ring["value"], ring["flags"]) == (b"ring", b"1987", 0)
    assert (leaf["key"], leaf["value"], leaf["stream"]) == (b"leaf", b"green", 3)
    assert (bark["key"], bark["value"], bark["flags"] & 0x01) == (b"bark", b"", 0x01)
    assert bark["expires_at_ns"] == NOON + 3600 * SECOND
    assert bark["headers"] == {"why": b"axe"}
    assert [entry["offset"] for entry in index] == [64]
    assert (trailer["end"], trailer["frames_end"], trailer["kept_bytes"]) == (8, 232, 0)
    assert (trailer["oldest_ns"], trailer["newest_ns"]) == (NOON, NOON + SECOND)


def test_the_page_names_the_tag_and_the_seed_of_the_example(decoder, example):
    tag, seed = identity(decoder.block("segment header", example))
    assert f"= {tag:#010x}, the seed {seed:#010x}." in page()


def test_the_notes_beside_the_example_stand_beside_their_bytes():
    for at, data, note in example_lines():
        for text in re.findall(r'"(\w+)"', note):
            assert text.encode() in data, at
        for number in re.findall(r"\b(\d+) (?:bytes|records?)\b", note):
            assert int(number) in data, (at, note)


# --- The example, by the code --------------------------------------------------------------------


def test_the_code_decodes_the_example_alike(decoder, example):
    header, frames, index, trailer = decoder.segment(example)
    read = fmt.SegmentHeader.unpack(example)
    assert read == tuple(header[name] for name in read._fields)
    assert (read.tag, read.seed) == identity(header)
    end = fmt.Trailer.unpack(example[-fmt.TRAILER_BYTES :])
    assert end == tuple(trailer[name] for name in end._fields)
    entries = example[end.frames_end : -fmt.TRAILER_BYTES]
    assert fmt.unpack_index(entries, end) == [tuple(entry.values()) for entry in index]
    records = [record for _, records in frames for record in records]
    for position, (code, law) in enumerate(zip(_read(example), records, strict=True), 5):
        assert code.position == position
        for name in ("key", "value", "timestamp_ns"):
            assert getattr(code, name) == law[name]
        assert code.tombstone == bool(law["flags"] & 0x01)
        assert code.expires_at_ns == law.get("expires_at_ns")
        assert code.stream == law.get("stream", 0)
        assert code.headers == law.get("headers", {})


def test_the_code_writes_the_bytes_of_the_example(decoder, example):
    header = fmt.SegmentHeader(bytes(range(16)), 5, 1, 8, NOON)
    identity = header.tag, header.seed, header.align
    put = [Record(b"ring", b"1987")]
    batch = [
        Record(b"leaf", b"green", stream=3),
        Record.delete(b"bark", expires_at_ns=NOON + 3600 * SECOND, headers={"why": b"axe"}),
    ]
    frames = encode_frame(put, 5, 5, *identity, NOON)
    frames += encode_frame(batch, 6, 5, *identity, NOON + SECOND)
    index = fmt.pack_index([fmt.IndexEntry(5, 64, 0)])
    end = 64 + len(frames)
    times = NOON, NOON + SECOND
    trailer = fmt.Trailer(header.log_id, 5, 1, 1, 8, end, *times, 0, fmt.checksum(index))
    assert (header.pack() + frames + index + trailer.pack()).hex(" ") == example.hex(" ")


def test_no_bit_of_the_example_changes_unnoticed_by_the_page_or_by_the_code(decoder, example):
    for bit in range(8 * len(example)):
        changed = bytearray(example)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises((AssertionError, UnicodeDecodeError)):
            decoder.segment(bytes(changed))
        assert not _whole(bytes(changed)), bit


def _whole(data):
    """Whether the code finds the segment whole, and is vouched for by its footer."""
    try:
        header = fmt.SegmentHeader.unpack(data)
        trailer = fmt.Trailer.unpack(data[-fmt.TRAILER_BYTES :])
        fmt.unpack_index(data[trailer.frames_end : -fmt.TRAILER_BYTES], trailer)
    except fmt.FormatError:
        return False
    found = scan(data, 64, trailer.frames_end, header.base, header.tag, header.seed)
    return (found.offset, found.position) == (trailer.frames_end, trailer.end)


def _read(data):
    """The records that the code's iterator finds in a segment."""
    header = fmt.SegmentHeader.unpack(data)

    def refill(iterator):
        assert iterator.reason == INCOMPLETE, "the last frame was bad"
        return False

    iterator = RecordIterator(refill, None)
    iterator.load(data, 64, 232, header.base, 8, 0, header.tag, header.seed)
    return list(iterator)


# --- The other files -----------------------------------------------------------------------------


def test_the_tables_decode_a_manifest_that_the_code_wrote(decoder):
    manifest = fmt.Manifest(bytes(range(16)), *range(1, 9))
    law = decoder.block("manifest slot", manifest.pack())
    assert manifest == tuple(law[name] for name in manifest._fields)
    assert (law["magic"], law["version"], law["flags"]) == (b"TREEMANI", 1, 0)


def test_pins_are_checked_as_the_page_says():
    files = MemoryFiles()
    files.make_directory("/log")
    pins = {"invoices": 7, "a-\u00fc": 9}
    retention.store_pins(Directory(files, "/log"), pins)
    text = files.contents()["/log/pins.json"]
    found = json.loads(text)
    said = json.dumps(sorted(pins.items())).encode()
    assert found == {"version": 1, "pins": pins, "checksum": fmt.checksum(said)}
