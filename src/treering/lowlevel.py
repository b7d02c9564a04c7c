"""The log's bytes, for those who build tools: no files, no locks, no clocks; bytes in, values out.

docs/format.md says what the bytes mean. A segment's records, from its bytes alone:

    from pathlib import Path
    from treering import lowlevel

    segment = Path("orders", lowlevel.segment_name(0)).read_bytes()
    header = lowlevel.SegmentHeader.unpack(segment)
    for record in lowlevel.records(segment):
        print(record.position, record.key, record.value)

And a frame made by hand, which belongs at the end of that segment's frames:

    found = lowlevel.scan(segment, header.frames_start, len(segment), header.base,
                          header.tag, header.seed)
    frame = lowlevel.encode_frame([treering.Record.put(b"key", b"value")], found.position, 0,
                                  header.tag, header.seed, header.align, time.time_ns())

Names here change only with the format's version. They do not judge: which bytes of a log are valid
(cuts, epochs, the durable mark) is what `treering.verify` decides, and only `treering.Wal` and
`treering.repair` may write into a log. To see a log's records, `treering.Wal` with read_only=True
is nearly always the better way.
"""

from __future__ import annotations

from collections.abc import Iterator

from ._core.codec import BAD, INCOMPLETE, UNKNOWN, Record, Scan, encode_frame, frame_bytes, scan
from ._core.codec import RecordIterator as _RecordIterator
from ._core.compression import decompress as _decompress
from ._core.format import (
    COMPRESSION_MASK,
    COMPRESSION_SHIFT,
    COMPRESSIONS,
    FORMAT_VERSION,
    FRAME_BYTES_LIMIT,
    FRAME_HEADER,
    HAS_EXPIRY,
    HAS_HEADERS,
    HAS_STREAM,
    INDEX_ENTRY,
    INDEX_STEP_BYTES,
    KEY_BYTES_MAX,
    MANIFEST_MAGIC,
    MANIFEST_NAME,
    MANIFEST_SLOT,
    MANIFEST_SLOT_OFFSETS,
    NO_CUT,
    POSITION_MAX,
    RECORD_HEADER,
    SEGMENT_HEADER,
    SEGMENT_MAGIC,
    TOMBSTONE,
    TRAILER,
    TRAILER_MAGIC,
    FormatError,
    IndexEntry,
    Manifest,
    SegmentHeader,
    Trailer,
    UnknownVersionError,
    checksum,
    pack_headers,
    pack_index,
    segment_base,
    segment_name,
    unpack_headers,
    unpack_index,
)


def records(segment: bytes | bytearray | memoryview) -> Iterator[Record]:
    """The records in a segment's bytes, up to the first bytes that are not the expected frame.

    Values that were stored compressed are decompressed. FormatError for a damaged header,
    UnknownVersionError (a FormatError) for a newer one, MissingExtraError without the library.
    """
    header = SegmentHeader.unpack(bytes(segment[: SEGMENT_HEADER.size]))
    iterator = _RecordIterator(_no_more, _decompress, True)
    start, stop = header.frames_start, len(segment)
    iterator.load(
        segment, start, stop, header.base, POSITION_MAX, header.base, header.tag, header.seed
    )
    return iterator


def _no_more(_: _RecordIterator) -> bool:
    return False


__all__ = [
    # Whole segments and frames
    "records",
    "encode_frame",
    "frame_bytes",
    "scan",
    "Scan",
    "Record",
    # Why a scan stopped: no such frame here, the bytes end inside it, its records are newer
    "BAD",
    "INCOMPLETE",
    "UNKNOWN",
    # Blocks that are packed and unpacked as a whole
    "SegmentHeader",
    "Trailer",
    "IndexEntry",
    "pack_index",
    "unpack_index",
    "Manifest",
    "pack_headers",
    "unpack_headers",
    "checksum",
    "FormatError",
    "UnknownVersionError",
    # Names of files
    "segment_name",
    "segment_base",
    "MANIFEST_NAME",
    # Layouts, as struct.Struct
    "SEGMENT_HEADER",
    "FRAME_HEADER",
    "RECORD_HEADER",
    "INDEX_ENTRY",
    "TRAILER",
    "MANIFEST_SLOT",
    # Constants
    "FORMAT_VERSION",
    "SEGMENT_MAGIC",
    "TRAILER_MAGIC",
    "MANIFEST_MAGIC",
    "MANIFEST_SLOT_OFFSETS",
    "TOMBSTONE",
    "HAS_EXPIRY",
    "HAS_HEADERS",
    "HAS_STREAM",
    "COMPRESSION_SHIFT",
    "COMPRESSION_MASK",
    "COMPRESSIONS",
    "KEY_BYTES_MAX",
    "POSITION_MAX",
    "NO_CUT",
    "FRAME_BYTES_LIMIT",
    "INDEX_STEP_BYTES",
]
