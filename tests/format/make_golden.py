"""Makes the golden logs of the present format version; they were made once and are read for ever.

    python -m tests.format.make_golden

refuses to touch a version that is there already. The programs below are run again by the tests, to
see that the same calls still give the same bytes. Times come from a fake clock, ids from a number.
"""

import json
import sys
import uuid
from pathlib import Path
from unittest import mock

from treering import FsyncPolicy, Record, Wal
from treering._core import format as fmt
from treering.testing import FakeClock, MemoryFiles

GOLDEN = Path(__file__).with_name("golden")
NOW = 1_700_000_000 * 10**9
LOG_ID = bytes(range(0xA0, 0xB0))
LOG = "/log"

# What belongs to the format; the rest is made anew by every opening.
FORMAT_SUFFIXES = (fmt.SEGMENT_SUFFIX, fmt.ASIDE_SUFFIX)


class Ticking:
    """A log whose clock moves with each call on it, however often that looks at the clock."""

    def __init__(self, wal, clock):
        self._wal, self._clock = wal, clock

    def __getattr__(self, name):
        def call(*arguments, **options):
            self._clock.advance(1e-6)
            return getattr(self._wal, name)(*arguments, **options)

        return call

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._wal.close()


def open_log(files, **options):
    """The log that all programs write: small segments, the same times and marks each run."""
    options = {"segment_bytes_max": 4096, "fsync_policy": FsyncPolicy.OS, **options}
    clock = FakeClock(NOW)
    with mock.patch("uuid.uuid4", return_value=uuid.UUID(bytes=LOG_ID)):
        return Ticking(Wal.open(LOG, files=files, clock=clock, **options), clock)


# --- The programs --------------------------------------------------------------------------------


def plain():
    """Three segments with footers and a tail, closed cleanly: every kind of record."""
    files = MemoryFiles()
    with open_log(files) as wal:
        wal.put(b"", b"")
        wal.put(b"ring", b"1987")
        wal.delete(b"ring")
        wal.put(b"expires", b"soon", expires_at=1_700_000_060)
        wal.put(b"headers", b"value", headers={"type": b"oak", "": b"", "größe": bytes(300)})
        wal.put(b"stream", b"value", stream=2**32 - 1)
        wal.delete(b"all", expires_at=1_800_000_000.5, headers={"why": b"axe"}, stream=1)
        wal.append(Record(b"old", b"time", timestamp_ns=1))
        wal.sync()
        wal.append_batch([Record(b"batch-%d" % i, bytes([i]) * i * 7) for i in range(12)])
        for number in range(30):
            wal.put(b"key-%03d" % number, b"value " * number)
        wal.put(b"large", bytes(range(256)) * 24)  # more than a segment
        wal.put(b"k" * 3000, b"a long key")
    return files


def cut():
    """Two cuts by truncate_after, inside a batch that had a footer and inside the tail."""
    files = MemoryFiles()
    with open_log(files) as wal:
        for number in range(60):
            wal.put(b"first-%03d" % number, bytes(50))
        wal.append_batch([Record(b"batch-%d" % i, b"kept up to 3") for i in range(8)])
        for number in range(60):
            wal.put(b"gone-%03d" % number, bytes(50))
    with open_log(files) as wal:
        wal.truncate_after(64)
        for number in range(20):
            wal.put(b"second-%03d" % number, bytes(20))
        wal.truncate_after(80)
        wal.put(b"third", b"in the place of second-016")
    return files


def superseded():
    """A crash soon after truncate_after: a footer still speaks of records that are gone."""
    files = MemoryFiles()
    with open_log(files) as wal:
        for number in range(80):
            wal.put(b"first-%03d" % number, bytes(50))
    wal = open_log(files)
    wal.truncate_after(40)
    wal.put(b"second", b"in the place of first-040")
    after = files.crash()
    wal.close()
    return after


def pending():
    """A cut that no segment shows yet, for the disk was full."""
    files = MemoryFiles()
    with open_log(files) as wal:
        for number in range(20):
            wal.put(b"first-%03d" % number, bytes(50))
        files.capacity_bytes = files.used_bytes
        wal.truncate_after(10)
    files.capacity_bytes = None
    return files


def torn():
    """Two unfinished writes that recovery cut: one behind good frames, one alone in its segment."""
    files = MemoryFiles()
    wal = open_log(files)
    wal.put(b"before", b"the first power cut")
    wal.put(b"lost-1", b"by the first power cut" * 4)
    files = _torn(files, 0, keep=1)
    wal = open_log(files)
    wal.put(b"between", b"the power cuts")
    wal.put(b"fills", bytes(3800))
    wal.put(b"lost-2", b"by the second" * 10)  # the first of its segment
    files = _torn(files, 3, keep=0)
    with open_log(files) as wal:
        wal.put(b"after", b"both")
    return files


def _torn(files, base, *, keep):
    """The log after a crash in the frame behind the first `keep` ones of the segment of `base`."""
    after = files.crash()
    path = f"{LOG}/{fmt.segment_name(base)}"
    data = bytearray(after.contents()[path])
    at = fmt.SEGMENT_HEADER_BYTES
    for _ in range(keep):
        at += fmt.FRAME_HEADER.unpack_from(data, at)[2]
    data[at + 60 : at + 72] = bytes(12)  # inside the value
    after.put_file(path, bytes(data))
    return after


def aligned():
    """Frames with sectors of their own."""
    files = MemoryFiles()
    with open_log(files, frame_align_bytes=512) as wal:
        for number in range(12):
            wal.put(b"key-%d" % number, b"value " * number)
        wal.append_batch([Record(b"a"), Record(b"b", bytes(600)), Record.delete(b"c")])
    return files


def compressed():
    """Values by both libraries, and some that did not become smaller."""
    files = MemoryFiles()
    with open_log(files) as wal:
        for name in ("lz4", "zstd", "none"):
            wal.put(b"text-" + name.encode(), b"a ring for every year. " * 40, compression=name)
            wal.put(b"short-" + name.encode(), b"as it is", compression=name)
            every = {"expires_at": 2e9, "headers": {"h": b"v"}, "stream": 5}
            wal.put(b"every-part", bytes(900), compression=name, **every)
        wal.append_batch([Record(b"one", b"11" * 99), Record.delete(b"two")], compression="zstd")
    return files


def pruned():
    """The oldest segments are gone, and pins hold the rest."""
    files = MemoryFiles()
    with open_log(files) as wal:
        for number in range(150):
            wal.put(b"key-%03d" % number, bytes(40))
        wal.pin("invoices", 100)
        wal.pin("größe", 120)
        wal.truncate_before(140)
    return files


def unclean():
    """What a crash leaves: no clean close, no footer."""
    files = MemoryFiles()
    wal = open_log(files)
    for number in range(50):
        wal.put(b"key-%03d" % number, bytes(100))
    after = files.crash()
    wal.close()
    return after


# Without the thread that writes footers while others append: it would do so at any moment.
alone = mock.patch("treering._core.chores.Chores._wake", lambda self: None)
PROGRAMS = {
    program.__name__: alone(program)
    for program in (plain, cut, superseded, pending, torn, aligned, compressed, pruned, unclean)
}


# --- Files and contents --------------------------------------------------------------------------


def format_files(files):
    """The files of a log that belong to the format, by name."""
    return {
        path.removeprefix(f"{LOG}/"): data
        for path, data in sorted(files.contents().items())
        if path.endswith((*FORMAT_SUFFIXES, fmt.MANIFEST_NAME, fmt.PINS_NAME))
    }


def content(wal):
    """Everything that a log says, in JSON's terms."""
    return {
        "first_position": wal.first_position,
        "end": wal.current_position(),
        "pins": wal.pins(),
        "log_id": wal.log_id.hex(),
        "records": [shown(record) for record in wal.read_from()],
    }


def shown(record):
    fields = {"position": record.position, "key": record.key.hex(), "value": record.value.hex()}
    fields["timestamp_ns"] = record.timestamp_ns
    if record.tombstone:
        fields["tombstone"] = True
    if record.expires_at_ns is not None:
        fields["expires_at_ns"] = record.expires_at_ns
    if record.headers:
        fields["headers"] = {name: value.hex() for name, value in record.headers.items()}
    if record.stream:
        fields["stream"] = record.stream
    return fields


def main():
    folder = GOLDEN / f"v{fmt.FORMAT_VERSION}"
    if folder.exists():
        sys.exit(f"{folder} is there: golden files are made once")
    for name, program in PROGRAMS.items():
        files = program()
        (folder / name).mkdir(parents=True)
        for file, data in format_files(files).items():
            (folder / name / file).write_bytes(data)
        with Wal.open(LOG, files=files, read_only=True) as wal:
            text = json.dumps(content(wal), indent=1, ensure_ascii=False)
        (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
