"""Making records durable: one fsync for everyone who is waiting.

Whoever needs a record durable looks at the control page. If it is not, and nobody is syncing, it
becomes the leader: it notes where the log ends, fsyncs the tail outside every lock that appenders
need, publishes the new durable position and wakes all. Everyone else sleeps outside the
interpreter lock until that happens. Threads, tasks and processes are treated alike.
(Precedents: PostgreSQL's group commit, LevelDB's writer queue.)

A failed fsync is final: the kernel may have dropped the pages, so trying again would report success
for bytes that are gone. The log is then dead for everybody until it is opened again.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable

from . import format as fmt
from .background import Background, Signal
from .control import Control
from .errors import (
    ClosedError,
    FailedError,
    StorageError,
    TreeringError,
    WaitTimeoutError,
    failed_error,
)
from .files import WRITE, Directory, File, no_such_file
from .locks import SyncLock
from .options import FsyncPolicy

# Sleeping waiters look around this often: a leader may have died without waking them.
_SLICE_SECONDS = 0.05

# How long to wait for company at most, as a share of the last fsync's time and in all (one that
# took long says nothing of the next); how often not to.
_LINGER_SHARE, _LINGER_SECONDS = 0.3, 0.001
_IN_VAIN_MOST = 6


class Commit:
    """The durable side of an open log. Thread-safe."""

    def __init__(self, directory: Directory, control: Control) -> None:
        self._directory = directory
        self._control = control
        self._load = control.load
        self._page = control.page
        self._lock = SyncLock(directory, control)
        self._file: File | None = None
        self._file_is = (-1, -1)  # base and epoch of the tail that is open
        self.seconds = 0.0  # how long the last fsync took
        self._led = 0  # how many records it made durable
        self._in_vain = self._pass = 0  # times nobody came, and times left not to wait

    def close(self) -> None:
        """Let go of the files."""
        self._close_file()
        self._lock.close()

    def _close_file(self) -> None:
        # Not closed but dropped: another thread, or what a signal interrupted, may be about to
        # fsync it, and must not meet another file under its number.
        self._file = None

    def wait(self, position: int, timeout: float | None = None, *, company: bool = True) -> None:
        """Return once the record at `position` is durable. `company`: whether others may come whose
        records an fsync might take along.

        FailedError if a write or fsync failed; WaitTimeoutError after `timeout` seconds.
        """
        load = self._load
        until = None if timeout is None else time.monotonic() + timeout
        # A record that is beyond the end was durable before truncate_after removed it.
        while load(fmt.WORD_DURABLE) <= position < load(fmt.WORD_END):
            self.check()
            left = _SLICE_SECONDS if until is None else until - time.monotonic()
            if left <= 0:
                raise WaitTimeoutError(
                    "the record is written but not yet durable", position=position
                )
            self._lead_or_sleep(position, min(left, _SLICE_SECONDS), company)

    def check(self) -> None:
        """Raise FailedError if the log is dead."""
        number = self._load(fmt.WORD_FAILED)
        if number:
            raise failed_error(number, self._directory.path)

    def _lead_or_sleep(self, position: int, seconds: float, company: bool) -> None:
        """Sync on behalf of all who wait; or wait for whoever is doing so. Giving the lock back
        wakes all; it is tried twice because a signal's exception may come between any two steps."""
        if self._lock.held():  # a signal handler that interrupted a sync cannot wait for it
            self._sync_tail()
            return
        released = False
        try:
            try:
                if self._lock.join(position, seconds) and self._load(fmt.WORD_DURABLE) <= position:
                    if company:
                        self._linger(seconds)
                    self._sync_tail()
            finally:
                released = self._lock.release()
        finally:
            if not released:
                self._lock.release()

    def _linger(self, seconds: float) -> None:
        """Wait a moment for those whom the last fsync has just let go: with them in this one, two
        half groups become one whole. Less and less often while nobody comes."""
        alone = self._load(fmt.WORD_END) - self._load(fmt.WORD_DURABLE) < 2
        if alone and self._led < 2:
            return
        if self._pass > 0:
            self._pass -= 1
        elif self._page.linger(min(self.seconds * _LINGER_SHARE, _LINGER_SECONDS, seconds)):
            self._in_vain = 0
        else:
            self._in_vain = min(self._in_vain + 1, _IN_VAIN_MOST)
            self._pass = 1 << self._in_vain

    def sync_for_roll(self) -> None:
        """Make everything durable while the caller holds the append lock."""
        end = self._load(fmt.WORD_END)
        if end:
            self.wait(end - 1, company=False)

    def _sync_tail(self) -> None:
        """Under the sync lock. The end is read before the fsync begins and before the tail's name:
        what lies in older segments was made durable by the roll."""
        rewinds, end = self._load(fmt.WORD_REWINDS), self._load(fmt.WORD_END)
        self._control.store(fmt.WORD_SYNC_END, end)
        file = self._tail_file()
        started = time.perf_counter()
        self.sync_file(file)
        self.seconds = time.perf_counter() - started
        # If the log was cut meanwhile, `end` speaks of records that are gone.
        self.advance(end if self._load(fmt.WORD_REWINDS) == rewinds else 0)

    def sync_file(self, file: File) -> None:
        """fsync a file that holds records; a failure is the end of the log."""
        outer = sys.exc_info()[1]  # what our caller is handling is no failure of ours
        try:
            try:
                file.sync()
            except StorageError as error:
                self._fail(error)
        except BaseException as error:
            # A signal's exception may have taken the place of the failure; its context remembers.
            cause = _storage_cause(error, outer)
            if cause is not None and not self._load(fmt.WORD_FAILED):
                self._control.fail(cause.errno or 5)
            raise

    def _fail(self, error: OSError) -> None:
        self._control.fail(error.errno or 5)
        raise failed_error(error.errno or 5, self._directory.path) from error

    def advance(self, end: int) -> None:
        """Publish that everything below `end` is durable. Under the sync lock."""
        self._led = end - self._load(fmt.WORD_DURABLE)
        if self._led > 0:
            self._control.store(fmt.WORD_DURABLE, end)

    def _tail_file(self) -> File:
        """The tail segment, kept open: its descriptor also remembers errors of the background
        writeback since it was opened."""
        while True:
            # After a cut exactly at a base, another file has that name: the epoch tells them apart.
            base, epoch = self._load(fmt.WORD_TAIL_BASE), self._load(fmt.WORD_EPOCH)
            if (base, epoch) == self._file_is and self._file is not None:
                return self._file
            try:
                file = self._directory.open(fmt.segment_name(base), WRITE)
            except StorageError as error:
                if no_such_file(error) and base != self._load(fmt.WORD_TAIL_BASE):
                    continue  # rolled and truncated meanwhile
                raise
            self._close_file()
            self._file, self._file_is = file, (base, epoch)
            return file

    def open_tail(self) -> None:
        """Open the tail segment now, so that later fsyncs need no new descriptor."""
        if self._load(fmt.WORD_TAIL_BASE) != fmt.NO_TAIL:
            self._tail_file()


class Deadline:
    """BATCH: a thread that makes every record durable within the window after its append.

    Starts the fsync so early that it should end in time, judging by the last one. Knows the commit,
    not the handle: a forgotten handle can be collected while this thread lives.
    """

    def __init__(self, commit: Commit, control: Control, policy: FsyncPolicy) -> None:
        self._commit = commit
        self._control = control
        self._window = policy.window_seconds
        self._armed = Signal()
        self._halt = Signal()
        self._stopped = False
        self._thread = Background(self._run)
        self.disarm: Callable[[], None] = _nothing

    def arm(self) -> None:
        """Something was appended; the deadline runs from now on."""
        if self._stopped:
            return
        if self._thread.start():
            self._armed.set()
        else:
            self.disarm()
            self._sync()

    def stop(self) -> None:
        """End the thread; what is not durable stays so."""
        self._stopped = True
        self._halt.set()
        self._armed.set()
        self._thread.join()

    def _run(self) -> None:
        with contextlib.suppress(ClosedError):  # a close that was interrupted let go of the page
            self._watch()

    def _watch(self) -> None:
        while not self._stopped:
            self._armed.wait()
            due = time.monotonic() + self._delay()
            while not self._stopped:
                self._halt.wait(max(due - time.monotonic(), 0))
                due = time.monotonic() + self._delay()
                if not self._sync():
                    return
                # From here on an append arms us again; those before it were seen by this look.
                self.disarm()
                if not self._pending():
                    break

    def _delay(self) -> float:
        return max(self._window / 2, self._window - 2 * self._commit.seconds)

    def _pending(self) -> bool:
        return self._control.load(fmt.WORD_END) > self._control.load(fmt.WORD_DURABLE)

    def _sync(self) -> bool:
        """Whether to go on: a dead log needs no deadline; other trouble is tried again."""
        if self._stopped or not self._pending():
            return True
        try:
            self._commit.wait(self._control.load(fmt.WORD_END) - 1)
        except (FailedError, ClosedError):
            return False
        except TreeringError:
            time.sleep(self._window)
        return True


def _nothing() -> None:
    """Stands in until the append path is there to be told."""


def _storage_cause(error: BaseException | None, outer: BaseException | None) -> OSError | None:
    """The OSError that `error` came from or took the place of, newer than `outer`."""
    while error is not None and error is not outer:
        if isinstance(error, OSError):
            return error
        error = error.__cause__ or error.__context__
    return None
