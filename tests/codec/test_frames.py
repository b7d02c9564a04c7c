"""What one twin writes the other reads, and both write the same bytes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.codec._frames import (
    DURABLE,
    NOW,
    POSITION,
    SEED,
    TAG,
    aligns,
    batches,
    encode,
    packed,
    resealed,
    sample,
)
from tests.codec._reading import read, scan
from tests.codec._twins import native, plain, pure
from treering._core import format as fmt


def made(twin, batch):
    return [twin.Record(**fields) for fields in batch]


@settings(deadline=None, max_examples=300)
@given(batch=batches, align=aligns)
def test_both_twins_write_the_same_bytes(batch, align):
    python, c = pure(), native()
    frame = encode(python, made(python, batch), align=align)
    assert encode(c, made(c, batch), align=align) == frame
    for twin in (python, c):
        assert twin.frame_bytes(made(twin, batch), align) == len(frame)
    assert len(frame) % align == 0
    assert resealed(frame) == frame


@settings(deadline=None, max_examples=200)
@given(groups=st.lists(batches, max_size=4), align=aligns)
def test_what_one_twin_wrote_the_other_reads_unchanged(groups, align):
    for writer, reader in ((pure(), native()), (native(), pure())):
        data, position = b"", POSITION
        for group in groups:
            data += encode(writer, made(writer, group), position, position, align)
            position += len(group)
        expected = [
            plain(
                reader.Record(
                    **{**fields, "timestamp_ns": fields.get("timestamp_ns") or NOW},
                    position=POSITION + number,
                )
            )
            for number, fields in enumerate(fields for group in groups for fields in group)
        ]
        records, seen, result = read(reader, data)
        assert records == expected
        assert seen == [(reader.INCOMPLETE, len(data), fmt.FRAME_HEADER_BYTES, position)]
        assert result is None
        found, index = scan(reader, data)
        assert (found.offset, found.position, found.reason) == (len(data), position, 1)
        assert [entry[0] for entry in index] == ([POSITION] if groups else [])


def test_every_part_of_the_format_crosses_over(pair):
    writer, reader = pair
    frames = sample(writer)
    assert frames == sample(reader)
    records, _, _ = read(reader, b"".join(frames))
    assert len(records) == 7
    assert [record.value for record in records] == [
        b"value",
        b"",
        b"v" * 30,
        b"",
        b"1 13 stored",
        b"2 13 stored",
        bytes(range(100)),
    ]


def test_compressed_values_are_handed_on_with_what_expanding_them_needs(pair):
    writer, reader = pair
    both = [packed(writer, b"a block", b"twelve bytes", number) for number in (1, 2)]
    records, _, _ = read(reader, encode(writer, both))
    assert [record.value for record in records] == [b"1 12 a block", b"2 12 a block"]


def test_a_packed_record_keeps_everything_but_its_value(twin):
    options = {
        "timestamp_ns": 3,
        "expires_at_ns": 4,
        "headers": {"a": b"b"},
        "stream": 5,
        "position": 6,
    }
    record = twin.Record(b"key", b"long value", **options)
    small = record._packed(2, b"small")
    assert (small._compression, small._raw_bytes, small.value) == (2, 10, b"small")
    again = twin.Record(b"key", b"small", **options)
    assert small._key() == again._key()


@pytest.mark.parametrize("align", [8, 512, 4096])
def test_padding_is_zeros_and_part_of_the_frame(twin, align):
    frame = encode(twin, [twin.Record(b"k", b"v")], align=align)
    used = fmt.FRAME_HEADER_BYTES + fmt.RECORD_HEADER_BYTES + 2
    assert len(frame) == fmt.align_up(used, align)
    assert frame[used:] == bytes(len(frame) - used)
    assert scan(twin, frame[:-1] + b"\x01")[0].reason == twin.BAD


def test_a_frame_names_its_place(twin):
    frame = encode(twin, [twin.Record(b"k")] * 3)
    tag, _, length, count, position, durable = fmt.FRAME_HEADER.unpack_from(frame)
    assert (tag, length, count, position, durable) == (TAG, len(frame), 3, POSITION, DURABLE)


@pytest.mark.parametrize("records", [tuple, list, iter], ids=["tuple", "list", "iterator"])
def test_any_iterable_of_records_has_a_size(twins, records):
    for twin in twins:
        assert twin.frame_bytes(records([twin.Record(b"k" * 8, b"v" * 8)]), 8) == 64


def test_a_value_shown_in_place_can_be_written_again(pair):
    """With copy=False a record's value is a view; appending that record must store the bytes."""
    writer, reader = pair
    frame = encode(writer, [writer.Record(b"key", b"value", timestamp_ns=NOW)])
    iterator = reader.RecordIterator(lambda _: False, None, False)
    iterator.load(frame, 0, len(frame), POSITION, fmt.POSITION_MAX, 0, TAG, SEED)
    [record] = list(iterator)
    assert type(record.value) is memoryview
    assert encode(reader, [record]) == frame
