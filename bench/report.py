"""The report: a table on the terminal, JSON, and docs/performance.md with its plots."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

import plots
from harness import Group, Row
from notes import NOTES

import treering

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "performance.md"
FOLDER = ROOT / "docs" / "performance"

Facts = dict[str, str]


def machine(folder: Path) -> Facts:
    """Where and with what this was measured."""
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": f"{_processor()}, {os.cpu_count()} processors, {_memory()}",
        "system": f"{platform.system()} {platform.release()}",
        "file system": _file_system(folder),
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "treering": f"{treering.__version__}, {treering.backend} build{_checksum()}",
        "load before": _load(),
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _memory() -> str:
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return "memory unknown"
    return f"{size / 2**30:.0f} GiB"


def _file_system(folder: Path) -> str:
    try:
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "unknown"
    best = ("", "unknown")
    for mount in mounts:
        where, kind = mount.split()[1:3]
        if Path(where) in (folder, *folder.parents) and len(where) >= len(best[0]):
            best = (where, kind)
    return best[1]


def _checksum() -> str:
    try:
        from treering._core._codec_c import crc32_kind
    except ImportError:
        return ""
    return f", CRC by {crc32_kind()}"


def _load() -> str:
    try:
        return f"{os.getloadavg()[0]:.1f}"
    except (AttributeError, OSError):
        return "unknown"


def busy(facts: Facts) -> bool:
    """Whether others kept the machine busy before we began."""
    try:
        return float(facts["load before"]) > 0.5 * (os.cpu_count() or 1)
    except ValueError:
        return False


# --- Cells ---------------------------------------------------------------------------------------


def cells(row: Row) -> list[str]:
    """name, figure, middle half of the rounds, ratio, target, verdict."""
    return [row.name, _figure(row), _spread(row), _ratio(row), row.target, _verdict(row)]


def _number(value: float) -> str:
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 10 else f"{value:.1f}"


def _figure(row: Row) -> str:
    return "missing" if row.value is None else f"{_number(row.value)} {row.unit}"


def _spread(row: Row) -> str:
    if row.spread is None or row.value is None:
        return ""
    return f"{_number(row.spread[0])} to {_number(row.spread[1])}"


def _ratio(row: Row) -> str:
    return "" if row.ratio is None else f"{row.ratio:.2f} x {row.versus}"


def _verdict(row: Row) -> str:
    return {None: "", True: "met", False: "MISSED"}[row.met]


HEADINGS = ["", "median", "middle half", "ratio", "target", ""]


# --- Terminal ------------------------------------------------------------------------------------


def to_terminal(groups: list[Group], facts: Facts) -> None:
    """The table, as wide as it needs."""
    rows = [cells(row) for group in groups for row in group.rows]
    widths = [max([len(cell) for cell in column] or [0]) for column in zip(*rows, strict=True)]
    for name, fact in facts.items():
        print(f"{name:12} {fact}")
    for group in groups:
        print(f"\n{group.title}")
        for row in group.rows:
            line = [cell.ljust(width) for cell, width in zip(cells(row), widths, strict=True)]
            print("  " + "  ".join(line).rstrip() + (f"  ({row.note})" if row.note else ""))
    print(f"\n{summary(groups)}")
    if busy(facts):
        print("The machine was busy with other things: take the figures with care.")


def summary(groups: list[Group]) -> str:
    """How many targets were met, and which were not."""
    judged = [row for group in groups for row in group.rows if row.met is not None]
    missed = [row.name for row in judged if not row.met]
    text = f"{len(judged) - len(missed)} of {len(judged)} targets met"
    return text + (f"; missed: {'; '.join(missed)}" if missed else "")


# --- JSON ----------------------------------------------------------------------------------------


def to_json(groups: list[Group], facts: Facts, path: Path) -> None:
    """Everything that was measured, machine-readable."""
    found: dict[str, Any] = {
        "facts": facts,
        "groups": [dataclasses.asdict(group) for group in groups],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


# --- docs/performance.md -------------------------------------------------------------------------

INTRODUCTION = """\
# Performance

Written by `make bench`; do not edit. `make bench QUICK=1` gives a rough picture in a minute.

Each figure is the median over rounds. In a round every contestant runs one block, in an order
drawn anew each time, so that whatever else the machine does hits all of them; a ratio is the median
of the rounds' own ratios. "Middle half" is where half of the rounds lay. Records have 16 bytes of
key and 100 bytes of value unless something else is said; loops look up the bound method once.
The same figures, with all that is plotted, are in [results.json](performance/results.json).
"""


def to_page(groups: list[Group], facts: Facts) -> None:
    """docs/performance.md, its plots and the figures beside it."""
    drawn = plots.draw(groups, FOLDER)
    to_json(groups, facts, FOLDER / "results.json")
    parts = [INTRODUCTION, _facts_table(facts), f"**{summary(groups)}.**\n"]
    if busy(facts):
        parts.append("The machine was busy with other things while this was measured.\n")
    for group in groups:
        parts += [f"## {group.title}\n", f"{group.how}\n", _table(group)]
        if group.name in drawn:
            parts.append(f"![{group.title}](performance/{drawn[group.name]})\n")
        if group.name in NOTES:
            parts.append(NOTES[group.name].strip() + "\n")
    PAGE.write_text("\n".join(parts), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}", file=sys.stderr)


def _facts_table(facts: Facts) -> str:
    return _markdown(["", ""], [[name, fact] for name, fact in facts.items()])


def _table(group: Group) -> str:
    rows = [[*cells(row), row.note] for row in group.rows]
    headings = [*HEADINGS, ""]
    used = [at for at in range(len(headings)) if any(row[at] for row in rows)]
    return _markdown([headings[at] for at in used], [[row[at] for at in used] for row in rows])


def _markdown(headings: list[str], rows: list[list[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
