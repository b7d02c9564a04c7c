"""The cache at its edges: who is evicted, who shares what with whom, what a conflict costs."""

from __future__ import annotations

import asyncio
import functools
import os

import pytest

from tests.stores._opening import opener
from treering import DiskFullError, ReentrantError, TooLargeError, UsageError
from treering.stores.cache import Cache
from treering.stores.cache.state import ENTRY_BYTES
from treering.testing import FakeClock

SECOND = 1_000_000_000
BOUND = 100 * (ENTRY_BYTES + 20)


@pytest.fixture
def clock():
    return FakeClock(1_000 * SECOND)


@pytest.fixture
def opened(files, clock):
    with opener(Cache, "/cache", files=files, clock=clock, checkpoint_seconds=None) as open_store:
        yield open_store


def fill(store, count, start=0):
    for n in range(start, start + count):
        store.set(n, b"x")


def overtaken_once(store, monkeypatch, call):
    """The store's next conditional append finds that `call` was quicker."""
    wal, append = store._log.wal, store._log.wal.append_batch
    calls = [call]

    def late(records, **options):
        if calls and options.get("at") is not None:
            calls.pop()()
        return append(records, **options)

    monkeypatch.setattr(wal, "append_batch", late)


# --- who is evicted ---


def keep_with_add(store, key, value):
    assert store.add(key, value)


def keep_with_many(store, key, value):
    store.set_many({key: value})


def keep_with_memoize(store, key, value):
    function = store.memoize(name="f", key=lambda: key)(lambda: value)
    assert function() == value
    store[key] = store[function.cache_key()]


@pytest.mark.parametrize("eviction", ["lru", "lfu"])
@pytest.mark.parametrize("keep", [keep_with_add, keep_with_many, keep_with_memoize])
def test_no_call_evicts_what_it_sets(opened, eviction, keep):
    store = opened(size_bytes_max=BOUND, eviction=eviction)
    fill(store, 95)
    for n in range(95):
        store.get(n), store.get(n)
    for n in range(30):
        keep(store, ("new", n), b"x")
        assert ("new", n) in store
    large = b"x" * (BOUND - ENTRY_BYTES - 100)
    assert store.add("large", large)
    assert "large" in store
    assert store.stats()["size_bytes"] <= BOUND
    store.check()


def test_a_counter_in_a_full_cache_counts(opened):
    store = opened(size_bytes_max=BOUND, eviction="lfu")
    fill(store, 103)
    for n in range(103):
        store.get(n), store.get(n)
    assert [store.incr("n") for _ in range(5)] == [1, 2, 3, 4, 5]


def test_many_at_once_over_the_bound_keep_the_last_of_them(opened):
    for eviction in ("lru", "lfu"):
        store = opened(size_bytes_max=BOUND, eviction=eviction)
        store.clear()
        fill(store, 50, 10_000)
        store.set_many(dict.fromkeys(range(500), b"x"))
        assert 90 < len(store) < 104
        assert min(store) > 390
        assert max(store) == 499
        assert store.stats()["size_bytes"] <= BOUND


def test_a_sum_that_is_larger_than_the_cache_changes_nothing(opened):
    store = opened(size_bytes_max=2000)
    store["a"] = 1
    for call in (lambda: store.incr("n", 1 << 12_000), lambda: store.incr("k" * 3000)):
        with pytest.raises(TooLargeError):
            call()
    assert list(store) == ["a"]
    assert store.position == 1


def test_who_was_overtaken_still_knows_what_it_used(opened, monkeypatch):
    store, other = opened(size_bytes_max=BOUND), opened(size_bytes_max=BOUND)
    fill(store, 95)
    for n in range(10):
        assert store[n] == b"x"
    overtaken_once(store, monkeypatch, lambda: other.delete(50))
    fill(store, 40, 1000)
    assert store.stats()["evictions"]
    assert set(range(10)) <= set(store)
    assert other.stats()["told"]["hits"] == 10


def test_a_full_disk_while_evicting_is_no_failure_of_what_was_set(opened, monkeypatch):
    store = opened(size_bytes_max=BOUND)
    wal, append = store._log.wal, store._log.wal.append_batch

    def full(records, **options):
        if any(record.key[:1] == b"-" for record in records):
            raise DiskFullError("no space")
        return append(records, **options)

    monkeypatch.setattr(wal, "append_batch", full)
    fill(store, 120)
    assert store.incr("n") == 1
    monkeypatch.setattr(wal, "append_batch", append)
    store.set("a", 1)  # this one makes up for it
    assert store.stats()["size_bytes"] <= BOUND
    assert store["n"] == 1


# --- what is over ---


def test_expire_says_how_many(store, clock):
    store.set_many({n: n for n in range(25_000)}, ttl=5)
    clock.advance(6)
    assert store.expire() == 25_000
    assert list(store) == []
    assert store.expire() == 0


def test_a_ttl_counts_from_the_newest_time_that_anybody_wrote(opened, clock):
    store, other = opened(), opened()
    store["before"] = 1
    clock.advance(100)
    other["later"] = 1
    clock.jump(-100)
    store.set("k", 1, ttl=10)  # its first call since
    assert store.get("k") == 1
    assert other.get("k") == 1


# --- values ---


class Codec:
    def encode(self, value):
        return value.made

    def decode(self, raw):
        return ("decoded", raw)


class Thing:
    def __init__(self, made):
        self.made = made


def test_pop_keeps_what_it_cannot_give(opened):
    with opened(codec=Codec()) as store:
        store["k"] = Thing(b"x")
    store = opened()
    with pytest.raises(UsageError, match="codec"):
        store.pop("k")
    assert "k" in store
    store.close()
    assert opened(codec=Codec()).pop("k") == ("decoded", b"x")


@pytest.mark.parametrize("made", [5, "text", None, [1, 2]])
def test_a_codec_that_gives_no_bytes(opened, made):
    store = opened(codec=Codec())
    with pytest.raises(UsageError, match="codec"):
        store["k"] = Thing(made)
    assert store.position == 0


def test_text_in_a_list_comes_back_as_it_was(store):
    values = ["\ud83d\ude00", "\U0001f600", "ä\x00\n\u2028", "\udfff"]
    store["list"] = values
    assert store["list"] == values
    store["dict"] = dict.fromkeys(values, 1)
    assert store["dict"] == dict.fromkeys(values, 1)
    store.check()


# --- what was used ---


def test_a_reader_counts_its_hits(opened):
    store = opened()
    fill(store, 600)
    reading = opened(read_only=True)
    for n in range(600):
        assert reading[n] == b"x"
    reading._used._told_at -= 5
    assert reading.get("no") is None
    assert reading.stats()["hits"] == 600


def test_news_is_small_whatever_was_set_at_once(opened):
    store = opened(size_bytes_max=4 << 20)
    fill(store, 1)
    assert store[0] == b"x"
    store.set_many({("many", n): b"x" for n in range(6_000)})
    before = store.position
    assert store[0] == b"x"
    news = [r for r in store._log.wal.read_from(before - 1) if r.key[:1] == b"~"]
    assert sum(len(record.value) for record in news) < 10_000
    for n in range(200):
        store.set("k" * 50_000 + str(n), b"x")
        store.get("k" * 50_000 + str(n))
    store.close()
    store = opened(size_bytes_max=4 << 20)
    news = [r for r in store._log.wal.read_from() if r.key[:1] == b"~"]
    assert max(len(record.value) for record in news) < 200_000


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_counts_for_itself(tmp_path):
    with Cache(tmp_path / "c") as store:
        fill(store, 10)
        for n in range(10):
            store.get(n)
        child = os.fork()
        if not child:
            good = store.stats()["hits"] == 0
            store.get(1), store.get(2)
            good &= store.stats()["hits"] == 2
            store.close()
            os._exit(0 if good else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert store.stats()["told"]["hits"] == 2
        assert store.stats()["hits"] == 10


# --- a call within a call ---


def test_a_handler_that_reloads_before_the_append(opened, monkeypatch):
    """What a signal's handler does between two lines of `set` is not undone by the second."""
    store, other = opened(), opened()
    store["a"] = 1
    put = store._log.wal.put

    def interrupted(key, value):
        monkeypatch.setattr(store._log.wal, "put", put)
        other["b"] = 2
        other["c"] = 3
        store._log.wal.truncate_after(other.position - 1)  # so the handler's get loads anew
        assert store.get("b") == 2
        return put(key, value)

    monkeypatch.setattr(store._log.wal, "put", interrupted)
    try:
        store["k"] = 1
    except ReentrantError:
        return
    assert store.get("k") == 1
    assert sorted(store) == ["a", "b", "k"]


# --- memoize ---


def test_tasks_that_wait_do_not_share_a_list(store):
    @store.memoize()
    async def found(n):
        await asyncio.sleep(0.01)
        return [n]

    async def one():
        mine = await found(1)
        mine.append("mine")
        return mine

    async def main():
        return await asyncio.gather(*(one() for _ in range(5)))

    assert asyncio.run(main()) == [[1, "mine"]] * 5
    assert asyncio.run(found(1)) == [1]


def test_tasks_that_wait_for_what_is_too_large_do_not_share_it_either(opened):
    store, calls = opened(size_bytes_max=2000), []

    @store.memoize()
    async def found():
        calls.append(1)
        await asyncio.sleep(0.01)
        return ["x" * 3000]

    async def one():
        mine = await found()
        mine.append("mine")
        return len(mine)

    async def main():
        return await asyncio.gather(*(one() for _ in range(5)))

    assert asyncio.run(main()) == [2] * 5
    assert len(calls) == 1


def test_lambdas_need_a_name(store):
    with pytest.raises(UsageError, match="name"):
        store.memoize()(lambda n: n + 1)
    assert store.memoize(name="one more")(lambda n: n + 1)(1) == 2


def test_what_has_no_name_or_signature(store):
    with pytest.raises(UsageError, match="name"):
        store.memoize()(functools.partial(pow, 2))
    assert store.memoize(name="pow")(functools.partial(pow, 2))(3) == 8
    with pytest.raises(UsageError, match="key"):
        store.memoize()(max)
    assert store.memoize(key=lambda *a: a)(max)(1, 2) == 2


def test_a_task_that_a_computation_left_behind_is_none_of_it(store):
    calls, tasks = [], []

    @store.memoize()
    async def found():
        calls.append(1)
        if not tasks:
            tasks.append(asyncio.create_task(later()))
        return 1

    async def later():
        await asyncio.sleep(0.01)
        found.invalidate()
        return await found(), await found(), await found()

    async def main():
        await found()
        return await tasks[0]

    assert asyncio.run(main()) == (1, 1, 1)
    assert len(calls) == 2


def test_a_miss_is_one_miss(store, clock):
    @store.memoize(ttl=5, name="f")
    def found():
        return 1

    found()
    clock.advance(6)
    found()
    found()
    stats = store.stats()
    assert (stats["hits"], stats["misses"]) == (1, 2)


# --- in the middle of it ---


def test_two_threads_that_tell_at_once(opened):
    store = opened(size_bytes_max=BOUND)
    fill(store, 80)
    assert store[0] == b"x"
    store._used._told = (5, 5, 500, 5)  # the other one was quicker
    store.close()
    assert opened().stats()["told"] == {"hits": 0, "misses": 0, "sets": 0, "evictions": 0}


@pytest.mark.parametrize("inside", [False, True])
def test_a_handler_that_sets_within_a_set_leaves_no_wrong_count(store, monkeypatch, inside):
    """As if a signal came between two lines of the state's `set`."""
    state = store._log.current
    store.set("a", b"x", tags=["t"])

    class Interrupted(dict):
        armed = True

        def pop(self, key, default=None):
            if Interrupted.armed:
                Interrupted.armed = False
                state.set(b"sb", b"b" + b"y" * 50, None)
                state.set(b"sa", b"b" + b"z" * 50, None)
                if inside:
                    state.mend()
                state.size += 7  # a count that was read before, and stored after
            return super().pop(key, default)

    state.leases = Interrupted({b"other": None})
    state.set(b"sa", b"bxyz", None)
    assert state.torn
    state.mend()
    state.leases = {}
    state.check()


def test_a_handler_that_sets_while_room_is_made(opened, monkeypatch):
    store = opened(size_bytes_max=BOUND)
    fill(store, 100)
    state, over = store._log.current, store._log.current.over
    calls = [1]

    def interrupted():
        found = over()
        if calls and state.size > BOUND:
            calls.clear()
            fill(store, 5, 2000)
            raise RuntimeError("OrderedDict mutated during iteration")
        return found

    monkeypatch.setattr(state, "over", interrupted)
    fill(store, 10, 1000)
    monkeypatch.undo()
    assert not calls
    assert store.stats()["size_bytes"] <= BOUND
    store.check()
