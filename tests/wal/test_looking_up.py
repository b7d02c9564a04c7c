"""Single records at random places: how many files stay open, how often they are read."""

from __future__ import annotations

import errno

import pytest

from treering import FsyncPolicy, StorageError, Wal
from treering.testing import FaultyFiles, MemoryFiles


class Counting(MemoryFiles):
    opens = reads = 0

    def open(self, path, flags):
        self.opens += path.endswith(".seg")
        return super().open(path, flags)

    def read_into(self, descriptor, buffer, offset):
        self.reads += 1
        return super().read_into(descriptor, buffer, offset)


def filled(files, segments):
    wal = Wal.open("/log", files=files, fsync_policy=FsyncPolicy.OS, segment_bytes_max=4096)
    while wal.stats()["segments"] < segments:
        wal.put(b"k", b"x" * 900)
    return wal


def test_a_hundred_segments_stay_open():
    files = Counting()
    with filled(files, 100) as wal:
        end = wal.current_position()
        first = [wal.read(position).position for position in range(end)]
        files.opens = 0
        assert [wal.read(position).position for position in range(end)] == first
        assert files.opens == 0


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_at_the_limit_of_open_files_some_are_given_back(number):
    memory = MemoryFiles()
    files = FaultyFiles(memory)
    with filled(files, 40) as wal:
        end = wal.current_position()
        for position in range(end // 2):
            wal.read(position)
        many = len(memory.open_paths)
        fault = files.fail(lambda call: call.name == "open", number=number, nth=1)
        assert wal.read(end - 8).position == end - 8
        assert fault.hits == 1
        assert len(memory.open_paths) < many - 10
        assert [wal.read(position).position for position in range(end)] == list(range(end))


def test_with_no_file_to_give_back_it_is_an_error():
    files = FaultyFiles(MemoryFiles())
    with filled(files, 3) as wal:
        files.fail(lambda call: call.name == "open", number=errno.EMFILE, nth=1)
        with pytest.raises(StorageError):
            wal.read(0)
        assert wal.read(0).position == 0


@pytest.mark.parametrize("size", [10, 60_000, 70_000, 300_000])
def test_a_record_of_any_size_takes_at_most_two_reads(size):
    files = Counting()
    with Wal.open("/log", files=files, fsync_policy=FsyncPolicy.OS) as wal:
        for number in range(20):
            wal.put(b"small", b"%d" % number)
            wal.put(b"k", b"%d" % number * size)
        for _ in range(2):
            most = 0
            for position in range(40):
                files.reads = 0
                assert wal.read(position).position == position
                most = max(most, files.reads)
        assert most <= 2
