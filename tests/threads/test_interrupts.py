"""G14, D10: exceptions at any point leave a record whole or absent, and the log usable."""

import gc
import os
import time

import pytest

from tests._logs import Log, contents, fill, told
from tests.threads._crew import crew
from tests.threads.interrupts import At, count, interrupted, points
from treering import FsyncPolicy, LockedError, Record, ReentrantError
from treering._core.files import CREATE, File, SystemFiles
from treering.testing import MemoryFiles

# Points of each operation that are tried here; the battery tries every one.
MOST = 240

BATCH = [Record.put(b"batch", b"%d" % number) for number in range(3)]


class Operation:
    """A call on an open log: how to come to its brink, and how many records it adds."""

    def __init__(self, call, records=0, before=0, **options):
        self.call = call
        self.records = records
        self.before = before
        self.options = options


OPERATIONS = {
    "put": Operation(lambda wal: wal.put(b"key", b"value"), 1),
    # With a clock of its own a log appends in Python in both twins.
    "put with a clock": Operation(lambda wal: wal.put(b"key", b"v"), 1, clock=time.time_ns),
    "put durably": Operation(lambda wal: wal.put(b"key", b"v", durable=True), 1),
    # Eight records fill a segment of 1 KiB.
    "put that rolls": Operation(lambda wal: wal.put(b"key", b"v" * 60), 1, 8),
    "batch": Operation(lambda wal: wal.append_batch(BATCH), 3),
    "batch that rolls": Operation(lambda wal: wal.append_batch(BATCH), 3, 8),
    "put under a deadline": Operation(
        lambda wal: wal.put(b"key", b"v"),
        1,
        clock=time.time_ns,
        fsync_policy=FsyncPolicy.batch(milliseconds=1000),
    ),
    "sync": Operation(lambda wal: wal.sync(), 0, 3),
    "truncate before": Operation(lambda wal: wal.truncate_before(40), 0, 40),
    "truncate after": Operation(lambda wal: wal.truncate_after(20), -20, 40),
    "pin": Operation(lambda wal: wal.pin("me", 1), 0, 3),
}


class Brink:
    """A log in memory on the brink of an operation."""

    def __init__(self, operation, lock="auto"):
        files = MemoryFiles()
        self.log = Log("/log", files, segment_bytes_max=1024, process_lock=lock)
        self.options = {"lock_timeout_seconds": 3, **operation.options}
        self.wal = self.log.open(**self.options)
        for number in range(operation.before):
            self.wal.put(b"before", b"%060d" % number)
        self.end = self.wal.current_position()

    def judge(self, added):
        """What must be true afterwards, whatever happened: `added` records at most, all or none."""
        wal = self.wal
        end = wal.current_position()
        if added < 0:
            # A truncation that was decided is carried out by the next append.
            end = wal.put(b"first", b"")
            wal.truncate_after(end)
        assert end in (self.end, self.end + added), "a part of the records is in the log"
        assert wal.put(b"after", b"") == end
        other = self.log.open(**self.options)
        assert other.put(b"other", b"") == end + 1
        with crew() as start:
            assert start(wal.put, b"thread", b"").join() == end + 2
        assert wal.sync() == end + 3
        for handle in (wal, other):
            handle.check()
            handle.close()
        again = self.log.open(exclusive=True)
        again.check()
        assert again.current_position() == end + 3
        again.close()


@pytest.mark.parametrize("lock", ["auto", "file"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_g14_d10_an_interrupt_at_any_point_leaves_all_or_nothing(name, lock):
    sweep(OPERATIONS[name], lock, MOST if lock == "auto" else MOST // 6)


def sweep(operation, lock, most):
    """Interrupt the operation at up to `most` of its points; how many there are."""
    brink = Brink(operation, lock)
    segments = len(brink.log.segments())
    total = count(lambda: operation.call(brink.wal))
    assert brink.wal.current_position() == brink.end + operation.records
    assert operation.before != 8 or len(brink.log.segments()) == segments + 1
    brink.judge(operation.records)
    for k in points(total, most):
        brink = Brink(operation, lock)
        interrupted(lambda: operation.call(brink.wal), k)
        brink.judge(operation.records)
    return total


@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("policy", ["os", "batch"])
def test_g14_d10_an_interrupt_in_close_leaves_no_lock_and_loses_nothing(policy, exclusive):
    sweep_close(FsyncPolicy.parse(policy), exclusive, MOST // 2)


def sweep_close(policy, exclusive, most):
    """Interrupt `close` at up to `most` of its points."""

    def begin():
        log = Log("/log", MemoryFiles(), segment_bytes_max=1024, fsync_policy=policy)
        wal = log.open(exclusive=exclusive)
        fill(wal, 20)
        return log, wal

    _, wal = begin()
    for k in points(count(wal.close), most):
        log, wal = begin()
        interrupted(wal.close, k)
        wal.close()
        assert_whole(log, 20)


@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("state", ["new", "clean", "killed", "rolled"])
def test_g14_d10_an_interrupt_in_open_leaves_no_lock_and_loses_nothing(state, exclusive):
    sweep_open(state, exclusive, MOST // 3)


def sweep_open(state, exclusive, most):
    """Interrupt `Wal.open` at up to `most` of its points."""
    records = {"new": 0, "clean": 20, "killed": 3, "rolled": 20}[state]

    def begin():
        log = Log("/log", MemoryFiles(), segment_bytes_max=1024, exclusive=exclusive)
        if records:
            wal = log.open()
            fill(wal, records)
            if state == "clean":
                wal.close()
            else:
                log.kill()
        return log

    for k in points(count(begin().open), most):
        log = begin()
        interrupted(log.open, k)
        log.clean_up()
        assert_whole(log, records)


def test_d10_an_interrupt_in_closing_a_file_leaves_no_descriptor_open(path):
    """With it the kernel would keep the file's locks, until the process ends."""
    for k in range(1, 1 + count(File(SystemFiles(), path.with_name("file"), CREATE).close)):
        file = File(SystemFiles(), path.with_name("file"), CREATE)
        descriptor = file.descriptor
        interrupted(file.close, k)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)


def assert_whole(log, records):
    """Nobody has the log open, and it holds so many records; it takes another one."""
    try:
        wal = log.open(exclusive=True, fsync_policy=FsyncPolicy.OS)
    except LockedError:
        gc.collect()  # what the interrupted call had in its hands may hang together
        wal = log.open(exclusive=True, fsync_policy=FsyncPolicy.OS)
    assert contents(wal) == told(0, records)
    assert wal.put(b"key", b"value") == records
    wal.check()
    wal.close()


# --- Handlers that call the log -------------------------------------------------------------------


@pytest.mark.parametrize("name", OPERATIONS)
def test_d10_a_signal_handler_that_puts_during_a_call_succeeds_or_is_refused(name):
    sweep_handler(OPERATIONS[name], MOST // 2)


def sweep_handler(operation, most):
    """Call `put` out of a handler at up to `most` of an operation's points. Never a deadlock."""
    brink = Brink(operation)
    for k in points(count(lambda: operation.call(brink.wal)), most):
        brink = Brink(operation)
        answers = []
        with crew() as start:
            start(call_with_handler, operation, brink.wal, k, answers)
        puts = [answer for answer in answers if isinstance(answer, int)]
        found = [record.key for record in brink.wal].count(b"handler")
        # Refused may also mean: appended, but not waited for. A truncation may take it away again.
        assert len(puts) <= found <= len(answers) or operation.records < 0
        brink.end = brink.wal.current_position()
        brink.judge(0)


def call_with_handler(operation, wal, k, answers):
    def handler():
        try:
            answers.append(wal.put(b"handler", b"", durable=True))
        except ReentrantError as error:
            answers.append(error)

    with At(k, handler):
        operation.call(wal)
