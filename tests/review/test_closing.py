"""Closing while others use the handle: what was acknowledged stays, nobody hangs (D1, D10)."""

import threading

import pytest

from tests._logs import contents, fill, told
from treering import ClosedError, FsyncPolicy, Wal
from treering._core import format as fmt
from treering._core.codec import ACQUIRED, TIMED_OUT, mutex_kind
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


@pytest.mark.parametrize("mutex", [fmt.APPEND_MUTEX_OFFSET, fmt.SYNC_MUTEX_OFFSET])
def test_a_lock_held_while_the_page_is_closed_is_given_back_to_other_processes(mutex):
    """D9, D10: the memory of a robust mutex may not go while its thread holds it, and the other
    processes must not wait for ever for a thread that has let go."""
    if not mutex_kind():
        pytest.skip("no robust mutexes here")
    files = MemoryFiles()
    wal = Wal.open("/log", files=files)
    other = Wal.open("/log", files=files)
    mine, theirs = wal._engine.control.page, other._engine.control.page
    assert mine.lock(mutex, 0) == ACQUIRED
    wal._engine.control.close()
    with pytest.raises(ClosedError):
        mine.load(fmt.WORD_END)
    assert in_thread(lambda: theirs.lock(mutex, 0))() == TIMED_OUT
    assert mine.unlock(mutex)
    assert not mine.unlock(mutex)
    assert theirs.lock(mutex, 0) == ACQUIRED  # crashes if this thread's list of mutexes is broken
    assert theirs.unlock(mutex)
    fill(other, 3)
    assert contents(other) == told(0, 3)
    wal.close()


def test_closing_waits_for_nobody_and_appenders_in_other_threads_are_told(disk):
    """D10: many times, appenders and a close race; what returned is in the log, nothing hangs."""
    for round_ in range(20):
        wal = disk.open(fsync_policy=FsyncPolicy.OS if round_ % 2 else FsyncPolicy.ALWAYS)
        put, returned = wal.put, []

        def append(put=put, returned=returned):
            while True:
                returned.append(put(b"k", b"v"))

        threads = [in_thread(append) for _ in range(3)]
        while len(returned) < 20:
            threading.Event().wait(0.001)
        wal.close()
        assert all(isinstance(result(), ClosedError) for result in threads)
        again = disk.open()
        assert again.current_position() > max(returned)
        again.close()
