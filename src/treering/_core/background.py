"""A thread of our own, and a bit to wake it with, that no interrupt can leave half locked.

An exception that a signal raises inside `threading.Event` or `Thread.start`, which are written in
Python, leaves their inner locks locked for ever; and a signal's handler that comes back to them
waits for itself. What is used here is made in C: each step happens or does not.
"""

from __future__ import annotations

import _thread
import sys
from collections.abc import Callable
from types import FrameType

from .errors import FailedError


class Signal:
    """One bit: set by anybody at any time, taken by the one who waits for it."""

    def __init__(self) -> None:
        self._unset = _thread.allocate_lock()
        self._unset.acquire()

    def set(self) -> None:
        """Let the one who waits, or the next one, go on. Never blocks."""
        try:
            self._unset.release()
        except RuntimeError:
            return  # it was set

    def wait(self, timeout: float = -1) -> bool:
        """Wait until it is set, and take it; False after `timeout` seconds (-1: for ever)."""
        return self._unset.acquire(timeout=timeout)


class Background:
    """A daemon thread that makes one call, which ends soon after it was told to."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._call = call
        self._started = False
        self._begun = _thread.allocate_lock()
        self._over = _thread.allocate_lock()
        self._over.acquire()
        self._ident: int | None = None

    def start(self) -> bool:
        """Start it, if nobody has. False when the system gives no thread (at the program's end)."""
        if not self._started:
            try:
                _thread.start_new_thread(self._run, ())
            except RuntimeError:
                return False
            # An interrupt before this may start a second one: it finds the first and goes.
            self._started = True
        return True

    def _run(self) -> None:
        if self._begun.acquire(blocking=False):
            self._ident = _thread.get_ident()
            try:
                self._call()
            finally:
                self._over.release()

    def join(self) -> None:
        """Wait for the end of the call, if it was started; it must have been told to end."""
        if self._started and self._ident != _thread.get_ident():
            with self._over:
                return


def apart(call: Callable[[], object]) -> None:
    """Make the call; by a thread of its own if this one is inside the log's code.

    For what the collector does: it may come at any step, and find a forgotten handle in a thread
    that holds what closing it would wait for. Nobody can be told there that the log failed some
    time before; what fails only now goes the way of all errors in the collector.
    """
    if _inside_the_log():
        Background(lambda: _unless_dead(call)).start()
    else:
        _unless_dead(call)


def _unless_dead(call: Callable[[], object]) -> None:
    try:
        call()
    except FailedError as error:
        if error.__cause__ is not None:
            raise


def _inside_the_log() -> bool:
    """Whether this thread is inside the core, not counting the loops of our own threads."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.startswith(_CORE) and module != __name__:
            return True
        frame = frame.f_back
    return False


_CORE = __name__.removesuffix("background")
