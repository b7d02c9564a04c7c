"""The two pictures of docs/performance.md, and where they are put."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness import Group


def draw(groups: list[Group], folder: Path) -> dict[str, str]:
    """Draw what was measured; group name -> file name. Empty without matplotlib."""
    try:
        import matplotlib as mpl
    except ImportError:
        return {}
    mpl.use("Agg")
    mpl.rcParams |= {"svg.hashsalt": "treering", "font.size": 9, "axes.grid": True}
    folder.mkdir(parents=True, exist_ok=True)
    drawn = {}
    for group in groups:
        draw_one = {"latency": _latency, "group": _scaling}.get(group.name)
        if draw_one is not None and group.plot:
            drawn[group.name] = f"{group.name}.png"
            draw_one(group.plot, folder / drawn[group.name])
    return drawn


def _latency(plot: dict[str, Any], path: Path) -> None:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4))
    for name, curve in plot.items():
        style = ":" if name == "clock alone" else "-"
        axes.plot([1 / (1 - share) for share in curve["share"]], curve["us"], style, label=name)
    axes.set_xscale("log")
    axes.set_yscale("log")
    ticks = {f"p{share:g}": 1 / (1 - share / 100) for share in (50, 90, 99, 99.9, 99.99)}
    axes.set_xticks(list(ticks.values()), list(ticks))
    axes.minorticks_off()
    axes.set_ylabel("microseconds")
    axes.set_title("One append: latency by percentile and policy")
    axes.legend()
    _save(figure, path)


def _scaling(plot: dict[str, Any], path: Path) -> None:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4))
    for kind, points in plot.items():
        axes.plot([count for count, _ in points], [times for _, times in points], "o-", label=kind)
    axes.axhline(1, color="grey", linestyle=":", label="raw pwrite + fdatasync, one thread")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    ticks = [4**power for power in range(6)]
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.set_yticks([1, 2, 5, 10, 20, 50, 100], ["1", "2", "5", "10", "20", "50", "100"])
    axes.minorticks_off()
    axes.set_xlabel("appending at once")
    axes.set_ylabel("times the raw rate")
    axes.set_title("Durable appends: what group commit makes of one disk")
    axes.legend()
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    from matplotlib import pyplot

    figure.tight_layout()
    figure.savefig(path, dpi=120, metadata={"Software": None})
    pyplot.close(figure)
