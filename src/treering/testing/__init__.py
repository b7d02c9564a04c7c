"""File systems and a clock to test programs with: in memory, losing power, failing on request.

Give them to treering, or to your own program through the same door:

    files = FaultyFiles(PowerCutFiles())
    wal = Wal.open("/log", files=files, clock=FakeClock())

MemoryFiles    a file system in memory
PowerCutFiles  one that tells what a power cut may leave of it
FaultyFiles    any file system (the real one too), with calls that fail, stall or come up short
FakeClock      a clock that stands still until told to move

docs/testing.md shows how to use them.
"""

from __future__ import annotations

from .._core.files import SystemFiles
from ._calls import Call, Fault
from ._survival import Unsynced
from .clocks import FakeClock
from .faults import FaultyFiles
from .memory import MemoryFiles
from .powercut import PowerCutFiles

__all__ = [
    "Call",
    "FakeClock",
    "Fault",
    "FaultyFiles",
    "MemoryFiles",
    "PowerCutFiles",
    "SystemFiles",
    "Unsynced",
]
