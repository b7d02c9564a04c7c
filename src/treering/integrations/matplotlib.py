"""Metrics as a plot (extra `plot`).

from treering.integrations.matplotlib import plot

plot(metrics, "cpu", start, end, step=60).figure.savefig("cpu.png")
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from treering import MissingExtraError
from treering.stores.metrics import MetricsLog, MetricsView

try:
    from matplotlib.figure import Figure
except ImportError as error:
    raise MissingExtraError(
        "matplotlib is not installed", hint="pip install 'treering[plot]'"
    ) from error

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def plot(
    metrics: MetricsLog | MetricsView,
    name: str,
    start: Any = None,
    end: Any = None,
    *,
    step: Any = None,
    how: str = "mean",
    tags: Mapping[str, str] | None = None,
    axes: Any = None,
) -> Any:
    """Draw a line for each series of that name that has these tags; the matplotlib axes.

    Each point, or with `step` one figure for each interval of so many seconds (`how`: as
    `aggregate`). On `axes`, or else on a figure of its own, without
    pyplot: so it works in servers and threads.
    """
    if axes is None:
        axes = Figure(figsize=(9, 4), layout="constrained").subplots()
    for found, points in metrics.range(name, start, end, tags=tags).by_series():
        figures = points if step is None else points.aggregate(step, how)
        drawn = [(_EPOCH + timedelta(microseconds=t // 1000), v) for t, v in figures]
        label = ", ".join(f"{tag}={value}" for tag, value in found.tags.items())
        axes.plot([time for time, _ in drawn], [value for _, value in drawn], label=label)
    axes.set_title(name)
    axes.grid(alpha=0.3)
    if any(axes.get_legend_handles_labels()):
        axes.legend()
    return axes
