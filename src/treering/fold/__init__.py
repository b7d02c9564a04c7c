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
from ._fold import Fold
from ._follower import Follower
from ._overlay import Overlay
from ._shared import CommitConflictError, Host, Part, Shared, Transaction
from ._state import Index, Pair, State
from ._store import Store

__all__ = [
    "CREATE",
    "CREATE_NEW",
    "CommitConflictError",
    "Directory",
    "File",
    "Fold",
    "Follower",
    "Host",
    "Index",
    "Overlay",
    "Pair",
    "Part",
    "READ",
    "Shared",
    "State",
    "Store",
    "SystemFiles",
    "Transaction",
    "WRITE",
]
