"""Numbers in hostile files are claims: nobody makes room for them (G21, D12)."""

import json
import subprocess
import sys
import textwrap

import pytest

from tests.battery.hostile import repair_checksums
from tests.format._golden import golden
from treering._core import format as fmt

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS, ru_maxrss, SEEK_DATA")

MEMORY_KIB_MAX = 48 * 1024
SECONDS_MAX = 20

PROGRAM = """
    import json, resource, sys, time
    from pathlib import Path
    from treering import TreeringError, Wal, verify

    def peak_kib():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def attempt(what):
        try:
            return what()
        except TreeringError as error:
            return type(error).__name__

    def read(path, **options):
        with Wal.open(path, segment_bytes_max=4096, **options) as wal:
            count = sum(1 for _ in wal.read_from())
            attempt(lambda: wal.read(wal.current_position() - 1))
            attempt(lambda: wal.pins())
            attempt(lambda: next(wal.read_backwards()))
            return count

    def everything(path):
        yield attempt(lambda: read(path, read_only=True))
        yield attempt(lambda: verify(path).ok)
        yield attempt(lambda: read(path))

    limit = 500 << 20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    told = {}
    for path in ["unspoiled", *sys.argv[2:]]:
        before, started = peak_kib(), time.monotonic()
        said = list(everything(Path(sys.argv[1], path)))
        told[path] = [peak_kib() - before, time.monotonic() - started, said]
    print(json.dumps(told))
"""


def number(value, size):
    return value.to_bytes(size, "little")


def in_frame(field, value, size):
    """The first frame's field at this value, its checksum right if that can be."""

    def spoil(data):
        at = fmt.SegmentHeader.unpack(data).frames_start
        return data[: at + field] + number(value, size) + data[at + field + size :]

    return spoil


def in_trailer(field, value, size):
    def spoil(data):
        at = len(data) - fmt.TRAILER_BYTES + field
        return data[:at] + number(value, size) + data[at + size :]

    return spoil


def sparse(data):
    """The same file, a hundred gigabytes long."""
    return data, 100 << 30


FIRST, TAIL = fmt.segment_name(0), fmt.segment_name(51)

HOSTILE = {
    "frame of a gigabyte": (FIRST, in_frame(8, 2**30, 4)),
    "frame of four gigabytes": (FIRST, in_frame(8, 2**32 - 8, 4)),
    "frame of four billion records": (FIRST, in_frame(12, 2**32 - 1, 4)),
    "key of 64 KiB": (FIRST, in_frame(34, 2**16 - 1, 2)),
    "value of four gigabytes": (FIRST, in_frame(36, 2**32 - 1, 4)),
    "index of four billion entries": (FIRST, in_trailer(12, 2**32 - 1, 4)),
    "index of as many entries as fit": (FIRST, in_trailer(12, 160, 4)),
    "end at 2**63": (FIRST, in_trailer(48, 2**63, 8)),
    "frames that end at 2**63": (FIRST, in_trailer(56, 2**63, 8)),
    "tail of a hundred gigabytes": (TAIL, sparse),
    "segment of a hundred gigabytes": (FIRST, sparse),
    "manifest of a hundred gigabytes": (fmt.MANIFEST_NAME, sparse),
    "pins of a hundred gigabytes": (fmt.PINS_NAME, lambda data: (b'{"pins"', 100 << 30)),
    "pins within pins": (fmt.PINS_NAME, lambda data: b'{"pins":' + b"[" * 200_000),
    "pins at infinity": (fmt.PINS_NAME, lambda data: b'{"version":1,"pins":{"a":Infinity}}'),
    "pins of a million digits": (fmt.PINS_NAME, lambda data: b'{"pins":{"a":' + b"9" * 10**6),
}


def make(folder, name, spoil):
    """The golden log with one file spoiled, its checksums right."""
    folder.mkdir()
    files = golden("plain").files
    for file, data in files.items():
        (folder / file).write_bytes(data)
    spoiled = spoil(files.get(name, b""))
    data, size = spoiled if isinstance(spoiled, tuple) else (spoiled, None)
    if name.endswith(fmt.SEGMENT_SUFFIX) and size is None:
        data = repair_checksums(name, data)
    (folder / name).write_bytes(data)
    if size is not None:
        with open(folder / name, "r+b") as file:
            file.truncate(size)


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What one process with little memory told of all these logs, one after the other."""
    folder = tmp_path_factory.mktemp("hostile")
    make(folder / "unspoiled", fmt.PINS_NAME, lambda data: b"")
    for case, (name, spoil) in HOSTILE.items():
        make(folder / case, name, spoil)
    program = [sys.executable, "-c", textwrap.dedent(PROGRAM), str(folder), *HOSTILE]
    done = subprocess.run(program, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("case", HOSTILE)
def test_a_claim_costs_neither_memory_nor_time(told, case):
    grown_kib, seconds, said = told[case]
    assert grown_kib < MEMORY_KIB_MAX
    assert seconds < SECONDS_MAX
    assert len(said) == 3


def test_the_program_does_what_it_should_with_an_unspoiled_log(told):
    assert told["unspoiled"][2][:1] + told["unspoiled"][2][2:] == [52, 52]
