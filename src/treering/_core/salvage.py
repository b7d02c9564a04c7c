"""Readable records from behind damage, appended to a log of their own.

Knows how to read frames that no opening would show; refuses to change the damaged log.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator

from . import format as fmt
from .codec import Record
from .content import Content, PatientFile, Run
from .errors import DamageError, UsageError
from .files import Directory
from .intake import LargeRecordWarning
from .mending import Mending
from .options import FsyncPolicy
from .source import records_between
from .wal import Wal

POSITION_HEADER = "treering-position"
_BATCH_RECORDS, _BATCH_BYTES = 1000, 1 << 20
_RECORD_BYTES_MAX = fmt.FRAME_BYTES_LIMIT - 4096

_Range = tuple[int, int]


def salvage_records(source: Directory, into: Directory, mending: Mending) -> tuple[int, int]:
    """Append every readable record that `mending` does not keep to a new log; how many, and how
    many could not be decoded. Durable at return."""
    counts = _Counts()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LargeRecordWarning)
        with Wal.open(
            into.path,
            files=into.files,
            fsync_policy=FsyncPolicy.OS,
            record_bytes_max=_RECORD_BYTES_MAX,
            batch_bytes_max=_RECORD_BYTES_MAX,
        ) as wal:
            for batch in _batches(_records_behind(source, mending, counts)):
                counts.saved += len(wal.append_batch(batch))
    return counts.saved, counts.skipped


class _Counts:
    saved = 0
    skipped = 0


def _records_behind(
    source: Directory, mending: Mending, counts: _Counts
) -> Iterator[tuple[Record, int]]:
    """Records with their sizes, oldest segment first."""
    for content, run, wanted in _wanted(mending):
        for record in _records_of(source, content, run, counts):
            position = record.position
            assert position is not None
            if any(start <= position < stop for start, stop in wanted):
                yield from _marked(record, counts)


def _wanted(mending: Mending) -> Iterator[tuple[Content, Run, list[_Range]]]:
    """The runs that are not kept, and which positions of each are worth saving."""
    kept = {content.base for content in mending.keep}
    last = max(kept, default=-1)
    covered = [(mending.first_position, mending.end)]
    strays = []
    for part in mending.parts:
        content = part.content
        if content.header is None or content.header.log_id != mending.log_id:
            continue
        if not part.live:
            strays.append(content)
        elif content.base not in kept or content.base == last:
            first = mending.end if content.base == last else 0
            for run in content.runs:
                # What truncation or a newer epoch had replaced stays replaced.
                wanted = (max(run.position, first), min(run.end, part.limit))
                covered.append(wanted)
                yield content, run, [wanted]
    for content in strays:  # under another's name, so perhaps a copy of what is saved already
        for run in content.runs:
            own = (run.position, min(run.end, content.own_end))
            yield content, run, _without(own, covered)
            covered.append(own)


def _without(whole: _Range, covered: list[_Range]) -> list[_Range]:
    """What of a range of positions is not covered."""
    left = [whole]
    for start, stop in covered:
        pieces = [((low, min(high, start)), (max(low, stop), high)) for low, high in left]
        left = [piece for pair in pieces for piece in pair if piece[0] < piece[1]]
    return left


def _marked(record: Record, counts: _Counts) -> Iterator[tuple[Record, int]]:
    """The record, with its old position in a header."""
    try:
        headers = {**record.headers, POSITION_HEADER: str(record.position).encode()}
        saved = Record(
            record.key,
            bytes(record.value),
            timestamp_ns=record.timestamp_ns,
            expires_at_ns=record.expires_at_ns,
            headers=headers,
            stream=record.stream,
            tombstone=record.tombstone,
        )
    except (fmt.FormatError, DamageError, UsageError):
        counts.skipped += 1  # intact bytes, but no record that treering would write
        return
    yield saved, len(record.key) + len(record.value)


def _batches(records: Iterator[tuple[Record, int]]) -> Iterator[list[Record]]:
    batch: list[Record] = []
    total = 0
    for record, size in records:
        if batch and (total + size > _BATCH_BYTES or len(batch) == _BATCH_RECORDS):
            yield batch
            batch, total = [], 0
        batch.append(record)
        total += size
    if batch:
        yield batch


def _records_of(source: Directory, content: Content, run: Run, counts: _Counts) -> Iterator[Record]:
    assert content.header is not None
    with PatientFile(source, fmt.segment_name(content.base)) as file:
        iterator = records_between(
            file, content.header, run.offset, run.position, run.end_offset, run.end
        )
        while True:
            try:
                yield next(iterator)
            except StopIteration:
                return
            except DamageError:
                counts.skipped += 1  # its value does not decompress
