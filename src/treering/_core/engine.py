"""What an open handle consists of: built by opening, taken down by closing. `Wal` is its face.

Engine       a handle that may append: locks, control page, commit, deadline, writer, readers
QuietEngine  a read-only handle: the files alone
"""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
import weakref
from collections.abc import Callable

from . import format as fmt
from . import manifest as manifests
from . import recovery, retention
from . import segment as segments
from .commit import Commit, Deadline
from .control import Control
from .errors import (
    DiskFullError,
    FailedError,
    LockedError,
    PositionError,
    StorageError,
    TreeringError,
)
from .files import WRITE, Directory, SystemFiles
from .locks import AppendLock, HandleLocks, choose_lock_kind
from .options import WalConfig
from .quiet import Look, QuietSource
from .reader import rewound_error
from .recovery import Progress, RecoveryReport
from .snapshots import Snapshots
from .source import LiveSource, Segments, pruned_error
from .truncation import truncate_after, truncate_before
from .writer import Writer, publish, trusts_mapping


class Engine:
    """A live handle's parts. Knows nothing of `Wal`, so a forgotten handle can be collected."""

    def __init__(self, directory: Directory, config: WalConfig) -> None:
        self.directory = directory
        self.config = config
        _engines.add(self)
        self._closing = threading.RLock()  # a signal's handler may close what is being closed
        self._closed = False
        self._unsealed: tuple[tuple[fmt.SegmentHeader, int], ...] = ()
        if not directory.exists():
            if not config.create:
                raise recovery.not_found(directory.path)
            directory.make()
        # What a handle lets go of, last taken first, however far opening came.
        self._held = contextlib.ExitStack()
        try:
            self._assemble()
        except BaseException:
            self._held.close()
            raise
        try:
            self.writer.lock.run(self._settle_in)
            self.writer.seal_later(self._unsealed)
        except BaseException:
            with contextlib.suppress(FailedError):  # what made it fail is raised below
                self.close()
            raise

    def _settle_in(self) -> None:
        # First of all finish what a dead process began: the tail that it names may be gone.
        self.writer.catch_up()
        self.commit.open_tail()

    def _assemble(self) -> None:
        directory, config = self.directory, self.config
        self._locks = HandleLocks(directory)
        self._held.callback(self._locks.close)
        self._locks.begin(config.lock_timeout_seconds, directory.path)
        try:
            self.control, self.report, self.log_id = self._enter()
        finally:
            self._locks.end()
        self.commit = Commit(directory, self.control)
        self._held.callback(self.commit.close)
        self.deadline = self._make_deadline()
        arm = self.deadline.arm if self.deadline is not None else None
        self.writer = Writer(directory, config, self.control, self.commit, self.log_id, arm)
        if self.deadline is not None:
            self.deadline.disarm = self.writer.tail.disarm
        if retention.wants_retention(config):
            self.writer.chores.rolled = self.apply_retention
        self.source = LiveSource(directory, self.control)
        self.kept = Segments(self.source)
        self._held.callback(self.kept.close)
        self.snapshots = Snapshots(directory, self.log_id, config, self._publish_snapshot)

    def _make_deadline(self) -> Deadline | None:
        if self.config.fsync_policy.name != "batch":
            return None
        return Deadline(self.commit, self.control, self.config.fsync_policy)

    # --- Opening ----------------------------------------------------------------------------------

    def _enter(self) -> tuple[Control, RecoveryReport, bytes]:
        """Under the opening lock: be the first and recover, or join those who have it open."""
        if self._locks.alone():
            entered = self._recover(alone=True)
            if not self.config.exclusive:
                self._locks.share()
            return entered
        if self.config.exclusive or not self._locks.share():
            raise self._locked_error()
        control = Control.join(self.directory)
        self._held.callback(control.close)
        if control.load(fmt.WORD_FAILED):
            return self._take_over(control)
        log_id = self._log_id_of(control)
        first, end = control.load(fmt.WORD_FIRST), control.load(fmt.WORD_END)
        return control, RecoveryReport("joined", first, end), log_id

    def _log_id_of(self, control: Control) -> bytes:
        words = control.load(fmt.WORD_LOG_ID), control.load(fmt.WORD_LOG_ID + 1)
        return b"".join(word.to_bytes(8, "little") for word in words)

    def _take_over(self, failed: Control) -> tuple[Control, RecoveryReport, bytes]:
        """The log is dead for all who have it open. Wait for an append that had begun before it
        died, then recover; the new control page leaves the old handles behind for good."""
        AppendLock(failed, self.config.lock_timeout_seconds).run(lambda: None)
        failed.close()
        return self._recover(alone=False)

    def _recover(self, *, alone: bool) -> tuple[Control, RecoveryReport, bytes]:
        started = time.monotonic()
        facts = recovery.survey(self.directory)
        decided = recovery.plan(facts)
        if decided is None:
            if not self.config.create:
                raise recovery.not_found(self.directory.path)
            self._create()
            facts = recovery.survey(self.directory)
            decided = recovery.plan(facts)
            assert decided is not None
            report = RecoveryReport("created", decided.first_position, decided.end)
        else:
            recovery.refuse(decided)
            recovery.apply(self.directory, decided)
            self._reserve_tail(decided)
            self._mark_in_use()
            report = recovery.report(facts, decided, started)
        kind = choose_lock_kind(
            exclusive=self.config.exclusive, process_lock=self.config.process_lock
        )
        assert decided.log_id is not None
        control = Control.create(self.directory, decided.log_id, lock_kind=kind, reuse=alone)
        self._held.callback(control.close)
        publish(control, decided)
        self._unsealed = decided.seal
        return control, report, decided.log_id

    def _reserve_tail(self, decided: recovery.Plan) -> None:
        """A log that was copied or restored may have holes where its tail had reserved space. A
        store into one on a full disk would kill the process, so such a tail ends where it is."""
        if decided.tail is None or not trusts_mapping(self.directory, self.config):
            return
        with segments.open_segment(self.directory, decided.tail.base, WRITE) as file:
            try:
                file.allocate(file.size())
            except DiskFullError:
                file.truncate(decided.tail_end)

    def _mark_in_use(self) -> None:
        """Take back a clean close's word that nothing follows, before anything can."""
        manifest, _ = manifests.load(self.directory)
        if manifest is not None and manifest.clean_offset:
            manifests.store(
                self.directory,
                manifest._replace(sequence=manifest.sequence + 1, clean_offset=0),
            )

    def _create(self) -> None:
        """A new log: its first segment, then the manifest that vouches for it."""
        config = self.config
        header = fmt.SegmentHeader(
            uuid.uuid4().bytes, 0, 0, config.frame_align_bytes, config.now_ns()
        )
        trusted = trusts_mapping(self.directory, self.config)
        size = self.config.segment_bytes_max if trusted else fmt.SEGMENT_HEADER_BYTES
        name = segments.temporary_name()
        self.directory.sync_way()
        self.directory.remove(name)
        segments.prepare(self.directory, header, name, size)
        segments.install(self.directory, name, 0)
        manifests.create(
            self.directory, fmt.Manifest(header.log_id, 1, 0, 0, 0, fmt.NO_CUT, 0, 0, 0)
        )

    def _locked_error(self) -> LockedError:
        pid: int | None = None
        with contextlib.suppress(TreeringError, OSError, ValueError):
            pid = Control.owner_pid(self.directory) or None
        who = f"process {pid}" if pid else "another process"
        error = LockedError(
            f"the log is open in {who}",
            path=self.directory.path,
            hint="Close it there. Several processes may share a log if none opens it with "
            "exclusive=True; read_only=True needs no lock",
        )
        error.pid = pid
        return error

    # --- Retention --------------------------------------------------------------------------------

    def truncate_before(self, position: int) -> int:
        """Truncate as far as the pins allow; the new first position."""
        return self.writer.lock.run(self._truncate_locked, position)

    def _truncate_locked(self, position: int) -> int:
        # Pins are read under the lock that setting one takes: a pin that was set is respected.
        pins = retention.load_pins(self.directory)
        # And what the newest snapshot does not tell is needed by those who go on from it.
        newest = self.snapshots.positions()[:1]
        return truncate_before(self.writer, position, [*pins.values(), *newest])

    def truncate_after(self, end: int) -> None:
        """Remove every record from position `end` on."""
        self.writer.lock.run(truncate_after, self.writer, end)
        self.control.page.wake(fmt.WORD_END, fmt.WORD_APPEND_WAITERS)

    def _publish_snapshot(self, position: int, rewinds: int, rename: Callable[[], None]) -> None:
        """Give a snapshot its name, if the log still says what it says: see Snapshots.write."""
        self.writer.lock.run(self._publish_locked, position, rewinds, rename)

    def _publish_locked(self, position: int, rewinds: int, rename: Callable[[], None]) -> None:
        self.writer.catch_up()
        if self.control.load(fmt.WORD_REWINDS) != rewinds:
            raise rewound_error(self.source, position, self.source.rewinds()[1])
        if self.control.load(fmt.WORD_DURABLE) < position:
            raise PositionError(
                "the log is not durable so far", position=position, hint="Call sync() before"
            )
        rename()

    def apply_retention(self) -> int:
        """Remove what the configured retention no longer wants; the first position."""
        tail = self.writer.lock.run(retention.tail_now, self.control)
        end = self.control.load(fmt.WORD_END)
        target = retention.retention_target(self.directory, end, tail, self.config)
        if target > self.control.load(fmt.WORD_FIRST):
            return self.truncate_before(target)
        return self.control.load(fmt.WORD_FIRST)

    def change_pin(self, name: str, position: int | None) -> None:
        """Set or remove a pin."""
        self.writer.lock.run(self._change_pin_locked, name, position)

    def _change_pin_locked(self, name: str, position: int | None) -> None:
        self.commit.check()  # on a dead log, others may hold pins by a newer lock than ours
        pins = retention.load_pins(self.directory)
        if position is None:
            pins.pop(name, None)
        elif position < (first := self.control.load(fmt.WORD_FIRST)):
            raise pruned_error(position, first)
        else:
            pins[name] = position
        retention.store_pins(self.directory, pins)

    # --- Closing ----------------------------------------------------------------------------------

    def close(self) -> None:
        """Make everything durable, let go of everything; idempotent. The first failure is raised
        after all is let go."""
        with self._closing:
            if self._closed:
                return
            try:
                self._sync_at_close()
            finally:
                try:
                    self.writer.close(clean=self._is_last())
                finally:
                    try:
                        self._held.close()
                    finally:
                        # The rest, if an exception came in between; it may have cost one of them.
                        self._held.close()
                        self._locks.close()
                        # Last: a close that was interrupted is finished by the next one.
                        self._closed = True

    def _is_last(self) -> bool:
        try:
            return self._locks.last_one()
        except StorageError:
            return False  # then nobody vouches for the tail, and the next opening scans it

    def _sync_at_close(self) -> None:
        if self.deadline is not None:
            self.deadline.stop()
        if self.control.closed:
            return
        end = self.control.load(fmt.WORD_END)
        if end:
            # Also if the log failed long before: nobody else may have been there to be told.
            self.commit.wait(end - 1)

    def abandon(self) -> None:
        """In a forked child: close the inherited descriptors and mappings, and touch nothing else.
        The locks are the parent's and stay so: closing does not give up what a child inherits."""
        self._closed = True
        self._closing = threading.RLock()  # another thread of the parent may have been inside
        self.directory.abandon()
        for name in ("control", "writer", "kept"):
            part = getattr(self, name, None)
            if part is not None:  # another thread may be opening or closing in the parent
                part.abandon()


class QuietEngine:
    """A read-only handle's parts."""

    def __init__(
        self, directory: Directory, config: WalConfig, progress: Progress | None = None
    ) -> None:
        self.directory = directory
        self.config = config
        _engines.add(self)
        started = time.monotonic()
        if not directory.exists():
            raise recovery.not_found(directory.path)
        facts, decided = recovery.steady_plan(directory, progress)
        start = _look(facts, decided, decided.epoch)
        if start.damage is not None and decided.damage is None:
            raise start.damage
        self.report = recovery.report(facts, decided, started)
        self.log_id = decided.log_id
        self.source = QuietSource(directory, start, self._look_again)
        self.kept = Segments(self.source)
        self.snapshots = Snapshots(directory, self.log_id or bytes(16), config)

    def _look_again(self, epoch: int) -> Look:
        """After truncate_after by a live writer: where the log starts and ends now."""
        return _look(*recovery.steady_plan(self.directory), epoch)

    def close(self) -> None:
        """Let go of the files; idempotent."""
        self.kept.close()
        self.source.close()

    def abandon(self) -> None:
        """In a forked child: as `Engine.abandon`."""
        self.directory.abandon()
        for name in ("source", "kept"):
            part = getattr(self, name, None)
            if part is not None:
                part.abandon()


# Also those that are being opened or closed just now, which no Wal shows.
_engines: weakref.WeakSet[Engine | QuietEngine] = weakref.WeakSet()


def abandon_all() -> None:
    """In a forked child: all engines are the parent's."""
    for engine in list(_engines):
        engine.abandon()


def _look(facts: recovery.Survey, decided: recovery.Plan, epoch: int) -> Look:
    """What the files say to a read-only handle that last looked in that epoch."""
    damage = None
    try:
        recovery.refuse(decided)
    except TreeringError as error:
        damage = error
    cuts = [fact.base for fact in facts.segments if fact.header and fact.header.epoch > epoch]
    now = epoch if facts.manifest is None else facts.manifest.epoch
    if facts.manifest is not None and now > epoch:
        cuts.append(facts.manifest.cut)
    first, end = decided.first_position, decided.end
    durable = max(decided.durable, first)
    return Look(first, end, durable, now, min([end, *cuts]), damage)


def directory_of(path: str, config: WalConfig) -> Directory:
    """The log's directory behind the configured door."""
    return Directory(config.files or SystemFiles(), path)
