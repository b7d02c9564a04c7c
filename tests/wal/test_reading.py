"""Reading: in order, across segments, nothing skipped and nothing invented (D11, G18)."""

import errno
from random import Random

import pytest

from tests._logs import contents, fill, in_memory, pairs, told
from treering import DamageError, PositionError, PrunedError, RewoundError, StorageError, UsageError
from treering.testing import FaultyFiles


def test_the_records_come_in_order_across_segments(log):
    wal = log.open()
    fill(wal, 200)
    assert len(log.segments()) > 4
    assert contents(wal) == told(0, 200)
    assert contents(wal.read_from()) == told(0, 200)
    assert contents(wal.read_from(0)) == told(0, 200)


def test_reading_may_start_at_any_position(log):
    wal = log.open()
    fill(wal, 60)
    wal.append_batch(pairs(60, 100))
    for start in range(101):
        assert contents(wal.read_from(start)) == told(start, 100)


def test_reading_may_stop_at_any_position(log):
    wal = log.open()
    fill(wal, 20)
    wal.append_batch(pairs(20, 40))
    for start, stop in ((0, 0), (5, 5), (0, 1), (3, 17), (15, 30), (25, 26), (39, 40), (0, 999)):
        assert contents(wal.read_from(start, stop=stop)) == told(start, min(stop, 40))
    assert contents(wal.read_from(30, stop=10)) == []


def test_one_record_can_be_read_by_its_position(log):
    wal = log.open()
    fill(wal, 60)
    wal.append_batch(pairs(60, 90))
    for position in [*range(90), 0, 89, 45]:
        assert contents([wal.read(position)]) == told(position, position + 1)


def test_an_empty_log_has_nothing_to_read(log):
    wal = log.open()
    assert contents(wal) == contents(wal.read_from(0)) == contents(wal.read_backwards()) == []
    with pytest.raises(PositionError):
        wal.read(0)


def test_what_is_beyond_the_end_is_not_there_yet(log):
    wal = log.open()
    fill(wal, 5)
    assert contents(wal.read_from(5)) == []
    for call in (lambda: wal.read_from(6), lambda: wal.read(5), lambda: wal.read_backwards(6)):
        with pytest.raises(PositionError) as caught:
            call()
        assert caught.value.position in (5, 6)
        assert not isinstance(caught.value, PrunedError)


def test_what_was_truncated_is_refused_with_the_oldest_position(log):
    """D11: never skipped silently, whichever way it is read."""
    wal = log.open()
    fill(wal, 200)
    oldest = wal.truncate_before(100)
    assert 0 < oldest <= 100
    for handle in (wal, log.open(read_only=True)):
        for position in (0, oldest - 1):
            for call in (
                lambda p=position, h=handle: h.read(p),
                lambda p=position, h=handle: h.read_from(p),
                lambda p=position, h=handle: h.read_backwards(p),
            ):
                with pytest.raises(PrunedError) as caught:
                    call()
                assert caught.value.oldest == oldest
                assert str(oldest) in str(caught.value)
        assert contents(handle.read_from(oldest)) == contents(handle) == told(oldest, 200)
        assert contents(handle.read_backwards(oldest)) == []


def test_a_reader_tells_which_record_comes_next(wal):
    fill(wal, 3)
    reader = wal.read_from(1)
    assert reader.position == 1
    assert next(reader).position == 1
    assert reader.position == 2
    assert next(reader).position == 2
    with pytest.raises(StopIteration):
        next(reader)
    assert reader.position == 3


def test_a_reader_shows_what_is_appended_while_it_reads(shared):
    wal, other = shared.open(), shared.open()
    fill(wal, 3)
    found = []
    for record in wal.read_from(0):
        found.append(record)
        if record.position < 150:
            fill(other, 1)
    assert contents(found) == told(0, 153)


def test_several_readers_do_not_disturb_one_another(log):
    wal = log.open()
    fill(wal, 120)
    readers = [iter(wal.read_from(start)) for start in (0, 0, 50)]
    found = [[], [], []]
    for turn in range(120):
        for reader, seen in zip(readers, found, strict=True):
            seen.extend(record for record in [next(reader, None)] if record)
        wal.read(turn)
    assert contents(found[0]) == contents(found[1]) == told(0, 120)
    assert contents(found[2]) == told(50, 120)


def test_values_can_be_views_that_stay_valid(log):
    wal = log.open()
    fill(wal, 100)
    wal.put(b"compressed", b"x" * 500, compression="zstd")
    records = list(wal.read_from(0, copy=False))
    assert all(isinstance(record.value, memoryview) for record in records[:100])
    assert contents(records[:100]) == told(0, 100)
    assert records[100].value == b"x" * 500
    # What was read as a view can be appended, to the same log and in a batch.
    assert wal.append_batch(records[:50]) == range(101, 151)
    assert wal.append(records[50]) == 151
    assert [record.value for record in wal.read_from(101)] == [v for _, v in pairs(0, 51)]


def test_a_closed_reader_ends_and_has_no_file_open(memory):
    wal = memory.open(segment_bytes_max=1 << 20)
    fill(wal, 100)
    before = len(memory.files.open_paths)

    def is_open():
        return len(memory.files.open_paths) > before

    reader = wal.read_from(0)
    assert next(reader).position == 0
    assert is_open()
    reader.close()
    reader.close()
    assert not is_open()
    assert list(reader) == []
    with wal.read_from(0) as reader:
        next(reader)
    assert list(reader) == []
    assert not is_open()
    for _ in wal.read_from(0):
        assert is_open()
        break
    assert not is_open()


def test_stop_ends_a_reader_before_it_reads_on(wal):
    fill(wal, 100)
    reader = wal.read_from(0)
    next(reader)
    reader.stop()
    rest = [record.position for record in reader]
    assert rest == list(range(1, 1 + len(rest)))
    assert len(rest) < 99


def test_durable_only_shows_nothing_that_a_power_failure_could_take_back(log):
    wal = log.open()
    fill(wal, 5)
    wal.sync()
    wal.put(b"not", b"durable")
    assert contents(wal.read_from(0, durable_only=True)) == told(0, 5)
    assert contents(wal.read_from(5, durable_only=True)) == []
    assert contents(wal.read_from(6, durable_only=True)) == []
    wal.sync()
    assert len(list(wal.read_from(0, durable_only=True))) == 6


def test_a_reader_that_truncation_overtakes_is_told(shared):
    """A reader shows what it had already read from the file, then says what it missed."""
    wal, other = shared.open(), shared.open()
    fill(wal, 200)
    reader = wal.read_from(0)
    seen = [next(reader)]
    oldest = other.truncate_before(150)
    with pytest.raises(PrunedError) as caught:
        seen.extend(reader)
    assert caught.value.oldest == oldest
    assert contents(seen) == told(0, len(seen))
    assert len(seen) < oldest


def test_a_reader_that_had_passed_a_cut_is_told(shared):
    wal, other = shared.open(), shared.open()
    fill(wal, 100)
    reader = wal.read_from(0)
    for _ in range(60):
        next(reader)
    other.truncate_after(50)
    fill(other, 100)
    with pytest.raises(RewoundError) as caught:
        list(reader)
    assert caught.value.end == 50
    assert caught.value.oldest == 0


def test_a_reader_before_a_cut_goes_on_with_what_came_instead(shared):
    wal, other = shared.open(), shared.open()
    fill(wal, 200)
    reader = wal.read_from(0)
    next(reader)
    other.truncate_after(150)
    other.append_batch([(b"new", b"%d" % number) for number in range(150, 220)])
    expected = told(1, 150) + [(n, b"new", b"%d" % n) for n in range(150, 220)]
    assert contents(reader) == expected
    assert contents(wal.read_from(1)) == expected


def test_two_cuts_behind_its_back_end_a_reader(shared):
    """Only the last cut is known, so the reader cannot tell whether it had passed the first."""
    wal, other = shared.open(), shared.open()
    fill(wal, 200)
    reader = wal.read_from(0)
    next(reader)
    for cut in (100, 150):
        other.truncate_after(cut)
        fill(other, 100)
    with pytest.raises(RewoundError):
        list(reader)


def test_a_large_log_is_read_in_pieces(log):
    """Over many chunks of the reader's buffer, with frames that lie across their borders."""
    wal = log.open(segment_bytes_max=1 << 20)
    sizes = [1, 100, 10_000, 70_000, 300_000, 17, 0, 65_536]
    expected = []
    for number in range(40):
        value = bytes([number]) * sizes[number % len(sizes)]
        wal.put(b"k", value)
        expected.append((number, b"k", value))
    assert contents(wal) == expected
    assert contents(wal.read_from(0, copy=False)) == expected
    assert contents(wal.read_backwards()) == expected[::-1]
    for position in (0, 7, 20, 33, 39):
        assert contents([wal.read(position)]) == expected[position : position + 1]
        assert contents(wal.read_from(position)) == expected[position:]


def test_an_unreadable_sector_is_an_error_not_the_end(memory):
    """G18."""
    wal = memory.open()
    fill(wal, 100)
    wal.close()
    files = FaultyFiles(memory.files)
    for handle in (memory.open(files=files), memory.open(files=files, read_only=True)):
        name = memory.segments()[1]
        base = int(name[:20])
        bad = files.unreadable(name, offset=512, length=512)
        for call in (
            lambda h=handle: list(h.read_from(0)),
            lambda h=handle, p=base: h.read(p + 10),
            lambda h=handle: list(h.read_backwards()),
            lambda h=handle: list(h),
        ):
            with pytest.raises(StorageError) as caught:
                call()
            assert caught.value.errno == errno.EIO
            assert caught.value.path.endswith(name)
        assert contents(handle.read_from(0, stop=base)) == told(0, base)
        files.heal(bad)
        assert contents(handle) == told(0, 100)
        handle.close()


def test_bytes_that_changed_under_an_open_log_are_damage_and_never_shown(log):
    wal = log.open()
    fill(wal, 40)
    wal.sync()
    name = log.segment_of(7)
    log.flip(name, log.get(name).index(b"value-7"))
    for call in (
        lambda: list(wal.read_from(0)),
        lambda: list(wal.read_from(7)),
        lambda: wal.read(7),
        lambda: list(wal.read_backwards(8)),
        wal.check,
    ):
        with pytest.raises(DamageError) as caught:
            call()
        assert caught.value.path.endswith(name)
        assert caught.value.position == 7 or caught.value.position is None
    assert contents(wal.read_from(0, stop=7)) == told(0, 7)


def test_following_needs_no_records_to_be_there(wal):
    assert contents(wal.read_from(0, follow=True, timeout=0)) == []
    with pytest.raises(UsageError):
        wal.read_from("0", follow=True)


@pytest.mark.parametrize("what", ["read", "read_from", "read_backwards"])
def test_reading_leaves_no_file_open(tmp_path, what):
    log = in_memory(tmp_path)
    wal = log.open()
    fill(wal, 300)
    for position in range(1, 300, 7):
        found = getattr(wal, what)(position)
        if what != "read":
            list(found)
    del found
    wal.close()
    assert log.files.open_paths == []


@pytest.mark.parametrize("options", [{}, {"copy": False}, {"durable_only": True}], ids=str)
@pytest.mark.parametrize("read_only", [False, True])
def test_reading_may_start_inside_a_batch_larger_than_a_chunk(log, options, read_only):
    """The frame is read whole in a second step, and what lies before the position stays unseen."""
    wal = log.open()
    fill(wal, 10)
    batch = [(b"%d" % number, bytes(1000)) for number in range(700)]
    wal.append_batch(batch)
    fill(wal, 3)
    wal.sync()
    if read_only:
        wal.close()  # from a living writer's files alone nobody knows what it has synced
    other = log.open(read_only=True) if read_only else wal
    for start in (10, 11, 300, 709, 710):
        found = [record.position for record in other.read_from(start, **options)]
        assert found == list(range(start, 713))
        assert [other.read(start).position, next(other.read_backwards(start + 1)).position] == [
            start,
            start,
        ]


def test_many_records_at_once_are_those_that_single_reads_give(either):
    rng = Random(3)
    wal = either.open(segment_bytes_max=20_000)
    for number in range(3000):
        if number % 7:
            wal.put(b"%d" % number, b"v" * rng.randrange(40))
        else:
            wal.append_batch([(b"%d" % (number + each), b"w") for each in range(3)])
    end = wal.current_position()
    wal.truncate_before(100)
    for _ in range(30):
        positions = sorted(rng.sample(range(wal.first_position, end), rng.choice((1, 7, 300))))
        if rng.random() < 0.3:
            rng.shuffle(positions)
        found = wal.read_many(positions)
        assert [record.position for record in found] == positions
        assert found == [wal.read(position) for position in positions]
    assert wal.read_many([]) == []


@pytest.mark.parametrize("seed", range(3))
def test_many_records_at_once_beside_growth_and_cuts(either, seed):
    rng = Random(seed)
    wal = either.open(segment_bytes_max=4096)
    told = []
    for _ in range(60):
        if told and rng.random() < 0.2:
            cut = rng.randrange(len(told))
            wal.truncate_after(cut)
            del told[cut:]
        for _ in range(rng.randrange(40)):
            told.append(b"%d" % rng.randrange(10**6))
            wal.put(told[-1], bytes(rng.randrange(100)))
        positions = sorted(rng.sample(range(len(told)), min(len(told), 25)))
        assert [record.key for record in wal.read_many(positions)] == [told[p] for p in positions]


def test_many_records_of_which_one_is_not_there(either):
    wal = either.open(segment_bytes_max=4096)
    fill(wal, 300)
    with pytest.raises(PositionError):
        wal.read_many([5, 300])
    wal.truncate_before(200)
    with pytest.raises(PrunedError):
        wal.read_many([299, 5])
    with pytest.raises(UsageError):
        wal.read_many(["5"])


def test_many_records_some_of_which_lie_in_large_batches(either):
    """More than one glance at the file shows, at once and one after the other."""
    rng = Random(5)
    wal = either.open(segment_bytes_max=4 << 20)
    for turn in range(3):
        fill(wal, 50)
        wal.append_batch([(b"%d/%d" % (turn, n), b"x" * 300) for n in range(2500)])
        wal.put(b"large", b"y" * 300_000)
    for positions in (
        range(wal.current_position()),
        sorted(rng.sample(range(wal.current_position()), 60)),
        rng.sample(range(wal.current_position()), 20),
    ):
        found = wal.read_many(positions)
        assert [record.position for record in found] == list(positions)
        assert all(wal.read(record.position) == record for record in found[::100])
