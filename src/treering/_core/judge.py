"""What the contents of a log's files mean: one label per finding, all of them. Pure: no files here.

`plan` decides what opening does and stops at the first damage; this goes on to the end, with every
frame known. A test holds the two against one another.
"""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from . import format as fmt
from .content import Content, Gap
from .labels import Finding, Label


class Picture(NamedTuple):
    """A log's directory at one moment."""

    path: str
    manifest: fmt.Manifest | None
    manifest_problems: tuple[str, ...]
    newer: str  # the manifest is of a newer version
    names: tuple[str, ...]
    pins_problem: str

    @property
    def bases(self) -> tuple[int, ...]:
        """The segments there are, oldest first."""
        found = (fmt.segment_base(name) for name in self.names)
        return tuple(sorted(base for base in found if base is not None))

    def join(self, name: str) -> str:
        """The path of a file."""
        return os.path.join(self.path, name)


class Part(NamedTuple):
    """A segment in its place: its records count up to `limit`, if it belongs to the log at all."""

    content: Content
    live: bool
    limit: int


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    """Everything found, and where the log begins and ends."""

    findings: tuple[Finding, ...]
    manifest: fmt.Manifest  # as it is, or as it must have been
    parts: tuple[Part, ...]  # without what truncation was about to remove
    first_position: int
    end: int
    records: int

    @property
    def damage(self) -> tuple[Finding, ...]:
        """The findings that are damage."""
        return tuple(finding for finding in self.findings if finding.label.is_damage)

    @property
    def intact_end(self) -> int:
        """Everything from `first_position` to here is whole."""
        starts = [f.positions[0] for f in self.damage if f.positions is not None]
        return min((at for at in starts if at >= self.first_position), default=self.end)


def judge(picture: Picture, contents: Mapping[int, Content]) -> Verdict:
    """Label everything."""
    return _Judge(picture, contents).run()


def likely_log_id(contents: Mapping[int, Content]) -> bytes:
    """The log id that most segments carry."""
    ids = Counter(c.header.log_id for c in contents.values() if c.header is not None)
    return max(ids, key=lambda log_id: (ids[log_id], log_id), default=bytes(16))


class _Judge:
    """Walks the segments once, oldest first, and labels each."""

    def __init__(self, picture: Picture, contents: Mapping[int, Content]) -> None:
        self.picture = picture
        self.contents = contents
        self.found = [contents[base] for base in picture.bases if base in contents]
        self.findings: list[Finding] = []
        self.parts: list[Part] = []
        self.records = 0

    def run(self) -> Verdict:
        manifest = self._manifest()
        for name in self.picture.names:
            if name.endswith(fmt.TEMPORARY_SUFFIX):
                self.note(Label.TEMPORARY, self.picture.join(name))
        parts = self._sorted(manifest)
        end = self._chain(parts, manifest)
        self._check_end(parts, manifest, end)
        if self.picture.pins_problem:
            path = self.picture.join(fmt.PINS_NAME)
            self.note(Label.DAMAGED_PINS, path, detail=self.picture.pins_problem)
        return Verdict(
            tuple(self.findings),
            manifest,
            tuple(self.parts),
            min(manifest.first_position, end),
            end,
            self.records,
        )

    def note(
        self,
        label: Label,
        path: str,
        offset: int | None = None,
        positions: tuple[int, int | None] | None = None,
        detail: str = "",
    ) -> None:
        self.findings.append(Finding(label, path, offset, positions, detail))

    def _path(self, base: int) -> str:
        return self.picture.join(fmt.segment_name(base))

    # --- The log as a whole -----------------------------------------------------------------------

    def _manifest(self) -> fmt.Manifest:
        manifest, problems = self.picture.manifest, self.picture.manifest_problems
        path = self.picture.join(fmt.MANIFEST_NAME)
        if manifest is not None:
            if problems:
                self.note(Label.MANIFEST_MENDED, path, detail="; ".join(problems))
            return manifest
        epoch = max((c.header.epoch for c in self.found if c.header), default=0)
        first = self.found[0].base if self.found else 0
        last = self.found[-1].base if self.found else fmt.NO_CUT
        if self.picture.newer:
            self.note(Label.NEWER, path, detail=self.picture.newer)
        elif problems != ("missing",):
            self.note(Label.MANIFEST_DAMAGED, path, detail="; ".join(problems))
        elif len(self.found) == 1 and first == epoch == 0 and self._unused():
            self.note(Label.MANIFEST_NEW, path)
        else:
            self.note(Label.MANIFEST_MISSING, path)
        log_id = likely_log_id(self.contents)
        return fmt.Manifest(log_id, 0, epoch, first, last, fmt.NO_CUT, 0, 0, 0)

    def _unused(self) -> bool:
        """Whether nothing was ever written into the oldest segment."""
        content = self.found[0]
        return content.trailer is None and max(content.last_byte, content.end_offset) <= (
            content.header.frames_start if content.header is not None else 0
        )

    def _sorted(self, manifest: fmt.Manifest) -> list[Part]:
        """Set apart what truncation was about to remove, and label what is not this log's."""
        parts = []
        for number, content in enumerate(self.found):
            following = self.found[number + 1].base if number + 1 < len(self.found) else None
            header = content.header
            if following is not None and following <= manifest.first_position:
                self.note(Label.LEFTOVER, content.path)
                continue
            live = self._is_live(content, following, manifest)
            withdrawn = header and header.epoch < manifest.epoch and content.base >= manifest.cut
            if live and withdrawn:
                torn = not content.runs and content.last_byte > content.end_offset
                self.note(Label.WITHDRAWN_TORN if torn else Label.WITHDRAWN, content.path)
                continue
            parts.append(Part(content, live, content.own_end))
        return parts

    def _is_live(self, content: Content, following: int | None, manifest: fmt.Manifest) -> bool:
        header, positions = content.header, (content.base, following)
        if content.newer:
            self.note(Label.NEWER, content.path, detail=content.newer)
            return False
        if header is None or content.misnamed or content.rebuilt:
            kept = "; its frames are intact, so repair can rebuild it" if content.rebuilt else ""
            detail = content.header_problem + kept
            self.note(Label.DAMAGED_HEADER, content.path, 0, positions, detail)
            return content.rebuilt
        if header.log_id != manifest.log_id:
            self.note(Label.FOREIGN, content.path, 0, positions)
            return False
        if header.epoch > manifest.epoch:
            detail = "its epoch is newer than the manifest's"
            self.note(Label.FOREIGN, content.path, 0, positions, detail)
            return False
        return True

    def _chain(self, parts: list[Part], manifest: fmt.Manifest) -> int:
        """Hold each segment against the next; the position at which the log ends."""
        expected = manifest.first_position
        for number, part in enumerate(parts):
            content = part.content
            following = parts[number + 1] if number + 1 < len(parts) else None
            if content.base > expected:
                self.note(Label.MISSING, self._path(expected), positions=(expected, content.base))
            if not part.live:
                # Reported already. Whatever it held ended where the next one begins.
                self.parts.append(part)
                expected = max(expected, following.content.base if following else content.base)
                continue
            if following is not None:
                limit = self._full_segment(content, following)
            elif content.trailer is not None:
                limit = self._sealed_tail(content, manifest)
            else:
                limit = self._open_tail(content, manifest)
            if content.base < manifest.tail_base and following is None:
                limit = min(limit, manifest.tail_base)  # the rest is superseded by what is missing
            self.parts.append(part._replace(limit=limit))
            self._count(content, limit)
            expected = max(expected, limit)
        return expected

    def _count(self, content: Content, limit: int) -> None:
        for run in content.runs:
            self.records += max(0, min(run.end, limit) - run.position)

    def _check_end(self, parts: list[Part], manifest: fmt.Manifest, end: int) -> None:
        """Hold the end against what the manifest knows to have been there."""
        newest = parts[-1].content.base if parts else None
        expected, cut = manifest.tail_base, manifest.cut
        if expected != fmt.NO_CUT and (newest is None or newest < expected):
            self.note(Label.MISSING, self._path(expected), None, (end, None))
        elif cut != fmt.NO_CUT and end < cut:
            begun = any(
                part.content.header is not None and part.content.header.epoch == manifest.epoch
                for part in parts
            )
            if not begun:
                self.note(Label.MISSING, self._path(cut), None, (end, cut))

    # --- One segment ------------------------------------------------------------------------------

    def _full_segment(self, content: Content, next_part: Part) -> int:
        """A segment that another one follows: everything in it was durable before that one."""
        following = next_part.content
        assert content.header is not None
        limit = content.own_end
        calm = Label.SEALED if content.trailer is not None else Label.UNSEALED
        if next_part.live and limit > following.base:
            assert following.header is not None
            if following.header.epoch > content.header.epoch:
                limit, calm = following.base, Label.SUPERSEDED
            else:
                positions = (following.base, limit)
                self.note(Label.DAMAGED_ORDER, following.path, 0, positions)
        elif next_part.live and following.header and following.header.epoch < content.header.epoch:
            self.note(Label.FOREIGN, following.path, 0, None, "its epoch is too old")
        if content.trailer is None and limit < following.base:
            limit = following.base
        if not self._frames(content, limit):
            detail = content.footer_problem if calm is not Label.SUPERSEDED else ""
            if content.trailer is not None and content.footer_problem:
                calm = Label.UNSEALED
            self.note(calm, content.path, detail=detail)
        return limit

    def _sealed_tail(self, content: Content, manifest: fmt.Manifest) -> int:
        limit = min(content.own_end, manifest.cut)
        if not self._frames(content, limit):
            self.note(Label.TAIL_SEALED, content.path, detail=content.footer_problem)
        return limit

    def _open_tail(self, content: Content, manifest: fmt.Manifest) -> int:
        """The newest segment: tell its end from a torn write, and that from damage."""
        assert content.header is not None
        if manifest.cut <= content.prefix_end and manifest.epoch > content.header.epoch:
            # The cut was decided and durable before; what is behind it no longer counts.
            if not self._frames(content, manifest.cut):
                self.note(Label.SUPERSEDED, content.path)
            return manifest.cut
        known = manifest.clean_position if manifest.tail_base == content.base else 0
        torn = self._torn_at(content, known)
        limit = torn.position if torn is not None else content.end
        damaged = self._frames(content, limit)
        if content.unknown is not None or damaged:
            limit = max(limit, known)
        elif torn is None and limit < known:
            detail = "the bytes there are not the frame that was there"
            self.note(Label.MISSING, content.path, content.end_offset, (limit, known), detail)
        elif torn is not None:
            length = content.last_byte - torn.offset
            self.note(Label.TAIL_TORN, content.path, torn.offset, (limit, None), f"{length} bytes")
        else:
            short = content.size_bytes - content.end_offset < fmt.FRAME_HEADER_BYTES
            label = Label.TAIL_SHORT if short else Label.TAIL
            self.note(label, content.path, content.end_offset)
        return limit

    def _torn_at(self, content: Content, known: int) -> Gap | None:
        """Where a write begins that never became durable."""
        for gap in content.gaps:
            marks = [run.durable for run in content.runs if run.position >= gap.next]
            if max(marks, default=0) <= gap.position >= known and not content.exhausted:
                return gap
        at, position = content.end_offset, content.end
        junk = content.last_byte > at and not content.exhausted and content.unknown is None
        return (
            Gap(at, position, content.size_bytes, position) if junk and position >= known else None
        )

    def _frames(self, content: Content, limit: int) -> bool:
        """Note what is wrong with the records below `limit`; whether anything is."""
        before = len(self.findings)
        excused = list(content.unreadable)
        for gap in content.gaps:
            if gap.position < limit:
                positions = (gap.position, min(gap.next, limit))
                self._damaged(content, gap.offset, gap.next_offset, positions, excused)
        if content.unknown is not None:
            if content.unknown[1] < limit or content.trailer is None:
                at, position = content.unknown
                self.note(Label.NEWER, content.path, at, (position, None), "unknown record flags")
        elif content.end < limit or (content.exhausted and content.trailer is None):
            self._short(content, limit, excused)
        elif content.footer_wrong:
            self._wrong_footer(content)
        for start, stop in excused:
            detail = f"{stop - start} bytes"
            self.note(Label.UNREADABLE, content.path, start, None, detail)
        return len(self.findings) > before

    def _short(self, content: Content, limit: int, excused: list[tuple[int, int]]) -> None:
        trailer = content.trailer
        if trailer is not None and content.end_offset == trailer.frames_end:
            self._wrong_footer(content)
            return
        stop = trailer.frames_end if trailer is not None else content.last_byte
        end = limit if limit > content.end else None
        self._damaged(content, content.end_offset, stop, (content.end, end), excused)

    def _wrong_footer(self, content: Content) -> None:
        offset = content.size_bytes - fmt.TRAILER_BYTES
        self.note(Label.DAMAGED_FOOTER, content.path, offset, None, content.footer_wrong)

    def _damaged(
        self,
        content: Content,
        offset: int,
        stop: int,
        positions: tuple[int, int | None],
        excused: list[tuple[int, int]],
    ) -> None:
        """Damaged frames in [offset, stop), because the device cannot read them or otherwise."""
        guilty = [place for place in excused if place[0] < stop and place[1] > offset]
        for place in guilty:
            excused.remove(place)
        if guilty:
            detail = ", ".join(f"{high - low} bytes at offset {low}" for low, high in guilty)
            self.note(Label.UNREADABLE, content.path, offset, positions, detail)
            return
        detail = f"{max(stop - offset, 0)} bytes"
        if content.exhausted and positions[0] >= content.end:
            detail = "too many damaged places to look behind all of them"
        self.note(Label.DAMAGED_MIDDLE, content.path, offset, positions, detail)
