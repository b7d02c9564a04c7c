"""The kit tells right programs from wrong ones: that is what it is for.

A small log, and one mutation of it for each thing that people forget. Every mutation must be found
by images after each operation; the right one must pass all of them.
"""

import errno
import zlib

import pytest

from tests.testing._helpers import refused
from treering._core.files import CREATE, READ, WRITE
from treering.testing import FaultyFiles, PowerCutFiles

PATH, NEW = "/log/data", "/log/data.new"
MARKS = ("sync bytes", "sync name", "sync parent", "checksum", "sync before rename")


class SmallLog:
    """Lines with a checksum; a compaction by rename. `forgets` names what it leaves out."""

    def __init__(self, files, forgets="", rewrite=True):
        self.files = files
        self.forgets = forgets
        if not files.is_directory("/log"):
            files.make_directory("/log")
        self._do("sync parent", lambda: files.sync_directory("/"))
        self.descriptor = files.open(PATH, CREATE)
        self._do("sync name", lambda: files.sync_directory("/log"))
        self.lines, self.end = self._recover(rewrite)

    def _do(self, mark, action):
        if mark != self.forgets:
            action()

    def _recover(self, rewrite):
        size = self.files.status(self.descriptor).st_size
        content = bytearray(size)
        self.files.read_into(self.descriptor, memoryview(content), 0)
        lines, end = [], 0
        for line in bytes(content).splitlines(keepends=True):
            if not self._good(line):
                break
            lines.append(line[9:-1])
            end += len(line)
        self.files.truncate(self.descriptor, end)
        if rewrite and end:
            self.files.write(self.descriptor, memoryview(content)[:end], 0)
        self.files.sync(self.descriptor)
        return lines, end

    def _good(self, line):
        if self.forgets == "checksum":
            return line.endswith(b"\n") and len(line) > 9
        return line.endswith(b"\n") and line[:9] == b"%08x " % zlib.crc32(line[9:])

    def append(self, text):
        """Durable when it returns."""
        line = b"%08x %s\n" % (zlib.crc32(text + b"\n"), text)
        self.files.write(self.descriptor, memoryview(line), self.end)
        self._do("sync bytes", lambda: self.files.sync(self.descriptor))
        self.lines.append(text)
        self.end += len(line)

    def compact(self):
        """Put the same bytes into a new file."""
        content = memoryview(bytearray(self.end))
        self.files.read_into(self.descriptor, content, 0)
        self.files.close(self.descriptor)
        self.descriptor = self.files.open(NEW, CREATE)
        self.files.truncate(self.descriptor, 0)
        self.files.write(self.descriptor, content, 0)
        self._do("sync before rename", lambda: self.files.sync(self.descriptor))
        self.files.rename(NEW, PATH)
        self._do("sync name", lambda: self.files.sync_directory("/log"))


def lines(count):
    return [b"line %d " % number + b"x" * 300 for number in range(count)]


def failures(forgets, **options):
    """The images, taken after every operation, from which the log is not what it promised."""
    found, acknowledged = [], []

    def look(name, path):
        for image in files.images(12, len(acknowledged), **options):
            recovered = SmallLog(image, forgets).lines
            promised = len(acknowledged)
            if recovered != lines(len(recovered)) or len(recovered) < promised:
                found.append((name, path, promised, len(recovered)))

    files = PowerCutFiles(on_operation=look)
    log = SmallLog(files, forgets)
    for text in lines(5):
        log.append(text)
        acknowledged.append(text)
        if len(acknowledged) == 3:
            log.compact()
    return found


@pytest.mark.parametrize("lost", ["zeros", "random", "stale"])
@pytest.mark.parametrize("torn", [False, True])
def test_a_right_program_survives_everything(lost, torn):
    assert failures("", lost=lost, torn_sectors=torn) == []


@pytest.mark.parametrize("forgets", MARKS)
def test_what_is_forgotten_is_found(forgets):
    assert failures(forgets)


@pytest.mark.parametrize("rewrite", [True, False])
def test_recovery_after_a_failed_sync_has_to_write_again(rewrite):
    """fsync fails, another process reopens in the same boot and goes on, then the power goes."""
    disk = PowerCutFiles()
    files = FaultyFiles(disk)
    log = SmallLog(files)
    first, second, third = lines(3)
    log.append(first)
    files.fail_next("sync")
    with refused(errno.EIO):
        log.append(second)
    again = SmallLog(FaultyFiles(disk.crash()), rewrite=rewrite)
    assert again.lines == [first, second]
    again.append(third)
    survived = [SmallLog(image).lines for image in again.files.inner.images(50, 1)]
    if rewrite:
        assert all(found == [first, second, third] for found in survived)
    else:
        assert [first] in survived


def test_recovery_may_be_cut_short_again_and_again():
    disk = PowerCutFiles()
    log = SmallLog(disk)
    for text in lines(3):
        log.append(text)
    disk.write(disk.open(PATH, WRITE), memoryview(b"torn" * 300), log.end)
    for depth in range(10):
        images = images_of_recovery(disk, depth)
        disk = images[depth % len(images)]
        assert SmallLog(disk.crash()).lines == lines(3)


def images_of_recovery(disk, seed):
    images = []
    disk.on_operation = lambda name, path: images.extend(disk.images(3, seed))
    SmallLog(disk)
    return images


def test_every_single_call_may_fail():
    """Whatever fails, what was acknowledged is there after the next start."""
    for nth in range(1, 100):
        disk = PowerCutFiles()
        files = FaultyFiles(disk)
        fault = files.fail(nth=nth)
        acknowledged = []
        try:
            log = SmallLog(files)
            for text in lines(3):
                log.append(text)
                acknowledged.append(text)
            log.compact()
        except OSError as error:
            assert error.errno == errno.EIO
        assert SmallLog(disk.cut()).lines[: len(acknowledged)] == acknowledged
        if not fault.hits:
            break
    else:
        pytest.fail("the program never ran to its end")
    assert nth > 15


def test_reading_alone_changes_nothing():
    disk = PowerCutFiles()
    SmallLog(disk).append(b"x")
    files = FaultyFiles(disk.crash())
    descriptor = files.open(PATH, READ)
    files.read_into(descriptor, memoryview(bytearray(100)), 0)
    assert not any(call.modifies for call in files.calls)
