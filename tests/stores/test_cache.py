"""The cache, call by call."""

from __future__ import annotations

import json
import math
import os
import random
import tracemalloc

import pytest

from tests.stores._opening import SMALL, opener
from treering import (
    ClosedError,
    DamageError,
    ReadOnlyError,
    Record,
    TooLargeError,
    UsageError,
    VersionError,
    Wal,
)
from treering.stores.cache import Cache, CacheFullError
from treering.stores.cache.keys import decode_key, encode_key
from treering.stores.cache.state import ENTRY_BYTES, State
from treering.testing import FakeClock

SECOND = 1_000_000_000


@pytest.fixture
def clock():
    return FakeClock(1_000 * SECOND)


@pytest.fixture
def opened(files, clock):
    with opener(Cache, "/cache", files=files, clock=clock, checkpoint_seconds=None) as open_store:
        yield open_store


# --- keys and values ---


def test_every_kind_of_key_is_a_key_of_its_own(store, other):
    keys = [
        "1",
        b"1",
        1,
        -1,
        "",
        b"",
        0,
        (),
        ("1",),
        (b"1",),
        (1,),
        (1, 1),
        ((1,), 1),
        ("", ""),
        ("a" * 9, b""),
    ]
    keys += ["ä", "\ud800", "a:b", ("1:a", "2"), ("1", ":a2"), 10**5000]
    for number, key in enumerate(keys):
        store[key] = number
    assert [other[key] for key in keys] == list(range(len(keys)))
    assert len(other) == len(keys)
    assert set(other) == set(keys)
    store.check()


@pytest.mark.parametrize(
    "key", [None, 1.0, True, bytearray(b"a"), [1], ("a", None), (True,), {}, object()]
)
def test_what_is_no_key_is_refused_by_every_call(store, key):
    calls = [
        lambda: store.get(key),
        lambda: store.set(key, 1),
        lambda: store.set_many([("good", 1), (key, 1)]),
        lambda: store.get_many([key]),
        lambda: store.add(key, 1),
        lambda: store.touch(key),
        lambda: store.delete(key),
        lambda: store.pop(key, None),
        lambda: store.incr(key),
        lambda: key in store,
    ]
    for call in calls:
        with pytest.raises(UsageError, match="key"):
            call()
    assert (len(store), store.position) == (0, 0)


def test_a_key_that_is_too_long_or_too_deep(store):
    deep = ()
    for _ in range(100):
        deep = (deep,)
    for key in ("k" * 65_000, b"k" * 65_000, 1 << 300_000, ("k" * 64_998,)):
        with pytest.raises(TooLargeError):
            store.set(key, 1)
    with pytest.raises(UsageError, match="deep"):
        store.set(deep, 1)
    store.set("k" * 64_999, 1)
    assert store["k" * 64_999] == 1
    assert store.touch("k" * 64_999)
    store.check()


@pytest.mark.parametrize(
    "coded",
    [b"", b"x1", b"i01", b"i", b"t1:", b"t9:sa", b"t-1:sa", b"t01:s", b"s\xff", b"ta:b", b"i1_0"],
)
def test_bytes_that_are_no_key(coded):
    with pytest.raises(DamageError):
        decode_key(coded)


def test_what_was_set_comes_back_as_it_was(store, other):
    values = [
        b"",
        b"x",
        bytes(range(256)),
        "",
        "ä€",
        "\ud800",
        0,
        -1,
        1 << 64,
        -(10**5000),
        0.0,
        -0.0,
        1.5,
        math.inf,
        True,
        False,
        None,
        [],
        {},
        [1, [2, {"a": None}]],
        {"ä": [True, 1.5, "x"], "": {}},
    ]
    for number, value in enumerate(values):
        store[number] = value
    for number, value in enumerate(values):
        found = other[number]
        assert (found, type(found)) == (value, type(value))
        assert not isinstance(value, float) or math.copysign(1, found) == math.copysign(1, value)
    store["nan"] = math.nan
    assert math.isnan(other["nan"])
    found = other[19]
    found.append(1)
    assert other[19] == [1, [2, {"a": None}]]  # each get gives another list


@pytest.mark.parametrize(
    "value",
    [(1,), [(1,)], {1: 2}, {"a": {2: 1}}, {1}, bytearray(b"x"), object(), [b"x"], 1j, [object()]],
)
def test_what_json_would_change_is_refused(store, value):
    for call in (store.set, store.add, lambda k, v: store.set_many({k: v})):
        with pytest.raises(UsageError) as caught:
            call("k", value)
        assert caught.value.hint
    assert store.position == 0


def test_a_value_in_itself_is_refused(store):
    value = []
    value.append(value)
    with pytest.raises(UsageError):
        store["k"] = value


class Complex:
    def encode(self, value):
        return json.dumps([value.real, value.imag]).encode()

    def decode(self, raw):
        return complex(*json.loads(raw))


def test_a_codec_carries_the_rest(opened):
    with opened(codec=Complex()) as store:
        store["c"], store["n"] = 1 + 2j, 5
        assert (store["c"], store["n"], store.incr("n")) == (1 + 2j, 5, 6)
        assert store.pop("c") == 1 + 2j
        store["c"] = 1j
    with opened() as store, pytest.raises(UsageError, match="codec"):
        store["c"]


# --- a mapping in several handles ---


def test_what_one_handle_does_the_other_sees_with_its_next_call(store, other):
    store.set_many({n: n for n in range(100)})
    assert other[50] == 50
    assert other.get_many([1, 2, "no"]) == {1: 1, 2: 2}
    del other[50]
    assert 50 not in store
    assert store.get(50, "default") == "default"
    assert len(store) == 99
    other.clear()
    assert len(store) == 0
    assert list(store) == []
    with pytest.raises(KeyError):
        store[1]
    with pytest.raises(KeyError):
        del store[1]


def test_of_many_that_add_or_pop_one_gets_it(store, other):
    assert store.add("a", 1)
    assert not other.add("a", 2)
    assert other.pop("a") == 1
    assert store.pop("a", None) is None
    with pytest.raises(KeyError):
        store.pop("a")
    assert not store.delete("a")
    assert store.add("a", None)  # None is a value
    assert not other.add("a", 2)
    assert other.delete("a")


def test_incr(store, other, clock):
    assert (store.incr("n"), other.incr("n", 5), store.incr("n", -7)) == (1, 6, -1)
    assert store.incr("m", 2, default=40) == 42
    store.set("t", 1, ttl=10, tags=["x"])
    assert other.incr("t") == 2
    assert store.expires_at("t") == 1010
    assert store.incr("new", ttl=5) == 1
    clock.advance(11)
    assert store.incr("t") == 1
    assert store.incr("new") == 1
    store["text"], store["flag"] = "x", True
    for key in ("text", "flag"):
        with pytest.raises(UsageError, match="no whole number"):
            store.incr(key)
    for bad in (1.5, True, "1"):
        with pytest.raises(UsageError):
            store.incr("n", bad)
        with pytest.raises(UsageError):
            store.incr("n", default=bad)


# --- expiry ---


def test_what_is_over_is_nowhere(store, other, clock):
    store["stays"] = 1
    for key in "abcde":
        store.set(key, 5, ttl=10)
    assert len(other) == 6
    clock.advance(10)
    assert (len(store), list(store), len(other)) == (1, ["stays"], 1)
    assert store.get("a") is None
    assert "a" not in other
    assert store.add("a", "new")
    assert store.incr("b") == 1
    assert store.pop("c", None) is None
    assert not store.delete("d")
    assert not other.touch("e")
    assert store.get_many("abcde") == {"a": "new", "b": 1}
    store.checkpoint()
    store.check()
    other.check()


def test_a_set_takes_the_expiry_away_and_touch_moves_it(store, other, clock):
    for key in "abc":
        store.set(key, 1, ttl=10)
    store["a"] = 2
    assert other.touch("b", 100)
    assert other.touch("c")
    assert not store.touch("none", 5)
    assert [store.expires_at(key) for key in "abc"] == [None, 1100, None]
    clock.advance(50)
    assert sorted(other) == ["a", "b", "c"]
    clock.advance(51)
    assert sorted(other) == ["a", "c"]
    with pytest.raises(KeyError):
        store.expires_at("b")


def test_expiry_survives_restarts_and_clocks_that_jump(opened, clock):
    store = opened()
    store.set("a", 1, ttl=10)
    store.set("b", 1, ttl=1000)
    store.close()
    clock.advance(20)
    store, other = opened(), opened()
    assert list(store) == ["b"]
    store["later"] = 1  # the log knows the time now
    clock.jump(-19)
    assert "a" not in store
    assert "a" not in other
    assert other.touch("b", 10)
    assert store.expires_at("b") == 1030  # from the newest time, not from the clock
    other.checkpoint()
    store.close()
    other.close()
    store = opened()
    assert sorted(store) == ["b", "later"]
    clock.jump(10 * 365 * 86400)
    assert list(store) == ["later"]
    store.check()


def test_what_is_over_leaves_memory_with_the_next_record(store, clock):
    for n in range(3000):
        store.set(n, b"x" * 100, ttl=1 + n % 7)
    clock.advance(4)
    store["one"] = 1
    state = store._fold.current
    left = len(state.items)
    assert left < 1400
    assert store.stats()["size_bytes"] == state.size < 1400 * 600
    clock.advance(10)
    assert len(store) == 1
    assert len(state.items) == left
    assert store.expire() == left - 1
    assert list(store) == ["one"]
    assert len(state.items) == 1
    assert store.expire() == 0
    store.check()


def test_many_new_expiries_of_one_key_take_no_memory(store):
    for n in range(5000):
        store.set("k", n, ttl=100 + n)
    assert len(store._fold.current._due) < 3000
    store.check()


# --- tags ---


def test_a_tag_evicts_what_has_it_atomically(store, other):
    store.set("a", 1, tags=["x", "y"])
    store.set("b", 2, tags=["y"])
    store.set_many({"c": 3, "d": 4}, tags=["x"])
    assert other.add("e", 5, tags=["z"])
    before = store.position
    assert other.evict("x") == 3
    assert store.position == before + 1
    assert sorted(store) == ["b", "e"]
    assert store.evict("x") == 0
    assert store.position == before + 1
    store["b"] = 7  # its tags are gone
    assert other.evict("y") == 0
    assert other.incr("e") == 6
    assert other.touch("e", 50)
    assert store.evict("z") == 1  # which incr and touch kept
    store.checkpoint()
    store.check()
    assert list(other) == ["b"]


def test_tags_survive_a_restart_from_a_snapshot(opened):
    store = opened()
    store.set("a", [1], tags=["x"], ttl=100)
    store.set("b", 1)
    store.checkpoint()
    store.close()
    store = opened()
    assert (store["a"], store.expires_at("a")) == ([1], 1100)
    assert store.evict("x") == 1
    store.check()


@pytest.mark.parametrize(
    "tags", ["x", b"x", [1], [""], [b"x"], 5, None, ["x" * 300], [str(n) for n in range(100)]]
)
def test_what_are_no_tags(store, tags):
    for call in (store.set, store.add, lambda k, v, tags: store.set_many({k: v}, tags=tags)):
        with pytest.raises(UsageError):
            call("k", 1, tags=tags)
    assert store.position == 0


@pytest.mark.parametrize("ttl", [0, -1, math.nan, math.inf, "1", True, 1 << 40, b"1", [1]])
def test_what_is_no_time(store, ttl):
    store["k"] = 1
    calls = [
        lambda: store.set("k", 1, ttl=ttl),
        lambda: store.add("k", 1, ttl=ttl),
        lambda: store.touch("k", ttl),
        lambda: store.incr("k", ttl=ttl),
        lambda: store.set_many({"k": 1}, ttl=ttl),
        lambda: store.memoize(ttl=ttl),
        lambda: store.memoize(lease=ttl),
    ]
    for call in calls:
        with pytest.raises(UsageError):
            call()
    assert store.position == 1


# --- the bound ---

BOUND = 100 * (ENTRY_BYTES + 20)


def fill(store, count, start=0):
    for n in range(start, start + count):
        store.set(n, b"x")


def test_the_longest_unused_goes_first(opened):
    store = opened(size_bytes_max=BOUND)
    fill(store, 90)
    for n in range(10):
        assert store[n] == b"x"
    fill(store, 60, 1000)
    left = set(store)
    assert set(range(10)) <= left
    assert not set(range(10, 50)) & left
    assert set(range(1010, 1060)) <= left
    assert store.stats()["evictions"] >= 45
    assert store.stats()["size_bytes"] <= BOUND
    store.check()


@pytest.mark.parametrize("seed", range(5))
def test_one_process_evicts_in_the_exact_order_of_use(opened, seed):
    """Sets and gets in any order: what goes is always a beginning of the list of uses."""
    rng, order = random.Random(seed), {}
    store = opened(size_bytes_max=30 * (ENTRY_BYTES + 5))
    for _ in range(600):
        key = 1000 + rng.randrange(60)
        if rng.random() < 0.5 and key in order:
            assert store[key] == b"x"
        elif rng.random() < 0.2 and key in order:
            assert store.touch(key)
        elif rng.random() < 0.2 and key not in order:
            assert store.add(key, b"x")
        else:
            store.set(key, b"x")
        order.pop(key, None)
        order[key] = None
        left = set(store)
        while order and next(iter(order)) not in left:
            del order[next(iter(order))]
        assert set(order) == left
    assert store.stats()["evictions"] > 100
    store.check()


def test_of_what_was_read_the_longest_unread_goes_first(opened):
    store = opened(size_bytes_max=BOUND)
    fill(store, 100)
    for n in reversed(range(100)):
        assert store[n] == b"x"
    fill(store, 20, 1000)
    left = [key for key in store if key < 1000]
    assert set(left) == set(range(len(left)))
    assert len(left) < 90
    assert set(range(1000, 1020)) <= set(store)


def test_what_another_handle_used_is_known_after_its_news(opened):
    store, other = opened(size_bytes_max=BOUND), opened(size_bytes_max=BOUND)
    fill(store, 90)
    for n in range(10):
        assert other[n] == b"x"
    other.close()  # tells
    fill(store, 60, 1000)
    assert set(range(10)) <= set(store)


def test_a_miss_tells_what_was_used(opened):
    store, other = opened(size_bytes_max=BOUND), opened(size_bytes_max=BOUND)
    fill(store, 90)
    assert other[0] == b"x"
    before = store.position
    other.get("missing")
    assert store.position == before  # it told a moment ago: when it opened
    other._used._told_at -= 2
    other.get("missing")
    assert store.position == before + 1
    fill(store, 60, 1000)
    assert 0 in store


def test_while_there_is_room_reading_writes_nothing(opened):
    store = opened(size_bytes_max=10 * BOUND)
    fill(store, 400)
    before = store.position
    for _ in range(3):
        for n in range(400):
            assert store[n] == b"x"
    assert store.position == before
    fill(store, 200, 1000)
    before = store.position
    for n in range(400):
        assert store[n] == b"x"
    assert before < store.position <= before + 2  # a small record for 256


def test_lfu_keeps_what_is_used_often_and_lets_old_fame_fade(opened):
    store = opened(size_bytes_max=BOUND, eviction="lfu")
    fill(store, 90)
    for _ in range(5):
        for n in range(10):
            assert store[n] == b"x"
    fill(store, 300, 1000)
    assert set(range(10)) <= set(store)
    store.close()
    store = opened(size_bytes_max=BOUND, eviction="lfu")
    fill(store, 60, 2000)
    assert set(range(10)) <= set(store)  # known after a restart
    for n in range(3000, 4500):
        store.set(n, b"x")
        store.get(n)
    assert not set(range(10)) & set(store)  # nobody used it any more
    assert store.stats()["size_bytes"] <= BOUND
    store.checkpoint()
    store.check()


def test_lfu_does_not_evict_what_it_sets(opened):
    store = opened(size_bytes_max=BOUND, eviction="lfu")
    fill(store, 95)
    for _ in range(3):
        for n in range(95):
            store.get(n)
    for n in range(1000, 1100):
        store.set(n, b"x")
        assert n in store
    store.set("large", b"x" * (BOUND - 1000))
    assert "large" in store
    assert store.stats()["size_bytes"] <= BOUND


def test_without_eviction_a_full_cache_refuses(opened, clock):
    store = opened(size_bytes_max=BOUND, eviction="none")
    with pytest.raises(CacheFullError) as caught:
        fill(store, 200)
    assert caught.value.hint
    full = len(store)
    assert 95 <= full <= 105
    with pytest.raises(CacheFullError):
        store.set_many({"a": 1, "b": b"x" * 2000})
    with pytest.raises(CacheFullError):
        store.add("c", b"x" * 1000)
    with pytest.raises(CacheFullError):
        store.incr("n")
    assert len(store) == full
    store.set(0, b"y")  # in the place of another one
    store.delete(1)
    store.set("fits", b"z")
    for n in range(2, 12):
        store.touch(n, 5)
    clock.advance(6)
    store.set_many({("new", n): b"x" for n in range(9)})  # what is over makes room
    assert store.stats()["evictions"] == 0
    assert store.stats()["size_bytes"] <= BOUND
    store.check()


def test_what_is_over_goes_before_what_is_not(opened, clock):
    store = opened(size_bytes_max=BOUND)
    fill(store, 50)
    for n in range(50):
        store.set(("short", n), b"x", ttl=5)
    clock.advance(6)
    fill(store, 45, 1000)
    assert len(store) == 95
    assert store.stats()["evictions"] == 0


def test_an_entry_larger_than_the_cache_is_refused(opened):
    store = opened(size_bytes_max=BOUND)
    store["k"] = 1
    for call in (store.set, store.add, lambda k, v: store.set_many({"a": 1, k: v})):
        with pytest.raises(TooLargeError):
            call("large", b"x" * BOUND)
    with pytest.raises(TooLargeError):
        store.set("tagged", b"x" * (BOUND - 1000), tags=["a", "b"])
    assert list(store) == ["k"]
    assert store.position == 1


def test_many_at_once_over_the_bound(opened):
    store = opened(size_bytes_max=BOUND)
    store.set_many(dict.fromkeys(range(500), b"x"))
    assert 90 < len(store) < 104
    assert min(store) > 395
    assert store.stats()["size_bytes"] <= BOUND


def test_a_smaller_bound_after_a_restart(opened):
    with opened(size_bytes_max=BOUND) as store:
        fill(store, 90)
    with opened(size_bytes_max=BOUND // 10) as store:
        store.set("a", 1)
        assert "a" in store
        assert store.stats()["size_bytes"] <= BOUND // 10
        store.check()


@pytest.mark.parametrize("eviction", ["lru", "lfu"])
def test_memory_stays_within_the_bound(opened, eviction):
    bound = 512 << 10
    store, value = (
        opened(size_bytes_max=bound, eviction=eviction, segment_bytes_max=1 << 20),
        b"x" * 200,
    )
    fill(store, 100)
    tracemalloc.start()
    try:
        start = tracemalloc.get_traced_memory()[0]
        for n in range(10 * bound // (ENTRY_BYTES + 210)):
            if n % 2:
                store.set(n, value + b"%d" % n)
            else:
                store.set(n, value + b"%d" % n, ttl=1000)
        taken = tracemalloc.get_traced_memory()[0] - start - _disk(store)
    finally:
        tracemalloc.stop()
    assert store.stats()["size_bytes"] <= bound
    assert len(store) > 750
    assert taken <= bound


def _disk(store):
    """The simulated disk is in memory, too."""
    return sum(len(data) for data in store._fold.wal._config.files.contents().values())


@pytest.mark.parametrize("size", [0, -1, 1.5, True, "1", None, 1 << 70])
def test_bad_bounds_and_policies(opened, size):
    with pytest.raises(UsageError):
        opened(size_bytes_max=size)
    with pytest.raises(UsageError):
        opened(eviction=size)


# --- closing, reading only, restarts ---


def test_counts(opened, clock):
    store = opened()
    store.set("a", 1)
    store.add("b", 1)
    store.get("a"), store.get("a"), store.get("no"), store.get_many(["a", "b", "c"])
    stats = store.stats()
    assert (stats["hits"], stats["misses"], stats["sets"]) == (4, 2, 2)
    assert stats["told"] == {"hits": 0, "misses": 0, "sets": 0, "evictions": 0}
    store.close()
    store = opened()
    store.get("a")
    stats = store.stats()
    assert (stats["hits"], stats["misses"]) == (1, 0)
    assert stats["told"] == {"hits": 4, "misses": 2, "sets": 2, "evictions": 0}
    store.checkpoint()
    store.close()
    store = opened()
    assert store.stats()["told"]["hits"] == 5
    store.check()


def test_a_closed_cache_says_so(store):
    store["a"] = 1
    store.close()
    store.close()
    assert store.closed
    calls = [
        lambda: store.get("a"),
        lambda: store["a"],
        lambda: "a" in store,
        lambda: len(store),
        lambda: list(store),
        lambda: store.set("a", 1),
        lambda: store.set("a", 1, ttl=5),
        lambda: store.delete("a"),
        lambda: store.add("a", 1),
        lambda: store.incr("a"),
        lambda: store.evict("t"),
        store.clear,
        store.expire,
        store.checkpoint,
        store.sync,
        store.check,
        store.stats,
        lambda: store.touch("a"),
        lambda: store.set_many({"a": 1}),
        lambda: store.get_many(["a"]),
        lambda: store.pop("a", None),
        store.memoize(name="f")(lambda: 1),
    ]
    for call in calls:
        with pytest.raises(ClosedError):
            call()
    assert "closed" in repr(store)


def test_a_read_only_cache_reads_and_follows(opened):
    store = opened(size_bytes_max=BOUND)
    fill(store, 90)
    reading = opened(read_only=True, size_bytes_max=BOUND)
    store["b"] = 2
    for _ in range(5):
        for n in range(80):
            assert reading[n] == b"x"
    assert reading.get("missing") is None
    calls = [
        lambda: reading.set("c", 1),
        lambda: reading.set("c", 1, ttl=5),
        lambda: reading.delete("b"),
        lambda: reading.add("c", 1),
        lambda: reading.incr("c"),
        reading.clear,
        reading.checkpoint,
        lambda: reading.set_many({"c": 1}),
        lambda: reading.pop("b"),
        lambda: reading.touch("b"),
    ]
    for call in calls:
        with pytest.raises(ReadOnlyError):
            call()
    assert reading.memoize(name="f")(lambda: 7)() == 7  # computed, not kept
    before = store.position
    reading.check()
    reading.close()
    assert store.position == before


def test_an_interrupted_count_is_counted_anew(store):
    fill(store, 50)
    store.set("t", 1, tags=["x"], ttl=50)
    state = store._fold.current
    state.size, state._changing = 17, True  # as an interrupt in the middle of `set` leaves it
    state.tags.clear()
    store.set("after", 1)
    store.incr("n")
    assert store.evict("x") == 1
    store.check()


def test_a_damaged_state_in_memory_is_found(store):
    fill(store, 10)
    store._fold.current.size += 1
    with pytest.raises(DamageError, match="size"):
        store.check_state()


# --- hostile logs ---

LEASE = b"\0" * 16 + b"\0" * 8


@pytest.mark.parametrize(
    "record",
    [
        Record(b"sk", b""), Record(b"sk", b"T"), Record(b"sk", b"T\x01"), Record(b"sk", b"T\x01\x00b"),
        Record(b"sk", b"T\x01\x09ab"), Record(b"sk", b"T\x01\x01a"), Record(b"-", b""), Record(b"-" + b"\0" * 8, b"\x05\0ab"),
        Record(b"-" + b"\0" * 8, b"\x05"), Record(b"~" + b"\0" * 31, b""), Record(b"~" + b"\0" * 32, b"\x01\0\0\0\0\0"),
        Record(b"+" + b"\0" * 32, b"abc"), Record(b"Lsk", b""), Record(b"Lsk", LEASE), Record(b"Lsk", LEASE + b"\x01"),
        Record(b"Lsk", LEASE + b"\0more"),
    ],
    ids=repr,
)  # fmt: skip
def test_records_that_no_cache_writes(files, opened, record):
    opened()["good"] = 1
    with Wal.open("/cache", files=files, segment_bytes_max=4096) as wal:
        position = wal.append(record)
    with pytest.raises(DamageError) as caught:
        opened()
    assert caught.value.hint
    assert caught.value.position in (position, None)


@pytest.mark.parametrize("key", [b"", b"?", b"\xffk", b"M"])
def test_records_of_a_newer_version(files, opened, key):
    opened()["good"] = 1
    with Wal.open("/cache", files=files, segment_bytes_max=4096) as wal:
        wal.put(key, b"1")
    with pytest.raises(VersionError, match="newer"):
        opened()


@pytest.mark.parametrize(
    "raw",
    [
        b"?",
        b"i",
        b"ixyz",
        b"j{",
        b"j" + b"[" * 100_000,
        b"f123",
        b"s\xff",
        b"1x",
        b"F123",
        b"F12345678",
        b"F12345678F12345678b",
    ],
)
def test_values_that_no_cache_writes(files, opened, raw):
    store = opened()
    with Wal.open("/cache", files=files, segment_bytes_max=1 << 20) as wal:
        wal.put(b"sk", raw)
    with pytest.raises(DamageError):
        store.get("k")
    store["k"] = 1
    assert store["k"] == 1


def test_random_bytes_in_a_log_end_in_a_clean_error(files):
    rng = random.Random(3)
    for _ in range(3000):
        state, kinds = State(lambda: 0), b"sbit-~+LU#*M?"
        key = bytes([rng.choice(kinds)]) + rng.randbytes(rng.choice((0, 1, 8, 32)))
        value = rng.choice((b"", b"T\x02", b"F", b"j", LEASE)) + rng.randbytes(rng.randrange(30))
        record = Record(key, value, timestamp_ns=rng.randrange(1, 5), position=0)
        try:
            state.apply(record)
            state.check()
            list(state.dump())
        except (DamageError, VersionError):
            pass


def test_all_keys_survive_their_coding():
    rng = random.Random(4)

    def made(depth=3):
        kind = rng.randrange(5 if depth else 3)
        if kind == 0:
            return "".join(rng.choice("a:1ä\ud800") for _ in range(rng.randrange(6)))
        if kind == 1:
            return rng.randbytes(rng.randrange(6))
        if kind == 2:
            return rng.randrange(-1000, 1000)
        return tuple(made(depth - 1) for _ in range(rng.randrange(4)))

    seen = {}
    for _ in range(5000):
        key = made()
        coded = encode_key(key)
        assert decode_key(coded) == key
        assert seen.setdefault(coded, key) == key


def test_a_forked_child_goes_on_and_does_not_tell_twice(tmp_path):
    with Cache(tmp_path / "cache", **SMALL) as store:
        store["a"] = 1
        store.get("a")
        child = os.fork()
        if child == 0:
            try:
                store["b"] = store["a"] + 1
                store.close()
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        assert store["b"] == 2
        assert store.stats()["told"]["hits"] == 1  # the child's own, not its parent's
        store.check()
