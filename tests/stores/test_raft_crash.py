"""The Raft log on disks that fail and lose power: no term, vote or entry that was returned as
stored is forgotten; a snapshot is there as a whole or not at all."""

from __future__ import annotations

import errno

import pytest

from tests.crash._scale import SHARE, cases
from tests.stores._crashing import OPTIONS, Program, failing_calls, power_cuts
from treering import FsyncPolicy
from treering.stores.raft import Entry, HardState, RaftLog, snapshots

# The stores are Python in either build: once is enough.
pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr(snapshots, "CHUNK_BYTES", 200)


def show(log):
    """All that a log shows."""
    stored = log.snapshot()
    return (
        log.first_index,
        tuple(log.entries(log.first_index)),
        log.hard_state,
        stored and (stored.index, stored.term, stored.metadata, stored.read()),
    )


class RaftProgram(Program):
    """A state is what the log shows: the model is a list of entries, and what Raft says of it."""

    start = (1, (), HardState(), None)
    seen = staticmethod(show)

    def opened(self, files, policy=FsyncPolicy.OS):
        options = {**OPTIONS, "exclusive": False, "cache_bytes": 1500}
        return RaftLog("/raft", files=files, fsync_policy=policy, **options)

    def go_on(self, store):
        index, term = store.last_index, store.term(store.last_index)
        store.append([Entry(index + 1, term + 1, b"after the cut")])

    def entries(self, first, count, term):
        size = self.rng.choice((0, 5, 5, 300))
        return [Entry(first + n, term, self.rng.randbytes(size)) for n in range(count)]

    def step(self, chance):
        first, entries, hard, stored = self.states[-1]
        last = first + len(entries) - 1
        term = max([hard.term, *(entry.term for entry in entries[-1:]), stored[1] if stored else 1])
        if chance < 0.3:
            self.append(first, entries, hard, stored, last, term)
        elif chance < 0.45:
            self.overwrite(first, entries, hard, stored, last, term)
        elif chance < 0.55:
            hard = HardState(hard.term + 1, self.rng.choice((None, "a", b"b", 3)), hard.commit)
            self.begin((first, entries, hard, stored))
            self.store.save(hard_state=hard)
        elif chance < 0.6 and last > hard.commit:
            at = self.rng.randint(hard.commit, last - 1)
            self.begin((first, entries[: at + 1 - first], hard, stored))
            self.store.truncate_after(at)
        elif chance < 0.72:
            return self.compact(first, entries, hard, stored, last)
        elif chance < 0.8:
            return self.install(first, entries, hard, stored, last, term)
        elif chance < 0.85:
            self.store.sync()
            return True
        elif chance < 0.95:
            self.store.checkpoint()
            return True
        else:
            self.reopen()
            return True
        return self.always

    def append(self, first, entries, hard, stored, last, term):
        new = self.entries(last + 1, self.rng.randint(1, 4), term)
        commit = self.rng.randint(hard.commit, last + len(new))
        again = list(entries[-2:]) if self.rng.random() < 0.3 else []
        changed = hard._replace(commit=commit) if self.rng.random() < 0.5 else None
        self.begin((first, (*entries, *new), changed or hard, stored))
        self.store.append([*again, *new], hard_state=changed)

    def overwrite(self, first, entries, hard, stored, last, term):
        """The entries of a new leader in place of some that are not committed."""
        at = self.rng.randint(hard.commit, last)
        new = self.entries(at + 1, self.rng.randint(1, 3), term + 1)
        hard = HardState(max(term + 1, hard.term), "leader", self.rng.randint(hard.commit, at + 1))
        self.begin((first, (*entries[: at + 1 - first], *new), hard, stored))
        if self.rng.random() < 0.5:
            self.store.save(entries=new, hard_state=hard, overwrite=True)
        else:
            self.store.save(truncate_after=at, entries=new, hard_state=hard)

    def compact(self, first, entries, hard, stored, last):
        least = max(first, stored[0] + 1 if stored else 1)
        if last < least:
            return False
        index, keep = self.rng.randint(least, last), self.rng.choice((0, 0, 2))
        data = self.rng.randbytes(self.rng.choice((0, 3, 200, 450)))
        stored = (index, self.store.term(index), b"m%d" % index, data)
        begin = max(first, index + 1 - keep)
        hard = hard._replace(commit=max(hard.commit, index))
        self.begin((begin, entries[begin - first :], hard, stored))
        self.store.compact(index, data, metadata=stored[2], keep=keep)
        return self.always

    def install(self, first, entries, hard, stored, last, term):
        index = self.rng.randint(hard.commit + 1, last + 4)
        data = self.rng.randbytes(self.rng.choice((3, 450)))
        known = index <= last
        agrees = known and self.rng.random() < 0.6
        term = self.store.term(index) if agrees else term + 1
        after = entries[index + 1 - first :] if agrees else ()
        self.begin((index + 1, after, hard._replace(commit=index), (index, term, b"", data)))
        assert self.store.install_snapshot(index, term, data)
        return self.always


@pytest.mark.parametrize("policy", [FsyncPolicy.OS, FsyncPolicy.ALWAYS], ids=["os", "always"])
def test_a_power_cut_after_every_operation(policy, record_property):
    record_property("counts", dict(power_cuts(RaftProgram, policy, cases(250), steps=12)))


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_every_call_of_the_disk_fails_once(number):
    failing_calls(RaftProgram, number, step=max(1, round(4 / SHARE)), steps=40)


class Terms(Program):
    """Only terms and votes, each of which was durable when the call returned."""

    start = HardState()

    def opened(self, files, policy=FsyncPolicy.ALWAYS):
        return RaftLog("/raft", files=files, fsync_policy=policy, **OPTIONS)

    def seen(self, store):
        return store.hard_state

    def go_on(self, store):
        store.save_hard_state(term=store.hard_state.term + 1)

    def step(self, chance):
        old = self.states[-1]
        if chance < 0.1:
            self.store.checkpoint()
            return True
        if chance < 0.5 and old.voted_for is None:
            self.begin(old._replace(voted_for=f"node-{self.rng.randrange(5)}"))
            self.store.save_hard_state(voted_for=self.states[-1].voted_for)
        else:
            self.begin(HardState(old.term + self.rng.randint(1, 3)))
            self.store.save_hard_state(term=self.states[-1].term)
        return True


def test_no_power_cut_makes_it_forget_a_vote(record_property):
    counts = power_cuts(Terms, FsyncPolicy.ALWAYS, cases(150), steps=12)
    record_property("counts", dict(counts))
