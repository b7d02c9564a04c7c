"""The bytes: constants and layouts of every file of a log. docs/format.md is the law in prose.

Pure: bytes in, values out; no files, no clocks. Everything is little-endian. A segment is

    segment  := header frame* zero* [footer]         one file, `<base position, 20 digits>.seg`
    frame    := frame_header record+ padding         one atomic group under one checksum
    record   := record_header [expires_at] [stream] [raw_bytes] [headers_bytes headers] key value
    footer   := index_entry* trailer                 written once the segment is full (sealed)

and `manifest` holds two slots with what no segment can know: the first position still wanted, the
base of the newest segment, the current epoch, and a cut that truncation or recovery decided on.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from typing import NamedTuple

FORMAT_VERSION = 1

SEGMENT_MAGIC = b"TREERING"
TRAILER_MAGIC = b"TREEFOOT"
MANIFEST_MAGIC = b"TREEMANI"

SEGMENT_SUFFIX = ".seg"
MANIFEST_NAME = "manifest"
CONTROL_NAME = "control"
LOCK_NAME = "lock"
OPENING_NAME = "opening"
PINS_NAME = "pins.json"
SPARE_NAME = "spare"
TEMPORARY_SUFFIX = ".tmp"
ASIDE_SUFFIX = ".cut"

# magic, version, header bytes, flags, log id, base position, epoch, frame alignment,
# creation time (ns), reserved, checksum of all before it
SEGMENT_HEADER = struct.Struct("<8sHHI16sQIIQII")
# magic, version, flags, index entries, log id, base, epoch, reserved, end position, end of the
# frames (offset), least and greatest timestamp (ns), bytes kept aside after the frames, checksum
# of the index, checksum of all before it
TRAILER = struct.Struct("<8sHHI16sQIIQQQQQII")
# position of a frame, its offset, greatest timestamp of all records before it in the segment
INDEX_ENTRY = struct.Struct("<QQQ")
# tag, checksum of all after it, length in bytes (padding included), records, position of the
# first record, position up to which all was durable when the frame was written
FRAME_HEADER = struct.Struct("<IIIIQQ")
FRAME_START, FRAME_REST = struct.Struct("<II"), struct.Struct("<IIQQ")  # checked is the rest
# flags, reserved, key bytes, value bytes as stored, timestamp (ns)
RECORD_HEADER = struct.Struct("<BBHIQ")
# magic, version, flags, reserved, log id, sequence, epoch, reserved, first position, tail base,
# cut, position known to be durable, where the frames ended at a clean close (0: in use since),
# greatest timestamp then, checksum of all before it
MANIFEST_SLOT = struct.Struct("<8sHHI16sQIIQQQQQQI")

SEGMENT_HEADER_BYTES = SEGMENT_HEADER.size
TRAILER_BYTES = TRAILER.size
INDEX_ENTRY_BYTES = INDEX_ENTRY.size
FRAME_HEADER_BYTES = FRAME_HEADER.size
RECORD_HEADER_BYTES = RECORD_HEADER.size

assert SEGMENT_HEADER_BYTES == 8 + 2 + 2 + 4 + 16 + 8 + 4 + 4 + 8 + 4 + 4 == 64
assert TRAILER_BYTES == 8 + 2 + 2 + 4 + 16 + 8 + 4 + 4 + 5 * 8 + 4 + 4 == 96
assert FRAME_HEADER_BYTES == 4 + 4 + 4 + 4 + 8 + 8 == 32
assert RECORD_HEADER_BYTES == 1 + 1 + 2 + 4 + 8 == 16
assert INDEX_ENTRY_BYTES == 24

# The checksum of a frame starts after its tag and itself.
FRAME_CHECKED_FROM = 8

# Record flags. Bits 6 and 7 are unknown to this version: a frame that sets them is refused.
TOMBSTONE = 1
HAS_EXPIRY = 2
HAS_HEADERS = 4
HAS_STREAM = 8
COMPRESSION_SHIFT = 4
COMPRESSION_MASK = 3 << COMPRESSION_SHIFT
UNKNOWN_RECORD_FLAGS = 0xC0
COMPRESSIONS = {"lz4": 1, "zstd": 2}

KEY_BYTES_MAX = (1 << 16) - 1
HEADERS_BYTES_MAX = 1 << 20
STREAM_MAX = (1 << 32) - 1
TIME_NS_MAX = (1 << 63) - 1
POSITION_MAX = (1 << 63) - 1
EPOCH_MAX = (1 << 32) - 1
FRAME_BYTES_LIMIT = 1 << 30
SEGMENT_BYTES_MIN = 1 << 10
SEGMENT_BYTES_LIMIT = 1 << 40

# One index entry at the first frame that starts at or after each of these steps.
INDEX_STEP_BYTES = 64 * 1024

# The two manifest slots lie in different 4 KiB blocks, so that no torn write meets both.
MANIFEST_SLOT_OFFSETS = (0, 4096)
MANIFEST_BYTES = 8192
NO_CUT = (1 << 64) - 1


class FormatError(ValueError):
    """These bytes are not what the format says; callers turn it into DamageError with a place."""


class UnknownVersionError(FormatError):
    """The bytes are intact but carry a newer version or an unknown flag."""


def checksum(data: bytes | bytearray | memoryview, value: int = 0) -> int:
    """CRC-32 (IEEE 802.3, as in zlib and PNG); decision record 0002 says why this one."""
    return zlib.crc32(data, value)


class SegmentHeader(NamedTuple):
    """The first 64 bytes of a segment."""

    log_id: bytes
    base: int
    epoch: int
    align: int
    created_ns: int

    def pack(self) -> bytes:
        """The header's bytes."""
        head = SEGMENT_HEADER.pack(
            SEGMENT_MAGIC,
            FORMAT_VERSION,
            SEGMENT_HEADER_BYTES,
            0,
            self.log_id,
            self.base,
            self.epoch,
            self.align,
            self.created_ns,
            0,
            0,
        )[:-4]
        return head + struct.pack("<I", checksum(head))

    @classmethod
    def unpack(cls, data: bytes) -> SegmentHeader:
        """Parse and check; FormatError, or UnknownVersionError for a newer version."""
        if len(data) < SEGMENT_HEADER_BYTES:
            raise FormatError("the segment header is incomplete")
        fields = SEGMENT_HEADER.unpack_from(data)
        _check_block(data[:SEGMENT_HEADER_BYTES], fields[0], SEGMENT_MAGIC, "segment header")
        _check_version(fields[1], fields[3])
        header = cls(fields[4], fields[5], fields[6], fields[7], fields[8])
        if fields[2] != SEGMENT_HEADER_BYTES or header.align not in (8, 512, 4096):
            raise UnknownVersionError("the segment header has an unknown layout")
        return header

    @property
    def frames_start(self) -> int:
        """Offset of the first frame."""
        return max(SEGMENT_HEADER_BYTES, self.align)

    @property
    def tag(self) -> int:
        """The four bytes that open every frame of this segment: log id, epoch and base hashed."""
        return checksum(b"tag" + self._identity()) or 1

    @property
    def seed(self) -> int:
        """Start value of every frame's checksum, so that frames of other logs never validate."""
        return checksum(b"seed" + self._identity())

    def _identity(self) -> bytes:
        return self.log_id + struct.pack("<IQ", self.epoch, self.base)


class IndexEntry(NamedTuple):
    """A signpost into a sealed segment: where a frame starts, and how new what precedes it is."""

    position: int
    offset: int
    newest_before_ns: int


class Trailer(NamedTuple):
    """The last 96 bytes of a sealed segment."""

    log_id: bytes
    base: int
    epoch: int
    entries: int
    end: int
    frames_end: int
    oldest_ns: int
    newest_ns: int
    kept_bytes: int
    index_checksum: int

    def pack(self) -> bytes:
        """The trailer's bytes."""
        head = TRAILER.pack(
            TRAILER_MAGIC,
            FORMAT_VERSION,
            0,
            self.entries,
            self.log_id,
            self.base,
            self.epoch,
            0,
            self.end,
            self.frames_end,
            self.oldest_ns,
            self.newest_ns,
            self.kept_bytes,
            self.index_checksum,
            0,
        )[:-4]
        return head + struct.pack("<I", checksum(head))

    @classmethod
    def unpack(cls, data: bytes) -> Trailer:
        """Parse and check; FormatError when these are not a trailer's bytes."""
        if len(data) < TRAILER_BYTES:
            raise FormatError("the footer is incomplete")
        f = TRAILER.unpack_from(data)
        _check_block(data[:TRAILER_BYTES], f[0], TRAILER_MAGIC, "footer")
        _check_version(f[1], f[2])
        return cls(f[4], f[5], f[6], f[3], f[8], f[9], f[10], f[11], f[12], f[13])


def pack_index(entries: list[IndexEntry]) -> bytes:
    """The index of a footer."""
    return b"".join(INDEX_ENTRY.pack(*entry) for entry in entries)


def unpack_index(data: bytes, trailer: Trailer) -> list[IndexEntry]:
    """Parse and check a footer's index against its trailer."""
    if len(data) != trailer.entries * INDEX_ENTRY_BYTES or checksum(data) != trailer.index_checksum:
        raise FormatError("the footer's index does not match its checksum")
    return [IndexEntry(*fields) for fields in INDEX_ENTRY.iter_unpack(data)]


class Manifest(NamedTuple):
    """What no segment can know about the log as a whole; see `treering._core.manifest`."""

    log_id: bytes
    sequence: int
    epoch: int
    first_position: int
    tail_base: int
    cut: int
    clean_position: int
    clean_offset: int
    newest_ns: int

    def pack(self) -> bytes:
        """One slot's bytes."""
        head = MANIFEST_SLOT.pack(
            MANIFEST_MAGIC,
            FORMAT_VERSION,
            0,
            0,
            self.log_id,
            self.sequence,
            self.epoch,
            0,
            self.first_position,
            self.tail_base,
            self.cut,
            self.clean_position,
            self.clean_offset,
            self.newest_ns,
            0,
        )[:-4]
        return head + struct.pack("<I", checksum(head))

    @classmethod
    def unpack(cls, data: bytes) -> Manifest:
        """Parse and check one slot."""
        if len(data) < MANIFEST_SLOT.size:
            raise FormatError("the manifest slot is incomplete")
        f = MANIFEST_SLOT.unpack_from(data)
        _check_block(data[: MANIFEST_SLOT.size], f[0], MANIFEST_MAGIC, "manifest slot")
        _check_version(f[1], f[2])
        slot = cls(f[4], f[5], f[6], *f[8:14])
        # The sequence and the epoch must leave room for the next.
        positions = (slot.first_position, slot.clean_position, slot.sequence + 1, slot.clean_offset)
        wrong_base = any(POSITION_MAX < base < NO_CUT for base in (slot.tail_base, slot.cut))
        if max(positions) > POSITION_MAX or wrong_base or slot.epoch >= EPOCH_MAX:
            raise FormatError("the manifest slot holds impossible numbers")
        return slot


def _check_block(block: bytes, magic: bytes, expected_magic: bytes, what: str) -> None:
    if magic != expected_magic:
        raise FormatError(f"these bytes are not a {what}")
    if checksum(block[:-4]) != int.from_bytes(block[-4:], "little"):
        raise FormatError(f"the {what} does not match its checksum")


def _check_version(version: int, flags: int) -> None:
    if version > FORMAT_VERSION or version == 0:
        raise UnknownVersionError(f"format version {version}, this treering knows {FORMAT_VERSION}")
    if flags:
        raise UnknownVersionError(f"unknown flags {flags:#x}")


def segment_name(base: int) -> str:
    """File name of the segment whose first record has position `base`."""
    return f"{base:020d}{SEGMENT_SUFFIX}"


def segment_base(name: str) -> int | None:
    """The base position that a segment's file name states, or None for any other name."""
    stem = name.removesuffix(SEGMENT_SUFFIX)
    if stem == name or len(stem) != 20 or not stem.isascii() or not stem.isdigit():
        return None
    base = int(stem)
    return base if base <= POSITION_MAX else None


def align_up(value: int, step: int) -> int:
    """The least multiple of `step` (a power of two) that is not below `value`."""
    return (value + step - 1) & -step


_HEADER_SIZES = struct.Struct("<HI")


def pack_headers(headers: Mapping[str, bytes]) -> bytes:
    """A record's headers: for each, name length u16, value length u32, name in UTF-8, value."""
    parts = []
    for name, value in headers.items():
        if not isinstance(value, bytes | bytearray | memoryview):
            raise TypeError("a header's value must be bytes")
        encoded, data = name.encode(), bytes(memoryview(value))
        parts += [_HEADER_SIZES.pack(len(encoded), len(data)), encoded, data]
    return b"".join(parts)


def unpack_headers(data: bytes) -> dict[str, bytes]:
    """Parse a record's headers; FormatError when the lengths do not add up."""
    headers = {}
    offset = 0
    while offset < len(data):
        if len(data) - offset < _HEADER_SIZES.size:
            raise FormatError("a header is incomplete")
        name_bytes, value_bytes = _HEADER_SIZES.unpack_from(data, offset)
        offset += _HEADER_SIZES.size
        end = offset + name_bytes + value_bytes
        if end > len(data):
            raise FormatError("a header is longer than the headers")
        try:
            name = data[offset : offset + name_bytes].decode()
        except UnicodeDecodeError as error:
            raise FormatError("a header's name is not UTF-8") from error
        headers[name] = data[offset + name_bytes : end]
        offset = end
    return headers


# --- The control page: shared memory beside the segments, rebuilt by whoever opens first ----------
#
# Indexes of 64-bit words, in the machine's own byte order. Words written by the appender, words
# written by the committer and rarely written words lie in different cache lines.

CONTROL_BYTES = 4096
CONTROL_MAGIC = 0x4C4F52544E4F4354
CONTROL_VERSION = 1

WORD_MAGIC = 0
WORD_VERSION = 1
WORD_LOG_ID = 2  # two words
WORD_BOOT = 4
WORD_LOCK_KIND = 5
WORD_OWNER_PID = 6
WORD_GENERATION = 7

WORD_END = 16  # position that the next record gets
WORD_END_OFFSET = 17  # where its frame goes in the tail segment
WORD_TAIL_BASE = 18
WORD_EPOCH = 19
WORD_DIRTY = 20  # 0, or the offset at which a frame being written ends
WORD_DIRTY_POSITION = 21
WORD_DIRTY_OFFSET = 22
WORD_NEWEST = 23  # greatest timestamp in the log (ns)

WORD_DURABLE = 32  # everything below this position is durable
WORD_FAILED = 33  # not 0: a write or an fsync failed, errno
WORD_SYNCS = 34  # finished fsyncs; its low half is the futex that waiters sleep on
WORD_SYNC_END = 35  # what the running fsync makes durable ends here

WORD_APPEND_WAITERS = 40  # not 0: somebody sleeps until WORD_END moves
WORD_SYNC_WAITERS = 41  # not 0: somebody sleeps until WORD_SYNCS moves

WORD_FIRST = 48  # oldest position still there
WORD_CHANGES = 49  # counts rolls and truncations: a view older than this is out of date
WORD_REWINDS = 50  # counts truncate_after
WORD_REWIND_CUT = 51  # two words, by turns: where an even, and where an odd, truncate_after cut

# WORD_DIRTY during a roll or a truncation: what the words say must be derived from the files again.
DIRTY_FILES = 1
# WORD_END_OFFSET when the tail takes no more frames, so that the next append starts a segment.
TAIL_CLOSED = 1 << 62
# WORD_TAIL_BASE when there is no segment at all.
NO_TAIL = (1 << 64) - 1

APPEND_MUTEX_OFFSET = 512
SYNC_MUTEX_OFFSET = 640
MUTEX_BYTES = 128
