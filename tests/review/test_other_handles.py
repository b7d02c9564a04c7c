"""Two handles of one log in one process, the second one used from inside the first (D9, D10, G13)."""

from __future__ import annotations

import threading

import pytest

from tests._logs import contents
from treering import FsyncPolicy, ReentrantError, Wal
from treering._core import format as fmt
from treering._core.files import SystemFiles

LOCKS = ["auto", "file"]
OPTIONS = {"segment_bytes_max": 1 << 16, "lock_timeout_seconds": 5}


class InsideFiles(SystemFiles):
    """Does something once inside a sync, or inside a roll, as a signal's handler may."""

    def __init__(self):
        self.in_sync = self.in_roll = None

    def sync(self, descriptor):
        todo, self.in_sync = self.in_sync, None
        if todo is not None:
            todo()
        super().sync(descriptor)

    def rename(self, old, new):
        if new.endswith(".seg") and self.in_roll is not None:
            todo, self.in_roll = self.in_roll, None
            todo()
        super().rename(old, new)


@pytest.fixture(params=LOCKS)
def pair(request, tmp_path):
    files = InsideFiles()
    options = {**OPTIONS, "process_lock": request.param, "fsync_policy": FsyncPolicy.OS}
    one = Wal.open(tmp_path / "log", files=files, **options)
    other = Wal.open(tmp_path / "log", **options)
    yield files, one, other
    other.close()
    one.close()


def in_time(call):
    """The call's result or error; fails instead of hanging."""
    found = []

    def run():
        try:
            found.append((call(), None))
        except Exception as error:
            found.append((None, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(20)
    assert found, "it hangs"
    return found[0]


@pytest.mark.parametrize("mutex", [fmt.APPEND_MUTEX_OFFSET, fmt.SYNC_MUTEX_OFFSET])
def test_one_handle_never_gives_back_what_the_other_holds(tmp_path, mutex):
    """Another process would come in between: seen, an acknowledged record was overwritten."""
    one, other = (Wal.open(tmp_path / "log", **OPTIONS) for _ in range(2))
    page, others = one._engine.control.page, other._engine.control.page
    assert page.lock(mutex, 0) >= 0
    assert others.lock(mutex, 0.01) < 0
    assert not others.unlock(mutex)
    assert others.is_mine(mutex)  # by the first handle
    assert in_time(lambda: others.is_mine(mutex)) == (False, None)
    assert in_time(lambda: others.lock(mutex, 0.01))[0] < 0
    assert page.unlock(mutex)
    assert in_time(lambda: (others.lock(mutex, 0), others.unlock(mutex)))[0] == (0, True)
    other.close()
    one.close()


def test_closing_another_handle_during_a_sync_does_not_wait_for_itself(pair):
    files, one, other = pair
    other.put(b"k", b"v")
    files.in_sync = other.close
    assert in_time(one.sync) == (1, None)
    assert other.closed


def test_syncing_by_another_handle_during_a_sync_does_not_wait_for_itself(pair):
    files, one, other = pair
    one.put(b"k", b"v")
    files.in_sync = other.sync
    assert in_time(one.sync) == (1, None)
    assert other.durable_position == 1


@pytest.mark.parametrize("call", ["put", "put durably", "truncate", "close"])
def test_another_handle_used_inside_a_roll_is_refused_or_closes(pair, call):
    """At once: what it waits for is held by its own thread. Nothing is lost or doubled."""
    files, one, other = pair
    calls = {
        "put": lambda: other.put(b"k", b"other"),
        "put durably": lambda: other.put(b"k", b"other", durable=True),
        "truncate": lambda: other.truncate_after(0),
        "close": other.close,
    }
    caught = []

    def inside():
        try:
            calls[call]()
        except ReentrantError as error:
            caught.append(error)

    one.put(b"k", bytes(40_000))
    files.in_roll = inside
    assert in_time(lambda: one.put(b"k", bytes(40_000))) == (1, None)
    assert files.in_roll is None
    assert other.closed if call == "close" else caught
    one.put(b"k", b"more")
    assert [record[0] for record in contents(one)] == [0, 1, 2]
    if call != "close":
        assert other.put(b"k", b"afterwards") == 3
