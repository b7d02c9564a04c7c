"""What is called durable is durable, what is called dead is dead, and nothing else (D2, D3, D6)."""

import asyncio
import errno
import threading

import pytest

from tests._logs import contents, fill, told
from treering import FailedError, FsyncPolicy, Wal, aio
from treering._core import format as fmt
from treering._core import recovery
from treering._core import segment as segments
from treering._core.files import Directory
from treering.testing import FaultyFiles, MemoryFiles

LOCKS = ["auto", "file"]


class Interrupt(BaseException):
    """What a signal handler raises."""


class Interrupting(MemoryFiles):
    """Calls `during` in the middle of a sync of a segment by the main thread, once."""

    during = None

    def sync(self, descriptor):
        super().sync(descriptor)
        action = self.during
        if action is not None and threading.current_thread() is threading.main_thread():
            self.during = None
            action()


@pytest.mark.parametrize("lock", LOCKS)
def test_an_interrupt_of_a_sync_does_not_kill_the_log_over_an_error_of_the_caller(lock):
    """D6, D10: the caller is handling an OSError of its own when Ctrl-C meets a sync that works."""
    files = Interrupting()
    wal = Wal.open("/log", files=files, process_lock=lock)
    fill(wal, 1)

    def interrupt():
        raise Interrupt

    files.during = interrupt
    with pytest.raises(Interrupt):
        try:
            raise FileNotFoundError(errno.ENOENT, "the caller's own trouble")
        except FileNotFoundError:
            wal.put(b"k", b"v")
    assert not wal.stats()["failed"]
    assert wal.put(b"k", b"v", durable=True) == 2
    assert wal.durable_position == 3


@pytest.mark.parametrize("lock", LOCKS)
def test_a_failed_sync_is_final_though_an_interrupt_takes_its_place(lock):
    """D6."""
    files = FaultyFiles(MemoryFiles())
    wal = Wal.open("/log", files=files, process_lock=lock)
    fill(wal, 1)
    file = wal._engine.commit._file
    real_sync = file._files.sync

    def fail(descriptor):
        try:
            real_sync(descriptor)
        except OSError as error:
            raise Interrupt from error

    files.fail("sync", path=".seg")
    file._files.sync = fail
    with pytest.raises(Interrupt):
        wal.put(b"k", b"v")
    with pytest.raises(FailedError):
        wal.put(b"k", b"v")


@pytest.mark.parametrize("lock", LOCKS)
def test_a_signal_handler_may_append_durably_in_the_middle_of_a_sync(lock):
    """D2, D10: it does not wait for the sync that it interrupted."""
    files = Interrupting()
    wal = Wal.open("/log", files=files, process_lock=lock)
    fill(wal, 1)
    positions = []
    files.during = lambda: positions.append(wal.put(b"key-2", b"value-2"))
    assert wal.put(b"key-1", b"value-1") == 1
    assert positions == [2]
    assert wal.durable_position == 3
    assert contents(wal) == told(0, 3)
    with Wal.open("/log", files=files) as other:
        other.put(b"key-3", b"value-3")  # the lock was given back


def test_a_sync_that_fails_while_the_tail_grows_is_the_end_of_the_log():
    """D6: that sync was of the records too, and no later one would report its error again."""
    files = FaultyFiles(MemoryFiles())
    small = Wal.open("/log", files=files, fsync_policy=FsyncPolicy.OS, segment_bytes_max=1024)
    large = Wal.open("/log", files=files, fsync_policy=FsyncPolicy.OS, segment_bytes_max=1 << 16)
    fill(small, 3)
    assert small.durable_position == 0
    files.fail("sync", path=".seg")
    with pytest.raises(FailedError):
        large.put(b"k", b"v" * 2000)
    with pytest.raises(FailedError):
        small.sync()
    with Wal.open("/log", files=files) as again:
        assert contents(again) == told(0, 3)


def test_the_deadline_is_kept_though_the_append_that_sets_it_is_interrupted():
    """D3: the next append sets it again."""
    wal = Wal.open("/log", files=MemoryFiles(), fsync_policy=FsyncPolicy.batch(5))
    fill(wal, 1)
    wal.wait_durable(0)
    deadline = wal._engine.deadline
    real_set, interrupted = deadline._armed.set, []

    def interrupt():
        if not interrupted:
            interrupted.append(True)
            raise Interrupt
        real_set()

    while wal._engine.control.load(fmt.WORD_END) > wal._engine.control.load(fmt.WORD_DURABLE):
        threading.Event().wait(0.001)
    threading.Event().wait(0.02)  # the deadline's thread asks to be told of the next append
    deadline._armed.set = interrupt
    with pytest.raises(Interrupt):
        wal.put(b"key-1", b"value-1")
    wal.put(b"key-2", b"value-2")
    for _ in range(500):
        if wal.durable_position == 3:
            break
        threading.Event().wait(0.01)
    assert wal.durable_position == 3
    assert contents(wal) == told(0, 3)


def test_the_deadline_is_kept_where_no_thread_can_be_started(monkeypatch):
    """D3: as at the interpreter's end; then the append itself is the deadline."""
    wal = Wal.open("/log", files=MemoryFiles(), fsync_policy=FsyncPolicy.batch(5))

    def refuse(*_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("_thread.start_new_thread", refuse)
    for position in range(3):
        assert wal.put(b"k", b"v") == position
        assert wal.durable_position == position + 1
    wal.close()


def test_a_writer_that_goes_on_during_a_survey_does_not_look_like_damage(monkeypatch):
    """D5: intact, durable frames behind a place that was empty a moment ago."""
    files = MemoryFiles()
    wal = Wal.open("/log", files=files)
    fill(wal, 5)
    real = segments.survey_rest

    def later(*arguments):
        monkeypatch.setattr(segments, "survey_rest", real)
        fill(wal, 5)
        return real(*arguments)

    monkeypatch.setattr(segments, "survey_rest", later)
    plan = recovery.plan(recovery.survey(Directory(files, "/log")))
    assert plan.damage is None
    assert plan.end == 10
    assert plan.durable >= 9


@pytest.mark.parametrize("where", [1 << 62, (1 << 64) - 200, (1 << 64) - 8, 1 << 40])
def test_no_offset_in_a_damaged_control_page_makes_an_append_leave_its_segment(where):
    """D12: the append fails or goes elsewhere; it never stores outside of the mapping."""
    files = MemoryFiles()
    wal = Wal.open("/log", files=files, fsync_policy=FsyncPolicy.OS, segment_bytes_max=4096)
    fill(wal, 3)
    wal._engine.control.store(fmt.WORD_END_OFFSET, where)
    wal.put(b"key-3", b"value-3")
    wal.append_batch([(b"key-4", b"value-4")])
    assert contents(wal) == told(0, 5)


def test_pins_of_a_dead_handle_do_not_overwrite_those_of_the_living():
    """D6, D9: after the log was opened anew, an old handle's lock keeps nobody out."""
    files = FaultyFiles(MemoryFiles())
    dead = Wal.open("/log", files=files, fsync_policy=FsyncPolicy.OS)
    fill(dead, 3)
    files.fail("sync", path=".seg")
    with pytest.raises(FailedError):
        dead.sync()
    alive = Wal.open("/log", files=files)
    alive.pin("living", 1)
    with pytest.raises(FailedError):
        dead.pin("dead", 2)
    with pytest.raises(FailedError):
        dead.unpin("living")
    assert alive.pins() == {"living": 1}


class Container(MemoryFiles):
    """The same files from inside another PID namespace."""

    def __init__(self, outside):
        self.__dict__ = outside.__dict__

    def boot_id(self):
        return super().boot_id().partition("/")[0] + "/another"


def test_file_locks_work_between_pid_namespaces():
    """D9: that is what process_lock="file" is for."""
    files = MemoryFiles()
    wal = Wal.open("/log", files=files, process_lock="file")
    inside = Wal.open("/log", files=Container(files))
    assert inside.recovery.state == "joined"
    fill(inside, 2)
    assert contents(wal) == told(0, 2)


@pytest.mark.parametrize("options", [{"exclusive": True}, {"process_lock": "file"}], ids=str)
def test_a_read_only_handle_uses_the_page_of_any_living_writer(options):
    """G17: it takes no lock, so it needs none that it can share."""
    files = MemoryFiles()
    wal = Wal.open("/log", files=files, **options)
    reader = Wal.open("/log", files=Container(files), read_only=True)
    if "exclusive" in options:
        reader = Wal.open("/log", files=files, read_only=True)
    fill(wal, 1)
    assert reader._engine.source._live_control().load(fmt.WORD_END) == 1


def test_a_follower_is_woken_by_the_append_that_comes_while_another_one_wakes_others():
    """Design 4: sub-millisecond wake-ups; a sleeper's flag may not be cleared by the append before
    the one it waits for."""
    wal = Wal.open("/log", files=MemoryFiles(), fsync_policy=FsyncPolicy.OS)
    page = wal._engine.control.page
    fill(wal, 1)
    page.store(fmt.WORD_APPEND_WAITERS, 1)  # one who saw the end at 1 and is about to sleep
    page.wake(fmt.WORD_END, fmt.WORD_APPEND_WAITERS)  # the end of the append before, a bit late
    assert page.load(fmt.WORD_APPEND_WAITERS) == 1
    fill(wal, 1)
    assert page.load(fmt.WORD_APPEND_WAITERS) == 0


class InterruptedLock:
    """A lock whose first taker is interrupted before it knows that it has the lock."""

    def __init__(self, lock):
        self.lock = lock
        self.interrupted = False

    def acquire(self, blocking=True):
        taken = self.lock.acquire(blocking=blocking)
        if not self.interrupted:
            self.interrupted = True
            raise Interrupt
        return taken

    def release(self):
        self.lock.release()


def test_an_interrupt_right_after_the_sync_lock_was_taken_gives_it_back():
    """D10: nobody waits for ever, neither this thread nor the others."""
    wal = Wal.open("/log", files=MemoryFiles(), process_lock="file")
    locks = wal._engine.commit._lock
    locks._threads = InterruptedLock(locks._threads)
    with pytest.raises(Interrupt):
        wal.put(b"key-0", b"value-0")
    thread = threading.Thread(target=wal.put, args=(b"key-1", b"value-1"), daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    wal.put(b"key-2", b"value-2")
    assert wal.durable_position == 3
    assert contents(wal) == told(0, 3)


def test_whoever_waits_for_more_of_a_dead_log_is_told():
    """D6: also a handle that only reads; after the log was opened anew its page is a thing of the
    past, and nothing would ever come."""
    files = FaultyFiles(MemoryFiles())
    follower = Wal.open("/log", files=files, fsync_policy=FsyncPolicy.OS)
    dying = Wal.open("/log", files=files, fsync_policy=FsyncPolicy.OS)
    fill(dying, 3)
    reader = follower.read_from(0, follow=True)
    assert [next(reader).position for _ in range(3)] == [0, 1, 2]
    files.fail("sync", path=".seg")
    for call in (dying.sync, dying.sync, follower.sync, lambda: next(reader)):
        with pytest.raises(FailedError):
            call()
    alive = Wal.open("/log", files=files)
    fill(alive, 1)
    with pytest.raises(FailedError):
        next(follower.read_from(3, follow=True))
    with pytest.raises(FailedError):
        next(follower.read_from(3, follow=True, durable_only=True))


def test_a_task_that_follows_a_dead_log_is_told():
    """D6: as a thread is; it neither waits for ever nor spins."""
    files = FaultyFiles(MemoryFiles())
    dying = Wal.open("/log", files=files, fsync_policy=FsyncPolicy.OS)

    async def follow():
        async with await aio.Wal.open("/log", files=files, fsync_policy=FsyncPolicy.OS) as wal:
            fill(dying, 3)
            reader = wal.read_from(0, follow=True)
            assert [(await anext(reader)).position for _ in range(3)] == [0, 1, 2]
            files.fail("sync", path=".seg")
            with pytest.raises(FailedError):
                dying.sync()
            with pytest.raises(FailedError):
                await asyncio.wait_for(anext(reader), 10)
        raise AssertionError("closing is quiet, though the last records may be lost")

    with pytest.raises(FailedError):
        asyncio.run(follow())
