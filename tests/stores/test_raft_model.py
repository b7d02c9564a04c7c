"""The Raft log is a list of entries, whatever is done to it in whatever order, in two handles."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.crash._scale import cases
from tests.stores.test_raft_crash import show
from treering import ConflictError, FsyncPolicy
from treering.stores.raft import (
    CommittedError,
    CompactedError,
    Entry,
    EntryConflictError,
    HardState,
    HardStateError,
    RaftLog,
    UnavailableError,
)
from treering.testing import MemoryFiles

handles = st.integers(0, 1)
few = st.integers(0, 3)
votes = st.sampled_from([None, "a", b"b", 3])


class Logs(RuleBasedStateMachine):
    """The model: entries by index, the index and term before them, hard state, snapshot."""

    def __init__(self):
        super().__init__()
        self.files = MemoryFiles()
        self.entries, self.before, self.before_term = {}, 0, 0
        self.hard, self.stored = HardState(), None
        self.logs = [self.open(), self.open()]

    def open(self):
        return RaftLog(
            "/raft",
            files=self.files,
            fsync_policy=FsyncPolicy.OS,
            exclusive=False,
            cache_bytes=700,
            segment_bytes_max=1024,
            checkpoint_bytes=None,
        )

    @property
    def last(self):
        return max(self.entries, default=self.before)

    def term(self, index):
        return self.before_term if index == self.before else self.entries[index].term

    def cut(self, last):
        self.entries = {i: entry for i, entry in self.entries.items() if i <= last}

    @rule(which=handles, back=st.integers(0, 4), count=few, rise=few, size=st.sampled_from([0, 90]))
    def append(self, which, back, count, rise, size):
        """From some index on, with a term that may be another one than that of what is there."""
        first = max(self.last + 1 - back, self.before + 1)
        term = self.term(first - 1) + rise
        new = [Entry(first + n, term, b"%d" % n * size) for n in range(count)]
        clash = next((e for e in new if e.index in self.entries and self.term(e.index) != term), 0)
        if clash:
            with pytest.raises((EntryConflictError, CommittedError)):
                self.logs[which].append(new)
            if clash.index <= self.hard.commit:
                with pytest.raises(CommittedError):
                    self.logs[which].append(new, overwrite=True)
                return
            self.cut(clash.index - 1)
        fresh = [entry for entry in new if entry.index > self.last]
        self.logs[which].append(new, overwrite=bool(clash))
        self.entries |= {entry.index: entry for entry in fresh}

    @rule(which=handles, back=st.integers(-2, 6))
    def truncate(self, which, back):
        at = max(self.last - back, 0)
        if at > self.last:
            with pytest.raises(UnavailableError):
                self.logs[which].truncate_after(at)
        elif at < self.hard.commit:
            with pytest.raises(CommittedError):
                self.logs[which].truncate_after(at)
        else:
            self.logs[which].truncate_after(at)
            self.cut(at)

    @rule(which=handles, rise=st.integers(-1, 2), vote=votes, forward=st.integers(-1, 4))
    def set_hard_state(self, which, rise, vote, forward):
        old = self.hard
        new = HardState(max(old.term + rise, 0), vote, max(old.commit + forward, 0))
        right = new.term > old.term or (new.term == old.term and old.voted_for in (None, vote))
        if right and old.commit <= new.commit <= self.last:
            self.logs[which].save(hard_state=new)
            self.hard = new
        else:
            with pytest.raises(HardStateError):
                self.logs[which].save(hard_state=new)

    @rule(which=handles, back=st.integers(-1, 4), keep=few, data=st.binary(max_size=99))
    def compact(self, which, back, keep, data):
        index = max(self.last - back, 1)
        if self.stored and index <= self.stored[0]:
            with pytest.raises(CompactedError):
                self.logs[which].compact(index, data)
            return
        if index > self.last:
            with pytest.raises(UnavailableError):
                self.logs[which].compact(index, data)
            return
        self.logs[which].compact(index, data, metadata=data[:5], keep=keep)
        self.store(index, self.term(index), data, data[:5], max(index - keep, self.before))

    @rule(which=handles, ahead=st.integers(-4, 3), rise=few, data=st.binary(max_size=99))
    def install(self, which, ahead, rise, data):
        index = max(self.last + ahead, 1)
        agrees = self.before <= index <= self.last and rise < 2
        term = self.term(index) if agrees else self.term(self.last) + rise
        log = self.logs[which]
        if self.stored and index <= self.stored[0]:
            assert log.install_snapshot(index, term, data) is False
            return
        agrees = index <= self.last and self.term(index) == term
        if index <= self.hard.commit and not agrees:
            with pytest.raises(ConflictError):
                log.install_snapshot(index, term, data)
            return
        assert log.install_snapshot(index, term, data)
        if not agrees:
            self.entries = {}
        self.before, self.before_term = index, term
        self.store(index, term, data, b"", index)

    def store(self, index, term, data, metadata, before):
        """The snapshot is there now, and the entries after `before`."""
        self.before_term = term if before == index else self.term(before)
        self.before = before
        self.entries = {i: entry for i, entry in self.entries.items() if i > before}
        self.stored = (index, term, metadata, data)
        self.hard = self.hard._replace(commit=max(self.hard.commit, index))

    @rule(which=handles)
    def checkpoint(self, which):
        self.logs[which].checkpoint()

    @rule(which=handles)
    def reopen(self, which):
        self.logs[which].close()
        self.logs[which] = self.open()

    @rule()
    def crash(self):
        files, self.files = self.files, self.files.crash()
        for log in self.logs:
            log.close()
        assert files is not self.files
        self.logs = [self.open(), self.open()]

    @precondition(lambda self: self.entries)
    @rule(which=handles, low=few, high=few, limit=st.integers(0, 300))
    def read(self, which, low, high, limit):
        low = min(self.before + 1 + low, self.last)
        high = min(low + 1 + high, self.last + 1)
        found = self.logs[which].entries(low, high, bytes_max=limit)
        expected = [self.entries[i] for i in range(low, high)]
        assert found == expected[: len(found)]
        assert len(found) == 1 or sum(len(entry.data) for entry in found) <= limit
        longer = expected[: len(found) + 1]
        assert found == expected or sum(len(entry.data) for entry in longer) > limit

    @invariant()
    def both_are_the_model(self):
        entries = tuple(self.entries[i] for i in range(self.before + 1, self.last + 1))
        for log in self.logs:
            assert show(log) == (self.before + 1, entries, self.hard, self.stored)
            assert log.term(self.before) == self.before_term
            assert (log.last_index, len(log)) == (self.last, len(entries))

    def teardown(self):
        for log in self.logs:
            log.check()
            assert log.stats()["trouble"] == []
            log.close()


TestLogs = Logs.TestCase
TestLogs.settings = settings(max_examples=cases(25), stateful_step_count=30, deadline=None)
