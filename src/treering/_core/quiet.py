"""A log as a read-only handle sees it: by the files alone, beside a living writer or without one.

Writes nothing and trusts no control page for content; a page that a live writer keeps is used to be
woken, where it can be mapped. A whole frame at the expected place is part of the log: the writer
would adopt it even if it died before publishing it.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from . import format as fmt
from . import manifest as manifests
from . import segment as segments
from .control import Control
from .errors import ClosedError, ReentrantError, StorageError, TreeringError
from .files import Directory, no_such_file
from .source import WAIT_SLICE_SECONDS, OpenSegment
from .view import View

# How long to sleep at most before the files are looked at again, and the page looked for.
_PAUSE_MOST = 0.05
_PAGE_SECONDS = 1.0

_T = TypeVar("_T")


class Look(NamedTuple):
    """What all the files say: where the log begins and ends, and what of it is durable."""

    first: int
    end: int
    durable: int
    epoch: int
    cut: int  # what lies from here on may have been replaced since the epoch asked about
    damage: TreeringError | None


class QuietSource:
    """See Source. `start` is what the files say at first; `look(epoch)` looks again after a cut."""

    def __init__(self, directory: Directory, start: Look, look: Callable[[int], Look]) -> None:
        self._directory = directory
        self._look = look
        self._lock = threading.RLock()
        self._closed = False
        self._first, self._end, self._durable, self._epoch, _, self._damage = start
        self._rewinds = (0, 0)
        self._tail: OpenSegment | None = None
        self._tail_offset = 0
        self._control: Control | None = None
        self._looked_for_page = -_PAGE_SECONDS
        self._pause, self._waited_at = 0.0, -1

    def _live_control(self) -> Control | None:
        """The page that a writer keeps; looked for now and then, for writers come and go."""
        now = time.monotonic()
        if now - self._looked_for_page < _PAGE_SECONDS:
            return self._control
        return self._inside(self._look_for_page, now)

    def _look_for_page(self, now: float) -> Control | None:
        self._looked_for_page = now
        with contextlib.suppress(TreeringError, ValueError, OSError):
            if self._control is not None and self._control.file.links() == 0:
                self._control.close()
                self._control = None
            if self._control is None and not self._closed:
                self._control = Control.join(self._directory, write=False)
        return self._control

    def _inside(self, call: Callable[..., _T], *args: object) -> _T:
        """Make a call that changes what we know, under the lock. The handler of a signal that
        interrupted one may not make another: it would find half of it changed."""
        if self._is_inside():
            raise ReentrantError(
                "a signal handler asked the log for what it was just finding out",
                hint="Let the handler set a flag, and look at it in the program",
            )
        try:
            with self._lock:
                return call(*args)
        finally:
            if self._closed:  # by such a handler, which left the rest to us
                self._let_go()

    def _is_inside(self) -> bool:
        # What threading.Condition asks of its lock; nothing of our own could be set and unset
        # together with the lock if an interrupt came in between.
        return bool(self._lock._is_owned())  # type: ignore[attr-defined]

    def first(self) -> int:
        """See Source."""
        return self._inside(self._find_first)

    def _find_first(self) -> int:
        self._see_manifest()
        return self._first

    def standing(self) -> tuple[int, int]:
        """See Source. As the files were when `end` looked at them."""
        return self._epoch, self._first

    def rewinds(self) -> tuple[int, int]:
        """See Source."""
        return self._rewinds

    def view(self) -> View:
        """See Source."""
        return View.load(self._directory)

    def end(self, durable_only: bool) -> int:
        """See Source."""
        return self._inside(self._find_end, durable_only)

    def _find_end(self, durable_only: bool) -> int:
        manifest = self._see_manifest()
        if self._damage is None:
            self._advance(manifest)
        return self._durable if durable_only else self._end

    def _see_manifest(self) -> fmt.Manifest | None:
        """What the manifest says now of the log's beginning, and of a cut since we last looked."""
        if self._closed:
            raise ClosedError("the log is closed", hint="Open it again with Wal.open")
        try:
            manifest, _ = manifests.load(self._directory)
        except fmt.FormatError:
            return None
        if manifest is None or self._damage is not None:
            return manifest
        if manifest.epoch != self._epoch:
            self._look_again()
        self._first = max(self._first, manifest.first_position)
        if self._first > self._end:  # truncation was faster than we
            self._end = self._first
            self._leave_tail()
        self._durable = max(self._durable, self._first)  # only what is durable is truncated
        return manifest

    def _look_again(self) -> None:
        """A cut raises the epoch: truncate_after's, or recovery's, which takes nothing shown."""
        self._leave_tail()
        found = self._look(self._epoch)
        rewinds, durable = self._rewinds, self._durable
        if found.cut < self._end:
            rewinds = (rewinds[0] + max(found.epoch - self._epoch, 1), found.cut)
            durable = min(durable, found.cut)
        durable = max(durable, found.durable)
        # All at once, without a call in between: an interrupt must not leave half of it.
        self._rewinds, self._durable, self._damage = rewinds, durable, found.damage
        self._first, self._end, self._epoch = found.first, found.end, found.epoch

    def _advance(self, manifest: fmt.Manifest | None) -> None:
        """Look for whole frames behind the ones known, over segment borders."""
        view = self.view()
        if self._tail is not None and self._tail.file.links() == 0:
            self._leave_tail()  # cut off; another file may have its name now
        while self._tail is not None or self._open_tail(view):
            assert self._tail is not None
            # A segment of an older epoch takes no more records: behind its end are those cut.
            if self._tail.header.epoch == self._epoch:
                self._scan_tail(self._tail)
            if view.after(self._tail.base) != self._end:
                break
            self._durable = max(self._durable, self._end)
            self._leave_tail()
        if manifest is not None and manifest.clean_offset and manifest.epoch == self._epoch:
            self._durable = max(self._durable, min(self._end, manifest.clean_position))

    def _scan_tail(self, tail: OpenSegment) -> None:
        if not any(tail.file.read(4, self._tail_offset)):
            return  # by far the most common, so by far the cheapest: nothing new
        found = segments.scan_frames(
            tail.file, tail.header, tail.file.size(), offset=self._tail_offset, position=self._end
        )
        self._tail_offset, self._end = found.offset, found.position
        self._durable = max(self._durable, found.durable)

    def _open_tail(self, view: View) -> bool:
        base = view.containing(self._end)
        if base is None:
            return False
        try:
            tail = OpenSegment(self._directory, base)
        except StorageError as error:
            if no_such_file(error):
                return False
            raise
        offset, at, _ = tail.locate(self._end, self._end)
        found = segments.scan_frames(
            tail.file,
            tail.header,
            tail.file.size(),
            offset=offset,
            position=at,
            stop_position=self._end,
        )
        end, durable = self._end, self._durable
        if tail.header.epoch == self._epoch:
            end, durable = max(end, found.position), max(durable, found.durable)
        # Without a call in between, as above.
        self._tail, self._tail_offset, self._end, self._durable = tail, found.offset, end, durable
        return True

    def _leave_tail(self) -> None:
        tail, self._tail = self._tail, None
        if tail is not None:
            tail.close()

    def wait(self, seen: int, durable_only: bool, timeout: float) -> None:
        """See Source."""
        control = self._live_control()
        if control is not None and not durable_only and control.load(fmt.WORD_END) == seen:
            # Bounded sleeps: the page may belong to a writer that is gone.
            bounded = min(timeout, WAIT_SLICE_SECONDS)
            control.page.wait(fmt.WORD_END, seen, fmt.WORD_APPEND_WAITERS, bounded)
            return
        # Nobody to wake us: look into the files, less and less often.
        self._pause = min(self._pause * 1.5, _PAUSE_MOST) if seen == self._waited_at else 0.0005
        self._waited_at = seen
        time.sleep(min(timeout, self._pause))

    def open(self, base: int) -> OpenSegment:
        """See Source."""
        return OpenSegment(self._directory, base)

    def damaged_from(self) -> tuple[int, TreeringError] | None:
        """See Source."""
        return None if self._damage is None else (self._end, self._damage)

    def close(self) -> None:
        """Let go of the files; idempotent."""
        self._closed = True
        if not self._is_inside():
            self._let_go()

    def abandon(self) -> None:
        """In a forked child: another thread may have held the lock when the parent forked."""
        self._lock = threading.RLock()
        if self._control is not None:
            self._control.abandon()
        self.close()

    def _let_go(self) -> None:
        with self._lock:
            self._leave_tail()
            control, self._control = self._control, None
            if control is not None:
                control.close()
