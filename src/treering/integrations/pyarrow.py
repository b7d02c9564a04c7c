"""Metrics as Arrow tables and Parquet files (extra `arrow`), for pandas, Polars, DuckDB.

    from treering.integrations.pyarrow import to_table, write_parquet

    write_parquet(metrics, "cpu.parquet", "cpu", start, end)

Columns: `time` (timestamp in ns, UTC), `value`, and a column of text for each tag that any of the
series has. Series come one after the other, each in the order of time.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

from treering import MissingExtraError, UsageError
from treering.stores.metrics import MetricsLog, MetricsView, Points

try:
    import pyarrow as pa
    from pyarrow import parquet
except ImportError as error:
    raise MissingExtraError(
        "pyarrow is not installed", hint="pip install 'treering[arrow]'"
    ) from error

_ROW_GROUP_POINTS, _ROW_GROUP_BATCHES = 1 << 20, 1 << 12


def schema(points: Points) -> Any:
    """The columns that these points come to. UsageError for a tag that would hide a column."""
    tags = sorted({tag for _, tags in points.series for tag in tags})
    if taken := {"time", "value"} & set(tags):
        raise UsageError(
            f"a tag has the name of a column: {', '.join(sorted(taken))}",
            hint="Export such series by hand, from `range(…).blocks()`",
        )
    text = pa.dictionary(pa.int32(), pa.string())
    times = pa.field("time", pa.timestamp("ns", "UTC"), nullable=False)
    values = pa.field("value", pa.float64(), nullable=False)
    return pa.schema([times, values, *(pa.field(tag, text) for tag in tags)])


def batches(points: Points) -> Iterator[Any]:
    """The points as Arrow record batches, read from the log as they are asked for."""
    columns = schema(points)
    for (_, tags), times, values in points.blocks():
        yield pa.record_batch(
            [
                pa.Array.from_buffers(columns.types[0], len(times), [None, pa.py_buffer(times)]),
                pa.Array.from_buffers(columns.types[1], len(values), [None, pa.py_buffer(values)]),
                *(_repeated(tags.get(name), len(times)) for name in columns.names[2:]),
            ],
            schema=columns,
        )


def _repeated(text: str | None, count: int) -> Any:
    """A column with one text, or none, in every row."""
    if text is None:
        return pa.nulls(count, pa.dictionary(pa.int32(), pa.string()))
    indices = pa.Array.from_buffers(pa.int32(), count, [None, pa.py_buffer(bytes(4 * count))])
    return pa.DictionaryArray.from_arrays(indices, pa.array([text]))


def to_table(
    metrics: MetricsLog | MetricsView,
    name: str,
    start: Any = None,
    end: Any = None,
    *,
    resolution: float | None = None,
    tags: Mapping[str, str] | None = None,
) -> Any:
    """What `metrics.range` with these arguments finds, as a `pyarrow.Table`: all in memory."""
    points = metrics.range(name, start, end, resolution=resolution, tags=tags)
    return pa.Table.from_batches(batches(points), schema(points)).unify_dictionaries()


def write_parquet(
    metrics: MetricsLog | MetricsView,
    path: str | os.PathLike[str],
    name: str,
    start: Any = None,
    end: Any = None,
    *,
    resolution: float | None = None,
    tags: Mapping[str, str] | None = None,
    row_group_points: int = _ROW_GROUP_POINTS,
    **options: Any,
) -> int:
    """Write what `metrics.range` with these arguments finds as a Parquet file; how many points.

    Memory stays flat: a row group has at least `row_group_points` points, or few more (less at the
    end, and of many series with few points each). Further options are those of
    `pyarrow.parquet.ParquetWriter`. The file is `path` with `.part` until it is whole, then takes
    the place of what is at `path`; not fsynced. When this raises, nothing is changed there.
    """
    if isinstance(row_group_points, bool) or not isinstance(row_group_points, int):
        raise UsageError("row_group_points is a whole number")
    if row_group_points < 1:
        raise UsageError("row_group_points is at least 1")
    if "filesystem" in options:
        raise UsageError("a file is written on this machine", hint="Copy it when it is whole")
    points = metrics.range(name, start, end, resolution=resolution, tags=tags)
    whole = os.fsdecode(path)
    part = f"{whole}.part"
    try:
        count = _write_all(points, part, row_group_points, options)
        os.replace(part, whole)
    except BaseException:  # pyarrow makes a file of what it has got
        with contextlib.suppress(OSError):
            os.unlink(part)
        raise
    return count


def _write_all(points: Points, path: str, row_group_points: int, options: dict[str, Any]) -> int:
    columns, count, waiting = schema(points), 0, 0
    some: list[Any] = []
    with parquet.ParquetWriter(path, columns, **options) as writer:
        for batch in batches(points):
            some.append(batch)
            waiting += len(batch)
            # Each series' batch costs some memory, too, however few points it has.
            if waiting >= row_group_points or len(some) >= _ROW_GROUP_BATCHES:
                count, waiting = count + _write(writer, some, columns), 0
        return count + _write(writer, some, columns)


def _write(writer: Any, some: list[Any], columns: Any) -> int:
    """Write these batches as one row group, and forget them; how many points."""
    table = pa.Table.from_batches(some, columns).unify_dictionaries()
    if len(table):
        writer.write_table(table, row_group_size=len(table))
    some.clear()
    return len(table)
