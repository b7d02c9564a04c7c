"""Snapshots: what the records below a position came to, in one file beside the segments.

The file is a segment's header and frames (docs/format.md); its records are the state's, not the
log's. The first one is the label, the last one says how many there are between, so that a file
which ends early is never taken for whole. Written under a temporary name, fsynced, then renamed:
there is a whole snapshot or none.

Refuses to know what the records mean.
"""

from __future__ import annotations

import errno
import itertools
import os
import re
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from typing import NamedTuple

from . import format as fmt
from .codec import Record, encode_frame
from .errors import DamageError, NotThereError, ReadOnlyError, StorageError
from .files import CREATE_NEW, Directory, File, no_such_file
from .options import WalConfig
from .source import records_between
from .survey import newer_error

# The stream of the first and the last record, which are not the state's.
_FRAME_STREAM = 0xFFFFFFFF
# No segment has this epoch, so no frame of a snapshot is ever taken for one of the log.
SNAPSHOT_EPOCH = 0xFFFFFFFF
_LABEL_KEY, _END_KEY = b"label", b"end"

_NAME = re.compile(r"(\d{20})\.snap")
_FRAME_RECORDS, _FRAME_BYTES = 1024, 256 << 10

_serial = itertools.count()


class Snapshot(NamedTuple):
    """An open snapshot. `records` is read once; DamageError from it means: try an older one."""

    position: int
    label: bytes
    records: Iterator[Record]


class Snapshots:
    """The snapshots beside one log. Thread-safe and process-safe: files appear and go whole."""

    def __init__(
        self,
        directory: Directory,
        log_id: bytes,
        config: WalConfig,
        publish: Callable[[int, int, Callable[[], None]], None] | None = None,
    ) -> None:
        self._publish = publish
        self._directory = directory
        self._log_id = log_id
        self._config = config

    def positions(self) -> list[int]:
        """Of all snapshots, the newest first. One directory listing."""
        return snapshot_positions(self._directory)

    def write(
        self, position: int, label: bytes, records: Iterable[Record], rewinds: int = 0
    ) -> int:
        """Write a snapshot; the bytes it takes. Durable at return, O(size).

        `rewinds` is the log's count of them when the records were what they are: after another one
        they may be of a past that was taken back, and RewoundError is raised. PositionError if the
        log is not durable up to `position`: a snapshot must not know more than the log. Replaces
        one of the same position. DiskFullError and StorageError leave no trace.
        """
        if self._publish is None:
            raise ReadOnlyError("the log was opened with read_only=True", hint="Open it without")
        name = snapshot_name(position)
        header = fmt.SegmentHeader(self._log_id, position, SNAPSHOT_EPOCH, 8, self._config.now_ns())
        temporary, file = self._new_file(name)
        try:
            with file:
                size = self._write(file, header, label, records)
                file.sync()
            self._publish(position, rewinds, lambda: self._directory.rename(temporary, name))
        except BaseException:
            self._directory.remove(temporary)
            raise
        self._directory.sync()
        return size

    def _new_file(self, name: str) -> tuple[str, File]:
        """A file of our own: whoever else writes the same snapshot now has another."""
        while True:
            temporary = f"{name}.{os.getpid()}-{next(_serial)}{fmt.TEMPORARY_SUFFIX}"
            try:
                return temporary, self._directory.open(temporary, CREATE_NEW)
            except StorageError as error:
                if error.errno != errno.EEXIST:
                    raise

    def sync(self) -> None:
        """Make the names of all snapshots durable, whoever gave them."""
        self._directory.sync()

    def _write(
        self, file: File, header: fmt.SegmentHeader, label: bytes, records: Iterable[Record]
    ) -> int:
        file.write(header.pack(), 0)
        at, position = header.frames_start, header.base
        for group in _groups(label, records):
            frame = encode_frame(
                group, position, 0, header.tag, header.seed, header.align, header.created_ns
            )
            file.write(frame, at)
            at, position = at + len(frame), position + len(group)
        return at

    def read(self, position: int) -> Snapshot:
        """Open the snapshot of that position. NotThereError if there is none; DamageError, also
        from the records, if it is not whole. Memory stays flat."""
        return read_snapshot(self._directory, position, self._log_id)

    def label(self, position: int) -> bytes:
        """Which kind of state the snapshot of that position holds; errors as `read`."""
        with closing(_records(self._directory, position, self._log_id)) as records:
            return bytes(next(records).value)

    def remove(self, position: int) -> None:
        """Remove one, if it is there."""
        self._directory.remove(snapshot_name(position))

    def remove_from(self, position: int) -> None:
        """Remove those that know records from `position` on; durable at return."""
        newer = [found for found in self.positions() if found > position]
        for found in newer:
            self.remove(found)
        if newer:
            self._directory.sync()


def snapshot_positions(directory: Directory) -> list[int]:
    """Of all snapshots beside a log, the newest first."""
    found = map(_NAME.fullmatch, directory.names())
    return sorted((int(match[1]) for match in found if match), reverse=True)


def read_snapshot(directory: Directory, position: int, log_id: bytes) -> Snapshot:
    """See Snapshots.read."""
    records = _records(directory, position, log_id)
    label = next(records)
    return Snapshot(position, bytes(label.value), records)


def _records(directory: Directory, position: int, log_id: bytes) -> Generator[Record, None, None]:
    """The label, then the state's records."""
    try:
        file = directory.open(snapshot_name(position))
    except StorageError as error:
        if no_such_file(error):
            raise NotThereError("there is no such snapshot", position=position) from error
        raise
    return _Reading(file, position, log_id).records()


def is_name(name: str) -> bool:
    """Whether a file of that name is a snapshot."""
    return _NAME.fullmatch(name) is not None


def snapshot_name(position: int) -> str:
    """Of the file of that position."""
    return f"{position:020d}.snap"


def _groups(label: bytes, records: Iterable[Record]) -> Iterator[list[Record]]:
    """Records in groups that make one frame each; the label and the end stand alone."""
    yield [Record(_LABEL_KEY, label, stream=_FRAME_STREAM)]
    group: list[Record] = []
    count = size = 0
    for record in records:
        group.append(record)
        size += len(record.key) + len(record.value)
        if len(group) == _FRAME_RECORDS or size > _FRAME_BYTES:
            yield group
            count, size, group = count + len(group), 0, []
    if group:
        yield group
    yield [Record(_END_KEY, b"%d" % (count + len(group)), stream=_FRAME_STREAM)]


class _Reading:
    """One pass over a snapshot's file."""

    def __init__(self, file: File, position: int, log_id: bytes) -> None:
        self._file = file
        self._position = position
        try:
            self._header = fmt.SegmentHeader.unpack(file.read(fmt.SEGMENT_HEADER_BYTES, 0))
            known = (self._header.log_id, self._header.base, self._header.epoch)
            if known != (log_id, position, SNAPSHOT_EPOCH):
                raise self._damaged("it belongs to another log or position")
        except fmt.UnknownVersionError as error:
            file.close()
            raise newer_error(file.path, error) from error
        except fmt.FormatError as error:
            file.close()
            raise self._damaged(str(error)) from error
        except BaseException:
            file.close()
            raise

    def records(self) -> Generator[Record, None, None]:
        """The label, then the state's records; DamageError where the file is not whole."""
        with closing(self._file):
            count, waiting = -1, None
            for record in self._all():
                if waiting is None and (record.stream, record.key) != (_FRAME_STREAM, _LABEL_KEY):
                    raise self._damaged("it begins with no label")
                if waiting is not None:
                    count += 1
                    yield waiting  # the last one is the end, and not for others
                waiting = record
            found = (waiting.stream, waiting.key, waiting.value) if waiting is not None else ()
            if found != (_FRAME_STREAM, _END_KEY, b"%d" % count):
                raise self._damaged("it ends early, or is none")

    def _all(self) -> Iterator[Record]:
        file, header = self._file, self._header
        start, size = header.frames_start, file.size()
        return records_between(file, header, start, header.base, size, fmt.POSITION_MAX)

    def _damaged(self, problem: str) -> DamageError:
        return DamageError(
            f"the snapshot is damaged: {problem}",
            path=self._file.path,
            position=self._position,
            hint="An older snapshot, or the log from its beginning, gives the same state",
        )
