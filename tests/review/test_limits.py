"""A process at its limits harms neither the log nor the others (D7, G10)."""

import errno

import pytest

from tests._logs import contents, fill, told
from treering import FsyncPolicy, StorageError, Wal
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
