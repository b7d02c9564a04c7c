"""Closing while others still use the handle: what was acknowledged stays, nobody hangs (D1, D10)."""

import threading

import pytest

from tests._logs import contents, fill, told
from treering import ClosedError, FsyncPolicy, Wal
from treering.testing import FaultyFiles, MemoryFiles


def in_thread(action):
    """Run it in a thread; a function that waits for it and returns what it returned or raised."""
    outcome = []

    def run():
        try:
            outcome.append(action())
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()

    def result():
        thread.join(30)
        assert not thread.is_alive(), "it hangs"
        return outcome[0]

    return result


@pytest.mark.parametrize("lock", ["auto", "file"])
@pytest.mark.parametrize("kind", ["memory", "btrfs"])
def test_nothing_is_appended_behind_the_mark_of_a_clean_close(kind, lock):
    """D1: an append that waits while the handle vouches for its tail is refused, or is in the
    log; the mark, which says that nothing follows, is never false."""
    files = FaultyFiles(MemoryFiles(kind))
    wal = Wal.open("/log", files=files, fsync_policy=FsyncPolicy.OS, process_lock=lock)
    fill(wal, 3)
    tail = wal._engine.writer.tail
    vouching, go_on, late = threading.Event(), threading.Event(), threading.Event()

    def stall():
        vouching.set()
        go_on.wait(10)

    files.stall("write", stall, path="manifest")
    files.stall("close", lambda: late.wait(0.3), nth=2, path=".seg")
    closed = in_thread(wal.close)
    assert vouching.wait(10)

    def append():
        try:
            return tail.put(b"late", b"one")
        finally:
            late.set()

    appended = in_thread(append)
    threading.Event().wait(0.05)  # so that it queues up for the lock
    go_on.set()
    assert closed() is None
    assert isinstance(appended(), ClosedError)
    assert contents(Wal.open("/log", files=files)) == told(0, 3)
