"""The same calls on the real file system and in memory have the same results and errors."""

import os
import stat
import tempfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from treering._core.files import SystemFiles
from treering.testing import MemoryFiles

pytestmark = pytest.mark.skipif(os.name != "posix", reason="compares POSIX error numbers")

NAMES = some.sampled_from(["a", "b", "d", "d/a", "d/b", "d/d", "a/b", "missing/a"])
HANDLES = some.integers(0, 3)
SIZES = some.sampled_from([0, 1, 511, 512, 4095, 4096, 4097, 9000])
FLAGS = some.sampled_from(
    [
        os.O_RDONLY,
        os.O_RDWR,
        os.O_WRONLY,
        os.O_RDWR | os.O_CREAT,
        os.O_RDWR | os.O_CREAT | os.O_EXCL,
        os.O_RDWR | os.O_CREAT | os.O_TRUNC,
        os.O_RDONLY | os.O_DIRECTORY,
    ]
)
CALLS = some.one_of(
    some.tuples(some.just("reopen"), HANDLES, NAMES, FLAGS),
    some.tuples(some.just("reopen"), HANDLES, NAMES, some.just(os.O_RDWR | os.O_CREAT)),
    some.tuples(some.sampled_from(["close", "status", "sync", "unlock"]), HANDLES),
    some.tuples(some.just("read_into"), HANDLES, SIZES, SIZES),
    some.tuples(some.just("write"), HANDLES, SIZES, SIZES),
    some.tuples(some.sampled_from(["truncate", "allocate"]), HANDLES, SIZES),
    some.tuples(some.just("store"), HANDLES, SIZES, SIZES),
    some.tuples(some.just("try_lock"), HANDLES, some.booleans()),
    some.tuples(
        some.sampled_from(
            ["make_directory", "remove", "list_directory", "is_directory", "sync_directory"]
        ),
        NAMES,
    ),
    some.tuples(some.just("rename"), NAMES, NAMES),
)


class Machine:
    """A file system and what is open on it."""

    def __init__(self, files, home):
        self.files = files
        self.home = home
        self.handles = {}

    def do(self, name, *arguments):
        """The result of the call, or the number of its error."""
        if name != "reopen" and isinstance(arguments[0], int):
            if arguments[0] not in self.handles:
                return "not open"
            arguments = (self.handles[arguments[0]], *arguments[1:])
        try:
            return getattr(self, name, getattr(self.files, name, None))(*self._in_home(arguments))
        except OSError as error:
            return error.errno
        except ValueError:
            return "ValueError"

    def _in_home(self, arguments):
        return [os.path.join(self.home, a) if isinstance(a, str) else a for a in arguments]

    def read_into(self, descriptor, length, offset):
        buffer = bytearray(b"\xff" * length)
        count = self.files.read_into(descriptor, memoryview(buffer), offset)
        return bytes(buffer[:count])

    def write(self, descriptor, length, offset):
        data = bytes(range(1, 251)) * (length // 250 + 1)
        return self.files.write(descriptor, memoryview(data)[:length], offset)

    def store(self, descriptor, length, offset):
        mapping = self.files.map(descriptor, length, write=True)
        with memoryview(mapping) as view:
            view[offset : offset + 10] = b"*" * len(view[offset : offset + 10])
        mapping.close()

    def status(self, descriptor):
        status = self.files.status(descriptor)
        if stat.S_ISDIR(status.st_mode):
            return "directory"
        return status.st_mode, status.st_nlink, status.st_size

    def try_lock(self, descriptor, exclusive):
        return self.files.try_lock(descriptor, exclusive=exclusive)

    def list_directory(self, path):
        return sorted(self.files.list_directory(path))

    def reopen(self, handle, path, flags):
        if handle in self.handles:
            self.files.close(self.handles.pop(handle))
        self.handles[handle] = self.files.open(path, flags)

    def close(self, descriptor):
        self.files.close(descriptor)
        self.handles = {k: v for k, v in self.handles.items() if v != descriptor}

    def close_all(self):
        for descriptor in self.handles.values():
            self.files.close(descriptor)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(some.lists(CALLS, min_size=5, max_size=40))
def test_memory_does_as_the_system_does(calls):
    memory = MemoryFiles()
    memory.make_directory("/home")
    with tempfile.TemporaryDirectory() as home:
        machines = [Machine(SystemFiles(), home), Machine(memory, "/home")]
        try:
            for name, *arguments in calls:
                system, twin = (machine.do(name, *arguments) for machine in machines)
                assert system == twin, (name, *arguments)
        finally:
            for machine in machines:
                machine.close_all()
