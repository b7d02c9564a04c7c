"""What recovery and verify call the things they find, and the report that opening gives."""

from __future__ import annotations

import dataclasses
import enum
import os
from typing import NamedTuple


class Label(enum.Enum):
    """What a file turned out to be. The value says what it means and what opening does."""

    SEALED = "full and with its footer: kept"
    UNSEALED = "full, its footer is missing or damaged: kept, footer rebuilt in the background"
    SUPERSEDED = "ends in records that truncation or recovery replaced: kept, those are ignored"
    TAIL = "the newest segment, ends in unused space: kept, appends go on here"
    TAIL_SEALED = "the newest segment, already full: kept, the next append starts a new one"
    TAIL_SHORT = "the newest segment, without unused space: kept, appends go on here"
    TAIL_TORN = "the newest segment ends in a write not known to be durable: cut, bytes kept"
    LEFTOVER = "older than the first position: truncation was interrupted, removed"
    WITHDRAWN = "newer than a cut: truncation was interrupted, removed"
    WITHDRAWN_TORN = "holds nothing but a write that never became durable: set aside"
    TEMPORARY = "a file in the making: removed"
    DAMAGED_HEADER = "damage: the segment's header was durable and does not match its checksum"
    DAMAGED_MIDDLE = "damage: bytes that were durable do not match their checksum"
    DAMAGED_ORDER = "damage: the segment holds records that the next one also holds"
    MISSING = "damage: records that were durable are missing"
    FOREIGN = "damage: the segment belongs to another log"
    NEWER = "written by a newer version of treering: left untouched"
    MANIFEST_MISSING = "damage: the manifest is missing, though the log holds records"
    MANIFEST_DAMAGED = "damage: both copies in the manifest are damaged"
    MANIFEST_NEW = "the log's creation was interrupted before its manifest: written now"
    MANIFEST_MENDED = "one copy in the manifest was damaged or old: rewritten from the other"
    # What only `verify` can tell, because it reads everything:
    UNREADABLE = "damage: the device cannot read these bytes"
    DAMAGED_FOOTER = "damage: the segment's footer says something else than its records"
    SNAPSHOT = "what the records before its position came to: whole"
    DAMAGED_SNAPSHOT = "damage: not whole: an older snapshot, or the log, has to take its place"
    DAMAGED_PINS = "damage: the file of pins does not match its checksum, so truncation refuses"

    @property
    def is_damage(self) -> bool:
        """Whether opening for appends refuses."""
        return self.value.startswith("damage")


class Finding(NamedTuple):
    """One label with its place."""

    label: Label
    path: str
    offset: int | None = None
    positions: tuple[int, int | None] | None = None
    detail: str = ""

    def describe(self) -> str:
        """One line for people."""
        text = f"{os.path.basename(self.path)}: {self.label.name.lower()}: {self.label.value}"
        if self.offset is not None:
            text += f"; offset {self.offset}"
        if self.positions is not None:
            end = "…" if self.positions[1] is None else self.positions[1]
            text += f"; positions [{self.positions[0]}, {end})"
        return f"{text}; {self.detail}" if self.detail else text


class Cut(NamedTuple):
    """Bytes that recovery took out of the log. They stay in the file `path`, where they were."""

    path: str
    offset: int
    length: int
    position: int


@dataclasses.dataclass(frozen=True, slots=True)
class RecoveryReport:
    """What opening found and did.

    `state` is "created", "joined" (others have the log open, so there was nothing to recover),
    "clean" or "recovered"; read-only handles may also say "damaged" (see `findings`). `cut` tells
    where bytes of an unfinished write were taken out and where they are kept.
    """

    state: str
    first_position: int
    end: int
    cut: Cut | None = None
    findings: tuple[Finding, ...] = ()
    scanned_bytes: int = 0
    seconds: float = 0.0

    @property
    def damage(self) -> tuple[Finding, ...]:
        """The findings that are damage."""
        return tuple(finding for finding in self.findings if finding.label.is_damage)
