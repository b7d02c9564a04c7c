"""An immutable picture of which segments a log has; readers hold one and need no lock."""

from __future__ import annotations

from bisect import bisect_right
from typing import NamedTuple

from . import format as fmt
from .files import Directory


class View(NamedTuple):
    """The bases of the segments, oldest first."""

    bases: tuple[int, ...]

    @classmethod
    def load(cls, directory: Directory) -> View:
        """The segments there are now."""
        found = (fmt.segment_base(name) for name in directory.names())
        return cls(tuple(base for base in found if base is not None))

    def containing(self, position: int) -> int | None:
        """Base of the segment in which `position` lies or will lie; None if it is too old."""
        at = bisect_right(self.bases, position)
        return self.bases[at - 1] if at else None

    def after(self, base: int) -> int | None:
        """Base of the next newer segment."""
        at = bisect_right(self.bases, base)
        return self.bases[at] if at < len(self.bases) else None
