"""The raw operations that everything is held against: loops, plain writes and fsyncs, a pipe."""

from __future__ import annotations

import os
import time
from itertools import repeat
from operator import is_
from pathlib import Path

from harness import KEY, VALUE

# What a record of the benchmark takes in a segment: 32 + 16 bytes of headers, key, value, padding.
FRAME = bytes(48) + KEY + VALUE + bytes(4)


def empty_loop(count: int) -> float:
    """Seconds for a loop around nothing: part of every figure per call."""
    started = time.perf_counter()
    for _ in repeat(None, count):
        pass
    return time.perf_counter() - started


def call_loop(count: int) -> float:
    """Seconds for a loop around the cheapest call with two arguments that Python has."""
    call, key, value = is_, KEY, VALUE
    started = time.perf_counter()
    for _ in repeat(None, count):
        call(key, value)
    return time.perf_counter() - started


class RawFile:
    """A preallocated file, written and fsynced by hand."""

    def __init__(self, path: Path, size_bytes: int = 64 << 20) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
        os.posix_fallocate(self._descriptor, 0, size_bytes)
        os.fsync(self._descriptor)
        self._size_bytes = size_bytes
        self._offset = 0

    def _next(self) -> int:
        offset = self._offset
        if offset + len(FRAME) > self._size_bytes:
            offset = 0
        self._offset = offset + len(FRAME)
        return offset

    def durable(self, count: int) -> float:
        """Seconds for `count` times pwrite and fdatasync."""
        descriptor = self._descriptor
        started = time.perf_counter()
        for _ in repeat(None, count):
            os.pwrite(descriptor, FRAME, self._next())
            os.fdatasync(descriptor)
        return time.perf_counter() - started

    def durable_latencies(self, count: int) -> list[float]:
        """Seconds of each."""
        return [self.durable(1) for _ in repeat(None, count)]

    def durable_rate(self, seconds: float) -> float:
        """pwrite and fdatasync, times per second, measured for that long."""
        count = 0
        started = time.perf_counter()
        while (passed := time.perf_counter() - started) < seconds:
            self.durable(1)
            count += 1
        return count / passed

    def write(self, count: int) -> float:
        """Seconds for `count` times pwrite, never fsynced."""
        descriptor = self._descriptor
        started = time.perf_counter()
        for _ in repeat(None, count):
            os.pwrite(descriptor, FRAME, self._next())
        return time.perf_counter() - started

    def close(self) -> None:
        os.close(self._descriptor)


def read_files(paths: list[Path]) -> float:
    """Seconds to read files from end to end into one buffer, looking at nothing."""
    buffer = memoryview(bytearray(1 << 20))
    started = time.perf_counter()
    for path in paths:
        with open(path, "rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    return time.perf_counter() - started
