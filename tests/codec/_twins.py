"""The two codecs side by side, and how their answers are compared."""

import dataclasses
import importlib
import os
from typing import Any, NamedTuple

import pytest

from treering._core import _codec_py, _memory_py, _tail_py

NAMES = (
    "BAD",
    "INCOMPLETE",
    "UNKNOWN",
    "ACQUIRED",
    "OWNER_DIED",
    "TIMED_OUT",
    "Record",
    "RecordIterator",
    "Scan",
    "SharedPage",
    "Tail",
    "crc32",
    "encode_frame",
    "frame_bytes",
    "mutex_kind",
    "scan",
)


class Twin:
    """One codec under the names that `treering._core.codec` gives out."""

    def __init__(self, name, *modules):
        self.name = name
        self.modules = modules
        for entry in NAMES:
            setattr(self, entry, next(getattr(m, entry) for m in modules if hasattr(m, entry)))

    def __repr__(self):
        return self.name


def pure():
    return Twin("python", _codec_py, _memory_py, _tail_py)


def native():
    """The native codec; without it the test is skipped, or fails where it is required."""
    try:
        return Twin("native", importlib.import_module("treering._core._codec_c"))
    except ImportError:
        if os.environ.get("TREERING_NATIVE") == "require":
            pytest.fail("TREERING_NATIVE=require, and the native codec is not built", pytrace=False)
        pytest.skip("the native codec is not built")


MAKERS = {"python": pure, "native": native}


@dataclasses.dataclass(frozen=True)
class Raised:
    """What a call raised: twins raise the same class with the same words."""

    kind: type
    text: str


def outcome(call, *args, **keywords) -> Any:
    """The plain value that a call returns, or what it raises."""
    try:
        return plain(call(*args, **keywords))
    except Exception as error:
        return Raised(type(error), str(error))


class Told(NamedTuple):
    """All that a record tells, comparable between twins."""

    position: int
    key: bytes
    value: bytes
    timestamp_ns: int
    expires_at_ns: int
    wire: bytes
    stream: int
    tombstone: bool
    headers: Any
    shown: Any
    times: Any
    compression: Any
    types: Any


def plain(value):
    """Records of either twin as what they tell, with the type of each part."""
    if type(value).__name__ == "Record":
        parts = value._key()
        types = tuple(type(part).__name__ for part in (value.value, *parts))
        headers, shown = outcome(lambda: value.headers), outcome(repr, value)
        times = value.timestamp, value.expires_at
        packed = value._compression, value._raw_bytes
        return Told(*parts, headers, shown, times, packed, types)
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value


def same(twins, call):
    """The common answer of both; fails when they differ."""
    python, native = (outcome(call, twin) for twin in twins)
    assert python == native
    return python
