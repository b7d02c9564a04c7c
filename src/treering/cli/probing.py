"""probe: what fsync and appends cost on this disk, and what that means for each policy."""

from __future__ import annotations

import argparse
import dataclasses

from treering import PolicyCost, ProbeReport, probe

from . import arguments as given
from .showing import count, print_json, safe_line


def add_commands(commands: given.Commands) -> None:
    """probe."""
    text = "measure what fsync and appends cost on a disk"
    parser = commands.add_parser("probe", help=text, description=text)
    parser.set_defaults(run=_probe)
    parser.add_argument("directory", nargs="?", default=".", help="where a log would lie")
    parser.add_argument("--seconds", type=float, default=0.5, help="for each measurement")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _probe(arguments: argparse.Namespace) -> int:
    report = probe(arguments.directory, seconds=arguments.seconds)
    if arguments.json:
        policies = [cost._asdict() for cost in report.policies]
        print_json({**dataclasses.asdict(report), "policies": policies})
    else:
        _print(report)
    return 0


def _print(report: ProbeReport) -> None:
    print(f"{safe_line(report.directory)}: {report.file_system}, {report.backend} build")
    print(
        f"write + fsync of one record: {report.fsync_seconds_median * 1e6:,.0f} us median, "
        f"{report.fsync_seconds_p99 * 1e6:,.0f} us p99"
    )
    print(f"{'policy':20} {'appends/s':>12} {'each':>10}  a power cut loses")
    for cost in report.policies:
        print(_line(cost))
    print("kill -9 loses nothing that was appended, under any policy")
    for warning in report.warnings:
        print(f"warning: {warning}")


def _line(cost: PolicyCost) -> str:
    each = 1e6 / cost.appends_per_second if cost.appends_per_second else 0.0
    name = f"{cost.policy}, {count(cost.threads, 'thread')}"
    rate = f"{cost.appends_per_second:>12,.0f} {each:>7,.1f} us"
    return f"{name:20} {rate}  {cost.power_cut_loses}"
