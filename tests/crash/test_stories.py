"""What the battery once found broken, each told as one short story (G24)."""

import errno
import os
import random

import pytest

from tests.battery import damage
from tests.battery.harness import LOG, repeatable
from treering import DamageError, DiskFullError, FailedError, FsyncPolicy, StorageError, Wal
from treering._core import format as fmt
from treering.testing import FakeClock, FaultyFiles, PowerCutFiles

SECOND = 10**9
OPTIONS = {"segment_bytes_max": 1024, "fsync_policy": FsyncPolicy.OS}


def opened(files, **options):
    return Wal.open(LOG, files=files, **{**OPTIONS, **options})


def keys(wal):
    return [record.key for record in wal.read_from()]


def dies_after(files, operation, path="", *, nth=1):
    """Let the process die after the nth such operation from now on."""
    left = [nth]

    def stop(name, where):
        if name == operation and where.endswith(path):
            left[0] -= 1
            if not left[0]:
                raise Death

    files.on_operation = stop


class Death(BaseException):
    """The process is killed here."""


def test_a_sync_after_a_cut_at_a_border_syncs_the_new_file_of_that_name():
    """D2, G1: the segment from 0 on is another file after truncate_after(0)."""
    files = PowerCutFiles()
    wal = opened(files)
    wal.put(b"old", b"")
    wal.sync()
    wal.truncate_after(0)
    wal.put(b"new", b"")
    wal.sync()
    with opened(files.cut()) as after:
        assert keys(after) == [b"new"]
    wal.close()


def test_another_handle_appends_to_the_new_file_after_a_cut_at_a_border():
    """D9, D11: two handles, of which one cuts."""
    files = PowerCutFiles()
    one, other = opened(files), opened(files)
    other.put(b"old", b"")
    one.truncate_after(0)
    other.put(b"new", b"")
    other.sync()
    assert keys(one) == [b"new"]
    with opened(files.cut()) as after:
        assert keys(after) == [b"new"]
    one.close()
    other.close()


def test_the_name_of_a_directory_is_durable_though_its_maker_died():
    """G11: killed between making the directory and syncing the one above it."""
    files = PowerCutFiles()
    dies_after(files, "make_directory")
    with pytest.raises(Death):
        opened(files)
    files = files.crash()
    wal = opened(files)
    wal.put(b"key", b"", durable=True)
    with opened(files.cut()) as after:
        assert keys(after) == [b"key"]
    wal.close()


def test_the_name_of_a_new_segment_is_durable_before_the_manifest_speaks_of_it():
    """G11, G12: killed in a roll, right after the new segment got its name."""
    files = PowerCutFiles()
    wal = opened(files)
    wal.put(b"0", b"v" * 700)
    dies_after(files, "rename", "1.seg")
    with pytest.raises(Death):
        wal.put(b"1", b"v" * 700)
    files = files.crash()
    seen = []
    files.on_operation = lambda name, path: seen.append(files.cut())
    opened(files).close()
    for image in seen:
        with opened(image) as after:
            assert keys(after) == [b"0"]


def _half_replaced_manifest():
    """A log whose process was killed between the two writes of a truncation's manifest."""
    files = PowerCutFiles()
    wal = opened(files)
    for number in range(4):
        wal.put(b"%d" % number, b"v" * 300)
    wal.sync()
    dies_after(files, "write", fmt.MANIFEST_NAME)
    with pytest.raises(Death):
        wal.truncate_after(2)
    return files.crash()


def test_a_manifest_in_the_cache_is_durable_before_anything_relies_on_it():
    """G11, G12: what the dead process wrote last may be lost, or torn, with what comes next."""
    files = _half_replaced_manifest()
    seen = []
    files.on_operation = lambda name, path: seen.extend(
        files.images(20, len(seen), torn_sectors=True) if path.endswith("manifest") else ()
    )
    files.during_sync = lambda path: files.on_operation("during", path)
    wal = opened(files)
    shown = keys(wal)
    assert shown == [b"0", b"1"]
    files.on_operation = files.during_sync = None
    for image in [*seen, files.cut()]:
        with opened(image) as after:
            assert keys(after) in (shown, [b"0", b"1", b"2", b"3"])
    with opened(files.cut()) as after:
        assert keys(after) == shown
    wal.close()


def test_both_copies_of_the_manifest_say_the_same_once_the_log_was_opened():
    """G7: or damage to the one would bring the other's old history back."""
    files = _half_replaced_manifest()
    opened(files).close()
    data = files.contents()[os.path.join(LOG, fmt.MANIFEST_NAME)]
    slots = [fmt.Manifest.unpack(data[at:]) for at in fmt.MANIFEST_SLOT_OFFSETS]
    assert slots[0] == slots[1]


def test_a_torn_first_record_after_an_interrupted_truncation_opens():
    """G6, G12: the older segment is on its way out, the newer one holds nothing whole."""
    files = PowerCutFiles()
    wal = opened(files)
    for number in range(4):
        wal.put(b"%d" % number, b"v" * 400)
    dies_after(files, "remove", ".seg")
    with pytest.raises(Death):
        wal.truncate_before(4)
    image = files.crash()
    base = max(n for n in image.list_directory(LOG) if n.endswith(fmt.SEGMENT_SUFFIX))
    path = os.path.join(LOG, base)
    torn = bytearray(image.contents()[path])
    torn[100:104] = b"torn"
    image.put_file(path, bytes(torn))
    with opened(image) as after:
        assert after.put(b"on", b"") == after.first_position


def test_old_frames_in_lost_space_do_not_come_back_to_life():
    """G4: after a cut at a border the next segment has the same name and base, but a newer epoch."""
    files = PowerCutFiles()
    wal = opened(files, segment_bytes_max=8192)
    for number in range(6):
        wal.put(b"old %d" % number, b"v" * 464)  # a sector each
    first = os.path.join(LOG, fmt.segment_name(0))
    old = wal_bytes = bytearray(files.contents()[first])
    wal_bytes[64:128] = bytes(64)  # the first one never reached the disk
    image = files.cut()
    image.put_file(first, bytes(wal_bytes))
    after = opened(image, segment_bytes_max=8192)
    assert keys(after) == []
    after.put(b"new", b"v" * 466)
    live = bytearray(image.contents()[first])
    end = 64 + 32 + 16 + 3 + 466
    live[end:] = old[end : len(live)]  # what was there before, where the new sectors are lost
    last = image.reboot_keep_all()
    last.put_file(first, bytes(live))
    with opened(last, segment_bytes_max=8192) as found:
        assert keys(found) == [b"new"]
    after.close()


def test_a_torn_footer_costs_a_scan_and_nothing_else():
    """G6: footers are written in the background; a power cut may leave half of one."""
    healthy = damage.specimen("in use")
    path = healthy.segments()[0]
    data = bytearray(healthy.contents[path])
    data[-50] ^= 1
    patient = damage.Patient(healthy)
    assert patient.examine({path: bytes(data)}, write=True) == "whole"
    assert patient.examine({path: bytes(data)}, write=False) == "whole"


def test_a_missing_segment_in_the_middle_refuses_to_open():
    """D5, G7: though opening reads only the newest one."""
    healthy = damage.specimen("closed")
    patient = damage.Patient(healthy)
    for path in healthy.segments():
        assert patient.examine({path: None}, write=True) == "refused"


def test_every_bit_of_the_manifest_and_of_a_footer_counts():
    """G7, G21: 8 x 100 bits of a copy of the manifest, 8 x 96 of a footer."""
    healthy = damage.specimen("cut")
    row = damage.Row("bits", "cut")
    manifest, sealed = os.path.join(LOG, fmt.MANIFEST_NAME), healthy.segments()[0]
    end = len(healthy.contents[sealed]) * 8
    bits = [(manifest, bit) for bit in range(0, 800, 3)]
    bits += [(sealed, bit) for bit in range(end - 8 * fmt.TRAILER_BYTES, end, 3)]
    damage.flip_bits(healthy, bits, row, damage.Budget(10_000))
    assert row.violations == []


def test_reading_a_damaged_log_read_only_ends_with_the_damage():
    """G7: not with the end of an iteration, as if there were no more."""
    healthy = damage.specimen("in use")
    files = healthy.files.crash()
    frame = next(frame for frame in healthy.frames if frame.path == healthy.tail)
    data = bytearray(healthy.contents[frame.path])
    data[frame.start + 40] ^= 1
    files.put_file(frame.path, bytes(data))
    with Wal.open(LOG, files=files, read_only=True) as wal, pytest.raises(DamageError) as caught:
        list(wal.read_from())
    assert caught.value.position == frame.first


@pytest.mark.parametrize("kind", ["memory", "btrfs"])
def test_an_append_whose_write_failed_at_its_end_is_not_in_the_log(kind):
    """D6, G10: every byte of it had been written."""
    files = FaultyFiles(PowerCutFiles(kind))
    wal = opened(files, map_tail=False if kind == "memory" else None)
    wal.put(b"before", b"")
    files.fail("write", number=errno.EIO, path=".seg", after=True)
    with pytest.raises(StorageError):
        wal.put(b"failed", b"")
    wal.put(b"after", b"")
    assert keys(wal) == [b"before", b"after"]
    wal.close()


def test_a_failed_opening_lets_go_of_everything():
    """D13: whichever call fails, the next attempt finds no lock taken and no file left open."""
    for nth in range(1, 400):
        disk = PowerCutFiles()
        files = FaultyFiles(disk)
        fault = files.fail(nth=nth)
        with repeatable(random.Random(1)):
            try:
                opened(files).close()
            except StorageError:
                files.heal()
                opened(files, lock_timeout_seconds=0.1).close()
        assert not disk.open_paths, f"call {nth}: {disk.open_paths}"
        if not fault.hits:
            break
    assert 50 < nth < 399


def test_a_first_opening_on_a_full_disk_says_that_the_disk_is_full():
    """D7, G10: wherever in making the log the space runs out."""
    for blocks in range(6):
        files = PowerCutFiles(capacity_bytes=4096 * blocks)
        try:
            opened(files).close()
        except DiskFullError:
            continue
        break
    assert 0 < blocks < 5
    files.capacity_bytes = None
    opened(files).close()


def _at_a_border(files):
    """A log whose next record needs a new segment."""
    wal = opened(files)
    wal.put(b"0", b"v" * 700)
    wal.sync()
    return wal


def test_a_failed_step_between_two_files_is_the_end_of_the_log():
    """D6: nobody knows whether the new segment's name is durable, so nobody goes on."""
    files = FaultyFiles(PowerCutFiles())
    wal = _at_a_border(files)
    files.fail("rename", number=errno.EIO, path=".seg")
    with pytest.raises(FailedError):
        wal.put(b"1", b"v" * 700)
    files.heal()
    with pytest.raises(FailedError):
        wal.put(b"2", b"")
    assert wal.stats()["failed"]
    wal.close()
    with opened(files) as after:
        assert keys(after) == [b"0"]


def test_a_full_disk_between_two_files_is_not_the_end_of_the_log():
    """D7, G10: the roll is done again when there is space, without opening again."""
    files = FaultyFiles(PowerCutFiles())
    wal = _at_a_border(files)
    files.fail("rename", number=errno.ENOSPC, path=".seg")
    with pytest.raises(DiskFullError):
        wal.put(b"1", b"v" * 700)
    files.heal()
    wal.put(b"2", b"v" * 700)
    assert keys(wal) == [b"0", b"2"]
    wal.close()


def _seen(files):
    """What there is to be read from every position and from every record's time."""
    with Wal.open(LOG, files=files, read_only=True) as wal:
        whole = list(wal)
        later = [next(wal.read_from(record.position)) for record in whole]
        at_times = [next(wal.read_from(time=record.timestamp_ns // SECOND)) for record in whole]
    return whole, later, at_times


def test_every_bit_of_a_footers_index_costs_a_scan_and_nothing_else():
    """G7: signposts lead to positions and times; a wrong one would pass records over in silence."""
    files = PowerCutFiles()
    clock = FakeClock(step=SECOND)
    with opened(files, segment_bytes_max=1 << 17, clock=clock) as wal:
        for number in range(9):
            wal.put(b"%d" % number, b"v" * 20_000)
    path = os.path.join(LOG, fmt.segment_name(0))
    healthy, right = files.contents()[path], _seen(files)
    trailer = fmt.Trailer.unpack(healthy[-fmt.TRAILER_BYTES :])
    assert trailer.entries > 1
    start = len(healthy) - fmt.TRAILER_BYTES - trailer.entries * fmt.INDEX_ENTRY_BYTES
    for bit in range(8 * start, 8 * (len(healthy) - fmt.TRAILER_BYTES), 5):
        spoiled = bytearray(healthy)
        spoiled[bit // 8] ^= 1 << bit % 8
        files.put_file(path, bytes(spoiled))
        assert _seen(files) == right, f"bit {bit}"


def _closed_at(clock):
    """A log of some segments, written from that time on."""
    files = PowerCutFiles()
    with repeatable(random.Random(clock())), opened(files, clock=clock) as wal:
        for number in range(8):
            wal.put(b"%d" % number, b"v" * 300)
    return files


def test_the_footer_of_another_logs_segment_is_not_believed():
    """G7: of the same name and shape, but older, so that a search for a time would pass over it."""
    files, older = (
        _closed_at(FakeClock(10**18, step=SECOND)),
        _closed_at(FakeClock(10**15, step=SECOND)),
    )
    right = _seen(files)
    path = os.path.join(LOG, fmt.segment_name(0))
    ours, theirs = files.contents()[path], older.contents()[path]
    assert len(ours) == len(theirs) and theirs[-fmt.TRAILER_BYTES :][:8] == fmt.TRAILER_MAGIC
    files.put_file(path, ours[: -fmt.TRAILER_BYTES] + theirs[-fmt.TRAILER_BYTES :])
    assert _seen(files) == right


def test_pins_are_replaced_whole():
    """G11: whenever the power goes, the pins are the old ones or the new ones."""
    files = PowerCutFiles()
    wal = opened(files)
    wal.pin("a", 0)
    images = []
    files.on_operation = lambda name, path: images.extend(files.images(4, len(images)))
    wal.pin("b", 0)
    files.on_operation = None
    found = []
    for image in images:
        with opened(image) as after:
            found.append(after.pins())
    assert {"a": 0} in found
    assert all(pins in ({"a": 0}, {"a": 0, "b": 0}) for pins in found)
    wal.close()


def test_removed_segments_do_not_come_back_beside_a_new_one():
    """G6, G12: the power goes as the new segment gets its name, and recovery is interrupted, too."""
    files = PowerCutFiles()
    wal = opened(files)
    for number in range(8):
        wal.put(b"%d" % number, b"v" * 400)
    first, second = [], []
    _images_after(files, "rename", "2.seg", first)
    wal.truncate_after(2)
    assert first
    for image in first:
        _images_after(image, "write", fmt.MANIFEST_NAME, second)
        opened(image).close()
    for image in second:
        with opened(image) as after:
            assert keys(after)[:2] == [b"0", b"1"]
    wal.close()


def _images_after(files, operation, path, images):
    """Collect what may be left each time that such an operation is done."""

    def look(name, where):
        if name == operation and where.endswith(path):
            images.extend(files.images(12, len(images)))

    files.on_operation = look
