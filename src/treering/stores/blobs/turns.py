"""Who may place objects and who may remove them: never both at once, in all processes.

A whole-file lock in the kernel, so that a process that dies gives it back. Whoever wants to remove
holds the gate meanwhile: those that place only pass through it, and so do not keep him waiting for
ever.
"""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

from treering import LockedError
from treering.fold import CREATE, Directory, File, SystemFiles

_GATE, _TURN = "gate.lock", "objects.lock"
_PAUSE_SECONDS, _PAUSE_SECONDS_MAX = 0.0002, 0.005


class Turns:
    """The two locks beside a log. Each call opens them anew, so they keep threads apart, too."""

    def __init__(self, files: SystemFiles, path: str, timeout_seconds: float) -> None:
        self._files, self._path, self._timeout = files, path, timeout_seconds
        self._begin()
        _all_turns.add(self)

    def _begin(self) -> None:
        self._directory = Directory(self._files, self._path)

    def after_fork(self) -> None:
        """In the child: the parent's locks are not ours to keep."""
        self._directory.abandon()
        self._begin()

    @contextmanager
    def placing(self) -> Iterator[None]:
        """While objects are placed and referred to: shared with all who do the same. Blocks while
        somebody removes, at most the lock's timeout (LockedError)."""
        with self._lock(_GATE, exclusive=False):
            turn = self._lock(_TURN, exclusive=False)
        with turn:
            yield

    @contextmanager
    def removing(self) -> Iterator[None]:
        """While objects are removed: alone."""
        with self._lock(_GATE, exclusive=True), self._lock(_TURN, exclusive=True):
            yield

    def let_pass(self) -> None:
        """Between two removals: give all that wait to place the time to notice that they may."""
        time.sleep(2 * _PAUSE_SECONDS_MAX)

    def _lock(self, name: str, *, exclusive: bool) -> _Held:
        file = self._directory.open(name, CREATE)
        try:
            pause, until = _PAUSE_SECONDS, time.monotonic() + self._timeout
            while not file.try_lock(exclusive=exclusive):
                if time.monotonic() > until:
                    raise LockedError(
                        f"another process keeps the objects locked for {self._timeout:g} s",
                        path=file.path,
                        hint="Is one of them stopped? lock_timeout_seconds= says how long to wait",
                    )
                time.sleep(pause)
                pause = min(2 * pause, _PAUSE_SECONDS_MAX)
        except BaseException:
            file.close()
            raise
        return _Held(file)


class _Held:
    """A lock that is held. An interrupt in the middle of `close` may leave a descriptor open, and
    in the middle of `unlock` a file that is then collected: so first the one, then the other."""

    def __init__(self, file: File) -> None:
        self._file = file

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self._file.unlock()
        self._file.close()


_all_turns: weakref.WeakSet[Turns] = weakref.WeakSet()


def _give_back() -> None:
    for turns in list(_all_turns):
        turns.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_give_back)
