"""`verify`: every problem, with its place and its meaning, and none that is not there."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import pytest

import treering
from tests._logs import fill, in_memory
from tests.cli._damage import (
    DAMAGES,
    RECORDS,
    append_records,
    base,
    change_header,
    change_manifest,
    change_trailer,
    facts,
    frame_in,
    frames,
    reseal,
    small_log,
    spoil_frame,
    trailer,
    truth,
)
from treering import DamageError, Label, VersionError, Wal, verify
from treering._core import examine
from treering._core import format as fmt
from treering.testing import FaultyFiles, MemoryFiles

SOURCE = Path(__file__).resolve().parents[2] / "src"


def check(log, **options):
    return verify(log.path, files=log.files, **options)


def labels(report):
    return [finding.label for finding in report.damage]


# --- Sound logs ----------------------------------------------------------------------------------


def test_a_sound_log_has_no_problem_in_any_mode(log):
    """Open, killed, recovered and closed: an ordinary crash never looks like damage (D5)."""
    wal = log.open()
    append_records(wal)
    for _ in range(2):
        report = check(log)
        assert report.ok, report.damage
        assert (report.first_position, report.intact_end, report.end) == (0, RECORDS, RECORDS)
        assert report.records == RECORDS
        assert report.segments == len(log.segments())
        log.kill()
        wal = log.open()
    wal.close()
    assert check(log).ok


def test_an_empty_log_is_sound(memory):
    memory.open().close()
    report = check(memory)
    assert report.ok
    assert (report.records, report.end) == (0, 0)


def test_a_truncated_log_is_sound(memory):
    wal = memory.open()
    fill(wal, RECORDS)
    first = wal.truncate_before(80)
    wal.truncate_after(120)
    fill(wal, 10)
    for _ in range(2):
        report = check(memory)
        assert report.ok, report.damage
        assert (report.first_position, report.end) == (first, 130)
        assert report.records == 130 - first
        wal.close()


def test_a_directory_without_a_log_says_so(memory):
    for path in ("/none", "/"):
        with pytest.raises(treering.LogNotFoundError):
            verify(path, files=memory.files)


def test_a_torn_tail_is_no_damage(memory):
    """D5: it is what an ordinary crash leaves."""
    wal = memory.open()
    fill(wal, 20)
    memory.kill()
    name = memory.segments()[-1]
    end = frames(memory, name)[-1]
    memory.patch(name, end[0] + end[2], b"half a frame, never synced")
    report = check(memory)
    assert report.ok
    (note,) = report.notes
    assert note.label is Label.TAIL_TORN
    assert (note.offset, note.positions) == (end[0] + end[2], (20, None))
    assert report.end == 20


# --- Damage --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DAMAGES)
def test_every_kind_of_damage_has_its_label(name):
    """G7: with file and meaning, and opening for appends calls it the same, if it refuses."""
    log = small_log()
    DAMAGES[name].do(log)
    report = check(log)
    assert not report.ok
    assert labels(report)[0] is DAMAGES[name].label
    assert all(finding.path.startswith(log.path) for finding in report.damage)
    with log.open(read_only=True) as wal:
        refused = wal.recovery.damage
    if refused:
        assert refused[0].label is DAMAGES[name].label
        with pytest.raises(DamageError):
            log.open()


def test_all_problems_are_listed_with_file_offset_and_positions():
    log = small_log()
    first, second, third = log.segments()[:3]
    expected = []
    for name, number in ((first, 2), (first, 5), (second, 0), (third, len(frames(log, third)) - 1)):
        offset, position, length = frame_in(log, name, number)
        spoil_frame(log, name, number)
        following = [at for at, _, _ in frames(log, name) if at > offset]
        assert not following or following[0] == offset + length
        expected.append((f"{log.path}/{name}", offset, position))
    report = check(log)
    assert set(labels(report)) == {Label.DAMAGED_MIDDLE}
    assert [(f.path, f.offset, f.positions[0]) for f in report.damage] == expected
    assert report.intact_end == expected[0][2]
    assert report.end == RECORDS
    lost = sum(f.positions[1] - f.positions[0] for f in report.damage)
    assert report.records == RECORDS - lost


def test_neighbouring_bad_frames_are_one_problem():
    log = small_log()
    name = log.segments()[1]
    start = spoil_frame(log, name, 2)
    spoil_frame(log, name, 3)
    end = frame_in(log, name, 4)
    (finding,) = check(log).damage
    assert finding.offset == start[0]
    assert finding.positions == (start[1], end[1])
    assert finding.detail == f"{end[0] - start[0]} bytes"


def test_whatever_byte_changes_nothing_false_is_called_sound(monkeypatch):
    """G7: a bit of every byte (of some, in pure Python); what is not reported does not matter."""
    monkeypatch.setattr(examine, "_LOOK_SECONDS", 0)
    log = small_log(count=60)
    end = check(log).end
    slot = fmt.MANIFEST_SLOT.size
    places = [(name, at) for name in log.segments() for at in range(len(log.get(name)))]
    places += [
        ("manifest", start + at) for start in fmt.MANIFEST_SLOT_OFFSETS for at in range(slot)
    ]
    quiet = 0
    for name, at in places[:: 1 if treering.backend == "native" else 7]:
        right = log.get(name)
        changed = bytearray(right)
        changed[at] ^= 1 << at % 8
        last = frames(log, name)[-1] if name != "manifest" else (0, 0, 0)
        log.put(name, changed)
        report = check(log)
        log.put(name, right)
        if report.ok:
            # Only what has a twin (footers, the manifest), or no meaning (unused space).
            assert name == "manifest" or at >= last[0] + last[2], (name, at)
            assert (report.intact_end, report.records, report.end) == (end, end, end)
            quiet += 1
        else:
            assert name != "manifest"
            assert report.intact_end < end
    assert 2 * slot // 7 < quiet < len(places) // 2


def test_opening_and_verify_agree_about_any_damage():
    """Two implementations, one table: where opening refuses, verify names the same thing, and they
    agree where the log ends."""
    for seed in range(80 if treering.backend == "native" else 20):
        log = small_log()
        chosen = [list(DAMAGES)[(seed * factor) % len(DAMAGES)] for factor in (1, 7)]
        try:
            for name in chosen[: 1 + seed % 2]:
                DAMAGES[name].do(log)
        except (IndexError, KeyError, FileNotFoundError, fmt.FormatError):
            continue  # the second kind needs what the first one destroyed
        report = check(log)
        with log.open(read_only=True) as wal:
            refused, end = wal.recovery.damage, wal.current_position()
        if refused:
            assert refused[0].label in labels(report), chosen
            assert report.intact_end <= end, chosen


def test_reading_works_up_to_the_damage():
    """D5: also when it is the header or the name of a later segment that is damaged."""
    for name in ("header-middle", "header-newest", "middle-missing", "foreign-segment"):
        log = small_log()
        right = truth(log)
        DAMAGES[name].do(log)
        end = check(log).intact_end
        assert end > 0
        with log.open(read_only=True) as wal:
            assert wal.current_position() == end
            found = {record.position: facts(record) for record in wal.read_from(0, stop=end)}
        assert found == {position: right[position] for position in range(end)}


def test_records_that_were_taken_back_stay_so_when_the_next_segment_is_lost():
    """D4: truncate_after cut through a full segment; what it hid must not come back to life."""
    log = small_log()
    wal = log.open()
    inside = base(log.segments()[2]) + 3
    wal.truncate_after(inside)
    fill(wal, 60)
    wal.close()
    log.remove(fmt.segment_name(inside))
    report = check(log)
    assert labels(report)[0] is Label.MISSING
    assert report.intact_end == inside
    with log.open(read_only=True) as wal:
        assert wal.current_position() == inside


def test_a_newer_version_is_reported_and_not_called_damage():
    """D8, G23: a newer header, footer, manifest or record flag."""
    for change in (
        lambda log: log.patch(log.segments()[1], 0, _newer_header(log)),
        lambda log: reseal(log, log.segments()[1], frame_in(log, log.segments()[1], 1)[0], _flag),
    ):
        log = small_log()
        change(log)
        report = check(log)
        assert not report.ok
        assert not report.damage
        assert report.newer[0].path.endswith(log.segments()[1])


def _newer_header(log):
    data = bytearray(log.get(log.segments()[1])[:64])
    data[8] = 2
    data[60:64] = fmt.checksum(bytes(data[:60])).to_bytes(4, "little")
    return data


def _flag(data, offset):
    data[offset + fmt.FRAME_HEADER_BYTES] |= 0x40


def test_an_unknown_flag_in_a_large_record_is_refused_untouched():
    """D8: frames that are checked piece by piece, too; also when it is the last one."""
    log = small_log(segment_bytes_max=32 << 20)
    with log.open() as wal, pytest.warns(treering.LargeRecordWarning):
        wal.put(b"large", bytes(5 << 20))
    log.open()
    log.kill()
    name = log.segments()[-1]
    reseal(log, name, frames(log, name)[-1][0], _flag)
    before = log.image()
    assert check(log).newer
    with pytest.raises(VersionError):
        log.open()
    after = log.image()
    assert {name: after[name] for name in before} == before


def test_a_wrong_footer_is_damage_and_a_damaged_one_is_not():
    log = small_log()
    name = log.segments()[1]
    data = log.get(name)
    for changes in (
        {"oldest_ns": 1},
        {"newest_ns": 1},
        {"end": trailer(log, name).end + 1},
    ):
        change_trailer(log, name, **changes)
        assert Label.DAMAGED_FOOTER in labels(check(log)), changes
        log.put(name, data)
    entry = len(data) - fmt.TRAILER_BYTES - fmt.INDEX_ENTRY_BYTES
    for field in (0, 8, 16):
        changed = bytearray(data)
        changed[entry + field] ^= 8
        log.put(name, changed)
        index = changed[entry : entry + fmt.INDEX_ENTRY_BYTES]
        assert check(log).ok  # its checksum says so: readers scan instead
        change_trailer(log, name, index_checksum=fmt.checksum(index))
        assert labels(check(log)) == [Label.DAMAGED_FOOTER], field
    log.put(name, data)
    log.flip(name, len(data) - 20)
    report = check(log)
    assert report.ok
    assert "footer" in report.notes[0].detail
    with log.open() as wal:
        assert len(list(wal.read_from(0))) == RECORDS


def test_a_sealed_segment_is_held_against_its_footer_over_many_index_entries():
    log = small_log(segment_bytes_max=4 << 20)
    with log.open() as wal:
        wal.append_batch([(b"k", bytes(1000))] * 100)
        for _ in range(8):
            wal.append_batch([(b"k", bytes(100_000))] * 6)
    name = log.segments()[0]
    assert trailer(log, name).entries > 5
    assert check(log).ok
    data = bytearray(log.get(name))
    at = len(data) - fmt.TRAILER_BYTES - 3 * fmt.INDEX_ENTRY_BYTES
    data[at + 8] ^= 8
    log.put(name, data)
    start = len(data) - fmt.TRAILER_BYTES - trailer(log, name).entries * fmt.INDEX_ENTRY_BYTES
    index = bytes(data[start : -fmt.TRAILER_BYTES])
    change_trailer(log, name, index_checksum=fmt.checksum(index))
    assert labels(check(log)) == [Label.DAMAGED_FOOTER]


def test_a_signpost_that_we_would_not_have_put_is_fine_if_it_is_true():
    log = small_log()
    name = log.segments()[0]
    data = log.get(name)
    entries = [
        fmt.IndexEntry(position, offset, _newest_before(log, name, offset))
        for offset, position, _ in frames(log, name)[:3]
    ]
    old = trailer(log, name)
    start = len(data) - fmt.TRAILER_BYTES - old.entries * fmt.INDEX_ENTRY_BYTES
    index = fmt.pack_index(entries[:2])
    changed = old._replace(entries=2, index_checksum=fmt.checksum(index))
    log.put(name, data[:start] + index + changed.pack())
    assert check(log).ok, check(log).damage


def _newest_before(log, name, offset):
    with log.open(read_only=True) as wal:
        position = next(p for at, p, _ in frames(log, name) if at == offset)
        return max((r.timestamp_ns for r in wal.read_from(base(name), stop=position)), default=0)


def test_a_missing_manifest_slot_is_only_a_note():
    log = small_log()
    log.flip("manifest", 30)
    report = check(log)
    assert report.ok
    assert [note.label for note in report.notes] == [Label.MANIFEST_MENDED]


def test_a_lost_end_is_noticed_when_the_manifest_knows_of_it():
    """G8: after a clean close the manifest tells where the log ended."""
    log = small_log()
    name = log.segments()[-1]
    offset, position, length = frames(log, name)[-1]
    log.patch(name, offset, bytes(length))
    report = check(log)
    assert labels(report) == [Label.MISSING]
    assert report.damage[0].offset == offset
    assert report.damage[0].positions == (position, RECORDS)


def test_an_old_epoch_is_not_this_logs_next_segment():
    log = small_log()
    change_manifest(log, epoch=3)
    for name in log.segments()[:2]:
        change_header(log, name, epoch=3)
    report = check(log)
    assert any(f.label is Label.FOREIGN and "too old" in f.detail for f in report.damage)


def test_bytes_that_the_device_cannot_read_are_reported_as_such():
    """G18: neither the end of the log nor a wrong checksum; what lies behind is checked as well."""
    log = small_log()
    name = log.segments()[1]
    offset, position, _ = frame_in(log, name, 3)
    spoil_frame(log, log.segments()[2], 1)
    files = FaultyFiles(log.files)
    files.unreadable(name, offset + 40, 1)
    report = verify(log.path, files=files)
    assert labels(report) == [Label.UNREADABLE, Label.DAMAGED_MIDDLE]
    first = report.damage[0]
    assert first.path.endswith(name)
    # The device loses whole sectors.
    assert first.offset <= offset
    assert first.positions[0] <= position


def test_an_unreadable_tail_is_not_taken_for_a_torn_one():
    """G18."""
    log = small_log()
    name = log.segments()[-1]
    files = FaultyFiles(log.files)
    files.unreadable(name, frames(log, name)[-1][0], 1)
    assert labels(verify(log.path, files=files))[0] is Label.UNREADABLE


# --- Bounds --------------------------------------------------------------------------------------


def test_verify_writes_nothing_at_all():
    """G17: no call that changes anything, sound or damaged."""
    for name in (None, "frames-in-many-places", "manifest-missing"):
        log = small_log()
        if name:
            DAMAGES[name].do(log)
        files = FaultyFiles(log.files)
        verify(log.path, files=files)
        changing = {"write", "truncate", "allocate", "sync", "map", "try_lock", "rename", "remove"}
        assert files.count(*changing, "sync_directory", "make_directory") == 0
        opened = [call for call in files.calls if call.name == "open"]
        assert opened
        assert all(call.flags & 3 == 0 for call in opened)


def test_progress_grows_up_to_the_whole():
    log = small_log()
    seen = []
    check(log, progress=lambda done, total: seen.append((done, total)))
    total = sum(len(log.get(name)) for name in log.segments())
    assert seen[-1] == (total, total)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_a_segment_is_checked_in_slices(monkeypatch):
    """However large it is, its signposts never lie in memory all at once; frames that are larger
    than a slice are found all the same."""
    log = small_log(segment_bytes_max=4 << 20)
    with log.open() as wal:
        for size in (100_000, 3_000_000, 10, 200_000, 70_000) * 3:
            wal.append_batch([(b"k", bytes(size // 4))] * 4)
    plain = check(log)
    assert plain.ok
    monkeypatch.setattr(examine, "SLICE_BYTES", 64 << 10)
    sliced = check(log)
    assert sliced.findings == plain.findings
    assert (sliced.records, sliced.end) == (plain.records, plain.end)
    spoil_frame(log, log.segments()[0], 8)
    damaged = check(log).findings
    monkeypatch.undo()
    assert check(log).findings == damaged


def test_hostile_bytes_cost_bounded_time(monkeypatch):
    """D12: a segment full of beginnings of frames that all claim to be large."""
    log = small_log(segment_bytes_max=64 << 10)
    name = log.segments()[-1]
    data = bytearray(log.get(name))
    tag = fmt.SegmentHeader.unpack(data[:64]).tag
    start = frames(log, name)[-1][0]
    for offset in range(start, len(data) - 64, 64):
        head = fmt.FRAME_HEADER.pack(tag, 1, (len(data) - offset) & ~7, 1, 10**6 + offset, 10**6)
        data[offset : offset + len(head)] = head
    log.put(name, data)
    files = FaultyFiles(log.files)
    report = verify(log.path, files=files)
    assert labels(report) == [Label.DAMAGED_MIDDLE]
    assert "too many" in report.damage[0].detail
    read = sum(call.length for call in files.calls if call.name == "read_into")
    # Looked at twice, because it is damage.
    assert read < 2.2 * examine.SEARCH_EFFORT * (1 << 20)


def test_very_many_damaged_places_are_listed_up_to_a_limit(monkeypatch):
    monkeypatch.setattr(examine, "GAPS_MAX", 5)
    log = small_log(segment_bytes_max=1 << 20)
    name = log.segments()[0]
    for number in range(0, 40, 2):
        spoil_frame(log, name, number)
    report = check(log)
    assert len(report.damage) == 6
    assert "too many" in report.damage[-1].detail


MEMORY = """
import resource, sys
import treering
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
report = treering.verify(sys.argv[1])
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(report.ok, report.records, (after - before) // 1024)
"""


def test_memory_stays_flat_with_the_largest_records(disk):
    """64 MiB records, sound and damaged: under 64 MiB in all."""
    with disk.open(segment_bytes_max=1 << 20) as wal, pytest.warns(treering.LargeRecordWarning):
        for _ in range(2):
            wal.put(b"large", bytes((64 << 20) - 100))
            wal.put(b"small", b"")
    for expected in ("True 4", "False 3"):
        out = subprocess.run(
            [sys.executable, "-c", MEMORY, disk.path],
            env={"PYTHONPATH": str(SOURCE)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        *found, mebibytes = out.split()
        assert " ".join(found) == expected
        assert int(mebibytes) < 40
        with open(f"{disk.path}/{disk.segments()[0]}", "r+b") as file:
            file.seek(1 << 20)
            file.write(b"x")


# --- Beside writers ------------------------------------------------------------------------------


def _more(wal):
    fill(wal, 60)


def _roll_and_prune(wal):
    fill(wal, 80)
    wal.truncate_before(wal.current_position() - 30)


def _take_back(wal):
    wal.truncate_after(max(wal.first_position, wal.current_position() - 50))
    fill(wal, 5)


def _durable(wal):
    wal.put(b"k", b"v", durable=True)
    wal.put(b"k", b"v", durable=True)


@pytest.mark.parametrize("action", [_more, _roll_and_prune, _take_back, _durable])
def test_what_a_writer_does_meanwhile_is_no_damage(action):
    """Between any two calls that verify makes, somebody else appends, rolls or truncates."""
    for turn in itertools.count():
        log = in_memory(None)
        wal = log.open()
        fill(wal, 70)
        acted = _interfere(log, turn, lambda wal=wal: action(wal))
        wal.close()
        if not acted:
            break
    assert turn > 20


def _interfere(log, turn, action):
    """Verify, with the action before its call number `turn`; whether there was such a call."""
    calls = itertools.count()
    acted = False

    def before(name, path):
        nonlocal acted
        if not acted and next(calls) == turn:
            acted = True
            action()

    report = verify(log.path, files=_Watched(log.files, before))
    assert report.ok, (turn, report.damage)
    return acted


class _Watched(FaultyFiles):
    """Somebody acts before a call goes on."""

    def __init__(self, inner, act):
        super().__init__(inner, record=False)
        self._act = act

    def _begin(self, call):
        self._act(call.name, call.path)
        return super()._begin(call)


def test_a_frame_that_is_being_written_is_no_problem(memory):
    """Half of it is there when verify looks; the rest comes with the next call."""
    wal = memory.open()
    fill(wal, 10)
    image = memory.image()
    wal.put(b"the next", b"one" * 50)
    name = memory.segments()[-1]
    whole = memory.get(name)
    at, _, length = frames(memory, name)[-1]
    memory.kill()
    half = bytearray(image[name])
    half[at : at + length // 2] = whole[at : at + length // 2]
    memory.put(name, half)
    reads = itertools.count()

    def finish(called, path):
        if called == "read_into" and path.endswith(name) and next(reads) == 3:
            memory.put(name, whole)

    report = verify(memory.path, files=_Watched(memory.files, finish))
    assert report.ok
    assert report.end == 11
    assert not any(note.label is Label.TAIL_TORN for note in report.notes)


WRITER = """
import sys, treering
wal = treering.Wal.open(sys.argv[1], segment_bytes_max=1 << 16,
                        fsync_policy=treering.FsyncPolicy.batch(1))
print("ready", flush=True)
n = 0
while True:
    wal.append_batch([(b"key", b"v" * (n % 300))] * (1 + n % 4))
    n += 1
    if n % 500 == 0:
        wal.truncate_before(max(0, wal.current_position() - 3000))
    if n % 1700 == 0:
        wal.truncate_after(wal.current_position() - 5)
"""


def test_verify_beside_a_busy_process_finds_nothing_false(tmp_path):
    path = str(tmp_path / "log")
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, path],
        env={"PYTHONPATH": str(SOURCE)},
        stdout=subprocess.PIPE,
    )
    try:
        assert writer.stdout.readline() == b"ready\n"
        for _ in range(40):
            report = verify(path)
            assert report.ok, report.damage
        assert report.records > 0
    finally:
        writer.kill()
        writer.communicate()
    assert verify(path).ok
    Wal.open(path).close()


def test_files_of_memory_can_be_verified_too():
    files = MemoryFiles()
    with Wal.open("/log", files=files) as wal:
        wal.put(b"k", b"v")
    assert verify("/log", files=files).records == 1
