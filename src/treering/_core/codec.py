"""The codec in use: the Cython twin where it is built, else the readable one. Equal names in both.

`TREERING_PURE=1` forces the readable one; `TREERING_NATIVE=require` makes a missing build an error.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

__all__ = ["ACQUIRED", "BAD", "INCOMPLETE", "OWNER_DIED", "TIMED_OUT", "UNKNOWN"]
__all__ += ["Record", "RecordIterator", "Scan", "SharedPage", "Tail", "backend", "crc32"]
__all__ += ["encode_frame", "frame_bytes", "mutex_kind", "scan"]

_forced_pure = os.environ.get("TREERING_PURE") == "1"
_required = os.environ.get("TREERING_NATIVE") == "require"


def _native_available() -> bool:
    if _forced_pure:
        return False
    try:
        from . import _codec_c  # noqa: F401
    except ImportError:
        if _required:
            raise
        return False
    return True


if TYPE_CHECKING or not _native_available():
    from ._codec_py import (
        BAD,
        INCOMPLETE,
        UNKNOWN,
        RecordIterator,
        Scan,
        crc32,
        encode_frame,
        frame_bytes,
        scan,
    )
    from ._memory_py import ACQUIRED, OWNER_DIED, TIMED_OUT, SharedPage, mutex_kind
    from ._record_py import Record
    from ._tail_py import Tail

    backend = "python"
else:
    from ._codec_c import (
        ACQUIRED,
        BAD,
        INCOMPLETE,
        OWNER_DIED,
        TIMED_OUT,
        UNKNOWN,
        Record,
        RecordIterator,
        Scan,
        SharedPage,
        Tail,
        crc32,
        encode_frame,
        frame_bytes,
        mutex_kind,
        scan,
    )

    backend = "native"
