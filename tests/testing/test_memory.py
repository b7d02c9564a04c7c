"""MemoryFiles beyond the contract: space, crashes, reports, and what tests do behind its back."""

import errno
import gc
import os
import threading

import pytest

from tests.testing._helpers import get, put, refused, store
from treering._core.files import CREATE, READ, WRITE, Directory, File
from treering.testing import MemoryFiles

BLOCK = 4096


@pytest.fixture
def files():
    return MemoryFiles()


class TestPaths:
    def test_relative_paths_start_at_the_root(self, files):
        put(files, "a", b"1")
        assert get(files, "/a") == get(files, "./a") == get(files, "/x/../a") == b"1"
        assert files.is_directory(".")
        assert files.is_directory("/")

    def test_a_deep_log_can_be_made_from_nothing(self, files):
        Directory(files, "/srv/app/log").make()
        assert files.is_directory("/srv/app/log")

    def test_the_root_stays(self, files):
        with refused(errno.EEXIST):
            files.make_directory("/")
        with refused(errno.EISDIR):
            files.remove("/")
        with refused(errno.EISDIR):
            files.open("/", WRITE)


class TestSpace:
    def test_writing_takes_blocks(self):
        files = MemoryFiles(capacity_bytes=3 * BLOCK)
        put(files, "/a", b"x")
        put(files, "/b", b"x", offset=10 * BLOCK)
        assert (files.free_bytes, files.used_bytes) == (BLOCK, 2 * BLOCK)
        put(files, "/a", b"more")
        assert files.free_bytes == BLOCK

    def test_a_write_is_cut_short_where_the_disk_is_full(self):
        files = MemoryFiles(capacity_bytes=2 * BLOCK)
        descriptor = files.open("/a", CREATE)
        assert files.write(descriptor, memoryview(bytes(5 * BLOCK)), 100) == 2 * BLOCK - 100
        with refused(errno.ENOSPC):
            files.write(descriptor, memoryview(b"x"), 2 * BLOCK)
        assert files.status(descriptor).st_size == 2 * BLOCK
        assert files.write(descriptor, memoryview(b"x"), BLOCK) == 1

    def test_allocating_is_all_or_nothing(self):
        files = MemoryFiles(capacity_bytes=2 * BLOCK)
        descriptor = files.open("/a", CREATE)
        with refused(errno.ENOSPC):
            files.allocate(descriptor, 2 * BLOCK + 1)
        assert files.status(descriptor).st_size == 0
        files.allocate(descriptor, 2 * BLOCK)
        assert files.free_bytes == 0
        assert files.write(descriptor, memoryview(bytes(2 * BLOCK)), 0) == 2 * BLOCK

    def test_a_hole_takes_no_space(self):
        files = MemoryFiles(capacity_bytes=BLOCK)
        descriptor = files.open("/a", CREATE)
        files.truncate(descriptor, 1 << 40)
        assert files.free_bytes == BLOCK

    def test_truncating_and_removing_give_space_back(self):
        files = MemoryFiles(capacity_bytes=4 * BLOCK)
        put(files, "/a", bytes(4 * BLOCK))
        descriptor = files.open("/a", WRITE)
        files.truncate(descriptor, BLOCK + 1)
        assert files.free_bytes == 2 * BLOCK
        files.remove("/a")
        assert files.free_bytes == 2 * BLOCK
        files.close(descriptor)
        assert files.free_bytes == 4 * BLOCK

    def test_a_replaced_file_gives_its_space_back(self):
        files = MemoryFiles(capacity_bytes=4 * BLOCK)
        put(files, "/a", bytes(BLOCK))
        put(files, "/b", bytes(BLOCK))
        files.rename("/b", "/a")
        assert files.free_bytes == 3 * BLOCK

    def test_space_may_come_and_go(self, files):
        put(files, "/a", b"x")
        files.capacity_bytes = BLOCK
        with refused(errno.ENOSPC):
            put(files, "/a", b"x", offset=BLOCK)
        assert get(files, "/a") == b"x"
        files.capacity_bytes = None
        put(files, "/a", b"x", offset=BLOCK)
        files.capacity_bytes = 0
        assert files.free_bytes == 0


class TestMappings:
    def test_bytes_behind_the_end_are_dropped(self, files):
        descriptor = files.open("/a", CREATE)
        files.allocate(descriptor, 2 * BLOCK)
        mapping = files.map(descriptor, 2 * BLOCK, write=True)
        with memoryview(mapping) as view:
            view[:] = b"x" * (2 * BLOCK)
            files.truncate(descriptor, 100)
            assert view[99:102] == b"x\0\0"
            view[100:200] = b"y" * 100
            assert get(files, "/a") == b"x" * 100
            files.truncate(descriptor, 2 * BLOCK)
            assert get(files, "/a") == b"x" * 100 + bytes(2 * BLOCK - 100)
        mapping.close()

    def test_the_content_stays_when_nothing_maps_it_any_more(self, files):
        put(files, "/a", bytes(BLOCK))
        store(files, "/a", b"stored", 10)
        put(files, "/a", b"written", 20)
        assert get(files, "/a")[10:27] == b"stored" + bytes(4) + b"written"

    @pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts descriptors in /proc")
    def test_real_descriptors_do_not_pile_up(self):
        gc.collect()
        before = len(os.listdir("/proc/self/fd"))
        kept = []
        for _ in range(50):
            files = MemoryFiles()
            put(files, "/large", b"x", offset=2 << 20)
            kept.append(MemoryFiles())
            put(kept[-1], "/a", bytes(BLOCK))
            store(kept[-1], "/a", b"stored")
        del files
        assert len(os.listdir("/proc/self/fd")) <= before

    def test_a_large_preallocated_file_is_cheap(self, files):
        descriptor = files.open("/a", CREATE)
        files.allocate(descriptor, 4 << 30)
        mapping = files.map(descriptor, 1 << 30, write=True)
        with memoryview(mapping) as view:
            view[5 << 20] = 1
        assert files.next_data(descriptor, 0) is not None
        assert files.crash().open("/a", READ)
        mapping.close()


class TestCrash:
    def test_bytes_stay_and_holders_go(self, files):
        put(files, "/a", b"bytes")
        descriptor = files.open("/a", WRITE)
        assert files.try_lock(descriptor, exclusive=True)
        after = files.crash()
        assert after.contents() == {"/a": b"bytes"}
        with refused(errno.EBADF):
            after.status(descriptor)
        assert after.try_lock(after.open("/a", WRITE), exclusive=True)
        assert after.open_paths == ["/a"]

    def test_the_dead_reach_nothing(self, files):
        put(files, "/a", bytes(BLOCK))
        descriptor = files.open("/a", WRITE)
        mapping = files.map(descriptor, BLOCK, write=True)
        after = files.crash()
        with memoryview(mapping) as view:
            view[0:5] = b"ghost"
        put(files, "/b", b"ghost")
        assert after.contents() == {"/a": bytes(BLOCK)}
        put(after, "/a", b"alive")
        assert get(files, "/a")[:5] == b"ghost"

    def test_removed_but_open_files_go(self):
        files = MemoryFiles(capacity_bytes=4 * BLOCK)
        put(files, "/a", b"x")
        files.open("/a", READ)
        files.remove("/a")
        assert files.free_bytes == 3 * BLOCK
        assert files.crash().free_bytes == 4 * BLOCK

    def test_boots(self, files):
        assert files.boot_id() != MemoryFiles().boot_id()
        assert files.crash().boot_id() == files.boot_id()
        assert files.reboot_keep_all().boot_id() != files.boot_id()

    def test_settings_and_directories_stay(self):
        files = MemoryFiles("btrfs", capacity_bytes=BLOCK)
        files.make_directory("/d")
        put(files, "/d/a", b"x")
        for after in (files.crash(), files.reboot_keep_all()):
            assert after.file_system("/") == "btrfs"
            assert after.contents() == {"/d/a": b"x"}
            assert after.capacity_bytes == BLOCK
            assert after.free_bytes == 0

    def test_two_file_systems_are_two_devices(self, files):
        put(files, "/a", b"x")
        after = files.crash()
        with File(files, "/a") as one, File(after, "/a") as two:
            assert one.identity() != two.identity()


class TestReports:
    def test_each_call_that_succeeds_is_reported(self):
        seen = []
        files = MemoryFiles(on_operation=lambda *call: seen.append(call))
        descriptor = files.open("/a", CREATE)
        files.write(descriptor, memoryview(b"x"), 0)
        files.sync(descriptor)
        with refused(errno.ENOENT):
            files.remove("/b")
        files.rename("/a", "/b")
        files.close(descriptor)
        assert seen == [
            ("open", "/a"),
            ("write", "/a"),
            ("sync", "/a"),
            ("rename", "/b"),
            ("close", "/a"),
        ]

    def test_a_report_may_look_around_and_stop_the_program(self):
        images = []

        def stop(name, path):
            images.append(files.crash())
            if name == "write":
                raise KeyboardInterrupt

        files = MemoryFiles(on_operation=stop)
        with pytest.raises(KeyboardInterrupt):
            put(files, "/a", b"x")
        assert [image.contents() for image in images] == [{"/a": b""}, {"/a": b"x"}]

    def test_a_report_does_not_hold_the_lock(self):
        def from_another_thread(name, path):
            thread = threading.Thread(target=files.contents)
            thread.start()
            thread.join(10)
            assert not thread.is_alive()

        files = MemoryFiles(on_operation=from_another_thread)
        put(files, "/a", b"x")


class TestBehindItsBack:
    def test_put_file_and_contents(self, files):
        files.put_file("/d/e/a", b"1")
        files.put_file("b", b"2")
        assert files.contents() == {"/b": b"2", "/d/e/a": b"1"}
        files.put_file("/d/e/a", b"")
        assert files.contents()["/d/e/a"] == b""
        with refused(errno.EISDIR):
            files.put_file("/d", b"")

    def test_damage_shows_in_a_mapping(self, files):
        put(files, "/a", bytes(100))
        descriptor = files.open("/a", READ)
        mapping = files.map(descriptor, 100, write=False)
        files.put_file("/a", b"x" * 100)
        with memoryview(mapping) as view:
            assert view[0:100] == b"x" * 100
        mapping.close()

    def test_there_is_nothing_before_the_beginning(self, files):
        descriptor = files.open("/a", CREATE)
        with refused(errno.EINVAL):
            files.read_into(descriptor, memoryview(bytearray(1)), -1)

    def test_descriptors_are_not_the_systems(self, files):
        descriptor = files.open("/a", CREATE)
        with refused(errno.EBADF):
            os.fstat(descriptor)
        files.close(descriptor)
        assert files.open("/a", READ) != descriptor


def test_threads_do_not_tread_on_each_other(files):
    def work(number):
        for turn in range(50):
            path = f"/{number}-{turn}"
            put(files, path, b"x" * number)
            files.rename(path, path + "+")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(files.contents()) == 200
    assert files.open_paths == []
