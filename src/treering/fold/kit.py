"""Pieces that several stores of treering are built of: orders of keys, views of a log, pacing.

For a store of your own `treering.fold` is enough. Names here may change with any version.
"""

from __future__ import annotations

from ._archive import Archive
from ._clearing import clear_record, is_clear
from ._follower import end_of
from ._foreign import Foreign
from ._log import wait_for_news
from ._order import KeyOrder, after
from ._pace import Pace
from ._projecting import Projection
from ._text import as_str, as_text
from ._trail import Mark, Moment, fingerprint, last_print, moment, why_lost
from ._view import ProjectionView, ViewState, WritableView

__all__ = [
    "Archive",
    "Foreign",
    "KeyOrder",
    "Mark",
    "Moment",
    "Pace",
    "Projection",
    "ProjectionView",
    "ViewState",
    "WritableView",
    "after",
    "as_str",
    "as_text",
    "clear_record",
    "end_of",
    "fingerprint",
    "is_clear",
    "last_print",
    "moment",
    "wait_for_news",
    "why_lost",
]
