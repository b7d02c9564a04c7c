"""Opening stores in memory, small enough that every border comes soon."""

from __future__ import annotations

from contextlib import contextmanager

from treering import FsyncPolicy

SMALL = {"fsync_policy": FsyncPolicy.OS, "segment_bytes_max": 4096, "checkpoint_bytes": None}


@contextmanager
def opener(kind, path, **given):
    """A function that opens the store, its options over `given`; all are closed at the end."""
    stores = []

    def open_store(**options):
        stores.append(kind(path, **{**SMALL, **given, **options}))
        return stores[-1]

    yield open_store
    for store in stores:
        store.close()
