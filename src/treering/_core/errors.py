"""Every error treering raises, in one tree.

    TreeringError
    ├── UsageError            your mistake: fix the call
    │   ├── ClosedError           the handle was closed
    │   ├── ForkedError           the handle belongs to the parent process
    │   ├── ReadOnlyError         the handle was opened for reading
    │   ├── ReentrantError        called from a signal handler inside another call
    │   └── TooLargeError         a record, a batch or a key over its limit
    ├── NotThereError         what you asked for does not exist (any more, or yet)
    │   ├── LogNotFoundError      no log in that directory
    │   ├── PositionError         a position the log has not reached
    │   └── PrunedError           a position that truncation removed
    │       └── RewoundError          removed from the newer end, by truncate_after
    ├── StorageError          the world failed
    │   ├── DiskFullError         no space, quota or file-size limit: nothing was written
    │   ├── LockedError           another process holds the log
    │   ├── WaitTimeoutError      the time you allowed ran out
    │   ├── FailedError           a write or fsync failed: the log is dead until reopened
    │   └── MissingExtraError     an optional library is needed and not installed
    └── DataError             the bytes on disk are not what was written
        ├── DamageError           durable bytes were changed or lost
        └── VersionError          written by a newer treering, or with unknown flags

Each carries what is known of the place (`path`, `offset`, `position`) and a `hint` that
says what to do next; the cause is chained in the usual way (`__cause__`).
"""

from __future__ import annotations

import errno
import os
from typing import Any


class TreeringError(Exception):
    """Base of every error raised by treering.

    `path`, `offset` (byte in the file) and `position` (record number) are None when they do
    not apply; `hint` says what to do next.
    """

    def __init__(
        self,
        message: str,
        *,
        path: str | None = None,
        offset: int | None = None,
        position: int | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.path = path
        self.offset = offset
        self.position = position
        self.hint = hint

    def __str__(self) -> str:
        places = [
            f"{name} {value}"
            for name, value in (
                ("file", self.path),
                ("offset", self.offset),
                ("position", self.position),
            )
            if value is not None
        ]
        text = self.message
        if places:
            text += f" ({', '.join(places)})"
        return f"{text}. {self.hint}" if self.hint else text

    def __reduce__(self) -> tuple[Any, ...]:
        # Keyword-only arguments need help to cross a process boundary (multiprocessing).
        state = (
            self.__dict__ | {"errno": self.errno} if isinstance(self, OSError) else self.__dict__
        )
        return (_rebuild, (type(self), self.message, dict(state)))


def _rebuild(kind: type[TreeringError], message: str, state: dict[str, Any]) -> TreeringError:
    error = kind(message)
    for name, value in state.items():
        setattr(error, name, value)
    return error


class UsageError(TreeringError, ValueError):
    """The call is wrong: arguments, order of calls, or the state of the handle."""


class ClosedError(UsageError):
    """The log handle was closed."""


class ForkedError(UsageError):
    """An exclusive handle was used in a forked child; it belongs to the parent."""


class ReadOnlyError(UsageError):
    """The handle was opened with read_only=True."""


class ReentrantError(UsageError):
    """A signal handler called into the log call that it had interrupted."""


class TooLargeError(UsageError):
    """A key, record or batch is over the limit that the message names."""


class NotThereError(TreeringError, LookupError):
    """What was asked for does not exist."""


class LogNotFoundError(NotThereError):
    """The directory holds no log."""


class PositionError(NotThereError):
    """The position lies beyond the end of the log."""


class ConflictError(NotThereError):
    """Somebody else appended first, so nothing was appended; `end` is the log's end.

    Look at what came, decide again, and try again.
    """

    end: int | None = None


class PrunedError(NotThereError):
    """The position was removed by truncation; `oldest` is the first one still there."""

    oldest: int | None = None


class RewoundError(PrunedError):
    """The position was removed by `truncate_after`; `end` is the log's end after it."""

    end: int | None = None


class StorageError(TreeringError, OSError):
    """The operating system refused or failed; `errno` carries its number where there is one."""

    def __init__(self, message: str, *, number: int | None = None, **place: Any) -> None:
        TreeringError.__init__(self, message, **place)
        self.errno = number


class DiskFullError(StorageError):
    """No space, quota or file-size limit. Nothing was written; try again when there is space."""


class LockedError(StorageError):
    """Another process holds the log in a way that excludes this call; `pid` names it if known."""

    pid: int | None = None


class WaitTimeoutError(StorageError, TimeoutError):
    """The time allowed for the call ran out; the records stay written."""


class FailedError(StorageError):
    """A write or an fsync failed, so the log takes no more appends until it is reopened."""


class MissingExtraError(StorageError):
    """An optional library is needed for this call and is not installed."""


class DataError(TreeringError):
    """The bytes on disk are not what this version wrote."""


class DamageError(DataError):
    """Bytes that had been durable are changed or missing. Nothing was altered or deleted.

    `positions` is the half-open range of positions that cannot be read, as far as it is known.
    """

    positions: tuple[int, int | None] | None = None


class VersionError(DataError):
    """The files carry a newer format version or an unknown flag; they were left untouched."""


NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def storage_error(error: OSError, doing: str, path: str) -> StorageError:
    """The StorageError for an OSError met while `doing` something to `path`."""
    reason = error.strerror or str(error)
    if error.errno in NO_SPACE:
        return DiskFullError(
            f"cannot {doing}: {reason}",
            number=error.errno,
            path=path,
            hint="Nothing was written. Free some space or raise the limit, then try again",
        )
    hints = {
        errno.EACCES: "Check the owner and the permissions of the log's directory and files",
        errno.EPERM: "Check the owner and the permissions of the log's directory and files",
        errno.EROFS: "The file system is read-only: open the log with read_only=True",
        errno.EMFILE: "The process has too many open files: raise its limit (ulimit -n)",
        errno.ELOOP: "A log's files must not be symbolic links",
        errno.EISDIR: "A log's files are plain files: remove what was put there",
        errno.ENXIO: "A log's files are plain files: remove what was put there",
        errno.ENOTDIR: "A log is a directory: choose a path that is one, or does not exist yet",
        errno.EIO: "The device reports an error: check the system's log before you go on",
    }
    return StorageError(
        f"cannot {doing}: {reason}",
        number=error.errno,
        path=path,
        hint=hints.get(error.errno or 0),
    )


def failed_error(number: int, path: str) -> FailedError:
    """The error that every call on a dead log raises."""
    return FailedError(
        f"a write or an fsync failed ({os.strerror(number)}); the log takes no more appends",
        number=number,
        path=path,
        hint="What was reported durable is safe. Check the device, then open the log again",
    )


def conflict_error(at: int, end: int) -> ConflictError:
    """The error for an append that was to get position `at`, in a log that ends at `end`."""
    error = ConflictError(
        "another append was faster",
        position=at,
        hint=f"The log ends at {end}: read on, decide again, and try again",
    )
    error.end = end
    return error
