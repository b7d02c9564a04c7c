"""A Raft log: what a consensus library needs from its disk.

    from treering.stores.raft import Entry, HardState, RaftLog

    with RaftLog("node-1") as log:
        log.save(                                       # one fsync for everything of a Ready
            entries=[Entry(1, 1, b"x=1"), Entry(2, 1, b"x=2")],
            hard_state=HardState(term=1, voted_for="node-1", commit=1),
        )
        log.entries(1, 3)                               # both
        log.compact(1, b"the state machine's state")    # entry 1 is in the snapshot now
        log.first_index, log.last_index                 # 2, 2

Durable when the call returns. What Raft may never do is refused: a term that falls, a second vote
in a term, a committed entry that is replaced.

Records: an entry each, logical truncations, hard states, snapshots in chunks. State: position and
term of each entry, 16 bytes; the data stays in the log, the newest of it in a bounded cache.
"""

from __future__ import annotations

from .errors import (
    CommittedError,
    CompactedError,
    EntryConflictError,
    HardStateError,
    ReplacedError,
    UnavailableError,
)
from .records import Entry, HardState
from .replicating import Replication
from .snapshots import Snapshot
from .store import RaftLog

__all__ = [
    "CommittedError",
    "CompactedError",
    "Entry",
    "EntryConflictError",
    "HardState",
    "HardStateError",
    "RaftLog",
    "ReplacedError",
    "Replication",
    "Snapshot",
    "UnavailableError",
]
