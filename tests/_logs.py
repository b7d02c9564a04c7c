"""Words for stories about logs: where one lies, what is in it, how it dies."""

import contextlib
import itertools
import os
import shutil

from treering import FsyncPolicy, Wal
from treering.testing import MemoryFiles

# So small that a border comes after a few records.
SEGMENT_BYTES = 2048


class Log:
    """A log that a test opens, kills, looks into and damages: on the disk or in memory.

    `options` are what this log is always opened with; `clean_up` closes what was left open.
    """

    def __init__(self, path, files=None, **options):
        self.path = str(path)
        self.files = files
        self.options = {"segment_bytes_max": SEGMENT_BYTES, "fsync_policy": FsyncPolicy.OS}
        self.options.update(options)
        self._handles = []
        self._deaths = itertools.count(1)

    def open(self, **options):
        """A handle; keywords win over the log's own options."""
        options = self.options | options
        if self.files is not None:
            options.setdefault("files", self.files)
        if options.get("read_only"):
            options.pop("exclusive", None)
        wal = Wal.open(self.path, **options)
        self._handles.append(wal)
        return wal

    def kill(self):
        """Every process that has the log open dies: the bytes stay as they are, locks go."""
        if self.files is not None:
            self.files = self.files.crash()
            return
        alive = f"{self.path}.{next(self._deaths)}"
        # The dead one's background thread still runs: what it is making may come and go.
        shutil.copytree(self.path, alive, ignore=shutil.ignore_patterns("*.tmp"))
        self.path = alive

    def names(self):
        """The names in the log's directory, sorted."""
        if self.files is not None:
            return sorted(self.files.list_directory(self.path))
        return sorted(os.listdir(self.path))

    def segments(self):
        """The names of the segments, oldest first."""
        return [name for name in self.names() if name.endswith(".seg")]

    def segment_of(self, position):
        """The name of the segment in which a position lies."""
        return max(name for name in self.segments() if int(name[:20]) <= position)

    def get(self, name):
        """All bytes of a file of the log."""
        if self.files is not None:
            return self.files.contents()[os.path.join(self.path, name)]
        with open(os.path.join(self.path, name), "rb") as file:
            return file.read()

    def put(self, name, data):
        """Write a file of the log behind its back."""
        if self.files is not None:
            self.files.put_file(os.path.join(self.path, name), bytes(data))
            return
        with open(os.path.join(self.path, name), "wb") as file:
            file.write(data)

    def patch(self, name, offset, data):
        """Overwrite some bytes of a file of the log."""
        content = bytearray(self.get(name))
        content[offset : offset + len(data)] = data
        self.put(name, content)

    def flip(self, name, offset):
        """Change one byte of a file of the log."""
        self.patch(name, offset, bytes([self.get(name)[offset] ^ 0xFF]))

    def remove(self, name):
        """Remove a file of the log."""
        if self.files is not None:
            self.files.remove(os.path.join(self.path, name))
        else:
            os.remove(os.path.join(self.path, name))

    def image(self):
        """Every file and its bytes, to see that nothing was changed."""
        return {name: self.get(name) for name in self.names()}

    def clean_up(self):
        """Close every handle; those of the dead may complain."""
        for wal in self._handles:
            with contextlib.suppress(Exception):
                wal.close()


def on_disk(path):
    return Log(path / "log")


def in_memory(path, kind="memory", **options):
    return Log("/log", MemoryFiles(kind), **options)


# Every way to run a log that may change what happens to a record, by the name its tests carry.
MODES = {
    "disk": on_disk,
    "disk-written": lambda path: Log(path / "log", map_tail=False),
    "memory": in_memory,
    "untrusted": lambda path: in_memory(path, "btrfs"),
    "untrusted-mapped": lambda path: in_memory(path, "btrfs", map_tail=True),
    "file-lock": lambda path: in_memory(path, process_lock="file"),
    "aligned": lambda path: in_memory(path, frame_align_bytes=512, segment_bytes_max=4096),
    "exclusive": lambda path: in_memory(path, exclusive=True),
}
SHARED_MODES = [name for name in MODES if name != "exclusive"]


def pairs(start, stop):
    """What `fill` puts: (key, value) of each position."""
    return [(b"key-%d" % n, b"value-%d" % n) for n in range(start, stop)]


def fill(wal, count):
    """Put `count` records that tell their position; the positions."""
    start = wal.current_position()
    for key, value in pairs(start, start + count):
        wal.put(key, value)
    return range(start, start + count)


def contents(records):
    """The (position, key, value) of each record."""
    return [(record.position, record.key, bytes(record.value)) for record in records]


def told(start, stop):
    """What `contents` finds where `fill` put positions [start, stop)."""
    return [(n, *pair) for n, pair in zip(range(start, stop), pairs(start, stop), strict=True)]
