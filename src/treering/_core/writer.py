"""Everything that changes the log, under the append lock: append, roll, truncate.

`Tail` does the ordinary append; this module does the rest of it: records with options, a full
segment, another process's roll, a dead writer's half-written frame. What a death can leave behind
is marked in the control page before it is begun (WORD_DIRTY), so that the next holder of the lock
finishes or undoes it.

Knows the tail segment and the manifest; refuses to know readers, policies and handles.
"""

from __future__ import annotations

import os
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from . import compression, recovery
from . import format as fmt
from . import manifest as manifests
from . import segment as segments
from .codec import Record, Tail, encode_frame, frame_bytes, scan
from .commit import Commit, failed_error
from .control import AppendLock, Control
from .errors import (
    DiskFullError,
    PositionError,
    StorageError,
    TooLargeError,
    TreeringError,
    UsageError,
)
from .files import CREATE_NEW, WRITE, Directory, File, Mapping
from .options import RECORD_BYTES_RECOMMENDED, WalConfig
from .view import View

# How far ahead of the tail pages are prepared, so that appends do not take the faults.
AHEAD_BYTES = 1 << 20


class LargeRecordWarning(UserWarning):
    """A record over the recommended size: it works, but slows replay for everybody."""


class Writer:
    """The appending side of an open log. Thread-safe."""

    def __init__(
        self,
        directory: Directory,
        config: WalConfig,
        control: Control,
        commit: Commit,
        log_id: bytes,
        arm: Callable[[], None] | None,
    ) -> None:
        self._directory = directory
        self._config = config
        self._control = control
        self._commit = commit
        self._log_id = log_id
        self._clock = config.clock or time.time_ns
        self._trusted = directory.mapping_trusted()
        self._mapped = self._trusted if config.map_tail is None else config.map_tail
        self._base = -1
        self._header: fmt.SegmentHeader | None = None
        self._file: File | None = None
        self._mapping: Mapping | None = None
        # Held while the mapping is replaced, and while pages of it are prepared without the
        # append lock.
        self._mapping_lock = threading.Lock()
        self._limit = 0
        self._warned = False
        self._chores = Chores(self)
        self.rolled: Callable[[], None] = lambda: None
        self.lock = AppendLock(control, config.lock_timeout_seconds)
        self.tail = Tail(
            control.page,
            self.lock.run,
            self.append,
            self.make,
            self._chores.request,
            arm,
            commit.wait,
            _plain_bytes_max(config),
            config.clock,
        )

    # --- Append ----------------------------------------------------------------------------------

    def make(
        self,
        key: bytes,
        value: bytes,
        tombstone: bool,
        ttl: float | None,
        expires_at: float | None,
        headers: Any,
        compression_name: str | None,
        stream: int,
    ) -> Record:
        """The record that a call's keywords describe."""
        if ttl is not None:
            if expires_at is not None:
                raise UsageError("give ttl or expires_at, not both")
            if not isinstance(ttl, int | float) or not ttl > 0:
                raise UsageError(f"ttl must be a number of seconds over 0, not {ttl!r}")
            expires_at = (self.now_ns() + round(ttl * 1e9)) / 1e9
        record = Record(
            key,
            value,
            expires_at=expires_at,
            headers=headers,
            stream=stream,
            tombstone=tombstone,
        )
        return self.compressed(record, compression_name)

    def now_ns(self) -> int:
        """The time for expiry: never before the newest record in the log (clocks step back)."""
        return max(self._clock(), self._control.load(fmt.WORD_NEWEST))

    def compressed(self, record: Record, name: str | None) -> Record:
        """The record as it will be stored."""
        name = name or self._config.compression
        if name in (None, "none") or record.tombstone or not record.value:
            return record
        if name not in fmt.COMPRESSIONS:
            raise UsageError(
                f"unknown compression {name!r}",
                hint=f"Known are none, {', '.join(fmt.COMPRESSIONS)}",
            )
        assert name is not None
        packed = compression.compress(name, bytes(record.value))
        return record if packed is None else record._packed(fmt.COMPRESSIONS[name], packed)

    def append(self, records: Sequence[Record], durable: bool) -> int:
        """Append `records` as one atomic frame; the position of the first."""
        records = tuple(records)
        self._check_sizes(records)
        position = self.lock.run(self._append_locked, records)
        self._control.page.wake(fmt.WORD_END, fmt.WORD_APPEND_WAITERS)
        self._chores.request()
        self._chores.arm()
        if durable:
            self._commit.wait(position + len(records) - 1)
        return position

    def _check_sizes(self, records: Sequence[Record]) -> None:
        config = self._config
        total = 0
        for record in records:
            size = frame_bytes((record,), 8) - fmt.FRAME_HEADER_BYTES
            total += size
            if size > config.record_bytes_max:
                raise TooLargeError(
                    f"the record takes {size} bytes, record_bytes_max is {config.record_bytes_max}",
                    hint="Raise the limit, or keep large values in files and log a reference",
                )
            if size > RECORD_BYTES_RECOMMENDED and not self._warned:
                self._warned = True
                warnings.warn(
                    f"a record of {size} bytes: over 1 MiB, keep the value in a file and log a "
                    "reference to it (said once per handle)",
                    LargeRecordWarning,
                    stacklevel=4,
                )
        if len(records) > 1 and total > config.batch_bytes_max:
            raise TooLargeError(
                f"the batch takes {total} bytes, batch_bytes_max is {config.batch_bytes_max}",
                hint="Append it in several batches, or raise the limit",
            )

    def _append_locked(self, records: Sequence[Record]) -> int:
        self.catch_up()
        size = frame_bytes(records, self._align())
        offset = self._control.load(fmt.WORD_END_OFFSET)
        if offset + size > self._limit:
            self._make_room(size)
            offset = self._control.load(fmt.WORD_END_OFFSET)
        position = self._control.load(fmt.WORD_END)
        self._write_frame(records, position, offset)
        return position

    def _align(self) -> int:
        return self._header.align if self._header is not None else self._config.frame_align_bytes

    def _write_frame(self, records: Sequence[Record], position: int, offset: int) -> None:
        assert self._header is not None
        now_ns = self._clock()
        header, page = self._header, self._control.page
        durable = self._control.load(fmt.WORD_DURABLE)
        frame = encode_frame(
            records, position, durable, header.tag, header.seed, header.align, now_ns
        )
        newest = max(now_ns, *(record.timestamp_ns or 0 for record in records))
        try:
            page.begin(position, offset, offset + len(frame))
            self._store(frame, offset)
            page.finish(position + len(records), offset + len(frame), newest)
        except BaseException:
            self._settle()
            raise

    def _store(self, frame: bytes, offset: int) -> None:
        if self._mapping is not None:
            with memoryview(self._mapping) as view:
                view[offset : offset + len(frame)] = frame
        else:
            assert self._file is not None
            self._file.write(frame, offset)

    # --- Catching up with what others did, or left undone -----------------------------------------

    def catch_up(self) -> None:
        """Under the append lock: see what other processes did, mend what a dead one left."""
        self._commit.check()
        if self._control.load(fmt.WORD_DIRTY):
            self._settle()
        base = self._control.load(fmt.WORD_TAIL_BASE)
        if base != self._base:
            self._attach(base)

    def _settle(self) -> None:
        """Finish or undo what was begun and never finished."""
        dirty = self._control.load(fmt.WORD_DIRTY)
        if dirty == 0:
            return
        if dirty == fmt.DIRTY_FILES:
            self._derive_from_files()
            return
        base = self._control.load(fmt.WORD_TAIL_BASE)
        if base != self._base:
            self._attach(base)
        offset = self._control.load(fmt.WORD_DIRTY_OFFSET)
        position = self._control.load(fmt.WORD_DIRTY_POSITION)
        try:
            if not self._adopt(position, offset, dirty):
                self._erase(offset, dirty)
                self._control.page.finish(position, offset, 0)
        except StorageError as error:
            self._control.fail(error.errno or 5)
            raise failed_error(error.errno or 5, self._directory.path) from error

    def _adopt(self, position: int, offset: int, end: int) -> bool:
        """Publish the frame if it is whole."""
        assert self._file is not None and self._header is not None
        block = self._file.read(end - offset, offset)
        found = scan(
            block, 0, len(block), position, self._header.tag, self._header.seed
        )
        if found.offset != end - offset or found.position <= position:
            return False
        self._control.page.finish(found.position, end, found.newest_ns)
        return True

    def _erase(self, offset: int, end: int) -> None:
        """Take the bytes of a half-written frame away, so that they never look like damage."""
        assert self._file is not None
        if self._trusted:
            self._file.write(bytes(end - offset), offset)
        else:
            # Space is not reserved here: writing zeros may fail, giving space back does not.
            self._file.truncate(offset)

    def _derive_from_files(self) -> None:
        """A roll or a truncation was interrupted: find out from the files how far it came."""
        self._detach()
        facts = recovery.survey(self._directory)
        decided = recovery.plan(facts)
        if decided is None:
            raise recovery.not_found(self._directory.path)
        recovery.refuse(decided)
        recovery.apply(self._directory, decided)
        publish(self._control, decided)

    def _attach(self, base: int) -> None:
        """Make the segment of `base` the one we append to."""
        self._detach()
        if base == fmt.NO_TAIL:
            self._base, self._limit = base, 0
            return
        file = segments.open_segment(self._directory, base, WRITE)
        try:
            header = segments.read_header(file)
            size = file.size()
            if self._mapped:
                self._mapping = file.map(size, write=True)
        except fmt.FormatError as error:
            file.close()
            raise UsageError(f"the tail segment's header is damaged: {error}") from error
        except BaseException:
            file.close()
            raise
        self._file, self._header, self._base = file, header, base
        self._limit = size if self._trusted else max(size, self._config.segment_bytes_max)
        if self._mapping is not None and self.lock.native_safe:
            self.tail.attach(
                self._mapping, base, self._limit, header.align, header.tag, header.seed
            )
        self._chores.attached(self._control.load(fmt.WORD_END_OFFSET), self._limit)

    def _detach(self) -> None:
        with self._mapping_lock:
            self.tail.detach()
            mapping, self._mapping = self._mapping, None
            if mapping is not None:
                mapping.close()
        file, self._file = self._file, None
        if file is not None:
            file.close()
        self._base, self._header, self._limit = -1, None, 0

    # --- A full segment ---------------------------------------------------------------------------

    def _make_room(self, size: int) -> None:
        """Room for a frame of `size` bytes: in the tail if it may still grow, else in a new
        segment. DiskFullError leaves everything as it was."""
        offset = self._control.load(fmt.WORD_END_OFFSET)
        if self._header is not None and offset < fmt.TAIL_CLOSED:
            empty = offset == self._header.frames_start
            wanted = self._config.segment_bytes_max
            if empty:
                wanted = max(wanted, fmt.align_up(offset + size, 4096))
            if offset + size <= wanted and self._grow(wanted):
                return
        self.roll(size)

    def _grow(self, wanted: int) -> bool:
        """Extend the tail to `wanted` bytes, or notice that another process has."""
        assert self._file is not None
        base = self._base
        if self._trusted and self._file.size() < wanted:
            self._file.allocate(wanted)
            self._file.sync()
        self._attach(base)
        self._limit = max(self._limit, 0 if self._trusted else wanted)
        return self._limit >= wanted

    def roll(self, size: int = 0) -> None:
        """Under the append lock: seal the tail and start a new segment."""
        control = self._control
        base = control.load(fmt.WORD_END)
        manifest = self._manifest()
        header = fmt.SegmentHeader(
            self._log_id,
            base,
            manifest.epoch,
            self._config.frame_align_bytes,
            self._clock(),
        )
        needed = fmt.align_up(header.frames_start + size, 4096)
        name = self._prepared(header, max(self._config.segment_bytes_max, needed))
        self._commit.sync_for_roll()
        old = self._base
        control.store(fmt.WORD_DIRTY, fmt.DIRTY_FILES)
        self._dead_on_error(self._switch, name, base, manifest)
        control.store(fmt.WORD_TAIL_BASE, base)
        control.store(fmt.WORD_END_OFFSET, header.frames_start)
        control.store(fmt.WORD_EPOCH, manifest.epoch)
        control.store(fmt.WORD_CHANGES, control.load(fmt.WORD_CHANGES) + 1)
        control.store(fmt.WORD_DIRTY, 0)
        self._attach(base)
        if old not in (-1, fmt.NO_TAIL):
            self._chores.seal(old, base)

    def _switch(self, name: str, base: int, manifest: fmt.Manifest) -> None:
        segments.install(self._directory, name, base)
        self._store_manifest(
            manifest._replace(
                tail_base=base,
                cut=fmt.NO_CUT,
                clean_position=0,
                clean_offset=0,
                clean_newest_ns=0,
            )
        )

    def _prepared(self, header: fmt.SegmentHeader, size_bytes: int) -> str:
        """The name of a finished segment file that is not yet part of the log."""
        name = segments.temporary_name()
        self._directory.remove(name)
        if not self._trusted:
            segments.prepare(self._directory, header, name, fmt.SEGMENT_HEADER_BYTES)
        elif not self._chores.take_spare(name, header, size_bytes):
            segments.prepare(self._directory, header, name, size_bytes)
        return name

    def _manifest(self) -> fmt.Manifest:
        found, _ = manifests.load(self._directory)
        if found is None:
            raise UsageError(
                "the manifest disappeared while the log was open",
                path=self._directory.path,
                hint="Run `treering verify` on the log",
            )
        return found

    def _store_manifest(self, manifest: fmt.Manifest) -> None:
        manifests.store(self._directory, manifest._replace(sequence=manifest.sequence + 1))

    def _dead_on_error(self, action: Callable[..., None], *args: Any) -> None:
        """Run a step after whose failure nobody knows what is durable. A full disk is not that:
        the step is derived from the files and may be tried again."""
        try:
            action(*args)
        except DiskFullError:
            raise
        except StorageError as error:
            self._control.fail(error.errno or 5)
            raise failed_error(error.errno or 5, self._directory.path) from error

    # --- Truncation -------------------------------------------------------------------------------

    def truncate_before_locked(self, position: int) -> int:
        """Remove whole segments before `position`; the new first position. Under the append lock."""
        self.catch_up()
        control = self._control
        end = control.load(fmt.WORD_END)
        if position > end:
            raise PositionError("cannot truncate before a position not yet reached", position=end)
        if position == end and control.load(fmt.WORD_DURABLE) < end:
            self._commit.sync_for_roll()
        view = View.load(self._directory)
        if position == end and view.bases and view.bases[-1] < end:
            self._roll_if_possible()
            view = View.load(self._directory)
        first = view.containing(position)
        if first is None or first <= control.load(fmt.WORD_FIRST):
            return control.load(fmt.WORD_FIRST)
        # The manifest first: from here on the old segments are leftovers, whatever happens.
        self._dead_on_error(self._store_manifest, self._manifest()._replace(first_position=first))
        control.store(fmt.WORD_FIRST, first)
        control.store(fmt.WORD_CHANGES, control.load(fmt.WORD_CHANGES) + 1)
        for base in view.bases:
            if base < first:
                self._directory.remove(fmt.segment_name(base))
        self._dead_on_error(self._directory.sync)
        return first

    def _roll_if_possible(self) -> None:
        """On a full disk the tail just stays; the rest can still be removed."""
        try:
            self.roll()
        except DiskFullError:
            return

    def truncate_after(self, end: int) -> None:
        """Remove every record from position `end` on; durable at return."""
        self.lock.run(self._truncate_after_locked, end)
        self._control.page.wake(fmt.WORD_END, fmt.WORD_APPEND_WAITERS)

    def _truncate_after_locked(self, end: int) -> None:
        self.catch_up()
        control = self._control
        if end > control.load(fmt.WORD_END):
            raise PositionError("cannot truncate after a position not yet reached", position=end)
        if end < control.load(fmt.WORD_FIRST):
            raise PositionError(
                "cannot truncate after a position that was already pruned",
                position=control.load(fmt.WORD_FIRST),
            )
        if end == control.load(fmt.WORD_END):
            return
        self._commit.sync_for_roll()
        view = View.load(self._directory)
        kept = [base for base in view.bases if base < end]
        control.store(fmt.WORD_DIRTY, fmt.DIRTY_FILES)
        manifest = self._manifest()
        self._dead_on_error(
            self._store_manifest,
            manifest._replace(
                epoch=manifest.epoch + 1,
                cut=end,
                tail_base=kept[-1] if kept else fmt.NO_CUT,
                clean_position=0,
                clean_offset=0,
                clean_newest_ns=0,
            ),
        )
        self._rewound(end)
        self._derive_from_files()
        self._roll_if_possible()

    def _rewound(self, end: int) -> None:
        """Tell readers and waiters that the log is shorter now."""
        control = self._control
        control.store(fmt.WORD_REWIND_CUT, end)
        control.store(fmt.WORD_REWINDS, control.load(fmt.WORD_REWINDS) + 1)
        control.store(fmt.WORD_END, end)
        control.store(fmt.WORD_DURABLE, end)

    # --- Chores and the end -----------------------------------------------------------------------

    def prepare_ahead(self, offset: int) -> None:
        """Take the page faults of the next appends now; only worth it for a mapped tail."""
        with self._mapping_lock:
            if self._mapping is not None and offset < self._limit:
                self.tail.populate(offset & ~4095, AHEAD_BYTES)

    def seal(self, base: int, end: int) -> None:
        """Write the footer of a full segment, if it is still there."""
        try:
            with segments.open_segment(self._directory, base) as file:
                header = segments.read_header(file)
                size = file.size()
                if segments.read_trailer(file, header, size) is not None:
                    return
                found = segments.scan_frames(file, header, size)
            if found.position >= end:
                segments.seal(self._directory, header, found, end)
        except (StorageError, fmt.FormatError):
            return  # the footer only saves time; the next opening tries again

    def make_spare(self) -> None:
        """Reserve the next segment's space ahead of need; a full disk is met later, at the roll."""
        temporary = f"{fmt.SPARE_NAME}.{os.getpid()}.new{fmt.TEMPORARY_SUFFIX}"
        spare = fmt.SPARE_NAME + fmt.TEMPORARY_SUFFIX
        try:
            if spare in self._directory.names():
                return
            self._directory.remove(temporary)
            with self._directory.open(temporary, CREATE_NEW) as file:
                file.allocate(self._config.segment_bytes_max)
                file.sync()
            self._directory.rename(temporary, spare)
        except StorageError:
            self._directory.remove(temporary)

    def take_spare(self, name: str, header: fmt.SegmentHeader, size_bytes: int) -> bool:
        """Turn the spare into the prepared segment `name`, if there is one of the right size."""
        spare = fmt.SPARE_NAME + fmt.TEMPORARY_SUFFIX
        try:
            if spare not in self._directory.names():
                return False
            self._directory.rename(spare, name)
            with self._directory.open(name, WRITE) as file:
                if file.size() == size_bytes:
                    file.write(header.pack(), 0)
                    file.sync()
                    return True
            self._directory.remove(name)
        except StorageError:
            self._directory.remove(name)
        return False

    def close(self, *, clean: bool) -> None:
        """Let go of the tail. With `clean` (the last handle, all durable) vouch for it, so that
        the next opening need not scan."""
        self._chores.stop()
        try:
            self.lock.run(self._close_locked, clean)
        except TreeringError:
            self._detach()  # the lock is lost to a stopped process; nobody here appends any more

    def _close_locked(self, clean: bool) -> None:
        try:
            if clean:
                self._vouch()
        finally:
            self._detach()

    def _vouch(self) -> None:
        control = self._control
        offset, position = control.load(fmt.WORD_END_OFFSET), control.load(fmt.WORD_END)
        if control.load(fmt.WORD_DIRTY) or control.load(fmt.WORD_FAILED):
            return
        if offset >= fmt.TAIL_CLOSED or control.load(fmt.WORD_DURABLE) < position:
            return
        manifest = self._manifest()
        vouched = (position, offset, control.load(fmt.WORD_NEWEST))
        if manifest.tail_base == control.load(fmt.WORD_TAIL_BASE) and manifest.cut == fmt.NO_CUT:
            self._store_manifest(
                manifest._replace(
                    clean_position=vouched[0], clean_offset=vouched[1], clean_newest_ns=vouched[2]
                )
            )

    def abandon(self) -> None:
        """In a forked child: drop what belongs to the parent without touching the log."""
        self._chores.abandon()
        self._detach()


class Chores:
    """Work around the append that nobody should wait for: one thread, started when needed."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stopped = False
        self._prepared_to = 0
        self._spare_at = 0
        self._seals: list[tuple[int, int]] = []
        self.arm: Callable[[], None] = lambda: None

    def attached(self, offset: int, limit: int) -> None:
        """A tail was attached whose frames end at `offset`."""
        self._prepared_to = min(offset, limit)
        self._spare_at = limit // 2
        self._writer.tail.chore_offset = self._prepared_to

    def request(self) -> None:
        """The tail has passed the prepared pages: do what is due. Called by every append that
        notices; cheap when nothing is."""
        end = self._writer._control.load(fmt.WORD_END_OFFSET)
        if end < self._writer.tail.chore_offset or end >= fmt.TAIL_CLOSED:
            return
        self._writer.tail.chore_offset = end + AHEAD_BYTES // 2
        self._wake()

    def seal(self, base: int, end: int) -> None:
        """A segment is full: write its footer, apply retention."""
        self._seals.append((base, end))
        self._wake()

    def take_spare(self, name: str, header: fmt.SegmentHeader, size_bytes: int) -> bool:
        """See Writer.take_spare."""
        return self._writer.take_spare(name, header, size_bytes)

    def _wake(self) -> None:
        with self._lock:
            if self._thread is None and not self._stopped:
                self._thread = threading.Thread(
                    target=self._run, name="treering-chores", daemon=True
                )
                self._thread.start()
        self._event.set()

    def _run(self) -> None:
        while not self._stopped:
            self._event.wait()
            self._event.clear()
            self._do_due()

    def _do_due(self) -> None:
        while self._seals:
            base, end = self._seals.pop(0)
            self._writer.seal(base, end)
            self._writer.rolled()
        if self._stopped:
            return
        offset = self._writer._control.load(fmt.WORD_END_OFFSET)
        if offset >= fmt.TAIL_CLOSED:
            return
        self._writer.prepare_ahead(offset)
        if offset >= self._spare_at > 0 and self._writer._trusted:
            self._spare_at = 0
            self._writer.make_spare()

    def stop(self) -> None:
        """Finish what is due and end the thread."""
        self._stopped = True
        self._event.set()
        thread, self._thread = self._thread, None
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        self._do_due()

    def abandon(self) -> None:
        """In a forked child the thread does not exist."""
        self._stopped = True
        self._thread = None


def publish(control: Control, decided: recovery.Plan) -> None:
    """Set the control page to what recovery found; under the append lock or before anybody joins."""
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


def _plain_bytes_max(config: WalConfig) -> int:
    """Values up to this size take the fast path, which checks nothing else."""
    if config.compression is not None:
        return -1
    return min(config.record_bytes_max - fmt.KEY_BYTES_MAX, RECORD_BYTES_RECOMMENDED // 2)
