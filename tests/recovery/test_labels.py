"""Each row of docs/recovery.md, made of real bytes: what opening calls it, what it does about it.

D4, D5, D8; G6, G7, G8, G12, G23.
"""

import os
import re
import struct
from pathlib import Path

import pytest

from tests._logs import contents, fill, in_memory, told
from treering import DamageError, Finding, FsyncPolicy, VersionError
from treering._core import format as fmt
from treering._core.labels import Label
from treering.testing import MemoryFiles

ROOT = Path(__file__).parents[2]


def label_names(handle):
    """[(file name, label)] as the report has them."""
    return [(os.path.basename(f.path), f.label) for f in handle.recovery.findings]


def look(log):
    """What a read-only handle finds: the findings, without changing anything."""
    before = log.image()
    with log.open(read_only=True) as quiet:
        found = label_names(quiet)
    assert log.image() == before
    return found


def labels_of(log, name):
    return [label for file, label in look(log) if file == name]


def kept(log):
    """The files whose bytes must not change when opening refuses."""
    own = ("control", "lock", "opening")
    return {name: data for name, data in log.image().items() if name not in own}


def refused(log, label, *, name=None, positions=..., offset=...):
    """Opening refuses with this damage, names its place, and touches nothing."""
    before = kept(log)
    with pytest.raises(DamageError) as caught:
        log.open()
    error = caught.value
    assert label.value in str(error)
    assert kept(log) == before
    if name is not None:
        assert os.path.basename(error.path) == name
    if positions is not ...:
        assert error.positions == positions
        assert error.position == positions[0]
    if offset is not ...:
        assert error.offset == offset
    assert "read_only=True" in error.hint
    with log.open(read_only=True) as quiet:
        assert quiet.recovery.state == "damaged"
        assert label in [finding.label for finding in quiet.recovery.damage]
    assert kept(log) == before
    return error


def readable(log, end, first=0):
    """Everything before the damage can be read, and the damage is said where it begins."""
    with log.open(read_only=True) as quiet:
        assert (quiet.first_position, quiet.current_position()) == (first, end)
        assert contents(quiet.read_from(first, stop=end)) == told(first, end)
        assert contents(quiet.read_backwards(end)) == told(first, end)[::-1]
        with pytest.raises(DamageError):
            list(quiet.read_from(end))


def images(log, action):
    """What is left when every process dies after each operation of an action."""
    left = []
    wal = log.open()
    log.files.on_operation = lambda *_: left.append(log.files.crash())
    action(wal)
    log.files.on_operation = None
    return left


def recrc(block):
    """The block with its last four bytes made the checksum of what is before them."""
    return block[:-4] + struct.pack("<I", fmt.checksum(block[:-4]))


def offset_of(log, position, name=None):
    """Where the frame of a record of `fill` begins in its segment."""
    name = name or log.segment_of(position)
    header = fmt.SegmentHeader.unpack(log.get(name)[:64])
    content = log.get(name)
    at = header.frames_start
    while True:
        _, _, length, count, found, _ = fmt.FRAME_HEADER.unpack_from(content, at)
        if found <= position < found + count:
            return at
        at += length


def tear(log, garbage=b"garbage!" * 3):
    """Bytes behind the newest frame that are no frame; the offset."""
    name = log.segments()[-1]
    header = fmt.SegmentHeader.unpack(log.get(name)[:64])
    used = len(log.get(name).rstrip(b"\0"))
    at = max(fmt.align_up(used, header.align), header.frames_start)
    log.patch(name, at, garbage)
    return at


# --- Healthy logs ---------------------------------------------------------------------------------


def test_sealed_and_tail(few):
    with few.open() as wal:
        fill(wal, 100)
    found = look(few)
    assert [label for _, label in found[:-1]] == [Label.SEALED] * (len(found) - 1)
    assert [name for name, _ in found] == few.segments()
    assert found[-1][1] in (Label.TAIL, Label.TAIL_SHORT)
    with few.open() as wal:
        assert label_names(wal) == found
        assert wal.recovery.state == "clean"


def test_tail_is_where_appends_go_on(few):
    with few.open() as wal:
        fill(wal, 3)
    few.open()
    few.kill()
    name = few.segments()[-1]
    expected = Label.TAIL_SHORT if few.files.kind == "btrfs" else Label.TAIL
    assert labels_of(few, name) == [expected]
    wal = few.open()
    fill(wal, 3)
    assert few.segments() == [name]
    assert contents(wal) == told(0, 6)


def test_tail_short_has_no_unused_space(memory):
    """Exactly full, or written without preallocation."""
    memory.options["segment_bytes_max"] = 1024
    with memory.open() as wal:
        wal.put(b"", bytes(1024 - 64 - 32 - 16))
    memory.open()
    memory.kill()
    assert look(memory) == [(memory.segments()[0], Label.TAIL_SHORT)]
    wal = memory.open()
    assert wal.recovery.state == "clean"
    wal.put(b"k", b"v")
    assert len(memory.segments()) == 2
    assert wal.current_position() == 2


def test_unsealed_is_full_without_a_footer(few):
    with few.open() as wal:
        fill(wal, 100)
    first, second = few.segments()[:2]
    few.put(first, few.get(first)[: -fmt.TRAILER_BYTES])
    few.flip(second, -3)
    assert labels_of(few, first) == labels_of(few, second) == [Label.UNSEALED]
    wal = few.open()
    assert wal.recovery.scanned_bytes == 0, "footers are made up for in the background"
    assert contents(wal) == told(0, 100)
    wal.close()
    assert labels_of(few, first) == labels_of(few, second) == [Label.SEALED]


# --- Interrupted truncation -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["memory", "btrfs"])
def test_leftover_withdrawn_superseded_and_tail_sealed_are_finished_by_opening(tmp_path, kind):
    """Every state that a death in truncation leaves, at either end."""
    seen = set()
    for action, ends in (
        (lambda wal: wal.truncate_before(100), {120}),
        (lambda wal: wal.truncate_after(40), {40, 120}),
        (lambda wal: wal.truncate_after(62), {62, 120}),
        (lambda wal: wal.truncate_after(93), {93, 120}),
    ):
        log = in_memory(tmp_path, kind)
        with log.open() as wal:
            fill(wal, 120)
        for files in images(log, action):
            dead = in_memory(tmp_path)
            dead.files = files
            found = look(dead)
            seen |= {label for _, label in found}
            wal = dead.open()
            assert wal.recovery.damage == ()
            assert label_names(wal) == found
            end, first = wal.current_position(), wal.first_position
            assert end in ends
            assert contents(wal) == told(first, end)
            names = dead.segments()
            for name, label in found:
                if label in (Label.LEFTOVER, Label.WITHDRAWN):
                    assert name not in names or int(name[:20]) >= end
                elif name.endswith(".seg"):
                    assert name in names
            fill(wal, 5)
            dead.kill()
            wal = dead.open()
            assert contents(wal) == told(first, end + 5)
            assert not {Label.LEFTOVER, Label.WITHDRAWN} & {label for _, label in label_names(wal)}
    assert {
        Label.SEALED,
        Label.LEFTOVER,
        Label.WITHDRAWN,
        Label.SUPERSEDED,
        Label.TAIL_SEALED,
    } <= seen


def test_superseded_records_stay_ignored_though_their_bytes_are_there(memory):
    wal = memory.open()
    fill(wal, 20)
    wal.close()
    files = images(memory, lambda wal: wal.truncate_after(7))
    memory.files = next(left for left in files if _manifest(left).cut == 7)
    assert labels_of(memory, fmt.segment_name(0)) == [Label.SUPERSEDED]
    assert b"value-15" in memory.get(fmt.segment_name(0))
    wal = memory.open()
    assert contents(wal) == told(0, 7)
    wal.put(b"new", b"")
    assert contents(wal) == [*told(0, 7), (7, b"new", b"")]
    memory.kill()
    assert contents(memory.open()) == [*told(0, 7), (7, b"new", b"")]


# --- Torn tails -----------------------------------------------------------------------------------


@pytest.mark.parametrize("garbage", [b"x", b"garbage!" * 3, b"\xff" * 500], ids=len)
@pytest.mark.parametrize("count", [1, 40])
def test_tail_torn_is_cut_and_its_bytes_are_kept(few, garbage, count):
    """D5: reported with place and length, not called damage."""
    wal = few.open()
    fill(wal, count)
    few.kill()
    at = tear(few, garbage)
    name = few.segments()[-1]
    assert labels_of(few, name) == [Label.TAIL_TORN]
    wal = few.open()
    cut = wal.recovery.cut
    assert wal.recovery.state == "recovered"
    assert wal.recovery.damage == ()
    assert (os.path.basename(cut.path), cut.offset, cut.position) == (name, at, count)
    assert cut.length == len(garbage)
    assert few.get(name)[cut.offset : cut.offset + cut.length] == garbage
    assert contents(wal) == told(0, count)
    fill(wal, 50)
    wal.close()
    assert few.get(name)[cut.offset : cut.offset + cut.length] == garbage
    wal = few.open()
    assert wal.recovery.cut is None, "decided once, and for all"
    assert contents(wal) == told(0, count + 50)
    wal.check()


def test_a_frame_that_is_torn_anywhere_is_cut_there(memory):
    """Every prefix of the last frame survives, then zeros: never part of it is shown (D4)."""
    wal = memory.open()
    fill(wal, 5)
    wal.append_batch([(b"batch", bytes([65 + n]) * 20) for n in range(4)])
    memory.kill()
    whole = memory.files
    name = memory.segments()[0]
    at = offset_of(memory, 5)
    content = memory.get(name)
    length = fmt.FRAME_HEADER.unpack_from(content, at)[2]
    for keep in range(length):
        memory.files = whole.crash()
        memory.put(name, content[: at + keep] + bytes(len(content) - at - keep))
        wal = memory.open()
        survived = not any(content[at + keep : at + length])
        assert wal.current_position() == (9 if survived else 5)
        assert contents(wal)[:5] == told(0, 5)
        assert (wal.recovery.cut is None) == (survived or keep == 0)
        fill(wal, 1)
        wal.check()


def test_frames_behind_a_hole_are_cut_unless_they_prove_that_it_was_durable(memory):
    """G6: a power cut may lose any unsynced sector, so good frames may follow a bad one."""
    wal = memory.open()
    fill(wal, 3)
    wal.sync()
    fill(wal, 20)
    memory.kill()
    name = memory.segments()[0]
    at = offset_of(memory, 7)
    memory.patch(name, at, bytes(64))
    wal = memory.open()
    assert wal.recovery.damage == ()
    assert wal.recovery.cut.position == wal.current_position() == 7
    assert contents(wal) == told(0, 7)


def test_withdrawn_torn_is_set_aside_because_its_name_is_needed(few):
    """The torn frame is the first of its segment: nothing in it can be kept in place."""
    few.open().close()
    few.open()
    few.kill()
    name = few.segments()[0]
    at = tear(few)
    before = few.get(name)
    assert labels_of(few, name) == [Label.TAIL_TORN, Label.WITHDRAWN_TORN]
    wal = few.open()
    cut = wal.recovery.cut
    assert (cut.offset, cut.position) == (at, 0)
    assert os.path.basename(cut.path) == f"{name}.0.cut"
    assert few.get(f"{name}.0.cut") == before
    assert fill(wal, 40) == range(40)
    few.kill()
    # And again, in a later segment and a later epoch.
    wal = few.open()
    with_room = few.segments()[-1]
    wal.truncate_before(40)
    assert few.segments() != [with_room]
    few.kill()
    tear(few)
    name = few.segments()[-1]
    wal = few.open()
    assert os.path.basename(wal.recovery.cut.path) == f"{name}.1.cut"
    assert wal.current_position() == 40
    assert set(few.names()) >= {f"{name}.1.cut"}
    fill(wal, 3)
    few.kill()
    assert contents(few.open()) == told(40, 43)


def test_withdrawn_torn_is_set_aside_too_when_recovery_is_interrupted(memory):
    """The cut is decided, the file not yet renamed."""
    memory.open().close()
    memory.open()
    memory.kill()
    tear(memory)
    left = []
    memory.files.on_operation = lambda *_: left.append(memory.files.crash())
    memory.open()
    seen = set()
    for files in left:
        memory.files = files
        seen |= {tuple(label for _, label in look(memory))}
        wal = memory.open()
        assert wal.current_position() == 0
        fill(wal, 3)
        assert [name for name in memory.names() if name.endswith(".cut")]
    assert (Label.WITHDRAWN_TORN,) in seen


# --- Files in the making --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["spare.tmp", "spare.77.tmp", "manifest.tmp", "x.tmp"])
def test_temporary_files_are_removed(few, name):
    with few.open() as wal:
        fill(wal, 10)
    few.put(name, b"half made")
    assert (name, Label.TEMPORARY) in look(few)
    wal = few.open()
    assert wal.recovery.state == "recovered"
    assert name not in few.names() or few.get(name) != b"half made"
    assert contents(wal) == told(0, 10)


# --- Damage ---------------------------------------------------------------------------------------


@pytest.fixture
def closed(few):
    with few.open() as wal:
        fill(wal, 100)
    return few


@pytest.mark.parametrize("where", [0, 3, 8, 16, 20, 40, 60, 63])
@pytest.mark.parametrize("which", [0, 1, -1])
def test_damaged_header(closed, which, where):
    name, base = closed.segments()[which], int(closed.segments()[which][:20])
    following = [int(other[:20]) for other in closed.segments() if int(other[:20]) > base]
    closed.flip(name, where)
    error = refused(closed, Label.DAMAGED_HEADER, name=name, offset=0)
    assert error.positions == (base, following[0] if following else None)
    if base:
        readable(closed, base)


@pytest.mark.parametrize("how", ["short", "empty", "renamed", "swapped"])
def test_damaged_header_of_a_file_that_is_not_what_its_name_says(closed, how):
    name, other = closed.segments()[1:3]
    if how == "short":
        closed.put(name, closed.get(name)[:63])
    elif how == "empty":
        closed.put(name, b"")
    elif how == "renamed":
        closed.put(name, closed.get(other))
    else:
        one, two = closed.get(name), closed.get(other)
        closed.put(name, two)
        closed.put(other, one)
    refused(closed, Label.DAMAGED_HEADER, name=name)
    readable(closed, int(name[:20]))


@pytest.mark.parametrize("position", [0, 1, 13, 29])
def test_damaged_middle_below_a_durable_mark(memory, position):
    """A later frame says that this one had been durable: no crash does that."""
    wal = memory.open()
    fill(wal, 14)
    wal.sync()
    fill(wal, 15)
    wal.sync()
    fill(wal, 1)
    memory.kill()
    name = memory.segments()[0]
    at = offset_of(memory, position)
    memory.flip(name, at + 50)
    if position == 29:  # the newest record: undecidable, so it is cut and said
        wal = memory.open()
        assert wal.recovery.cut.position == 29
        return
    error = refused(memory, Label.DAMAGED_MIDDLE, name=name, offset=at)
    assert error.positions == (position, position + 1)
    readable(memory, position)


def test_damaged_middle_of_a_segment_before_a_pending_cut(memory):
    """Which is scanned, because the manifest vouches for nothing then."""
    with memory.open() as wal:
        fill(wal, 100)
    files = images(memory, lambda wal: wal.truncate_after(80))
    memory.files = next(f for f in files if _manifest(f).cut == 80)
    name = memory.segments()[1]
    memory.put(name, memory.get(name)[: -fmt.TRAILER_BYTES])
    at = offset_of(memory, int(name[:20]) + 3)
    memory.flip(name, at + 40)
    base, following = int(name[:20]), int(memory.segments()[2][:20])
    refused(
        memory,
        Label.DAMAGED_MIDDLE,
        name=name,
        offset=at,
        positions=(base + 3, following),
    )
    readable(memory, base + 3)


def _manifest(files):
    content = files.contents()["/log/manifest"]
    slots = []
    for at in fmt.MANIFEST_SLOT_OFFSETS:
        try:
            slots.append(fmt.Manifest.unpack(content[at : at + fmt.MANIFEST_SLOT.size]))
        except fmt.FormatError:
            continue
    return max(slots, key=lambda slot: slot.sequence)


def test_damaged_order(memory):
    """A segment from a life of the same log in which it was larger."""
    with memory.open() as wal:
        fill(wal, 3)
    other = in_memory(None)
    other.files = memory.files.crash()
    with other.open(segment_bytes_max=8192) as wal:
        fill(wal, 300)
    with memory.open() as wal:
        fill(wal, 97)
    first, second = memory.segments()[:2]
    memory.put(first, other.get(first))
    end = int(other.segments()[1][:20])
    assert end > int(second[:20])
    refused(memory, Label.DAMAGED_ORDER, name=second, positions=(int(second[:20]), end))
    readable(memory, int(second[:20]))


@pytest.mark.parametrize("which", ["first", "middle", "last", "several"])
@pytest.mark.parametrize("death", ["close", "kill"])
def test_missing_segments(few, which, death):
    with few.open() as wal:
        fill(wal, 100)
    if death == "kill":
        fill(few.open(), 1)
        few.kill()
    names = few.segments()
    gone = {"first": names[:1], "middle": names[1:2], "last": names[-1:], "several": names[1:]}
    for name in gone[which]:
        few.remove(name)
    start = int(gone[which][0][:20])
    error = refused(few, Label.MISSING)
    assert error.positions[0] == start
    if start:
        readable(few, start)


def test_a_missing_segment_behind_one_without_a_footer_is_told_when_it_is_read(few):
    """Opening does not scan full segments, so it cannot tell; but nothing is skipped silently."""
    with few.open() as wal:
        fill(wal, 100)
    first, second = few.segments()[:2]
    few.put(first, few.get(first)[: -fmt.TRAILER_BYTES])
    few.remove(second)
    start = int(second[:20])
    for options in ({"read_only": True}, {}):
        with few.open(**options) as wal:
            found = []
            with pytest.raises(DamageError) as caught:
                found.extend(wal)
            assert contents(found) == told(0, start)
            assert caught.value.position == start
            with pytest.raises(DamageError):
                wal.read(start)
            with pytest.raises(DamageError):
                list(wal.read_backwards())
            with pytest.raises(DamageError):
                wal.check()


def test_missing_after_truncation_is_not_what_was_truncated(few):
    with few.open() as wal:
        fill(wal, 200)
        first = wal.truncate_before(100)
    few.remove(few.segments()[0])
    error = refused(few, Label.MISSING)
    assert error.positions == (first, int(few.segments()[0][:20]))


@pytest.mark.parametrize("how", ["zeros", "garbage", "short"])
def test_missing_below_the_mark_of_a_clean_close(few, how):
    """What a clean close vouched for stays known until the next roll, also after a crash."""
    with few.open() as wal:
        fill(wal, 5)
    few.open()
    few.kill()
    name = few.segments()[0]
    at = offset_of(few, 3)
    content = few.get(name)
    rest = {"zeros": bytes(len(content) - at), "garbage": b"\xee" * (len(content) - at)}
    few.put(name, content[:at] + rest.get(how, b""))
    refused(few, Label.MISSING, name=name, positions=(3, 5), offset=at)
    readable(few, 3)


def test_missing_below_a_pending_cut(memory):
    """The cut was decided where there were records then."""
    with memory.open() as wal:
        fill(wal, 30)
    files = images(memory, lambda wal: wal.truncate_after(20))
    memory.files = next(f for f in files if _manifest(f).cut == 20)
    name = memory.segments()[0]
    memory.patch(name, offset_of(memory, 12), bytes(len(memory.get(name)) - offset_of(memory, 12)))
    error = refused(memory, Label.MISSING)
    assert error.positions == (12, 20)
    readable(memory, 12)


@pytest.mark.parametrize("which", [0, 1, -1])
def test_foreign_segment(closed, which):
    other = in_memory(None)
    with other.open(**{k: v for k, v in closed.options.items() if k != "files"}) as wal:
        fill(wal, 100)
    name = closed.segments()[which]
    closed.put(name, other.get(name))
    refused(closed, Label.FOREIGN, name=name)
    if which:
        readable(closed, int(name[:20]))


def test_foreign_manifest(closed):
    other = in_memory(None)
    with other.open() as wal:
        fill(wal, 100)
    closed.put("manifest", other.get("manifest"))
    refused(closed, Label.FOREIGN, name=closed.segments()[0])


def test_foreign_manifest_from_before_a_cut(memory):
    with memory.open() as wal:
        fill(wal, 100)
    old = memory.get("manifest")
    with memory.open() as wal:
        wal.truncate_after(40)
        fill(wal, 100)
    memory.put("manifest", old)
    refused(memory, Label.FOREIGN, name=fmt.segment_name(40))


def test_foreign_segment_from_before_a_cut(memory):
    """The right log, the right positions, but records that truncation had replaced."""
    with memory.open() as wal:
        fill(wal, 150)
    name = memory.segments()[3]
    old = memory.get(name)
    with memory.open() as wal:
        wal.truncate_after(int(memory.segments()[2][:20]))
        fill(wal, 150)
    assert name in memory.segments()
    memory.put(name, old)
    refused(memory, Label.FOREIGN, name=name)


# --- Newer versions -------------------------------------------------------------------------------


def refused_as_newer(log):
    before = kept(log)
    for options in ({}, {"read_only": True}):
        with pytest.raises(VersionError) as caught:
            log.open(**options)
        assert "newer" in caught.value.hint
        assert caught.value.path
    assert kept(log) == before


@pytest.mark.parametrize("field", ["version", "flags"])
@pytest.mark.parametrize("which", [0, 1, -1])
def test_newer_segment_header(closed, field, which):
    name = closed.segments()[which]
    header = bytearray(closed.get(name)[:64])
    header[8 if field == "version" else 12] = 9
    closed.patch(name, 0, recrc(bytes(header)))
    if which == 0:
        refused_as_newer(closed)
    else:
        with pytest.raises(VersionError):
            closed.open()


@pytest.mark.parametrize("field", ["version", "flags"])
def test_newer_footer(closed, field):
    name = closed.segments()[0]
    content = closed.get(name)
    trailer = bytearray(content[-fmt.TRAILER_BYTES :])
    trailer[8 if field == "version" else 10] = 9
    closed.put(name, content[: -fmt.TRAILER_BYTES] + recrc(bytes(trailer)))
    with pytest.raises(VersionError):
        closed.open()


@pytest.mark.parametrize("slots", [(0,), (1,), (0, 1)])
def test_newer_manifest(closed, slots):
    for number in slots:
        at = fmt.MANIFEST_SLOT_OFFSETS[number]
        slot = bytearray(closed.get("manifest")[at : at + fmt.MANIFEST_SLOT.size])
        slot[8] = 9
        closed.patch("manifest", at, recrc(bytes(slot)))
    refused_as_newer(closed)


@pytest.mark.parametrize("flag", [0x40, 0x80, 0x30])
def test_newer_record_flags(memory, flag):
    """An intact frame that says what this version does not know: not torn, not cut."""
    wal = memory.open()
    fill(wal, 5)
    memory.kill()
    name = memory.segments()[0]
    content = bytearray(memory.get(name))
    header = fmt.SegmentHeader.unpack(bytes(content[:64]))
    at = offset_of(memory, 4)
    length = fmt.FRAME_HEADER.unpack_from(content, at)[2]
    content[at + fmt.FRAME_HEADER_BYTES] |= flag
    check = fmt.checksum(content[at + 8 : at + length], header.seed)
    content[at + 4 : at + 8] = struct.pack("<I", check)
    memory.put(name, content)
    refused_as_newer(memory)


# --- The manifest ---------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 10, 100])
def test_manifest_missing(few, count):
    """It knows about cuts and the first position, so nothing is guessed once there are records."""
    with few.open() as wal:
        fill(wal, count)
    few.remove("manifest")
    refused(few, Label.MANIFEST_MISSING, name="manifest")
    readable(few, count)


@pytest.mark.parametrize("state", ["truncated", "cut"])
def test_manifest_missing_of_a_log_that_was_truncated(few, state):
    with few.open() as wal:
        fill(wal, 100)
        wal.truncate_before(100) if state == "truncated" else wal.truncate_after(0)
    few.remove("manifest")
    refused(few, Label.MANIFEST_MISSING, name="manifest")


@pytest.mark.parametrize("where", [0, 8, 17, 30, 60, 99])
def test_manifest_damaged(closed, where):
    for at in fmt.MANIFEST_SLOT_OFFSETS:
        closed.flip("manifest", at + where)
    refused(closed, Label.MANIFEST_DAMAGED, name="manifest")
    readable(closed, 100)


@pytest.mark.parametrize("content", [b"", b"\0" * 8192, b"x" * 100])
def test_manifest_damaged_wholly(closed, content):
    closed.put("manifest", content)
    refused(closed, Label.MANIFEST_DAMAGED, name="manifest")


def test_manifest_new_where_creation_was_interrupted(memory):
    """At every operation of making a log."""
    files = MemoryFiles()
    left = []
    files.on_operation = lambda *_: left.append(files.crash())
    memory.open(files=files)
    seen = set()
    for image in left:
        memory.files = image
        if any(name.endswith(".seg") for name in image.contents()):
            seen |= {label for _, label in look(memory)}
        wal = memory.open()
        assert wal.current_position() == 0
        fill(wal, 5)
        memory.kill()
        assert contents(memory.open()) == told(0, 5)
    assert Label.MANIFEST_NEW in seen


@pytest.mark.parametrize("slot", [0, 1])
@pytest.mark.parametrize("how", ["damaged", "old", "zeros"])
def test_manifest_mended_from_the_other_copy(closed, slot, how):
    at, other = (fmt.MANIFEST_SLOT_OFFSETS[number] for number in (slot, 1 - slot))
    good = closed.get("manifest")[other : other + fmt.MANIFEST_SLOT.size]
    if how == "damaged":
        closed.flip("manifest", at + 40)
    elif how == "zeros":
        closed.patch("manifest", at, bytes(fmt.MANIFEST_SLOT.size))
    else:
        now = fmt.Manifest.unpack(good)
        closed.patch("manifest", at, now._replace(sequence=now.sequence - 1, tail_base=0).pack())
    if how != "old":
        assert ("manifest", Label.MANIFEST_MENDED) in look(closed)
    wal = closed.open()
    assert contents(wal) == told(0, 100)
    closed.kill()
    slots = [
        closed.get("manifest")[start : start + fmt.MANIFEST_SLOT.size]
        for start in fmt.MANIFEST_SLOT_OFFSETS
    ]
    assert slots[0] == slots[1]
    assert contents(closed.open()) == told(0, 100)


# --- What cannot be known -------------------------------------------------------------------------


def test_the_loss_of_what_nothing_vouches_for_cannot_be_told_and_is_said_so(memory):
    """G8: zeros above the last durable mark are taken for the end."""
    wal = memory.open(fsync_policy=FsyncPolicy.OS)
    fill(wal, 20)
    memory.kill()
    name = memory.segments()[0]
    at = offset_of(memory, 12)
    memory.patch(name, at, bytes(len(memory.get(name)) - at))
    wal = memory.open()
    assert wal.recovery.state == "clean"
    assert contents(wal) == told(0, 12)


# --- The document ---------------------------------------------------------------------------------


def test_the_document_lists_exactly_the_labels_of_the_code():
    text = (ROOT / "docs" / "recovery.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([A-Z_]+)` \|", text, re.MULTILINE)
    assert sorted(rows) == sorted(label.name for label in Label)
    assert len(rows) == len(set(rows))


def test_the_document_and_the_code_refuse_the_same():
    text = (ROOT / "docs" / "recovery.md").read_text(encoding="utf-8")
    opening = text.partition("what only `verify` can tell")[0]
    for name, decision in re.findall(r"^\| `([A-Z_]+)` \|[^|]*\|([^|]*)\|", opening, re.MULTILINE):
        label = Label[name]
        refuses = label.is_damage or label is Label.NEWER
        assert refuses == decision.strip().startswith("refuses"), name


def test_each_label_of_opening_has_a_test_here():
    source = Path(__file__).read_text(encoding="utf-8")
    only_verify = {Label.UNREADABLE, Label.DAMAGED_FOOTER, Label.DAMAGED_PINS}
    only_verify |= {Label.SNAPSHOT, Label.DAMAGED_SNAPSHOT}
    for label in set(Label) - only_verify:
        assert f"Label.{label.name}" in source, label


def test_a_pair_of_positions_is_told_in_words():
    finding = Finding(Label.MISSING, "/log/x.seg", 5, (3, None), "why")
    assert finding.describe().startswith("x.seg: missing: damage: records that were durable")
    assert "offset 5; positions [3, …); why" in finding.describe()
    assert "positions [3, 7)" in finding._replace(positions=(3, 7)).describe()
