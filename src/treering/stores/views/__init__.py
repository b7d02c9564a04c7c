"""Random access to any log, and views of it: beside its writers, never in their way.

    from treering import Wal
    from treering.stores.views import Index, View, view

    with Wal.open("orders") as wal, Index(wal, "orders-index") as index:
        wal.put(b"order-1", b"created")
        print(index[b"order-1"], index.keys(prefix=b"order-"))

    @view("count")
    def count(view, record):
        view["n"] = view.get("n", 0) + 1

    with View("orders", "orders-count", count) as counted:
        counted.catch_up()
        print(counted.view["n"])

An index knows of each key where its records lie; values stay in the log. A view is a dict that a
handler makes of the records, each taken in exactly once. Both go on where they were.
"""

from __future__ import annotations

from treering.fold.kit import ProjectionView, WritableView

from .index import Index
from .viewing import Definition, View, view

__all__ = ["Definition", "Index", "ProjectionView", "View", "WritableView", "view"]
