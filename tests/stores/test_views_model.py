"""Indexes and views tell what the log's records come to, whatever is done to the log by others."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.crash._scale import cases
from treering import FsyncPolicy, PrunedError, UsageError, Wal
from treering.stores.views import Index, View, view
from treering.testing import FakeClock, MemoryFiles

keys = st.sampled_from([b"", b"a", b"ab", b"b", b"\xff", b"\xff\xff"])
values = st.sampled_from([b"", b"1", b"22", b"x" * 300])


def initials(record):
    return [record.key[:1], record.value[:1]]


@view("newest")
def newest(view, record):
    view["k" + record.key.hex()] = None if record.tombstone else bytes(record.value).decode()


class Followers(RuleBasedStateMachine):
    """The model is the log itself: a dict of position to (key, value, expiry), None for a delete."""

    def __init__(self):
        super().__init__()
        self.files, self.clock = MemoryFiles(), FakeClock()
        self.records, self.first = [], 0
        self.start()

    def start(self):
        self.wals = [self.open(), self.open()]
        self.followers = [
            self.index(0),
            self.index("/log"),
            self.index(0, path="/kept"),
            self.index("/log", key=initials, path="/all"),
            self.index(0, key=initials, latest=True, path="/latest"),
        ]
        self.views = [View(self.wals[0], "/v0", newest, files=self.files)]
        self.views.append(View("/log", "/v1", newest, files=self.files))

    def open(self):
        return Wal.open(
            "/log",
            files=self.files,
            clock=self.clock,
            fsync_policy=FsyncPolicy.OS,
            segment_bytes_max=1024,
        )

    def index(self, log, path=None, **options):
        log = self.wals[log] if isinstance(log, int) else log
        return Index(log, path, files=self.files, clock=self.clock, **options)

    @rule(which=st.booleans(), key=keys, value=values, ttl=st.none() | st.integers(1, 5))
    def put(self, which, key, value, ttl):
        position = self.wals[which].put(key, value, ttl=ttl)
        self._note(key, value, self.wals[which].read(position).expires_at_ns)

    def _note(self, key, value, expiry=None):
        self.records.append((key, value, expiry))

    @rule(which=st.booleans(), pairs=st.lists(st.tuples(keys, values), min_size=1, max_size=9))
    def batch(self, which, pairs):
        self.wals[which].append_batch(pairs)
        for key, value in pairs:
            self._note(key, value)

    @rule(which=st.booleans(), key=keys)
    def delete(self, which, key):
        self.wals[which].delete(key)
        self._note(key, None)

    @rule(which=st.booleans(), share=st.floats(0, 1))
    def truncate_before(self, which, share):
        at = self.first + int(share * (len(self.records) - self.first))
        self.first = self.wals[which].truncate_before(at)

    @rule(which=st.booleans(), count=st.integers(0, 6))
    def truncate_after(self, which, count):
        at = max(self.first, len(self.records) - count)
        self.wals[which].truncate_after(at)
        del self.records[at:]

    @rule(seconds=st.integers(-5, 5))
    def time_passes(self, seconds):
        self.clock.jump(seconds)

    @rule(which=st.integers(2, 4))
    def checkpoint(self, which):
        self.followers[which].checkpoint()

    @rule(which=st.integers(0, 1))
    def catch_up(self, which):
        each = self.views[which]
        try:
            each.catch_up()
        except (PrunedError, UsageError):
            assert self.first > 0
            each.rebuild()
        assert each.lag == 0

    @rule()
    def reopen(self):
        for each in (*self.followers, *self.views, *self.wals):
            each.close()
        self.start()

    @rule()
    def crash(self):
        self.files, before = self.files.crash(), (*self.followers, *self.views, *self.wals)
        for each in before:
            each.close()
        self.start()

    def live(self, now):
        found = {}
        for position, (key, value, expiry) in enumerate(self.records[self.first :], self.first):
            found.pop(key, None)
            if value is not None:
                found[key] = (position, value, expiry)
        return {k: v for k, v in found.items() if v[2] is None or v[2] > now}

    @invariant()
    def all_indexes_are_what_the_log_says(self):
        for number, index in enumerate(self.followers):
            index.state()
            now = index.now_ns()
            live = self.live(now)
            if number < 3:
                assert dict(index.items()) == {key: value for key, (_, value, _) in live.items()}
                assert list(index) == sorted(live) and len(index) == len(live)
                assert all(index.position(key) == live[key][0] for key in live)
                continue
            wanted = [(position, key, value) for key, (position, value, _) in live.items()]
            if number == 3:
                wanted = [
                    (position, key, value)
                    for position, (key, value, expiry) in enumerate(self.records)
                    if position >= self.first and value is not None
                    if expiry is None or expiry > now
                ]
            places = {}
            for position, key, value in sorted(wanted):
                for each in {key[:1], value[:1]}:
                    places.setdefault(each, []).append(position)
            assert {key: index.positions(key) for key in index} == places

    @invariant()
    def views_that_have_seen_all_are_right(self):
        for each in self.views:
            state = each._fold.state()
            if state.mark.reached == len(self.records) and state.mark.began == self.first == 0:
                if each.catch_up() or each.lag:
                    continue
                found = {}
                for key, value, _ in self.records:
                    found["k" + key.hex()] = None if value is None else value.decode()
                assert dict(each.view) == found

    def teardown(self):
        for index in self.followers:
            index.check()
        for each in self.views:
            each.check()
        for each in (*self.followers, *self.views, *self.wals):
            each.close()


TestFollowers = Followers.TestCase
TestFollowers.settings = settings(max_examples=cases(12), stateful_step_count=25, deadline=None)
