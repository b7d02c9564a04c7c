"""SharedPage: the control page. Processes of either build share it, so both twins see the same."""

import mmap
import random
import threading
import time

import pytest

from tests.codec._twins import native, same
from treering import ClosedError
from treering._core import format as fmt

APPEND, SYNC = fmt.APPEND_MUTEX_OFFSET, fmt.SYNC_MUTEX_OFFSET


@pytest.fixture
def memory():
    return mmap.mmap(-1, fmt.CONTROL_BYTES)


@pytest.fixture
def pages(pair, memory):
    """One page, as two processes see it: by the twins of `pair`."""
    if not pair[0].mutex_kind():
        pytest.skip("the C library has no robust mutexes")
    one, other = (twin.SharedPage(memory) for twin in pair)
    one.initialise_mutexes(private=False)
    yield one, other
    one.close()
    other.close()


def in_thread(action):
    """Run the action in another thread to its end, and return what it returned."""
    found = []
    thread = threading.Thread(target=lambda: found.append(action()))
    thread.start()
    thread.join()
    return found[0]


def test_what_one_twin_stores_the_other_loads(pages):
    one, other = pages
    rng = random.Random(1)
    for word in [*range(64), 511]:
        for value in (0, 1, 2**32, 2**63, 2**64 - 1, rng.getrandbits(64)):
            one.store(word, value)
            assert other.load(word) == value


def test_a_frame_is_announced_and_published_in_the_same_words(twins, memory):
    def run(twin):
        memory[:] = bytes(len(memory))
        page = twin.SharedPage(memory)
        page.begin(5, 64, 120)
        begun = memory[:]
        page.finish(6, 120, 17)
        page.finish(7, 176, 3)  # an older time does not make the newest older
        page.close()
        return begun, memory[:]

    begun, finished = same(twins, run)
    words = memoryview(begun).cast("Q")
    assert [words[word] for word in (fmt.WORD_DIRTY, fmt.WORD_DIRTY_POSITION)] == [120, 5]
    words = memoryview(finished).cast("Q")
    shown = (fmt.WORD_END, fmt.WORD_END_OFFSET, fmt.WORD_NEWEST, fmt.WORD_DIRTY)
    assert [words[word] for word in shown] == [7, 176, 17, 0]


@pytest.mark.parametrize("mutex", [APPEND, SYNC])
def test_what_one_twin_locks_is_locked_for_the_other(pair, pages, mutex):
    one, other = pages
    assert one.lock(mutex, 0) == pair[0].ACQUIRED
    assert in_thread(lambda: other.lock(mutex, 0)) == pair[1].TIMED_OUT
    started = time.monotonic()
    assert in_thread(lambda: other.lock(mutex, 0.05)) == pair[1].TIMED_OUT
    assert 0.04 < time.monotonic() - started < 5
    assert in_thread(lambda: other.unlock(mutex)) is False
    assert one.unlock(mutex) is True
    assert one.unlock(mutex) is False

    def take_and_give_back():
        return other.lock(mutex, 0), other.unlock(mutex)

    assert in_thread(take_and_give_back) == (pair[1].ACQUIRED, True)


@pytest.mark.parametrize("mutex", [APPEND, SYNC])
def test_a_lock_whose_holder_died_says_so_once_and_works_on(pair, pages, mutex):
    one, other = pages
    assert in_thread(lambda: one.lock(mutex, 0)) == pair[0].ACQUIRED
    # Python is done with the thread a moment before the kernel is.
    assert other.lock(mutex, 10) == pair[1].OWNER_DIED
    assert other.unlock(mutex) is True
    assert other.lock(mutex, 0) == pair[1].ACQUIRED
    other.unlock(mutex)


def test_whoever_waits_for_a_word_sees_it_move(pages):
    one, other = pages
    woken = threading.Event()

    def wait():
        while one.load(fmt.WORD_END) == 0:
            one.wait(fmt.WORD_END, 0, fmt.WORD_APPEND_WAITERS, 10)
        woken.set()

    thread = threading.Thread(target=wait)
    thread.start()
    other.store(fmt.WORD_END, 1)
    other.wake(fmt.WORD_END, fmt.WORD_APPEND_WAITERS)
    assert woken.wait(5)
    thread.join()


class Sync:
    """A sync that one process leads while a thread of the other joins it."""

    def __init__(self, pair, pages):
        self.leader, self.joiner = pages
        self.leader.store(fmt.WORD_END, 10)
        assert self.leader.lock(SYNC, 0) == pair[0].ACQUIRED
        self.joined = None
        self.thread = threading.Thread(target=self._join)
        self.thread.start()

    def _join(self):
        found = False
        while not found and self._wanting():
            found = self.joiner.join_sync(5, 0.5)
        if found:
            self.joiner.unlock(SYNC)
        self.joined = found

    def _wanting(self):
        load = self.joiner.load
        return load(fmt.WORD_DURABLE) <= 5 < load(fmt.WORD_END) and not load(fmt.WORD_FAILED)

    def end(self, word=None, value=None):
        """The leader is done, having stored that word; whether the joiner has to lead next."""
        time.sleep(0.01)
        if word is not None:
            self.leader.store(word, value)
        self.leader.unlock(SYNC)
        self.leader.end_sync()
        self.thread.join(10)
        assert not self.thread.is_alive()
        return self.joined


def test_whoever_joins_a_sync_goes_on_once_its_record_is_durable(pair, pages):
    assert Sync(pair, pages).end(fmt.WORD_DURABLE, 6) is False
    assert pages[1].load(fmt.WORD_SYNCS) == 1


def test_whoever_joins_a_sync_that_came_too_early_leads_the_next_one(pair, pages):
    assert Sync(pair, pages).end(fmt.WORD_DURABLE, 5) is True


def test_whoever_joins_a_sync_that_fails_is_told(pair, pages):
    assert Sync(pair, pages).end(fmt.WORD_FAILED, 5) is False


def test_whoever_joins_a_sync_while_the_log_is_cut_goes_on(pair, pages):
    assert Sync(pair, pages).end(fmt.WORD_END, 5) is False


def test_whoever_lingers_goes_on_when_nobody_appends(twin, memory):
    """A third of the time given is enough to know."""
    page = twin.SharedPage(memory)
    started = time.monotonic()
    assert page.linger(0.3) is False
    assert time.monotonic() - started < 0.25
    page.close()


def test_whoever_lingers_sees_others_append(memory):
    page = native().SharedPage(memory)
    begun = threading.Event()

    def append():
        begun.wait()
        for end in range(1, 4):
            time.sleep(0.02)
            page.store(fmt.WORD_END, end)

    thread = threading.Thread(target=append)
    thread.start()
    begun.set()
    assert page.linger(1.0) is True
    assert page.load(fmt.WORD_END) == 3
    thread.join()
    page.close()


def test_a_wait_ends_in_time_or_at_once_when_the_word_has_moved(twin, memory):
    page = twin.SharedPage(memory)
    started = time.monotonic()
    page.wait(fmt.WORD_END, 0, fmt.WORD_APPEND_WAITERS, 0.03)
    assert 0.02 < time.monotonic() - started < 5
    started = time.monotonic()
    page.wait(fmt.WORD_END, 1, fmt.WORD_APPEND_WAITERS, 60)
    page.wait(fmt.WORD_END, 0, fmt.WORD_APPEND_WAITERS, 0)
    page.wait(fmt.WORD_END, 0, fmt.WORD_APPEND_WAITERS, -1)
    assert time.monotonic() - started < 5


CALLS = {
    "load": lambda page: page.load(0),
    "store": lambda page: page.store(0, 1),
    "begin": lambda page: page.begin(1, 2, 3),
    "finish": lambda page: page.finish(1, 2, 3),
    "lock": lambda page: page.lock(APPEND, 0),
    "unlock": lambda page: page.unlock(APPEND),
    "wait": lambda page: page.wait(0, 0, 1, 1),
    "wake": lambda page: page.wake(0, 1),
    "join_sync": lambda page: page.join_sync(0, 1),
    "end_sync": lambda page: page.end_sync(),
    "linger": lambda page: page.linger(0),
    "close": lambda page: page.close(),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_closed_page_refuses_in_the_same_words(twins, memory, call):
    def run(twin):
        page = twin.SharedPage(memory)
        page.close()
        return call(page)

    found = same(twins, run)
    harmless = call in (CALLS["unlock"], CALLS["close"])
    assert found in (False, None) if harmless else found.kind is ClosedError


@pytest.mark.parametrize("name", ["store", "begin", "finish"])
def test_a_read_only_page_cannot_be_stored_into(twins, name):
    error = same(twins, lambda twin: CALLS[name](twin.SharedPage(bytes(4096), write=False)))
    assert (error.kind, error.text) == (TypeError, "cannot modify read-only memory")


@pytest.mark.parametrize("size", [0, 1, 8, 4088, 4095])
def test_a_page_that_is_too_short_is_refused(twins, size):
    error = same(twins, lambda twin: twin.SharedPage(bytearray(size)))
    assert (error.kind, error.text) == (ValueError, "the control page is too short")


@pytest.mark.parametrize("write", [True, False])
def test_closing_while_another_thread_waits_ends_the_wait(twin, write):
    """The memory may be gone right after: whoever is inside must not look at it again."""
    memory = mmap.mmap(-1, fmt.CONTROL_BYTES)
    page = twin.SharedPage(memory, write=write)
    begun, errors = threading.Event(), []

    def wait():
        begun.set()
        try:
            for _ in range(2):
                page.wait(fmt.WORD_END, 0, fmt.WORD_APPEND_WAITERS, 0.2)
        except ClosedError as error:
            errors.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    begun.wait()
    page.close()
    del memory
    thread.join(5)
    assert not thread.is_alive()
    assert len(errors) == 1


def test_the_twins_take_the_same_kind_of_lock(twins):
    assert same(twins, lambda twin: twin.mutex_kind()) % 2 == 1
