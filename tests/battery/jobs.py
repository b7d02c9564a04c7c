"""Which batteries there are, how much of each is due, and how a single case is played again."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import cuts, damage, faults, hardware, interrupts, lifetimes, misplaced, pairs, windows
from .harness import Budget, Row
from .workloads import WORKLOADS


@dataclasses.dataclass(frozen=True)
class Job:
    """A part of a battery, small enough to show progress and to run beside others."""

    battery: str
    name: str
    cases: int
    part: int = 0
    parts: int = 1

    @property
    def title(self) -> str:
        """What --only is compared with."""
        return f"{self.battery}/{self.name}"

    def cases_max(self) -> int:
        """For batteries that take their number from a budget; the others use it as a share."""
        return self.cases if self.battery in COUNTED else 10**9


# Batteries that do a number of cases; the others take a share of all there are.
COUNTED = ("power cut", "compound", "two crashes", "full disk", "windows")


# --- How each battery runs one part --------------------------------------------------------------


def _power_cut(job: Job, seed: int, budget: Budget) -> Row:
    return cuts.cut_power(job.name, seed * 100 + job.part, budget)


def _compound(job: Job, seed: int, budget: Budget) -> Row:
    return lifetimes.live(job.name, seed * 100 + job.part, budget)


def _two_crashes(job: Job, seed: int, budget: Budget) -> Row:
    return pairs.crash_twice(job.name, seed, budget)


def _failing(job: Job, seed: int, budget: Budget) -> Row:
    return faults.fail_calls(job.name, seed, budget, share=job.cases)


def _failing_syncs(job: Job, seed: int, budget: Budget) -> Row:
    return faults.fail_calls(job.name, seed, budget, images=8, share=job.cases, only="sync")


def _full(job: Job, seed: int, budget: Budget) -> Row:
    return hardware.full_disks(job.name, seed, budget)


def _unreadable(job: Job, seed: int, budget: Budget) -> Row:
    return hardware.unreadable(job.name, Row("unreadable sectors", job.name), share=job.cases)


def _interrupts(job: Job, seed: int, budget: Budget) -> Row:
    return interrupts.break_off(job.name, seed, budget, share=job.cases)


def _windows(job: Job, seed: int, budget: Budget) -> Row:
    return windows.keep_windows(float(job.name.removesuffix(" ms")), seed, budget)


def _bits(job: Job, seed: int, budget: Budget) -> Row:
    """Every `cases`th bit; the parts take turns."""
    row, started = Row("bits flipped", job.name), time.perf_counter()
    healthy = damage.specimen(job.name)
    bits = damage.all_bits(healthy)
    row.counts["bits in all"] = len(bits) if job.part == 0 else 0
    mine = bits[job.part * job.cases :: job.parts * job.cases]
    damage.flip_bits(healthy, mine, row, budget)
    row.seconds = time.perf_counter() - started
    return row


SHAPES = ("whole files", "one sector", "two sectors", "shifted", "noise", "cut short")


def _misplaced(job: Job, seed: int, budget: Budget) -> Row:
    row, started = Row("damage", job.name), time.perf_counter()
    shape, _, name = job.name.partition(", ")
    misplaced.run(shape, name, f"{seed}/{job.part}", job.cases, row, budget)
    row.seconds = time.perf_counter() - started
    return row


def _in_pure(job: Job, seed: int, budget: Budget) -> Row:
    """A battery once more, with the codec in readable Python."""
    row, started = Row("in pure Python", job.name), time.perf_counter()
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        command = [sys.executable, "-m", "tests.battery.crash", "--only", job.name, "--quick"]
        command += ["--jobs", "1", "--seed", str(seed), "--json", file.name]
        environment = {**os.environ, "TREERING_PURE": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        found = (
            json.loads(Path(file.name).read_text())["rows"] if os.path.getsize(file.name) else []
        )
    for part in found:
        row.add(Row.from_dict(part))
    if not found:
        row.violate("pure", f"it did not run: {done.stdout[-500:]} {done.stderr[-500:]}")
    row.seconds = time.perf_counter() - started
    return row


def _kills(job: Job, seed: int, budget: Budget) -> Row:
    from . import kills

    row, started = Row("real kills", job.name), time.perf_counter()
    found = kills.run(job.cases, seed)
    row.cases = found.get("kills", 0)
    row.counts.update({k: v for k, v in found.items() if isinstance(v, int) and k != "seed"})
    for problem in found["problems"]:
        row.violate("kills", str(problem))
    row.seconds = time.perf_counter() - started
    return row


def _mutants(job: Job, seed: int, budget: Budget) -> Row:
    from . import mutants

    return mutants.hunt(Row("mutants", job.name), part=job.part, parts=job.parts)


RUNNERS: dict[str, Callable[[Job, int, Budget], Row]] = {
    "power cut": _power_cut,
    "compound": _compound,
    "two crashes": _two_crashes,
    "failing calls": _failing,
    "failing syncs": _failing_syncs,
    "full disk": _full,
    "unreadable sectors": _unreadable,
    "windows": _windows,
    "bits flipped": _bits,
    "damage": _misplaced,
    "interrupts": _interrupts,
    "in pure Python": _in_pure,
    "real kills": _kills,
    "mutants": _mutants,
}


def run(job: Job, seed: int, seconds: float) -> dict[str, Any]:
    """Run one part; the row as JSON, to cross a process boundary."""
    row = RUNNERS[job.battery](job, seed, Budget(job.cases_max(), seconds))
    row.battery, row.name = job.battery, job.name
    return row.as_dict()


# --- How much ------------------------------------------------------------------------------------


def plan(quick: bool) -> list[Job]:
    """All jobs; --quick does about a twentieth."""
    few = 20 if quick else 1
    jobs = []
    for name in WORKLOADS:
        jobs += _split("power cut", name, 10_000 // few, 1 if quick else 4)
    for name in lifetimes.KINDS:
        jobs += _split("compound", name, 5_000 // few, 1 if quick else 2)
    jobs += [Job("two crashes", name, 20_000 // few) for name in pairs.CALLS]
    jobs += [Job("failing calls", name, 25 if quick else 1) for name in faults.PROGRAMS]
    jobs += [Job("failing syncs", name, 8 if quick else 1) for name in faults.PROGRAMS]
    jobs += [Job("full disk", name, 2_000 // few) for name in ("memory", "untrusted")]
    jobs += [Job("windows", name, 5_000 // few) for name in ("1 ms", "5 ms", "50 ms")]
    jobs += [Job("unreadable sectors", name, 4 if quick else 1) for name in ("closed", "in use")]
    for name, share in (("in use", 1), ("closed", 10), ("lazy", 10), ("cut", 10)):
        parts = 1 if quick else 20 // share
        jobs += [Job("bits flipped", name, share * few * 5 if quick else share, part, parts)
                 for part in range(parts)]  # fmt: skip
    for name in ("closed", "in use", "lazy", "cut"):
        for shape in SHAPES:
            jobs.append(Job("damage", f"{shape}, {name}", 100_000 // 24 // few))
    jobs += [Job("interrupts", name, 60 if quick else 4) for name in interrupts.CALLS]
    return jobs + _slow_jobs(quick)


def _slow_jobs(quick: bool) -> list[Job]:
    jobs = []
    if os.environ.get("TREERING_PURE") != "1" and not quick:
        jobs += [Job("in pure Python", name, 1) for name in ("power cut", "compound", "interrupts")]
    jobs += [Job("real kills", "1, 2 and 4 writers", 20 if quick else 1000)]
    if not quick:
        jobs += [Job("mutants", "each sync, check and rename", 0, part, 4) for part in range(4)]
    return jobs


def _split(battery: str, name: str, cases: int, parts: int) -> list[Job]:
    return [Job(battery, name, cases // parts, part, parts) for part in range(parts)]


# --- One case again ------------------------------------------------------------------------------


def replay(case: str) -> Row:
    """Play one case, named as a violation names it, again."""
    kind, *rest = case.split(":")
    row = Row("replay", case)
    if kind == "cut":
        only = int(rest[2].removeprefix("at=")) if len(rest) > 2 else None
        cuts.once(WORKLOADS[rest[0]], rest[1], row, only=only)
    elif kind == "compound":
        lifetimes.once(rest[0], rest[1], row)
    elif kind == "twice":
        pairs.once(rest[0], rest[1], row, Budget(10**9), only=rest[2])
    elif kind == "fail":
        faults.once(rest[0], rest[1], faults.Trouble.parse(rest[2]), row, case)
    elif kind == "full":
        hardware.once(rest[0], case, row)
    elif kind == "flip":
        healthy = damage.specimen(rest[0])
        path, bit = os.path.join(damage.LOG, rest[1]), int(rest[2].removeprefix("bit="))
        damage.flip_bits(healthy, [(path, bit)], row, Budget(10))
    elif kind == "damage":
        misplaced.run(rest[0], rest[1], rest[2], 1_000_000, row, Budget(10**9), only=case)
    elif kind == "interrupt":
        interrupts.guarded(rest[0], int(rest[1]), row)
    else:
        raise SystemExit(f"cannot play {case!r} again: run its battery with --only and --seed")
    return row


__all__ = ["Job", "plan", "replay", "run"]
