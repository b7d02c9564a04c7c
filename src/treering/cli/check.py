"""Commands for bad days: verify and repair."""

from __future__ import annotations

import argparse
from typing import Any

import treering

from .output import Output, Progress, printable, size
from .show import command


def add_commands(commands: Any) -> None:
    """Add this module's commands to the parser."""
    command(commands, "verify", "read everything and list every problem", run_verify)
    repair = command(commands, "repair", "bring a damaged log back; keeps every byte", run_repair)
    where = repair.add_mutually_exclusive_group()
    where.add_argument("--into", metavar="DIR", help="write a repaired copy, leave the log alone")
    where.add_argument("--in-place", action="store_true", help="repair the log itself")
    repair.add_argument("--salvage", metavar="DIR", help="save records from behind the damage")


def run_verify(arguments: argparse.Namespace, output: Output) -> int:
    """`treering verify`."""
    progress = Progress("verifying", output)
    report = treering.verify(arguments.path, progress=progress)
    progress.finish()
    output.data(
        {
            "path": report.path,
            "ok": report.ok,
            "records": report.records,
            "first_position": report.first_position,
            "intact_end": report.intact_end,
            "end": report.end,
            "segments": report.segments,
            "read_bytes": report.read_bytes,
            "seconds": round(report.seconds, 6),
            "findings": [as_dict(finding) for finding in report.findings],
        }
    )
    for finding in (*report.damage, *report.newer, *report.notes):
        output.say(printable(finding.describe()))
    rate = size(report.read_bytes / report.seconds) if report.seconds else "?"
    output.say(
        f"read {size(report.read_bytes)} in {report.segments} segments at {rate}/s: "
        f"{report.records} records intact"
    )
    if report.ok:
        output.say("no damage")
        return 0
    output.say(
        f"{len(report.damage) + len(report.newer)} problems; positions "
        f"[{report.first_position}, {report.intact_end}) can be read as always. "
        f"`treering repair {report.path}` says what it would do"
    )
    return 1 if report.damage else 3


def as_dict(finding: treering.Finding) -> dict[str, Any]:
    """A finding for JSON."""
    return {
        "label": finding.label.name,
        "meaning": finding.label.value,
        "path": finding.path,
        "offset": finding.offset,
        "positions": finding.positions,
        "detail": finding.detail,
        "damage": finding.label.is_damage,
    }


def run_repair(arguments: argparse.Namespace, output: Output) -> int:
    """`treering repair`: without --into and --in-place it only says what it would do."""
    progress = Progress("repairing", output)
    dry_run = arguments.into is None and not arguments.in_place
    report = treering.repair(
        arguments.path,
        into=arguments.into,
        salvage=None if dry_run else arguments.salvage,
        dry_run=dry_run,
        progress=progress,
    )
    progress.finish()
    output.data(
        {
            "path": report.path,
            "state": report.state,
            "actions": report.actions,
            "first_position": report.first_position,
            "end": report.end,
            "removed": report.removed,
            "kept": report.kept,
            "into": report.into,
            "salvage": report.salvage,
            "salvaged": report.salvaged,
            "skipped": report.skipped,
            "damage": [as_dict(finding) for finding in report.damage],
        }
    )
    for finding in report.damage:
        output.say(printable(finding.describe()))
    for action in report.actions:
        output.say(f"{'would ' if dry_run else ''}{printable(action)}")
    if report.removed is not None:
        output.say(
            f"positions [{report.removed[0]}, {report.removed[1]}) are not in the repaired log"
        )
    for name in report.kept:
        output.say(f"kept: {name}")
    if report.salvage is not None:
        output.say(f"saved {report.salvaged} records from behind the damage in {report.salvage}")
    output.say(report.state)
    if dry_run and report.damage:
        output.say("nothing was changed: say --into DIR for a copy, or --in-place")
        return 1
    return 0
