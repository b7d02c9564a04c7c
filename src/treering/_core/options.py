"""What a user may choose when opening a log, with defaults, limits and their prices."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from . import format as fmt
from .arguments import check_seconds, whole_number
from .errors import UsageError

if TYPE_CHECKING:
    from .files import SystemFiles

KIB = 1 << 10
MIB = 1 << 20

# A record above this works, but a log of large values is slow to replay: a blob store keeps those.
RECORD_BYTES_RECOMMENDED = 1 * MIB

WINDOW_SECONDS_MAX = 1.0


@dataclasses.dataclass(frozen=True, slots=True)
class FsyncPolicy:
    """When appended records are made durable (fsynced).

    `FsyncPolicy.ALWAYS` waits for the fsync before an append returns; concurrent appends share
    one. `FsyncPolicy.batch(milliseconds=5)` returns at once, and a background deadline makes
    every record durable within the window. `FsyncPolicy.OS` fsyncs only on `sync()`, when a
    segment is full and at close. Under all three, a returned append survives `kill -9`.
    """

    name: str
    window_seconds: float = 0.0

    ALWAYS: ClassVar[FsyncPolicy]
    OS: ClassVar[FsyncPolicy]

    def __post_init__(self) -> None:
        if self.name not in ("always", "batch", "os"):
            raise UsageError(
                f"unknown fsync policy {self.name!r}",
                hint="Use FsyncPolicy.ALWAYS, FsyncPolicy.batch(milliseconds=…) or FsyncPolicy.OS",
            )
        if self.name == "batch" and not 0 < self.window_seconds <= WINDOW_SECONDS_MAX:
            raise _wrong_window(self.window_seconds * 1000)

    @classmethod
    def batch(cls, milliseconds: float = 5.0) -> FsyncPolicy:
        """Durable at most `milliseconds` after the append (0 < milliseconds <= 1000)."""
        if isinstance(milliseconds, bool) or not isinstance(milliseconds, int | float):
            raise _wrong_window(milliseconds)
        return cls("batch", milliseconds / 1000)

    @classmethod
    def parse(cls, text: str) -> FsyncPolicy:
        """The policy that `always`, `os`, `batch` or `batch:20` (milliseconds) names."""
        name, colon, window = str(text).strip().lower().partition(":")
        if name != "batch" or not colon:
            return cls.batch() if name == "batch" else cls(name + colon + window)
        try:
            milliseconds = float(window)
        except ValueError as error:
            raise _wrong_window(window) from error
        return cls.batch(milliseconds)

    def __str__(self) -> str:
        if self.name == "batch":
            return f"batch:{self.window_seconds * 1000:g}"
        return self.name


def _wrong_window(milliseconds: Any) -> UsageError:
    return UsageError(
        f"the batch window must be over 0 and at most 1000 ms, not {milliseconds!r:.60}",
        hint="A typical window is 5 ms",
    )


FsyncPolicy.ALWAYS = FsyncPolicy("always")
FsyncPolicy.OS = FsyncPolicy("os")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class WalConfig:
    """How to open a log. Every field is also a keyword of `Wal.open`.

    fsync_policy: when appends become durable; the default, ALWAYS, is the safe one.
    segment_bytes_max: size of a segment file, preallocated (precedents: etcd 64 MiB, Kafka 1 GiB).
    record_bytes_max, batch_bytes_max: limits on one record and on one atomic batch, as stored.
    exclusive: refuse every other writing process; appends are somewhat faster.
    read_only: never write anything; works beside a writer and without permission to write.
    create: make the log if it is not there (otherwise LogNotFoundError).
    frame_align_bytes: 8, or 512 or 4096 to give each frame sectors of its own (for devices whose
        torn writes may damage neighbouring bytes; costs that much space per frame).
    compression: None, "lz4" or "zstd": default for values; stored only if smaller.
    retention_bytes_max, retention_seconds_max, retention_records_max: delete the oldest segments
        when the log is larger, older or longer; pins are respected. None keeps everything. What
        counts is the space that records and footers use, not what is reserved for more.
    process_lock: "auto", or "file" to share a log between PID namespaces or C libraries (slower).
    map_tail: None decides by the file system; False writes the tail with pwrite; True maps it.
        All processes that share a log must give the same.
    lock_timeout_seconds: how long opening waits for another process that is opening the log.
    files, clock: replaced in tests (see treering.testing). The clock gives nanoseconds since 1970.
    """

    fsync_policy: FsyncPolicy = FsyncPolicy.ALWAYS
    segment_bytes_max: int = 128 * MIB
    record_bytes_max: int = 64 * MIB
    batch_bytes_max: int = 64 * MIB
    exclusive: bool = False
    read_only: bool = False
    create: bool = True
    frame_align_bytes: int = 8
    compression: str | None = None
    retention_bytes_max: int | None = None
    retention_seconds_max: float | None = None
    retention_records_max: int | None = None
    process_lock: str = "auto"
    map_tail: bool | None = None
    lock_timeout_seconds: float = 30.0
    files: SystemFiles | None = None
    clock: Callable[[], int] | None = None

    def __post_init__(self) -> None:
        _check_switches(self)
        _check_kinds(self)
        _check_sizes(self)
        _check_retention(self)

    def now_ns(self) -> int:
        """The time, kept within what a record can hold: a clock that is wrong harms no log."""
        now = time.time_ns() if self.clock is None else self.clock()
        return min(max(int(now), 1), fmt.TIME_NS_MAX)

    def replace(self, **changes: Any) -> WalConfig:
        """A copy with some fields changed; unknown names raise UsageError."""
        names = {field.name for field in dataclasses.fields(self)}
        unknown = sorted(set(changes) - names)
        if unknown:
            raise UsageError(
                f"unknown option {unknown[0]!r}", hint=f"The options are {', '.join(sorted(names))}"
            )
        return dataclasses.replace(self, **changes)


def _check_switches(config: WalConfig) -> None:
    for name in ("exclusive", "read_only", "create"):
        if not isinstance(getattr(config, name), bool):
            raise UsageError(f"{name} must be True or False, not {getattr(config, name)!r:.60}")
    if config.map_tail is not None and not isinstance(config.map_tail, bool):
        raise UsageError(f"map_tail must be None, True or False, not {config.map_tail!r:.60}")
    if config.clock is not None and not callable(config.clock):
        raise UsageError("clock must be a function that gives nanoseconds since 1970")
    if config.files is not None and not hasattr(config.files, "sync_directory"):
        raise UsageError("files must be a file system from treering.testing")
    if isinstance(config.files, type):
        raise UsageError("files must be an object, not a class", hint="Call it: MemoryFiles()")


def _check_kinds(config: WalConfig) -> None:
    if not isinstance(config.fsync_policy, FsyncPolicy):
        raise UsageError(
            f"fsync_policy must be a FsyncPolicy, not {type(config.fsync_policy).__name__}",
            hint="Use FsyncPolicy.ALWAYS, FsyncPolicy.batch(milliseconds=5) or FsyncPolicy.OS",
        )
    if config.exclusive and config.read_only:
        raise UsageError("exclusive and read_only exclude one another")
    if config.process_lock not in ("auto", "file"):
        raise UsageError(f"process_lock must be 'auto' or 'file', not {config.process_lock!r}")
    if config.compression not in (None, *fmt.COMPRESSIONS):
        raise UsageError(
            f"unknown compression {config.compression!r:.60}",
            hint=f"Known are {', '.join(fmt.COMPRESSIONS)}",
        )


def _check_sizes(config: WalConfig) -> None:
    align = config.frame_align_bytes
    if not isinstance(align, int) or align not in (8, 512, 4096):
        raise UsageError(f"frame_align_bytes must be 8, 512 or 4096, not {align!r:.60}")
    least, most = fmt.SEGMENT_BYTES_MIN, fmt.SEGMENT_BYTES_LIMIT
    whole_number(config.segment_bytes_max, "segment_bytes_max", least, most)
    for name in ("record_bytes_max", "batch_bytes_max"):
        whole_number(getattr(config, name), name, 1, fmt.FRAME_BYTES_LIMIT - 4096)
    check_seconds(config.lock_timeout_seconds, "lock_timeout_seconds")


def _check_retention(config: WalConfig) -> None:
    for name in ("retention_bytes_max", "retention_records_max"):
        if getattr(config, name) is not None:
            whole_number(getattr(config, name), name, 1, fmt.POSITION_MAX)
    seconds = config.retention_seconds_max
    if seconds is not None and not check_seconds(seconds, "retention_seconds_max") > 0:
        raise UsageError("retention_seconds_max must be over 0, or None to keep everything")
