"""Reading all blobs to see whether they are what was put."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from treering import DamageError, NotThereError, StorageError, TreeringError, UsageError

from .checked import LostFileError
from .reading import Readable
from .refs import BlobRef

Progress = Callable[[int, int], object]


class Damage(NamedTuple):
    """A blob whose bytes are not what was put, or cannot be read: where, and in words."""

    ref: BlobRef
    path: str | None
    offset: int | None
    text: str


@dataclass(slots=True)
class VerifyReport:
    """What `verify` found. `orphaned` are the places of files that nothing refers to: those wait to
    be collected, or belong to puts under way."""

    blobs: int = 0
    bytes: int = 0
    missing: list[BlobRef] = field(default_factory=list)
    damaged: list[Damage] = field(default_factory=list)
    orphaned: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether every blob has all its bytes. Orphaned files do no harm."""
        return not self.missing and not self.damaged


def verify(store: Readable, progress: Progress | None) -> VerifyReport:
    """Read every blob."""
    report = VerifyReport()
    names = list(store._objects.names())
    refs = store.refs()
    total = sum(ref.size or 0 for ref in refs)
    for ref in refs:
        _look_at(store, ref, report)
        if progress is not None:
            progress(report.bytes, total)
    known = {ref.digest.hex() for ref in refs}
    report.orphaned = sorted(store._objects.where(name) for name in names if name not in known)
    return report


def check(store: Readable) -> None:
    """Read every blob; DamageError at the first that is not what was put, StorageError or
    UsageError at one that cannot be read."""
    for ref in store.refs():
        if (error := _fault(store, ref)) is not None:
            raise error


def _look_at(store: Readable, ref: BlobRef, report: VerifyReport) -> None:
    error = _fault(store, ref)
    if isinstance(error, LostFileError):
        report.missing.append(ref)
    elif error is not None:
        report.damaged.append(Damage(ref, error.path, error.offset, str(error)))
    report.blobs += 1
    report.bytes += ref.size or 0


def _fault(store: Readable, ref: BlobRef) -> TreeringError | None:
    try:
        for _ in store.chunks(ref):
            pass
    except NotThereError:
        pass  # deleted meanwhile
    except (DamageError, StorageError, UsageError) as error:
        if error.path != store._objects.where(ref.digest.hex()):
            raise  # of the log, or the store is closed
        return error
    return None
