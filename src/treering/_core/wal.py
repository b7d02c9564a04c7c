"""`Wal`: the handle that programs use. It adds no mechanism of its own, only the face."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from types import TracebackType
from typing import Any

from . import format as fmt
from . import retention
from .arguments import check_position, check_seconds
from .background import apart
from .batch import Batch
from .codec import Record, backend
from .engine import Engine, QuietEngine, abandon_all, directory_of
from .errors import (
    ClosedError,
    DamageError,
    ForkedError,
    PositionError,
    ReadOnlyError,
    UsageError,
)
from .lookup import position_at_time, read_backwards, read_many, read_one, time_in_ns
from .options import WalConfig
from .reader import Reader
from .recovery import RecoveryReport
from .snapshots import Snapshots
from .source import bytes_on_disk, pruned_error


class Wal:
    """A durable, crash-safe, append-only log in a directory.

    Open one with `Wal.open`. Every write returns the position of its record (0, 1, 2, …) and has
    reached the kernel when it returns, so the death of the process loses nothing; when it survives
    a power failure is the fsync policy's business. Free use from several threads; several processes
    may open the same log at once, and each sees the others' records with its next call. A handle
    inherited over `fork` opens itself anew in the child (an exclusive one raises ForkedError).
    """

    _engine: Engine | QuietEngine | None

    def __init__(self, path: str | os.PathLike[str], config: WalConfig) -> None:
        self._path = _absolute(path)
        self._config = config
        self._always = config.fsync_policy.name == "always"
        self._reopening = threading.Lock()
        self._forked = False
        self._engine = None
        self._ending: Engine | QuietEngine | None = None
        self._start()

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], config: WalConfig | None = None, **options: Any
    ) -> Wal:
        """Open the log in the directory `path`, creating it if there is none.

        `config` and keywords are the fields of WalConfig; keywords win. Recovers from a crash if
        this is the first handle (see `recovery`); blocks while another process is opening the log.
        What is there is durable at return. Costs the same for a log of any size after a clean
        close, and reads at most the newest segment after a crash.

        Raises UsageError, LogNotFoundError (create=False), LockedError, StorageError, DamageError,
        VersionError.
        """
        if config is not None and not isinstance(config, WalConfig):
            raise UsageError(f"config must be a WalConfig, not {config!r:.60}")
        return cls(path, (config or WalConfig()).replace(**options))

    def _start(self) -> None:
        directory = directory_of(self._path, self._config)
        if self._config.read_only:
            self._engine = QuietEngine(directory, self._config)
        else:
            self._engine = Engine(directory, self._config)
            self._bind(self._engine)
        self._forked = False
        self._finalizer = weakref.finalize(self, apart, self._engine.close)
        _open_handles.add(self)

    def _bind(self, engine: Engine) -> None:
        """What is asked for most is one call: the end of the log, and, without a wait for
        durability, `put` and `delete`."""
        tail = engine.writer.tail
        load = engine.control.load
        vars(self).update(current_position=partial(load, fmt.WORD_END))
        vars(self).update(_rewinds=partial(load, fmt.WORD_REWINDS))
        if not self._always:
            vars(self).update(put=tail.put, delete=tail.delete)

    def _live(self) -> Engine:
        """The engine of a handle that may append; opens it anew in a forked child."""
        engine = self._engine
        if isinstance(engine, Engine):
            return engine
        if engine is not None:
            raise ReadOnlyError(
                "the log was opened with read_only=True", path=self._path, hint="Open it without"
            )
        self._reopen()
        return self._live()

    def _any(self) -> Engine | QuietEngine:
        if self._engine is None:
            self._reopen()
        engine = self._engine
        assert engine is not None
        return engine

    def _reopen(self) -> None:
        if not self._forked:
            raise ClosedError("the log is closed", hint="Open it again with Wal.open")
        if self._config.exclusive:
            raise ForkedError(
                "an exclusive handle belongs to the parent process",
                path=self._path,
                hint="Open the log without exclusive=True, or only in the child",
            )
        with self._reopening:
            if self._engine is None:
                self._start()

    # --- Writing ----------------------------------------------------------------------------------

    def put(
        self,
        key: bytes,
        value: bytes,
        *,
        ttl: float | None = None,
        expires_at: float | None = None,
        headers: dict[str, bytes] | None = None,
        compression: str | None = None,
        stream: int = 0,
        durable: bool = False,
    ) -> int:
        """Append a record that sets `key` to `value`; its position.

        Written at return, under every policy; durable at return under ALWAYS or with durable=True
        (then it blocks for an fsync, shared with all who wait). `ttl` (seconds from now) or
        `expires_at` (seconds since 1970) store when the record expires; the log itself keeps it.
        `compression` ("lz4", "zstd", "none") overrides the log's default; `headers` maps short
        texts to bytes; `stream` is a number from 0 to 2**32 - 1. O(size of the record).

        Raises UsageError, TooLargeError, DiskFullError (nothing was appended), FailedError,
        ClosedError, ReadOnlyError, MissingExtraError.
        """
        return self._live().writer.tail.put(
            key,
            value,
            ttl=ttl,
            expires_at=expires_at,
            headers=headers,
            compression=compression,
            stream=stream,
            durable=durable or self._always,
        )

    def delete(
        self,
        key: bytes,
        *,
        ttl: float | None = None,
        expires_at: float | None = None,
        headers: dict[str, bytes] | None = None,
        stream: int = 0,
        durable: bool = False,
    ) -> int:
        """Append a tombstone: a record that says that `key` is gone; its position. As `put`."""
        return self._live().writer.tail.delete(
            key,
            ttl=ttl,
            expires_at=expires_at,
            headers=headers,
            stream=stream,
            durable=durable or self._always,
        )

    def append(
        self, record: Record, *, compression: str | None = None, durable: bool = False
    ) -> int:
        """Append a record made with `Record.put`, `Record.delete` or `Record(...)`; its position.

        A timestamp that the record carries is kept; its position is not. Guarantees and errors as
        `put`.
        """
        return self.append_batch((record,), compression=compression, durable=durable)[0]

    def append_batch(
        self,
        records: Iterable[Record | tuple[bytes, bytes]],
        *,
        compression: str | None = None,
        durable: bool = False,
        at: int | None = None,
    ) -> range:
        """Append records, or (key, value) pairs, as one atomic group; the range of positions.

        After any crash all of them are in the log or none. Readers in other processes see all at
        once. An empty batch appends nothing. With `at` the first record gets that position, or
        ConflictError tells that somebody else appended since you looked. Guarantees and errors as
        `put`; TooLargeError also for a batch over `batch_bytes_max`.
        """
        engine = self._live()
        if not isinstance(records, Iterable):
            raise UsageError(f"a batch must be iterable, not {type(records).__name__}")
        batch: tuple[Any, ...] = tuple(records)
        if compression or self._config.compression:
            intake = engine.writer.intake
            batch = tuple(intake.compressed(intake.as_record(r), compression) for r in batch)
        if not batch:
            end = self.current_position()
            return range(end, end)
        place = -1 if at is None else check_position(at)
        first = engine.writer.tail.append_records(batch, durable or self._always, place)
        return range(first, first + len(batch))

    def batch(self, *, durable: bool = False) -> Batch:
        """A context manager that collects puts and deletes and appends them atomically at its end.

        Nothing is appended if the block raises. Afterwards `positions` is the range they got.
        """
        return Batch(self.append_batch, self._live().writer.intake.with_ttl, durable)

    # --- Durability -------------------------------------------------------------------------------

    def sync(self) -> int:
        """Make every record appended so far (by anybody) durable; the durable position.

        Blocks for at most one fsync that somebody else began before, and one more. FailedError if
        the fsync fails, now and on every later call until the log is opened again.
        """
        engine = self._live()
        engine.commit.check()
        end = engine.control.load(fmt.WORD_END)
        if end:
            engine.commit.wait(end - 1)
        return engine.control.load(fmt.WORD_DURABLE)

    def flush(self) -> int:
        """The end of what is written. Nothing is ever buffered in the process, so there is nothing
        to flush: what was appended is in the kernel already. For durability call `sync`."""
        return self.current_position()

    def wait_durable(self, position: int, timeout: float | None = None) -> None:
        """Return once the record at `position` is durable; starts an fsync if nobody else has.

        PositionError for a position not yet appended; WaitTimeoutError after `timeout` seconds;
        FailedError if a write or fsync failed.
        """
        engine, position = self._live(), check_position(position)
        if timeout is not None:
            check_seconds(timeout, "timeout")
        if position >= engine.control.load(fmt.WORD_END):
            raise PositionError("no record has this position yet", position=position)
        engine.commit.wait(position, timeout)

    def current_position(self) -> int:
        """The position that the next record will get: the end of the log. One memory read."""
        return self._any().source.end(False)

    def _rewinds(self) -> int:
        """How often records were taken back at the end, as far as `current_position` has seen."""
        return self._any().source.rewinds()[0]

    @property
    def durable_position(self) -> int:
        """Every record below this position is durable. One memory read."""
        return self._any().source.end(True)

    @property
    def first_position(self) -> int:
        """The oldest position that was not truncated; equal to the end of an empty log."""
        return self._any().source.first()

    # --- Reading ----------------------------------------------------------------------------------

    def read_from(
        self,
        position: int | None = None,
        *,
        time: Any = None,
        stop: int | None = None,
        follow: bool = False,
        timeout: float | None = None,
        durable_only: bool = False,
        copy: bool = True,
    ) -> Reader:
        """An iterator over the records from `position` (default: the oldest) on.

        `time` (seconds since 1970 or a datetime) starts at the first record with that timestamp or
        a later one; `stop` ends before that position. With `follow` it waits for more instead of
        ending, at most `timeout` seconds for each record (None: for ever), in any process. With
        `durable_only` it shows nothing that a power failure could take back. With copy=False values
        are memoryviews of the reader's buffer. Memory stays flat. Never blocks a writer.

        Raises PrunedError for truncated positions (also when truncation overtakes it),
        PositionError beyond the end, DamageError at damaged bytes, StorageError.
        """
        engine = self._any()
        if timeout is not None:
            check_seconds(timeout, "timeout")
        stop = None if stop is None else check_position(stop)
        start = self._start_position(engine, position, time)
        return Reader(
            engine.source,
            start,
            stop=stop,
            follow=follow,
            timeout=timeout,
            durable_only=durable_only,
            copy=copy,
            handle=self,
        )

    def _start_position(self, engine: Engine | QuietEngine, position: int | None, time: Any) -> int:
        if time is not None:
            if position is not None:
                raise UsageError("give a position or a time, not both")
            return position_at_time(engine.source, engine.kept, time_in_ns(time))
        if position is None:
            return engine.source.first()
        position = check_position(position)
        if position > (end := engine.source.end(False)):
            raise PositionError(
                "the log has not reached this position", position=position, hint=f"It ends at {end}"
            )
        return position

    def read_backwards(self, position: int | None = None, *, stop: int = 0) -> Iterator[Record]:
        """Records from `position` - 1 (default: the newest) down to `stop` or the oldest there is.

        Memory stays flat. Errors as `read_from`.
        """
        engine, stop = self._any(), check_position(stop)
        rewinds = engine.source.rewinds()
        start = self._start_position(engine, position, None)
        first = engine.source.first()
        if position is None:
            start = engine.source.end(False)
        if start < first:
            raise pruned_error(start, first)
        return read_backwards(engine.source, engine.kept, start, max(stop, first), rewinds, self)

    def read(self, position: int) -> Record:
        """The record at `position`; an index look-up and one or two reads of the file.

        PrunedError if it was truncated, PositionError if it is not there yet, DamageError.
        """
        engine = self._any()
        return read_one(engine.source, engine.kept, check_position(position))

    def read_many(self, positions: Sequence[int]) -> list[Record]:
        """The records at these positions, in this order. Rising positions cost least: those near
        each other share a read of the file. Errors as `read`, for the first that is not there.
        """
        engine = self._any()
        return read_many(engine.source, engine.kept, [check_position(p) for p in positions])

    # --- Truncation -------------------------------------------------------------------------------

    def truncate_before(self, position: int) -> int:
        """Remove the oldest segments that hold only records below `position`; the new first
        position (at most `position`: whole segments, and never past a pin).

        Durable at return. Readers that were further back get PrunedError.
        """
        return self._live().truncate_before(check_position(position))

    def truncate_after(self, position: int) -> None:
        """Remove every record from `position` on (a Raft conflict), so that `position` is the end.

        Durable at return, and atomic: after a crash either all of them are gone or none. These
        positions, and only these, will be given again; readers that had passed `position` get
        RewoundError.
        """
        self._live().truncate_after(check_position(position))

    def apply_retention(self) -> int:
        """Remove what the configured retention no longer wants; the first position.

        Happens by itself whenever a segment is full.
        """
        return self._live().apply_retention()

    def pin(self, name: str, position: int) -> None:
        """Keep records from `position` on, whoever truncates: a durable, named low-water mark."""
        self._live().change_pin(retention.check_pin_name(name), check_position(position))

    def unpin(self, name: str) -> None:
        """Remove a pin; nothing happens if there is none of that name."""
        self._live().change_pin(retention.check_pin_name(name), None)

    def pins(self) -> dict[str, int]:
        """All pins, by name."""
        return retention.load_pins(self._any().directory)

    @property
    def snapshots(self) -> Snapshots:
        """The snapshots beside this log: what its records came to, as of a position."""
        return self._any().snapshots

    # --- Knowing ----------------------------------------------------------------------------------

    @property
    def path(self) -> str:
        """The log's directory."""
        return self._path

    @property
    def recovery(self) -> RecoveryReport:
        """What opening found and did."""
        return self._any().report

    @property
    def log_id(self) -> bytes:
        """The log's 16 random bytes."""
        return self._any().log_id or bytes(16)

    def stats(self) -> dict[str, Any]:
        """Numbers about the log, for people and dashboards."""
        engine = self._any()
        bases = engine.source.view().bases
        end = engine.source.end(False)
        return {
            "path": self._path,
            "log_id": (engine.log_id or b"").hex(),
            "backend": backend,
            "file_system": engine.directory.files.file_system(self._path),
            "first_position": engine.source.first(),
            "end_position": end,
            "durable_position": engine.source.end(True),
            "segments": len(bases),
            "bytes": bytes_on_disk(engine.directory, bases),
            "pins": self.pins(),
            "syncs": engine.control.load(fmt.WORD_SYNCS) if isinstance(engine, Engine) else None,
            "failed": isinstance(engine, Engine) and bool(engine.control.load(fmt.WORD_FAILED)),
        }

    def check(self) -> None:
        """Walk the whole log and every invariant; raises at the first that does not hold.

        Reads everything: see `treering.verify` for progress and a list of all problems.
        """
        engine = self._any()
        first, durable = engine.source.first(), engine.source.end(True)
        end = engine.source.end(False)  # last: while we look, others append and sync
        if not first <= durable <= end:
            raise self._broken(f"durable below {durable}, but it holds [{first}, {end})", durable)
        expected = first
        for record in self.read_from(first, stop=end):
            if record.position != expected:
                raise self._broken(f"position {record.position}, not {expected}", expected)
            expected += 1
        if expected < end and engine.source.first() <= first:
            raise self._broken(f"no record from {expected} on, the end is {end}", expected)
        damaged = engine.source.damaged_from()
        if damaged is not None:
            raise damaged[1]

    def _broken(self, what: str, position: int) -> DamageError:
        return DamageError(what, path=self._path, position=position, hint="Run `treering verify`")

    # --- Closing ----------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._engine is None and not self._forked

    def close(self) -> None:
        """Make everything durable and let go of the log; idempotent. FailedError, when all is let
        go of, if that could not be done, also for a failure long before; StorageError.

        A handle that is forgotten instead is closed when it is collected or the program ends; what
        was written is safe in any case.
        """
        self._forked = False
        self._unbind()
        if self._engine is not None:
            self._ending = self._engine
            self._engine = None
        if self._ending is not None:
            # If this is interrupted, another call goes on with it, or the collector.
            self._ending.close()
            self._finalizer.detach()
            self._ending = None

    def _unbind(self) -> None:
        for name in ("put", "delete", "current_position", "_rewinds"):
            vars(self).pop(name, None)

    def _after_fork(self) -> None:
        """In the child: what the parent holds is not ours."""
        engine, self._engine, self._ending = self._engine, None, None
        # Also for a handle that another thread was closing, or opening anew, in the parent.
        self._reopening = threading.Lock()
        self._finalizer.detach()
        if engine is not None:
            self._unbind()
            self._forked = True

    def __enter__(self) -> Wal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[Record]:
        return iter(self.read_from())

    def __repr__(self) -> str:
        return f"<treering.Wal {self._path!r}{' closed' if self.closed else ''}>"


_open_handles: weakref.WeakSet[Wal] = weakref.WeakSet()


def _forget_parents_handles() -> None:
    abandon_all()
    for wal in list(_open_handles):
        wal._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parents_handles)


def _absolute(path: str | os.PathLike[str]) -> str:
    text = path if isinstance(path, str) else getattr(path, "__fspath__", lambda: None)()
    if not isinstance(text, str):
        raise UsageError(f"the path must be a text or a path object, not {type(path).__name__}")
    if not text or "\0" in text:
        raise UsageError(f"this is no path: {text!r}", hint="The log's directory must have a name")
    return os.path.abspath(text)
