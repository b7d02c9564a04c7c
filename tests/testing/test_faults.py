"""FaultyFiles: counting, failing, short transfers, stalls; and faults over a power cut."""

import errno
import os
import threading

import pytest

from tests.testing._helpers import SECTOR, get, letters, put, put_durably, refused, sectors, sync
from treering._core.files import CREATE, READ, WRITE, File, SystemFiles
from treering.testing import Call, FaultyFiles, MemoryFiles, PowerCutFiles


@pytest.fixture
def files():
    return FaultyFiles(MemoryFiles())


@pytest.fixture
def descriptor(files):
    return files.open("/a.log", CREATE)


def write(files, descriptor, data=b"abc", offset=0):
    return files.write(descriptor, memoryview(data), offset)


def read(files, descriptor, length=100, offset=0):
    buffer = bytearray(length)
    return bytes(buffer[: files.read_into(descriptor, memoryview(buffer), offset)])


class TestCounting:
    def test_calls_are_recorded_in_order(self, files, descriptor):
        write(files, descriptor, b"abc", 7)
        read(files, descriptor, 10, 2)
        files.allocate(descriptor, 4096)
        files.map(descriptor, 100, write=True).close()
        files.try_lock(descriptor, exclusive=True)
        files.next_data(descriptor, 5)
        files.rename("/a.log", "/b.log")
        files.close(descriptor)
        assert files.calls == [
            Call("open", "/a.log", flags=CREATE),
            Call("write", "/a.log", offset=7, length=3),
            Call("read_into", "/a.log", offset=2, length=10),
            Call("allocate", "/a.log", length=4096),
            Call("map", "/a.log", length=100, write=True),
            Call("try_lock", "/a.log", exclusive=True),
            Call("next_data", "/a.log", offset=5),
            Call("rename", "/b.log"),
            Call("close", "/a.log"),
        ]

    def test_counts(self, files, descriptor):
        files.sync(descriptor)
        files.sync(descriptor)
        files.sync(files.open("/b.log", CREATE))
        files.sync_directory("/")
        assert files.count("sync") == 3
        assert files.count("sync", path="b.log") == 1
        assert files.count("sync", "sync_directory") == 4
        assert files.count("remove") == 0
        assert files.count() == 6
        files.forget()
        assert files.count() == 0
        assert files.calls == []

    def test_failed_calls_count(self, files, descriptor):
        files.fail("sync")
        with refused(errno.EIO):
            files.sync(descriptor)
        with refused(errno.ENOENT):
            files.remove("/none")
        assert files.count("sync", "remove") == 2

    def test_counting_without_recording(self):
        files = FaultyFiles(MemoryFiles(), record=False)
        put(files, "/a", b"x")
        assert files.count("write") == 1
        assert files.calls == []

    def test_what_modifies(self, files, descriptor):
        files.forget()
        for call in (
            lambda: files.open("/a.log", READ),
            lambda: files.status(descriptor),
            lambda: read(files, descriptor),
            lambda: files.sync(descriptor),
            lambda: files.sync_directory("/"),
            lambda: files.try_lock(descriptor, exclusive=False),
            lambda: files.is_directory("/"),
            lambda: files.list_directory("/"),
        ):
            call()
        assert not any(call.modifies for call in files.calls)
        files.forget()
        write(files, descriptor, b"abc")
        files.map(descriptor, 1, write=True).close()
        files.open("/a.log", WRITE)
        files.open("/b", os.O_RDONLY | os.O_CREAT)
        files.truncate(descriptor, 1)
        files.allocate(descriptor, 1)
        files.make_directory("/d")
        files.rename("/b", "/c")
        files.remove("/c")
        assert all(call.modifies for call in files.calls)


class TestFailing:
    def test_the_nth_call_from_now_on_once(self, files, descriptor):
        write(files, descriptor)
        fault = files.fail("write", number=errno.ENOSPC, nth=2)
        write(files, descriptor, b"1")
        with refused(errno.ENOSPC) as caught:
            write(files, descriptor, b"2")
        write(files, descriptor, b"3", 1)
        assert caught.value.filename == "/a.log"
        assert get(files, "/a.log") == b"13c"
        assert (fault.seen, fault.hits) == (3, 1)

    def test_or_from_then_on_until_healed(self, files, descriptor):
        files.fail("write", nth=2, lasting=True)
        write(files, descriptor)
        for _ in range(3):
            with refused(errno.EIO):
                write(files, descriptor)
        files.heal()
        write(files, descriptor)

    def test_healing_one_of_two(self, files, descriptor):
        one = files.fail("write", lasting=True)
        files.fail("sync", lasting=True)
        files.heal(one)
        write(files, descriptor)
        with refused(errno.EIO):
            files.sync(descriptor)

    def test_by_path(self, files, descriptor):
        files.fail("open", number=errno.EMFILE, path=".log", lasting=True)
        files.open("/b", CREATE)
        with refused(errno.EMFILE):
            files.open("/b.log", CREATE)
        assert "/b.log" not in files.inner.contents()

    def test_by_several_names(self, files, descriptor):
        files.fail(("write", "truncate"), number=errno.EDQUOT, lasting=True)
        files.allocate(descriptor, 10)
        with refused(errno.EDQUOT):
            write(files, descriptor)
        with refused(errno.EDQUOT):
            files.truncate(descriptor, 1)

    def test_by_predicate(self, files, descriptor):
        files.fail(lambda call: call.modifies, number=errno.EROFS, lasting=True)
        assert read(files, descriptor) == b""
        for call in (
            lambda: files.open("/a.log", WRITE),
            lambda: write(files, descriptor),
            lambda: files.remove("/a.log"),
        ):
            with refused(errno.EROFS):
                call()

    def test_any_call_that_may_fail(self, files, descriptor):
        files.fail(lasting=True)
        files.is_directory("/")
        files.boot_id()
        files.file_system("/")
        files.next_data(descriptor, 0)
        for call in (
            lambda: files.open("/a.log", READ),
            lambda: files.status(descriptor),
            lambda: read(files, descriptor),
            lambda: write(files, descriptor),
            lambda: files.truncate(descriptor, 0),
            lambda: files.allocate(descriptor, 1),
            lambda: files.sync(descriptor),
            lambda: files.sync_directory("/"),
            lambda: files.map(descriptor, 1, write=True),
            lambda: files.try_lock(descriptor, exclusive=True),
            lambda: files.unlock(descriptor),
            lambda: files.list_directory("/"),
            lambda: files.make_directory("/d"),
            lambda: files.rename("/a.log", "/b"),
            lambda: files.remove("/a.log"),
            lambda: files.close(descriptor),
        ):
            with refused(errno.EIO):
                call()
        assert files.inner.contents() == {"/a.log": b""}

    def test_interruptions_have_their_own_class(self, files, descriptor):
        files.fail_next("write", errno.EINTR)
        with pytest.raises(InterruptedError):
            write(files, descriptor)
        write(files, descriptor)

    def test_the_next_call_of_any_kind(self, files, descriptor):
        files.fail_next()
        with refused(errno.EIO):
            files.status(descriptor)
        files.status(descriptor)

    def test_after_the_work_is_done(self, files, descriptor):
        files.fail(("rename", "write"), after=True, lasting=True)
        with refused(errno.EIO):
            write(files, descriptor)
        with refused(errno.EIO):
            files.rename("/a.log", "/b.log")
        assert files.inner.contents() == {"/b.log": b"abc"}

    def test_failing_after_opening_leaves_nothing_open(self, files):
        files.fail("open", after=True)
        with refused(errno.EIO):
            files.open("/a", CREATE)
        assert files.inner.open_paths == []
        assert files.inner.contents() == {"/a": b""}

    def test_a_failed_close_has_closed(self, files, descriptor):
        files.fail("close")
        with refused(errno.EIO):
            files.close(descriptor)
        with refused(errno.EBADF):
            files.status(descriptor)

    def test_two_faults_for_one_call(self, files, descriptor):
        files.fail("write", number=errno.EIO, nth=2)
        files.fail("write", number=errno.ENOSPC, lasting=True)
        with refused(errno.ENOSPC):
            write(files, descriptor)
        with refused(errno.EIO):
            write(files, descriptor)

    def test_bad_sectors(self, files, descriptor):
        write(files, descriptor, bytes(3 * SECTOR))
        files.unreadable(".log", SECTOR, SECTOR)
        assert len(read(files, descriptor, SECTOR, 0)) == SECTOR
        assert len(read(files, descriptor, SECTOR, 2 * SECTOR)) == SECTOR
        for length, offset in ((SECTOR + 1, 0), (1, SECTOR), (1, 2 * SECTOR - 1)):
            with refused(errno.EIO):
                read(files, descriptor, length, offset)
        files.heal()
        files.unreadable(".log", SECTOR)
        with refused(errno.EIO):
            read(files, descriptor, 1, 2 * SECTOR)

    @pytest.mark.parametrize("which", ["fsync", "is_directory", ["write", "wriet"]])
    def test_names_that_cannot_fail_are_refused(self, files, which):
        with pytest.raises(ValueError):
            files.fail(which)

    def test_calls_count_from_one(self, files):
        with pytest.raises(ValueError):
            files.fail("write", nth=0)


class TestShortTransfers:
    def test_short_writes(self, files, descriptor):
        files.shorten("write", bytes_max=2)
        assert write(files, descriptor, b"abc") == 2
        assert write(files, descriptor, b"abc") == 3

    def test_short_reads(self, files, descriptor):
        write(files, descriptor, b"abcdef")
        files.shorten("read_into", bytes_max=4, lasting=True)
        assert read(files, descriptor) == b"abcd"
        assert read(files, descriptor, 100, 4) == b"ef"

    def test_whoever_loops_gets_everything(self, files):
        files.shorten(bytes_max=1, lasting=True)
        with File(files, "/a", CREATE) as file:
            file.write(b"abcdef", 0)
            assert file.read(6, 0) == b"abcdef"
        assert files.count("write") == 6

    def test_a_short_write_and_then_a_full_disk(self, files, descriptor):
        files.shorten("write", bytes_max=2)
        files.fail("write", number=errno.ENOSPC, nth=2)
        assert write(files, descriptor, b"abc") == 2
        with refused(errno.ENOSPC):
            write(files, descriptor, b"c", 2)
        assert get(files, "/a.log") == b"ab"


class TestStalls:
    def test_waiting_for_an_event(self, files, descriptor):
        gate = threading.Event()
        fault = files.stall("sync", gate)
        thread = threading.Thread(target=files.sync, args=(descriptor,))
        thread.start()
        while not fault.hits:
            pass
        write(files, descriptor)  # nobody else has to wait
        assert thread.is_alive()
        gate.set()
        thread.join(10)
        assert not thread.is_alive()

    def test_calling_a_function_before_the_call(self, files, descriptor):
        seen = []
        files.stall("write", lambda: seen.append(get(files.inner, "/a.log")), nth=2)
        write(files, descriptor, b"1")
        write(files, descriptor, b"2")
        write(files, descriptor, b"3")
        assert seen == [b"1"]

    def test_a_stalled_call_may_fail_afterwards(self, files, descriptor):
        seen = []
        files.stall("sync", lambda: seen.append("waited"))
        files.fail("sync")
        with refused(errno.EIO):
            files.sync(descriptor)
        assert seen == ["waited"]


class TestOverAPowerCut:
    @pytest.fixture
    def disk(self):
        disk = PowerCutFiles()
        put_durably(disk, "/a", sectors("v", "w"))
        return disk

    def test_a_failed_sync_is_told_to_the_disk(self, disk):
        files = FaultyFiles(disk)
        put(files, "/a", sectors("A"))
        files.fail_next("sync")
        with refused(errno.EIO):
            sync(files, "/a")
        sync(files, "/a")
        assert letters(disk.cut().contents()["/a"]) == "vw"

    def test_through_two_layers(self, disk):
        files = FaultyFiles(FaultyFiles(disk))
        put(files, "/a", sectors("A"))
        files.fail_next("sync")
        with refused(errno.EIO):
            sync(files, "/a")
        sync(files, "/a")
        assert letters(disk.cut().contents()["/a"]) == "vw"

    def test_a_sync_that_did_its_work_and_failed(self, disk):
        files = FaultyFiles(disk)
        put(files, "/a", sectors("A"))
        files.fail("sync", after=True)
        with refused(errno.EIO):
            sync(files, "/a")
        assert letters(disk.cut().contents()["/a"]) == "Aw"

    def test_a_failed_directory_sync(self, disk):
        files = FaultyFiles(disk)
        put(files, "/b", b"")
        files.fail("sync_directory")
        with refused(errno.EIO):
            files.sync_directory("/")
        assert "/b" not in disk.cut().contents()
        files.sync_directory("/")
        assert "/b" in disk.cut().contents()

    def test_files_that_do_not_care_are_not_told(self, tmp_path):
        files = FaultyFiles()
        assert type(files.inner) is SystemFiles
        files.fail("sync")
        path = str(tmp_path / "a")
        put(files, path, b"x")
        with refused(errno.EIO):
            sync(files, path)
        assert get(files, path) == b"x"
