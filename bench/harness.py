"""What every measurement stands on: blocks, rounds, rows, progress.

A *block* is a run of calls timed as one and gives one figure. A *round* measures one block of each
contestant, in an order drawn anew each time, so that whatever the machine does besides hits all of
them alike. The figure of a row is the median over the rounds, and a ratio is the median of the
rounds' own ratios.
"""

from __future__ import annotations

import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

KEY = b"k" * 16
VALUE = b"v" * 100

Samples = dict[str, list[float]]


@dataclass
class Row:
    """One line of the report."""

    name: str
    value: float | None
    unit: str
    spread: tuple[float, float] | None = None  # the middle half of the rounds
    versus: str = ""  # what `ratio` compares with
    ratio: float | None = None
    target: str = ""
    met: bool | None = None
    note: str = ""


@dataclass
class Group:
    """Rows that were measured together."""

    name: str
    title: str
    how: str
    rows: list[Row] = field(default_factory=list)
    plot: dict[str, Any] = field(default_factory=dict)


@dataclass
class Context:
    """What a measurement may ask for."""

    folder: Path
    quick: bool
    large: bool
    progress: Progress

    @property
    def rounds(self) -> int:
        return 5 if self.quick else 11

    def pick(self, full: Any, quick: Any) -> Any:
        return quick if self.quick else full

    def path(self, name: str) -> Path:
        """A path for one measurement's files, with nothing there yet."""
        path = self.folder / name
        remove(path)
        return path


class Progress:
    """A bar on a terminal, lines elsewhere."""

    def __init__(self, names: Sequence[str], weights: dict[str, float]) -> None:
        self._left = {name: weights.get(name, 1.0) for name in names}
        self._total = sum(self._left.values())
        self._started = time.monotonic()
        self._terminal = sys.stderr.isatty()
        self._name = ""

    @contextmanager
    def group(self, name: str) -> Iterator[None]:
        self._name = name
        started = time.monotonic()
        self.show(0.0)
        yield
        self._left.pop(name, None)
        if not self._terminal:
            self._line(f"{name}: {time.monotonic() - started:.1f} s")
        self.show(0.0)

    def show(self, part: float) -> None:
        """`part` of the present group is done."""
        if not self._terminal:
            return
        done = self._total - sum(self._left.values())
        done += part * self._left.get(self._name, 0.0)
        share = done / self._total if self._total else 1.0
        bar = "#" * round(30 * share)
        seconds = time.monotonic() - self._started
        self._line(f"\r[{bar:<30}] {share:4.0%} {seconds:5.0f} s  {self._name:<12}", end="")

    def close(self) -> None:
        if self._terminal:
            self._line("\r" + " " * 70 + "\r", end="")

    @staticmethod
    def _line(text: str, end: str = "\n") -> None:
        print(text, end=end, file=sys.stderr, flush=True)


def rounds(
    context: Context, blocks: dict[str, Callable[[], float]], count: int | None = None
) -> Samples:
    """`count` rounds of all blocks; each block returns its figure. The first round is not kept."""
    count = count or context.rounds
    order = list(blocks)
    chance = random.Random(20)
    samples: Samples = {name: [] for name in blocks}
    for number in range(count + 1):
        chance.shuffle(order)
        for name in order:
            figure = blocks[name]()
            if number:
                samples[name].append(figure)
        context.progress.show((number + 1) / (count + 1))
    return samples


def timed(action: Callable[[], object]) -> float:
    """Seconds that the action takes."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def opening(
    context: Context, make: Callable[[], Any], first: Callable[[Any], object] = lambda store: None
) -> list[float]:
    """Seconds to open a store, and for what is done `first`, some times over."""
    seconds = []
    for _ in range(context.pick(5, 3)):
        started = time.perf_counter()
        with make() as store:
            first(store)
            seconds.append(time.perf_counter() - started)
    return seconds


def ratio(samples: Samples, name: str, versus: str) -> float:
    """Median of the rounds' ratios of two contestants."""
    return statistics.median(
        ours / theirs for ours, theirs in zip(samples[name], samples[versus], strict=True)
    )


def row(
    samples: Samples,
    name: str,
    unit: str,
    *,
    scale: float = 1.0,
    versus: str = "",
    faster: bool = False,
    label: str = "",
    note: str = "",
) -> Row:
    """The row of one contestant. `faster` turns the ratio round: how many times as fast."""
    found = sorted(figure * scale for figure in samples[name])
    quarter = len(found) // 4
    row = Row(
        label or name,
        statistics.median(found),
        unit,
        (found[quarter], found[-1 - quarter]),
        note=note,
    )
    if versus:
        row.versus = versus
        row.ratio = ratio(samples, versus, name) if faster else ratio(samples, name, versus)
    return row


def at_most(row: Row, limit: float, text: str = "") -> Row:
    """The row with the target that its figure is at most `limit`."""
    return judge(row, text or f"<= {limit:g} {row.unit}", _is(row.value, lambda v: v <= limit))


def at_least(row: Row, limit: float, text: str = "") -> Row:
    """The row with the target that its figure is at least `limit`."""
    return judge(row, text or f">= {limit:g} {row.unit}", _is(row.value, lambda v: v >= limit))


def ratio_at_most(row: Row, limit: float) -> Row:
    """The row with the target that its ratio is at most `limit`."""
    return judge(row, f"<= {limit:.2f} x", _is(row.ratio, lambda v: v <= limit))


def ratio_at_least(row: Row, limit: float) -> Row:
    """The row with the target that its ratio is at least `limit`."""
    return judge(row, f">= {limit:g} x", _is(row.ratio, lambda v: v >= limit))


def judge(row: Row, target: str, met: bool | None) -> Row:
    """The row with one more target; missed once is missed."""
    row.target = f"{row.target}; {target}" if row.target else target
    if met is not None:
        row.met = met and row.met is not False
    return row


def _is(value: float | None, test: Callable[[float], bool]) -> bool | None:
    return None if value is None else test(value)


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value below which `share` of the sorted figures lie."""
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    import shutil

    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
