"""When records become durable: ALWAYS, BATCH and OS, told by the fsyncs that reach the disk."""

import errno
import threading
import time
from pathlib import Path

import pytest

from tests._logs import contents, fill, told
from treering import FailedError, FsyncPolicy, PositionError, WaitTimeoutError, Wal
from treering.testing import FaultyFiles, MemoryFiles, PowerCutFiles

PATIENCE = 20


@pytest.fixture
def counted(memory):
    """A log on a disk that counts its fsyncs; as large as no test fills it."""
    memory.files = FaultyFiles(PowerCutFiles())
    memory.options["segment_bytes_max"] = 1 << 20
    return memory


def syncs(log):
    return log.files.count("sync", path=".seg")


def wait_until_durable(wal, position):
    """Without any call that would make it so."""
    end = time.monotonic() + PATIENCE
    while wal.durable_position <= position:
        assert time.monotonic() < end
        time.sleep(0.002)


def test_always_syncs_each_append_before_it_returns(counted):
    """D2, G1."""
    wal = counted.open(fsync_policy=FsyncPolicy.ALWAYS)
    calls = [
        lambda: wal.put(b"k", b"v"),
        lambda: wal.put(b"k", b"v", stream=1),
        lambda: wal.delete(b"k"),
        lambda: wal.append_batch([(b"k", b"v")] * 10)[-1],
    ]
    for count, call in enumerate(calls, 1):
        before = syncs(counted)
        assert call() + 1 == wal.durable_position
        assert syncs(counted) == before + 1
        again = counted.open(files=counted.files.inner.cut())
        assert again.current_position() == wal.current_position(), count


def test_always_is_the_default_policy():
    files = FaultyFiles(MemoryFiles())
    with Wal.open("/log", files=files, segment_bytes_max=4096) as wal:
        for number in range(5):
            wal.put(b"k", b"v")
            assert wal.durable_position == number + 1


def test_os_syncs_only_when_asked(counted):
    """D3."""
    wal = counted.open(fsync_policy=FsyncPolicy.OS)
    before = syncs(counted)
    fill(wal, 500)
    assert syncs(counted) == before
    assert wal.durable_position == 0
    assert wal.sync() == 500 == wal.durable_position
    assert syncs(counted) == before + 1
    assert contents(counted.open(files=counted.files.inner.cut())) == told(0, 500)
    assert wal.sync() == 500
    assert syncs(counted) == before + 1, "there was nothing to sync"


def test_os_syncs_a_full_segment_and_at_the_end(memory):
    memory.files = PowerCutFiles()
    wal = memory.open(fsync_policy=FsyncPolicy.OS)
    fill(wal, 100)
    newest = int(memory.segments()[-1][:20])
    assert wal.durable_position == newest > 0
    wal.close()
    assert contents(memory.open(files=memory.files.cut())) == told(0, 100)


def test_batch_makes_records_durable_without_any_further_call(counted):
    """D3, G2: a background deadline, not "on the next append"."""
    wal = counted.open(fsync_policy=FsyncPolicy.batch(milliseconds=5))
    for end in (1, 2, 50):
        fill(wal, end - wal.current_position())
        wait_until_durable(wal, end - 1)
        assert contents(counted.open(files=counted.files.inner.cut())) == told(0, end)


def test_batch_keeps_its_window(counted):
    """G2: not durable before there is need, durable at most a window after the append."""
    window = 0.5
    wal = counted.open(fsync_policy=FsyncPolicy.batch(milliseconds=window * 1000))
    start = time.monotonic()
    fill(wal, 100)
    assert wal.durable_position == 0 or time.monotonic() - start > window / 4
    wait_until_durable(wal, 99)
    # The fsync must have begun in the window; how late this thread notices is the system's affair.
    assert time.monotonic() - start < window + 5


def test_batch_shares_one_sync_between_many_records(counted):
    wal = counted.open(fsync_policy=FsyncPolicy.batch(milliseconds=300))
    before = syncs(counted)
    fill(wal, 1000)
    wait_until_durable(wal, 999)
    assert 1 <= syncs(counted) - before <= 5


def test_batch_goes_on_after_each_kind_of_append(counted):
    wal = counted.open(fsync_policy=FsyncPolicy.batch(milliseconds=2))
    calls = [
        lambda: wal.put(b"k", b"v"),
        lambda: wal.put(b"k", b"v", headers={"a": b"b"}),
        lambda: wal.delete(b"k"),
        lambda: wal.append_batch([(b"k", b"v")] * 3)[-1],
    ]
    for call in calls * 3:
        wait_until_durable(wal, call())


def test_every_handle_of_a_batch_log_keeps_the_promise(shared):
    handles = [shared.open(fsync_policy=FsyncPolicy.batch(milliseconds=2)) for _ in range(2)]
    for turn in range(6):
        handle = handles[turn % 2]
        position = handle.put(b"k", b"v")
        wait_until_durable(handles[0], position)
        wait_until_durable(handles[1], position)


def test_wait_durable_is_as_strong_as_always(counted):
    wal = counted.open(fsync_policy=FsyncPolicy.OS)
    fill(wal, 10)
    wal.wait_durable(4)
    assert wal.durable_position > 4
    assert contents(counted.open(files=counted.files.inner.cut()))[:5] == told(0, 5)
    before = syncs(counted)
    wal.wait_durable(4)
    wal.wait_durable(0, timeout=0)
    assert syncs(counted) == before
    for position in (10, 99):
        with pytest.raises(PositionError):
            wal.wait_durable(position)


def test_wait_durable_gives_up_in_time_and_the_record_stays(counted):
    wal = counted.open(fsync_policy=FsyncPolicy.OS)
    fill(wal, 3)
    begun, go_on = threading.Event(), threading.Event()
    counted.files.stall("sync", lambda: (begun.set(), go_on.wait(PATIENCE)))
    leader = threading.Thread(target=wal.sync)
    leader.start()
    assert begun.wait(PATIENCE)
    with pytest.raises(WaitTimeoutError) as caught:
        wal.wait_durable(2, timeout=0.05)
    assert caught.value.position == 2
    assert isinstance(caught.value, TimeoutError)
    assert contents(wal) == told(0, 3)
    go_on.set()
    leader.join(PATIENCE)
    wal.wait_durable(2, timeout=PATIENCE)


def test_a_sync_acknowledges_only_what_was_there_when_it_began(counted):
    """G15."""
    wal = counted.open(fsync_policy=FsyncPolicy.OS)
    fill(wal, 3)
    begun, go_on = threading.Event(), threading.Event()
    counted.files.stall("sync", lambda: (begun.set(), go_on.wait(PATIENCE)))
    leader = threading.Thread(target=wal.sync)
    leader.start()
    assert begun.wait(PATIENCE)
    fill(wal, 4)
    go_on.set()
    leader.join(PATIENCE)
    assert wal.durable_position == 3
    assert wal.sync() == 7


class Moments:
    """Counts the moments that a leader waits for company, and says whether somebody came."""

    def __init__(self, wal, *, company):
        self.count, self.company = 0, company
        wal._engine.commit._page = self

    def linger(self, seconds):
        assert 0 <= seconds < 1
        self.count += 1
        return self.company


def test_who_appends_alone_never_waits_for_company(counted):
    wal = counted.open(fsync_policy=FsyncPolicy.ALWAYS)
    moments = Moments(wal, company=True)
    fill(wal, 50)
    assert moments.count == 0


def test_who_waits_for_company_in_vain_does_so_ever_less(counted):
    """Batches look like company at first."""
    wal = counted.open(fsync_policy=FsyncPolicy.OS)
    moments = Moments(wal, company=False)
    for _ in range(300):
        fill(wal, 3)
        wal.sync()
    assert 3 <= moments.count < 15


def test_who_finds_company_waits_for_it_again(counted):
    wal = counted.open(fsync_policy=FsyncPolicy.OS)
    moments = Moments(wal, company=True)
    for _ in range(30):
        fill(wal, 3)
        wal.sync()
    assert moments.count == 30


def test_appends_do_not_wait_for_somebody_elses_sync(counted):
    wal = counted.open(fsync_policy=FsyncPolicy.OS)
    fill(wal, 3)
    begun, go_on = threading.Event(), threading.Event()
    counted.files.stall("sync", lambda: (begun.set(), go_on.wait(PATIENCE)))
    leader = threading.Thread(target=wal.sync)
    leader.start()
    assert begun.wait(PATIENCE)
    assert fill(wal, 100) == range(3, 103)
    assert contents(wal) == told(0, 103)
    go_on.set()
    leader.join(PATIENCE)


def test_flush_tells_the_end_and_has_nothing_to_do(log):
    """D1: written at return, so there is nothing in the process that could be flushed."""
    wal = log.open()
    assert wal.flush() == 0
    fill(wal, 3)
    assert wal.flush() == 3 == wal.current_position()


def test_a_sync_during_a_cut_never_makes_more_durable_than_there_is(memory):
    """One handle's fsync began before another one's cut, and ends after or before it."""
    memory.files = FaultyFiles(MemoryFiles())
    options = {"process_lock": "file", "segment_bytes_max": 1 << 16}
    wal, other = memory.open(**options), memory.open(**options)
    fill(wal, 50)
    begun, go_on = threading.Event(), threading.Event()
    memory.files.stall("sync", lambda: (begun.set(), go_on.wait(PATIENCE)))
    leader = threading.Thread(target=wal.sync)
    leader.start()
    assert begun.wait(PATIENCE)
    cutter = threading.Thread(target=lambda: (other.truncate_after(5), fill(other, 2)))
    cutter.start()
    cutter.join(0.2)
    go_on.set()
    for thread in (cutter, leader):
        thread.join(PATIENCE)
    assert other.current_position() == 7
    assert other.durable_position == 5, "the two new records were never synced"


def test_a_failed_sync_ends_the_log_for_every_handle(shared):
    """D6: no retry, no further acknowledgement; what was written stays readable."""
    faulty = shared.options["files"] = FaultyFiles(shared.files)
    wal, other = shared.open(), shared.open(fsync_policy=FsyncPolicy.ALWAYS)
    quiet = shared.open(read_only=True)
    fill(wal, 5)
    wal.sync()
    wal.put(b"k", b"v")
    fault = faulty.fail("sync", path=".seg", number=errno.EIO)
    for handle in (wal, other):
        for call in (
            handle.sync,
            lambda h=handle: h.put(b"k", b"v"),
            lambda h=handle: h.delete(b"k"),
            lambda h=handle: h.append_batch([(b"k", b"v")] * 2),
            lambda h=handle: h.put(b"k", b"v", durable=True),
            lambda h=handle: h.wait_durable(5),
            lambda h=handle: h.truncate_after(2),
            lambda h=handle: h.truncate_before(2),
        ):
            with pytest.raises(FailedError) as caught:
                call()
            assert caught.value.errno == errno.EIO
            assert "open the log again" in caught.value.hint
        assert handle.stats()["failed"]
    assert fault.hits == 1
    wal.wait_durable(4)
    assert wal.durable_position == 5
    assert contents(wal.read_from(0, stop=5)) == told(0, 5)
    assert contents(quiet.read_from(0, stop=5)) == told(0, 5)
    again = shared.open()
    assert again.current_position() == 6
    assert again.put(b"k", b"v") == 6
    assert again.sync() == 7
    with pytest.raises(FailedError):
        wal.put(b"k", b"v")


# --- What it costs the disk ---


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="Linux counts what is written")
def test_a_durable_append_writes_little_however_full_its_segment_is(path):
    """A kernel with large folios may dirty a megabyte for a record in a mapping."""
    with Wal.open(path) as wal:
        for _ in range(24):
            wal.append_batch([(b"key", bytes(4000))] * 1000, durable=False)
        wal.sync()
        before = written_by_this_process()
        for _ in range(100):
            wal.put(b"key", bytes(100))
        each = (written_by_this_process() - before) / 100
    assert each < 100_000, f"{each:,.0f} bytes each"


def written_by_this_process():
    """Bytes, by whole pages; those that the background prepares are among them."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("write_bytes"))
