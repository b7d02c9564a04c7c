"""treering: a durable, crash-safe, append-only log for Python, and what people build on one.

import treering

with treering.Wal.open("orders") as wal:
    position = wal.put(b"order-1", b"created")
    for record in wal.read_from(treering.START):
        print(record.position, record.key, record.value)
"""

from __future__ import annotations

import typing

from ._core.batch import Batch
from ._core.codec import Record, backend
from ._core.errors import (
    ClosedError,
    ConflictError,
    DamageError,
    DataError,
    DiskFullError,
    FailedError,
    ForkedError,
    LockedError,
    LogNotFoundError,
    MissingExtraError,
    NotThereError,
    PositionError,
    PrunedError,
    ReadOnlyError,
    ReentrantError,
    RewoundError,
    StorageError,
    TooLargeError,
    TreeringError,
    UsageError,
    VersionError,
    WaitTimeoutError,
)
from ._core.intake import LargeRecordWarning
from ._core.labels import Label
from ._core.options import FsyncPolicy, WalConfig
from ._core.reader import Reader
from ._core.recovery import Cut, Finding, RecoveryReport
from ._core.repair import RepairReport, repair
from ._core.verify import VerifyReport, verify
from ._core.wal import Wal

if typing.TYPE_CHECKING:
    from .advice import Advice, advise
    from .database import Database
    from .probing import PolicyCost, ProbeReport, probe

__version__ = "0.1.0"

START = 0
"""The position of a log's first record."""

__all__ = [
    "START",
    "Advice",
    "Batch",
    "ClosedError",
    "ConflictError",
    "Cut",
    "DamageError",
    "DataError",
    "Database",
    "DiskFullError",
    "FailedError",
    "Finding",
    "ForkedError",
    "FsyncPolicy",
    "Label",
    "LargeRecordWarning",
    "LockedError",
    "LogNotFoundError",
    "MissingExtraError",
    "NotThereError",
    "PolicyCost",
    "PositionError",
    "ProbeReport",
    "PrunedError",
    "ReadOnlyError",
    "Reader",
    "Record",
    "RecoveryReport",
    "ReentrantError",
    "RepairReport",
    "RewoundError",
    "StorageError",
    "TooLargeError",
    "TreeringError",
    "UsageError",
    "VerifyReport",
    "VersionError",
    "WaitTimeoutError",
    "Wal",
    "WalConfig",
    "advise",
    "backend",
    "probe",
    "repair",
    "verify",
]


_ABOVE = {
    "Advice": "advice",
    "Database": "database",
    "PolicyCost": "probing",
    "ProbeReport": "probing",
    "advise": "advice",
    "probe": "probing",
}


def __getattr__(name: str) -> typing.Any:
    # What stands on this package is loaded when somebody asks for it.
    if name in _ABOVE:
        from importlib import import_module

        return getattr(import_module(f"treering.{_ABOVE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
