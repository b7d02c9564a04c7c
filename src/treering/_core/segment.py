"""One segment file: make it, check it, index it, seal it.

    header | frame | frame | … | zeros up to the preallocated size      the tail
    header | frame | frame | … | [kept bytes] | index | trailer         sealed

Knows one file at a time; refuses to know the log, the control page and locks.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from typing import NamedTuple

from . import format as fmt
from .codec import BAD, UNKNOWN, Scan, crc32, scan
from .files import CREATE_NEW, READ, Directory, File

CHUNK_BYTES = 512 << 10
# Frames up to this size are checked in memory; larger ones are streamed, so memory stays flat.
WHOLE_FRAME_BYTES_MAX = 4 << 20
# Of larger ones, the fixed parts of their records are read this much at a time.
WINDOW_BYTES = 4096
# The longest fixed part: header, expiry, stream, raw size and the headers' size.
_RECORD_FIXED_MOST = fmt.RECORD_HEADER_BYTES + 20
# Looking for intact frames behind a bad one, at most this many bytes per byte of the file are
# checksummed; hostile bytes that need more are called damage.
SEARCH_EFFORT = 16

_ZEROS = bytes(CHUNK_BYTES)

Progress = Callable[[int], None]


class SegmentScan(NamedTuple):
    """What reading the frames of one segment found; `signposts` are the index to be."""

    offset: int  # where the valid frames end
    position: int  # the position after their last record
    durable: int  # greatest durable mark in them
    oldest_ns: int
    newest_ns: int
    unknown: bool  # stopped at an intact frame of a newer kind
    signposts: list[fmt.IndexEntry]


def prepare(directory: Directory, header: fmt.SegmentHeader, name: str, size_bytes: int) -> None:
    """Make the file `name`: header, reserved space, fsynced; not yet part of the log.

    DiskFullError leaves nothing behind.
    """
    file = directory.open(name, CREATE_NEW)
    try:
        file.allocate(size_bytes)
        file.write(header.pack(), 0)
        file.sync()
    except BaseException:
        file.close()
        directory.remove(name)
        raise
    file.close()


def install(directory: Directory, name: str, base: int) -> None:
    """Make the prepared file the segment of `base`; durable at return."""
    directory.rename(name, fmt.segment_name(base))
    directory.sync()


def read_header(file: File) -> fmt.SegmentHeader:
    """The file's header; FormatError when it is damaged or newer."""
    return fmt.SegmentHeader.unpack(file.read(fmt.SEGMENT_HEADER_BYTES, 0))


def read_trailer(file: File, header: fmt.SegmentHeader, size_bytes: int) -> fmt.Trailer | None:
    """The trailer at the end of the file; None if there is none, FormatError if it is damaged."""
    start = size_bytes - fmt.TRAILER_BYTES
    if start < header.frames_start:
        return None
    block = file.read(fmt.TRAILER_BYTES, start)
    if block[:8] != fmt.TRAILER_MAGIC:
        return None
    trailer = fmt.Trailer.unpack(block)
    index_start = start - trailer.entries * fmt.INDEX_ENTRY_BYTES
    if (trailer.log_id, trailer.base, trailer.epoch) != header[:3]:
        raise fmt.FormatError("the footer belongs to another segment")
    records_most = trailer.frames_end // fmt.RECORD_HEADER_BYTES
    entries_most = trailer.frames_end // fmt.INDEX_STEP_BYTES + 2
    if (
        not header.frames_start <= trailer.frames_end <= index_start
        or not header.base <= trailer.end <= header.base + records_most
        or trailer.entries > entries_most
    ):
        raise fmt.FormatError("the footer contradicts itself")
    return trailer


def intact_trailer(file: File, header: fmt.SegmentHeader, size_bytes: int) -> fmt.Trailer | None:
    """The trailer, or None if it is missing or damaged: without it the frames are scanned.

    UnknownVersionError when it is intact and newer.
    """
    try:
        return read_trailer(file, header, size_bytes)
    except fmt.UnknownVersionError:
        raise
    except fmt.FormatError:
        return None


def read_index(file: File, trailer: fmt.Trailer, size_bytes: int) -> list[fmt.IndexEntry]:
    """The index of a sealed segment; FormatError if it is damaged."""
    length = trailer.entries * fmt.INDEX_ENTRY_BYTES
    block = file.read(length, size_bytes - fmt.TRAILER_BYTES - length)
    entries = fmt.unpack_index(block, trailer)
    before = fmt.IndexEntry(trailer.base - 1, -1, 0)
    for entry in entries:
        if (
            entry.position <= before.position
            or not before.offset < entry.offset < trailer.frames_end
        ):
            raise fmt.FormatError("the footer's index contradicts itself")
        before = entry
    return entries


def scan_frames(
    file: File,
    header: fmt.SegmentHeader,
    size_bytes: int,
    *,
    offset: int | None = None,
    position: int | None = None,
    newest_ns: int = 0,
    progress: Progress | None = None,
    stop_position: int | None = None,
) -> SegmentScan:
    """Check every frame from `offset` (default: the first) on, in flat memory.

    Stops at the first bytes that are not the expected frame, or once `stop_position` is reached.
    """
    at = header.frames_start if offset is None else offset
    expected = header.base if position is None else position
    durable = oldest_ns = 0
    index: list[tuple[int, int, int]] = []
    buffer = memoryview(bytearray(min(CHUNK_BYTES, max(size_bytes - at, 0))))
    unknown = False
    while stop_position is None or expected < stop_position:
        count = file.read_into(buffer[: max(size_bytes - at, 0)], at)
        found = _scan_buffer(buffer, count, at, expected, header, newest_ns, index, size_bytes - at)
        durable = max(durable, found.durable)
        oldest_ns = min(oldest_ns or found.oldest_ns, found.oldest_ns or oldest_ns)
        newest_ns, expected = found.newest_ns, found.position
        moved = found.offset
        at += moved
        if progress is not None and moved:
            progress(moved)
        if found.reason == UNKNOWN:
            unknown = True
            break
        if found.reason == BAD or found.needed > size_bytes - at:
            break
        if found.needed > len(buffer):
            if found.needed <= WHOLE_FRAME_BYTES_MAX:
                buffer = memoryview(bytearray(found.needed))
                continue
            try:
                frame = _stream_frame(file, header, at, expected, found.needed)
            except fmt.UnknownVersionError:
                unknown = True
                break
            if frame is None:
                break
            index.append((expected, at, newest_ns))
            durable, newest_ns = max(durable, frame.durable), max(newest_ns, frame.newest_ns)
            oldest_ns = min(oldest_ns or frame.oldest_ns, frame.oldest_ns)
            at, expected = at + found.needed, frame.position
            if progress is not None:
                progress(found.needed)
        elif moved == 0 and count < min(len(buffer), size_bytes - at):
            break  # the file became shorter while we read
    entries = [fmt.IndexEntry(*entry) for entry in index]
    return SegmentScan(at, expected, durable, oldest_ns, newest_ns, unknown, entries)


def _scan_buffer(
    buffer: memoryview,
    count: int,
    at: int,
    expected: int,
    header: fmt.SegmentHeader,
    newest_ns: int,
    index: list[tuple[int, int, int]],
    room: int,
) -> Scan:
    following = index[-1][1] // fmt.INDEX_STEP_BYTES + 1 if index else 0
    return scan(
        buffer,
        0,
        count,
        expected,
        header.tag,
        header.seed,
        newest_ns,
        index,
        at,
        following * fmt.INDEX_STEP_BYTES,
        min(fmt.FRAME_BYTES_LIMIT, max(room, 0)),
    )


class _FrameSummary(NamedTuple):
    position: int
    durable: int
    oldest_ns: int
    newest_ns: int


def _stream_frame(
    file: File, header: fmt.SegmentHeader, at: int, position: int, length: int
) -> _FrameSummary | None:
    """Check one large frame piece by piece; None if it is not valid, UnknownVersionError if it is
    intact and of a newer kind."""
    head = file.read(fmt.FRAME_HEADER_BYTES, at)
    if len(head) < fmt.FRAME_HEADER_BYTES:
        return None
    tag, check, claimed, count, found, durable = fmt.FRAME_HEADER.unpack(head)
    if tag != header.tag or claimed != length or found != position or count == 0 or length % 8:
        return None
    value = crc32(head[fmt.FRAME_CHECKED_FROM :], header.seed)
    buffer = memoryview(bytearray(CHUNK_BYTES))
    done = fmt.FRAME_HEADER_BYTES
    while done < length:
        step = file.read_into(buffer[: min(len(buffer), length - done)], at + done)
        if step == 0:
            return None
        value = crc32(buffer[:step], value)
        done += step
    if value != check:
        return None
    times = _stream_times(file, at, length, count)
    return _FrameSummary(position + count, durable, *times) if times else None


def _stream_times(file: File, at: int, length: int, count: int) -> tuple[int, int] | None:
    """Least and greatest timestamp of a large frame's records; None if they do not fill it."""
    offset, end = at + fmt.FRAME_HEADER_BYTES, at + length
    oldest, newest = fmt.TIME_NS_MAX, 0
    window, origin = b"", offset
    for _ in range(count):
        if offset - origin + _RECORD_FIXED_MOST > len(window):
            window, origin = file.read(min(WINDOW_BYTES, end - offset), offset), offset
        start = offset - origin
        size, timestamp = _record_extent(window[start : start + _RECORD_FIXED_MOST])
        if size < 0:
            raise fmt.UnknownVersionError("unknown record flags")
        if size == 0 or size > end - offset:
            return None
        oldest, newest = min(oldest, timestamp), max(newest, timestamp)
        offset += size
    return (oldest, newest) if end - offset < 4096 else None


def _record_extent(block: bytes) -> tuple[int, int]:
    """Size and timestamp of a record; size 0 when it cannot be one, -1 for an unknown kind."""
    if len(block) < fmt.RECORD_HEADER_BYTES:
        return 0, 0
    flags, reserved, key_bytes, value_bytes, timestamp = fmt.RECORD_HEADER.unpack_from(block)
    compression = flags & fmt.COMPRESSION_MASK
    fields = fmt.RECORD_HEADER_BYTES + 8 * bool(flags & fmt.HAS_EXPIRY)
    fields += 4 * bool(flags & fmt.HAS_STREAM) + 4 * bool(compression)
    size = fields + key_bytes + value_bytes
    if flags & fmt.HAS_HEADERS:
        size += 4 + int.from_bytes(block[fields : fields + 4], "little")
    unknown = flags & fmt.UNKNOWN_RECORD_FLAGS or compression == 0x30 or reserved
    if unknown:
        return -1, 0
    return (0, 0) if timestamp > fmt.TIME_NS_MAX else (size, timestamp)


# --- Behind the last good frame ------------------------------------------------------------------


class Rest(NamedTuple):
    """What lies behind the last good frame."""

    last_byte: int  # offset after the last byte that is not zero; the scan's end if there is none
    later: tuple[int, int] | None  # (offset, position) of an intact frame with a later position
    durable: int  # greatest durable mark among the intact frames behind


def survey_rest(
    file: File, header: fmt.SegmentHeader, size_bytes: int, at: int, position: int
) -> Rest:
    """Read what is behind offset `at`, where the frame with `position` should be.

    Holes of a preallocated file are not read. Bounded in time: see SEARCH_EFFORT.
    """
    last_byte, later, durable = at, None, 0
    effort = SEARCH_EFFORT * max(size_bytes - at, CHUNK_BYTES)
    mark = struct.pack("<I", header.tag)
    skip_to = at
    start: int | None = at
    while start is not None and start < size_bytes:
        start = file.next_data(start)
        if start is None or start >= size_bytes:
            break
        start = max(start & ~7, at)
        # Up to a page's end: a page that was read in part counts as data from then on.
        block = file.read(min(CHUNK_BYTES - start % CHUNK_BYTES, size_bytes - start), start)
        if not block:
            break
        if block == _ZEROS[: len(block)]:  # by far the most common, so by far the cheapest
            start += len(block)
            continue
        last_byte = start + len(block.rstrip(b"\0"))
        for offset in _candidates(block, mark, start, max(skip_to, at)):
            frame, cost = _later_frame(file, header, offset, position, size_bytes)
            effort -= cost
            if frame is not None:
                later = later or (offset, frame[1])
                durable = max(durable, frame[2])
                skip_to = offset + frame[0]
            if effort < 0:
                return Rest(size_bytes, (offset, position + 1), fmt.POSITION_MAX)
        start += len(block)
    return Rest(last_byte, later, durable)


def _candidates(block: bytes, mark: bytes, origin: int, least: int) -> list[int]:
    found = []
    at = block.find(mark)
    while at >= 0:
        offset = origin + at
        if offset % 8 == 0 and offset >= least:
            found.append(offset)
        at = block.find(mark, at + 1)
    return found


def _later_frame(
    file: File, header: fmt.SegmentHeader, offset: int, position: int, size_bytes: int
) -> tuple[tuple[int, int, int] | None, int]:
    """((length, position, durable mark) of a valid later frame, or None; the bytes it cost)."""
    head = file.read(fmt.FRAME_HEADER_BYTES, offset)
    if len(head) < fmt.FRAME_HEADER_BYTES:
        return None, fmt.FRAME_HEADER_BYTES
    _, _, length, count, found, durable = fmt.FRAME_HEADER.unpack(head)
    fits = fmt.FRAME_HEADER_BYTES < length <= size_bytes - offset
    if not fits or count == 0 or not position < found <= fmt.POSITION_MAX:
        return None, fmt.FRAME_HEADER_BYTES
    try:
        intact = _stream_frame(file, header, offset, found, length) is not None
    except fmt.UnknownVersionError:
        intact = True
    return ((length, found, durable) if intact else None), length


# --- Sealing -------------------------------------------------------------------------------------


def seal(file: File, header: fmt.SegmentHeader, found: SegmentScan, end: int) -> None:
    """Write the footer behind the frames (and behind bytes kept from a cut); idempotent.

    `end` is the position after the segment's last valid record. The file shrinks to what it needs.
    Not needed for safety: without a footer, opening scans the segment. Durable at return.
    """
    size = file.size()
    rest = survey_rest(file, header, size, found.offset, found.position)
    footer_start = fmt.align_up(rest.last_byte, 8)
    index = fmt.pack_index(found.signposts)
    trailer = fmt.Trailer(
        header.log_id,
        header.base,
        header.epoch,
        len(found.signposts),
        end,
        found.offset,
        found.oldest_ns,
        found.newest_ns,
        rest.last_byte - found.offset,
        crc32(index),
    )
    # The index is durable before the trailer vouches for it at the file's end.
    file.write(index, footer_start)
    file.write(trailer.pack(), footer_start + len(index))
    file.sync()
    total = footer_start + len(index) + fmt.TRAILER_BYTES
    if total < size:
        file.truncate(total)
    file.sync()


def open_segment(directory: Directory, base: int, flags: int = READ) -> File:
    """The segment's file."""
    return directory.open(fmt.segment_name(base), flags)


def temporary_name() -> str:
    """A name for a segment in the making, of this process alone."""
    return f"{fmt.SPARE_NAME}.{os.getpid()}{fmt.TEMPORARY_SUFFIX}"
