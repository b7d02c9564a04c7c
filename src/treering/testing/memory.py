"""A file system in memory, behind the same door as the real one."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Self

from .._core.files import Mapping, SystemFiles
from ._disk import Disk
from ._tree import FileNode, FolderNode, OpenFile, fail, look_up, look_up_folder, status_of, walk
from ._tree import writes as _writes

# Each file system is a device of its own, so that files of two of them are never taken for one.
_devices = itertools.count(1 << 32)

# Far above what the real system gives out: using one with `os` by mistake fails at once.
_DESCRIPTOR_FIRST = 1_000_000


class MemoryFiles(SystemFiles):
    """A whole file system in memory; give it to `Wal.open(path, files=MemoryFiles())`.

    Models: directories, files that live on while they are open or mapped, descriptors with their
    access rights, `flock` (the lock belongs to the descriptor; failing to convert it loses it),
    shared mappings of the right length, sparse files, a disk of limited size, and the errors of
    Linux (ENOENT, EEXIST, EISDIR, ENOTEMPTY, EBADF, ENOSPC, …).

    Does not model: permissions, owners and times; links; two processes (share the object between
    threads, or open the log twice); SIGBUS (bytes beyond the end of a mapped file read as zeros,
    and what is stored there is dropped); space taken up by stores to a mapping of a hole;
    space for names. Relative paths start at the root.

    Descriptors are numbers that `os` does not know and are never given out twice. Thread-safe.

    kind: what `file_system()` answers. treering maps the tail on "memory" and "ext4", and
        writes it on "btrfs" or "unknown".
    capacity_bytes: size of the disk, in blocks of 4096 bytes; None has no end.
    on_operation: called as `on_operation(name, path)` after every call that succeeded, by the
        thread that made it and outside the file system's lock: look around, take an image, or
        raise to stop the program here.
        (`file_system` and `boot_id` are not reported: nothing can have changed.)
    """

    def __init__(
        self,
        kind: str = "memory",
        *,
        capacity_bytes: int | None = None,
        on_operation: Callable[[str, str], None] | None = None,
    ) -> None:
        self.kind = kind
        self.on_operation = on_operation
        self._lock = threading.RLock()
        self._device = next(_devices)
        self._boot_id = _new_boot_id()
        self._descriptors = itertools.count(_DESCRIPTOR_FIRST)
        self._open: dict[int, OpenFile] = {}
        self._disk = Disk(capacity_bytes)

    # --- the door: files ---------------------------------------------------------------------

    def open(self, path: str, flags: int) -> int:
        """A descriptor; honours the access mode, O_CREAT, O_EXCL, O_TRUNC and O_DIRECTORY."""
        with self._at("open", path):
            node = self._disk.find_or_create(path, flags)
            opened = OpenFile(next(self._descriptors), node, path, flags)
            if flags & os.O_TRUNC and _writes(flags):
                self._disk.resize(opened.file(), 0)
            node.opened += 1
            self._open[opened.descriptor] = opened
            return opened.descriptor

    def close(self, descriptor: int) -> None:
        """Close the descriptor, which gives its lock back."""
        with self._on("close", descriptor) as opened:
            del self._open[descriptor]
            opened.node.locks.pop(descriptor, None)
            opened.node.opened -= 1
            if isinstance(opened.node, FileNode):
                opened.node.storage.settle()
                self._disk.free_if_unused(opened.node)

    def status(self, descriptor: int) -> os.stat_result:
        """Kind, inode, device, number of names and size; mode 0600, the times are 0."""
        with self._on("status", descriptor) as opened:
            return status_of(opened.node, self._device)

    def read_into(self, descriptor: int, buffer: memoryview, offset: int) -> int:
        """Read; never short but at the end of the file (see FaultyFiles for that)."""
        with self._on("read_into", descriptor) as opened:
            if offset < 0:
                fail(errno.EINVAL, opened.path)
            return opened.readable().storage.read_into(buffer, offset)

    def write(self, descriptor: int, data: memoryview, offset: int) -> int:
        """Write; on a disk that fills up as many bytes as fit, and ENOSPC if none does."""
        with self._on("write", descriptor) as opened:
            file = opened.writable()
            if offset < 0:
                fail(errno.EINVAL, opened.path)
            count = self._disk.room(file, offset, len(data))
            if data and not count:
                fail(errno.ENOSPC, opened.path)
            self._disk.write(file, data[:count], offset)
            return count

    def truncate(self, descriptor: int, size_bytes: int) -> None:
        """Set the size; bytes cut off give their space back, a longer file gets a hole."""
        with self._on("truncate", descriptor) as opened:
            file = opened.writable(otherwise=errno.EINVAL)
            if size_bytes < 0:
                fail(errno.EINVAL, opened.path)
            self._disk.resize(file, size_bytes)

    def allocate(self, descriptor: int, size_bytes: int) -> None:
        """Take up space for the first `size_bytes` bytes, all of it or (ENOSPC) none."""
        with self._on("allocate", descriptor) as opened:
            if size_bytes <= 0:
                fail(errno.EINVAL, opened.path)
            self._disk.allocate(opened.writable(), size_bytes)

    def sync(self, descriptor: int) -> None:
        """Nothing to do: memory has no disk below it (PowerCutFiles has)."""
        with self._on("sync", descriptor):
            pass

    def map(self, descriptor: int, length: int, *, write: bool) -> Mapping:
        """A real `mmap.mmap`, shared with reads, writes and other mappings of the same file.

        It never moves or goes stale when the file grows. When the file shrinks, the bytes cut
        off become zeros. ValueError, as from mmap itself, if it is longer than the file.
        """
        with self._on("map", descriptor) as opened:
            file = opened.file()
            if os.O_WRONLY & opened.flags or (write and not _writes(opened.flags)):
                fail(errno.EACCES, opened.path)
            if not file.storage.size or length > file.storage.size:
                raise ValueError("mmap length is greater than file size")
            return file.storage.map(length or file.storage.size, write=write)

    def next_data(self, descriptor: int, offset: int) -> int | None:
        """The first byte at or after `offset` that may be other than a hole; None if none is."""
        with self._on("next_data", descriptor) as opened:
            return opened.file().storage.next_data(offset)

    def try_lock(self, descriptor: int, *, exclusive: bool) -> bool:
        """Take or convert the whole-file lock, as flock with LOCK_NB does."""
        with self._on("try_lock", descriptor) as opened:
            locks = opened.node.locks
            # Converting is not atomic: the old lock is given back first, and lost on failure.
            locks.pop(descriptor, None)
            free = not locks if exclusive else not any(locks.values())
            if free:
                locks[descriptor] = exclusive
            return free

    def unlock(self, descriptor: int) -> None:
        """Give the lock back; harmless when it is not held."""
        with self._on("unlock", descriptor) as opened:
            opened.node.locks.pop(descriptor, None)

    # --- the door: names ---------------------------------------------------------------------

    def sync_directory(self, path: str) -> None:
        """Nothing to do but to look whether there is a directory (PowerCutFiles does more)."""
        with self._at("sync_directory", path):
            self._disk.sync_folder(look_up_folder(self._disk.root, path))

    def list_directory(self, path: str) -> list[str]:
        """The names in the directory."""
        with self._at("list_directory", path):
            return list(look_up_folder(self._disk.root, path).entries)

    def make_directory(self, path: str) -> None:
        """Create one directory."""
        with self._at("make_directory", path):
            self._disk.make_directory(path)

    def rename(self, old: str, new: str) -> None:
        """Rename atomically, replacing a file or an empty directory of the same kind."""
        with self._at("rename", new):
            self._disk.rename(old, new)

    def remove(self, path: str) -> None:
        """Remove a file's name; the file lives on while it is open or mapped."""
        with self._at("remove", path):
            self._disk.remove(path)

    def is_directory(self, path: str) -> bool:
        """Whether there is a directory at `path`."""
        with self._at("is_directory", path), contextlib.suppress(OSError):
            return isinstance(look_up(self._disk.root, path), FolderNode)
        return False

    def file_system(self, path: str) -> str:
        """The kind given to the constructor."""
        return self.kind

    def boot_id(self) -> str:
        """The same until the machine "restarts": kept by `crash()`, new in every other object."""
        return self._boot_id

    # --- beside the door: for tests ----------------------------------------------------------

    @property
    def capacity_bytes(self) -> int | None:
        """The size of the disk. Set it to let the disk fill up, or to give space back."""
        return self._disk.capacity_bytes

    @capacity_bytes.setter
    def capacity_bytes(self, value: int | None) -> None:
        self._disk.capacity_bytes = value

    @property
    def free_bytes(self) -> int | None:
        """What is left of `capacity_bytes`; None without end."""
        with self._lock:
            return self._disk.free_bytes()

    @property
    def used_bytes(self) -> int:
        """The space that files take up, whether or not there is an end to it."""
        with self._lock:
            return self._disk.used_bytes()

    @property
    def open_paths(self) -> list[str]:
        """The path of each open descriptor; to find one that was left open."""
        with self._lock:
            return [opened.path for opened in self._open.values()]

    def contents(self) -> dict[str, bytes]:
        """Every file by its absolute path; not a door call."""
        with self._lock:
            return {path: file.storage.all_bytes() for path, file in walk(self._disk.root)}

    def put_file(self, path: str, data: bytes) -> None:
        """Create or overwrite a file (and its directories) behind the program's back.

        For damage and golden files: `put_file(path, flipped(contents()[path]))`. Counts as
        durable; not a door call, and not limited by the capacity.
        """
        with self._lock:
            self._disk.put_file(path, data)

    def crash(self) -> Self:
        """What `kill -9` of every process leaves: all bytes, but no descriptor and no lock.

        A new object of the same boot. The old one, with whatever still runs on it, can no longer
        reach the files.
        """
        with self._lock:
            return self._with_disk(self._disk.clone(), self._boot_id)

    def reboot_keep_all(self) -> Self:
        """As `crash()`, with a new boot id: a restart of the machine that lost nothing."""
        with self._lock:
            return self._with_disk(self._disk.clone(), _new_boot_id())

    # --- inside ------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _at(self, name: str, path: str) -> Iterator[None]:
        """Do a call on a path under the lock, then report it."""
        with self._lock:
            yield
        self._report(name, path)

    @contextlib.contextmanager
    def _on(self, name: str, descriptor: int) -> Iterator[OpenFile]:
        """Do a call on a descriptor under the lock, then report it."""
        with self._lock:
            opened = self._opened(descriptor)
            yield opened
        self._report(name, opened.path)

    def _report(self, name: str, path: str) -> None:
        if self.on_operation is not None:
            self.on_operation(name, path)

    def _opened(self, descriptor: int) -> OpenFile:
        if descriptor not in self._open:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return self._open[descriptor]

    def _blank(self) -> Self:
        """An empty file system with the same settings, but nobody to report to."""
        return type(self)(self.kind)

    def _with_disk(self, disk: Disk, boot_id: str) -> Self:
        other = self._blank()
        other._disk = disk
        other._boot_id = boot_id
        return other


def _new_boot_id() -> str:
    return f"{uuid.uuid4()}/testing"
