"""G14, D10: exceptions at any bytecode leave a record whole or absent, and the log usable."""

import gc

import pytest

from tests._logs import Log
from tests.threads._crew import crew
from tests.threads.interrupts import At, count, interrupted, points
from treering import FsyncPolicy, Record, ReentrantError, Wal
from treering.testing import MemoryFiles

# Bytecodes of each operation that are tried here; the battery tries every one.
MOST = 120

BATCH = [Record.put(b"batch", b"%d" % number) for number in range(3)]


class Operation:
    """A call on an open log: how to come to its brink, and how many records it adds."""

    def __init__(self, call, records=0, before=0, **options):
        self.call = call
        self.records = records
        self.before = before
        self.options = options


def truncate_behind_a_segment(wal):
    wal.truncate_before(40)


OPERATIONS = {
    "put": Operation(lambda wal: wal.put(b"key", b"value"), 1),
    "put with headers": Operation(lambda wal: wal.put(b"key", b"v", headers={"a": b"b"}), 1),
    "put durably": Operation(lambda wal: wal.put(b"key", b"v", durable=True), 1),
    # 16 records fill a segment of 1 KiB.
    "put that rolls": Operation(lambda wal: wal.put(b"key", b"v" * 60), 1, 9),
    "batch": Operation(lambda wal: wal.append_batch(BATCH), 3),
    "batch that rolls": Operation(lambda wal: wal.append_batch(BATCH), 3, 9),
    "put under a deadline": Operation(
        lambda wal: wal.put(b"key", b"v", headers={"a": b"b"}),
        1,
        fsync_policy=FsyncPolicy.batch(milliseconds=1000),
    ),
    "sync": Operation(lambda wal: wal.sync(), 0, 3),
    "truncate before": Operation(truncate_behind_a_segment, 0, 40),
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
        assert end in (self.end, self.end + added), "a part of the records is in the log"
        assert wal.put(b"after", b"") == end
        other = self.log.open(**self.options)
        assert other.put(b"other", b"") == end + 1
        assert wal.put(b"after", b"") == end + 2
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
def test_g14_d10_an_interrupt_at_any_bytecode_leaves_all_or_nothing(name, lock):
    operation = OPERATIONS[name]
    sweep_operation(operation, lock, MOST if lock == "auto" else MOST // 3)


def sweep_operation(operation, lock, most):
    """Interrupt it at up to `most` of its bytecodes; how many there were."""
    brink = Brink(operation, lock)
    total = count(lambda: operation.call(brink.wal))
    brink.judge(operation.records)
    for k in points(total, most):
        brink = Brink(operation, lock)
        interrupted(lambda: operation.call(brink.wal), k)  # noqa: B023 - called at once
        brink.judge(operation.records)
    return total
