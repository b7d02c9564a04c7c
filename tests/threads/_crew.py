"""Words for stories about threads."""

from __future__ import annotations

import contextlib
import threading

from treering.testing import FaultyFiles, MemoryFiles

# Long enough to never matter; a test that needs it has failed.
PATIENCE = 30


@contextlib.contextmanager
def crew():
    """Start threads with `start(call, *args)`; at the end all must have come home in peace.

    What a call raises is raised here. `start` returns a Hand: its thread, its result.
    """
    hands = []

    def start(call, *args):
        hand = Hand(call, args)
        hands.append(hand)
        hand.thread.start()
        return hand

    try:
        yield start
    finally:
        for hand in hands:
            hand.thread.join(PATIENCE)
        assert not [hand for hand in hands if hand.thread.is_alive()], "a thread hangs"
    for hand in hands:
        if hand.error is not None:
            raise hand.error


class Hand:
    """A thread and what became of its call."""

    def __init__(self, call, args):
        self.error = None
        self.result = None
        self.thread = threading.Thread(target=self._run, args=(call, args), daemon=True)

    def _run(self, call, args):
        try:
            self.result = call(*args)
        except BaseException as error:
            self.error = error

    def join(self):
        """The call's result."""
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive(), "the thread hangs"
        return self.result


class Gate:
    """Stops the calls that come to it until it is opened; tells when one has come."""

    def __init__(self):
        self.reached = threading.Semaphore(0)
        self._permits = threading.Semaphore(0)

    def wait(self):
        """For the call: stop here. (What a stalling file system calls.)"""
        self.reached.release()
        assert self._permits.acquire(timeout=PATIENCE), "nobody opened the gate"

    def let_in(self):
        """Return when a call has come to the gate."""
        assert self.reached.acquire(timeout=PATIENCE), "nobody came to the gate"

    def let_one_through(self):
        """Let one call pass."""
        self._permits.release()

    def open(self):
        """Let all pass from now on."""
        for _ in range(10_000):
            self._permits.release()


class Watched(FaultyFiles):
    """A file system in memory that takes its time over fsyncs of segments, and notes for each that
    succeeded where the log ended when it began.

    `covers(position)` tells whether one that began with the record in place has ended.
    """

    def __init__(self, pause=lambda: None):
        super().__init__(MemoryFiles(), record=False)
        self.wal = None
        self.syncs = 0
        self._pause = pause
        self._covered = 0

    def sync(self, descriptor):
        if self.wal is None or not self._path(descriptor).endswith(".seg"):
            return super().sync(descriptor)
        end = self.wal.current_position()
        self._pause()
        super().sync(descriptor)
        self._pause()
        self.syncs += 1
        self._covered = max(self._covered, end)

    def covers(self, position):
        return position < self._covered
