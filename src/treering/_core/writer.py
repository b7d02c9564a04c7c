"""Everything that adds to the log, under the append lock: append, mend, roll.

`Tail` does the ordinary append; this module does the rest of it: records with options, a full
segment, another process's roll, a dead writer's half-written frame. What a death can leave behind
is marked in the control page before it is begun (WORD_DIRTY), so that the next holder of the lock
finishes or undoes it.

Refuses to know readers, policies and handles.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from . import format as fmt
from . import manifest as manifests
from . import recovery
from . import segment as segments
from .chores import SPARE, Chores, take_spare
from .codec import Record, Tail, encode_frame, frame_bytes
from .commit import Commit
from .control import Control
from .errors import (
    ClosedError,
    DamageError,
    DiskFullError,
    StorageError,
    TooLargeError,
    TreeringError,
    conflict_error,
    failed_error,
)
from .files import Directory
from .intake import Intake
from .locks import AppendLock
from .options import WalConfig
from .snapshots import Snapshots
from .tail_segment import TailSegment


class Writer:
    """The appending side of an open log. Thread-safe; methods that say so want the append lock."""

    def __init__(
        self,
        directory: Directory,
        config: WalConfig,
        control: Control,
        commit: Commit,
        log_id: bytes,
        arm: Callable[[], None] | None,
    ) -> None:
        self.directory = directory
        self.control = control
        self.commit = commit
        self._config = config
        self._log_id = log_id
        self._arm = arm
        self.intake = Intake(config, control)
        self.snapshots = Snapshots(directory, log_id, config)
        self.lock = AppendLock(control, config.lock_timeout_seconds)
        self.tail = Tail(
            control.page,
            self.lock.run,
            self.append,
            self.intake.make,
            self._request_chores,
            arm,
            commit.wait,
            self.intake.plain_bytes_max,
            None if config.clock is None else config.now_ns,
            self.lock.try_run,
        )
        trusted = trusts_mapping(directory, config)
        self._segment = TailSegment(
            directory,
            self.tail,
            trusted=trusted,
            mapped=trusted if config.map_tail is None else config.map_tail,
            bytes_max=config.segment_bytes_max,
        )
        self.chores = Chores(
            directory,
            control,
            self._segment.populate,
            self._move_chores,
            config.segment_bytes_max if trusted else 0,
        )

    def _request_chores(self) -> None:
        self.chores.request()

    def _move_chores(self, offset: int) -> None:
        self.tail.chore_offset = offset

    # --- Append ----------------------------------------------------------------------------------

    def append(
        self, items: Sequence[Record | tuple[bytes, bytes]], durable: bool, at: int | None = None
    ) -> int:
        """Append records, or (key, value) pairs, as one atomic frame; the first one's position,
        which has to be `at` unless that is None (ConflictError)."""
        records = tuple(map(self.intake.as_record, items))
        self.intake.check_sizes(records)
        position = self.lock.run(self._append_locked, records, at)
        self.control.page.wake(fmt.WORD_END, fmt.WORD_APPEND_WAITERS)
        self.chores.request()
        if self._arm is not None:
            self._arm()
        if durable:
            self.commit.wait(position + len(records) - 1)
        return position

    def _append_locked(self, records: Sequence[Record], at: int | None) -> int:
        self.catch_up()
        load = self.control.load
        if at is not None and at != load(fmt.WORD_END):
            raise conflict_error(at, load(fmt.WORD_END))
        position = load(fmt.WORD_END)
        if position + len(records) >= fmt.POSITION_MAX:
            hint = "Copy what is still wanted into a new log"
            raise TooLargeError("the log's positions are used up", position=position, hint=hint)
        header = self._segment.header
        size = 0 if header is None else frame_bytes(records, header.align)
        if header is None or load(fmt.WORD_END_OFFSET) + size > self._segment.limit:
            self._make_room(size, frame_bytes(records, self._config.frame_align_bytes))
        self._write_frame(records, position, load(fmt.WORD_END_OFFSET))
        return position

    def _write_frame(self, records: Sequence[Record], position: int, offset: int) -> None:
        header, page = self._segment.header, self.control.page
        if header is None:  # a signal's handler forked just now, and this is the child
            raise ClosedError("the log was let go during the append", hint="Open it again")
        now_ns = self._config.now_ns()
        durable = self.control.load(fmt.WORD_DURABLE)
        frame = encode_frame(
            records, position, durable, header.tag, header.seed, header.align, now_ns
        )
        newest = max(now_ns, *(record.timestamp_ns or 0 for record in records))
        try:
            page.begin(position, offset, offset + len(frame))
            self._segment.store(frame, offset)
            page.finish(position + len(records), offset + len(frame), newest)
        except StorageError:
            # The caller will be told that nothing was appended: so even a whole frame has to go.
            self.dead_on_error(self._erase_frame, position, offset, offset + len(frame))
            raise
        except BaseException:
            self._settle()
            raise

    # --- Catching up with what others did, or left undone -----------------------------------------

    def catch_up(self) -> None:
        """Under the append lock: see what other processes did, mend what a dead one left."""
        self.commit.check()
        if self.control.load(fmt.WORD_DIRTY):
            self._settle()
        self._follow_tail()

    def _follow_tail(self) -> None:
        base, epoch = self.control.load(fmt.WORD_TAIL_BASE), self.control.load(fmt.WORD_EPOCH)
        if (base, epoch) != (self._segment.base, self._segment.epoch):
            self._attach(base)

    def _attach(self, base: int) -> None:
        epoch, offset = self.control.load(fmt.WORD_EPOCH), self.control.load(fmt.WORD_END_OFFSET)
        closed = offset >= fmt.TAIL_CLOSED
        self._segment.attach(base, epoch, closed=closed, fast=self.lock.native_safe)
        self.chores.attached(offset, self._segment.limit)

    def _settle(self) -> None:
        """Finish or undo what was begun and never finished."""
        end = self.control.load(fmt.WORD_DIRTY)
        if end == 0:
            return
        offset = self.control.load(fmt.WORD_DIRTY_OFFSET)
        if end == fmt.DIRTY_FILES or not offset < end <= offset + fmt.FRAME_BYTES_LIMIT:
            self.derive_from_files()
            return
        self._follow_tail()
        self.dead_on_error(self._settle_frame, end)

    def _settle_frame(self, end: int) -> None:
        """A frame was being written up to `end`: adopt it if it is whole, else erase it."""
        offset = self.control.load(fmt.WORD_DIRTY_OFFSET)
        position = self.control.load(fmt.WORD_DIRTY_POSITION)
        whole = self._segment.whole_frame(position, offset, end)
        if whole is not None:
            self.control.page.finish(whole[0], end, whole[1])
        else:
            self._erase_frame(position, offset, end)

    def _erase_frame(self, position: int, offset: int, end: int) -> None:
        self._segment.erase(offset, end)
        self.control.page.finish(position, offset, 0)

    def derive_from_files(self) -> None:
        """Under the append lock: a roll or a truncation was interrupted; find out from the files
        how far it came, and finish it."""
        self._segment.detach()
        decided = recovery.plan(recovery.survey(self.directory))
        if decided is None:
            raise recovery.not_found(self.directory.path)
        recovery.refuse(decided)
        if decided.epoch != self.control.load(fmt.WORD_EPOCH):
            tell_readers(self.control, decided.end)  # before what was cut goes
        recovery.apply(self.directory, decided)
        publish(self.control, decided)
        self.seal_later(decided.seal)

    def seal_later(self, segments_without: Iterable[tuple[fmt.SegmentHeader, int]]) -> None:
        """Have the footers written that recovery found missing; they only save time."""
        for header, end in segments_without:
            self.chores.seal(header, end)

    def dead_on_error(self, action: Callable[..., None], *args: Any) -> None:
        """Run a step after whose failure nobody knows what is durable. A full disk is not that, nor
        a file that could not be opened: the dirty mark stays, and the next append tries again."""
        try:
            action(*args)
        except DiskFullError:
            raise
        except StorageError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise
            self.control.fail(error.errno or 5)
            raise failed_error(error.errno or 5, self.directory.path) from error

    # --- A full segment ---------------------------------------------------------------------------

    def _make_room(self, size: int, size_in_new: int) -> None:
        """Room for a frame of `size` bytes: in the tail if it may still grow, else in a new
        segment, whose alignment may be another. DiskFullError leaves everything as it was."""
        offset = self.control.load(fmt.WORD_END_OFFSET)
        header = self._segment.header
        if header is not None and offset < fmt.TAIL_CLOSED:
            wanted = self._config.segment_bytes_max
            if offset == header.frames_start:  # an empty segment takes a record of any size
                wanted = _segment_bytes(wanted, offset + size)
            if offset + size <= wanted and self._grow(wanted):
                return
        self.roll(size_in_new)

    def _grow(self, wanted: int) -> bool:
        """Extend the tail to `wanted` bytes, or notice that another process has."""
        base = self._segment.base
        self._segment.allocate(wanted, self.commit.sync_file)
        self._attach(base)
        if not self._segment.trusted:
            self._segment.limit = max(self._segment.limit, wanted)
        return self._segment.limit >= wanted

    def roll(self, size: int = 0) -> None:
        """Under the append lock: start a new segment with room for a frame of `size` bytes.

        Order is all: the new file is whole before the old one is fsynced, the old one durable
        before the new one has its name, the name durable before anybody appends.
        """
        control = self.control
        base, old = control.load(fmt.WORD_END), self._segment.header
        manifest = self.manifest()
        header = fmt.SegmentHeader(
            self._log_id,
            base,
            manifest.epoch,
            self._config.frame_align_bytes,
            self._config.now_ns(),
        )
        needed = _segment_bytes(self._config.segment_bytes_max, header.frames_start + size)
        name = self._prepare(header, needed)
        self.commit.sync_for_roll()
        control.store(fmt.WORD_DIRTY, fmt.DIRTY_FILES)
        self.dead_on_error(self._switch, name, base, manifest)
        control.store(fmt.WORD_TAIL_BASE, base)
        control.store(fmt.WORD_END_OFFSET, header.frames_start)
        control.store(fmt.WORD_EPOCH, manifest.epoch)
        control.store(fmt.WORD_CHANGES, control.load(fmt.WORD_CHANGES) + 1)
        control.store(fmt.WORD_DIRTY, 0)
        self._attach(base)
        if old is not None:
            self.chores.seal(old, base)

    def _switch(self, name: str, base: int, manifest: fmt.Manifest) -> None:
        segments.install(self.directory, name, base)
        self.store_manifest(
            manifest._replace(
                tail_base=base,
                cut=fmt.NO_CUT,
                clean_position=0,
                clean_offset=0,
                newest_ns=self.control.load(fmt.WORD_NEWEST),
            )
        )

    def _prepare(self, header: fmt.SegmentHeader, size_bytes: int) -> str:
        """The name of a finished segment file that is not yet part of the log."""
        name = segments.temporary_name()
        self.directory.remove(name)
        if not self._segment.trusted:
            segments.prepare(self.directory, header, name, fmt.SEGMENT_HEADER_BYTES)
        elif not take_spare(self.directory, name, header, size_bytes):
            segments.prepare(self.directory, header, name, size_bytes)
        return name

    def manifest(self) -> fmt.Manifest:
        """The manifest as it is now."""
        found, _ = manifests.load(self.directory)
        if found is None:
            raise DamageError(
                "the manifest disappeared while the log was open",
                path=self.directory.join(fmt.MANIFEST_NAME),
                hint="Close the log and run `treering verify` on it",
            )
        return found

    def store_manifest(self, manifest: fmt.Manifest) -> None:
        """Replace the manifest; durable at return."""
        manifests.store(self.directory, manifest._replace(sequence=manifest.sequence + 1))

    # --- The end ----------------------------------------------------------------------------------

    def close(self, *, clean: bool) -> None:
        """Let go of the tail. With `clean` (the last handle, all durable) vouch for it, so that
        the next opening need not scan."""
        self.chores.stop()
        try:
            self.lock.run(self._close_locked, clean)
        except TreeringError:  # a stopped process has the lock
            self.lock.shut()
            self._segment.detach()

    def _close_locked(self, clean: bool) -> None:
        self.lock.closed = True  # nothing may follow what we vouch for
        try:
            if clean:
                with contextlib.suppress(StorageError):
                    self.directory.remove(SPARE)
                self._vouch()
        finally:
            self._segment.detach()

    def _vouch(self) -> None:
        load = self.control.load
        offset, position = load(fmt.WORD_END_OFFSET), load(fmt.WORD_END)
        if load(fmt.WORD_DIRTY) or load(fmt.WORD_FAILED):
            return
        if offset >= fmt.TAIL_CLOSED or load(fmt.WORD_DURABLE) < position:
            return
        manifest = self.manifest()
        if manifest.tail_base == load(fmt.WORD_TAIL_BASE) and manifest.cut == fmt.NO_CUT:
            self.store_manifest(
                manifest._replace(
                    clean_position=position,
                    clean_offset=offset,
                    newest_ns=load(fmt.WORD_NEWEST),
                )
            )

    def abandon(self) -> None:
        """In a forked child: drop what belongs to the parent without touching the log."""
        self.chores.abandon()
        self._segment.abandon()


def _segment_bytes(bytes_max: int, needed: int) -> int:
    """The size of a segment that must hold `needed` bytes."""
    return bytes_max if needed <= bytes_max else fmt.align_up(needed, 4096)


def publish(control: Control, decided: recovery.Plan) -> None:
    """Set the control page to what recovery found; under the append lock, or before all others."""
    store = control.store
    tail_base = decided.last.base if decided.last is not None else fmt.NO_TAIL
    closed = decided.tail is None
    store(fmt.WORD_TAIL_BASE, tail_base)
    store(fmt.WORD_END_OFFSET, fmt.TAIL_CLOSED if closed else decided.tail_end)
    store(fmt.WORD_END, decided.end)
    store(fmt.WORD_DURABLE, decided.end)
    store(fmt.WORD_EPOCH, decided.epoch)
    store(fmt.WORD_FIRST, decided.first_position)
    store(fmt.WORD_NEWEST, max(decided.newest_ns, control.load(fmt.WORD_NEWEST)))
    store(fmt.WORD_CHANGES, control.load(fmt.WORD_CHANGES) + 1)
    store(fmt.WORD_DIRTY, 0)


def tell_readers(control: Control, end: int) -> None:
    """The log was cut at `end`; under the append lock. The end moves first: a reader looks at the
    end and then for cuts, so that one of the two tells it. The epoch, by which the next one knows
    that it was not yet told, moves when all is done. Cuts lie in two words by turns: a reader gets
    a count and its cut together, and waits for no teller that died or that it interrupted."""
    store, load = control.store, control.load
    store(fmt.WORD_END, end)
    store(fmt.WORD_DURABLE, min(load(fmt.WORD_DURABLE), end))
    count = load(fmt.WORD_REWINDS) + 1
    store(fmt.WORD_REWIND_CUT + count % 2, end)
    store(fmt.WORD_REWINDS, count)


def trusts_mapping(directory: Directory, config: WalConfig) -> bool:
    """Whether space is reserved and the tail may be mapped here: by the file system, or because
    the user says so."""
    return directory.mapping_trusted() or config.map_tail is True
