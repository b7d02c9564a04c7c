"""The metrics log is lists of points, whatever is done to it in whatever order, in two handles."""

from __future__ import annotations

import math

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.crash._scale import cases
from treering import FsyncPolicy
from treering.stores.metrics import Bucket, MetricsLog, TooOldError
from treering.testing import FakeClock, MemoryFiles

S = 1_000_000_000
NOW = 1_800_000_000 * S
FINE, COARSE, RAW_KEPT, FINE_KEPT = 10, 60, 120, 600
SERIES = [("x", {}), ("x", {"a": "1"}), ("x", {"a": "2"}), ("y", {})]
which = st.booleans()
series = st.sampled_from(range(len(SERIES)))
ages = st.integers(0, 400)
values = st.sampled_from([0.0, -1.5, 2.0, 7.25, 1e300])
columns = st.lists(st.tuples(ages, values), min_size=1, max_size=12)


def by_hand(points, resolution):
    """The buckets of these points, computed anew."""
    found = {}
    for time, value in points:
        found.setdefault(time - time % (resolution * S), []).append(value)
    return {start: _bucket(start, sorted(mine)) for start, mine in found.items()}


def _bucket(start, ordered):
    ranks = [ordered[-(-share * len(ordered) // 100) - 1] for share in (50, 90, 95, 99)]
    return Bucket(start, len(ordered), ordered[0], ordered[-1], math.fsum(ordered), *ranks)


class Logs(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.files, self.clock = MemoryFiles(), FakeClock(NOW)
        self.points = [[] for _ in SERIES]
        self.latest = NOW  # of all times at which something was dropped
        self.floor = None
        self.logs = [self.open(), self.open()]
        self.logs[0].configure(retention=RAW_KEPT, rollups=[(FINE, FINE_KEPT), (COARSE, None)])

    def open(self):
        return MetricsLog(
            "/m",
            files=self.files,
            clock=self.clock,
            fsync_policy=FsyncPolicy.OS,
            segment_bytes_max=2048,
            checkpoint_bytes=None,
        )

    def record_all(self, new, call):
        """All of them are there then, or one is too old."""
        floor = self.floor
        if floor is not None and any(time < floor for _, time, _ in new):
            try:
                call()
            except TooOldError:
                return
            raise AssertionError("a point before the floor was taken")
        call()
        for number, time, value in new:
            self.points[number].append((time, value))

    @rule(which=which, number=series, age=ages, value=values)
    def record(self, which, number, age, value):
        (name, tags), time = SERIES[number], self.clock() - age * S
        log = self.logs[which]
        self.record_all([(number, time, value)], lambda: log.record(name, value, tags, time))

    @rule(which=which, number=series, column=columns)
    def record_column(self, which, number, column):
        (name, tags), now = SERIES[number], self.clock()
        times = [now - age * S for age, _ in column]
        numbers = [value for _, value in column]
        handle = self.logs[which].series(name, tags)
        new = [(number, time, value) for time, value in zip(times, numbers, strict=True)]
        self.record_all(new, lambda: handle.record_many(times, numbers))

    @rule(which=which, many=st.lists(st.tuples(series, ages, values), max_size=8))
    def record_many(self, which, many):
        new = [(number, self.clock() - age * S, value) for number, age, value in many]
        points = [(SERIES[n][0], value, SERIES[n][1], time) for n, time, value in new]
        self.record_all(new, lambda: self.logs[which].record_many(points))

    @rule(seconds=st.integers(1, 200))
    def advance(self, seconds):
        self.clock.advance(seconds)

    @rule(seconds=st.integers(1, 500))
    def step_back(self, seconds):
        self.clock.jump(-seconds)

    @rule(which=which, checkpoint=st.booleans())
    def roll_up(self, which, checkpoint):
        log = self.logs[which]
        log.checkpoint() if checkpoint else log.rollup()
        self.latest = max(self.latest, self.clock())
        since = log.stats()["raw_since"]
        floor = None if since is None else round(since * S)
        assert floor is None or floor % (COARSE * S) == 0
        assert (floor or 0) <= self.latest - RAW_KEPT * S
        assert (floor or 0) >= (self.floor or 0)
        self.floor = floor
        for number in range(len(SERIES)):
            self.look_at_buckets(log, number, FINE, self.latest - FINE_KEPT * S)
            self.look_at_buckets(log, number, COARSE, 0)

    def look_at_buckets(self, log, number, resolution, since):
        """All that are over, and younger than `since`, are there, and as they should be."""
        found = {}
        if SERIES[number] in log.series_list():
            mine = log.series_list().index(SERIES[number])
            found_in = log._fetch().buckets(mine, resolution * S, -(1 << 62), 1 << 62)
            found = {bucket.start: bucket for some in found_in for bucket in some}
        wanted = by_hand(self.points[number], resolution)
        assert found.items() <= wanted.items()
        over = self.clock() - resolution * S
        for start in wanted:
            assert start in found or start > over or start < since

    @rule(which=which)
    def compact(self, which):
        self.logs[which].compact()

    @rule(which=which)
    def reopen(self, which):
        self.logs[which].close()
        self.logs[which] = self.open()

    @rule()
    def crash(self):
        files = self.files
        self.files = files.crash()
        for log in self.logs:
            log.close()
        self.logs = [self.open(), self.open()]

    @rule(which=which, age=st.integers(0, 300), length=st.integers(0, 300))
    def range(self, which, age, length):
        start = self.clock() - age * S
        end = start + length * S
        floor = max(start, self.floor or 0)
        for number in (0, 3):
            name = SERIES[number][0]
            same = [n for n, found in enumerate(SERIES) if found[0] == name]
            wanted = sorted(p for n in same for p in self.points[n] if floor <= p[0] < end)
            found = list(self.logs[which].range(name, start, end, resolution=0))
            assert sorted(map(tuple, found)) == wanted
            assert [p.time for p in found] == [time for time, _ in wanted]

    @invariant()
    def nothing_is_lost(self):
        for log in self.logs:
            for number, (name, tags) in enumerate(SERIES):
                points = self.points[number]
                found = log.series(name, tags).range()
                assert sum(p.value for p in found.aggregate(COARSE, "count")) == len(points)
                raw = log.series(name, tags).range(resolution=0).arrays()
                kept = sorted(p for p in points if p[0] >= (self.floor or 0))
                assert sorted(zip(*raw, strict=True)) == kept

    def teardown(self):
        for log in self.logs:
            log.check()
            assert log.stats()["trouble"] == []
            log.close()


TestLogs = Logs.TestCase
TestLogs.settings = settings(max_examples=cases(10), stateful_step_count=30, deadline=None)
