"""What a log may hold after a crash: the model that every image is compared with.

A `Ledger` follows a program on a log. It is told what is begun (`appending`, `cutting`, `pruning`)
and what came of it, and at any moment it gives an `Expected`: every log that a crash at that moment
may leave, no more. Knows nothing of files.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

# What tells one record from another, beside its position and time.
FIELDS = ("key", "value", "tombstone", "stream", "headers", "expires_at_ns")


@dataclasses.dataclass(slots=True)
class Entry:
    """A record as it was given to the log; `timestamp_ns` once the log has told it."""

    fields: tuple[Any, ...]
    group: int  # position of the first record of its batch
    timestamp_ns: int | None = None

    def difference(self, record: Any) -> str | None:
        """How the record read differs from the one written, if it does."""
        if fields_of(record) != self.fields:
            return f"reads {fields_of(record)!r}, was written {self.fields!r}"
        if self.timestamp_ns is not None and record.timestamp_ns != self.timestamp_ns:
            return f"has timestamp {record.timestamp_ns}, was {self.timestamp_ns}"
        return None


def fields_of(record: Any) -> tuple[Any, ...]:
    """The comparable part of a record."""
    return (
        record.key,
        bytes(record.value),
        record.tombstone,
        record.stream,
        record.headers,
        record.expires_at_ns,
    )


@dataclasses.dataclass(frozen=True, slots=True)
class Expected:
    """Which logs a crash may leave: records [first, end) of `entries`.

    end: from `least` (all that was durable) to `most`, never inside a batch; or one of `ends`,
    where a truncation in flight cuts. first: from `first` to `first_most`.
    """

    entries: Sequence[Entry]
    least: int
    most: int
    first: int = 0
    first_most: int = 0
    ends: frozenset[int] = frozenset()

    def until(self, after: Expected) -> Expected | None:
        """What may be left if the picture was taken between this moment and that one.

        None if truncation gave the log another history meanwhile.
        """
        if after.entries is not self.entries:
            return None
        return dataclasses.replace(
            self,
            most=max(self.most, after.most),
            first_most=max(self.first_most, after.first_most),
            ends=self.ends | after.ends,
        )

    def problem(self, first: int, end: int, records: Iterable[Any]) -> str | None:
        """What is wrong with a log that reads like this, or None."""
        if not self.first <= first <= max(self.first, self.first_most):
            return f"D11: starts at {first}, not in [{self.first}, {self.first_most}]"
        if end not in self.ends:
            if end < self.least:
                return f"D2/G1: ends at {end}, but {self.least} was durable"
            if end > self.most:
                return f"G4: ends at {end}, but only {self.most} was written"
            if end < self.most and self.entries[end].group != end:
                return f"G5: ends at {end}, inside the batch from {self.entries[end].group} on"
        return self._compare(first, end, records)

    def _compare(self, first: int, end: int, records: Iterable[Any]) -> str | None:
        position = first
        for record in records:
            if record.position != position:
                return f"G4: position {record.position} where {position} should be"
            if position >= end:
                return f"G4: a record at {position}, though the log ends at {end}"
            difference = self.entries[position].difference(record)
            if difference:
                return f"G4: record {position} {difference}"
            position += 1
        if position != max(first, end):
            return f"G4: reading stops at {position}, the log says that it ends at {end}"
        return None

    def shown(self, first: int, end: int) -> Expected:
        """The same log after a recovery showed [first, end): from now on exactly that."""
        return dataclasses.replace(
            self, least=end, most=end, first=first, first_most=first, ends=frozenset()
        )


class Ledger:
    """The history of one log, told by one thread; any thread may ask for `expected`."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.durable = 0
        self.written = 0
        self.first = 0
        self._most = 0
        self._first_most = 0
        self.ends: frozenset[int] = frozenset()
        self._lock = threading.Lock()

    @property
    def end(self) -> int:
        """The position of the next record."""
        return len(self.entries)

    def expected(self, durable: int = 0) -> Expected:
        """What may be left now, if the log reported `durable`."""
        with self._lock:
            least = min(max(self.durable, durable), len(self.entries))
            return Expected(
                self.entries, least, self._most, self.first, self._first_most, self.ends
            )

    def expected_of_cache(self) -> Expected:
        """What may be left if all processes die now, but not the machine: all that was written."""
        with self._lock:
            return Expected(
                self.entries, self.written, self._most, self.first, self._first_most, self.ends
            )

    # --- appends -----------------------------------------------------------------------------

    def appending(self, fields: Sequence[tuple[Any, ...]]) -> None:
        """A batch is about to be appended."""
        with self._lock:
            group = len(self.entries)
            self.entries += [Entry(each, group) for each in fields]
            self._most = len(self.entries)

    def appended(self, times: Sequence[int | None], *, durable: bool) -> None:
        """The batch in flight is in the log; its records have these timestamps (None: any)."""
        with self._lock:
            start = len(self.entries) - len(times)
            for entry, time_ns in zip(self.entries[start:], times, strict=True):
                entry.timestamp_ns = time_ns
            self.written = len(self.entries)
            if durable:
                self.durable = len(self.entries)

    def undo(self, count: int) -> None:
        """The batch in flight failed: nothing of it may ever be seen."""
        with self._lock:
            self.entries = self.entries[: len(self.entries) - count]
            self._most = len(self.entries)

    def synced(self) -> None:
        """All is durable."""
        self.durable = len(self.entries)

    # --- truncations -------------------------------------------------------------------------

    def cutting(self, end: int) -> None:
        """truncate_after(end) is about to be called."""
        with self._lock:
            self.ends = frozenset({end} if end < len(self.entries) else ())

    def landed(self, position: int, count: int) -> None:
        """The batch in flight got this position: a failed cut may have come to its end before."""
        if position in self.ends:
            appended = self.entries[-count:]
            self.cut(position)
            self.appending([entry.fields for entry in appended])

    def cut(self, end: int) -> None:
        """It returned."""
        with self._lock:
            if end < len(self.entries):  # otherwise there was nothing to do
                self.entries = self.entries[:end]
                self._most = self.durable = self.written = end
            self.ends = frozenset()

    def pruning(self, position: int) -> None:
        """truncate_before(position) is about to be called."""
        with self._lock:
            self._first_most = max(position, self.first)

    def pruned(self, first: int) -> None:
        """It returned this first position."""
        with self._lock:
            self.first = self._first_most = first

    # --- after a crash -----------------------------------------------------------------------

    def adopt(self, first: int, end: int) -> None:
        """Recovery showed [first, end): what a reader has seen must stay."""
        with self._lock:
            self.entries = self.entries[:end]
            self.durable = self.written = self._most = end
            self.first = self._first_most = first
            self.ends = frozenset()


class CrowdLedger:
    """Appends of several threads at once, each of which appends numbered records of its own."""

    def __init__(self) -> None:
        self.begun: dict[bytes, bytes] = {}
        self.acknowledged: dict[int, bytes] = {}

    def expected(self, durable: int = 0) -> CrowdExpected:
        """What may be left now."""
        return CrowdExpected(dict(self.acknowledged), durable, dict(self.begun))


@dataclasses.dataclass(frozen=True, slots=True)
class CrowdExpected:
    """Which logs a crash may leave: everything acknowledged in place, and in each thread's order."""

    acknowledged: dict[int, bytes]
    least: int
    begun: dict[bytes, bytes]

    def until(self, after: CrowdExpected) -> CrowdExpected:
        """What may be left if the picture was taken between this moment and that one."""
        return dataclasses.replace(self, begun=after.begun)

    def problem(self, first: int, end: int, records: Iterable[Any]) -> str | None:
        """What is wrong with a log that reads like this, or None."""
        if end < self.least:
            return f"D2/G1: ends at {end}, but {self.least} was durable"
        seen: dict[bytes, int] = {}
        counts: dict[bytes, int] = {}
        for expected, record in enumerate(records):
            problem = self._record(record, expected, seen, counts)
            if problem:
                return problem
        if len(seen) != end or first != 0:
            return f"G4: [{first}, {end}) holds {len(seen)} records"
        for position, key in self.acknowledged.items():
            if seen.get(key) != position:
                return f"D2/G1: {key!r} was acknowledged at {position}, is at {seen.get(key)}"
        return None

    def _record(
        self, record: Any, expected: int, seen: dict[bytes, int], counts: dict[bytes, int]
    ) -> str | None:
        if record.position != expected:
            return f"G4: position {record.position} where {expected} should be"
        if self.begun.get(record.key) != record.value:
            return f"G4: record {expected} was never written: {record!r}"
        thread, _, number = record.key.partition(b"/")
        if int(number) != counts.get(thread, 0):
            return f"G15: {record.key!r} at {expected}, but that thread's next is {counts}"
        counts[thread] = int(number) + 1
        seen[record.key] = expected
        return None

    def shown(self, first: int, end: int) -> CrowdExpected:
        """From now on at least that."""
        return dataclasses.replace(self, least=end)


def numbered(prefix: str, start: int, count: int) -> Iterator[bytes]:
    """Keys that tell which record they belong to."""
    for number in range(start, start + count):
        yield f"{prefix}{number}".encode()
