"""The crash battery: `python -m tests.battery.crash`, or `make crash`.

Proves on simulated files (and, for kills, on the real ones) that a log loses nothing that was
durable, shows nothing wrong and raises no false alarm; docs/durability.md quotes its counts.
Every violation is printed with the case to play again: `--replay CASE`.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import multiprocessing
import os
import sys
import time
from typing import Any

from treering import backend

from . import jobs
from .harness import Budget, Row


def main(arguments: list[str] | None = None) -> int:
    """Run what was asked for; 1 if anything was violated."""
    options = _parse(arguments)
    if options.replay:
        row = jobs.replay(options.replay)
        print(f"{row.cases} cases, {row.violation_count} violations", *row.violations, sep="\n  ")
        return 1 if row.violation_count else 0
    chosen = [job for job in jobs.plan(options.quick) if options.only in job.title]
    if not chosen:
        print(f"no battery is called {options.only!r}", file=sys.stderr)
        return 2
    Budget.first_only = options.first
    started = time.monotonic()
    rows = _run_all(chosen, options)
    print_table(rows, time.monotonic() - started, options.seed)
    if options.json:
        _write_json(options.json, rows, options)
    return 1 if any(row.violation_count for row in rows) else 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.battery.crash", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="about a twentieth of everything")
    parser.add_argument("--seconds", type=float, help="stop each battery in time for this total")
    parser.add_argument(
        "--only", default="", metavar="NAME", help="batteries with this in the name"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes at once")
    parser.add_argument("--json", metavar="FILE", help="write the counts there, too")
    parser.add_argument("--first", action="store_true", help="stop at the first violation")
    parser.add_argument("--replay", metavar="CASE", help="play one case again")
    return parser.parse_args(arguments)


def _run_all(chosen: list[jobs.Job], options: argparse.Namespace) -> list[Row]:
    rows: dict[str, Row] = {job.title: Row(job.battery, job.name) for job in chosen}
    share = options.seconds * options.jobs / len(chosen) if options.seconds else 1e9
    if options.jobs == 1:
        for job in chosen:
            _note(rows, job, jobs.run(job, options.seed, share))
            if options.first and rows[job.title].violation_count:
                break
        return list(rows.values())
    # Fresh processes: a fork would inherit whatever threads there are.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(options.jobs, mp_context=context) as pool:
        waiting = {pool.submit(jobs.run, job, options.seed, share): job for job in chosen}
        for done in concurrent.futures.as_completed(waiting):
            _note(rows, waiting[done], done.result())
    return list(rows.values())


def _note(rows: dict[str, Row], job: jobs.Job, found: dict[str, Any]) -> None:
    part = Row.from_dict(found)
    rows[job.title].add(part)
    number = f" {job.part + 1}/{job.parts}" if job.parts > 1 else ""
    print(
        f"{job.battery}: {job.name}{number}: {part.cases} cases, "
        f"{part.violation_count} violations, {part.seconds:.0f} s",
        flush=True,
    )
    for violation in part.violations:
        print(f"    VIOLATED {violation}", flush=True)


def print_table(rows: list[Row], seconds: float, seed: int) -> None:
    """One line for each battery, then what the counts are made of."""
    print(f"\n{'battery':20} {'part':28} {'cases':>10} {'violations':>11} {'seconds':>8}")
    for row in rows:
        print(
            f"{row.battery:20} {row.name:28} {row.cases:>10,} {row.violation_count:>11} "
            f"{row.seconds:>8.0f}"
        )
    cases, violations = sum(row.cases for row in rows), sum(row.violation_count for row in rows)
    print(f"{'all':49} {cases:>10,} {violations:>11} {seconds:>8.0f}")
    print(f"({backend} codec, seed {seed}; seconds of processor time, but for the last line)\n")
    for battery in dict.fromkeys(row.battery for row in rows):
        total = Row(battery, "")
        for row in rows:
            if row.battery == battery:
                total.add(row)
        parts = ", ".join(f"{name} {count:,}" for name, count in sorted(total.counts.items()))
        print(f"{battery}: {parts}")
        for note in total.notes:
            print(f"    {note}")


def _write_json(path: str, rows: list[Row], options: argparse.Namespace) -> None:
    found = {
        "backend": backend,
        "seed": options.seed,
        "quick": options.quick,
        "violations": sum(row.violation_count for row in rows),
        "rows": [row.as_dict() for row in rows],
    }
    with open(path, "w") as file:
        json.dump(found, file, indent=1)
        file.write("\n")


if __name__ == "__main__":
    sys.exit(main())
