"""The door to the operating system: the only module of the core that touches files.

Two layers. `SystemFiles` is the door proper: one method per system call, raising OSError; the
twins in `treering.testing` (in memory, losing power, failing on request) replace just this class.
`File` stands on any of them: it loops over short transfers, refuses anything but a plain file of
its own, and turns OSError into treering's errors.

Knows nothing of records, frames or segments.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import stat
import sys
import threading
import weakref
from typing import NoReturn, Protocol, cast

from .errors import ClosedError, StorageError, UsageError, storage_error

if sys.platform == "win32":  # pragma: no cover - not tried: see docs/operations.md
    import msvcrt
else:
    import fcntl

FILE_MODE = 0o600
DIRECTORY_MODE = 0o700

# On these, a shared mapping, preallocation and pread agree with one another and preallocated
# space is really reserved. Elsewhere (copy-on-write, network, FUSE) the tail is written by pwrite.
MAPPING_TRUSTED = frozenset({"ext2", "ext3", "ext4", "xfs", "f2fs", "tmpfs", "memory"})

_CLOEXEC = getattr(os, "O_CLOEXEC", 0)
_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
_BINARY = getattr(os, "O_BINARY", 0)
# A FIFO put where a file is expected must not make open() wait for its other end.
_NONBLOCK = getattr(os, "O_NONBLOCK", 0)

READ = os.O_RDONLY | _CLOEXEC | _NOFOLLOW | _BINARY | _NONBLOCK
WRITE = os.O_RDWR | _CLOEXEC | _NOFOLLOW | _BINARY | _NONBLOCK
CREATE = WRITE | os.O_CREAT
CREATE_NEW = CREATE | os.O_EXCL

# Lock-file bytes on Windows: byte 0 is the appender's lock, the others one per open handle.
_WINDOWS_SLOTS = 1024
_FILL_BYTES = 1 << 20


class Mapping(Protocol):
    """A mapped file: a writable (or readable) buffer that can be closed."""

    def close(self) -> None: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...


class SystemFiles:
    """The real operating system. Every method may raise OSError."""

    def open(self, path: str, flags: int) -> int:
        """A file descriptor; new files get mode 0600 whatever the umask."""
        descriptor = os.open(path, flags, FILE_MODE)
        if flags & os.O_CREAT and hasattr(os, "fchmod"):
            # The umask can only have removed bits; owners must be able to reopen their log.
            status = os.fstat(descriptor)
            # Only of a file of our own: others are refused in a moment, and stay as they are.
            ours = stat.S_ISREG(status.st_mode) and status.st_nlink == 1 and status.st_size == 0
            if ours and stat.S_IMODE(status.st_mode) != FILE_MODE:
                os.fchmod(descriptor, FILE_MODE)
        return descriptor

    def close(self, descriptor: int) -> None:
        """Close the descriptor."""
        os.close(descriptor)

    def status(self, descriptor: int) -> os.stat_result:
        """What fstat says."""
        return os.fstat(descriptor)

    def read_into(self, descriptor: int, buffer: memoryview, offset: int) -> int:
        """Read up to len(buffer) bytes at `offset`; 0 at the end of the file."""
        if hasattr(os, "preadv"):
            return os.preadv(descriptor, [buffer], offset)
        return _seek_and_read(descriptor, buffer, offset)  # pragma: no cover - Windows

    def write(self, descriptor: int, data: memoryview, offset: int) -> int:
        """Write up to len(data) bytes at `offset`; the number written."""
        if hasattr(os, "pwrite"):
            return os.pwrite(descriptor, data, offset)
        return _seek_and_write(descriptor, data, offset)  # pragma: no cover - Windows

    def truncate(self, descriptor: int, size_bytes: int) -> None:
        """Set the file's size."""
        os.ftruncate(descriptor, size_bytes)

    def allocate(self, descriptor: int, size_bytes: int) -> None:
        """Reserve the first `size_bytes` bytes, so that writing there cannot run out of space."""
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(descriptor, 0, size_bytes)
        else:  # pragma: no cover - macOS, Windows
            os.ftruncate(descriptor, size_bytes)

    def sync(self, descriptor: int) -> None:
        """Make the file's bytes durable (fdatasync, F_FULLFSYNC on macOS)."""
        if sys.platform == "darwin":  # pragma: no cover - not tried
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
        elif hasattr(os, "fdatasync"):
            os.fdatasync(descriptor)
        else:  # pragma: no cover - Windows
            os.fsync(descriptor)

    def sync_directory(self, path: str) -> None:
        """Make the directory's entries durable; Windows has no such call."""
        if sys.platform == "win32":  # pragma: no cover
            return
        descriptor = os.open(path, os.O_RDONLY | _CLOEXEC | getattr(os, "O_DIRECTORY", 0))
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def map(self, descriptor: int, length: int, *, write: bool) -> Mapping:
        """A mapping of the file's first `length` bytes, shared with every other process."""
        access = mmap.ACCESS_WRITE if write else mmap.ACCESS_READ
        mapping = mmap.mmap(descriptor, length, access=access)
        if write and hasattr(mmap, "MADV_RANDOM"):
            # Else the kernel takes ever larger folios for a file that is written in order, and a
            # record dirties one as a whole: each fsync then writes a megabyte.
            mapping.madvise(mmap.MADV_RANDOM)
        return mapping

    def next_data(self, descriptor: int, offset: int) -> int | None:
        """Where bytes other than holes may begin at or after `offset`; None if there are none."""
        if not hasattr(os, "SEEK_DATA"):  # pragma: no cover - Windows
            return offset if offset < os.fstat(descriptor).st_size else None
        if hasattr(os, "posix_fadvise"):
            # Reserved pages count as data once they are cached. Reading ahead caches the next ones
            # with every read, and a whole reserved segment would be read (ext4, Linux 6.18).
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
        try:
            return os.lseek(descriptor, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return None
            return offset  # the file system does not know; look at every byte

    def try_lock(self, descriptor: int, *, exclusive: bool) -> bool:
        """Take the whole-file lock if it is free; it belongs to the open file description."""
        if sys.platform == "win32":  # pragma: no cover - not tried
            return _windows_lock(descriptor, exclusive=exclusive)
        kind = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def unlock(self, descriptor: int) -> None:
        """Give the lock back; harmless when it is not held."""
        if sys.platform == "win32":  # pragma: no cover - not tried
            _windows_unlock(descriptor)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_UN)

    def list_directory(self, path: str) -> list[str]:
        """The names in the directory, in no order."""
        return os.listdir(path)

    def make_directory(self, path: str) -> None:
        """Create one directory with mode 0700 whatever the umask."""
        os.mkdir(path, DIRECTORY_MODE)
        os.chmod(path, DIRECTORY_MODE)

    def rename(self, old: str, new: str) -> None:
        """Rename, replacing what is there."""
        os.replace(old, new)

    def remove(self, path: str) -> None:
        """Remove the name."""
        os.unlink(path)

    def is_directory(self, path: str) -> bool:
        """Whether there is a directory at `path`."""
        return os.path.isdir(path)

    def file_system(self, path: str) -> str:
        """The kind of file system below `path` ("ext4", "tmpfs", …; "unknown" off Linux)."""
        return _file_system_kind(path)

    def boot_id(self) -> str:
        """A text that changes when the machine restarts and, on Linux, with the PID namespace."""
        try:
            with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
                boot = file.read().strip()
            return f"{boot}/{os.stat('/proc/self/ns/pid').st_ino}"
        except OSError:  # pragma: no cover - not Linux
            return "unknown"


class File:
    """One plain file of a log, opened through the door `files`.

    Refuses symbolic links, hard links, FIFOs and devices. Raises StorageError (DiskFullError when
    there is no space). Not locked: callers of one File from several threads only use offsets.
    """

    __slots__ = ("__weakref__", "_files", "_opened_as", "descriptor", "opened_bytes", "path")

    def __init__(self, files: SystemFiles, path: str, flags: int = READ) -> None:
        self._files = files
        self.path = path
        self.descriptor = -1
        self.opened_bytes = 0  # the size when it was opened
        self._opened_as = (-1, -1)  # its identity then
        try:
            self.descriptor = files.open(path, flags)
            status = files.status(self.descriptor)
            self.opened_bytes = status.st_size
            self._opened_as = (status.st_dev, status.st_ino)
        except OSError as error:
            self.close()
            raise storage_error(error, "open", path) from error
        try:
            _refuse_odd_files(status, path)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the descriptor; idempotent. What is durable was settled by `sync`, so that an
        error here tells nothing."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            try:
                self._files.close(descriptor)
            except OSError:
                pass
            except BaseException:
                # An interrupt, before the call or after it: left open, the file would keep its
                # locks as long as the process lives; closed twice, the number may be another's.
                if self._is_still_ours(descriptor):
                    self._files.close(descriptor)
                raise

    def _is_still_ours(self, descriptor: int) -> bool:
        try:
            status = self._files.status(descriptor)
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == self._opened_as

    def __del__(self) -> None:
        # A call that was interrupted may forget a file; its lock must not outlive it.
        if getattr(self, "descriptor", -1) >= 0:
            with contextlib.suppress(Exception):
                self.close()

    def __enter__(self) -> File:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def size(self) -> int:
        """The file's size in bytes."""
        try:
            return self._files.status(self.descriptor).st_size
        except OSError as error:
            raise storage_error(error, "stat", self.path) from error

    def identity(self) -> tuple[int, int]:
        """Device and inode: tells a file from another one of the same name."""
        try:
            status = self._files.status(self.descriptor)
        except OSError as error:
            raise storage_error(error, "stat", self.path) from error
        return status.st_dev, status.st_ino

    def links(self) -> int:
        """How many names the file has; 0 once it was removed."""
        return self._files.status(self.descriptor).st_nlink

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """Fill `buffer` from `offset` on; fewer bytes only at the end of the file."""
        done = 0
        try:
            while done < len(buffer):
                count = self._files.read_into(self.descriptor, buffer[done:], offset + done)
                if count == 0:
                    break
                done += count
        except InterruptedError:  # pragma: no cover - Python retries EINTR itself
            return done + self.read_into(buffer[done:], offset + done)
        except OSError as error:
            raise storage_error(error, f"read at offset {offset + done}", self.path) from error
        return done

    def read(self, length: int, offset: int) -> bytes:
        """`length` bytes from `offset` on; fewer only at the end of the file."""
        buffer = bytearray(length)
        with memoryview(buffer) as view:
            count = self.read_into(view, offset)
        if count < length:
            del buffer[count:]
        return bytes(buffer)

    def write(self, data: bytes | bytearray | memoryview, offset: int) -> None:
        """Write all of `data` at `offset`, or raise."""
        rest = memoryview(data)
        try:
            while rest:
                try:
                    count = self._files.write(self.descriptor, rest, offset)
                except InterruptedError:
                    continue
                if count == 0:
                    raise OSError(errno.EIO, "the write made no progress")
                rest = rest[count:]
                offset += count
        except OSError as error:
            raise storage_error(error, f"write at offset {offset}", self.path) from error

    def next_data(self, offset: int) -> int | None:
        """Where bytes other than holes may begin at or after `offset`; None if there are none."""
        return self._files.next_data(self.descriptor, offset)

    def truncate(self, size_bytes: int) -> None:
        """Set the file's size."""
        try:
            self._files.truncate(self.descriptor, size_bytes)
        except OSError as error:
            raise storage_error(error, "set the size", self.path) from error

    def allocate(self, size_bytes: int) -> None:
        """Reserve space for the first `size_bytes` bytes; the size grows to that."""
        while True:
            try:
                return self._files.allocate(self.descriptor, size_bytes)
            except InterruptedError:
                continue
            except OSError as error:
                # Only for "cannot do that here" is there another way; never for a full disk.
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                    raise storage_error(error, "reserve space", self.path) from error
                return self._fill(size_bytes)

    def _fill(self, size_bytes: int) -> None:
        """Reserve space where the system cannot: by zeros behind the end."""
        for at in range(self.size(), size_bytes, _FILL_BYTES):
            self.write(bytes(min(_FILL_BYTES, size_bytes - at)), at)

    def sync(self) -> None:
        """Make the bytes durable. A failure is final: never call it again for the same bytes."""
        try:
            self._files.sync(self.descriptor)
        except OSError as error:
            raise storage_error(error, "fsync", self.path) from error

    def map(self, length: int, *, write: bool) -> Mapping:
        """Map the first `length` bytes, shared."""
        try:
            return self._files.map(self.descriptor, length, write=write)
        except ValueError as error:  # what mmap says of a file that is too short
            short = OSError(errno.EINVAL, str(error))
            raise storage_error(short, "map", self.path) from error
        except OSError as error:
            raise storage_error(error, "map", self.path) from error

    def try_lock(self, *, exclusive: bool) -> bool:
        """Take the file's lock if it is free."""
        try:
            return self._files.try_lock(self.descriptor, exclusive=exclusive)
        except OSError as error:
            raise storage_error(error, "lock", self.path) from error

    def unlock(self) -> None:
        """Give the lock back; harmless when it is not held or the file is closed."""
        if self.descriptor >= 0:
            with contextlib.suppress(OSError):
                self._files.unlock(self.descriptor)


class _Abandoned:
    """The door of a handle that belongs to the parent process."""

    def __getattr__(self, name: str) -> NoReturn:
        raise ClosedError("the handle belongs to the parent process", hint="Open the log anew")


class Directory:
    """A log's directory: names in it, never paths from data."""

    def __init__(self, files: SystemFiles, path: str) -> None:
        self.files = files
        self.path = path
        self._opened: weakref.WeakSet[File] = weakref.WeakSet()

    def abandon(self) -> None:
        """In a forked child: close what the parent has open, and refuse everything else, so that
        a call which the fork interrupted cannot go on with the parent's work."""
        self.files = cast(SystemFiles, _Abandoned())
        for file in list(self._opened):
            file.close()

    def join(self, name: str) -> str:
        """The path of `name` in this directory."""
        return os.path.join(self.path, name)

    def open(self, name: str, flags: int = READ) -> File:
        """Open a file of the directory."""
        path = self.join(name)  # first: a handler that forks meanwhile changes the door
        file = File(self.files, path, flags)
        self._opened.add(file)
        return file

    def names(self) -> list[str]:
        """All names, sorted."""
        try:
            return sorted(self.files.list_directory(self.path))
        except OSError as error:
            raise storage_error(error, "list", self.path) from error

    def exists(self) -> bool:
        """Whether the directory is there."""
        return self.files.is_directory(self.path)

    def make(self) -> None:
        """Create the directory, its missing parents too; see `sync_way`."""
        missing = []
        path = self.path
        while not self.files.is_directory(path):
            missing.append(path)
            path = os.path.dirname(path) or "."
        for path in reversed(missing):
            try:
                with contextlib.suppress(FileExistsError):
                    self.files.make_directory(path)
            except OSError as error:
                raise storage_error(error, "create the directory", path) from error

    def sync_way(self) -> None:
        """Make the directory's name durable, and those of its parents: whoever made them may have
        died before doing so. A parent that we may not open was not made by us."""
        path = self.path
        while (parent := os.path.dirname(path) or ".") != path:
            try:
                self.files.sync_directory(parent)
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS, errno.EINVAL):
                    raise storage_error(error, "fsync the directory", parent) from error
            path = parent

    def rename(self, old: str, new: str) -> None:
        """Rename within the directory; durable only after `sync`."""
        try:
            old_path, new_path = self.join(old), self.join(new)
            self.files.rename(old_path, new_path)
        except OSError as error:
            raise storage_error(error, f"rename to {new}", self.join(old)) from error

    def remove(self, name: str) -> None:
        """Remove a name, if it is there; durable only after `sync`."""
        try:
            path = self.join(name)
            self.files.remove(path)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise storage_error(error, "remove", self.join(name)) from error

    def sync(self) -> None:
        """Make the names durable."""
        try:
            self.files.sync_directory(self.path)
        except OSError as error:
            raise storage_error(error, "fsync the directory", self.path) from error

    def mapping_trusted(self) -> bool:
        """Whether stores to a mapping and preallocation can be relied on here."""
        return self.files.file_system(self.path) in MAPPING_TRUSTED


def _refuse_odd_files(status: os.stat_result, path: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise UsageError(
            "not a plain file",
            path=path,
            hint="A log's files are plain files: remove what was put there",
        )
    if status.st_nlink > 1:
        raise UsageError(
            "the file has a second name (a hard link)",
            path=path,
            hint="Two names for one file could be written by two logs: remove one of them",
        )


def _file_system_kind(path: str) -> str:
    """Look the device up in mountinfo; the longest mount point wins where devices differ."""
    try:
        device = os.stat(path).st_dev
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
            lines = file.read().splitlines()
    except OSError:
        return "unknown"
    number = f"{os.major(device)}:{os.minor(device)}"
    real = os.path.realpath(path)
    best, kind = -1, "unknown"
    for line in lines:
        left, _, right = line.partition(" - ")
        fields = left.split()
        mount = fields[4].replace("\\040", " ")
        inside = real == mount or real.startswith(mount.rstrip("/") + "/")
        rank = len(mount) + (1 << 20 if fields[2] == number else 0)
        if inside and rank >= best:
            best, kind = rank, right.split()[0]
    return kind


def no_such_file(error: StorageError) -> bool:
    """Whether the error says that the file does not exist."""
    return error.errno == errno.ENOENT


# --- Windows: imports and works in the plain way; not tried there -------------------------------

_seek_lock = threading.Lock()


def _seek_and_read(descriptor: int, buffer: memoryview, offset: int) -> int:  # pragma: no cover
    with _seek_lock:
        os.lseek(descriptor, offset, os.SEEK_SET)
        data = os.read(descriptor, len(buffer))
    buffer[: len(data)] = data
    return len(data)


def _seek_and_write(descriptor: int, data: memoryview, offset: int) -> int:  # pragma: no cover
    with _seek_lock:
        os.lseek(descriptor, offset, os.SEEK_SET)
        return os.write(descriptor, data)


if sys.platform == "win32":  # pragma: no cover - not tried
    _held: dict[int, tuple[int, int]] = {}

    def _windows_lock(descriptor: int, *, exclusive: bool) -> bool:
        """A shared lock is one free byte of many; the exclusive lock is all of them."""
        ranges = (
            [(0, _WINDOWS_SLOTS)] if exclusive else [(slot, 1) for slot in range(_WINDOWS_SLOTS)]
        )
        _windows_unlock(descriptor)
        for start, length in ranges:
            try:
                os.lseek(descriptor, start, os.SEEK_SET)
                msvcrt.locking(descriptor, msvcrt.LK_NBLCK, length)
            except OSError:
                continue
            _held[descriptor] = (start, length)
            return True
        return False

    def _windows_unlock(descriptor: int) -> None:
        start, length = _held.pop(descriptor, (0, 0))
        if length:
            os.lseek(descriptor, start, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_UNLCK, length)
