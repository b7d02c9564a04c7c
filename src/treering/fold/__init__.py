"""Folds: a state that follows a log. Every store of treering is one, and yours can be.

    class Totals:
        label = b"totals 1"

        def __init__(self):
            self.sums = {}

        def apply(self, record):                # one record of the log
            self.sums[record.key] = self.sums.get(record.key, 0) + int(record.value)

        def dump(self):                         # the state as records of its own, for a snapshot
            return (Record(key, b"%d" % value) for key, value in self.sums.items())

        def load(self, record):                 # one of them, back again
            self.sums[record.key] = int(record.value)

        def copy(self):
            other = Totals()
            other.sums = self.sums.copy()
            return other

    with Fold("totals", Totals) as fold:
        fold.wal.put(b"apples", b"3")
        print(fold.state().sums)

A query catches up with the log, whoever wrote to it, and looks at the state. A command looks at the
state and appends on the strength of it, only if nothing came in between (`Fold.command`). A
checkpoint writes a snapshot and truncates the log, so that opening stays quick, the disk bounded.

A store that keeps files beside its log opens them through a `Directory`, the door that the log
itself goes through: so `treering.testing` can cut their power, too.
"""

from __future__ import annotations

from .._core.files import CREATE, CREATE_NEW, READ, WRITE, Directory, File, SystemFiles
from ._archive import Archive
from ._clearing import clear_record, is_clear
from ._fold import Fold
from ._follower import Follower, end_of
from ._foreign import Foreign
from ._log import wait_for_news
from ._order import KeyOrder, after
from ._overlay import Overlay
from ._pace import Pace
from ._projecting import Projection
from ._shared import CommitConflictError, Host, Part, Shared, Transaction
from ._state import Index, Pair, State
from ._store import Store
from ._text import as_str, as_text
from ._trail import Mark, Moment, fingerprint, last_print, moment, why_lost
from ._view import ProjectionView, ViewState, WritableView

__all__ = [
    "Archive",
    "CREATE",
    "CREATE_NEW",
    "CommitConflictError",
    "Directory",
    "File",
    "Fold",
    "Follower",
    "Foreign",
    "Host",
    "Index",
    "KeyOrder",
    "Mark",
    "Moment",
    "Overlay",
    "Pace",
    "Pair",
    "Part",
    "Projection",
    "ProjectionView",
    "READ",
    "Shared",
    "State",
    "Store",
    "SystemFiles",
    "Transaction",
    "ViewState",
    "WRITE",
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
