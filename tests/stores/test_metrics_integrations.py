"""Metrics for other tools: Arrow, Parquet, plots."""

from __future__ import annotations

import random

import pytest

from treering import UsageError
from treering.stores.metrics import MetricsLog
from treering.testing import MemoryFiles

pa = pytest.importorskip("pyarrow")
pytest.importorskip("matplotlib")

from pyarrow import parquet  # noqa: E402

from treering.integrations.matplotlib import plot  # noqa: E402
from treering.integrations.pyarrow import to_table, write_parquet  # noqa: E402

S = 1_000_000_000


@pytest.fixture
def metrics():
    with MetricsLog("/m", files=MemoryFiles()) as log:
        rng = random.Random(1)
        for host, disk in (("a", None), ("b", "sda"), ("c", None)):
            times = [n * S + rng.randrange(S) for n in range(100_000)]
            tags = {"host": host} if disk is None else {"host": host, "disk": disk}
            log.series("cpu", tags).record_many(times, [rng.random() for _ in times])
        yield log


def rows(metrics, **tags):
    for (_, found), times, values in metrics.range("cpu", 5000 * S, 90_000 * S, **tags).blocks():
        for time, value in zip(times, values, strict=True):
            yield time, value, found.get("disk"), found["host"]


def table_rows(table):
    assert table.column_names == ["time", "value", "disk", "host"]
    columns = [table["time"].cast(pa.int64()), *(table[name] for name in ("value", "disk", "host"))]
    return list(zip(*(column.to_pylist() for column in columns), strict=True))


def test_a_table_has_the_points(metrics):
    table = to_table(metrics, "cpu", 5000 * S, 90_000 * S)
    assert table.schema.field("time").type == pa.timestamp("ns", "UTC")
    assert table_rows(table) == list(rows(metrics))
    assert len(to_table(metrics, "cpu", tags={"host": "c"})) == 100_000


def test_a_parquet_file_has_the_points_in_row_groups(metrics, tmp_path):
    path = tmp_path / "cpu.parquet"
    count = write_parquet(metrics, path, "cpu", 5000 * S, 90_000 * S, row_group_points=50_000)
    file = parquet.ParquetFile(path)
    assert count == file.metadata.num_rows == 255_000
    sizes = [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)]
    assert len(sizes) > 2
    assert max(sizes) < 200_000
    assert table_rows(file.read()) == list(rows(metrics))


def test_no_points_are_a_table_too(metrics, tmp_path):
    assert len(to_table(metrics, "nothing")) == 0
    assert write_parquet(metrics, tmp_path / "x", "nothing") == 0
    assert parquet.read_table(tmp_path / "x").column_names == ["time", "value"]


def test_a_tag_that_would_hide_a_column_is_refused(metrics):
    metrics.record("cpu", 1, {"time": "x"})
    with pytest.raises(UsageError):
        to_table(metrics, "cpu")
    with pytest.raises(UsageError):
        write_parquet(metrics, "/nowhere", "cpu", row_group_points=0)


def test_a_plot_has_a_line_for_each_series(metrics, tmp_path):
    axes = plot(metrics, "cpu", 0, 600 * S, step=60, how="max")
    lines = {line.get_label(): line.get_ydata() for line in axes.get_lines()}
    assert lines.keys() == {"host=a", "disk=sda, host=b", "host=c"}
    for host, found in (("a", "host=a"), ("b", "disk=sda, host=b")):
        figures = metrics.aggregate("cpu", 0, 600 * S, 60, "max", host=host)
        assert list(lines[found]) == [figure.value for figure in figures]
    assert (
        len(
            plot(metrics, "cpu", 0, 5 * S, tags={"host": "a"}, axes=axes)
            .get_lines()[-1]
            .get_ydata()
        )
        == 5
    )
    axes.figure.savefig(tmp_path / "cpu.png")
    assert (tmp_path / "cpu.png").stat().st_size > 1000
