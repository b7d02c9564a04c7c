"""Truncation that was interrupted, or meets what an earlier one left behind (D4, D6, D11)."""

import contextlib
import errno

import pytest

from tests._logs import Log, contents, fill, told
from treering import DamageError, DiskFullError, FailedError, FsyncPolicy, TreeringError, Wal
from treering._core import format as fmt
from treering._core import writer as writers
from treering.testing import FaultyFiles, MemoryFiles, PowerCutFiles


def segmented(files, count=3):
    """A log of `count` full segments and an empty one; its handle and where each begins."""
    wal = Wal.open("/log", files=files, fsync_policy=FsyncPolicy.OS, segment_bytes_max=1024)
    while len(wal._engine.source.view().bases) <= count:
        fill(wal, 1)
    return wal, wal._engine.source.view().bases


def test_truncating_to_the_first_position_beside_segments_that_could_not_be_removed():
    """D11: what an interrupted truncate_before left behind is no part of the log, and takes no part
    in a later truncate_after either."""
    files = FaultyFiles(MemoryFiles())
    wal, bases = segmented(files)
    files.fail("remove", path=fmt.segment_name(bases[0]), number=errno.EIO)
    with pytest.raises(TreeringError):
        wal.truncate_before(bases[1])
    assert wal.first_position == bases[1]
    wal.truncate_after(bases[1])
    assert (wal.first_position, wal.current_position()) == (bases[1], bases[1])
    assert wal.put(b"k", b"v") == bases[1]
    wal.close()
    with Wal.open("/log", files=files) as again:
        assert [record.position for record in again] == [bases[1]]


@pytest.mark.parametrize("survivors", [[0], [1], [0, 1]])
def test_a_torn_first_record_behind_segments_that_truncation_could_not_remove(survivors):
    """D4, D5, D11: a power cut brings removed segments back and tears the only record of the tail.
    Nothing durable is lost: opening succeeds, again and again, and no position is given twice."""
    files = PowerCutFiles()
    wal, bases = segmented(files, 3)
    first = wal.current_position()
    names = [fmt.segment_name(bases[number]) for number in survivors]
    kept = {name: files.contents()["/log/" + name] for name in names}
    assert wal.truncate_before(first) == wal.current_position()
    first = wal.first_position
    wal.put(b"k", b"v" * 700)
    files = files.crash()
    for name, content in kept.items():
        files.put_file("/log/" + name, content)
    torn = bytearray(files.contents()["/log/" + fmt.segment_name(first)])
    torn[500:600] = bytes(100)
    files.put_file("/log/" + fmt.segment_name(first), bytes(torn))
    for _ in range(3):
        files = files.crash()
        for name, content in kept.items():
            files.put_file("/log/" + name, content)
        wal = Wal.open("/log", files=files)
        assert (wal.first_position, wal.current_position()) == (first, first)
    assert wal.put(b"k", b"v") == first
    wal.close()
    with Wal.open("/log", files=files) as again:
        assert [record.position for record in again] == [first]


def test_a_foreign_segment_below_the_first_position_is_not_removed():
    """D5: nothing is deleted that is not this log's."""
    files = MemoryFiles()
    wal, bases = segmented(files)
    wal.truncate_before(bases[1])
    wal.close()
    other = MemoryFiles()
    segmented(other)
    name = "/log/" + fmt.segment_name(0)
    files.put_file(name, other.contents()[name])
    with pytest.raises(DamageError):
        Wal.open("/log", files=files)
    assert files.contents()[name] == other.contents()[name]


def test_a_manifest_that_begins_behind_the_end_is_damage_and_gives_no_position_twice():
    """D11: positions up to the first one existed once, whatever the segments say."""
    log = Log("/log", MemoryFiles())
    wal = log.open()
    fill(wal, 5)
    wal.close()
    slot = fmt.Manifest.unpack(log.get("manifest")[: fmt.MANIFEST_SLOT.size])
    wrong = slot._replace(first_position=50, clean_position=0, clean_offset=0).pack()
    for offset in fmt.MANIFEST_SLOT_OFFSETS:
        log.patch("manifest", offset, wrong)
    with pytest.raises(DamageError):
        log.open()


class Stop(BaseException):
    """The thread dies here."""


def killed_in_truncation(monkeypatch, wal, position, step):
    """truncate_after in a process that dies before that function of the writer's module."""

    def die(*_):
        raise Stop

    with monkeypatch.context() as patched, contextlib.suppress(Stop):
        patched.setattr(writers, step, die)
        wal.truncate_after(position)


@pytest.mark.parametrize("step", ["tell_readers", "publish"])
def test_a_handle_can_be_opened_where_a_truncation_died_half_way(monkeypatch, step):
    """D9: whoever comes first finishes it: one who appends, or one who opens the log."""
    files = MemoryFiles()
    wal, bases = segmented(files)
    fill(wal, 2)
    killed_in_truncation(monkeypatch, wal, bases[1], step)
    joined = Wal.open("/log", files=files)
    assert joined.current_position() == bases[1]
    assert joined.put(b"k", b"v") == bases[1]
    assert joined.read(bases[1]).value == b"v"


def test_a_reader_never_shows_what_was_truncated_between_two_looks():
    """D11: the end that a reader goes by is not older than the truncation it knows of. On a full
    disk no new segment tells it where to stop."""
    files = FaultyFiles(MemoryFiles())
    wal = Wal.open("/log", files=files, fsync_policy=FsyncPolicy.OS)
    fill(wal, 100)
    reader = wal.read_from(0)
    source = wal._engine.source
    real_end = source.end

    def slow_end(durable_only):
        end = real_end(durable_only)
        source.end = real_end
        files.fail(("allocate", "rename"), number=errno.ENOSPC, lasting=True)
        wal.truncate_after(40)  # before the reader looks whether it was overtaken
        return end

    source.end = slow_end
    assert contents(reader) == told(0, 40)
    files.heal()
    wal.put(b"new", b"history")
    assert [record.key for record in reader] == [b"new"]


FULL = [errno.ENOSPC, errno.EDQUOT]


@pytest.mark.parametrize("number", FULL, ids=errno.errorcode.get)
@pytest.mark.parametrize("written", [0, 10])
def test_a_cut_that_one_slot_of_the_manifest_holds_is_carried_out(number, written):
    """D7, D11: the decision is durable then. An error would say that nothing was done, and the
    next append would cut."""
    files = FaultyFiles(MemoryFiles())
    wal = Wal.open("/log", files=files, fsync_policy=FsyncPolicy.OS, segment_bytes_max=1024)
    fill(wal, 20)
    if written:
        files.shorten("write", bytes_max=written, nth=2, path="manifest")
    files.fail("write", number=number, nth=3 if written else 2, path="manifest")
    wal.truncate_after(5)
    assert wal.current_position() == 5
    fill(wal, 3)
    wal.close()
    with Wal.open("/log", files=files) as again:
        assert contents(again) == told(0, 8)


@pytest.mark.parametrize("number", FULL, ids=errno.errorcode.get)
@pytest.mark.parametrize("written", [0, 10])
def test_a_cut_that_no_slot_of_the_manifest_holds_never_comes(number, written):
    """D7: the other slot is still intact, so all is as it was, whether the log goes on or dies."""
    memory = MemoryFiles()
    files = FaultyFiles(memory)
    wal = Wal.open("/log", files=files, fsync_policy=FsyncPolicy.OS, segment_bytes_max=1024)
    fill(wal, 20)
    if written:
        files.shorten("write", bytes_max=written, path="manifest")
    files.fail("write", number=number, nth=2 if written else 1, path="manifest")
    with pytest.raises(DiskFullError):
        wal.truncate_after(5)
    with Wal.open("/log", files=memory.crash()) as other:
        assert contents(other) == told(0, 20)
    fill(wal, 3)
    assert contents(wal) == told(0, 23)
    wal.close()
    with Wal.open("/log", files=files) as again:
        assert contents(again) == told(0, 23)


@pytest.mark.parametrize("number", FULL, ids=errno.errorcode.get)
@pytest.mark.parametrize("nth", [1, 2])
def test_a_cut_whose_sync_fails_kills_the_log_whatever_the_reason(number, nth):
    """D6: nobody knows then what is durable, so trying again proves nothing."""
    files = FaultyFiles(MemoryFiles())
    wal = Wal.open("/log", files=files, fsync_policy=FsyncPolicy.OS, segment_bytes_max=1024)
    fill(wal, 20)
    files.fail("sync", number=number, nth=nth, path="manifest")
    with pytest.raises(FailedError):
        wal.truncate_after(5)
    with pytest.raises(FailedError):
        fill(wal, 1)
    with Wal.open("/log", files=files) as again:
        assert contents(again) == told(0, 5)
