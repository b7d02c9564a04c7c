"""Following the end of the log: in this handle, another one, and read-only."""

import contextlib
import threading
import time

import pytest

from tests._logs import MODES, contents, fill, told
from treering import ClosedError, PrunedError, RewoundError


@pytest.fixture(params=["disk", "untrusted", "file-lock"])
def followed(request, tmp_path):
    """A log that is mapped, written, or locked by a file lock; the other modes add nothing here."""
    log = MODES[request.param](tmp_path)
    yield log
    log.clean_up()


@pytest.fixture(autouse=True)
def quick_to_notice(monkeypatch):
    """How often a waiting reader looks whether it was stopped; only these tests stop many."""
    monkeypatch.setattr("treering._core.reader.WAIT_SLICE_SECONDS", 0.02)


# Long enough to never matter; a test that needs it has failed.
PATIENCE = 20


@contextlib.contextmanager
def follower(reader):
    """A thread that follows: yields (records so far, wait until there are so many)."""
    found, more, trouble = [], threading.Condition(), []

    def follow():
        try:
            for record in reader:
                with more:
                    found.append(record)
                    more.notify_all()
        except Exception as error:
            trouble.append(error)
        with more:
            trouble.append(None)
            more.notify_all()

    def until(count):
        with more:
            assert more.wait_for(lambda: len(found) >= count or trouble, PATIENCE), len(found)
            if trouble and trouble[0] is not None:
                raise trouble[0]

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        yield found, until
    finally:
        reader.stop()
        thread.join(PATIENCE)
        assert not thread.is_alive()


def test_a_follower_sees_each_record_after_it_was_appended(followed):
    wal, other = followed.open(), followed.open()
    fill(wal, 3)
    for handle in (wal, other, followed.open(read_only=True)):
        with follower(handle.read_from(0, follow=True)) as (found, until):
            start = wal.current_position()
            until(start)
            for count in range(start + 1, start + 20):
                fill(wal, 1)
                until(count)
            assert contents(found) == told(0, start + 19)


def test_a_follower_crosses_segments_as_they_are_made(followed):
    wal = followed.open()
    with (
        follower(wal.read_from(0, follow=True)) as (live, until_live),
        follower(followed.open(read_only=True).read_from(0, follow=True)) as (quiet, until_quiet),
    ):
        for count in range(50, 301, 50):
            fill(wal, 50)
            until_live(count)
            until_quiet(count)
        assert len(followed.segments()) > 4
    assert contents(live) == contents(quiet) == told(0, 300)


def test_a_follower_may_start_at_the_end(log):
    wal = log.open()
    fill(wal, 40)
    with follower(wal.read_from(40, follow=True)) as (found, until):
        fill(wal, 2)
        until(2)
        assert contents(found) == told(40, 42)


def test_a_timeout_ends_a_follower_when_nothing_comes(followed):
    wal = followed.open()
    fill(wal, 3)
    for handle in (wal, followed.open(read_only=True)):
        for timeout in (0, 0.01, 0.1):
            start = time.monotonic()
            assert contents(handle.read_from(0, follow=True, timeout=timeout)) == told(0, 3)
            assert time.monotonic() - start >= timeout


def test_a_timeout_is_for_each_record(wal):
    reader = wal.read_from(0, follow=True, timeout=0.2)
    for number in range(5):
        threading.Timer(0.05, wal.put, (b"k", b"%d" % number)).start()
        assert next(reader).value == b"%d" % number
    with pytest.raises(StopIteration):
        next(reader)


def test_stop_position_ends_a_follower(log):
    wal = log.open()
    fill(wal, 3)
    with follower(wal.read_from(0, stop=5, follow=True)) as (found, until):
        fill(wal, 10)
        until(999)
    assert contents(found) == told(0, 5)


def test_stop_ends_a_waiting_follower_from_another_thread(followed):
    wal = followed.open()
    for handle in (wal, followed.open(read_only=True)):
        reader = handle.read_from(handle.current_position(), follow=True)
        threading.Timer(0.05, reader.stop).start()
        assert list(reader) == []


def test_a_follower_of_durable_records_waits_for_the_sync(followed):
    wal, other = followed.open(), followed.open()
    with follower(other.read_from(0, follow=True, durable_only=True)) as (found, until):
        fill(wal, 3)
        wal.sync()
        until(3)
        fill(wal, 2)
        fill(other, 2)
        assert contents(found) == told(0, 3)
        wal.sync()
        until(7)
        assert contents(found) == told(0, 7)


def test_closing_the_log_ends_a_waiting_follower_with_a_clear_error(followed):
    for options in ({}, {"read_only": True}):
        keep = followed.open()
        wal = followed.open(**options)
        reader = wal.read_from(wal.current_position(), follow=True)
        threading.Timer(0.05, wal.close).start()
        with pytest.raises(ClosedError):
            list(reader)
        keep.close()


def test_a_follower_is_told_of_a_cut_it_had_passed(followed):
    """D11: the new records at old positions are not passed over silently."""
    wal = followed.open()
    fill(wal, 100)
    for handle in (wal, followed.open(), followed.open(read_only=True)):
        for cut in (0, 31, 70, 99):
            with follower(handle.read_from(0, follow=True)) as (found, until):
                until(100)
                wal.truncate_after(cut)
                fill(wal, 100 - cut)
                with pytest.raises(RewoundError) as caught:
                    until(101)
                assert caught.value.end == cut
                assert contents(found) == told(0, 100)


def test_a_follower_at_the_end_that_is_not_cut_goes_on(followed):
    wal = followed.open()
    for handle in (wal, followed.open(), followed.open(read_only=True)):
        start = wal.current_position()
        fill(wal, 60)
        with follower(handle.read_from(start, stop=start + 80, follow=True)) as (found, until):
            until(60)
            fill(wal, 40)
            until(80)
            assert contents(found) == told(start, start + 80)
        wal.truncate_after(start + 80)


def test_a_follower_that_sleeps_through_truncation_goes_on(followed):
    wal = followed.open()
    for handle in (wal, followed.open(), followed.open(read_only=True)):
        fill(wal, 100)
        start = wal.current_position()
        with follower(handle.read_from(start, follow=True)) as (found, until):
            assert wal.truncate_before(start) == start
            fill(wal, 100)
            until(100)
            assert contents(found) == told(start, start + 100)


def test_a_reader_left_behind_by_truncation_is_told_in_a_read_only_handle_too(followed):
    wal, quiet = followed.open(), followed.open(read_only=True)
    fill(wal, 300)
    reader = quiet.read_from(0, follow=True, timeout=0)
    next(reader)
    oldest = wal.truncate_before(250)
    with pytest.raises(PrunedError) as caught:
        list(reader)
    assert caught.value.oldest == oldest
    with pytest.raises(PrunedError):
        quiet.read(oldest - 1)
    assert quiet.first_position == oldest


def test_a_read_only_follower_outlives_the_writer(followed):
    """It goes on when the log is opened again, by whomever."""
    wal = followed.open()
    fill(wal, 10)
    with follower(followed.open(read_only=True).read_from(0, follow=True)) as (found, until):
        until(10)
        for round_ in range(1, 4):
            wal.close()
            wal = followed.open()
            fill(wal, 50)
            until(10 + 50 * round_)
    assert contents(found) == told(0, 160)


def test_many_followers_see_the_same(followed):
    wal, other = followed.open(), followed.open()
    handles = [wal, other, followed.open(read_only=True)] * 2
    with contextlib.ExitStack() as stack:
        followers = [
            stack.enter_context(follower(handle.read_from(0, follow=True))) for handle in handles
        ]
        for turn in range(50):
            fill((wal, other)[turn % 2], 2)
        for found, until in followers:
            until(100)
            assert contents(found) == told(0, 100)


@pytest.mark.parametrize("few", [1, 30, 200, 700])
def test_a_follower_that_begins_in_the_middle_of_a_segment_gets_what_comes(memory, few):
    """What it reads first begins at a signpost before its position, however little is new."""
    wal = memory.open(segment_bytes_max=1 << 20)
    fill(wal, few)
    end = wal.current_position()
    for reader in (
        wal.read_from(end, follow=True, timeout=0.01),
        memory.open(segment_bytes_max=1 << 20, read_only=True).read_from(
            end, follow=True, timeout=0.01
        ),
    ):
        assert list(reader) == []  # it has waited
    reader = wal.read_from(end, follow=True, timeout=0.5)
    thread = threading.Timer(0.1, lambda: fill(wal, 2))
    thread.start()
    found = [next(reader) for _ in range(2)]
    thread.join()
    assert contents(found) == told(end, end + 2)
