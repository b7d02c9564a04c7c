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
    from .database import Database

__version__ = "0.1.0"

START = 0
"""The position of a log's first record."""

__all__ = [
    "START",
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
    "PositionError",
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
    "backend",
    "repair",
    "verify",
]


def __getattr__(name: str) -> typing.Any:
    # The stores stand on this package: they are loaded when somebody asks for them.
    if name == "Database":
        from importlib import import_module

        return import_module("treering.database").Database
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
