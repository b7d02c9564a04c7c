"""Tasks for the tests of full disks: a small tmpfs, a file-size limit, a quota."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import subprocess
import time
from pathlib import Path

from tests.processes.records import HEAD, Witness, make
from treering import DiskFullError, FsyncPolicy, Wal
from treering.testing import FaultyFiles

SEGMENT_BYTES = 64 << 10


def mount_small(folder: str, size: str) -> bool:
    """A tmpfs of that size at `folder`, which goes with this process (and its mount namespace)."""
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder],
        capture_output=True,
        check=False,
    )
    return done.returncode == 0


class Filler:
    """Appends numbered records until the disk is full."""

    def __init__(self, wal: Wal, length: int = 900) -> None:
        self.wal = wal
        self.length = length
        self.next = 0
        self.expected = 0  # position

    def fill(self, most: int = 1 << 30) -> int:
        """Until DiskFullError, or `most` records; how many went in."""
        before = self.next
        try:
            while self.next - before < most:
                assert self.wal.put(*make(0, self.next, length=self.length)) == self.expected
                self.next += 1
                self.expected += 1
        except DiskFullError as error:
            assert error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG), error
            assert error.hint
        return self.next - before

    def check(self) -> None:
        """All that is there is what it was, and nothing of what failed shows."""
        assert self.wal.current_position() == self.expected
        witness = Witness(self.wal.first_position)
        records = iter(self.wal.read_from())
        for record in records:
            if not witness.next:
                witness.next[0] = HEAD.unpack_from(record.value)[1]
            witness.see(record)
        assert witness.position == self.expected

    def check_reopened(self, log: str) -> None:
        """The same before and after the log is closed and opened again."""
        self.check()
        self.wal.close()
        with Wal.open(log, create=False) as self.wal:
            self.check()


def fill_a_small_disk(folder, size, policy, exclusive, map_tail):
    """Fill, look, truncate, go on; fill with something else, reopen, empty, go on. All without
    a gap. What happened, or None where nothing can be mounted."""
    if not mount_small(folder, size):
        return None
    log = os.path.join(folder, "log")
    options = {
        "fsync_policy": FsyncPolicy.parse(policy),
        "segment_bytes_max": SEGMENT_BYTES,
        "exclusive": exclusive,
        "map_tail": map_tail,
    }
    wal = Wal.open(log, **options)
    filler = Filler(wal)
    counts = [filler.fill()]
    _until_nothing_fits(filler)
    filler.check()
    assert wal.sync() == filler.expected
    _batches_are_refused_whole(filler)

    # Room by truncation, in the same handle.
    first = wal.truncate_before(filler.expected // 2)
    assert first > 0
    counts.append(filler.fill())
    assert counts[-1] > 0
    filler.check()

    # Full to the last byte with something else: reading, truncating and reopening still work.
    ballast = Path(folder) / "ballast"
    _fill_up(ballast)
    _small_appends_until_full(filler)
    filler.check()
    wal.close()
    with Wal.open(log, read_only=True) as reading:
        assert reading.current_position() == filler.expected
    wal = filler.wal = Wal.open(log, **options)
    assert wal.recovery.damage == ()
    filler.check()
    wal.truncate_before(wal.first_position + (filler.expected - wal.first_position) // 2)
    _fill_up(ballast)
    wal.truncate_after(filler.expected - 1)
    filler.expected -= 1
    filler.next -= 1
    filler.check()

    # Emptied: the same handle goes on.
    ballast.unlink()
    counts.append(filler.fill(500))
    assert counts[-1] > 0
    filler.check_reopened(log)
    return counts


def _until_nothing_fits(filler: Filler) -> None:
    """Footers are written in the background, and a segment gives back what it does not need."""
    for _ in range(100):
        if filler.fill() == 0:
            return
        time.sleep(0.01)
    raise AssertionError("full is full")


def _fill_up(ballast: Path) -> None:
    with open(ballast, "ab", buffering=0) as file:
        for size in (65536, 4096, 512, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError as error:
                assert error.errno == errno.ENOSPC


def _small_appends_until_full(filler: Filler) -> None:
    """What the tail still has room for goes in."""
    filler.length = 8
    filler.fill()
    filler.length = 900


def _batches_are_refused_whole(filler: Filler) -> None:
    end = filler.wal.current_position()
    records = [make(0, filler.next + n, n, 200, 900) for n in range(200)]
    try:
        filler.wal.append_batch(records)
        raise AssertionError("a batch of 180 KB on a full disk")
    except DiskFullError:
        assert filler.wal.current_position() == end


def open_a_copy_with_holes(folder, size):
    """A copy whose tail is a hole, as `cp` makes it, on a disk that is full; how many records went
    in after there was room again."""
    if not mount_small(folder, size):
        return None
    original, log, ballast = f"{folder}.original", f"{folder}/log", Path(folder) / "ballast"
    with Wal.open(original, segment_bytes_max=SEGMENT_BYTES) as wal:
        filler = Filler(wal)
        filler.fill(10)
    subprocess.run(["cp", "--sparse=always", "-r", original, log], check=True)
    with open(os.path.join(log, "00000000000000000000.seg"), "rb+") as file:
        assert os.fstat(file.fileno()).st_blocks * 512 < SEGMENT_BYTES / 2, "a hole"
    _fill_up(ballast)
    with Wal.open(log, segment_bytes_max=SEGMENT_BYTES) as wal:
        filler.wal = wal
        assert filler.fill(100) == 0
        filler.check()
        ballast.unlink()
        count = filler.fill(100)
        filler.check()
        return count


def fill_with_two_processes(folder, size):
    """Two processes fill a small disk; then one truncates, and both go on without reopening."""
    if not mount_small(folder, size):
        return None
    log = os.path.join(folder, "log")
    options = {"fsync_policy": FsyncPolicy.OS, "segment_bytes_max": SEGMENT_BYTES}
    with Wal.open(log, **options) as wal:
        full_read, full_write = os.pipe()
        go_read, go_write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(go_write)
            with Wal.open(log, **options) as wal:
                _append_until_full(wal)
                os.write(full_write, b"!")
                os.read(go_read, 1)
                wal.put(b"child", b"goes on")
            os._exit(0)
        _append_until_full(wal)
        os.read(full_read, 1)
        wal.truncate_before(wal.current_position() // 2)
        os.write(go_write, b"!")
        wal.put(b"parent", b"goes on")
        assert os.waitpid(pid, 0)[1] == 0
        keys = [record.key for record in wal.read_from()]
        assert {b"child", b"parent"} < set(keys)
        return len(keys)


def _append_until_full(wal: Wal) -> None:
    try:
        while True:
            wal.put(b"k", bytes(900))
    except DiskFullError:
        return


def reach_the_file_size_limit(log, limit):
    """RLIMIT_FSIZE, which Python turns from a deadly signal into EFBIG: DiskFullError; raised,
    the same handle goes on."""
    assert signal.getsignal(signal.SIGXFSZ) == signal.SIG_IGN
    wal = Wal.open(log, fsync_policy=FsyncPolicy.OS, segment_bytes_max=limit // 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    filler = Filler(wal)
    assert filler.fill(500) == 500  # no file is as large as the limit
    try:
        wal.put(b"large", bytes(2 * limit))
        raise AssertionError("a record over the limit on a file's size")
    except DiskFullError as error:
        assert error.errno == errno.EFBIG
    filler.check()
    assert filler.fill(10) == 10
    # The limit below a segment's size: the next segment cannot be made.
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit // 4, resource.RLIM_INFINITY))
    _wait_for_spare(log)
    counts = filler.fill(100_000)
    assert counts < 100_000
    filler.check()
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    assert filler.fill(100) == 100
    filler.check_reopened(log)
    return counts


def _wait_for_spare(log: str) -> None:
    """So that the number of segments before the limit bites does not depend on a thread."""
    time.sleep(0.05)


def reach_the_quota(log):
    """EDQUOT wherever space is asked for; then the quota is raised."""
    files = FaultyFiles()
    wal = Wal.open(log, fsync_policy=FsyncPolicy.OS, segment_bytes_max=SEGMENT_BYTES, files=files)
    filler = Filler(wal)
    assert filler.fill(5) == 5
    fault = files.fail(("allocate", "write"), number=errno.EDQUOT, lasting=True)
    some = filler.fill()
    assert filler.fill() == 0
    filler.check()
    files.heal(fault)
    assert filler.fill(200) == 200
    filler.check()
    wal.close()
    shutil.rmtree(log)
    return some
