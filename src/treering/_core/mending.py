"""What repair does about damage: which segments stay, up to where, and what is set aside. Pure."""

from __future__ import annotations

import dataclasses
import os

from . import format as fmt
from .content import Content
from .judge import Part, Picture, Verdict, judge, likely_log_id
from .labels import Label
from .verify import Examination


@dataclasses.dataclass(frozen=True, slots=True)
class Mending:
    """The decision. `parts` is every segment of the log, `keep` those that stay."""

    log_id: bytes
    keep: tuple[Content, ...]
    first_position: int
    end: int
    cut: bool  # whether anything behind `end` is given up
    parts: tuple[Part, ...]
    aside: tuple[Content, ...]
    headers: tuple[Content, ...]  # to be rebuilt
    footers: tuple[Content, ...]  # to be taken off, so that opening makes new ones
    rebuilt_manifest: fmt.Manifest | None  # in place of one that is missing, damaged or foreign
    manifest: fmt.Manifest | None  # to be stored in the end
    guard_pins: bool

    def describe(self, *, copy: bool) -> list[str]:
        """What is done, line by line."""
        verb = "left out" if copy else "set aside"
        lines = []
        if self.rebuilt_manifest is not None:
            lines.append("manifest: rebuilt from the segments")
        lines += [f"{_name(content)}: header rebuilt from its frames" for content in self.headers]
        lines += [f"{_name(content)}: footer {verb}, made anew" for content in self.footers]
        lines += [f"{_name(content)}: {verb}" for content in self.aside]
        if self.cut:
            lines.append(f"the log ends at position {self.end}, in a new epoch")
        if self.manifest is not None and not self.cut:
            lines.append(f"the log begins at position {self.first_position}")
        if self.guard_pins:
            lines.append(f"pins: {verb}, one new pin keeps everything until you remove it")
        return lines

    def removed(self, verdict: Verdict) -> tuple[int, int] | None:
        """The positions that the log had and will not have any more, as far as they are known."""
        seen = [run.end for content in self.aside for run in content.runs]
        end = max([verdict.end, *seen]) if self.cut else self.end
        if end > self.end:
            return self.end, end
        first = verdict.manifest.first_position
        return (first, self.first_position) if first < self.first_position else None

    def copies(self) -> list[tuple[Content, int]]:
        """Which segments a copy has, and up to which offset."""
        found = []
        for number, content in enumerate(self.keep):
            last = number == len(self.keep) - 1
            whole = content.trailer is not None and content not in self.footers
            stop = content.size_bytes if whole and not (last and self.cut) else _prefix(content)
            found.append((content, stop))
        return found

    def manifest_of_copy(self, present: fmt.Manifest) -> fmt.Manifest:
        """The manifest that goes with `copies`."""
        return self.manifest or self.rebuilt_manifest or present


def plan_mending(found: Examination) -> Mending:
    """Decide what to do about the damage."""
    picture, verdict = found.picture, found.verdict
    trusted = _trusted(picture, found.contents)
    if not trusted:
        verdict = judge(picture._replace(manifest=None, manifest_problems=("",)), found.contents)
    manifest = verdict.manifest
    keep, end = _longest_prefix(verdict)
    end = min(end, _pending_cut(verdict))
    cut = _must_cut(verdict, keep, end)
    while cut and keep and end <= keep[-1].base:
        end = keep.pop().base  # nothing in it: its name is the one that the next segment needs
    aside = tuple(part.content for part in verdict.parts if part.content not in keep)
    first = max(manifest.first_position, keep[0].base) if keep else end
    sequence = manifest.sequence + 1 if trusted else 2
    new = manifest._replace(sequence=sequence, first_position=first)
    if cut:
        epochs = [c.header.epoch for c in found.contents.values() if c.header is not None]
        new = fmt.Manifest(
            manifest.log_id,
            sequence,
            max([manifest.epoch, *epochs]) + 1,
            first,
            keep[-1].base if keep else fmt.NO_CUT,
            end,
            0,
            0,
            0,
        )
    labels = {finding.label for finding in found.verdict.findings}
    return Mending(
        log_id=manifest.log_id,
        keep=tuple(keep),
        first_position=first,
        end=end,
        cut=cut,
        parts=verdict.parts,
        aside=aside,
        headers=tuple(content for content in keep if content.rebuilt),
        footers=tuple(content for content in keep if content.footer_wrong),
        rebuilt_manifest=None if trusted else manifest._replace(sequence=1),
        manifest=new if cut or first != manifest.first_position else None,
        guard_pins=Label.DAMAGED_PINS in labels,
    )


def _trusted(picture: Picture, contents: dict[int, Content]) -> bool:
    """Whether the manifest is this log's, and not an old or a foreign one: the segments know."""
    manifest = picture.manifest
    if manifest is None:
        return False
    headers = [c.header for c in contents.values() if c.header is not None]
    ours = [header for header in headers if header.log_id == manifest.log_id]
    if not ours:
        # One stray segment proves nothing; two that agree outvote the manifest.
        other = likely_log_id(contents)
        return sum(header.log_id == other for header in headers) < 2
    return max(header.epoch for header in ours) <= manifest.epoch


def _longest_prefix(verdict: Verdict) -> tuple[list[Content], int]:
    """The segments that follow on one another without a gap, and where the first gap is.

    The log begins with the first segment that can be read from its beginning.
    """
    keep: list[Content] = []
    end = verdict.first_position
    last = max((part.content.base for part in verdict.parts if part.live), default=0)
    for part in verdict.parts:
        content = part.content
        if keep and not part.live:
            if _is_alien(content, verdict):
                continue
            # Unreadable, but its name says that from there on it was the one that counted.
            return keep, min(end, content.base)
        if not part.live or (not keep and content.prefix_end == content.base < last):
            continue
        if keep and content.base > end:
            break
        if keep and content.base < end and not _supersedes(content, keep[-1]):
            continue  # it claims records that are there already: an intruder
        keep.append(content)
        end = min(content.prefix_end, part.limit) if content.base == last else content.prefix_end
    return keep, end


def _pending_cut(verdict: Verdict) -> int:
    """Where a cut was decided that no segment shows yet: what is behind it must not come back."""
    manifest = verdict.manifest
    headers = [part.content.header for part in verdict.parts if part.live]
    begun = any(header is not None and header.epoch >= manifest.epoch for header in headers)
    return fmt.NO_CUT if begun else manifest.cut


def _is_alien(content: Content, verdict: Verdict) -> bool:
    return content.header is not None and content.header.log_id != verdict.manifest.log_id


def _supersedes(content: Content, older: Content) -> bool:
    assert content.header is not None and older.header is not None
    return content.header.epoch > older.header.epoch


def _must_cut(verdict: Verdict, keep: list[Content], end: int) -> bool:
    """Whether anything lies, or is known to have lain, behind the end of what stays."""
    rebuilt = {content.path for content in keep if content.rebuilt}
    for finding in verdict.damage:
        if finding.label is Label.DAMAGED_HEADER and finding.path in rebuilt:
            continue
        if finding.positions is not None:
            stop = finding.positions[1]
            if stop is None or stop > end:
                return True
    tail_base = verdict.manifest.tail_base
    newest = keep[-1].base if keep else -1
    return newest < tail_base != fmt.NO_CUT or any(
        part.content not in keep and part.content.base >= end for part in verdict.parts
    )


def _prefix(content: Content) -> int:
    """Offset at which a segment's intact beginning ends."""
    assert content.header is not None
    intact = content.prefix_end > content.base
    return content.runs[0].end_offset if intact else content.header.frames_start


def _name(content: Content) -> str:
    return os.path.basename(content.path)
