"""Reading a whole segment, whatever its state: which frames are intact, and where others should be.

Opening reads as little as it can; `verify` and `repair` read everything, and go on behind damage by
looking for the next intact frame. Memory stays flat, and hostile bytes cost bounded time.

Knows one segment at a time; refuses to say what its damage means for the log.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping

from . import format as fmt
from . import segment as segments
from .content import Content, Gap, Meter, PatientFile, Run
from .files import Directory, File

# Frames are checked in slices of this size, so that a huge segment's signposts need not be kept.
SLICE_BYTES = 64 << 20
# What the search behind damage may read, in bytes per byte of the segment.
SEARCH_EFFORT = 16
# Places of damage that one segment lists; behind the last of them it is not searched further.
GAPS_MAX = 1000
# A frame that is being written right now is looked at again this often.
_LOOKS, _LOOK_SECONDS = 3, 0.001

_ALIGNS = (8, 512, 4096)
_EPOCHS_TRIED_MAX = 1 << 16
_ZEROS = bytes(segments.CHUNK_BYTES)


def examine(
    directory: Directory, base: int, known: Mapping[bytes, int], meter: Meter, *, live: bool
) -> Content:
    """Read the segment of `base` from end to end. StorageError if the file is gone.

    `known` maps the ids of logs to their newest epoch: with these a damaged header is rebuilt.
    `live` says that another process may be writing to the segment.
    """
    file = PatientFile(directory, fmt.segment_name(base))
    with file:
        reading = _Reading(file, base, meter, live)
        content = reading.read(known)
        return dataclasses.replace(content, unreadable=tuple(file.unreadable))


class _Reading:
    """One pass over one segment."""

    def __init__(self, file: PatientFile, base: int, meter: Meter, live: bool) -> None:
        self.file = file
        self.meter = meter
        self.live = live
        self.size = file.size()
        self.content = Content(base, file.path, self.size)
        self.effort = SEARCH_EFFORT * max(self.size, segments.CHUNK_BYTES)
        self.exhausted = False
        self.oldest_ns = self.newest_ns = 0
        self.unknown: tuple[int, int] | None = None
        self.footer: _FooterCheck | None = None

    def read(self, known: Mapping[bytes, int]) -> Content:
        self._read_header(known)
        header = self.content.header
        if header is None:
            return self.content
        self._read_trailer(header)
        trailer = self.content.trailer
        stop = trailer.frames_end if trailer is not None else self.size
        runs, gaps, last_byte = self._walk(header, stop)
        problem = self._footer_verdict(runs, gaps)
        return dataclasses.replace(
            self.content,
            runs=tuple(runs),
            gaps=tuple(gaps),
            last_byte=last_byte,
            unknown=self.unknown,
            exhausted=self.exhausted,
            footer_wrong=problem,
        )

    def note(self, **facts: object) -> None:
        self.content = dataclasses.replace(self.content, **facts)  # type: ignore[arg-type]

    # --- Header and footer ------------------------------------------------------------------------

    def _read_header(self, known: Mapping[bytes, int]) -> None:
        try:
            header = segments.read_header(self.file)
        except fmt.UnknownVersionError as error:
            return self.note(newer=str(error))
        except fmt.FormatError as error:
            found = _rebuilt_header(self.file, self.content.base, known)
            return self.note(header=found, header_problem=str(error), rebuilt=found is not None)
        self.note(header=header)
        if header.base != self.content.base:
            self.note(header_problem=f"its header says that it starts at {header.base}")
        return None

    def _read_trailer(self, header: fmt.SegmentHeader) -> None:
        try:
            trailer = segments.read_trailer(self.file, header, self.size)
        except fmt.UnknownVersionError as error:
            return self.note(newer=str(error), header=None)
        except fmt.FormatError as error:
            return self.note(footer_problem=str(error))
        if trailer is None:
            return None
        self.note(trailer=trailer)
        self.footer = _FooterCheck(self.file, header, trailer, self.size)
        if not self.footer.intact:
            self.note(footer_problem="the footer's index does not match its checksum")
            self.footer = None
        return None

    def _footer_verdict(self, runs: list[Run], gaps: list[Gap]) -> str:
        trailer, header = self.content.trailer, self.content.header
        if trailer is None or header is None or gaps or self.unknown:
            return ""
        end_offset = runs[-1].end_offset if runs else header.frames_start
        end = runs[-1].end if runs else header.base
        if end_offset != trailer.frames_end:
            return ""  # the frames are damaged, not the footer
        if end < trailer.end:
            return f"it says that the segment ends at {trailer.end}, the frames end at {end}"
        if (self.oldest_ns, self.newest_ns) != (trailer.oldest_ns, trailer.newest_ns):
            return "its time range is not that of the records"
        return self.footer.finish() if self.footer is not None else ""

    # --- Frames -----------------------------------------------------------------------------------

    def _walk(self, header: fmt.SegmentHeader, stop: int) -> tuple[list[Run], list[Gap], int]:
        """Intact runs and the gaps between them, up to `stop`; and where the last byte lies."""
        runs: list[Run] = []
        gaps: list[Gap] = []
        at, position = header.frames_start, header.base
        looks = _LOOKS
        while True:
            run = self._run(header, at, position, stop)
            if run.end > position:
                _add(runs, run)
                at, position, looks = run.end_offset, run.end, _LOOKS
            if at >= stop or self.unknown is not None:
                return runs, gaps, at
            last_byte, found = self._search(header, at, position, stop)
            if found is None and last_byte == at:
                return runs, gaps, at
            if self.live and looks > 0:
                # Perhaps a frame that another process was writing while we read. If a later one is
                # there already, this one is whole by now.
                looks = looks - 1 if found is None else 0
                time.sleep(_LOOK_SECONDS if looks else 0)
                continue
            if found is None or len(gaps) == GAPS_MAX:
                self.exhausted = self.exhausted or found is not None
                return runs, gaps, last_byte
            gaps.append(Gap(at, position, *found))
            at, position = found

    def _run(self, header: fmt.SegmentHeader, at: int, position: int, stop: int) -> Run:
        """The intact frames from `at` on, checked slice by slice."""
        start = (at, position)
        durable, size = 0, SLICE_BYTES
        while at < stop and self.unknown is None:
            limit = min(stop, at + size)
            scan = segments.scan_frames(
                self.file,
                header,
                limit,
                offset=at,
                position=position,
                newest_ns=self.newest_ns,
                progress=self.meter.add,
            )
            self._note_times(scan)
            if self.footer is not None:
                self.footer.see(scan)
            if scan.unknown:
                self.unknown = (scan.offset, scan.position)
            durable = max(durable, scan.durable)
            if scan.position == position:
                if limit == stop:
                    break
                size *= 16  # a frame that is larger than the slice, or none
                continue
            at, position, size = scan.offset, scan.position, SLICE_BYTES
        return Run(*start, at, position, durable)

    def _note_times(self, scan: segments.SegmentScan) -> None:
        self.newest_ns = max(self.newest_ns, scan.newest_ns)
        if scan.oldest_ns:
            self.oldest_ns = min(self.oldest_ns or scan.oldest_ns, scan.oldest_ns)

    # --- Behind damage ----------------------------------------------------------------------------

    def _search(
        self, header: fmt.SegmentHeader, at: int, position: int, stop: int
    ) -> tuple[int, tuple[int, int] | None]:
        """(offset after the last byte that is not zero, None), or that of the next intact frame:
        (its offset, (its offset, its position)). Holes of a preallocated file are not read."""
        last_byte = at
        mark = header.tag.to_bytes(4, "little")
        start: int | None = at
        while start is not None and start < stop:
            start = self.file.next_data(start)
            if start is None or start >= stop:
                break
            start = max(start & ~7, at)
            block = self.file.read(min(segments.CHUNK_BYTES, stop - start), start)
            if not block:
                break
            if block != _ZEROS[: len(block)]:
                last_byte = start + len(block.rstrip(b"\0"))
                for offset in _marks(block, mark, start):
                    found = self._frame_at(header, offset, position, stop)
                    if found is not None:
                        return offset, (offset, found)
                    if self.effort < 0:
                        self.exhausted = True
                        return stop, None
            start += len(block)
        return last_byte, None

    def _frame_at(
        self, header: fmt.SegmentHeader, offset: int, position: int, stop: int
    ) -> int | None:
        """The position of an intact frame at `offset`, if it is later than `position`."""
        head = self.file.read(fmt.FRAME_HEADER_BYTES, offset)
        self.effort -= len(head)
        if len(head) < fmt.FRAME_HEADER_BYTES:
            return None
        _, _, length, count, found, _ = fmt.FRAME_HEADER.unpack(head)
        fits = fmt.FRAME_HEADER_BYTES < length <= stop - offset
        if not fits or count == 0 or not position < found <= fmt.POSITION_MAX:
            return None
        self.effort -= length
        scan = segments.scan_frames(
            self.file, header, offset + length, offset=offset, position=found
        )
        return found if scan.position > found or scan.unknown else None


def _add(runs: list[Run], run: Run) -> None:
    """A run that goes on where the last one ended is the same run."""
    if runs and (runs[-1].end_offset, runs[-1].end) == (run.offset, run.position):
        last = runs.pop()
        run = Run(
            last.offset, last.position, run.end_offset, run.end, max(last.durable, run.durable)
        )
    runs.append(run)


def _marks(block: bytes, mark: bytes, origin: int) -> Iterator[int]:
    """Offsets at which a frame may begin."""
    at = block.find(mark)
    while at >= 0:
        if (origin + at) % 8 == 0:
            yield origin + at
        at = block.find(mark, at + 1)


class _FooterCheck:
    """Holds a footer's index against the frames while they are read, one slice at a time."""

    def __init__(
        self, file: File, header: fmt.SegmentHeader, trailer: fmt.Trailer, size_bytes: int
    ) -> None:
        self._file = file
        self._header = header
        self._start = size_bytes - fmt.TRAILER_BYTES - trailer.entries * fmt.INDEX_ENTRY_BYTES
        self._left = trailer.entries
        self._ahead: list[fmt.IndexEntry] = []
        self._problem = ""
        self.intact = self._checksum(trailer) == trailer.index_checksum

    def _checksum(self, trailer: fmt.Trailer) -> int:
        value, at = 0, self._start
        end = at + trailer.entries * fmt.INDEX_ENTRY_BYTES
        while at < end:
            block = self._file.read(min(segments.CHUNK_BYTES, end - at), at)
            value = fmt.checksum(block, value)
            at += len(block) or end
        return value

    def _next(self) -> fmt.IndexEntry | None:
        if not self._ahead and self._left:
            count = min(self._left, 4096)
            block = self._file.read(count * fmt.INDEX_ENTRY_BYTES, self._start)
            self._ahead = [fmt.IndexEntry(*entry) for entry in fmt.INDEX_ENTRY.iter_unpack(block)]
            self._ahead.reverse()
            self._start += len(block)
            self._left = self._left - count if block else 0
        return self._ahead[-1] if self._ahead else None

    def see(self, scan: segments.SegmentScan) -> None:
        """Compare with the signposts that the frames of a slice gave."""
        real = {entry.offset: entry for entry in scan.signposts}
        while (entry := self._next()) is not None and entry.offset < scan.offset:
            self._ahead.pop()
            if real.get(entry.offset) != entry and not self._stands(entry, scan):
                self._problem = f"its index is wrong about position {entry.position}"

    def _stands(self, entry: fmt.IndexEntry, scan: segments.SegmentScan) -> bool:
        """Whether a frame begins there, though we would have put no signpost to it."""
        before = [known for known in scan.signposts if known.offset <= entry.offset]
        if not before:
            return False
        near = segments.scan_frames(
            self._file,
            self._header,
            entry.offset,
            offset=before[-1].offset,
            position=before[-1].position,
            newest_ns=before[-1].newest_before_ns,
        )
        return (near.position, near.offset, near.newest_ns) == entry

    def finish(self) -> str:
        """What is wrong with the index, once all frames were seen."""
        if not self._problem and self._next() is not None:
            self._problem = "its index points behind the frames"
        return self._problem


def _rebuilt_header(file: File, base: int, known: Mapping[bytes, int]) -> fmt.SegmentHeader | None:
    """A damaged header, from what the frames and the footer say; only if a frame confirms it."""
    marks = {align: file.read(4, max(align, fmt.SEGMENT_HEADER_BYTES)) for align in _ALIGNS}
    size = file.size()
    for header in _candidates(file, base, known, size):
        for align, mark in marks.items():
            if mark != header.tag.to_bytes(4, "little"):
                continue
            attempt = header._replace(align=align)
            start = attempt.frames_start
            head = file.read(fmt.FRAME_HEADER_BYTES, start)
            length = fmt.FRAME_HEADER.unpack(head)[2] if len(head) == fmt.FRAME_HEADER_BYTES else 0
            scan = segments.scan_frames(file, attempt, min(size, start + length))
            if scan.position > base:
                return attempt._replace(created_ns=scan.oldest_ns)
    return None


def _candidates(
    file: File, base: int, known: Mapping[bytes, int], size: int
) -> Iterator[fmt.SegmentHeader]:
    """Headers that the segment may have had, the most likely first."""
    try:
        trailer = fmt.Trailer.unpack(file.read(fmt.TRAILER_BYTES, max(size - fmt.TRAILER_BYTES, 0)))
        if trailer.base == base:
            yield fmt.SegmentHeader(trailer.log_id, base, trailer.epoch, 8, 0)
    except fmt.FormatError:
        pass  # no footer: what is known of the log has to do
    for log_id, newest in known.items():
        for epoch in range(newest, max(-1, newest - _EPOCHS_TRIED_MAX), -1):
            yield fmt.SegmentHeader(log_id, base, epoch, 8, 0)
