"""What the facts mean: one label per file and for the log, and what to do. Pure: no files here.

docs/recovery.md has the same table in prose; a test walks its combinations.
"""

from __future__ import annotations

import dataclasses
import os

from . import format as fmt
from . import segment as segments
from .labels import Cut, Finding, Label
from .segment import SegmentScan
from .survey import SegmentFacts, Survey


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """What the facts mean and what to do about them."""

    findings: tuple[Finding, ...]
    log_id: bytes | None
    epoch: int
    first_position: int
    end: int
    tail: SegmentFacts | None  # where appends go on; None: the next append starts a segment
    tail_end: int  # offset in the tail
    last: SegmentFacts | None  # the newest segment kept
    cut: Cut | None
    durable: int  # everything below this was durable
    newest_ns: int
    remove: tuple[str, ...]
    aside: tuple[SegmentFacts, ...]
    seal: tuple[tuple[fmt.SegmentHeader, int], ...]  # full segments without a footer, and ends
    manifest: fmt.Manifest | None  # to be stored, if it differs

    @property
    def damage(self) -> Finding | None:
        """The first damage, in the order of positions."""
        return next((finding for finding in self.findings if finding.label.is_damage), None)


def plan(facts: Survey) -> Plan | None:
    """The decision; None for a directory without a log. Pure."""
    if not facts.segments and facts.manifest is None and not facts.manifest_problems:
        return None
    if not facts.segments and facts.manifest is None and facts.manifest_problems == ("missing",):
        return None
    return _Planner(facts).run()


class _Planner:
    """Walks the segments once, oldest first, and labels each."""

    def __init__(self, facts: Survey) -> None:
        self.facts = facts
        self.findings: list[Finding] = []
        self.problems: list[Finding] = []  # those of the findings that forbid to append
        self.remove: list[str] = []
        self.aside: list[SegmentFacts] = []
        self.seal: list[tuple[fmt.SegmentHeader, int]] = []
        self.cut: Cut | None = None
        self.end = 0
        self.durable = 0
        self.newest_ns = 0
        self.tail: SegmentFacts | None = None
        self.tail_end = 0
        self.last: SegmentFacts | None = None

    def run(self) -> Plan:
        manifest = self._manifest()
        self.newest_ns = manifest.newest_ns
        for name in self.facts.temporaries:
            self.note(Label.TEMPORARY, os.path.join(self.facts.directory, name))
            self.remove.append(name)
        live = self._live_segments(manifest)
        first = manifest.first_position
        told = any(f.positions and f.positions[0] <= first for f in self.problems)
        if live and live[0].base > first and not told:
            self.note(Label.MISSING, self._segment_path(first), positions=(first, live[0].base))
        self.end = min(live[0].base, first) if live else first
        # What lies before damage can be read: the walk goes as far as there is none.
        until = min((f.positions[0] for f in self.problems if f.positions), default=fmt.NO_CUT)
        self._walk([fact for fact in live if fact.base < until], manifest, until)
        self.end = min(self.end, until)
        self._check_end(live, manifest)
        if self.end >= fmt.POSITION_MAX and not self.problems:
            # No position is left for the next record: nobody wrote so many, so this was forged.
            path = live[-1].path if live else self._segment_path(first)
            self.end = fmt.POSITION_MAX
            self.note(Label.FOREIGN, path, None, (self.end, None), "its positions are used up")
        if self.end < first and not self.problems:
            path = self._segment_path(first)
            self.note(Label.MISSING, path, positions=(self.end, first))
        first = min(first, self.end)
        return self._finish(manifest, first, live)

    def note(
        self,
        label: Label,
        path: str,
        offset: int | None = None,
        positions: tuple[int, int | None] | None = None,
        detail: str = "",
    ) -> None:
        finding = Finding(label, path, offset, positions, detail)
        self.findings.append(finding)
        if label.is_damage or label is Label.NEWER:
            self.problems.append(finding)

    def _segment_path(self, base: int) -> str:
        return os.path.join(self.facts.directory, fmt.segment_name(base))

    def _manifest(self) -> fmt.Manifest:
        manifest, problems = self.facts.manifest, self.facts.manifest_problems
        path = os.path.join(self.facts.directory, fmt.MANIFEST_NAME)
        if manifest is not None:
            if problems:
                self.note(Label.MANIFEST_MENDED, path, detail="; ".join(problems))
            return manifest
        header = next((s.header for s in self.facts.segments if s.header is not None), None)
        first = self.facts.segments[0].base if self.facts.segments else 0
        log_id = header.log_id if header is not None else bytes(16)
        epoch = max((s.header.epoch for s in self.facts.segments if s.header), default=0)
        if problems != ("missing",):
            self.note(Label.MANIFEST_DAMAGED, path, detail="; ".join(problems))
        elif len(self.facts.segments) == 1 and first == epoch == 0 and _unused(self.facts):
            self.note(Label.MANIFEST_NEW, path)
        else:
            self.note(Label.MANIFEST_MISSING, path)
        return fmt.Manifest(log_id, 0, epoch, first, first, fmt.NO_CUT, 0, 0, 0)

    def _live_segments(self, manifest: fmt.Manifest) -> list[SegmentFacts]:
        """Set apart what truncation was about to remove; refuse what is not this log's."""
        live = []
        found = self.facts.segments
        for number, fact in enumerate(found):
            following = found[number + 1].base if number + 1 < len(found) else None
            foreign = fact.header is not None and fact.header.log_id != manifest.log_id
            if not foreign and _is_leftover(fact, following, manifest):
                self.note(Label.LEFTOVER, fact.path)
                self.remove.append(os.path.basename(fact.path))
            elif fact.newer:
                positions = (fact.base, following)
                self.note(Label.NEWER, fact.path, None, positions, fact.header_problem)
            elif fact.header is None:
                self.note(
                    Label.DAMAGED_HEADER,
                    fact.path,
                    0,
                    (fact.base, following),
                    fact.header_problem,
                )
            elif foreign:
                self.note(Label.FOREIGN, fact.path, 0, (fact.base, following))
            elif fact.header.epoch > manifest.epoch:
                self.note(
                    Label.FOREIGN,
                    fact.path,
                    0,
                    (fact.base, following),
                    "its epoch is newer than the manifest's",
                )
            elif fact.base >= manifest.cut and fact.header.epoch < manifest.epoch:
                self._withdraw(fact)
            else:
                live.append(fact)
        return live

    def _withdraw(self, fact: SegmentFacts) -> None:
        """A segment behind a cut: truncation's are removed, recovery's (no whole frame) kept."""
        torn = fact.scan and fact.rest and fact.scan.position == fact.base
        if torn and fact.rest and fact.scan and fact.rest.last_byte > fact.scan.offset:
            self.note(Label.WITHDRAWN_TORN, fact.path)
            self.aside.append(fact)
        else:
            self.note(Label.WITHDRAWN, fact.path)
            self.remove.append(os.path.basename(fact.path))

    def _walk(self, live: list[SegmentFacts], manifest: fmt.Manifest, until: int) -> None:
        known = len(self.problems)
        for number, fact in enumerate(live):
            following = live[number + 1] if number + 1 < len(live) else None
            if following is not None:
                self._full_segment(fact, following)
            elif fact.trailer is not None:
                self._sealed_tail(fact, manifest)
            elif fact.scan is None:
                self.note(Label.UNSEALED, fact.path)  # the next one is damaged, so this is the last
                self.end = until
            else:
                self._open_tail(fact, manifest)
            if len(self.problems) > known:
                return
            self.last = fact

    def _full_segment(self, fact: SegmentFacts, following: SegmentFacts) -> None:
        """A segment that another one follows: everything in it was durable before that one."""
        assert fact.header is not None and following.header is not None
        end = following.base
        if fact.trailer is not None:
            end = fact.trailer.end
        elif fact.scan is not None:
            end = fact.scan.position
        if fact.scan is not None and fact.scan.unknown:
            self.note(Label.NEWER, fact.path, fact.scan.offset)
            return
        newer_epoch = following.header.epoch > fact.header.epoch
        if end < following.base:
            label = Label.DAMAGED_MIDDLE if fact.scan else Label.MISSING
            offset = fact.scan.offset if fact.scan else None
            self.end = end
            self.note(label, fact.path, offset, (end, following.base))
            return
        if end > following.base and not newer_epoch:
            self.end = following.base
            self.note(Label.DAMAGED_ORDER, following.path, 0, (following.base, end))
            return
        if following.header.epoch < fact.header.epoch:
            self.note(Label.FOREIGN, following.path, 0, None, "its epoch is too old")
            return
        self.end = following.base
        self._newest(fact)
        calm = Label.SEALED if fact.trailer is not None else Label.UNSEALED
        self.note(calm if end == following.base else Label.SUPERSEDED, fact.path)
        if fact.trailer is None or end > following.base:
            # Also to note where it ends now: should the next one get lost, nothing old comes back.
            self.seal.append((fact.header, following.base))

    def _sealed_tail(self, fact: SegmentFacts, manifest: fmt.Manifest) -> None:
        assert fact.trailer is not None and fact.header is not None
        self.end = fact.trailer.end
        if fact.header.epoch < manifest.epoch:  # else it was written after the cut
            self.end = min(self.end, manifest.cut)
        self.durable = self.end
        self._newest(fact)
        self.note(Label.TAIL_SEALED, fact.path)
        if self.end < fact.trailer.end:
            self.seal.append((fact.header, self.end))

    def _open_tail(self, fact: SegmentFacts, manifest: fmt.Manifest) -> None:
        """The newest segment: tell its end from a torn write, and that from damage."""
        assert fact.scan is not None and fact.rest is not None and fact.header is not None
        scan, rest = fact.scan, fact.rest
        self._newest(fact)
        if scan.unknown:
            self.note(Label.NEWER, fact.path, scan.offset, (scan.position, None))
            return
        self.end = scan.position
        # What lies in older segments was durable before this one had its name.
        self.durable = max(scan.durable, _vouched(manifest, fact), fact.base)
        if manifest.cut <= scan.position and manifest.epoch > fact.header.epoch:
            # The cut was decided and durable before; what is behind it no longer counts.
            self.end = manifest.cut
            self.durable = min(self.durable, self.end)
            self.note(Label.SUPERSEDED, fact.path)
            self.seal.append((fact.header, self.end))
            return
        if rest.durable > scan.position:
            after = rest.later[1] if rest.later else None
            self.note(Label.DAMAGED_MIDDLE, fact.path, scan.offset, (scan.position, after))
        elif rest.last_byte > scan.offset:
            self._torn_tail(fact, scan, rest)
        else:
            short = fact.size_bytes - scan.offset < fmt.FRAME_HEADER_BYTES
            self.note(Label.TAIL_SHORT if short else Label.TAIL, fact.path, scan.offset)
            self.tail, self.tail_end = fact, scan.offset

    def _torn_tail(self, fact: SegmentFacts, scan: SegmentScan, rest: segments.Rest) -> None:
        length = rest.last_byte - scan.offset
        self.cut = Cut(fact.path, scan.offset, length, scan.position)
        self.note(Label.TAIL_TORN, fact.path, scan.offset, (scan.position, None), f"{length} bytes")
        if scan.position == fact.base:
            # Its name is the one that the next segment needs.
            self.note(Label.WITHDRAWN_TORN, fact.path)
            self.aside.append(fact)
            kept = fmt.ASIDE_SUFFIX
            aside = f"{fact.path}.{fact.header.epoch if fact.header else 0}{kept}"
            self.cut = self.cut._replace(path=aside)

    def _newest(self, fact: SegmentFacts) -> None:
        newest = fact.trailer.newest_ns if fact.trailer else fact.scan.newest_ns if fact.scan else 0
        self.newest_ns = max(self.newest_ns, newest)

    def _check_end(self, live: list[SegmentFacts], manifest: fmt.Manifest) -> None:
        """Hold the end against what the manifest knows to have been durable."""
        if self.problems:
            return
        newest_base = live[-1].base if live else None
        expected = manifest.tail_base
        if expected != fmt.NO_CUT and (newest_base is None or newest_base < expected):
            self.end = min(self.end, expected)  # what lies behind is superseded by what is missing
            self.note(Label.MISSING, self._segment_path(expected), None, (self.end, None))
        elif self.end < _known_end(manifest, newest_base):
            scan = live[-1].scan
            self.note(
                Label.MISSING,
                live[-1].path,
                scan.offset if scan is not None else None,
                (self.end, manifest.clean_position),
            )
        elif manifest.cut != fmt.NO_CUT and self.end < manifest.cut and not self._cut_done(live):
            self.note(
                Label.MISSING, self._segment_path(manifest.cut), None, (self.end, manifest.cut)
            )

    def _cut_done(self, live: list[SegmentFacts]) -> bool:
        manifest = self.facts.manifest
        assert manifest is not None
        return any(fact.header and fact.header.epoch == manifest.epoch for fact in live)

    def _finish(self, old: fmt.Manifest, first: int, live: list[SegmentFacts]) -> Plan:
        if self.problems:  # opening refuses: nothing will be cut, moved or written
            self.cut, self.remove, self.aside, self.seal = None, [], [], []
        epoch = old.epoch + 1 if self.cut is not None else old.epoch
        last = None if self.last in self.aside else self.last
        if self.last in self.aside:
            last = next((fact for fact in reversed(live) if fact.base < self.end), None)
        cut = self.end if self.cut is not None else self._pending_cut(old)
        tail_base = last.base if last is not None else fmt.NO_CUT
        clean = (old.clean_position, old.clean_offset)
        if self.cut is not None or tail_base != old.tail_base:
            clean = (0, 0)
        new = fmt.Manifest(
            old.log_id, old.sequence + 1, epoch, first, tail_base, cut, *clean, old.newest_ns
        )
        changed = new._replace(sequence=old.sequence) != self.facts.manifest
        return Plan(
            tuple(self.findings),
            old.log_id,
            epoch,
            first,
            self.end,
            self.tail,
            self.tail_end,
            last,
            self.cut,
            min(self.durable, self.end),
            self.newest_ns,
            tuple(self.remove),
            tuple(self.aside),
            tuple(self.seal),
            new if (changed or self.facts.manifest_problems) and not self.problems else None,
        )

    def _pending_cut(self, old: fmt.Manifest) -> int:
        """A decided cut stays decided until a segment of the new epoch exists."""
        done = self.last is not None and self.last.header and self.last.header.epoch == old.epoch
        return fmt.NO_CUT if done else old.cut


def _is_leftover(fact: SegmentFacts, following: int | None, manifest: fmt.Manifest) -> bool:
    """Whether a segment holds nothing but positions that truncate_before removed."""
    if following is None:  # its end is not known, but when all live segments were cut off it is old
        return manifest.tail_base == fmt.NO_CUT and fact.base < manifest.first_position
    return following <= manifest.first_position


def _unused(facts: Survey) -> bool:
    """Whether nothing was ever written into the oldest segment."""
    scan, rest = facts.segments[0].scan, facts.segments[0].rest
    return (
        scan is not None and rest is not None and scan.position == 0 == rest.last_byte - scan.offset
    )


def _vouched(manifest: fmt.Manifest, fact: SegmentFacts) -> int:
    known = manifest.tail_base == fact.base and fact.header is not None
    if known and fact.header is not None and fact.header.epoch == manifest.epoch:
        return manifest.clean_position
    return 0


def _known_end(manifest: fmt.Manifest, newest_base: int | None) -> int:
    """What a clean close vouched for, if that segment is still the newest."""
    return manifest.clean_position if manifest.tail_base == newest_base else 0
