"""What a metrics log writes: the layouts of its records, and of its snapshots' records.

A record's key is a byte that says its kind, and numbers: a series' id, a resolution in ns (0: raw).
All numbers are little-endian. A chunk of points is its count, the width of a step, the first and
the last time, the unit of the steps, then the steps between its times, in that unit, and its
values. At a regular interval (width 0) there is nothing between the times but the unit.
"""

from __future__ import annotations

import math
import struct
import sys
from array import array
from collections.abc import Sequence
from itertools import accumulate, chain, repeat
from operator import floordiv, ge, mul, sub
from typing import Any, NamedTuple

from treering import Record
from treering.fold.kit import Foreign

from .given import TIME_MAX, TIME_MIN

_foreign = Foreign("a metrics log")
damaged = _foreign.damaged
unknown = _foreign.unknown

SERIES = b"s"  # a series begins: its id; its name and tags
ONE, POINTS = b"1", b"p"  # of a series: a point, a chunk
MERGED = b"m"  # a chunk in place of others: how many, their positions, the points
BUCKETS = b"b"  # of a series at a resolution: the time up to which it is done, and the buckets
MERGED_BUCKETS = b"n"  # buckets in place of others
CONFIG, TRIM = b"c", b"t"  # what is kept; at a resolution there is nothing before a time any more
# Only in snapshots:
INDEX, TIER = b"I", b"T"

CHUNK_POINTS = 8192
CHUNK_BUCKETS = 2048

ID = struct.Struct("<cI")
TIERED = struct.Struct("<cIq")
PIECE = struct.Struct("<cIqI")
LEVEL = struct.Struct("<cq")
POINT = struct.Struct("<qd")
NUMBER = struct.Struct("<q")
_COUNT = struct.Struct("<I")
_HEAD = struct.Struct("<IBqqQ")
_WIDTHS = {1: "B", 2: "H", 4: "I", 8: "Q"}
_FIELDS = 7  # of a bucket, after its start and its count


class Bucket(NamedTuple):
    """What the points of one interval come to: `start` is its beginning, in ns since 1970. The
    percentiles are values that were recorded (of the nearest rank)."""

    start: int
    count: int  # type: ignore[assignment]
    min: float
    max: float
    sum: float
    p50: float
    p90: float
    p95: float
    p99: float

    @property
    def mean(self) -> float:
        """The sum by the count."""
        return self.sum / self.count


Columns = tuple["array[int]", "array[float]"]


def little(numbers: array[Any]) -> bytes:
    """An array's bytes, the same on every machine."""
    if sys.byteorder == "big":
        numbers = numbers[:]
        numbers.byteswap()
    return numbers.tobytes()


def from_little(kind: str, data: Any) -> array[Any]:
    """Such an array; ValueError if these bytes are none."""
    found: array[Any] = array(kind)
    found.frombytes(data)
    if sys.byteorder == "big":
        found.byteswap()
    return found


# --- Points ---


def encode(times: array[int], values: array[float]) -> bytes:
    """A chunk of at least one point, in the order of time."""
    first, last = times[0], times[-1]
    steps = array("Q", map(sub, times[1:], times))
    width, unit = 0, 0
    if steps and min(steps) != (unit := max(steps)):
        unit = math.gcd(*steps)
        if unit > 1:
            steps = array("Q", map(floordiv, steps, repeat(unit)))
        width = next(width for width in _WIDTHS if max(steps) < 1 << 8 * width)
    head = _HEAD.pack(len(times), width, first, last, unit)
    if not width:
        return head + little(values)
    kind = _WIDTHS[width]
    return head + little(steps if width == 8 else array(kind, steps)) + little(values)


class Head(NamedTuple):
    """What a chunk says of itself."""

    points: int
    width: int
    first: int
    last: int
    unit: int


def head_of(data: Any) -> Head:
    """The head of a chunk whose size is right for it; ValueError otherwise. O(1)."""
    if len(data) < _HEAD.size:
        raise ValueError("a chunk is cut short")
    head = Head(*_HEAD.unpack_from(data))
    if head.width and head.width not in _WIDTHS:
        raise ValueError("steps of an unknown width")
    if head.width and not head.unit:
        raise ValueError("steps without a unit")
    size = _HEAD.size + (head.points - 1) * head.width + 8 * head.points
    if not head.points or len(data) != size:
        raise ValueError("a chunk has another length than it says")
    if not TIME_MIN <= head.first <= head.last < TIME_MAX:
        raise ValueError("its times are out of order")
    if not head.width and head.first + (head.points - 1) * head.unit != head.last:
        raise ValueError("its interval does not fit")
    return head


def decode(data: Any) -> Columns:
    """The points of a chunk; ValueError if it is none."""
    head = head_of(data)
    at = _HEAD.size + (head.points - 1) * head.width
    return _times(head, data[_HEAD.size : at]), from_little("d", data[at:])


def _times(head: Head, data: Any) -> array[int]:
    if not head.width:
        if not head.unit:
            return array("q", [head.first]) * head.points
        return array("q", range(head.first, head.last + 1, head.unit))
    steps: Any = from_little(_WIDTHS[head.width], data)
    if head.first + head.unit * sum(steps) != head.last:
        raise ValueError("its steps do not lead to its last time")
    if head.unit > 1:
        steps = map(mul, steps, repeat(head.unit))
    return array("q", accumulate(chain((head.first,), steps)))


def in_order(times: array[int], values: array[float]) -> Columns:
    """The same points in the order of time."""
    if list(times) == (order := sorted(times)):
        return times, values
    places = sorted(range(len(times)), key=times.__getitem__)
    return array("q", order), array("d", map(values.__getitem__, places))


def points_of(record: Record) -> Columns:
    """The points of any record that has some; DamageError otherwise."""
    kind, data = record.key[:1], memoryview(record.value)
    try:
        if kind == ONE:
            time, value = POINT.unpack(data)
            return array("q", [time]), array("d", [value])
        return decode(replaced(data)[1] if kind == MERGED else data)
    except (ValueError, struct.error) as error:
        raise damaged(record, str(error)) from None


# --- Buckets ---


def encode_buckets(buckets: Sequence[Bucket]) -> bytes:
    """Buckets, in the order of their starts; the columns one after the other."""
    columns = list(zip(*buckets, strict=True)) or [()] * (2 + _FIELDS)
    counts = little(array("q", columns[0])) + little(array("Q", columns[1]))
    return counts + b"".join(little(array("d", column)) for column in columns[2:])


def decode_buckets(data: Any) -> list[Bucket]:
    """What `encode_buckets` encoded; ValueError for what it did not."""
    count, rest = divmod(len(data), 8 * (2 + _FIELDS))
    if rest:
        raise ValueError("buckets are cut short")
    kinds = "qQ" + "d" * _FIELDS
    columns = [
        from_little(kind, data[8 * count * at : 8 * count * (at + 1)])
        for at, kind in enumerate(kinds)
    ]
    buckets = list(map(Bucket._make, zip(*columns, strict=True)))
    starts = columns[0]
    if any(map(ge, starts, starts[1:])):
        raise ValueError("its buckets are out of order")
    if 0 in columns[1]:
        raise ValueError("a bucket is empty")
    return buckets


def buckets_of(record: Record) -> list[Bucket]:
    """The buckets of any record that has some; DamageError otherwise."""
    data = memoryview(record.value)
    try:
        if record.key[:1] == MERGED_BUCKETS:
            return decode_buckets(replaced(data)[1])
        return decode_buckets(data[NUMBER.size :])
    except (ValueError, struct.error) as error:
        raise damaged(record, str(error)) from None


# --- In place of others ---


def replacing(positions: Sequence[int], data: bytes) -> bytes:
    """`data`, and the records in whose place it is."""
    return _COUNT.pack(len(positions)) + little(array("Q", positions)) + data


def replaced(data: Any) -> tuple[array[int], Any]:
    """What `replacing` put together; ValueError otherwise."""
    if len(data) < _COUNT.size:
        raise ValueError("it is cut short")
    end = _COUNT.size + 8 * _COUNT.unpack_from(data)[0]
    if end > len(data):
        raise ValueError("its positions are cut short")
    return from_little("Q", data[_COUNT.size : end]), data[end:]
