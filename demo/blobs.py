"""A blob store, and processes that are killed while they put."""

from __future__ import annotations

import os
import time
from pathlib import Path

from story import check, last_line, say, start, tell

from treering.stores.blobs import BlobStore

_PIECE = 1 << 18


def show(path: Path) -> None:
    """A blob store, and processes that are killed while they put."""
    say("A blob store: two processes put files of 1 MB; both are killed with -9 in the middle.")
    putting = [start(putter, path, str(number)) for number in range(2)]
    with BlobStore(path) as blobs:
        while len(blobs) < 8:
            time.sleep(0.005)
        for process in putting:
            process.kill()
        confirmed = sum(int(last_line(process) or 0) for process in putting)
        report = blobs.verify()
        check(report.ok, f"{report.blobs} blobs, {report.bytes / 1e6:.1f} MB: each has its digest")
        check(
            confirmed <= len(blobs.names()) <= confirmed + 2,
            f"{confirmed} were confirmed: all there",
        )
        found = blobs.collect(grace_seconds=0)
        tell(f"collected: {found.leftovers} half-written files, {found.files} without a reference")
        left = list((path / "incoming").iterdir())
        check(not left and not blobs.verify().orphaned, "what is left on the disk has a reference")
        name, ref = next(iter(blobs.names().items()))
        blobs.put(blobs.get(ref), name="copy")
        check(
            len(blobs) == len(blobs.refs()) == report.blobs, "the same bytes again: no second file"
        )
        _damage(path, ref.digest.hex())
        tell(f"one bit of {name} is turned by hand: verify finds {len(blobs.verify().damaged)}")


def _damage(path: Path, name: str) -> None:
    with (path / "objects" / name[:2] / name[2:]).open("r+b") as file:
        file.seek(600_000)
        byte = file.read(1)[0]
        file.seek(600_000)
        file.write(bytes([byte ^ 1]))


def putter(path: str, number: str) -> int:
    """Put random files for ever; print how many puts have returned."""
    with BlobStore(path) as blobs:
        for count in range(1, 1 << 30):
            blobs.put((os.urandom(_PIECE) for _ in range(4)), name=f"{number}/{count}")
            print(count, flush=True)
    return 0
