"""Memoized functions and coroutines: of all that want a result, one computes it."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from tests.stores._opening import opener
from treering import DiskFullError, UsageError
from treering.stores.cache import Cache
from treering.testing import FakeClock

SECOND = 1_000_000_000


@pytest.fixture
def clock():
    return FakeClock(1_000 * SECOND)


@pytest.fixture
def opened(files, clock):
    with opener(Cache, "/cache", files=files, clock=clock, checkpoint_seconds=None) as open_store:
        yield open_store


class Work:
    """A function that counts its calls, and may wait or fail."""

    def __init__(self, result=None):
        self.calls, self.result = [], result
        self.begun, self.go = threading.Event(), threading.Event()

    def __call__(self, *args):
        self.calls.append(args)
        self.begun.set()
        assert self.go.wait(10)
        if isinstance(self.result, Exception):
            raise self.result
        return len(self.calls) if self.result is None else self.result


def memoized(store, work, **options):
    @store.memoize(**{"name": "work", **options})
    def function(*args):
        return work(*args)

    return function


def in_threads(*calls):
    """Start them; their results, when they are there."""
    results, threads = [None] * len(calls), []

    def run(number, call):
        try:
            results[number] = call()
        except Exception as error:
            results[number] = error

    for number, call in enumerate(calls):
        threads.append(threading.Thread(target=run, args=(number, call)))
        threads[-1].start()

    def finish():
        for thread in threads:
            thread.join(20)
            assert not thread.is_alive()
        return results

    return finish


# --- results ---


def test_a_result_is_computed_once_and_survives(opened):
    with opened() as store:
        calls = []

        @store.memoize(ttl=60, tags=["t"])
        def double(x, y=0, *, z=0):
            """Twice."""
            calls.append(x)
            return None if x == 0 else [x * 2 + y + z]

        assert double(4) == double(4) == double(x=4) == [8]
        assert double(4, 1) == double(4, y=1) == double(y=1, x=4) == [9]
        assert double(4, z=3) == double(x=4, z=3) == [11]
        assert double(0) is double(0) is None  # None is a result
        assert calls == [4, 4, 4, 0]
        assert double.__wrapped__(5) == [10]
        assert (double.__name__, double.__doc__) == ("double", "Twice.")
        assert store[double.cache_key(4)] == [8]
        key = double.cache_key(4)
    with opened() as store:
        assert store[key] == [8]
        assert store.evict("t") == 4


def test_arguments_of_every_kind_are_apart(opened):
    store, calls = opened(), []

    @store.memoize()
    def function(*args):
        calls.append(args)
        return len(calls)

    arguments = [
        (),
        (None,),
        (1,),
        (True,),
        (1.0,),
        ("1",),
        (b"1",),
        ((1,),),
        (1, None),
        ((1, None),),
        (-0.0,),
        (0.0,),
        (("n",),),
    ]
    assert [function(*args) for args in arguments] == list(range(1, len(arguments) + 1))
    assert [function(*args) for args in arguments] == list(range(1, len(arguments) + 1))
    with pytest.raises(UsageError, match="key="):
        function(object())
    with pytest.raises(UsageError, match="arguments"):
        store.memoize(name="f")(lambda x: x)(y=1)


def test_a_key_of_ones_own(opened):
    store = opened()

    class Shop:
        def __init__(self, number):
            self.number = number

        @store.memoize(key=lambda self, x: (self.number, x))
        def price(self, x):
            return [self.number, x]

    assert Shop(1).price(2) == [1, 2]
    assert Shop(3).price(2) == [3, 2]
    assert store[Shop.price.cache_key(Shop(3), 2)] == [3, 2]
    Shop.price.invalidate(Shop(1), 2)
    assert len(store) == 1


def test_bad_uses_of_memoize(opened):
    store = opened()
    with pytest.raises(UsageError, match=r"memoize\(\)"):
        store.memoize(lambda: 1)
    with pytest.raises(UsageError):
        store.memoize()(5)
    with pytest.raises(UsageError):
        store.memoize(stale=-1)
    with pytest.raises(UsageError):
        store.memoize(tags="x")
    with pytest.raises(UsageError):
        store.memoize(name=5)(lambda: 1)
    assert store.position == 0


def test_exceptions_are_not_kept_and_give_the_lease_back(opened):
    store, work = opened(), Work(KeyError("no"))
    work.go.set()
    function = memoized(store, work)
    for _ in range(2):
        with pytest.raises(KeyError):
            function(1)
    work.result = 5
    started = time.monotonic()
    assert function(1) == 5
    assert time.monotonic() - started < 5
    assert len(work.calls) == 3
    assert store._fold.state().leases == {}


def test_a_result_that_cannot_be_kept(opened):
    store = opened(size_bytes_max=5000)
    assert store.memoize(name="large")(lambda: b"x" * 9000)() == b"x" * 9000
    with pytest.raises(UsageError):
        store.memoize(name="object")(object)()
    assert store._fold.state().leases == {}
    full = opened(size_bytes_max=5000, eviction="none")
    full.set("all", b"x" * 4000)
    assert full.memoize(name="some")(lambda: b"y" * 900)() == b"y" * 900
    assert len(full) == 1


def test_a_full_disk_is_no_reason_to_fail(opened, monkeypatch):
    store = opened()

    def full(*args, **options):
        raise DiskFullError("the disk is full")

    function = store.memoize(name="f")(lambda: 3)
    monkeypatch.setattr(store._fold.wal, "append_batch", full)
    assert function() == 3
    monkeypatch.undo()
    assert len(store) == 0
    assert function() == 3
    assert len(store) == 1


def test_recursion(opened):
    store, calls = opened(), []

    @store.memoize()
    def fib(n):
        calls.append(n)
        return n if n < 2 else fib(n - 1) + fib(n - 2)

    assert fib(40) == 102334155
    assert len(calls) == 41

    @store.memoize()
    def itself(depth=[0]):  # noqa: B006
        depth[0] += 1
        return 1 if depth[0] > 3 else itself()

    assert itself() == 1  # computes rather than waits for itself


# --- one computes ---


def test_of_many_threads_and_handles_one_computes(opened):
    work = Work()
    functions = [memoized(opened(), work) for _ in range(3)]
    finish = in_threads(*(lambda function=function: function("x") for function in functions * 4))
    assert work.begun.wait(10)
    time.sleep(0.05)
    work.go.set()
    assert finish() == [1] * 12
    assert len(work.calls) == 1


def test_when_one_fails_the_next_one_computes(opened):
    store, other, first, second = opened(), opened(), Work(ValueError("first")), Work(7)
    second.go.set()
    finish = in_threads(lambda: memoized(store, first)(1))
    assert first.begun.wait(10)
    waiting = in_threads(lambda: memoized(other, second)(1))
    time.sleep(0.03)
    assert second.calls == []
    first.go.set()
    assert isinstance(finish()[0], ValueError)
    assert waiting() == [7]


def test_a_lease_that_is_over_holds_nobody(opened, clock):
    store, other, slow, quick = opened(), opened(), Work(1), Work(2)
    quick.go.set()
    finish = in_threads(lambda: memoized(store, slow, lease=10)("k"))
    assert slow.begun.wait(10)
    clock.advance(11)
    assert memoized(other, quick, lease=10)("k") == 2
    slow.go.set()
    assert finish() == [1]
    assert memoized(other, quick)("k") == 2  # the late one was not set


def test_a_lease_survives_a_checkpoint(opened):
    store, work = opened(), Work(1)
    finish = in_threads(lambda: memoized(store, work)("k"))
    assert work.begun.wait(10)
    store.checkpoint()
    third, quick = opened(), Work(2)  # which begins with the snapshot
    quick.go.set()
    waiting = in_threads(lambda: memoized(third, quick)("k"))
    time.sleep(0.02)
    work.go.set()
    assert finish() == waiting() == [1]
    assert quick.calls == []
    third.check()


def test_no_clock_that_stands_still_holds_anybody(opened, clock):
    store, other, dead, quick = opened(), opened(), Work(1), Work(2)
    quick.go.set()
    clock.advance(1000)
    finish = in_threads(lambda: memoized(store, dead, lease=3600)("k"))
    assert dead.begun.wait(10)
    clock.jump(-900)
    started = time.monotonic()
    assert memoized(other, quick, lease=0.2)("k") == 2
    assert 0.15 < time.monotonic() - started < 5
    dead.go.set()
    finish()


def test_what_is_deleted_while_it_is_computed_is_not_set(opened):
    for remove in ("invalidate", "evict", "clear", "delete"):
        store, other, work = opened(), opened(), Work("old")
        function = memoized(store, work, tags=["t"])
        finish = in_threads(lambda function=function: function(1))
        assert work.begun.wait(10)
        if remove == "evict":
            assert other.evict("t") == 0
        elif remove == "clear":
            other.clear()
        elif remove == "delete":
            assert not other.delete(function.cache_key(1))
        else:
            function.invalidate(1)
        work.go.set()
        assert finish() == ["old"]
        assert len(other) == 0, remove


def test_the_stale_result_is_given_out_meanwhile(opened, clock):
    store, other, work = opened(), opened(), Work()
    work.go.set()
    one = memoized(store, work, ttl=10, stale=100, lease=1000)
    two = memoized(other, work, ttl=10, stale=100, lease=1000)
    assert one("k") == two("k") == 1
    clock.advance(11)
    work.begun.clear()
    work.go.clear()
    finish = in_threads(lambda: one("k"))
    assert work.begun.wait(10)
    assert two("k") == 1
    assert other[two.cache_key("k")] == 1
    work.go.set()
    assert finish() == [2]
    assert two("k") == 2
    clock.advance(111)
    assert two("k") == 3  # too old to be given out at all


def test_the_ttl_of_a_result(opened, clock):
    store, work = opened(), Work()
    work.go.set()
    function = memoized(store, work, ttl=10)
    assert function() == function() == 1
    clock.advance(10)
    assert function() == 2
    assert function.invalidate()
    assert not function.invalidate()
    assert function() == 3


# --- coroutines ---


def test_of_many_tasks_and_handles_one_computes(opened):
    stores, calls = [opened(), opened()], []

    def coroutine_of(store):
        @store.memoize(ttl=5, name="slow")
        async def slow(x):
            calls.append(x)
            await asyncio.sleep(0.03)
            return [x]

        return slow

    async def main():
        slows = [coroutine_of(store) for store in stores]
        found = await asyncio.gather(*(slow(n % 3) for n in range(300) for slow in slows))
        assert found == [[n % 3] for n in range(300) for _ in slows]
        assert sorted(calls) == [0, 1, 2]
        assert slows[0].cache_key(1) in stores[1]
        assert stores[0]._flights == {}

    asyncio.run(main())


def test_tasks_that_fail_or_are_cancelled_hold_nobody(opened):
    store, calls = opened(), []

    @store.memoize()
    async def work(x):
        calls.append(x)
        if len(calls) == 1:
            raise ValueError
        if len(calls) == 2:
            await asyncio.sleep(60)
        return len(calls)

    async def main():
        one, two, three = (asyncio.create_task(work(1)) for _ in range(3))
        with pytest.raises(ValueError):
            await one
        while len(calls) < 2:
            await asyncio.sleep(0.001)
        two.cancel()
        with pytest.raises(asyncio.CancelledError):
            await two
        assert await asyncio.wait_for(three, 5) == 3
        assert store._fold.state().leases == {}

    asyncio.run(main())


def test_tasks_with_the_stale_result_and_with_themselves(opened, clock):
    store, calls = opened(), []
    go = asyncio.Event()

    @store.memoize(ttl=10, stale=100)
    async def work():
        calls.append(1)
        if len(calls) == 2:
            await go.wait()
        return len(calls) if len(calls) != 3 else await work()

    async def main():
        assert await work() == 1
        clock.advance(20)
        task = asyncio.create_task(work())
        await asyncio.sleep(0)
        assert await work() == 1
        go.set()
        assert await task == 2
        clock.advance(200)
        assert await work() == 4  # the third call asks for itself

    asyncio.run(main())
