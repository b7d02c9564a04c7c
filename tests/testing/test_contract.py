"""What every door to the operating system does: the real one, and each twin of it."""

import errno
import os
import stat

import pytest

from treering._core.files import CREATE, CREATE_NEW, READ, WRITE, Directory, SystemFiles
from treering.testing import FaultyFiles, MemoryFiles, PowerCutFiles

DOORS = {
    "system": SystemFiles,
    "memory": MemoryFiles,
    "powercut": PowerCutFiles,
    "faulty-system": FaultyFiles,
    "faulty-powercut": lambda: FaultyFiles(PowerCutFiles()),
}

linux_names = pytest.mark.skipif(os.name != "posix", reason="POSIX error numbers")


@pytest.fixture(params=DOORS)
def files(request):
    return DOORS[request.param]()


@pytest.fixture
def home(files, tmp_path):
    """A directory that exists on both sides."""
    Directory(files, str(tmp_path)).make()
    return str(tmp_path)


@pytest.fixture
def path(home):
    return os.path.join(home, "a")


@pytest.fixture
def opened(files):
    """Open files that the test need not close."""
    descriptors = []

    def open_(path, flags=CREATE):
        descriptors.append(files.open(path, flags))
        return descriptors[-1]

    yield open_
    for descriptor in descriptors:
        try:
            files.close(descriptor)
        except OSError as error:
            assert error.errno == errno.EBADF


def write(files, descriptor, data, offset=0):
    return files.write(descriptor, memoryview(data), offset)


def read(files, descriptor, length=100, offset=0):
    buffer = bytearray(b"\xff" * length)
    return bytes(buffer[: files.read_into(descriptor, memoryview(buffer), offset)])


def refused(number):
    return pytest.raises(OSError, check=lambda error: error.errno == number)


class TestNames:
    def test_a_file_that_is_not_there(self, files, path):
        with refused(errno.ENOENT):
            files.open(path, READ)
        with refused(errno.ENOENT):
            files.remove(path)
        with refused(errno.ENOENT):
            files.rename(path, path + "2")
        with refused(errno.ENOENT):
            files.open(os.path.join(path, "b"), CREATE)

    def test_creating(self, files, home, path, opened):
        opened(path, CREATE_NEW)
        with refused(errno.EEXIST):
            files.open(path, CREATE_NEW)
        opened(path, CREATE)
        assert files.list_directory(home) == ["a"]

    def test_removing_leaves_what_is_open(self, files, home, path, opened):
        descriptor = opened(path)
        write(files, descriptor, b"abc")
        files.remove(path)
        assert files.list_directory(home) == []
        assert files.status(descriptor).st_nlink == 0
        assert read(files, descriptor) == b"abc"

    def test_a_removed_name_is_free_for_another_file(self, files, path, opened):
        old = opened(path)
        files.remove(path)
        new = opened(path, CREATE_NEW)
        write(files, new, b"new")
        assert read(files, old) == b""
        assert files.status(old).st_ino != files.status(new).st_ino

    def test_renaming_replaces(self, files, home, path, opened):
        old, new = opened(path), opened(path + "2")
        write(files, new, b"new")
        files.rename(path + "2", path)
        assert files.list_directory(home) == ["a"]
        assert read(files, opened(path, READ)) == b"new"
        assert files.status(old).st_nlink == 0
        assert files.status(new).st_nlink == 1

    def test_renaming_to_itself_changes_nothing(self, files, path, opened):
        descriptor = opened(path)
        files.rename(path, path)
        assert files.status(descriptor).st_nlink == 1

    def test_directories(self, files, home, path):
        inside = os.path.join(path, "x")
        files.make_directory(path)
        files.make_directory(inside)
        assert files.is_directory(path)
        assert not files.is_directory(inside + "y")
        assert files.list_directory(path) == ["x"]
        files.rename(path, path + "2")
        assert files.is_directory(os.path.join(path + "2", "x"))
        with refused(errno.EEXIST):
            files.make_directory(path + "2")
        with refused(errno.ENOENT):
            files.make_directory(os.path.join(path, "y", "z"))
        with refused(errno.ENOENT):
            files.list_directory(path)
        with refused(errno.ENOENT):
            files.sync_directory(path)
        files.sync_directory(home)

    @linux_names
    def test_files_are_not_directories_nor_the_other_way_round(self, files, path, opened):
        opened(path)
        files.make_directory(path + "d")
        assert not files.is_directory(path)
        for call in (files.list_directory, files.sync_directory):
            with refused(errno.ENOTDIR):
                call(path)
        with refused(errno.ENOTDIR):
            files.open(os.path.join(path, "x"), READ)
        for flags in (WRITE, CREATE):
            with refused(errno.EISDIR):
                files.open(path + "d", flags)
        with refused(errno.EISDIR):
            files.remove(path + "d")
        with refused(errno.EISDIR):
            files.rename(path, path + "d")
        with refused(errno.ENOTDIR):
            files.rename(path + "d", path)

    @linux_names
    def test_odd_renames_of_directories(self, files, path, opened):
        for name in ("d", "d/inside", "empty"):
            files.make_directory(path + name)
        with refused(errno.EINVAL):
            files.rename(path + "d", path + "d/inside/d")
        with refused(errno.ENOTEMPTY):
            files.rename(path + "empty", path + "d")
        files.rename(path + "d", path + "empty")
        assert files.list_directory(path + "empty") == ["inside"]

    @linux_names
    def test_a_directory_may_be_opened_for_reading(self, files, home, opened):
        descriptor = opened(home, READ)
        assert stat.S_ISDIR(files.status(descriptor).st_mode)
        with refused(errno.EISDIR):
            read(files, descriptor)
        files.sync(descriptor)

    @linux_names
    def test_names_too_long(self, files, path):
        with refused(errno.ENAMETOOLONG):
            files.open(path + "a" * 255, CREATE)
        with refused(errno.ENOENT):
            files.open("", READ)


class TestDescriptors:
    def test_a_new_file_is_empty_private_and_plain(self, files, path, opened):
        status = files.status(opened(path))
        assert status.st_size == 0
        assert status.st_nlink == 1
        assert status.st_mode == stat.S_IFREG | 0o600

    def test_two_descriptors_are_one_file(self, files, path, opened):
        one, two = opened(path), opened(path)
        assert one != two
        assert files.status(one)[1:3] == files.status(two)[1:3]
        write(files, one, b"abc")
        assert read(files, two) == b"abc"

    def test_a_closed_descriptor_is_no_good(self, files, path, opened):
        descriptor = opened(path)
        files.close(descriptor)
        for call in (
            files.close,
            files.status,
            files.sync,
            files.unlock,
            lambda closed: write(files, closed, b"a"),
            lambda closed: read(files, closed),
            lambda closed: files.truncate(closed, 1),
            lambda closed: files.allocate(closed, 1),
            lambda closed: files.try_lock(closed, exclusive=True),
        ):
            with refused(errno.EBADF):
                call(descriptor)

    def test_a_read_only_descriptor_writes_nothing(self, files, path, opened):
        opened(path)
        descriptor = opened(path, READ)
        with refused(errno.EBADF):
            write(files, descriptor, b"a")
        with refused(errno.EBADF):
            files.allocate(descriptor, 1)
        with refused(errno.EINVAL):
            files.truncate(descriptor, 1)

    def test_a_write_only_descriptor_reads_nothing(self, files, path, opened):
        descriptor = opened(path, os.O_WRONLY | os.O_CREAT)
        write(files, descriptor, b"abc")
        with refused(errno.EBADF):
            read(files, descriptor)

    def test_truncating_at_open(self, files, path, opened):
        write(files, opened(path), b"abc")
        descriptor = opened(path, WRITE | os.O_TRUNC)
        assert files.status(descriptor).st_size == 0


class TestBytes:
    def test_reading_stops_at_the_end(self, files, path, opened):
        descriptor = opened(path)
        assert write(files, descriptor, b"abcdef") == 6
        assert read(files, descriptor, 3, 1) == b"bcd"
        assert read(files, descriptor, 100, 4) == b"ef"
        assert read(files, descriptor, 1, 6) == b""
        assert read(files, descriptor, 1, 7_000_000) == b""

    def test_a_gap_is_zeros(self, files, path, opened):
        descriptor = opened(path)
        write(files, descriptor, b"end", 10_000)
        assert read(files, descriptor, 20_000) == bytes(10_000) + b"end"

    def test_far_away(self, files, path, opened):
        descriptor = opened(path)
        write(files, descriptor, b"far", 5 << 20)
        write(files, descriptor, b"near", 0)
        assert files.status(descriptor).st_size == (5 << 20) + 3
        assert read(files, descriptor, 6, 0) == b"near\0\0"
        assert read(files, descriptor, 6, (5 << 20) - 2) == b"\0\0far"

    def test_truncating(self, files, path, opened):
        descriptor = opened(path)
        write(files, descriptor, b"abcdef")
        files.truncate(descriptor, 3)
        assert read(files, descriptor) == b"abc"
        files.truncate(descriptor, 6)
        assert read(files, descriptor) == b"abc\0\0\0"
        with refused(errno.EINVAL):
            files.truncate(descriptor, -1)

    def test_allocating_only_grows(self, files, path, opened):
        descriptor = opened(path)
        write(files, descriptor, b"abcdef")
        files.allocate(descriptor, 3)
        assert read(files, descriptor) == b"abcdef"
        files.allocate(descriptor, 10_000)
        assert files.status(descriptor).st_size == 10_000
        assert read(files, descriptor, 8) == b"abcdef\0\0"
        with refused(errno.EINVAL):
            files.allocate(descriptor, 0)

    def test_nothing_and_nowhere(self, files, path, opened):
        descriptor = opened(path)
        assert write(files, descriptor, b"", 50) == 0
        assert files.status(descriptor).st_size == 0
        assert read(files, descriptor, 0) == b""
        with refused(errno.EINVAL):
            write(files, descriptor, b"a", -1)

    def test_finding_data(self, files, path, opened):
        descriptor = opened(path)
        files.truncate(descriptor, 4 << 20)
        assert files.next_data(descriptor, 4 << 20) is None
        write(files, descriptor, b"data", 2 << 20)
        found = files.next_data(descriptor, 100)
        assert found is not None
        assert 100 <= found <= 2 << 20
        assert files.next_data(descriptor, (2 << 20) + 1) == (2 << 20) + 1
        assert files.next_data(descriptor, 3 << 20) is None
        assert files.next_data(descriptor, 5 << 20) is None


class TestMappings:
    @pytest.fixture
    def descriptor(self, files, path, opened):
        descriptor = opened(path)
        files.allocate(descriptor, 10_000)
        return descriptor

    def test_it_is_as_long_as_asked_for(self, files, descriptor):
        mapping = files.map(descriptor, 5_000, write=True)
        with memoryview(mapping) as view:
            assert view.nbytes == 5_000
        mapping.close()

    def test_stores_writes_and_other_mappings_are_one(self, files, path, opened, descriptor):
        mapping = files.map(descriptor, 10_000, write=True)
        other = files.map(opened(path, READ), 9_000, write=False)
        with memoryview(mapping) as view, memoryview(other) as seen:
            view[100:103] = b"abc"
            assert read(files, descriptor, 3, 100) == b"abc"
            assert seen[100:103] == b"abc"
            write(files, descriptor, b"xyz", 8_000)
            assert view[8_000:8_003] == seen[8_000:8_003] == b"xyz"
        mapping.close()
        other.close()

    def test_a_mapping_for_reading_is_read_only(self, files, descriptor):
        mapping = files.map(descriptor, 10_000, write=False)
        with memoryview(mapping) as view:
            assert view.readonly
        mapping.close()

    def test_it_outlives_descriptor_name_and_growth(self, files, path, descriptor):
        mapping = files.map(descriptor, 10_000, write=True)
        files.allocate(descriptor, 3 << 20)
        larger = files.map(descriptor, 3 << 20, write=True)
        files.remove(path)
        files.close(descriptor)
        with memoryview(mapping) as view, memoryview(larger) as seen:
            view[0:3] = b"abc"
            assert seen[0:3] == b"abc"
        mapping.close()
        larger.close()

    def test_a_closed_mapping_is_no_good_and_a_used_one_stays_open(self, files, descriptor):
        mapping = files.map(descriptor, 10_000, write=True)
        with memoryview(mapping), pytest.raises(BufferError):
            mapping.close()
        mapping.close()
        with pytest.raises(ValueError):
            memoryview(mapping)

    def test_what_cannot_be_mapped(self, files, path, opened, descriptor):
        with pytest.raises(ValueError):
            files.map(descriptor, 10_001, write=True)
        with pytest.raises(ValueError):
            files.map(opened(path + "2"), 0, write=True)
        with refused(errno.EACCES):
            files.map(opened(path, READ), 100, write=True)
        with refused(errno.EACCES):
            files.map(opened(path, os.O_WRONLY), 100, write=False)


class TestLocks:
    @pytest.fixture
    def three(self, path, opened):
        return opened(path), opened(path, READ), opened(path)

    def test_exclusive_excludes_everybody(self, files, three):
        one, two, _ = three
        assert files.try_lock(one, exclusive=True)
        assert files.try_lock(one, exclusive=True)
        assert not files.try_lock(two, exclusive=True)
        assert not files.try_lock(two, exclusive=False)
        files.unlock(one)
        assert files.try_lock(two, exclusive=True)

    def test_shared_excludes_exclusive(self, files, three):
        one, two, three_ = three
        assert files.try_lock(one, exclusive=False)
        assert files.try_lock(two, exclusive=False)
        assert not files.try_lock(three_, exclusive=True)

    def test_closing_unlocks_only_ones_own(self, files, path, opened, three):
        one, two, _ = three
        assert files.try_lock(one, exclusive=True)
        files.close(opened(path))
        assert not files.try_lock(two, exclusive=False)
        files.close(one)
        assert files.try_lock(two, exclusive=False)

    def test_unlocking_what_is_not_locked(self, files, three):
        one, two, _ = three
        assert files.try_lock(one, exclusive=True)
        files.unlock(two)
        assert not files.try_lock(two, exclusive=False)

    def test_converting(self, files, three):
        one, two, _ = three
        assert files.try_lock(one, exclusive=True)
        assert files.try_lock(one, exclusive=False)
        assert files.try_lock(two, exclusive=False)
        files.unlock(two)
        assert files.try_lock(one, exclusive=True)
        assert not files.try_lock(two, exclusive=False)

    def test_a_lock_that_cannot_be_converted_is_lost(self, files, three):
        one, two, three_ = three
        assert files.try_lock(one, exclusive=False)
        assert files.try_lock(two, exclusive=False)
        assert not files.try_lock(one, exclusive=True)
        files.unlock(two)
        assert files.try_lock(three_, exclusive=True)

    def test_a_lock_is_on_the_file_not_on_the_name(self, files, path, opened, three):
        one, _, _ = three
        assert files.try_lock(one, exclusive=True)
        files.remove(path)
        assert files.try_lock(opened(path), exclusive=True)


class TestTheMachine:
    def test_it_says_where_it_is(self, files, home):
        assert files.file_system(home)
        assert files.boot_id() == files.boot_id() != ""


@pytest.mark.parametrize("twin", [MemoryFiles, FaultyFiles])
def test_no_call_reaches_the_real_system_by_accident(twin):
    calls = {name for name in vars(SystemFiles) if not name.startswith("_")}
    assert calls <= set(vars(twin)), "the door has a new method: give the twins one too"
