"""A process at its limits harms neither the log nor the others (D7, G10)."""

import errno

import pytest

from tests._logs import contents, fill, told
from treering import DiskFullError, FsyncPolicy, StorageError, Wal
from treering._core import format as fmt
from treering.testing import FaultyFiles, MemoryFiles


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE], ids=["process", "system"])
@pytest.mark.parametrize("policy", [FsyncPolicy.OS, FsyncPolicy.ALWAYS], ids=str)
def test_no_free_descriptor_fails_the_call_and_nothing_else(number, policy):
    """G10: whichever open fails while the log rolls and truncates, appending goes on afterwards,
    without reopening, and every record that was appended is there once."""
    for nth in range(1, 40):
        files = FaultyFiles(MemoryFiles())
        wal = Wal.open("/log", files=files, fsync_policy=policy, segment_bytes_max=1024)
        fill(wal, 8)
        files.fail(("open", "sync_directory"), number=number, nth=nth)
        for _ in range(25):
            before = wal.current_position()
            try:
                fill(wal, 1)
                wal.truncate_before(before // 2)
            except StorageError as error:
                assert error.errno == number
        files.heal()
        assert not wal.stats()["failed"], f"call {nth}"
        fill(wal, 30)
        first, end = wal.first_position, wal.current_position()
        assert contents(wal) == told(first, end)
        wal.close()
        with Wal.open("/log", files=files) as again:
            assert contents(again) == told(first, end)


def test_undoing_a_write_leaves_the_size_that_another_process_has_mapped():
    """D9: where the file system is not trusted, one process may write the tail that another one
    maps. What is mapped may not be cut off: touching it would kill that process."""
    memory = MemoryFiles("btrfs")
    files = FaultyFiles(memory)
    writing = Wal.open("/log", files=files, fsync_policy=FsyncPolicy.OS, segment_bytes_max=65536)
    fill(writing, 3)
    mapping = Wal.open(
        "/log", files=memory, fsync_policy=FsyncPolicy.OS, segment_bytes_max=65536, map_tail=True
    )
    fill(mapping, 3)
    name = f"/log/{fmt.segment_name(0)}"
    before = memory.contents()[name]
    assert len(before) == 65536
    files.shorten("write", bytes_max=20, path=".seg")
    files.fail("write", number=errno.ENOSPC, nth=2, path=".seg")
    with pytest.raises(DiskFullError):
        writing.put(b"k", b"v" * 100)
    assert memory.contents()[name] == before
    fill(mapping, 3)
    fill(writing, 3)
    assert contents(mapping) == told(0, 12)


@pytest.mark.parametrize("mapped", [False, True], ids=["written", "mapped"])
def test_undoing_a_write_on_a_full_disk_that_reserves_nothing(mapped):
    """D7: there not even zeros can be written, so the space is given back; where another process
    has reserved it, undoing waits until there is space again."""
    memory = MemoryFiles("btrfs")
    files = FaultyFiles(memory)
    wal = Wal.open("/log", files=files, fsync_policy=FsyncPolicy.OS, segment_bytes_max=65536)
    fill(wal, 3)
    if mapped:
        Wal.open("/log", files=memory, map_tail=True, segment_bytes_max=65536).put(
            b"key-3", b"value-3"
        )
    end = wal.current_position()
    files.shorten("write", bytes_max=20, path=".seg")
    files.fail("write", number=errno.ENOSPC, nth=2, lasting=True, path=".seg")
    for _ in range(2):
        with pytest.raises(DiskFullError):
            wal.put(b"k", b"v" * 100)
        assert contents(wal) == told(0, end)
    files.heal()
    fill(wal, 3)
    assert contents(wal) == told(0, end + 3)
    wal.close()
