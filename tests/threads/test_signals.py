"""Real signals: handlers that raise and handlers that call the log, at moments nobody chose."""

import contextlib
import random
import signal
import time

import pytest

from tests._logs import contents
from treering import FsyncPolicy, Record, ReentrantError

pytestmark = pytest.mark.skipif(
    not hasattr(signal, "setitimer"), reason="needs interval timers (POSIX)"
)

SECONDS = 0.5


class Interrupt(BaseException):
    """What Ctrl-C raises, but no test runner takes it for one."""


@contextlib.contextmanager
def alarms(handler, rng):
    """Calls the handler again and again, after times nobody knows."""

    def on_alarm(number, frame):
        signal.setitimer(signal.ITIMER_REAL, rng.uniform(0.000_05, 0.002))
        handler()

    before = signal.signal(signal.SIGALRM, on_alarm)
    signal.setitimer(signal.ITIMER_REAL, 0.001)
    try:
        yield
    finally:
        # First: a handler that is due already would set the timer again, for the default action.
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def append_something(wal, rng, number):
    """One of the ways to append; (position of the first, its key)."""
    key, kind = b"%d" % number, rng.randrange(5)
    if kind == 0:
        return wal.append_batch([(key, b"a"), (key, b"b")])[0], key
    if kind == 1:
        return wal.put(key, b"v" * 600, headers={"a": b"b"}), key
    if kind == 2:
        return wal.put(key, b"v", durable=True), key
    if kind == 3:
        return wal.append(Record.put(key, b"v")), key
    return wal.put(key, b"v" * 100), key


# A handler's exception may land in a weak reference's callback, where Python only reports it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("policy", ["os", "batch:2"])
def test_g14_d10_random_interrupts_leave_each_append_whole_or_absent(disk, policy):
    rng = random.Random(policy)
    wal = disk.open(fsync_policy=FsyncPolicy.parse(policy), segment_bytes_max=4096)
    armed, hits, acknowledged = False, 0, {}

    def handler():
        nonlocal armed, hits
        if armed:
            armed = False
            hits += 1
            raise Interrupt

    with alarms(handler, rng):
        until, number = time.monotonic() + SECONDS, 0
        while time.monotonic() < until:
            number += 1
            try:
                armed = True
                position, key = append_something(wal, rng, number)
                armed = False
                acknowledged[position] = key
            except Interrupt:
                pass
    assert hits > 10
    found = contents(wal)
    assert [position for position, _, _ in found] == list(range(wal.current_position()))
    keys = {position: key for position, key, _ in found}
    assert keys.items() >= acknowledged.items()
    second_halves = [key for _, key, value in found if value == b"b"]
    assert len(second_halves) == len([key for _, key, value in found if value == b"a"])
    wal.check()
    other = disk.open()
    assert other.put(b"other", b"") == len(found)
    assert wal.put(b"this", b"") == len(found) + 1
    wal.sync()


@pytest.mark.parametrize("policy", ["os", "batch:2", "always"])
def test_d10_a_handler_that_appends_is_refused_or_succeeds_and_never_hangs(disk, policy):
    rng = random.Random(policy)
    wal = disk.open(fsync_policy=FsyncPolicy.parse(policy), segment_bytes_max=4096)
    acknowledged, refused = {}, 0

    def handler():
        nonlocal refused
        try:
            acknowledged[wal.put(b"handler", b"v" * rng.randrange(300), headers={"h": b""})] = (
                b"handler"
            )
        except ReentrantError:
            refused += 1

    with alarms(handler, rng):
        until, number = time.monotonic() + SECONDS, 0
        while time.monotonic() < until:
            number += 1
            position, key = append_something(wal, rng, number)
            acknowledged[position] = key
    assert b"handler" in acknowledged.values()
    found = contents(wal)
    assert {position: key for position, key, _ in found}.items() >= acknowledged.items()
    assert [position for position, _, _ in found] == list(range(wal.current_position()))
    wal.check()
