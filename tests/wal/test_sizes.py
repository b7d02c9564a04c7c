"""Records and segments of every size: the smallest, the largest, and exactly full ones."""

import warnings

import pytest

from tests._logs import contents, fill, pairs, told
from treering import FsyncPolicy, LargeRecordWarning, Record

MIB = 1 << 20
HEADER, FRAME, RECORD = 64, 32, 16
FOOTER = 96 + 24  # comes on top, once a segment is full


def test_a_record_larger_than_a_segment_gets_a_segment_of_its_own_size(log):
    wal = log.open()
    big = bytes(range(256)) * 40
    fill(wal, 3)
    assert wal.put(b"big", big) == 3
    for key, value in pairs(4, 8):
        wal.put(key, value)
    expected = [*told(0, 3), (3, b"big", big), *told(4, 8)]
    assert contents(wal) == expected
    log.kill()
    wal = log.open()
    assert contents(wal) == expected
    wal.close()
    wal = log.open()
    assert contents(wal) == expected
    assert contents(wal.read_backwards()) == expected[::-1]
    wal.check()


def test_a_first_record_larger_than_a_segment_is_no_exception(log):
    wal = log.open()
    assert wal.put(b"big", bytes(10_000)) == 0
    assert wal.append_batch([(b"a", bytes(9_000)), (b"b", bytes(9_000))]) == range(1, 3)
    log.kill()
    assert [len(record.value) for record in log.open()] == [10_000, 9_000, 9_000]


def test_segments_are_no_larger_than_asked_for(log):
    size = log.options["segment_bytes_max"]
    wal = log.open()
    fill(wal, 200)
    assert max(len(log.get(name)) for name in log.segments()) <= size + FOOTER
    # …and as full as records of this size make them.
    wal.close()
    log.open().close()
    used = [len(log.get(name)) for name in log.segments()[:-1]]
    assert min(used) > size * 3 // 4


@pytest.mark.parametrize("segment_bytes_max", [1024, 1025, 2000, 4095, 4097, 10_000])
def test_a_segment_may_have_any_size(few, segment_bytes_max):
    if few.options.get("frame_align_bytes"):
        segment_bytes_max *= 2
    wal = few.open(segment_bytes_max=segment_bytes_max)
    fill(wal, 100)
    sizes = [len(few.get(name)) for name in few.segments()]
    assert max(sizes) <= segment_bytes_max + FOOTER
    few.kill()
    assert contents(few.open(segment_bytes_max=segment_bytes_max)) == told(0, 100)


@pytest.mark.parametrize("left", range(0, 129, 8))
@pytest.mark.parametrize("death", ["close", "kill"])
def test_a_segment_may_be_full_to_the_last_byte(few, left, death):
    """`left` bytes stay free in the tail: none, too few for a frame's header, too few for a frame,
    just enough."""
    if few.options.get("frame_align_bytes"):
        left *= 64
    align = few.options.get("frame_align_bytes", 8)
    start = max(HEADER, align)
    size = few.options["segment_bytes_max"]
    wal = few.open()
    first = size - start - left
    wal.put(b"", b"v" * (first - FRAME - RECORD))
    expected = [(0, b"", b"v" * (first - FRAME - RECORD))]
    assert contents(wal) == expected
    wal = _reopened(few, wal, death)
    assert contents(wal) == expected
    assert wal.put(b"k", b"w") == 1
    expected.append((1, b"k", b"w"))
    assert len(few.segments()) == (1 if left >= max(align, 56) else 2)
    assert contents(wal) == expected
    wal = _reopened(few, wal, death)
    assert contents(wal) == expected
    wal.check()


def _reopened(log, wal, death):
    if death == "close":
        wal.close()
    else:
        log.kill()
    return log.open()


def test_a_large_record_works_and_warns_once(memory):
    wal = memory.open(segment_bytes_max=16 * MIB)
    wal.put(b"not yet large", bytes(MIB - RECORD - 13))
    with pytest.warns(LargeRecordWarning, match="1 MiB") as caught:
        wal.put(b"large", bytes(MIB))
    assert caught[0].filename == __file__
    assert "treering.stores.blobs" in str(caught[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        wal.put(b"large", bytes(MIB + 1))
        wal.append_batch([(b"large", bytes(MIB))])
    with pytest.warns(LargeRecordWarning):
        memory.open().put(b"large", bytes(MIB))
    assert wal.current_position() == 5


@pytest.mark.parametrize("call", ["put", "append", "append_batch", "batch"])
@pytest.mark.parametrize("policy", [FsyncPolicy.OS, FsyncPolicy.ALWAYS], ids=str)
def test_a_warning_points_at_the_callers_line(memory, call, policy):
    wal = memory.open(segment_bytes_max=4 * MIB, fsync_policy=policy)
    record = Record.put(b"k", bytes(MIB))
    with pytest.warns(LargeRecordWarning) as caught:
        if call == "put":
            wal.put(record.key, record.value)
        elif call == "append":
            wal.append(record)
        elif call == "append_batch":
            wal.append_batch([record])
        else:
            with wal.batch() as batch:
                batch.append(record)
    assert caught[0].filename == __file__


@pytest.mark.filterwarnings("error::treering.LargeRecordWarning")
def test_a_warning_made_an_error_keeps_the_record_out(memory):
    wal = memory.open(segment_bytes_max=4 * MIB)
    fill(wal, 1)
    with pytest.raises(LargeRecordWarning):
        wal.put(b"k", bytes(MIB))
    assert contents(wal) == told(0, 1)


@pytest.mark.filterwarnings("ignore::treering.LargeRecordWarning")
@pytest.mark.parametrize("mode", ["mapped", "written"])
def test_records_and_batches_of_many_mib(memory, mode):
    """Over the size up to which recovery checks a frame in one piece."""
    options = {"segment_bytes_max": 8 * MIB, "map_tail": mode == "mapped"}
    wal = memory.open(**options)
    values = [b"a" * (5 * MIB), b"b" * 100, b"c" * (9 * MIB)]
    for value in values:
        wal.put(b"k", value)
    batch = [bytes([n]) * (MIB // 2) for n in range(20)]
    wal.append_batch([(b"k", value) for value in batch])
    wal.put(b"k", b"last")
    values += [*batch, b"last"]
    assert [record.value for record in wal] == values
    memory.kill()
    wal = memory.open(**options)
    assert [record.value for record in wal] == values
    assert wal.read(2).value == values[2]
    assert [record.value for record in wal.read_backwards()] == values[::-1]
    memory.kill()
    assert [record.value for record in memory.open(read_only=True)] == values


def test_many_tiny_records_in_one_batch(log):
    wal = log.open()
    batch = [(b"", b"")] * 5_000
    assert wal.append_batch(batch) == range(5_000)
    wal.append_batch(batch[:3])
    log.kill()
    wal = log.open()
    assert wal.current_position() == 5_003
    assert [record.position for record in wal] == list(range(5_003))
    assert wal.read(4_999).position == 4_999
