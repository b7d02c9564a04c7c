"""The log against a list: any sequence of calls, restarts and deaths gives what a list would.

A hypothesis machine. Segments are so small that a border comes after a few records; after every
step the log's own `check` walks all of it.
"""

import os

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests._logs import Log
from treering import (
    FsyncPolicy,
    PositionError,
    PrunedError,
    Record,
    RewoundError,
)
from treering.testing import FakeClock, MemoryFiles

POLICIES = [FsyncPolicy.OS, FsyncPolicy.ALWAYS, FsyncPolicy.batch(1000)]
MODES = {
    "mapped": ("memory", {}),
    "written": ("memory", {"map_tail": False}),
    "untrusted": ("btrfs", {}),
    "file-lock": ("memory", {"process_lock": "file"}),
    "aligned": ("memory", {"frame_align_bytes": 512}),
    "compressed": ("memory", {"compression": "zstd"}),
    "clocked": ("memory", {"clock": FakeClock(step=1000, jitter_seconds=5)}),
}

keys = st.binary(max_size=12)
values = st.one_of(
    st.binary(max_size=60),
    st.integers(0, 1500).map(bytes),
    st.integers(0, 5000).map(lambda size: b"x" * size),
)
entries = st.one_of(
    st.builds(Record.put, keys, values),
    st.builds(Record.delete, keys),
    st.builds(
        Record.put,
        keys,
        values,
        stream=st.integers(0, 3),
        headers=st.dictionaries(st.text(max_size=3), st.binary(max_size=5), max_size=2),
        expires_at_ns=st.none() | st.integers(1, 2**63 - 1),
    ),
)
fractions = st.floats(0, 1)


def seen(record):
    return (record.key, bytes(record.value), record.tombstone, record.stream, record.headers)


class LogMachine(RuleBasedStateMachine):
    """`model` is the list: the record at position p is model[p - first]."""

    mode = "mapped"

    def __init__(self):
        super().__init__()
        kind, options = MODES[self.mode]
        self.log = Log("/log", MemoryFiles(kind), **options)
        self.model = []
        self.first = 0
        self.pins = {}
        self.other = None
        self.readers = []
        self.backwards = None

    @initialize(policy=st.sampled_from(POLICIES), size=st.sampled_from([1024, 2048, 4096]))
    def begin(self, policy, size):
        self.log.options["fsync_policy"] = policy
        self.log.options["segment_bytes_max"] = size
        self.wal = self.log.open()
        self.quiet = self.log.open(read_only=True)

    # --- What the model knows --------------------------------------------------------------------

    @property
    def end(self):
        return self.first + len(self.model)

    def expected(self, start, stop):
        return [(position, *self.model[position - self.first]) for position in range(start, stop)]

    def found(self, records):
        return [(record.position, *seen(record)) for record in records]

    def place(self, fraction):
        """A position from the first to the end."""
        return self.first + round(fraction * len(self.model))

    # --- Writing ---------------------------------------------------------------------------------

    def handle(self, second):
        return self.other if second and self.other is not None else self.wal

    @rule(key=keys, value=values, second=st.booleans())
    def put(self, key, value, second):
        assert self.handle(second).put(key, value) == self.end
        self.model.append((key, value, False, 0, {}))

    @rule(count=st.integers(1, 60), second=st.booleans())
    def put_many(self, count, second):
        for _ in range(count):
            assert self.handle(second).put(b"key-%d" % self.end, b"value") == self.end
            self.model.append((b"key-%d" % self.end, b"value", False, 0, {}))

    @rule(key=keys, second=st.booleans())
    def delete(self, key, second):
        assert self.handle(second).delete(key) == self.end
        self.model.append((key, b"", True, 0, {}))

    @rule(record=entries, second=st.booleans(), durable=st.booleans())
    def append(self, record, second, durable):
        assert self.handle(second).append(record, durable=durable) == self.end
        self.model.append(seen(record))
        assert not durable or self.wal.durable_position == self.end

    @rule(records=st.lists(entries, max_size=8), second=st.booleans())
    def append_batch(self, records, second):
        end = self.end
        self.model.extend(map(seen, records))
        assert self.handle(second).append_batch(records) == range(end, self.end)

    @rule(records=st.lists(entries, max_size=4))
    def batch(self, records):
        end = self.end
        with self.wal.batch() as batch:
            for record in records:
                batch.append(record)
        self.model.extend(map(seen, records))
        assert batch.positions == range(end, self.end)

    @rule(second=st.booleans())
    def sync(self, second):
        assert self.handle(second).sync() == self.end
        assert self.wal.durable_position == self.end

    # --- Truncation ------------------------------------------------------------------------------

    @rule(fraction=fractions, second=st.booleans())
    def truncate_before(self, fraction, second):
        position = self.place(fraction)
        first = self.handle(second).truncate_before(position)
        lowest = min([position, *self.pins.values()])
        assert self.first <= first <= max(lowest, self.first)
        if lowest == self.end:
            assert first == self.end, "nothing keeps the newest segment"
        del self.model[: first - self.first]
        self.first = first

    @rule(fraction=fractions, second=st.booleans())
    def truncate_after(self, fraction, second):
        position = self.place(fraction)
        self.handle(second).truncate_after(position)
        if position < self.end:
            self.cut_readers(position)
        del self.model[position - self.first :]

    @rule(name=st.sampled_from("abc"), fraction=fractions, second=st.booleans())
    def pin(self, name, fraction, second):
        self.handle(second).pin(name, self.place(fraction))
        self.pins[name] = self.place(fraction)

    @rule(name=st.sampled_from("abc"))
    def unpin(self, name):
        self.wal.unpin(name)
        self.pins.pop(name, None)

    @rule(fraction=fractions)
    def truncate_where_nothing_is(self, fraction):
        for call in (
            lambda: self.wal.truncate_before(self.end + 1),
            lambda: self.wal.truncate_after(self.end + 1),
            lambda: self.wal.read(self.end),
            lambda: self.wal.read_from(self.end + 1),
        ):
            try:
                call()
            except PositionError:
                continue
            raise AssertionError("there is nothing")
        if self.first:
            self.refused(self.wal, round(fraction * (self.first - 1)))

    def refused(self, handle, position):
        for call in (handle.read, handle.read_from, handle.read_backwards):
            try:
                call(position)
            except PrunedError as error:
                assert error.oldest == self.first
            else:
                raise AssertionError(f"{position} was truncated")

    # --- Reading ---------------------------------------------------------------------------------

    @rule(low=fractions, high=fractions, quiet=st.booleans(), copy=st.booleans())
    def read_range(self, low, high, quiet, copy):
        start, stop = sorted((self.place(low), self.place(high)))
        handle = self.quiet if quiet else self.wal
        records = list(handle.read_from(start, stop=stop, copy=copy))
        assert self.found(records) == self.expected(start, stop)

    @rule(low=fractions, high=fractions, quiet=st.booleans())
    def read_backwards(self, low, high, quiet):
        stop, start = sorted((self.place(low), self.place(high)))
        handle = self.quiet if quiet else self.wal
        found = self.found(handle.read_backwards(start, stop=stop))
        assert found == self.expected(stop, start)[::-1]

    @precondition(lambda self: self.model)
    @rule(fraction=fractions, quiet=st.booleans())
    def read_one(self, fraction, quiet):
        position = min(self.place(fraction), self.end - 1)
        handle = self.quiet if quiet else self.wal
        assert self.found([handle.read(position)]) == self.expected(position, position + 1)

    @rule(fraction=fractions, quiet=st.booleans())
    def begin_reading(self, fraction, quiet):
        """A reader that goes on later, when the log is another."""
        start = self.place(fraction)
        handle = self.quiet if quiet else self.wal
        self.readers.append({"reader": handle.read_from(start), "at": start, "cut": False})

    def cut_readers(self, position):
        for entry in self.readers:
            entry["cut"] = entry["cut"] or entry["at"] > position

    @precondition(lambda self: self.readers)
    @rule(data=st.data(), count=st.integers(1, 40))
    def go_on_reading(self, data, count):
        """It shows what there is, or what there was; it skips nothing, or says that it must."""
        entry = data.draw(st.sampled_from(self.readers))
        try:
            for _ in range(count):
                record = next(entry["reader"], None)
                if record is None:
                    assert not entry["cut"], "it had passed a cut, and was not told"
                    break
                assert record.position == entry["at"], "something was skipped"
                entry["at"] += 1
        except PrunedError as error:
            assert isinstance(error, RewoundError) or entry["at"] < self.first
            self.readers.remove(entry)

    # --- Handles come and go ---------------------------------------------------------------------

    @precondition(lambda self: self.other is None)
    @rule()
    def open_second(self):
        self.other = self.log.open()
        assert self.other.recovery.state == "joined"

    @precondition(lambda self: self.other is not None)
    @rule(which=st.booleans())
    def close_one_of_two(self, which):
        if which:
            self.other.close()
        else:
            self.forget_readers(self.wal)
            self.wal.close()
            self.wal = self.other
        self.other = None

    @rule()
    def open_read_only_again(self):
        self.forget_readers(self.quiet)
        self.quiet.close()
        self.quiet = self.log.open(read_only=True)

    @rule()
    def close_and_open(self):
        self.readers.clear()
        if self.other is not None:
            self.other.close()
            self.other = None
        self.wal.close()
        self.wal = self.log.open()
        assert self.wal.recovery.state == "clean"
        assert self.wal.recovery.cut is None

    @rule()
    def kill_and_open(self):
        """Every process dies: nothing that was returned is lost (D1)."""
        self.readers.clear()
        self.other = None
        self.log.kill()
        self.wal = self.log.open()
        self.quiet = self.log.open(read_only=True)
        assert self.wal.recovery.cut is None
        assert self.wal.recovery.damage == ()

    def forget_readers(self, handle):
        self.readers.clear()

    # --- After each step -------------------------------------------------------------------------

    @invariant()
    def all_handles_agree_with_the_model(self):
        if not hasattr(self, "wal"):
            return
        for handle in (self.wal, self.other, self.quiet):
            if handle is None:
                continue
            assert (handle.first_position, handle.current_position()) == (self.first, self.end)
            assert handle.pins() == self.pins
            assert self.first <= handle.durable_position <= self.end
        self.wal.check()
        self.quiet.check()
        if self.model:
            assert self.found([self.wal.read(self.end - 1)]) == self.expected(
                self.end - 1, self.end
            )

    def teardown(self):
        if hasattr(self, "wal"):
            expected = self.expected(self.first, self.end)
            assert self.found(self.wal) == self.found(self.quiet) == expected
            if self.other is not None:
                assert self.found(self.other) == expected
        self.log.clean_up()


# `make soak` and the curious may ask for more.
EXAMPLES = int(os.environ.get("TREERING_MODEL_EXAMPLES", "6"))


@pytest.mark.parametrize("mode", MODES)
def test_the_log_does_what_a_list_would_do(mode):
    """D1, D4, D11: in every mode, across segments, truncation, restarts and deaths."""
    machine = type("Machine", (LogMachine,), {"mode": mode}).TestCase
    machine.settings = settings(max_examples=EXAMPLES, stateful_step_count=40, deadline=None)
    machine().runTest()
