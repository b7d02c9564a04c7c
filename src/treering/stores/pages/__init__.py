"""A transactional page store: numbered pages of one size, changed together or not at all.

    from treering.stores.pages import PageStore

    with PageStore("data", page_bytes=4096) as store:
        with store.begin() as tx:                      # what it reads stands still
            number = tx.allocate()
            tx.write(number, b"hello".ljust(4096, b"\\0"))
        print(store.read(number)[:5])                   # committed, and durable
        store.run(lambda tx: tx.write(0, tx.read(0)))   # again when somebody else was faster

Records: each changed page of a transaction, whole or as the bytes that differ, in one atomic frame.
State: where in the log the newest version of a page lies, until a checkpoint has brought it to the
data file (`pages`, beside the log); from then on, which version the data file has.
"""

from __future__ import annotations

from .errors import PageConflictError, SnapshotTooOldError
from .store import PageStore
from .transaction import PageTransaction, Savepoint
from .view import PageView

__all__ = [
    "PageConflictError",
    "PageStore",
    "PageTransaction",
    "PageView",
    "Savepoint",
    "SnapshotTooOldError",
]
