"""A door to any file system that counts its calls and lets some of them fail."""

from __future__ import annotations

import collections
import errno
import os
import threading
from collections.abc import Callable
from typing import Protocol, TypeVar

from .._core.files import Mapping, SystemFiles
from ._calls import Call, Fault, Struck, Which, matcher, never

T = TypeVar("T")


class Waitable(Protocol):
    """A threading.Event, or what waits like one."""

    def wait(self) -> object:
        """Return when it is time."""


class FaultyFiles(SystemFiles):
    """Any file system (`inner`: by default the real one) with faults on request.

        files = FaultyFiles(PowerCutFiles())
        files.fail("sync", number=errno.EIO, nth=3)           # the third sync from now on
        files.fail("write", path=".log", number=errno.ENOSPC, lasting=True)
        files.shorten("write", bytes_max=7)                   # the next write writes 7 bytes
        ...
        files.heal()                                          # all is well again
        assert files.count("sync") == 4

    Calls are counted and recorded before anything goes wrong with them, so a failed call is in
    `calls` too. A sync that fails is reported to an inner PowerCutFiles, which then treats the
    file's dirty sectors as a kernel would (its `failed_sync`). A `close` that fails has closed the
    descriptor all the same, as on Linux.

    Does not model: SIGBUS, that is, I/O errors on stores to a mapping or reads from one; faults of
    `is_directory`, `next_data`, `file_system` and `boot_id`, which never raise.

    inner: the file system; keep a reference to it, or use this attribute.
    record: whether to keep `calls`; without, a long run takes no memory, and `count` still counts.
    """

    def __init__(self, inner: SystemFiles | None = None, *, record: bool = True) -> None:
        self.inner = SystemFiles() if inner is None else inner
        self.record = record
        self.calls: list[Call] = []
        self._lock = threading.RLock()
        self._counts: collections.Counter[tuple[str, str]] = collections.Counter()
        self._faults: list[Fault] = []
        self._paths: dict[int, str] = {}

    # --- what goes wrong ---------------------------------------------------------------------

    def fail(
        self,
        which: Which = None,
        *,
        number: int = errno.EIO,
        nth: int = 1,
        lasting: bool = False,
        path: str = "",
        after: bool = False,
    ) -> Fault:
        """Let the nth matching call from now on (and with `lasting` all after it) raise OSError.

        which: the method's name, several names, a predicate on the Call, or None: any call that
            may fail.
        number: EIO, ENOSPC, EDQUOT, EINTR, EMFILE, EROFS, …
        path: only calls whose path ends in this.
        after: the call does its work first, and then says that it failed.
        """
        return self._add(which, path, Fault(never, nth, lasting, number, after))

    def fail_next(self, which: Which = None, number: int = errno.EIO) -> Fault:
        """Let the next matching call fail, once."""
        return self.fail(which, number=number)

    def shorten(
        self,
        which: Which = ("read_into", "write"),
        *,
        bytes_max: int,
        nth: int = 1,
        lasting: bool = False,
        path: str = "",
    ) -> Fault:
        """Let reads or writes transfer at most `bytes_max` bytes."""
        return self._add(which, path, Fault(never, nth, lasting, bytes_max=bytes_max))

    def stall(
        self,
        which: Which,
        wait: Waitable | Callable[[], object],
        *,
        nth: int = 1,
        lasting: bool = False,
        path: str = "",
    ) -> Fault:
        """Wait before the call: for an Event, or until the function returns.

        To wait in the middle of a sync, when its bytes are taken down but not durable, use the
        `during_sync` of PowerCutFiles.
        """
        waits = wait if callable(wait) else wait.wait
        return self._add(which, path, Fault(never, nth, lasting, wait=waits))

    def unreadable(self, path: str, offset: int = 0, length: int | None = None) -> Fault:
        """Let every read that touches these bytes of the file fail with EIO: a bad sector.

        Reads through a mapping do not notice.
        """

        def touches(call: Call) -> bool:
            before_end = length is None or call.offset < offset + length
            return call.name == "read_into" and before_end and call.offset + call.length > offset

        return self.fail(touches, path=path, lasting=True)

    def heal(self, *faults: Fault) -> None:
        """Take these faults away, or all of them. Threads that wait in a stall go on waiting."""
        with self._lock:
            self._faults = [fault for fault in self._faults if faults and fault not in faults]

    def _add(self, which: Which, path: str, fault: Fault) -> Fault:
        if fault.nth < 1:
            raise ValueError("calls are counted from 1")
        fault.matches = matcher(which, path)
        with self._lock:
            self._faults.append(fault)
        return fault

    # --- what was called ---------------------------------------------------------------------

    def count(self, *names: str, path: str = "") -> int:
        """How many calls of these methods (of all, without a name) there were, failed ones too.

        path: only those whose path ends in this.
        """
        with self._lock:
            return sum(
                count
                for (name, where), count in self._counts.items()
                if (not names or name in names) and where.endswith(path)
            )

    def forget(self) -> None:
        """Start counting and recording again from nothing; faults stay."""
        with self._lock:
            self.calls.clear()
            self._counts.clear()

    def sync_failed(self, descriptor: int) -> None:
        """Tell the inner file system, if it wants to know, that a sync failed above it."""
        tell = getattr(self.inner, "sync_failed", None)
        if tell is not None:
            tell(descriptor)

    # --- the door: files ---------------------------------------------------------------------

    def open(self, path: str, flags: int) -> int:
        """As the inner one, or as a fault wants it."""

        def action() -> int:
            descriptor = self.inner.open(path, flags)
            with self._lock:
                self._paths[descriptor] = path
            return descriptor

        def undo(descriptor: int) -> None:
            # The caller never learns of the descriptor.
            self._forget(descriptor)
            self.inner.close(descriptor)

        return self._do(Call("open", path, flags=flags), action, undo)

    def close(self, descriptor: int) -> None:
        """As the inner one; a fault strikes after the descriptor is closed."""
        call = Call("close", self._path(descriptor))
        struck = self._begin(call)
        self._forget(descriptor)
        self.inner.close(descriptor)
        struck.fail_if_due(call)

    def status(self, descriptor: int) -> os.stat_result:
        """As the inner one, or as a fault wants it."""
        call = Call("status", self._path(descriptor))
        return self._do(call, lambda: self.inner.status(descriptor))

    def read_into(self, descriptor: int, buffer: memoryview, offset: int) -> int:
        """As the inner one, or as a fault wants it."""
        call = Call("read_into", self._path(descriptor), offset, len(buffer))
        struck = self._begin(call)
        part = buffer[: struck.bytes_max]
        return struck.around(call, lambda: self.inner.read_into(descriptor, part, offset))

    def write(self, descriptor: int, data: memoryview, offset: int) -> int:
        """As the inner one, or as a fault wants it."""
        call = Call("write", self._path(descriptor), offset, len(data))
        struck = self._begin(call)
        part = data[: struck.bytes_max]
        return struck.around(call, lambda: self.inner.write(descriptor, part, offset))

    def truncate(self, descriptor: int, size_bytes: int) -> None:
        """As the inner one, or as a fault wants it."""
        call = Call("truncate", self._path(descriptor), length=size_bytes)
        self._do(call, lambda: self.inner.truncate(descriptor, size_bytes))

    def allocate(self, descriptor: int, size_bytes: int) -> None:
        """As the inner one, or as a fault wants it."""
        call = Call("allocate", self._path(descriptor), length=size_bytes)
        self._do(call, lambda: self.inner.allocate(descriptor, size_bytes))

    def sync(self, descriptor: int) -> None:
        """As the inner one, or as a fault wants it; then the inner one learns that it failed."""
        call = Call("sync", self._path(descriptor))
        struck = self._begin(call)
        if struck.error is not None and not struck.error.after:
            self.sync_failed(descriptor)
        struck.around(call, lambda: self.inner.sync(descriptor))

    def map(self, descriptor: int, length: int, *, write: bool) -> Mapping:
        """As the inner one, or as a fault wants it."""
        call = Call("map", self._path(descriptor), length=length, write=write)
        return self._do(
            call, lambda: self.inner.map(descriptor, length, write=write), lambda got: got.close()
        )

    def try_lock(self, descriptor: int, *, exclusive: bool) -> bool:
        """As the inner one, or as a fault wants it."""
        call = Call("try_lock", self._path(descriptor), exclusive=exclusive)
        return self._do(call, lambda: self.inner.try_lock(descriptor, exclusive=exclusive))

    def unlock(self, descriptor: int) -> None:
        """As the inner one, or as a fault wants it."""
        call = Call("unlock", self._path(descriptor))
        self._do(call, lambda: self.inner.unlock(descriptor))

    # --- the door: names ---------------------------------------------------------------------

    def sync_directory(self, path: str) -> None:
        """As the inner one, or as a fault wants it; after a failure the names stay pending."""
        self._do(Call("sync_directory", path), lambda: self.inner.sync_directory(path))

    def list_directory(self, path: str) -> list[str]:
        """As the inner one, or as a fault wants it."""
        return self._do(Call("list_directory", path), lambda: self.inner.list_directory(path))

    def make_directory(self, path: str) -> None:
        """As the inner one, or as a fault wants it."""
        self._do(Call("make_directory", path), lambda: self.inner.make_directory(path))

    def rename(self, old: str, new: str) -> None:
        """As the inner one, or as a fault wants it."""
        self._do(Call("rename", new), lambda: self.inner.rename(old, new))

    def remove(self, path: str) -> None:
        """As the inner one, or as a fault wants it."""
        self._do(Call("remove", path), lambda: self.inner.remove(path))

    def is_directory(self, path: str) -> bool:
        """As the inner one."""
        return self._do(Call("is_directory", path), lambda: self.inner.is_directory(path))

    def file_system(self, path: str) -> str:
        """As the inner one."""
        return self._do(Call("file_system", path), lambda: self.inner.file_system(path))

    def boot_id(self) -> str:
        """As the inner one."""
        return self._do(Call("boot_id"), self.inner.boot_id)

    def next_data(self, descriptor: int, offset: int) -> int | None:
        """As the inner one, or as a fault wants it."""
        call = Call("next_data", self._path(descriptor), offset)
        return self._do(call, lambda: self.inner.next_data(descriptor, offset))

    # --- inside ------------------------------------------------------------------------------

    def _path(self, descriptor: int) -> str:
        with self._lock:
            return self._paths.get(descriptor, "")

    def _forget(self, descriptor: int) -> None:
        # Before the close: afterwards another thread may be given the same number.
        with self._lock:
            self._paths.pop(descriptor, None)

    def _do(
        self, call: Call, action: Callable[[], T], undo: Callable[[T], object] | None = None
    ) -> T:
        return self._begin(call).around(call, action, undo)

    def _begin(self, call: Call) -> Struck:
        """Record the call, find out what strikes it, and sit a stall out."""
        with self._lock:
            self._counts[call.name, call.path] += 1
            if self.record:
                self.calls.append(call)
            struck = Struck([fault for fault in self._faults if fault.strikes(call)])
        for fault in struck.faults:
            if fault.wait is not None:
                fault.wait()
        return struck
