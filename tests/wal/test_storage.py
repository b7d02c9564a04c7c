"""How records lie on the disk: sealing and rolling, alignment, compression."""

import itertools
import os
import random
import sys

import pytest

from tests._logs import contents, fill, told
from treering import DamageError, FsyncPolicy, MissingExtraError, Record, Wal
from treering._core import compression
from treering._core import format as fmt
from treering.testing import FaultyFiles, MemoryFiles

# --- Rolling and sealing --------------------------------------------------------------------------


def footer(log, name):
    """The trailer of a segment file, or None."""
    try:
        return fmt.Trailer.unpack(log.get(name)[-fmt.TRAILER_BYTES :])
    except fmt.FormatError:
        return None


def test_a_segment_is_named_by_the_position_of_its_first_record(log):
    wal = log.open()
    fill(wal, 200)
    for name in log.segments():
        header = fmt.SegmentHeader.unpack(log.get(name)[: fmt.SEGMENT_HEADER_BYTES])
        assert fmt.segment_name(header.base) == name
        assert header.log_id == wal.log_id
        assert wal.read(header.base).position == header.base


def test_a_full_segment_gets_a_footer_that_tells_what_is_in_it(log):
    wal = log.open()
    fill(wal, 200)
    log_id = wal.log_id
    wal.close()
    names = log.segments()
    for name, following in itertools.pairwise(names):
        trailer = footer(log, name)
        assert (trailer.base, trailer.end) == (int(name[:20]), int(following[:20]))
        assert trailer.oldest_ns <= trailer.newest_ns
        assert trailer.kept_bytes == 0
        assert trailer.log_id == log_id
    assert footer(log, names[-1]) is None


def test_a_missing_or_damaged_footer_only_costs_a_scan(log):
    wal = log.open()
    fill(wal, 200)
    wal.close()
    first, second, third = log.segments()[:3]
    log.put(first, log.get(first)[: -fmt.TRAILER_BYTES])
    log.flip(second, -1)
    log.flip(third, -fmt.TRAILER_BYTES - 5)  # in its index
    quiet = log.open(read_only=True)
    assert quiet.recovery.damage == ()
    wal = log.open()
    assert wal.recovery.damage == ()
    for handle in (quiet, wal):
        assert contents(handle) == told(0, 200)
        assert contents(handle.read_backwards())[::-1] == told(0, 200)
        assert contents([handle.read(n) for n in range(200)]) == told(0, 200)
        with handle.read_from(time=5) as reader:
            assert reader.position == 0
    wal.close()
    assert footer(log, first).end == int(second[:20]), "rebuilt"
    assert contents(log.open()) == told(0, 200)


def test_rolling_needs_no_reader_to_wait(log):
    wal = log.open()
    fill(wal, 30)
    reader = iter(wal)
    seen = [next(reader)]
    fill(wal, 300)
    seen.extend(reader)
    assert contents(seen) == told(0, 330)


def test_a_failed_roll_appends_nothing_and_the_next_append_goes_on(memory):
    """D7: a disk that is full for a moment, at every operation of a roll."""
    memory.options["segment_bytes_max"] = 1024
    for nth in range(1, 40):
        faulty = FaultyFiles(MemoryFiles())
        wal = memory.open(files=faulty)
        fill(wal, 14)
        wal._engine.writer.chores.stop()
        fault = faulty.fail(nth=nth, number=28)
        before = wal.current_position()
        try:
            fill(wal, 5)
        except OSError as error:
            assert error.errno == 28
        faulty.heal()
        end = wal.current_position()
        assert contents(wal) == told(0, end)
        if not wal.stats()["failed"]:
            fill(wal, 30)
            assert contents(wal) == told(0, end + 30)
        again = memory.open(files=faulty.inner.crash())
        assert contents(again) == told(0, again.current_position())
        assert again.current_position() >= before
        if not fault.hits:
            break
    assert nth > 5


def test_numbers_for_dashboards_are_right(log):
    wal = log.open()
    fill(wal, 200)
    wal.truncate_before(100)
    wal.sync()
    stats = wal.stats()
    assert stats["path"] == wal.path
    assert stats["first_position"] == wal.first_position
    assert stats["end_position"] == stats["durable_position"] == 200
    assert stats["segments"] == len(log.segments())
    assert stats["syncs"] > 0
    assert stats["failed"] is False
    assert stats["backend"] in ("native", "python")
    wal.close()
    quiet = log.open(read_only=True)
    assert quiet.stats()["bytes"] == sum(len(log.get(name)) for name in log.segments())
    assert quiet.stats()["durable_position"] == 200


def test_numbers_can_be_asked_for_in_the_middle_of_truncation(memory):
    wal, other = memory.open(), memory.open()
    fill(wal, 200)
    asked = []

    def ask(name, path):
        if name == "remove":
            memory.files.on_operation = None
            asked.append(other.stats())
            memory.files.on_operation = ask

    memory.files.on_operation = ask
    wal.truncate_before(150)
    memory.files.on_operation = None
    assert asked
    assert other.stats()["segments"] == len(memory.segments()) == wal.stats()["segments"]


# --- Alignment ------------------------------------------------------------------------------------


@pytest.mark.parametrize("align", [512, 4096])
@pytest.mark.parametrize("kind", ["memory", "btrfs"])
def test_aligned_frames_have_sectors_of_their_own(memory, align, kind):
    memory.files = MemoryFiles(kind)
    options = {"frame_align_bytes": align, "segment_bytes_max": 10 * align}
    wal = memory.open(**options)
    sizes = [0, 1, align - 49, align - 48, align - 47, 3 * align, 100]
    values = [bytes([65 + n]) * size for n, size in enumerate(sizes)]
    for value in values:
        wal.put(b"", value)
    wal.append_batch([(b"", b"X" * 100)] * 3)
    values += [b"X" * 100] * 3
    assert [record.value for record in wal] == values
    memory.kill()
    wal = memory.open(**options)
    assert [record.value for record in wal] == values
    for name in memory.segments():
        content = memory.get(name)
        tag = fmt.SegmentHeader.unpack(content[:64]).tag.to_bytes(4, "little")
        found = [at for at in range(0, len(content), 8) if content[at : at + 4] == tag]
        assert all(at % align == 0 and at > 0 for at in found), name
        assert found


def test_alignment_may_change_from_one_opening_to_the_next(log):
    expected = 0
    for align in (8, 512, 8, 4096, 512):
        with log.open(frame_align_bytes=align, segment_bytes_max=1 << 15) as wal:
            fill(wal, 20)
            expected += 20
            assert contents(wal) == told(0, expected)
            wal.truncate_before(0)
    log.open().check()


@pytest.mark.parametrize("first", [8, 512, 4096])
@pytest.mark.parametrize("second", [8, 512, 4096])
def test_handles_with_different_alignment_append_to_one_log(memory, first, second):
    """Whoever rolls begins a segment of its own alignment, where the frame has another size."""
    size = 65636
    one = memory.open(frame_align_bytes=first, segment_bytes_max=size)
    other = memory.open(frame_align_bytes=second, segment_bytes_max=size)
    one.put(b"k", b"small")
    values = [b"small"]
    for length in (61450, size - 200, size - 4500, 3 * size, 100):
        for wal in (other, one):
            values.append(bytes(length))
            assert wal.put(b"k", values[-1]) == len(values) - 1
    assert [record.value for record in one] == values
    other.check()
    one.close()
    other.close()
    assert [record.value for record in memory.open(exclusive=True)] == values


# --- Compression ----------------------------------------------------------------------------------

CODECS = ["lz4", "zstd"]


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("how", ["config", "put", "append", "batch"])
def test_compressed_values_come_back_whole(few, codec, how):
    wal = few.open(compression=codec if how == "config" else None)
    option = {} if how == "config" else {"compression": codec}
    noise = random.Random(1).randbytes(3000)
    values = [b"", b"a", b"abc" * 2000, noise, b"\0" * 100_000, noise[:10]]
    for value in values:
        if how in ("config", "put"):
            wal.put(b"k", value, **option)
        elif how == "append":
            wal.append(Record.put(b"k", value), **option)
        else:
            wal.append_batch([(b"k", value)], **option)
    if how == "config":
        with wal.batch() as batch:
            for value in values:
                batch.put(b"k", value)
        values = values * 2
    assert [record.value for record in wal] == values
    assert [bytes(record.value) for record in wal.read_from(0, copy=False)] == values
    assert [wal.read(n).value for n in range(len(values))] == values
    few.kill()
    assert [record.value for record in few.open()] == values


@pytest.mark.parametrize("codec", CODECS)
def test_values_are_stored_compressed_only_if_that_makes_them_smaller(memory, codec):
    wal = memory.open(segment_bytes_max=1 << 20)
    sizes = []
    noise = random.Random(1).randbytes(2000)
    for value, option in (
        (b"x" * 2000, "none"),
        (b"x" * 2000, codec),
        (noise, "none"),
        (noise, codec),
        (b"short", codec),
    ):
        before = wal._engine.control.load(fmt.WORD_END_OFFSET)
        wal.put(b"", value, compression=option)
        sizes.append(wal._engine.control.load(fmt.WORD_END_OFFSET) - before)
    plain, packed, noisy, noisy_packed, short = sizes
    assert packed < plain // 10
    assert noisy == noisy_packed
    assert short == fmt.align_up(fmt.FRAME_HEADER_BYTES + fmt.RECORD_HEADER_BYTES + 5, 8)


def test_a_call_may_override_the_logs_compression(memory):
    wal = memory.open(compression="lz4", segment_bytes_max=1 << 20)
    wal.put(b"k", b"x" * 1000)
    wal.put(b"k", b"x" * 1000, compression="none")
    wal.put(b"k", b"x" * 1000, compression="zstd")
    assert [record.value for record in wal] == [b"x" * 1000] * 3
    assert memory.get(memory.segments()[0]).count(b"x" * 1000) == 1


def test_what_was_read_compressed_can_be_appended_compressed(memory):
    wal = memory.open(compression="lz4")
    wal.put(b"k", b"x" * 1000)
    for codec in ("zstd", "lz4", "none", None):
        wal.append(wal.read(wal.current_position() - 1), compression=codec)
    assert [record.value for record in wal] == [b"x" * 1000] * 5


def test_the_limit_counts_what_is_stored(memory):
    wal = memory.open(record_bytes_max=1000)
    assert wal.put(b"k", b"x" * 100_000, compression="zstd") == 0
    assert wal.read(0).value == b"x" * 100_000


@pytest.mark.parametrize("codec", CODECS)
def test_without_the_library_the_error_says_what_to_install(memory, codec, monkeypatch):
    wal = memory.open()
    wal.put(b"k", b"x" * 1000, compression=codec)
    monkeypatch.setitem(sys.modules, f"treering.integrations.{codec}", None)
    for call in (lambda: wal.put(b"k", b"x" * 1000, compression=codec), lambda: wal.read(0)):
        with pytest.raises(MissingExtraError, match=f"treering\\[{codec}\\]"):
            call()
    assert wal.put(b"k", b"plain") == 1
    assert contents(wal.read_from(1)) == [(1, b"k", b"plain")]


@pytest.mark.parametrize("codec", CODECS)
def test_a_compressed_value_that_lies_about_its_size_is_damage(memory, codec):
    """D12: decompression is bounded by what the record declares, which a checksum vouches for."""
    wal = memory.open()
    numbers = fmt.COMPRESSIONS
    honest = Record.put(b"k", b"x" * 1000)
    packed = compression.compress(codec, b"x" * 1000)

    for size in (0, 999, 1001, 1 << 20):
        # The size that is stored is the one of the record before it was packed.
        wal.append(Record.put(b"k", bytes(size))._packed(numbers[codec], packed))
        position = wal.current_position() - 1
        with pytest.raises(DamageError):
            wal.read(position)
        with pytest.raises(DamageError):
            list(wal.read_from(position))
    assert wal.append(honest) == wal.current_position() - 1


def test_hostile_keys_never_become_paths(tmp_path):
    """G22: 10,000 keys, in a log that rolls and is truncated; the directory holds nothing new."""
    rng = random.Random(22)
    pieces = [
        b"..",
        b"/",
        b"../",
        b"\0",
        b"manifest",
        b".seg",
        b"control",
        b"~",
        b"\n",
        b"%s",
        b"\\",
    ]
    pieces += [b"/etc/passwd", b"C:", b"\xff\xfe", b"'; drop", b"$(id)", b"a" * 300, b".tmp", b" "]
    keys = [
        b"".join(rng.choice(pieces) for _ in range(rng.randrange(1, 8))) + b"%d" % n
        for n in range(10_000)
    ]
    (tmp_path / "outer").mkdir()
    path = tmp_path / "outer" / "log"
    with Wal.open(path, segment_bytes_max=1 << 16, fsync_policy=FsyncPolicy.OS) as wal:
        for key in keys:
            wal.put(key, b"", headers={key.decode("latin-1"): b""})
        assert [record.key for record in wal] == keys
    known = {"control", "lock", "manifest", "opening", "spare.tmp"}
    assert {name for name in os.listdir(path) if not fmt.segment_base(name) is not None} <= known
    assert os.listdir(tmp_path) == ["outer"]
    assert os.listdir(tmp_path / "outer") == ["log"]


def test_hostile_pin_names_never_become_paths(tmp_path):
    """G22."""
    path = tmp_path / "log"
    names = ["../x", "/etc/x", "a\0b", "..", ".", "a/b", "~", "\ud800", "\n", '"', "\\", "é" * 200]
    names += ["manifest", "pins.json", "{}", "__proto__", "%s%n", "a" * 200, "null", "1"]
    with Wal.open(path, segment_bytes_max=4096) as wal:
        fill(wal, 10)
        for number, name in enumerate(names):
            wal.pin(name, number % 10)
    with Wal.open(path, segment_bytes_max=4096) as wal:
        assert wal.pins() == {name: number % 10 for number, name in enumerate(names)}
        for name in names:
            wal.unpin(name)
        assert wal.pins() == {}
    assert os.listdir(tmp_path) == ["log"]
    known = {"control", "lock", "manifest", "opening", "pins.json", "spare.tmp"}
    assert {name for name in os.listdir(path) if fmt.segment_base(name) is None} <= known
