"""RecordIterator: the engine of every reader, asked the same questions in both twins."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.codec._frames import POSITION, SEED, TAG, encode, packed, resealed, sample
from tests.codec._reading import expand, read
from tests.codec._twins import native, plain, pure, same
from treering import DamageError
from treering._core import format as fmt

ALL = fmt.POSITION_MAX


def log(twin, groups):
    """Frames with that many records each, and the offset of each frame."""
    data, starts, position = b"", [], POSITION
    for count in groups:
        starts.append(len(data))
        records = [twin.Record(b"%d" % (position + i), b"v" * i) for i in range(count)]
        data += encode(twin, records, position)
        position += count
    return data, [*starts, len(data)]


def keys(iterator):
    return [int(record.key) for record in iterator]


@settings(deadline=None, max_examples=150)
@given(
    groups=st.lists(st.integers(1, 4), min_size=1, max_size=5),
    limit=st.integers(0, 30),
    skip=st.integers(0, 30),
)
def test_a_limit_and_a_start_cut_at_records_not_at_frames(groups, limit, skip):
    twins = pure(), native()
    data, _ = log(twins[0], groups)
    answers = [read(twin, data, limit=limit, skip_below=skip) for twin in twins]
    assert answers[0] == answers[1]
    expected = [p for p in range(POSITION, POSITION + sum(groups)) if skip <= p < limit]
    assert [int(record.key) for record in answers[0][0]] == expected


def test_it_asks_for_the_bytes_that_the_next_frame_claims(twins):
    data, starts = log(twins[0], [2, 3, 1])
    wanted = starts[2] - starts[1]
    for stop in (starts[1] + 31, starts[1] + 32, starts[2] - 1):
        records, seen, _ = same(twins, lambda twin, stop=stop: read(twin, data[:stop]))
        assert len(records) == 2
        needed = wanted if stop >= starts[1] + 32 else fmt.FRAME_HEADER_BYTES
        assert seen == [(twins[0].INCOMPLETE, starts[1], needed, POSITION + 2)]


def test_it_goes_on_in_the_next_buffer_where_it_stopped(twin):
    data, _ = log(twin, [1, 2, 3, 4])
    at, chunk = 0, 70
    iterator = None

    def refill(iterator):
        nonlocal at
        at += iterator.offset
        length = max(chunk, iterator.needed)
        if iterator.reason != twin.INCOMPLETE or at >= len(data):
            return False
        piece = bytearray(data[at : at + length])
        iterator.load(piece, 0, len(piece), iterator.position, ALL, 0, TAG, SEED)
        return True

    iterator = twin.RecordIterator(refill, None)
    iterator.position = POSITION
    assert keys(iterator) == list(range(POSITION, POSITION + 10))
    assert (at, iterator.position) == (len(data), POSITION + 10)


def test_before_the_first_buffer_it_knows_nothing_and_needs_nothing(twins):
    def fresh(twin):
        iterator = twin.RecordIterator(lambda _: False, None)
        return iterator.offset, iterator.position, iterator.needed, iterator.reason, list(iterator)

    assert same(twins, fresh) == (0, 0, 0, twins[0].INCOMPLETE, [])


def test_what_refill_raises_comes_out_and_the_next_step_asks_again(twin):
    calls = []

    def refill(_):
        calls.append(1)
        if len(calls) == 1:
            raise KeyError("no more")
        return False

    iterator = twin.RecordIterator(refill, None)
    with pytest.raises(KeyError):
        next(iterator)
    assert list(iterator) == []
    assert len(calls) == 2


def test_what_decompression_raises_comes_out_and_the_record_is_not_skipped_silently(twins):
    def run(twin):
        data = encode(twin, [twin.Record(b"1"), packed(twin), twin.Record(b"3")])

        def fail(number, stored, raw_bytes):
            raise DamageError(f"no {number} {stored!r} {raw_bytes}")

        iterator = twin.RecordIterator(lambda _: False, fail)
        iterator.load(data, 0, len(data), POSITION, ALL, 0, TAG, SEED)
        found = [next(iterator).key]
        with pytest.raises(DamageError, match="no 1 b'stored' 13"):
            next(iterator)
        return found, iterator.position

    assert same(twins, run) == ([b"1"], POSITION + 2)


def test_without_copying_a_value_is_a_view_that_keeps_its_buffer(twin):
    data = bytearray(b"".join(sample(twin)))
    iterator = twin.RecordIterator(lambda _: False, expand, False)
    iterator.load(bytes(data), 0, len(data), POSITION, ALL, 0, TAG, SEED)
    records = list(iterator)
    iterator.load(b"", 0, 0, POSITION, ALL, 0, TAG, SEED)
    del iterator
    assert [type(record.value) for record in records[:2]] == [memoryview, memoryview]
    assert bytes(records[0].value) == b"value"
    assert bytes(records[-1].value) == bytes(range(100))
    assert type(records[0].key) is bytes


def test_with_copying_nothing_holds_on_to_the_buffer(twin):
    data = bytearray(b"".join(sample(twin)))
    iterator = twin.RecordIterator(lambda _: False, expand)
    iterator.load(data, 0, len(data), POSITION, ALL, 0, TAG, SEED)
    records = list(iterator)
    del iterator
    data.clear()  # BufferError if something still looks at it
    assert len(records) == 7


def test_records_that_do_not_parse_stop_it_at_the_record_not_at_the_frame(twins):
    def run(twin):
        frame = encode(twin, [twin.Record(b"1"), twin.Record(b"2", b"v" * 9), twin.Record(b"3")])
        at = 32 + 17 + 4  # value_bytes of the second record
        return read(twin, resealed(frame[:at] + b"\xff\xff\xff\x7f" + frame[at + 4 :]))

    records, seen, _ = same(twins, run)
    assert [record.key for record in records] == [b"1"]
    assert [reason for reason, *_ in seen] == [twins[0].BAD]


def test_an_iterator_gives_the_same_records_whatever_the_buffer_is(twins):
    data = b"".join(sample(twins[0]))
    kinds = [bytes, bytearray, memoryview, lambda b: memoryview(bytearray(b))]
    answers = [read(twin, kind(data))[0] for twin in twins for kind in kinds]
    assert all(answer == answers[0] for answer in answers)


@pytest.mark.parametrize("buffer", ["text", 5, None])
def test_what_is_no_buffer_is_refused(twins, buffer):
    for twin in twins:
        iterator = twin.RecordIterator(lambda _: False, None)
        with pytest.raises(TypeError):
            iterator.load(buffer, 0, 0, 0, 0, 0, TAG, SEED)
        assert list(iterator) == []


def test_a_scan_leaves_a_signpost_at_every_step(twins):
    big = [twins[0].Record(b"%d" % i, bytes(20_000), timestamp_ns=10 + i) for i in range(12)]
    data = b"".join(encode(twins[0], [record], POSITION + i) for i, record in enumerate(big))

    def run(twin, **options):
        index = []
        found = twin.scan(data, 0, len(data), POSITION, TAG, SEED, 3, index, **options)
        return found, index

    found, index = same(twins, run)
    length = len(data) // 12
    steps = [i for i in range(12) if i == 0 or i * length // 65536 != (i - 1) * length // 65536]
    assert index == [(POSITION + i, i * length, 9 + i if i else 3) for i in steps]
    assert (found.oldest_ns, found.newest_ns, found.durable) == (10, 21, 5)
    for options in ({"index_origin": 64}, {"index_origin": 64, "index_next": 100_000}):
        _, moved = same(twins, lambda twin, options=options: run(twin, **options))
        assert all(offset % length == 64 for _, offset, _ in moved)
        assert moved[0][1] >= options.get("index_next", 0)
    assert plain(found) == found
