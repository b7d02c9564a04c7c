"""Opening a log: survey the files, decide by a table, then act.

    survey(directory)  reads, changes nothing: facts about the manifest and every segment
    plan(survey)       pure: one label per segment and for the log, and what to do
    apply(plan, …)     acts: cut, rewrite, fsync, remove leftovers, write footers

`verify` prints the same labels. Refuses to know the control page, locks and handles.
"""

from __future__ import annotations

import os
import time

from . import format as fmt
from . import manifest as manifests
from . import segment as segments
from .errors import DamageError, LogNotFoundError, StorageError
from .files import WRITE, Directory, no_such_file
from .labels import Cut, Finding, Label, RecoveryReport
from .plan import Plan, plan
from .survey import Progress, SegmentFacts, Survey, newer_error, survey

_LOOKS_MAX = 10
_LOOK_PAUSE_SECONDS = 0.005


def steady_plan(directory: Directory, progress: Progress | None = None) -> tuple[Survey, Plan]:
    """Survey and plan for somebody who holds no lock: what a living writer was just doing may look
    like damage for a moment, so damage counts only if it is still there when looked at again."""
    before: tuple[Finding, ...] | None = None
    attempt = 0
    while True:
        attempt += 1
        try:
            facts = survey(directory, progress)
        except StorageError as error:
            if attempt == _LOOKS_MAX or not no_such_file(error):
                raise
            continue  # removed by a truncation between listing and opening
        decided = plan(facts)
        if decided is None:
            raise not_found(directory.path)
        problems = tuple(finding for finding in decided.findings if finding.label.is_damage)
        if not problems or problems == before or attempt >= _LOOKS_MAX:
            return facts, decided
        before = problems
        time.sleep(_LOOK_PAUSE_SECONDS)


def apply(directory: Directory, decided: Plan) -> None:
    """Carry the plan out. May be interrupted anywhere and repeated; needs no free space.

    Nothing is shown to anybody before the end of the log is as durable as its beginning, and
    nothing is decided on the strength of names or of a manifest that a power cut can take back.
    """
    has_manifest = fmt.MANIFEST_NAME in directory.names()
    directory.sync()  # the manifest must not speak of a name that is not durable
    if has_manifest:
        manifests.settle(directory)
    _rewrite_tail(directory, decided)
    if decided.manifest is not None:
        (manifests.store if has_manifest else manifests.create)(directory, decided.manifest)
    for fact in decided.aside:
        name = os.path.basename(fact.path)
        epoch = fact.header.epoch if fact.header is not None else 0
        directory.rename(name, f"{name}.{epoch}{fmt.ASIDE_SUFFIX}")
    for name in decided.remove:
        directory.remove(name)
    if decided.aside or decided.remove:
        directory.sync()


def _rewrite_tail(directory: Directory, decided: Plan) -> None:
    """Make everything that may not be durable dirty again, then fsync it.

    After a failed fsync the page cache may hold clean pages that never reached the disk, so an
    fsync alone proves nothing (guarantees: ATC'20, "Can Applications Recover from fsync
    Failures?").
    """
    last = decided.last
    if last is None or last.scan is None or decided.durable >= decided.end:
        return
    start = _undurable_offset(last, decided.durable)
    with segments.open_segment(directory, last.base, WRITE) as file:
        at, end = start, last.scan.offset
        while at < end:
            block = file.read(min(segments.CHUNK_BYTES, end - at), at)
            file.write(block, at)
            at += len(block)
        file.sync()


def _undurable_offset(last: SegmentFacts, durable: int) -> int:
    """Offset from which on frames may not be durable, to the precision of the index."""
    assert last.scan is not None and last.header is not None
    start = last.header.frames_start
    if last.scan.signposts:
        start = last.scan.signposts[0].offset
    elif last.scan.position <= durable:
        start = last.scan.offset
    for entry in last.scan.signposts:
        if entry.position <= durable:
            start = entry.offset
    return start


# --- Errors and the report ------------------------------------------------------------------------


def refuse(decided: Plan) -> None:
    """Raise what keeps the log from being opened for appends, if anything does."""
    for finding in decided.findings:
        if finding.label is Label.NEWER:
            raise newer_error(finding.path, finding.detail or "unknown record flags")
    if decided.damage is not None:
        raise damage_error(decided.damage)


def damage_error(finding: Finding) -> DamageError:
    """The error that a damage finding stands for."""
    start, end = finding.positions or (None, None)
    lost = "" if start is None else f"; positions [{start}, {'…' if end is None else end}) affected"
    detail = f" ({finding.detail})" if finding.detail else ""
    error = DamageError(
        f"{finding.label.value}{detail}{lost}",
        path=finding.path,
        offset=finding.offset,
        position=start,
        hint="Nothing was changed. Everything before it can be read with read_only=True; "
        "`treering verify` shows all problems, `treering repair` mends on request",
    )
    error.positions = finding.positions
    return error


def report(facts: Survey, decided: Plan, started: float) -> RecoveryReport:
    """The report of an opening that began at the monotonic time `started`."""
    calm = {Label.SEALED, Label.TAIL, Label.TAIL_SHORT, Label.TAIL_SEALED, Label.SUPERSEDED}
    state = "clean" if all(f.label in calm for f in decided.findings) else "recovered"
    if decided.damage is not None:
        state = "damaged"
    return RecoveryReport(
        state,
        decided.first_position,
        decided.end,
        decided.cut,
        decided.findings,
        facts.scanned_bytes,
        time.monotonic() - started,
    )


def not_found(path: str) -> LogNotFoundError:
    """The error for a directory without a log."""
    return LogNotFoundError(
        "there is no log", path=path, hint="Check the path, or open with create=True"
    )


__all__ = ["Cut", "Finding", "Label", "Plan", "Progress", "RecoveryReport", "Survey"]
__all__ += [
    "apply",
    "damage_error",
    "not_found",
    "plan",
    "refuse",
    "report",
    "steady_plan",
    "survey",
]
