"""A view and an index of a log whose writers and runners are killed."""

from __future__ import annotations

import time
from pathlib import Path

from story import check, last_line, say, start

from treering import FsyncPolicy, Wal
from treering.stores.views import Index, View, WritableView, view


@view("per worker")
def per_worker(view: WritableView, record) -> None:
    """How many records each worker wrote."""
    worker = record.key.decode()
    view[worker] = view.get(worker, 0) + 1


def show(path: Path) -> None:
    """A view and an index of a log whose writers and runners are killed."""
    say("A view and an index of a log: two processes write and run the view; both are killed.")
    log, kept = path / "log", path / "view"
    working = [start(viewer, path, name) for name in ("ada", "alan")]
    while not (kept.exists() and _shown(log, kept) > 400):
        time.sleep(0.005)
    for process in working:
        process.kill()
    confirmed = sum(int(last_line(process) or 0) for process in working)
    with Wal.open(log, fsync_policy=FsyncPolicy.OS) as wal, View(wal, kept, per_worker) as viewed:
        lag = viewed.lag
        viewed.catch_up()
        total, end = sum(viewed.view.values()), wal.current_position()
        check(confirmed <= end <= confirmed + 2, f"{confirmed} confirmed, the log has {end}")
        check(total == end, f"the view was {lag} behind; each record is in it once: {total}")
        viewed.check()
        with Index(wal, path / "index", key=lambda record: record.key) as index:
            counted = {key.decode(): len(index.positions(key)) for key in index}
            check(counted == dict(viewed.view), f"an index finds the same: {counted}")
            newest = index[b"ada"]
            index.checkpoint()
        with Index(log, path / "index", key=lambda record: record.key) as index:
            check(index[b"ada"] == newest, "opened again, read-only, from its snapshot: the same")


def _shown(log: Path, kept: Path) -> int:
    with View(log, kept, read_only=True) as viewed:
        return viewed.reached


def viewer(path: str, name: str) -> int:
    """Write for ever, and run the view; print how many writes have returned."""
    folder = Path(path)
    wal = Wal.open(folder / "log", fsync_policy=FsyncPolicy.OS)
    viewed = View(wal, folder / "view", per_worker)
    for number in range(1, 1 << 30):
        wal.put(name.encode(), b"%d" % number)
        print(number, flush=True)
        if number % 10 == 0:
            viewed.catch_up()
    return 0
