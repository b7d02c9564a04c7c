"""Commands for bad days: verify, repair."""

from __future__ import annotations

import argparse
from typing import Any

from treering import RepairReport, VerifyReport, repair, verify

from . import arguments as given
from .progress import Progress
from .showing import count, finding_fields, finding_line, print_json, safe_line, size, span


def add_commands(commands: given.Commands) -> None:
    """verify and repair."""
    given.add_command(commands, "verify", _verify, "read everything, list every problem")

    mend = given.add_command(
        commands,
        "repair",
        _repair,
        "bring a damaged log back to its longest intact prefix; without --into or --in-place only "
        "say what would be done",
    )
    where = mend.add_mutually_exclusive_group()
    where.add_argument(
        "--into", metavar="DIR", help="write a repaired copy, leave the log as it is"
    )
    where.add_argument("--in-place", action="store_true", help="repair the log itself")
    mend.add_argument(
        "--salvage", metavar="DIR", help="save readable records from behind the damage to a new log"
    )


def _verify(arguments: argparse.Namespace) -> int:
    with Progress(quiet=arguments.json) as progress:
        report = verify(arguments.log, progress=progress)
    if arguments.json:
        print_json(_verified(report))
    else:
        _print_verified(report)
    if report.damage:
        return 1
    return 3 if report.newer else 0


def _verified(report: VerifyReport) -> dict[str, Any]:
    return {
        "path": report.path,
        "ok": report.ok,
        "log_id": report.log_id.hex(),
        "first_position": report.first_position,
        "intact_end": report.intact_end,
        "end_position": report.end,
        "records": report.records,
        "segments": report.segments,
        "bytes": report.read_bytes,
        "seconds": round(report.seconds, 6),
        "problems": [finding_fields(f) for f in (*report.damage, *report.newer)],
        "notes": [finding_fields(f) for f in report.notes],
    }


def _print_verified(report: VerifyReport) -> None:
    for finding in (*report.damage, *report.newer, *report.notes):
        print(finding_line(finding))
    speed = report.read_bytes / report.seconds if report.seconds else 0
    print(
        f"{count(report.records, 'intact record')} in {count(report.segments, 'segment')}, "
        f"{size(report.read_bytes)} read in {report.seconds:.3g} s ({size(speed)}/s)"
    )
    whole = span(report.first_position, report.intact_end)
    if report.ok:
        print(f"no damage: positions {whole} are whole")
    elif report.damage:
        print(f"{count(len(report.damage), 'problem')}; positions {whole} are whole")
    else:
        print("written by a newer version of treering: use that one")


# --- repair --------------------------------------------------------------------------------------


def _repair(arguments: argparse.Namespace) -> int:
    dry_run = not (arguments.in_place or arguments.into)
    with Progress(quiet=arguments.json) as progress:
        report = repair(
            arguments.log,
            into=arguments.into,
            salvage=arguments.salvage,
            dry_run=dry_run,
            progress=progress,
        )
    if arguments.json:
        print_json(_repaired(report))
    else:
        _print_repaired(report)
    return 1 if report.state == "planned" else 0


def _repaired(report: RepairReport) -> dict[str, Any]:
    return {
        "path": report.path,
        "state": report.state,
        "problems": [finding_fields(finding) for finding in report.damage],
        "actions": report.actions,
        "first_position": report.first_position,
        "end_position": report.end,
        "removed": report.removed,
        "kept": report.kept,
        "into": report.into,
        "salvage": report.salvage,
        "salvaged": report.salvaged,
        "skipped": report.skipped,
    }


def _print_repaired(report: RepairReport) -> None:
    for finding in report.damage:
        print(finding_line(finding))
    if not report.damage:
        print("nothing to repair")
        return
    for action in report.actions:
        print(f"{'would be' if report.state == 'planned' else 'done':8}  {safe_line(action)}")
    whole = span(report.first_position, report.end)
    if report.state == "planned":
        print(f"the repaired log would hold positions {whole}")
        print("nothing was changed: add --into DIR for a repaired copy, or --in-place")
        return
    where = safe_line(report.into or report.path)
    print(f"{report.state}: {where} holds positions {whole}")
    if report.removed is not None:
        print(f"positions {span(*report.removed)} are not in it")
    for path in report.kept:
        print(f"kept      {safe_line(path)}")
    if report.salvage is not None:
        lost = f", {count(report.skipped, 'record')} could not be decoded" if report.skipped else ""
        print(f"{count(report.salvaged, 'record')} saved to {safe_line(report.salvage)}{lost}")
