"""Following a log that is somebody else's: how far one has come, and whether that still holds.

Whoever keeps on disk what the records of another log came to can find, after a restart, that this
log lost its tail in a power failure, was cut and written on, or was restored from a copy. So a
`Mark` is kept with it, which tells.
"""

from __future__ import annotations

import struct
from hashlib import blake2b
from typing import NamedTuple

from .._core import format as fmt
from .._core import manifest as manifests
from .._core import segment as segments
from .._core.codec import Record
from .._core.errors import PrunedError, StorageError
from .._core.files import no_such_file
from .._core.view import View
from .._core.wal import Wal

_PACKED = struct.Struct("<Q16sQQ8s")
_PACKED_BEFORE = struct.Struct("<Q16s")  # of projections made before marks told more
_NOBODY, _NO_PRINT = bytes(16), bytes(8)


class Mark(NamedTuple):
    """Records [began, reached) of the log with that id were taken in; it had been cut `epoch`
    times, and `print` is the fingerprint of the last of them."""

    reached: int = 0
    log_id: bytes = _NOBODY
    began: int = 0
    epoch: int = 0
    print: bytes = _NO_PRINT

    def pack(self) -> bytes:
        """As bytes, for a record's value."""
        return _PACKED.pack(*self)

    @classmethod
    def unpack(cls, data: bytes) -> Mark | None:
        """The mark that these bytes are; None if they are none."""
        if len(data) == _PACKED_BEFORE.size:
            return cls(*_PACKED_BEFORE.unpack(data))
        return cls(*_PACKED.unpack(data)) if len(data) == _PACKED.size else None


def fingerprint(record: Record | None) -> bytes:
    """Eight bytes by which to know a record again."""
    if record is None:
        return _NO_PRINT
    head = b"%d %d %d " % (record.timestamp_ns or 0, record.tombstone, len(record.key))
    return blake2b(head + record.key + bytes(record.value), digest_size=8).digest()


def last_print(wal: Wal, reached: int) -> bytes:
    """The fingerprint of the record before `reached`; none if it is not there any more."""
    if reached <= wal.first_position:
        return _NO_PRINT
    try:
        return fingerprint(wal.read(reached - 1))
    except PrunedError:
        return _NO_PRINT


class Moment(NamedTuple):
    """Where a log ends and begins, and how often it was cut. Whatever is read later and was cut
    later, a later moment's `rewinds` tell."""

    end: int
    epoch: int
    first: int
    rewinds: int


def moment(wal: Wal) -> Moment:
    """The present one; a few memory reads, on a read-only handle a look at the files."""
    source = wal._any().source
    # In this order: an epoch is told last of all, so what is in force is at least as new.
    end = source.end(False)
    epoch, first = source.standing()
    return Moment(end, epoch, first, source.rewinds()[0])


def why_lost(wal: Wal, mark: Mark) -> str:
    """Why what was taken in up to the mark is not what the log holds, in words; "" if it is.

    Reads a record. What the mark's last record cannot tell, because it was truncated, is believed.
    """
    if mark.log_id not in (_NOBODY, wal.log_id):
        return "it was made of another log"
    end = wal.current_position()
    if mark.reached > end:
        return f"it knows records up to {mark.reached}, but the log ends at {end}"
    cut = _cut_since(wal, mark.epoch)
    if cut < mark.reached:
        return f"records that it knows were taken back, from {cut} on"
    if mark.print != _NO_PRINT:
        now = last_print(wal, mark.reached)
        if now not in (_NO_PRINT, mark.print):
            return f"the record at {mark.reached - 1} is another one now"
    return ""


def _cut_since(wal: Wal, epoch: int) -> int:
    """From where on records may have been replaced since that epoch; beyond all if they were not.
    An epoch that the log has not come to is another history's: everything may."""
    directory = wal._any().directory
    manifest, _ = manifests.load(directory)
    if manifest is None or manifest.epoch == epoch:
        return fmt.NO_CUT
    if manifest.epoch < epoch:
        return 0
    cuts = [manifest.cut]
    for base in View.load(directory).bases:
        try:
            with segments.open_segment(directory, base) as file:
                if segments.read_header(file).epoch > epoch:
                    cuts.append(base)
        except fmt.FormatError:
            cuts.append(base)  # nobody can tell, so it may have been
        except StorageError as error:
            if not no_such_file(error):  # truncation was faster
                raise
    return min(cuts)


def refuse_gap(wal: Wal, mark: Mark, what: str) -> None:
    """PrunedError if truncation removed records that were not yet taken in."""
    first = wal.first_position
    if mark.reached < first:
        error = PrunedError(
            f"the log was truncated before {what} had seen all of it",
            path=wal.path,
            position=mark.reached,
            hint="rebuild() makes it anew, of what is left. To prevent it, pin the log",
        )
        error.oldest = first
        raise error
