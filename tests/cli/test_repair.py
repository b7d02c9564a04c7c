"""`repair`: the longest intact prefix, every byte kept, and what can be read behind the damage."""

from __future__ import annotations

import errno
import itertools

import pytest

import treering
from tests._logs import Log, fill, in_memory
from tests.cli._damage import (
    DAMAGES,
    RECORDS,
    append_records,
    base,
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
from treering import (
    DamageError,
    DiskFullError,
    LockedError,
    Record,
    StorageError,
    UsageError,
    VersionError,
    Wal,
    repair,
    verify,
)
from treering._core import format as fmt
from treering.testing import FaultyFiles, PowerCutFiles

SLOW = treering.backend == "python"


def mend(log, **options):
    return repair(log.path, files=options.pop("files", log.files), **options)


def damaged(name):
    """A log with this damage, and what was in it before."""
    log = small_log()
    right = truth(log)
    DAMAGES[name].do(log)
    return log, right


def told(log, path):
    """The records of the log at `path`, by the position they had at first."""
    with Wal.open(path, files=log.files, read_only=True) as wal:
        found = {}
        for record in wal.read_from(0):
            found[int(record.headers["treering-position"])] = facts(record)
        return found


# --- In place ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DAMAGES)
def test_in_place_the_log_opens_again_with_its_longest_intact_prefix(name):
    """D5: whatever the damage, what comes before it is there, unchanged, and appends go on."""
    log, right = damaged(name)
    report = mend(log)
    assert report.state == "repaired"
    assert report.damage[0].label is DAMAGES[name].label
    assert verify(log.path, files=log.files).ok
    with log.open() as wal:
        assert (wal.first_position, wal.current_position()) == (report.first_position, report.end)
        found = {record.position: facts(record) for record in wal.read_from(wal.first_position)}
        assert found == {n: right[n] for n in range(report.first_position, report.end)}
        assert fill(wal, 40) == range(report.end, report.end + 40)
        wal.truncate_after(report.end + 20)
    with log.open() as wal:
        assert wal.current_position() == report.end + 20
    assert mend(log).state == "nothing to repair"


@pytest.mark.parametrize("name", [name for name in DAMAGES if DAMAGES[name].rebuilt])
def test_what_is_only_redundant_is_made_again_and_nothing_is_lost(name):
    log, right = damaged(name)
    report = mend(log)
    assert (report.first_position, report.end) == (0, RECORDS)
    assert report.removed is None
    assert truth(log) == right


@pytest.mark.parametrize("name", DAMAGES)
def test_every_byte_is_kept(name):
    """D5: what was in a file is still in it, or in a file beside it that the report names."""
    log, _ = damaged(name)
    before = log.image()
    report = mend(log)
    after = log.image()
    kept = [path.rpartition("/")[2] for path in report.kept]
    assert set(kept) <= set(after)
    for file, data in before.items():
        if file in ("control", "lock", "opening", "spare.tmp"):
            continue
        copies = [after[other] for other in after if other == file or other.startswith(file + ".")]
        if any(copy == data for copy in copies):
            continue
        if file == "manifest":  # overwritten in place, as ever
            assert not kept or not any(other.startswith("manifest") for other in kept)
            continue
        # A header or a footer was made again: the old one lies beside it.
        rest = [after[other] for other in kept if other.startswith(file + ".")]
        assert rest, file
        assert all(data.startswith(part) or data.endswith(part) for part in rest)
        assert after[file][64:] in data


def test_repair_does_nothing_to_a_sound_log():
    for options in ({}, {"into": "/copy"}, {"salvage": "/saved"}, {"dry_run": True}):
        log = small_log()
        before = log.files.contents()
        report = mend(log, **options)
        assert report.state == "nothing to repair"
        assert (report.first_position, report.end) == (0, RECORDS)
        after = log.files.contents()
        assert {path: after[path] for path in before} == before
        assert all(path.startswith("/log/") for path in after)


def test_a_torn_tail_is_not_for_repair():
    log = in_memory(None)
    fill(log.open(), 10)
    log.kill()
    name = log.segments()[-1]
    offset, _, length = frames(log, name)[-1]
    log.patch(name, offset + length, b"torn")
    assert mend(log).state == "nothing to repair"


@pytest.mark.parametrize("name", DAMAGES)
def test_a_dry_run_says_what_would_be_done_and_does_nothing(name):
    log, _ = damaged(name)
    before = log.files.contents()
    plan = mend(log, dry_run=True, salvage="/saved")
    assert log.files.contents() == before
    assert plan.state == "planned"
    done = mend(log)
    assert plan.actions == done.actions
    assert (plan.first_position, plan.end, plan.removed) == (
        done.first_position,
        done.end,
        done.removed,
    )


def test_positions_behind_the_end_are_given_again_in_a_new_epoch():
    """So a frame of before, still in the file, can never pass for a new one."""
    log, _ = damaged("frame-of-the-newest")
    end = mend(log).end
    with log.open() as wal:
        fill(wal, 5)
    newest = log.segments()[-1]
    assert base(newest) == end
    assert fmt.SegmentHeader.unpack(log.get(newest)[:64]).epoch == 1


def test_superseded_records_stay_superseded():
    """A header for good lost behind truncate_after: the segment before it ends where it began."""
    log = small_log()
    wal = log.open()
    inside = base(log.segments()[2]) + 3
    wal.truncate_after(inside)
    append_records(wal)
    wal.close()
    right = truth(log)
    log.patch(fmt.segment_name(inside), 0, bytes(300))
    report = mend(log, salvage="/saved")
    assert report.end == inside
    with log.open() as wal:
        found = {record.position: facts(record) for record in wal.read_from(0)}
    assert found == {n: right[n] for n in range(inside)}
    saved = told(log, "/saved")
    assert saved
    assert all(saved[position] == right[position] for position in saved)


def test_a_cut_that_no_segment_shows_yet_is_not_undone():
    """Found by fuzzing: the cut is in the manifest alone, and something that is no segment of this
    log lies behind it."""
    log = small_log()
    wal = log.open()
    inside = base(log.segments()[-1]) + 3
    log.files.on_operation = _die_after_the_manifest(log)
    with pytest.raises(KeyboardInterrupt):
        wal.truncate_after(inside)
    log.files.on_operation = None
    log.kill()
    assert base(log.segments()[-1]) < inside
    right = truth(log)
    stray = fmt.segment_name(inside + 1000)
    log.files.put_file(f"{log.path}/{stray}", log.get(log.segments()[-1]))
    assert mend(log).end == inside
    with log.open() as wal:
        found = {record.position: facts(record) for record in wal.read_from(0)}
    assert found == {n: right[n] for n in range(inside)}


def _die_after_the_manifest(log):
    """What to do after each operation: die when the manifest speaks of a cut."""

    def look(name, path):
        slot = fmt.Manifest.unpack(log.get(fmt.MANIFEST_NAME)[: fmt.MANIFEST_SLOT.size])
        if slot.cut != fmt.NO_CUT:
            raise KeyboardInterrupt

    return look


def test_it_says_where_a_log_begins_that_lost_its_beginning():
    log, _ = damaged("first-missing")
    first = base(log.segments()[0])
    report = mend(log)
    assert (report.first_position, report.end) == (first, RECORDS)
    assert report.removed == (0, first)
    with log.open() as wal:
        assert wal.first_position == first
        with pytest.raises(treering.PrunedError):
            wal.read(0)


def test_a_log_that_lost_everything_can_be_used_again():
    log = small_log()
    for name in log.segments():
        log.remove(name)
    report = mend(log)
    assert (report.first_position, report.end) == (0, 0)
    with log.open() as wal:
        assert wal.put(b"k", b"v") == 0


def test_two_repairs_keep_their_bytes_apart():
    log, _ = damaged("middle-missing")
    mend(log)
    with log.open() as wal:
        append_records(wal)
    spoil_frame(log, log.segments()[-2], 0)
    mend(log)
    kept = [name for name in log.names() if name.endswith(".cut")]
    assert any(".repair1." in name for name in kept)
    assert any(".repair2." in name for name in kept)


def test_lost_pins_are_replaced_by_one_that_keeps_everything():
    """Nobody knows what consumers still need, so nothing goes until a person has looked."""
    log = small_log()
    with log.open() as wal:
        wal.pin("billing", 100)
    log.put("pins.json", log.get("pins.json").replace(b"100", b"900"))
    report = mend(log)
    assert b"900" in log.get(report.kept[0].rpartition("/")[2])
    with log.open() as wal:
        assert wal.pins() == {"treering-repair": 0}
        assert wal.truncate_before(RECORDS) == 0
        wal.unpin("treering-repair")
        assert wal.truncate_before(RECORDS) == RECORDS


def test_a_footer_that_promises_more_records_than_there_are_is_not_believed():
    log = small_log()
    name = log.segments()[-2]
    change_trailer(log, name, end=trailer(log, name).end + 1)
    assert mend(log).end == RECORDS


# --- What stops it -------------------------------------------------------------------------------


def test_in_place_needs_the_log_for_itself(disk):
    with disk.open() as wal:
        append_records(wal)
    spoil_frame(disk, disk.segments()[0], 1)
    with disk.open():  # anew: nothing is left to be sealed in the background meanwhile
        before = disk.image()
        with pytest.raises(LockedError) as caught:
            repair(disk.path)
        assert caught.value.pid is not None
        report = repair(disk.path, into=disk.path + ".copy")
        assert report.state == "copied"
        assert {name: data for name, data in disk.image().items() if name in before} == before
    assert repair(disk.path).state == "repaired"


def test_nobody_opens_the_log_during_a_repair():
    log, _ = damaged("frame-of-a-full-segment")
    refused = []

    def try_to_open(name, path):
        log.files.on_operation = None
        try:
            log.open(exclusive=True, lock_timeout_seconds=0).close()
        except LockedError as error:
            refused.append(error)
        log.files.on_operation = watch

    def watch(name, path):
        if name == "rename":
            try_to_open(name, path)

    log.files.on_operation = watch
    mend(log)
    assert refused


@pytest.mark.parametrize("options", [{}, {"into": "/copy"}, {"dry_run": True}])
def test_a_newer_version_is_left_untouched(options):
    """D8, G23: even when there is damage as well."""
    log = small_log()
    name = log.segments()[1]
    reseal(log, name, frame_in(log, name, 1)[0], _unknown_flag)
    spoil_frame(log, log.segments()[2], 1)
    before = log.files.contents()
    with pytest.raises(VersionError):
        mend(log, **options)
    after = log.files.contents()
    assert {path: after[path] for path in before} == before


def _unknown_flag(data, offset):
    data[offset + fmt.FRAME_HEADER_BYTES] |= 0x80


def test_a_failing_disk_is_copied_from_and_not_written_to():
    """G18: in place would mean to trust it."""
    log = small_log()
    right = truth(log)
    name = log.segments()[2]
    files = FaultyFiles(log.files)
    # Segments are smaller than a sector here, so the whole of it is lost.
    files.unreadable(name, frame_in(log, name, 1)[0], 1)
    before = log.files.contents()
    with pytest.raises(StorageError, match="the device cannot read") as caught:
        mend(log, files=files)
    assert "into=DIR" in caught.value.hint
    after = log.files.contents()
    assert {path: after[path] for path in before} == before
    report = mend(log, files=files, into="/copy")
    assert report.end == base(name)
    copy = Log("/copy", log.files)
    assert truth(copy) == {n: right[n] for n in range(report.end)}


def test_directories_with_something_in_them_are_refused():
    log, _ = damaged("frame-of-a-full-segment")
    log.files.put_file("/full/file", b"x")
    for options in ({"into": "/full"}, {"salvage": "/full"}):
        with pytest.raises(UsageError, match="not empty"):
            mend(log, **options)


def test_a_log_that_is_not_there_is_said_not_to_be():
    with pytest.raises(treering.LogNotFoundError):
        repair("/none", files=in_memory(None).files)


# --- A copy --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DAMAGES)
def test_a_copy_holds_the_same_as_a_repair_in_place_and_leaves_the_log_alone(name):
    """D5."""
    log, right = damaged(name)
    before = log.image()
    report = mend(log, into="/a/new/place")
    assert report.state == "copied"
    assert log.image() == before
    copy = Log("/a/new/place", log.files)
    found = truth(copy)
    assert found == {n: right[n] for n in range(report.first_position, report.end)}
    with copy.open() as wal:
        assert fill(wal, 40)[0] == report.end
    there = mend(log)
    assert (there.first_position, there.end) == (report.first_position, report.end)


def test_a_copy_keeps_the_pins():
    log = small_log()
    with log.open() as wal:
        wal.pin("billing", 7)
    spoil_frame(log, log.segments()[2], 1)
    mend(log, into="/copy")
    with Log("/copy", log.files).open() as wal:
        assert wal.pins() == {"billing": 7}


# --- Salvage -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DAMAGES)
def test_salvage_saves_every_readable_record_that_the_repaired_log_has_not(name):
    log, right = damaged(name)
    lost = _lost_positions(verify(log.path, files=log.files), name)
    report = mend(log, salvage="/saved")
    saved = told(log, "/saved") if report.salvaged else {}
    assert len(saved) == report.salvaged
    assert all(saved[position] == right[position] for position in saved)
    kept = set(range(report.first_position, report.end))
    assert kept.isdisjoint(saved)
    if lost is not None:
        assert set(right) - kept - set(saved) == lost


def _lost_positions(report, name):
    """What nobody can read any more; None where the damage itself does not say."""
    if name in ("overlap", "swapped", "pins", "footer"):
        return None
    found = set()
    for finding in report.damage:
        if finding.positions is not None and not DAMAGES[name].rebuilt:
            stop = RECORDS if finding.positions[1] is None else finding.positions[1]
            found.update(range(finding.positions[0], stop))
    return found


def test_swapped_segments_are_saved_from_under_the_wrong_names():
    log, right = damaged("swapped")
    report = mend(log, salvage="/saved")
    saved = told(log, "/saved")
    assert set(right) == set(saved) | set(range(report.first_position, report.end))


def test_salvaged_records_keep_all_they_had():
    log = in_memory(None)
    with log.open() as wal:
        wal.put(b"first", b"damaged")
        wal.append(
            Record(
                b"k",
                b"v" * 100,
                timestamp=1000.5,
                expires_at=2000.25,
                headers={"type": b"paid"},
                stream=7,
            )
        )
        wal.put(b"packed", b"again and again " * 20, compression="zstd")
        wal.delete(b"gone")
        fill(wal, 3)
    right = truth(log)
    spoil_frame(log, log.segments()[0], 0)
    report = mend(log, salvage="/saved")
    assert (report.end, report.salvaged, report.skipped) == (0, 6, 0)
    assert told(log, "/saved") == {n: right[n] for n in range(1, 7)}


def test_large_records_and_many_runs_are_salvaged():
    log = in_memory(None, segment_bytes_max=8 << 20)
    with log.open() as wal, pytest.warns(treering.LargeRecordWarning):
        for n in range(8):
            wal.put(b"large", bytes([n]) * (2 << 20))
            wal.put(b"small", b"x")
    right = truth(log)
    for name in log.segments():
        spoil_frame(log, name, 1)
    report = mend(log, salvage="/saved")
    saved = told(log, "/saved")
    assert set(saved) | set(range(report.end)) == set(right) - {
        finding.positions[0] for finding in report.damage
    }
    assert all(saved[n] == right[n] for n in saved)


def test_what_does_not_decode_is_skipped_and_counted():
    log = in_memory(None)
    with log.open() as wal:
        wal.put(b"damaged", b"x")
        wal.put(b"packed", b"again and again " * 20, compression="zstd")
        wal.put(b"odd", b"headers", headers={"name": b"value"})
        wal.put(b"fine", b"x")
    name = log.segments()[0]
    _, packed, odd, _ = frames(log, name)

    def spoil_value(data, offset):
        data[offset + 80] ^= 0xFF

    def spoil_headers(data, offset):
        data[offset + fmt.FRAME_HEADER_BYTES + fmt.RECORD_HEADER_BYTES + 4] = 0xFF

    reseal(log, name, packed[0], spoil_value)
    reseal(log, name, odd[0], spoil_headers)
    spoil_frame(log, name, 0)
    report = mend(log, salvage="/saved")
    assert (report.salvaged, report.skipped) == (1, 2)


# --- Interrupted ---------------------------------------------------------------------------------

INTERRUPTED = [
    "header-middle",
    "frame-of-a-full-segment",
    "first-missing",
    "foreign-manifest",
    "manifest-damaged",
    "overlap",
    "footer",
    "pins",
]


class _Stop(BaseException):
    """The process dies here."""


def _files_with(contents, kind=FaultyFiles):
    files = in_memory(None).files if kind is FaultyFiles else kind()
    for path, data in contents.items():
        files.put_file(path, data)
    return files


def _pieces(contents):
    """The files of a log that hold its data, by what is in them."""
    return {
        path: data
        for path, data in contents.items()
        if path.endswith((".seg", "manifest", "pins.json"))
    }


def _nothing_lost(before, after):
    """Every segment is still there, in whichever file; all but a header or a footer made again."""
    for path, data in _pieces(before).items():
        if path.endswith("manifest"):
            continue
        candidates = [other for name, other in after.items() if name.startswith(path)]
        kept_whole = data in candidates
        in_pieces = any(data[64:] == other[64:] for other in candidates) or any(
            data.startswith(other) and any(data.endswith(tail) for tail in candidates)
            for other in candidates
        )
        sealed_again = any(other.startswith(data[: len(data) // 2]) for other in candidates)
        assert kept_whole or in_pieces or sealed_again, path


@pytest.mark.parametrize("name", INTERRUPTED)
def test_a_repair_that_dies_anywhere_can_be_done_again(name):
    """G12: after every single call. Opening refuses or works, and nothing is lost."""
    log, right = damaged(name)
    before = log.files.contents()
    wanted = repair(log.path, files=_files_with(before), dry_run=True)
    for number in itertools.count():
        files = _files_with(before)
        calls = itertools.count()

        def die(called, path, calls=calls, number=number):
            if next(calls) == number:
                raise _Stop

        files.on_operation = die
        try:
            repair(log.path, files=files)
        except _Stop:
            pass
        else:
            break
        files.on_operation = None
        left = Log(log.path, files.crash())
        _nothing_lost(before, left.files.contents())
        if number % (7 if SLOW else 2):
            continue
        _opens_or_refuses(left.files.contents(), right)
        report = mend(left)
        assert (report.first_position, report.end) == (wanted.first_position, wanted.end)
        with left.open() as wal:
            found = {
                record.position: facts(record) for record in wal.read_from(wanted.first_position)
            }
        assert found == {n: right[n] for n in range(wanted.first_position, wanted.end)}
    assert number > 20


def _opens_or_refuses(contents, right):
    """On a copy, because opening may change files; what it shows is right, and nothing is lost."""
    files = _files_with(contents)
    try:
        wal = Wal.open("/log", files=files)
    except DamageError:
        assert _pieces(files.contents()) == _pieces(contents)
        return
    try:
        for record in wal.read_from(wal.first_position):
            assert facts(record) == right[record.position]
    except DamageError:
        pass  # in the middle of a full segment, where only reading meets it
    wal.close()
    _nothing_lost(contents, files.contents())


@pytest.mark.parametrize("name", INTERRUPTED)
def test_a_power_cut_during_a_repair_loses_nothing(name):
    """G12, D5: at every call, whatever of the unsynced bytes and names survives."""
    log, right = damaged(name)
    before = log.files.contents()
    wanted = repair(log.path, files=_files_with(before), dry_run=True)
    images = []
    files = _files_with(before, PowerCutFiles)
    changing = ("write", "sync", "rename", "sync_directory", "truncate")

    def cut(called, path):
        if called in changing and ".tmp" not in path:
            images.extend(files.images(limit=2 if SLOW else 4, seed=len(images)))

    files.on_operation = cut
    repair(log.path, files=files)
    files.on_operation = None
    assert images
    for image in images[:: 3 if SLOW else 1]:
        left = Log(log.path, image)
        contents = image.contents()
        _nothing_lost(before, contents)
        _opens_or_refuses(contents, right)
        report = mend(left)
        assert (report.first_position, report.end) == (wanted.first_position, wanted.end)


@pytest.mark.parametrize("name", ["frame-of-a-full-segment", "manifest-damaged", "pins"])
def test_a_full_disk_or_a_failing_call_leaves_a_log_that_can_be_repaired(name):
    """D7: the n-th call that changes something fails, for every n."""
    log, _ = damaged(name)
    before = log.files.contents()
    wanted = repair(log.path, files=_files_with(before), dry_run=True)
    for number, kind in (
        (n, kind) for n in itertools.count(1) for kind in (errno.ENOSPC, errno.EIO)
    ):
        files = FaultyFiles(_files_with(before))
        changing = ("write", "sync", "rename", "sync_directory", "truncate", "allocate")
        fault = files.fail(changing, number=kind, nth=number)
        try:
            repair(log.path, files=files)
        except StorageError as error:
            assert error.errno == kind
            # After a sync that failed nobody may go on as if nothing was written.
            unsure = error.path.endswith("manifest") and "fsync" in error.message
            assert isinstance(error, DiskFullError) == (kind == errno.ENOSPC and not unsure)
        else:
            if not fault.hits:
                break
            assert kind == errno.ENOSPC  # the second slot of the manifest: the first one counts
        left = Log(log.path, files.inner.crash())
        _nothing_lost(before, left.files.contents())
        assert mend(left).end == wanted.end
    assert number > 3
