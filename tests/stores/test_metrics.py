"""The metrics log, as its users see it."""

from __future__ import annotations

import math
import random
import statistics
import threading
from array import array
from datetime import UTC, datetime, timedelta, timezone
from time import monotonic, sleep

import pytest

from tests.stores._opening import opener
from treering import (
    ClosedError,
    DamageError,
    FsyncPolicy,
    PositionError,
    PrunedError,
    ReadOnlyError,
    Record,
    TooLargeError,
    UsageError,
    VersionError,
    Wal,
)
from treering.stores.metrics import (
    Bucket,
    MetricsLog,
    Point,
    SeriesName,
    TooOldError,
    codec,
    compacting,
    rolling,
)
from treering.stores.metrics.state import State
from treering.testing import FakeClock, MemoryFiles

S = 1_000_000_000
MINUTE, HOUR, DAY = 60, 3600, 86_400
NOW = 20_000 * DAY * S  # on the hour


@pytest.fixture
def clock():
    return FakeClock(NOW)


@pytest.fixture
def opened(files, clock):
    with opener(MetricsLog, "/metrics", files=files, clock=clock) as open_store:
        yield open_store


def points(store, *args, **options):
    return [tuple(point) for point in store.range(*args, **options)]


# --- Recording and reading ---


def test_a_point_is_there_again_in_every_handle_and_after_a_restart(store, other, opened, clock):
    store.record("cpu", 0.5, {"host": "a"})
    clock.advance(1)
    other.record("cpu", 1, {"host": "a"})
    for each in (store, other, opened()):
        assert points(each, "cpu", host="a") == [(NOW, 0.5), (NOW + S, 1.0)]
    store.check()
    assert store.range("cpu").series == [SeriesName("cpu", {"host": "a"})]


def test_points_may_come_in_any_order_and_twice(store):
    for time in (5, 3, 9, 3):
        store.record("x", time, time=time)
    store.series("x").record_many([4, 1, 9], [4, 1, 9])
    assert [p.time for p in store.range("x")] == [1, 3, 3, 4, 5, 9, 9]
    assert [p.time for p in store.range("x", 3, 9)] == [3, 3, 4, 5]
    assert all(p.time == p.value for p in store.range("x"))


@pytest.mark.parametrize(
    "time",
    [
        NOW,
        NOW / S,
        datetime.fromtimestamp(NOW / S, UTC),
        datetime.fromtimestamp(NOW / S, timezone(timedelta(hours=2))),
    ],
    ids=["ns", "seconds", "datetime", "another zone"],
)
def test_a_time_is_ns_seconds_or_a_datetime(store, time):
    store.record("x", 1.0, time=time)
    assert [p.time for p in store.range("x")] == [NOW]
    (point,) = store.range("x", time)
    assert point.seconds == NOW / S


NUMPY = pytest.importorskip("numpy")


@pytest.mark.parametrize(
    ("times", "values"),
    [
        ([1, 2, 3], [1.0, 2.0, 3.0]),
        ((n for n in (1, 2, 3)), (n for n in (1, 2, 3))),
        (array("q", [1, 2, 3]), array("d", [1, 2, 3])),
        (array("i", [1, 2, 3]), array("f", [1, 2, 3])),
        (memoryview(array("Q", [1, 2, 3])), memoryview(array("b", [1, 2, 3]))),
        (array("d", [1e-9, 2e-9, 3e-9]), array("d", [1, 2, 3])),
        ([1e-9, 2e-9, 3e-9], [1, 2, 3.0]),
        ([1, 2e-9, datetime.fromtimestamp(0, UTC)], [1, 2, 0]),
        (NUMPY.array([1, 2, 3]), NUMPY.array([1.0, 2, 3])),
        (NUMPY.array([[1, 9], [2, 9], [3, 9]])[:, 0], NUMPY.array([1, 2, 3], "float32")),
        (list(NUMPY.array([1, 2, 3])), list(NUMPY.array([1.0, 2, 3]))),
        (NUMPY.array([1, 2, 3], ">i8"), NUMPY.array([1.0, 2, 3], ">f8")),
    ],
)
def test_columns_are_any_numbers(store, times, values):
    assert store.series("x").record_many(times, values) == 3
    found, numbers = store.range("x").arrays()
    assert found.typecode, numbers.typecode == ("q", "d")
    assert list(found) in ([1, 2, 3], [0, 1, 2])
    assert list(numbers) == list(found)


@pytest.mark.parametrize("kind", ["regular", "jitter", "sparse", "equal", "wild", "shuffled"])
def test_large_columns_come_back_as_they_were(store, kind):
    rng, count = random.Random(kind), 20_000
    steps = {"regular": lambda: S, "jitter": lambda: S + rng.randrange(99), "equal": lambda: 0}
    steps |= {
        "sparse": lambda: 1000 * rng.choice([1, 200, 70_000, 1 << 33]),
        "wild": lambda: rng.randrange(1 << 40),
    }
    times, now = array("q"), NOW
    for _ in range(count):
        times.append(now)
        now += steps.get(kind, steps["wild"])()
    if kind == "shuffled":
        shuffled = list(times)
        rng.shuffle(shuffled)
        times = array("q", shuffled)
    values = array("d", (rng.gauss(0, 1) for _ in times))
    store.series("x").record_many(times, values)
    found, numbers = store.range("x").arrays()
    if kind != "equal":
        assert list(zip(found, numbers, strict=True)) == sorted(zip(times, values, strict=True))
    assert (found, sorted(numbers)) == (array("q", sorted(times)), sorted(values))
    assert store.stats()["chunks"] == 3
    store.check()


def test_a_regular_interval_takes_eight_bytes_a_point():
    times = array("q", range(0, 8192 * S, S))
    assert len(codec.encode(times, array("d", times))) < 8.1 * 8192
    jitter = array("q", (time + time % 1000 * 1_000_000 for time in times))
    assert len(codec.encode(jitter, array("d", times))) < 12.1 * 8192


def test_steps_of_every_width_come_back():
    for wide in (1, 255, 256, 65_535, 65_536, (1 << 32) - 1, 1 << 32, (1 << 61)):
        times = array("q", [-5, -5, -5 + wide])
        data = codec.encode(times, array("d", [1, 2, 3]))
        assert codec.decode(data) == (times, array("d", [1, 2, 3]))


def test_record_many_takes_points_of_many_series_at_once(store):
    done = store.record_many(
        [
            ("x", 1),
            ("x", 2.5, {"a": "1"}),
            ("x", 3, {"a": "1", "b": "2"}, 7),
            ("y", 4, None, 5.0),
            ["y", 5, {}, datetime.fromtimestamp(6, UTC)],
        ]
    )
    assert done == 5
    assert points(store, "x") == [(7, 3.0), (NOW, 1.0), (NOW, 2.5)]
    assert points(store, "x", a="1") == [(7, 3.0), (NOW, 2.5)]
    assert points(store, "x", tags={"b": "2"}) == [(7, 3.0)]
    assert points(store, "y") == [(5 * S, 4.0), (6 * S, 5.0)]
    assert store.record_many([]) == 0 == store.series("z").record_many([], [])
    assert points(store, "z") == [] == points(store, "no such name")


def test_many_points_at_once_are_all_there_or_none(store):
    before = store.position
    for bad in (("y", math.nan), ("y", 1, {"a": 1}), ("", 1), ("y",), "y", 7, ("y", 1, None, 2, 3)):
        with pytest.raises(UsageError):
            store.record_many([("x", 1), ("x", 2), bad])
    assert store.position == before
    assert store.series_list() == []


def test_series_are_told_apart_by_name_and_all_tags(store):
    for tags in ({}, {"a": "1"}, {"a": "2"}, {"a": "1", "b": "1"}):
        store.record("x", len(tags), tags)
        store.record("y", 0, tags)
    assert [found.tags for found in store.series_list("x")] == [
        {}, {"a": "1"}, {"a": "2"}, {"a": "1", "b": "1"},
    ]  # fmt: skip
    assert [found.tags for found in store.series_list("x", a="1")] == [
        {"a": "1"},
        {"a": "1", "b": "1"},
    ]
    assert len(store.series_list()) == 8
    assert len(store.series_list(b="1")) == 2
    handle = store.series("x", a="1")
    assert [tuple(p) for p in handle.range()] == [(NOW, 1.0)]
    assert [name.tags for name, _ in store.range("x", a="1").by_series()] == [
        {"a": "1"},
        {"a": "1", "b": "1"},
    ]
    assert store.series("x", {"a": "1"}, b="1").name == SeriesName("x", {"a": "1", "b": "1"})


def test_a_query_reads_no_chunk_that_it_does_not_need(store, monkeypatch):
    for host in "abc":
        store.series("x", host=host).record_many(range(50_000), [0.0] * 50_000)
    read = []
    read_many = Wal.read_many

    def counting(wal, positions):
        read.extend(positions)
        return read_many(wal, positions)

    monkeypatch.setattr(Wal, "read_many", counting)
    assert len(list(store.range("x", 20_000, 20_010, host="b"))) == 10
    assert len(read) == 1


# --- Aggregates ---


def test_aggregates_are_those_of_the_points(store):
    rng = random.Random(3)
    for host in "ab":
        times = [NOW + rng.randrange(600 * S) for _ in range(999)]
        store.series("x", host=host).record_many(times, [rng.gauss(10, 5) for _ in times])
    found = points(store, "x")
    for how in ("mean", "min", "max", "sum", "count", "p50", "p90", "p95", "p99", "p1"):
        figures = store.aggregate("x", NOW, NOW + 600 * S, 60, how)
        assert [p.time for p in figures] == [NOW + n * 60 * S for n in range(10)]
        for time, figure in figures:
            values = sorted(v for t, v in found if time <= t < time + 60 * S)
            if how[0] == "p":
                share = int(how[1:])
                assert figure == values[-(-share * len(values) // 100) - 1]
            else:
                exact = {
                    "mean": statistics.fmean,
                    "min": min,
                    "max": max,
                    "sum": math.fsum,
                    "count": len,
                }[how]
                assert figure == pytest.approx(exact(values), rel=1e-14)


def test_an_interval_without_points_is_left_out(store):
    store.series("x").record_many([10 * S, 35 * S], [1, 2])
    assert store.aggregate("x", 0, 60.0, 10, "sum") == [Point(10 * S, 1), Point(30 * S, 2)]
    assert store.aggregate("x", 11.0, 35.0, timedelta(seconds=5), "max") == []
    assert store.aggregate("y", 0, 60.0, 10, "sum") == []


def test_sums_beyond_all_floats_are_infinite_and_harm_nothing(opened):
    store = opened(rollups=[(MINUTE, None)])
    store.series("x").record_many([0, 1], [1.7e308, 1.7e308])
    assert store.rollup() == 1
    (bucket,) = store.buckets("x", MINUTE)
    assert (bucket.sum, bucket.mean, bucket.max) == (math.inf, math.inf, 1.7e308)
    assert store.aggregate("x", 0, 60.0, 60, "p50")[0].value == 1.7e308
    store.check()


# --- Rollups and retention ---


def by_hand(found, resolution):
    """The buckets of these points, computed anew."""
    values = {}
    for time, value in found:
        values.setdefault(time - time % (resolution * S), []).append(value)
    return [bucket_by_hand(start, sorted(values[start])) for start in sorted(values)]


def bucket_by_hand(start, ordered):
    ranks = [-(-share * len(ordered) // 100) - 1 for share in (50, 90, 95, 99)]
    percentiles = [ordered[rank] for rank in ranks]
    return Bucket(start, len(ordered), ordered[0], ordered[-1], math.fsum(ordered), *percentiles)


LEVELS = {"retention": DAY, "rollups": [(MINUTE, 30 * DAY), (HOUR, None)]}


def test_rollups_are_what_raw_points_give(opened, clock):
    store, rng, recorded = opened(**LEVELS), random.Random(1), []
    for _ in range(12):
        times = [clock() - rng.randrange(1200 * S) for _ in range(300)]
        values = [rng.gauss(0, 3) for _ in times]
        store.series("x").record_many(times, values)
        recorded += zip(times, values, strict=True)
        clock.advance(600)
        store.rollup()
    clock.advance(HOUR)
    store.rollup()
    assert store.rollup() == 0
    for resolution in (MINUTE, HOUR):
        assert list(store.buckets("x", resolution)) == by_hand(recorded, resolution)
    store.check()


def test_an_open_interval_is_not_rolled_up(opened, clock):
    store = opened(rollups=[(MINUTE, None)])
    store.record("x", 1)
    clock.advance(59.999)
    assert store.rollup() == 0
    clock.advance(0.001)
    assert store.rollup() == 1
    assert [bucket.start for bucket in store.buckets("x", MINUTE)] == [NOW]


def test_late_points_make_their_bucket_anew_in_any_process(store, other, clock):
    store.configure(rollups=[(MINUTE, None), (HOUR, None)])
    store.record("x", 1)
    clock.advance(2 * HOUR)
    assert store.rollup() == 2
    other.record("x", 3, time=NOW + S)
    other.record("x", 9, time=NOW + 70 * S)
    assert store.rollup() == 3
    assert other.rollup() == 0
    assert [(b.start, b.count, b.sum) for b in store.buckets("x", MINUTE)] == [
        (NOW, 2, 4.0),
        (NOW + 60 * S, 1, 9.0),
    ]
    assert [(b.count, b.max) for b in other.buckets("x", HOUR)] == [(3, 9.0)]
    other.compact()
    assert [(b.count, b.max) for b in store.buckets("x", HOUR)] == [(3, 9.0)]
    store.check()


def test_a_point_that_comes_while_its_interval_is_rolled_up_is_in_it(
    store, other, clock, monkeypatch
):
    store.configure(rollups=[(MINUTE, None)])
    store.record("x", 1)
    clock.advance(HOUR)
    made, times = rolling._made, []

    def overtaken(fold, job):
        found = made(fold, job)
        if not times:
            times.append(job)
            other.record("x", 5, time=NOW + S)
        return found

    monkeypatch.setattr(rolling, "_made", overtaken)
    assert store.rollup() == 1
    assert [(b.count, b.sum) for b in other.buckets("x", MINUTE)] == [(2, 6.0)]


def test_two_processes_roll_up_once(store, other, clock, monkeypatch):
    store.configure(rollups=[(MINUTE, None)])
    store.record("x", 1)
    clock.advance(HOUR)
    made, theirs = rolling._made, []

    def overtaken(fold, job):
        found = made(fold, job)
        if not theirs:
            theirs.append(None)
            theirs.append(other.rollup())
        return found

    monkeypatch.setattr(rolling, "_made", overtaken)
    assert store.rollup() == 0
    assert theirs[1] == 1
    assert store.stats()["buckets"] == 1


def test_old_points_go_when_their_buckets_are_there(opened, clock):
    store = opened(**LEVELS)
    recorded = [(NOW + n * 60 * S, float(n)) for n in range(3 * 1440)]
    for at in range(0, len(recorded), 60):
        store.series("x").record_many(*zip(*recorded[at : at + 60], strict=True))
        clock.advance(HOUR)
        if at % 240 == 0:
            store.checkpoint()
    store.checkpoint()
    kept = [p for p in recorded if p[0] >= clock() - DAY * S]
    assert points(store, "x", resolution=0) == kept
    assert list(store.buckets("x", MINUTE)) == by_hand(recorded, MINUTE)
    assert list(store.buckets("x", HOUR)) == by_hand(recorded, HOUR)
    # Each part in its finest resolution: minutes of one point each are the points.
    assert points(store, "x") == recorded
    with pytest.raises(TooOldError) as error:
        store.record("x", 1, time=kept[0][0] - 1)
    assert error.value.floor == kept[0][0]
    assert points(store, "x") == recorded
    assert store.aggregate("x", NOW, recorded[-1][0], DAY, "count") == [
        Point(NOW, 1440), Point(NOW + DAY * S, 1440), Point(NOW + 2 * DAY * S, 1439),
    ]  # fmt: skip
    store.check()
    assert opened().stats()["raw_since"] == kept[0][0] / S


def test_raw_points_stay_until_they_are_rolled_up(opened, clock):
    store = opened(retention=HOUR, rollups=[(MINUTE, None), (HOUR, None)])
    store.record("x", 1)
    clock.advance(DAY)
    rolling.drop_old(store._fold, clock)  # as if it had come after another process's rollup
    assert points(store, "x", resolution=0) == [(NOW, 1.0)]
    store.rollup()
    assert points(store, "x", resolution=0) == []
    store.record("x", 2, time=clock() - 60 * S)
    clock.advance(DAY)
    rolling.roll_up(store._fold, clock)
    store.record("x", 5, time=clock() - (DAY + 50) * S)
    rolling.drop_old(store._fold, clock)
    assert len(points(store, "x", resolution=0)) == 2, "a late one has not been rolled up"
    store.rollup()
    assert points(store, "x", resolution=0) == []
    assert [b.sum for b in store.buckets("x", HOUR)] == [1.0, 7.0]


def test_each_level_is_kept_for_its_time(opened, clock):
    store = opened(retention=HOUR, rollups=[(MINUTE, 2 * HOUR), (HOUR, None)])
    for _ in range(6):
        store.series("x").record_many([clock() + n * 60 * S for n in range(60)], range(60))
        clock.advance(HOUR)
        store.checkpoint()
    assert next(p.time for p in store.range("x", resolution=0)) == clock() - HOUR * S
    assert next(store.buckets("x", MINUTE)).start == clock() - 2 * HOUR * S
    assert [b.start for b in store.buckets("x", HOUR)] == [NOW + n * HOUR * S for n in range(6)]
    mixed = store.range("x").arrays()[0]
    assert len(mixed) == 4 + 60 + 60
    counts = store.aggregate("x", NOW, clock(), HOUR, "count")
    assert [p.value for p in counts] == [60] * 6
    assert [p.value for p in store.aggregate("x", NOW, clock(), HOUR, "p95")] == [56] * 6
    estimate = store.aggregate("x", NOW, clock(), 6 * HOUR, "p50")
    assert estimate[0].value == pytest.approx(29.5, abs=2)


@pytest.mark.parametrize("jump", [-10 * 365 * DAY, 10 * 365 * DAY])
def test_a_clock_that_jumps_and_comes_back_takes_nothing(opened, clock, jump):
    store = opened(retention=10 * DAY, rollups=[(HOUR, None)])
    store.series("x").record_many([NOW - n * 600 * S for n in range(100)], range(100))
    before = points(store, "x")
    clock.jump(jump)
    store.record("y", 1)  # at a wrong time: nobody else's points are old for it
    if jump < 0:
        store.checkpoint()
    clock.set(NOW)
    store.checkpoint()
    assert points(store, "x") == before
    clock.set(NOW + HOUR * S)
    store.checkpoint()
    assert list(store.buckets("x", HOUR)) == by_hand(before, HOUR)
    store.check()


def test_a_floor_never_comes_back_down(opened, clock):
    store = opened(retention=HOUR)
    store.record("x", 1)
    clock.advance(2 * HOUR)
    store.checkpoint()
    assert points(store, "x") == []
    clock.set(NOW)
    store.checkpoint()
    with pytest.raises(TooOldError):
        store.record("x", 1)


def test_what_is_kept_is_noted_and_can_be_changed(opened, clock):
    store = opened(**LEVELS)
    other = opened()
    assert (other.retention, other.rollups) == (DAY, [(60.0, 30.0 * DAY), (3600.0, None)])
    store.record("x", 1)
    clock.advance(HOUR)
    store.rollup()
    position = store.position
    opened(**LEVELS)
    assert store.position == position, "the same again is no change"
    other.configure(rollups=[(HOUR, None)])
    assert store.retention == DAY
    with pytest.raises(UsageError, match="no resolution"):
        store.buckets("x", MINUTE)
    other.configure(retention=None, rollups=[(10, None), (HOUR, None), (DAY, None)])
    clock.advance(DAY)
    store.rollup()
    for resolution in (10, HOUR, DAY):
        assert [b.count for b in store.buckets("x", resolution)] == [1]
    assert opened().retention is None
    store.check()


def test_a_new_level_has_no_bucket_of_which_points_are_gone(opened, clock):
    store = opened(retention=HOUR, rollups=[(MINUTE, None)])
    for _ in range(150):
        store.series("x").record_many([clock() + n * S for n in range(60)], range(60))
        clock.advance(MINUTE)
    store.rollup()
    assert store.stats()["raw_since"] == NOW / S + 90 * MINUTE
    store.configure(rollups=[(MINUTE, None), (HOUR, None)])
    store.record("x", 5, time=NOW + 100 * MINUTE * S)  # late, and in the hour that is not whole
    for _ in range(4):
        clock.advance(HOUR)
        store.checkpoint()
        assert sum(p.value for p in store.aggregate("x", None, None, DAY, "count")) == 9001
    assert [(b.start, b.count) for b in store.buckets("x", HOUR)] == [(NOW + 2 * HOUR * S, 1800)]
    assert store.stats()["points"] == 0
    tier = store._fold.state().series[0].tiers[HOUR * S]
    assert tier.index.points == 1, "a part of an hour was rolled up"
    store.check()


def test_before_a_new_level_in_between_the_coarser_one_speaks(opened, clock):
    store = opened(retention=HOUR, rollups=[(HOUR, None)])
    for _ in range(3):
        store.series("x").record_many([clock() + n * 60 * S for n in range(60)], range(60))
        clock.advance(HOUR)
    store.checkpoint()
    store.configure(rollups=[(MINUTE, None), (HOUR, None)])
    clock.advance(DAY)
    store.checkpoint()
    counts = store.aggregate("x", NOW, clock(), HOUR, "count")
    assert [p.value for p in counts] == [60, 60, 60]
    assert len(list(store.range("x"))) == 1 + 1 + 60
    store.check()


def test_what_goes_goes_by_whole_intervals_of_the_coarsest_level(opened, clock):
    store = opened(retention=HOUR, rollups=[(MINUTE, None), (HOUR, None)])
    store.series("x").record_many([NOW + n * 60 * S for n in range(180)], range(180))
    clock.advance(200.5 * MINUTE)
    store.checkpoint()
    assert store.stats()["raw_since"] == NOW / S + 2 * HOUR
    assert [b.count for b in store.buckets("x", HOUR)] == [60, 60, 60]


def test_the_log_lets_go_of_what_is_old_though_some_buckets_stay_for_ever(opened, clock):
    store = opened(retention=HOUR, rollups=[(HOUR, None)], segment_bytes_max=1 << 18)
    rng, sizes = random.Random(5), []
    for _ in range(80):
        times = [clock() + n * S for n in range(3600)]
        store.series("x").record_many(times, [rng.random() for _ in times])
        clock.advance(HOUR)
        store.checkpoint()
        sizes.append(store.stats()["bytes"])
    assert len(list(store.buckets("x", HOUR))) == 80
    assert max(sizes[40:]) <= 8 << 20 > sizes[-1] - sizes[40]
    assert store.stats()["first_position"] > 40
    store.check()


# --- Compaction, checkpoints, the past ---


def test_a_checkpoint_makes_few_chunks_of_many(opened):
    store = opened()
    for time in range(1000):
        store.record("x", time, time=1000 - time)
    before = points(store, "x")
    iterator = iter(store.range("x"))
    first = next(iterator)
    store.checkpoint()
    assert store.stats()["chunks"] <= 16
    store.checkpoint()
    assert [tuple(first), *map(tuple, iterator)] == before == points(store, "x")
    assert points(opened(), "x") == before
    store.check()


def test_compact_merges_all_that_is_small(store, other):
    for time in range(5):
        store.record("x", time, time=time)
    store.series("x").record_many(range(9000), range(9000))
    other.range("x")
    before = sorted(points(store, "x"))
    assert store.compact() == 6  # the tail of the column, too
    assert store.stats()["chunks"] == 2
    assert store.compact() == 0
    assert sorted(points(store, "x")) == before == sorted(points(other, "x"))
    store.check()


def test_two_processes_that_merge_at_once_double_nothing(store, other, monkeypatch):
    for time in range(40):
        store.record("x", time, time=time)
    merged, theirs = compacting._merged, []

    def overtaken(fold, merge):
        found = merged(fold, merge)
        if not theirs:
            theirs.append(None)
            theirs.append(other.compact())
        return found

    monkeypatch.setattr(compacting, "_merged", overtaken)
    assert store.compact() == 0
    assert theirs == [None, 40]
    assert len(points(store, "x")) == 40
    store.check()


def test_a_copy_of_the_state_stays_as_it_is(store):
    store.record("x", 1, time=1)
    copy, _ = store._fold.copy()
    store.record("x", 2, time=2)
    store.record("y", 2, time=2)
    assert (len(copy.series), copy.series[0].raw.points) == (1, 1)
    assert copy.matching("y", {}) == []


def test_a_query_goes_on_when_its_chunks_are_merged_and_removed(opened):
    store = opened()
    for part in range(30):
        store.series("x").record_many(range(part * 5000, part * 5000 + 3000), [0.0] * 3000)
    iterator = store.range("x").blocks()
    seen = len(next(iterator)[1])
    assert seen < 90_000
    for _ in range(3):
        store.compact()
        store.checkpoint()
        store.record("y", 1)
    assert store.stats()["first_position"] > 0
    assert seen + sum(len(times) for _, times, _ in iterator) == 90_000


def test_the_past_is_there(store, clock):
    store.record("x", 1)
    position = store.position
    clock.advance(10)
    store.record("x", 2)
    store.record("y", 3)
    then = store.at(position=position)
    assert points(then, "x") == [(NOW, 1.0)]
    assert then.series_list() == [SeriesName("x", {})]
    assert points(store.at(time=NOW / S + 5), "x") == [(NOW, 1.0)]
    with pytest.raises(PositionError):
        store.at(position=99)


def test_a_view_says_when_its_points_are_gone(opened, clock):
    store = opened(retention=HOUR)
    for n in range(60):
        store.series("x").record_many(
            [clock() + k for k in range(50)], [n + k * 0.1 for k in range(50)]
        )
        clock.advance(MINUTE)
    then = store.at(position=store.position)
    clock.advance(DAY)
    store.record("x", 1)
    for _ in range(3):
        store.checkpoint()
        store.record("x", 2)
    assert store.stats()["first_position"] > 0
    with pytest.raises(PrunedError):
        list(then.range("x"))


def test_opening_reads_the_index_and_not_the_points(opened, monkeypatch):
    store = opened()
    store.series("x").record_many(range(100_000), [0.0] * 100_000)
    store.checkpoint()
    monkeypatch.setattr(codec, "decode", None)
    assert opened().stats()["points"] == 100_000


def test_threads_record_and_query_at_once(store):
    errors = []

    def work(number):
        try:
            for n in range(60):
                store.record("x", n, {"thread": str(number)}, time=n)
                assert len(list(store.range("x", thread=str(number)))) == n + 1
                if n % 20 == 19:
                    store.compact()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(list(store.range("x"))) == 240
    store.check()


def test_a_background_checkpoint_rolls_up(opened, clock):
    store = opened(rollups=[(MINUTE, None)], checkpoint_records=50)
    for _ in range(200):
        store.record("x", 1)
        clock.advance(10)
    deadline = monotonic() + 20
    while not store.stats()["buckets"] and monotonic() < deadline:
        sleep(0.002)  # closing does not wait for what is due and was not begun
    store.close()
    store = opened()
    assert store.stats()["buckets"] > 0
    assert store.stats()["trouble"] == []


# --- Bad input ---


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, -math.inf, "1", None, True, 10**400, 1j, b"1", [1]]
)
def test_what_is_no_finite_number_is_refused(store, value):
    for call in (
        lambda: store.record("x", value),
        lambda: store.series("x").record(value),
        lambda: store.series("x").record_many([1, 2], [1.0, value]),
        lambda: store.record_many([("x", 1), ("x", value)]),
    ):
        with pytest.raises(UsageError):
            call()
    assert store.position == 0


@pytest.mark.parametrize(
    "time",
    [
        math.nan,
        math.inf,
        1e30,
        1 << 62,
        -(1 << 62) - 1,
        1 << 70,
        True,
        "now",
        datetime(2024, 1, 1),
        b"1",
    ],
)
def test_what_is_no_time_is_refused(store, time):
    for call in (
        lambda: store.record("x", 1, time=time),
        lambda: store.series("x").record_many([1, time], [1, 2]),
        lambda: store.record_many([("x", 1, None, time)]),
        lambda: store.range("x", time),
        lambda: store.aggregate("x", 0, time, 1, "sum"),
    ):
        with pytest.raises(UsageError):
            call()
    assert store.position == 0


@pytest.mark.parametrize("name", ["", "x" * 256, b"x", None, 7, "\ud800"])
def test_what_is_no_name_is_refused(store, name):
    for call in (
        lambda: store.record(name, 1),
        lambda: store.series(name),
        lambda: store.range(name),
        lambda: store.record("x", 1, {name: "v"}),
        lambda: store.record("x", 1, {"t": name}),
    ):
        with pytest.raises(UsageError):
            call()
    assert store.position == 0


def test_other_wrong_arguments_are_refused(store):
    for call in (
        lambda: store.record("x", 1, tags=["a"]),
        lambda: store.record("x", 1, {str(n): "v" for n in range(33)}),
        lambda: store.series("x").record_many([1], [1, 2]),
        lambda: store.series("x").record_many(1, 2),
        lambda: store.series("x").record_many(NUMPY.zeros((2, 2)), [1]),
        lambda: store.series("x").record_many(b"ab", [1, 2]),
        lambda: store.series("x").record_many([1, 2], bytearray(b"ab")),
        lambda: store.series("x").record_many([1, 2], "12"),
        lambda: store.record_many(7),
        lambda: store.range("x", 5, 4),
        lambda: store.range("x", resolution=60),
        lambda: store.buckets("x", 0),
        lambda: store.aggregate("x", 0, 1, 0, "sum"),
        lambda: store.aggregate("x", 0, 1, math.nan, "sum"),
        lambda: store.aggregate("x", 0, 1, 1, "median"),
        lambda: store.aggregate("x", 0, 1, 1, "p100"),
        lambda: store.aggregate("x", 0, 1, 1, "p0"),
        lambda: store.aggregate("x", 0, 1, 1, None),
    ):
        with pytest.raises(UsageError):
            call()
    assert store.position == 0


@pytest.mark.parametrize(
    "options",
    [
        {"retention": 0},
        {"retention": -1},
        {"retention": "1d"},
        {"retention": math.nan},
        {"rollups": [60]},
        {"rollups": 60},
        {"rollups": [(60, None), (90, None)]},
        {"rollups": [(60, None), (60, None)]},
        {"rollups": [(3600, None), (60, None)]},
        {"rollups": [(60, None), (3600, DAY)]},
        {"rollups": [(60, HOUR), (3600, MINUTE)]},
        {"retention": DAY, "rollups": [(60, HOUR)]},
        {"retention": 60, "rollups": [(3600, None)]},
        {"rollups": [(10 * 2**n, None) for n in range(17)]},
    ],
)
def test_what_cannot_be_kept_is_refused(opened, files, options):
    with pytest.raises(UsageError):
        opened(**options)
    assert not files.contents()
    store = opened(**LEVELS)
    if options != {"retention": 60, "rollups": [(3600, None)]}:
        with pytest.raises(UsageError):
            store.configure(**options)
    assert store.retention == DAY


def test_a_batch_over_the_limit_is_refused_as_a_whole(opened):
    store = opened(batch_bytes_max=100_000)
    with pytest.raises(TooLargeError):
        store.series("x").record_many(range(50_000), [0.0] * 50_000)
    assert store.series_list() == []
    store.record("x", 1)


def test_a_closed_or_read_only_log_says_so(store, opened):
    store.record("x", 1)
    reader = opened(read_only=True)
    assert len(points(reader, "x")) == 1
    for call in (
        lambda: reader.record("x", 1),
        lambda: reader.configure(retention=5),
        reader.checkpoint,
    ):
        with pytest.raises(ReadOnlyError):
            call()
    with pytest.raises(UsageError, match="read-only"):
        opened(read_only=True, retention=5)
    reader.check()
    store.close()
    for call in (
        lambda: store.record("x", 1),
        lambda: points(store, "x"),
        store.rollup,
        store.series_list,
    ):
        with pytest.raises(ClosedError):
            call()


# --- Hostile records ---


def applied(*records):
    state = State()
    for at, record in enumerate(records):
        state.apply(record._placed(at, NOW, 0))
    return state


SERIES = Record(codec.ID.pack(codec.SERIES, 0), b"\x01x")
CHUNK = codec.encode(array("q", [1, 5, 6]), array("d", [1, 2, 3]))


def changed(data, at, new):
    return data[:at] + new + data[at + len(new) :]


@pytest.mark.parametrize(
    "record",
    [
        Record(b"s", b"\x01y"),
        Record(codec.ID.pack(codec.SERIES, 0), b"\x01y"),
        Record(codec.ID.pack(codec.SERIES, 2), b"\x01y"),
        Record(codec.ID.pack(codec.SERIES, 1), b"\x01x"),
        Record(codec.ID.pack(codec.SERIES, 1), b""),
        Record(codec.ID.pack(codec.SERIES, 1), b"\x02x"),
        Record(codec.ID.pack(codec.SERIES, 1), b"\x01x\x01b"),
        Record(codec.ID.pack(codec.SERIES, 1), b"\x01x\x01b\x011\x01a\x011"),
        Record(codec.ID.pack(codec.SERIES, 1), b"\x01\xff"),
        Record(codec.ID.pack(codec.ONE, 1), codec.POINT.pack(1, 1.0)),
        Record(codec.ID.pack(codec.ONE, 0), codec.POINT.pack(1 << 62, 1.0)),
        Record(codec.ID.pack(codec.ONE, 0), b"1"),
        Record(codec.ID.pack(codec.POINTS, 0), b""),
        Record(codec.ID.pack(codec.POINTS, 0), CHUNK[:-1]),
        Record(codec.ID.pack(codec.POINTS, 0), CHUNK + b"1"),
        Record(codec.ID.pack(codec.POINTS, 0), changed(CHUNK, 0, b"\xff\xff\xff\xff")),
        Record(codec.ID.pack(codec.POINTS, 0), changed(CHUNK, 4, b"\x03")),
        Record(codec.ID.pack(codec.POINTS, 0), changed(CHUNK, 5, b"\xff" * 7 + b"\x7f")),
        Record(codec.ID.pack(codec.MERGED, 0), codec.replacing([7], CHUNK)),
        Record(codec.ID.pack(codec.MERGED, 0), codec.replacing([], CHUNK)),
        Record(codec.ID.pack(codec.MERGED, 0), b"\xff\xff\xff\xff" + CHUNK),
        Record(codec.TIERED.pack(codec.BUCKETS, 0, 60), codec.NUMBER.pack(0)),
        Record(codec.CONFIG, b""),
        Record(codec.CONFIG, bytes(16)),
        Record(codec.CONFIG, bytes(24)),
        Record(codec.LEVEL.pack(codec.TRIM, 60), codec.NUMBER.pack(0)),
        Record(codec.LEVEL.pack(codec.TRIM, 0), b""),
    ],
    ids=repr,
)
def test_records_that_nobody_wrote_are_damage(record):
    with pytest.raises(DamageError) as error:
        applied(SERIES, record)
    assert error.value.position == 1
    assert error.value.hint


@pytest.mark.parametrize("key", [b"", b"?", b"z123"])
def test_records_of_a_newer_version_are_refused(key):
    with pytest.raises(VersionError):
        applied(SERIES, Record(key, b""))
    with pytest.raises(VersionError):
        State().load(Record(key, b""))


def test_steps_that_lie_are_found_when_they_are_read(files):
    data = changed(CHUNK, len(CHUNK) - 26, b"\x09")
    with MetricsLog("/m", files=files) as store:
        store._fold.append([SERIES, Record(codec.ID.pack(codec.POINTS, 0), data)])
        with pytest.raises(DamageError, match="steps"):
            list(store.range("x"))
        with pytest.raises(DamageError):
            store.check()


def test_random_bytes_in_a_chunk_give_points_or_a_clean_error():
    rng = random.Random(8)
    for _ in range(3000):
        data = bytearray(CHUNK)
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        record = Record(codec.ID.pack(codec.POINTS, 0), bytes(data))
        try:
            times, values = codec.points_of(record)
        except DamageError:
            continue
        assert len(times) == len(values) == 3
        assert list(times) == sorted(times)


def test_the_index_that_does_not_fit_the_log_is_damage(store):
    store.series("x").record_many([1, 2, 3], [1, 2, 3])
    store._fold.state().series[0].raw.blocks[0].columns[1][0] = 9
    store._fold.state().series[0].raw.blocks[0].high = 9
    with pytest.raises(DamageError):
        store.check_state()


def test_another_kind_of_store_is_refused(files, opened):
    from treering.stores.kv import KeyValueStore

    KeyValueStore("/metrics", files=files, fsync_policy=FsyncPolicy.OS).close()
    with pytest.raises(UsageError):
        opened()


def test_files_in_memory_are_like_any_other():
    with MetricsLog("/m", files=MemoryFiles(), retention=math.inf) as store:
        assert "MetricsLog '/m'" in repr(store)
        assert store.retention is None
