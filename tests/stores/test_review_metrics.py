"""What a hostile reading of the metrics log found."""

from __future__ import annotations

import math
import random
from array import array
from fractions import Fraction

import pytest

from tests.stores._opening import opener
from treering import DamageError, Record, UsageError
from treering.stores.metrics import MetricsLog, Point, codec, compacting, reading, rolling
from treering.stores.metrics.aggregating import Interval, exact_sum, percentile
from treering.testing import FakeClock

S = 1_000_000_000
MINUTE, HOUR, DAY = 60, 3600, 86_400
NOW = 20_000 * DAY * S


@pytest.fixture
def clock():
    return FakeClock(NOW)


@pytest.fixture
def opened(files, clock):
    with opener(MetricsLog, "/metrics", files=files, clock=clock) as open_store:
        yield open_store


# --- Copies of the state: what a checkpoint writes ---


def test_a_merge_leaves_the_state_that_a_checkpoint_is_writing_as_it_was(opened, monkeypatch):
    monkeypatch.setattr(compacting, "CHUNK_POINTS", 256)
    store = opened(checkpoint_bytes=None)
    series = store.series("x")
    for at in range(496):
        series.record_many(range(200 * at, 200 * at + 200), [0.0] * 200)
    for at in range(16):
        series.record(1, time=at)
    series.record_many(range(10), [0.0] * 10)
    assert compacting.compact(store._fold) == 16
    copy, _ = store._fold.copy()
    before = list(copy.dump())
    assert store.compact() == 2
    assert list(copy.dump()) == before


# --- Queries beside merges and retention ---


def test_a_query_that_a_merge_overtakes_shows_each_point_once(opened):
    store = opened(checkpoint_bytes=None)
    for part in range(30):
        store.series("x").record_many(range(part * 3000, part * 3000 + 3000), [0.0] * 3000)
    iterator = store.range("x").blocks()
    seen = list(next(iterator)[1])
    # So that chunks are merged across the end of what was seen:
    store.series("x").record_many(range(-3000, 0), [0.0] * 3000)
    for _ in range(3):
        store.compact()
        store.checkpoint()
        store.record("y", 1)
    assert store.stats()["first_position"] > 0
    for _, times, _ in iterator:
        seen += times
    assert seen == list(range(90_000))


def test_buckets_that_a_merge_overtakes_are_there_once(opened, clock, monkeypatch):
    monkeypatch.setattr(reading, "BLOCK_POINTS", 100)
    store = opened(rollups=[(1, None)], checkpoint_bytes=None)
    for at in range(30):
        store.series("x").record_many([NOW + (at * 20 + n) * S for n in range(20)], range(20))
        clock.set(NOW + (at + 1) * 20 * S)
        store.rollup()
    iterator = store.buckets("x", 1)
    seen = [next(iterator).start]
    for _ in range(3):
        store.compact()
        store.checkpoint()
        store.record("y", 1)
    seen += [bucket.start for bucket in iterator]
    assert seen == [NOW + n * S for n in range(600)]


def test_a_query_may_be_overtaken_any_number_of_times(opened, monkeypatch):
    monkeypatch.setattr(reading, "BLOCK_POINTS", 10)
    store = opened(checkpoint_bytes=None)
    for part in range(40):
        store.series("x").record_many(range(part * 10, part * 10 + 10), [0.0] * 10)
    seen, overtaken = [], 0
    read_many = type(store._fold.wal).read_many

    def pruned(wal, positions):
        nonlocal overtaken
        if overtaken < 2 * len(seen) // 10:
            overtaken += 1
            raise reading.PrunedError("gone")
        return read_many(wal, positions)

    monkeypatch.setattr(type(store._fold.wal), "read_many", pruned)
    for _, times, _ in store.range("x").blocks():
        seen += times
    assert seen == list(range(400))
    assert overtaken > 20


def test_what_retention_takes_under_a_query_is_shown_by_its_buckets(opened, clock):
    store = opened(retention=HOUR, rollups=[(MINUTE, None), (HOUR, None)], checkpoint_bytes=None)
    points = [(NOW + n * 60 * S, float(n)) for n in range(300)]
    for host in "ab":
        store.series("x", host=host).record_many(*zip(*points, strict=True))
    clock.set(NOW + 2 * HOUR * S)
    store.rollup()
    found = store.range("x", host="a")
    iterator = found.blocks()
    seen = list(next(iterator)[1])
    assert len(seen) == 60, "an hour of minutes"
    clock.set(NOW + 4 * HOUR * S)
    store.checkpoint()
    assert store.stats()["raw_since"] == NOW / S + 3 * HOUR
    for _, times, _ in iterator:
        seen += times
    assert seen == [time for time, _ in points]


def test_a_count_is_right_though_retention_comes_between_its_series(opened, clock, monkeypatch):
    store = opened(retention=HOUR, rollups=[(MINUTE, None)], checkpoint_bytes=None)
    for host in "ab":
        store.series("x", host=host).record_many([NOW + n * S for n in range(7200)], [1] * 7200)
    points, times = reading.Fetch.points, []

    def overtaken(self, number, *rest):
        if number == 1 and not times:
            times.append(None)
            clock.set(NOW + 2 * HOUR * S)
            store.rollup()
        return points(self, number, *rest)

    monkeypatch.setattr(reading.Fetch, "points", overtaken)
    found = store.aggregate("x", NOW, NOW + 2 * HOUR * S, HOUR, "count")
    assert found == [Point(NOW, 7200), Point(NOW + HOUR * S, 7200)]


# --- Rolling up ---


def test_rolling_up_reads_each_point_a_few_times_only(opened, clock, monkeypatch):
    store = opened(rollups=[(1, None)], checkpoint_bytes=None)
    times = range(NOW, NOW + 100_000 * S, S)
    store.series("x").record_many(list(times), [0.0] * len(times))
    clock.set(NOW + DAY * 2 * S)
    made, bucket_of = [], rolling.bucket_of
    monkeypatch.setattr(
        rolling, "bucket_of", lambda start, values: made.append(0) or bucket_of(start, values)
    )
    assert store.rollup() == 100_000
    assert len(made) < 110_000
    store.check()


def test_small_limits_keep_no_checkpoint_from_being_made(opened, clock):
    limits = {"record_bytes_max": 20_000, "batch_bytes_max": 40_000}
    store = opened(rollups=[(MINUTE, None)], checkpoint_bytes=None, **limits)
    rng = random.Random(1)
    for part in range(60):
        times = [NOW + (part * 500 + n) * 10 * S + rng.randrange(S) for n in range(500)]
        store.series("x").record_many(times, [0.0] * 500)
    clock.set(NOW + 4 * DAY * S)
    store.checkpoint()
    store.compact()
    assert sum(bucket.count for bucket in store.buckets("x", MINUTE)) == 30_000
    assert len(list(store.range("x"))) == 30_000
    assert store.stats()["snapshots"][0] > 0
    store.check()


# --- Sums beyond all floats ---


def test_infinite_sums_of_both_signs_are_no_error(opened, clock):
    store = opened(rollups=[(MINUTE, None)])
    series = store.series("x")
    series.record_many([NOW, NOW + 1], [1.7e308] * 2)
    series.record_many([NOW + 60 * S, NOW + 60 * S + 1], [-1.7e308] * 2)
    whole = (NOW, NOW + HOUR * S, HOUR, "sum")
    assert store.aggregate("x", *whole) == [Point(NOW, 0.0)]
    clock.advance(HOUR)
    store.rollup()
    (found,) = store.aggregate("x", *whole, resolution=MINUTE)
    assert math.isnan(found.value)


def test_a_sum_that_is_too_large_on_the_way_only_is_exact():
    assert exact_sum([1.7e308, 1.7e308, -1.7e308, -1.7e308, 3.0]) == 3.0
    assert exact_sum([1.7e308, 1.7e308]) == math.inf
    assert exact_sum([-1.7e308, -1.7e308]) == -math.inf
    assert math.isnan(exact_sum([1.7e308, 1.7e308, math.inf, -math.inf]))
    rng = random.Random(2)
    for _ in range(200):
        values = [rng.choice((-1, 1)) * 1.7e308 * rng.random() for _ in range(9)]
        exact = sum(map(Fraction, values))
        wanted = (
            float(exact) if abs(exact) < 2**1024 - 2**970 else math.inf if exact > 0 else -math.inf
        )
        assert exact_sum(values) == wanted


def test_percentiles_of_the_least_floats_are_no_error():
    interval = Interval()
    for least, half in ((0.0, 5e-324), (-1.0, 0.5)):
        interval.add_bucket(codec.Bucket(0, 9, least, 1, 1, half, 1, 1, 1), keep=True)
    assert -1 <= percentile(interval, 0.5) <= 1


# --- Hostile bytes, odd arguments ---


@pytest.mark.parametrize("step", [1, 1 << 63])
def test_steps_without_a_unit_are_damage(files, step):
    width = 1 if step == 1 else 8
    data = codec._HEAD.pack(2, width, 5, 5, 0) + step.to_bytes(width, "little") + bytes(16)
    series = Record(codec.ID.pack(codec.SERIES, 0), b"\x01x")
    with MetricsLog("/m", files=files) as store, pytest.raises(DamageError):
        store._fold.append([series, Record(codec.ID.pack(codec.POINTS, 0), data)])


NUMPY = pytest.importorskip("numpy")


@pytest.mark.parametrize(
    ("time", "value"),
    [
        (1e300, 1),
        (NUMPY.datetime64("2020-01-01"), 1),
        (0, "1"),
        (0, NUMPY.str_("1")),
        (0, NUMPY.complex128(1 + 2j)),
        (0, NUMPY.array([1.0, 2.0])),
    ],
    ids=repr,
)
def test_a_wrong_point_is_refused(opened, time, value):
    store = opened()
    for call in (
        lambda: store.record("x", value, time=time),
        lambda: store.record_many([("x", value, None, time)]),
    ):
        with pytest.raises(UsageError):
            call()
    assert store.position == 0


@pytest.mark.parametrize(
    ("times", "values"),
    [
        (NUMPY.array([1 << 63], "u8"), [1]),
        (NUMPY.array(["2020-01-01"], "M8[ns]"), [1]),
        (NUMPY.array([1], "m8[ns]"), [1]),
        ([1], NUMPY.array(["1"])),
        ([1], NUMPY.array([1 + 2j])),
    ],
    ids=repr,
)
def test_a_wrong_column_is_refused(opened, times, values):
    store = opened()
    with pytest.raises(UsageError):
        store.series("x").record_many(times, values)
    assert store.position == 0


def test_unsigned_columns_that_fit_are_taken(opened):
    store = opened()
    store.series("x").record_many(NUMPY.array([1, 2], "u8"), NUMPY.array([3, 1 << 63], "u8"))
    assert store.range("x").arrays() == (array("q", [1, 2]), array("d", [3, 2.0**63]))


def test_tags_that_are_no_keywords_are_looked_for_everywhere(opened):
    store = opened()
    store.record("x", 1, {"name": "a", "data-center": "b"})
    store.record("x", 2)
    for tags in ({"name": "a"}, {"data-center": "b"}):
        assert len(store.series_list("x", tags)) == 1 == len(store.series_list(tags=tags))
        assert [p.value for p in store.range("x", tags=tags)] == [1.0]
    for call in (
        lambda: store.series_list("x", ["a"]),
        lambda: store.series_list(host=None),
        lambda: store.series("x", ["a"]),
        lambda: store.range("x", tags=["a"]),
        lambda: store.buckets("x", 60, tags=7),
        lambda: store.aggregate("x", None, None, 1, "sum", tags="a"),
    ):
        with pytest.raises(UsageError):
            call()


# --- Parquet ---


def test_an_export_that_fails_leaves_no_file_that_looks_whole(opened, tmp_path, monkeypatch):
    pytest.importorskip("pyarrow")
    from treering.integrations import pyarrow as arrow

    store, path = opened(), tmp_path / "x.parquet"
    for host in "ab":
        store.series("x", host=host).record_many(range(1000), [1.0] * 1000)
    assert arrow.write_parquet(store, path, "x", tags={"host": "a"}) == 1000
    before = path.read_bytes()
    batches = arrow.batches

    def failing(points):
        yield next(batches(points))
        raise OSError("the disk")

    monkeypatch.setattr(arrow, "batches", failing)
    for where in (path, tmp_path / "new"):
        with pytest.raises(OSError, match="the disk"):
            arrow.write_parquet(store, where, "x", row_group_points=10)
    assert path.read_bytes() == before
    assert [found.name for found in tmp_path.iterdir()] == ["x.parquet"]
