"""The facts about a log's files: what recovery decides on. Reads, changes nothing.

Knows segments and the manifest; refuses to decide.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from . import format as fmt
from . import manifest as manifests
from . import segment as segments
from .errors import VersionError
from .files import Directory, File
from .segment import SegmentScan

Progress = Callable[[int], None]


@dataclasses.dataclass(frozen=True, slots=True)
class SegmentFacts:
    """What one segment file says of itself."""

    base: int
    path: str
    size_bytes: int
    header: fmt.SegmentHeader | None
    header_problem: str = ""
    newer: bool = False
    trailer: fmt.Trailer | None = None
    scan: SegmentScan | None = None  # of a segment without a footer, unless it is known to be full
    rest: segments.Rest | None = None  # what lies behind the scan's end


@dataclasses.dataclass(frozen=True, slots=True)
class Survey:
    """All facts about a log's directory; `plan` needs nothing else."""

    directory: str
    manifest: fmt.Manifest | None
    manifest_problems: tuple[str, ...]
    segments: tuple[SegmentFacts, ...]
    temporaries: tuple[str, ...]
    scanned_bytes: int


def survey(directory: Directory, progress: Progress | None = None) -> Survey:
    """Read what opening needs: headers and footers of all, frames of segments without a footer."""
    names = directory.names()
    try:
        manifest, problems = manifests.load(directory)
    except fmt.UnknownVersionError as error:
        raise newer_error(directory.join(fmt.MANIFEST_NAME), error) from error
    found = sorted((base, name) for name in names if (base := fmt.segment_base(name)) is not None)
    facts = []
    scanned = 0
    for number, (base, _) in enumerate(found):
        following = found[number + 1][0] if number + 1 < len(found) else None
        fact, cost = _survey_segment(directory, base, following, manifest, progress)
        facts.append(fact)
        scanned += cost
    return Survey(
        directory.path,
        manifest,
        tuple(problems),
        tuple(facts),
        tuple(name for name in names if name.endswith(fmt.TEMPORARY_SUFFIX)),
        scanned,
    )


def _survey_segment(
    directory: Directory,
    base: int,
    following: int | None,
    manifest: fmt.Manifest | None,
    progress: Progress | None,
) -> tuple[SegmentFacts, int]:
    with segments.open_segment(directory, base) as file:
        size = file.opened_bytes
        try:
            header = segments.read_header(file)
        except fmt.FormatError as error:
            newer = isinstance(error, fmt.UnknownVersionError)
            return SegmentFacts(base, file.path, size, None, str(error), newer), 0
        if header.base != base:
            problem = f"its header says that it starts at {header.base}"
            return SegmentFacts(base, file.path, size, None, problem), 0
        try:
            trailer = segments.read_trailer(file, header, size)
        except fmt.UnknownVersionError as error:
            return SegmentFacts(base, file.path, size, header, str(error), True), 0
        except fmt.FormatError:
            trailer = None
        if trailer is not None:
            return SegmentFacts(base, file.path, size, header, trailer=trailer), 0
        if _is_full(following, manifest):
            return SegmentFacts(base, file.path, size, header), 0
        if following is None and _is_clean(manifest, header, size):
            assert manifest is not None
            return SegmentFacts(base, file.path, size, header, **_vouched_facts(manifest)), 0
        scan, rest = _scan(file, header, size, progress)
    return (
        SegmentFacts(base, file.path, size, header, scan=scan, rest=rest),
        scan.offset - header.frames_start,
    )


def _scan(
    file: File, header: fmt.SegmentHeader, size: int, progress: Progress | None
) -> tuple[SegmentScan, segments.Rest]:
    """The frames, and what lies behind them. Intact frames behind bad bytes may be those of a
    living writer, who went on meanwhile: then the bytes are good now."""
    scan = segments.scan_frames(file, header, size, progress=progress)
    while True:
        rest = segments.survey_rest(file, header, size, scan.offset, scan.position)
        if rest.later is None:
            return scan, rest
        more = segments.scan_frames(
            file,
            header,
            size,
            offset=scan.offset,
            position=scan.position,
            newest_ns=scan.newest_ns,
        )
        if more.offset == scan.offset:
            return scan, rest
        scan = more._replace(
            durable=max(scan.durable, more.durable),
            oldest_ns=min(scan.oldest_ns or more.oldest_ns, more.oldest_ns),
            signposts=scan.signposts + more.signposts,
        )


def _is_full(following: int | None, manifest: fmt.Manifest | None) -> bool:
    """Whether the manifest vouches that this segment reaches to the next one: a roll had made all
    of it durable. Then a missing footer is no reason to scan now, however many there are."""
    return (
        following is not None
        and manifest is not None
        and manifest.cut == fmt.NO_CUT
        and following <= manifest.tail_base
    )


def _is_clean(manifest: fmt.Manifest | None, header: fmt.SegmentHeader, size: int) -> bool:
    """Whether the log was closed cleanly and not opened for appends since: nothing to scan."""
    return (
        manifest is not None
        and manifest.tail_base == header.base
        and manifest.epoch == header.epoch
        and manifest.cut == fmt.NO_CUT
        and header.frames_start <= manifest.clean_offset <= size
        and manifest.clean_offset % 8 == 0
        and manifest.clean_position >= header.base
    )


def _vouched_facts(manifest: fmt.Manifest) -> dict[str, Any]:
    offset, position = manifest.clean_offset, manifest.clean_position
    newest_ns = manifest.newest_ns
    scan = SegmentScan(offset, position, position, 0, newest_ns, False, [])
    return {"scan": scan, "rest": segments.Rest(offset, None, 0)}


def newer_error(path: str, cause: Any) -> VersionError:
    """The error for files of a newer version."""
    return VersionError(
        f"the log uses a format this treering does not know: {cause}",
        path=path,
        hint="Open it with a newer treering; nothing was changed",
    )
