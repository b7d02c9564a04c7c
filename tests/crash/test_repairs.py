"""Repair is as careful with the disk as the log itself (G11, G12).

tests/cli/test_repair.py tells what a repair does; here the power is cut around it.
"""

import os

import pytest

from tests.cli._damage import DAMAGES, small_log
from treering import Wal, repair
from treering._core import format as fmt
from treering.testing import PowerCutFiles

COPY = "/copy"
# Not part of the log, and made anew by whoever opens it.
OURS = (fmt.CONTROL_NAME, fmt.LOCK_NAME, fmt.OPENING_NAME)
KINDS = ["header-middle", "footer", "frame-of-a-full-segment", "manifest-damaged", "pins"]


def damaged(name):
    """The durable files of a log with this damage, and where it is."""
    log = small_log()
    DAMAGES[name].do(log)
    files = PowerCutFiles()
    for path, data in log.files.contents().items():
        files.put_file(path, data)
    return files, log.path


def kept(files):
    """Every file that counts."""
    return {
        path: data for path, data in files.contents().items() if os.path.basename(path) not in OURS
    }


@pytest.mark.parametrize("into", [None, COPY], ids=["in place", "copy"])
@pytest.mark.parametrize("name", KINDS)
def test_a_repair_is_durable_when_it_returns(name, into):
    """G11: what it mended, and what it took out."""
    files, path = damaged(name)
    repair(path, files=files, into=into)
    assert kept(files.cut()) == kept(files)


@pytest.mark.parametrize("name", ["header-middle", "footer"])
def test_the_bytes_that_are_taken_out_are_durable_before_they_are_gone(name):
    """D5: at every operation, what was in the log is in it or in a file beside it."""
    files, path = damaged(name)
    before = files.contents()
    report = repair(path, files=files, dry_run=True)
    assert report.actions
    images = []
    files.on_operation = lambda called, where: images.extend(files.images(4, len(images)))
    repair(path, files=files)
    files.on_operation = None
    for image in images:
        pieces = b"".join(image.contents().values())
        for segment, data in before.items():
            if segment.endswith(fmt.SEGMENT_SUFFIX):
                head, tail = data[: fmt.SEGMENT_HEADER_BYTES], data[-fmt.TRAILER_BYTES :]
                assert head in pieces, segment
                assert tail in pieces, segment


def test_a_repaired_copy_is_whole_or_not_there():
    """G11: whenever the power goes."""
    files, path = damaged("frame-of-a-full-segment")
    images = []
    files.on_operation = lambda called, where: images.extend(files.images(3, len(images)))
    report = repair(path, files=files, into=COPY)
    files.on_operation = None
    there = 0
    for image in images:
        if not image.is_directory(COPY):
            continue
        there += 1
        with Wal.open(COPY, files=image, read_only=True) as wal:
            assert wal.recovery.damage == ()
            assert [record.position for record in wal] == list(range(report.end))
    assert 0 < there < len(images)
