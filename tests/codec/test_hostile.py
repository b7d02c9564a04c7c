"""Hostile bytes (G21, D12): whatever is in the buffer, both twins say the same of it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.codec._frames import (
    POSITION,
    SEED,
    TAG,
    cuts,
    encode,
    field_changes,
    flips,
    resealed,
    sample,
    splices,
)
from tests.codec._reading import everything, read, scan
from tests.codec._twins import Raised, native, pure
from treering import DamageError
from treering._core import format as fmt


@pytest.fixture(scope="module")
def frames():
    return sample(pure())


def agreed(twins, done, data):
    """What both twins say about these bytes."""
    python, native = (everything(twin, data) for twin in twins)
    assert python == native, done
    return python


def is_prefix(found, frames):
    """Whether a reading holds only records that were written, in order, from the first on."""
    (scanned, _), (records, _, result), _ = found
    whole = read(pure(), b"".join(frames))[0]
    return records == whole[: len(records)] and result is None and scanned.position <= POSITION + 7


def test_every_flipped_bit_ends_the_log_there_in_both_twins(twins, frames):
    data = b"".join(frames)
    starts = [0, len(frames[0]), len(frames[0]) + len(frames[1])]
    for done, changed in flips(data):
        found = agreed(twins, done, changed)
        at = int(done.rsplit(" ", 1)[1])
        (scanned, _), _, _ = found
        assert scanned.offset == max(start for start in starts if start <= at), done
        assert scanned.reason in (twins[0].BAD, twins[0].INCOMPLETE)
        assert is_prefix(found, frames), done


def test_every_truncation_gives_the_whole_frames_before_it_in_both_twins(twins, frames):
    data = b"".join(frames)
    for done, changed in cuts(data):
        found = agreed(twins, done, changed)
        (scanned, _), _, _ = found
        assert scanned.reason == twins[0].INCOMPLETE
        assert scanned.offset + scanned.needed > len(changed)
        assert is_prefix(found, frames), done


def test_every_field_at_every_edge_ends_the_log_there(twins, frames):
    for number, frame in enumerate(frames):
        for done, changed in field_changes(frame):
            data = b"".join([*frames[:number], changed, *frames[number + 1 :]])
            found = agreed(twins, done, data)
            assert is_prefix(found, frames), done
            if changed != frame:
                assert found[0][0].offset == sum(map(len, frames[:number])), done


def test_every_field_at_every_edge_with_a_right_checksum_says_the_same(twins, frames):
    for number, frame in enumerate(frames):
        for done, changed in field_changes(frame):
            before = b"".join(frames[:number])
            agreed(twins, done, before + resealed(changed) + b"".join(frames[number + 1 :]))


def test_every_flipped_bit_with_a_right_checksum_says_the_same(twins, frames):
    for done, changed in flips(frames[1]):
        agreed(twins, done, frames[0] + resealed(changed) + frames[2])


@pytest.mark.parametrize("seed", range(3))
def test_pieces_of_frames_in_wrong_places_never_become_records(twins, frames, seed):
    for done, changed in splices(frames, seed, 400):
        assert is_prefix(agreed(twins, done, changed), frames), done


@pytest.mark.parametrize("seed", range(3))
def test_pieces_of_frames_in_wrong_places_with_a_right_checksum_say_the_same(twins, frames, seed):
    for done, changed in splices(frames[1:2], seed, 400):
        agreed(twins, done, frames[0] + resealed(changed) + frames[2])


@settings(deadline=None, max_examples=300)
@given(data=st.binary(max_size=300))
def test_arbitrary_bytes_say_the_same(data):
    agreed((pure(), native()), "arbitrary", data)


@settings(deadline=None, max_examples=300)
@given(body=st.binary(max_size=200), count=st.integers(0, 6), mark=st.integers(0, 2**64 - 1))
def test_arbitrary_records_under_a_right_checksum_say_the_same(body, count, mark):
    length = fmt.align_up(fmt.FRAME_HEADER_BYTES + len(body), 8)
    frame = fmt.FRAME_HEADER.pack(TAG, 0, length, count, POSITION, mark) + body
    frame = resealed(frame.ljust(length, b"\0"))
    agreed((pure(), native()), "arbitrary records", frame + sample(pure())[0])


@settings(deadline=None, max_examples=300)
@given(
    flags=st.integers(0, 255),
    sizes=st.tuples(st.integers(0, 80), st.integers(0, 80)),
    options=st.binary(max_size=60),
    count=st.integers(1, 3),
)
def test_likely_records_under_a_right_checksum_say_the_same(flags, sizes, options, count):
    body = fmt.RECORD_HEADER.pack(flags, 0, *sizes, 1) + options
    length = fmt.align_up(fmt.FRAME_HEADER_BYTES + len(body) * count, 8)
    head = fmt.FRAME_HEADER.pack(TAG, 0, length, count, POSITION, 0)
    agreed(
        (pure(), native()), "likely records", resealed((head + body * count).ljust(length, b"\0"))
    )


def test_zeros_are_never_a_frame(twins):
    for length in (0, 1, 31, 32, 48, 4096):
        found = agreed(twins, f"{length} zeros", bytes(length))
        assert found[0][0].offset == 0
        assert found[1][0] == []


def test_a_frame_of_another_place_is_never_a_frame(twins, frames):
    frame = frames[0]
    for twin in twins:
        other_log = fmt.SegmentHeader(bytes(16), POSITION, 3, 8, 0)
        other_epoch = fmt.SegmentHeader(bytes(range(16)), POSITION, 4, 8, 0)
        other_base = fmt.SegmentHeader(bytes(range(16)), POSITION - 1, 3, 8, 0)
        for header in (other_log, other_epoch, other_base):
            records = [twin.Record(b"k", b"v")]
            for tag in (header.tag, TAG):  # even with the right tag forged, the seed differs
                stray = twin.encode_frame(records, POSITION, 0, tag, header.seed, 8, 1)
                assert scan(twin, stray)[0].position == POSITION
        for position in (POSITION - 1, POSITION + 1):
            assert scan(twin, frame, position)[0].position == position


def test_a_scan_never_takes_a_frame_larger_than_it_may(twins, frames):
    for limit in (0, 8, len(frames[0]) - 1, len(frames[0]), 2**30):
        found = [scan(twin, frames[0], frame_bytes_max=limit) for twin in twins]
        assert found[0] == found[1]
        assert found[0][0].offset == (len(frames[0]) if limit >= len(frames[0]) else 0)


def test_a_stop_beyond_the_buffer_reads_no_further_than_the_buffer(twins, frames):
    data = frames[0]
    for stop in (len(data) + 1, len(data) + 100, 2**40):
        python, c = (twin.scan(data, 0, stop, POSITION, TAG, SEED) for twin in twins)
        assert python == c
        assert (python.offset, python.reason) == (len(data), twins[0].INCOMPLETE)
        for twin in twins:
            iterator = twin.RecordIterator(lambda _: False, None)
            iterator.load(data, 0, stop, POSITION, fmt.POSITION_MAX, 0, TAG, SEED)
            assert [record.key for record in iterator] == [b"key"]


@pytest.mark.parametrize("flags", [0x40, 0x80, 0x30, 0xFF])
def test_an_unknown_flag_in_an_intact_frame_is_told_from_damage(twins, frames, flags):
    frame = frames[0][:32] + bytes([flags]) + frames[0][33:]
    found = agreed(twins, "unknown", resealed(frame))
    assert found[0][0].reason == twins[0].UNKNOWN
    assert found[1][1][0][0] == twins[0].UNKNOWN
    assert agreed(twins, "unknown and damaged", frame)[0][0].reason == twins[0].BAD


def test_an_unknown_flag_behind_the_frame_does_not_make_a_damaged_one_newer(twins):
    """What follows a frame is none of its business, also when its records claim too much."""
    one = encode(twins[0], [twins[0].Record(b"k" * 16)])
    short = fmt.FRAME_HEADER.pack(TAG, 0, len(one), 2, POSITION, 0) + one[32:]
    behind = b"\xff" * 64
    found = agreed(twins, "two records claimed, one there", resealed(short) + behind)
    assert found[0][0].reason == twins[0].BAD


@pytest.mark.parametrize("padding", [0, 8, 4088, 4095 // 8 * 8, 4096, 4104, 8192])
def test_padding_of_a_whole_alignment_step_or_more_is_no_frame(twins, padding):
    one = encode(twins[0], [twins[0].Record(b"k" * 8, b"v" * 8)])
    length = len(one) + padding
    frame = one[:8] + length.to_bytes(4, "little") + one[12:] + bytes(padding)
    found = agreed(twins, padding, resealed(frame))
    assert found[0][0].offset == (length if padding < 4096 else 0)


def test_a_record_without_times_reads_as_having_none(twins):
    record = twins[0].Record(b"k", expires_at_ns=1)
    frame = encode(twins[0], [record])
    frame = resealed(frame[:40] + bytes(16) + frame[56:])
    [found] = agreed(twins, "times of 0", frame)[1][0]
    assert (found.timestamp_ns, found.expires_at_ns, found.times) == (None, None, (None, None))


def test_headers_that_do_not_add_up_are_damage_when_they_are_read(twins):
    record = twins[0].Record(b"k", headers={"name": b"value"})
    whole = encode(twins[0], [record])
    for at, value in ((52, 200), (54, 200), (52, 0), (58, 0xFF)):
        frame = resealed(whole[:at] + bytes([value]) + whole[at + 1 :])
        [found] = agreed(twins, f"byte {at}", frame)[1][0]
        assert isinstance(found.headers, Raised), at
        assert found.headers.kind is DamageError
        assert found.shown.startswith("Record(position=7")
