"""The key-value store, call by call."""

from __future__ import annotations

import os
import shutil
import threading

import pytest

from tests.stores._opening import SMALL, opener
from treering import (
    ClosedError,
    DamageError,
    PrunedError,
    ReadOnlyError,
    TooLargeError,
    UsageError,
    Wal,
)
from treering.stores.kv import KeyValueStore, NotBytesError
from treering.testing import FakeClock

SECOND = 1_000_000_000


@pytest.fixture
def opened(files):
    with opener(KeyValueStore, "/kv", files=files) as open_store:
        yield open_store


def numbered(start, stop):
    return {b"%03d" % n: b"v%d" % n for n in range(start, stop)}


# --- a dict in several handles ---


def test_what_one_handle_does_the_other_sees_with_its_next_call(store, other):
    store.update(numbered(0, 100))
    assert other[b"050"] == b"v50"
    del other[b"050"]
    assert b"050" not in store
    assert len(store) == 99
    other.clear()
    assert not store
    assert list(store) == []


def test_of_many_that_pop_one_gets_it(store, other):
    store[b"a"] = b"1"
    assert other.pop(b"a") == b"1"
    assert store.pop(b"a", None) is None
    with pytest.raises(KeyError):
        store.pop(b"a")
    with pytest.raises(KeyError):
        del other[b"a"]
    store.delete(b"a")  # nothing happens


def test_popitem_takes_the_last_key(store):
    store.update(numbered(0, 200))
    taken = [store.popitem() for _ in range(200)]
    assert taken == sorted(numbered(0, 200).items(), reverse=True)
    with pytest.raises(KeyError):
        store.popitem()


def test_compare_and_set(store, other):
    assert store.compare_and_set(b"c", None, b"1")
    assert not other.compare_and_set(b"c", None, b"2")
    assert other.compare_and_set(b"c", b"1", b"2")
    assert store.compare_and_set(b"c", b"2", None)
    assert store.compare_and_set(b"c", None, None)
    assert b"c" not in other


def test_increment(store, other):
    assert (store.increment(b"n"), other.increment(b"n", 5), store.increment(b"n", -7)) == (
        1,
        6,
        -1,
    )
    store[b"text"] = b"x"
    with pytest.raises(UsageError, match="not a number"):
        store.increment(b"text")
    with pytest.raises(TypeError):
        store.increment(b"n", 1.5)


def test_setdefault_sets_once(store, other):
    assert store.setdefault(b"a", b"1") == b"1"
    assert other.setdefault(b"a", b"2") == b"1"


def test_a_batch_is_all_or_nothing(store, other):
    with pytest.raises(ZeroDivisionError), store.write_batch() as batch:
        batch.put(b"a", b"1")
        raise ZeroDivisionError
    assert b"a" not in other
    with pytest.raises(ZeroDivisionError), store.write_batch(transaction=False) as batch:
        batch.put(b"a", b"1")
        raise ZeroDivisionError
    assert other[b"a"] == b"1"
    batch = store.write_batch()
    batch.put(b"b", b"2")
    batch.delete(b"a")
    batch.write()
    assert dict(other) == {b"b": b"2"}


def test_a_batch_that_was_refused_is_still_there(opened):
    store = opened(batch_bytes_max=2000)
    batch = store.write_batch()
    for n in range(100):
        batch.put(b"%d" % n, b"x" * 100)
    with pytest.raises(TooLargeError):
        batch.write()
    assert (len(batch), len(store)) == (100, 0)


def test_clear_is_one_record_and_knows_prefixes(store, other):
    store.update(numbered(0, 50))
    part = store.prefixed_db(b"p-")
    part.update({b"a": b"1", b"b": b"2"})
    before = store.position
    part.clear()
    assert store.position == before + 1
    assert len(other) == 50
    store.clear()
    store[b"new"] = b"1"
    assert dict(other) == {b"new": b"1"}
    store.checkpoint()
    store.check()
    other.check()


# --- order and parts ---


def test_iterators(store):
    store.update(numbered(0, 20))
    got = lambda **options: list(store.iterator(**options))  # noqa: E731
    assert got(prefix=b"00", include_value=False) == [b"%03d" % n for n in range(10)]
    assert got(start=b"003", stop=b"005", reverse=True) == [(b"004", b"v4"), (b"003", b"v3")]
    assert got(start=b"003", stop=b"005", include_start=False, include_stop=True) == [
        (b"004", b"v4"),
        (b"005", b"v5"),
    ]
    assert got(stop=b"002", include_key=False) == [b"v0", b"v1"]
    assert got(start=b"5", stop=b"4") == []
    assert got(stop=b"001", include_key=False, include_value=False) == [None]
    with pytest.raises(UsageError):
        got(prefix=b"0", start=b"1")


def test_an_iterator_goes_both_ways_and_shows_one_moment(store):
    store.update(numbered(0, 4))
    iterator = store.iterator(include_value=False)
    store.clear()
    assert [next(iterator), next(iterator), iterator.prev(), next(iterator)] == [
        b"000",
        b"001",
        b"001",
        b"001",
    ]
    iterator.seek(b"002x")
    assert list(iterator) == [b"003"]
    iterator.seek_to_start()
    with pytest.raises(StopIteration):
        iterator.prev()
    iterator.seek_to_stop()
    assert list(iterator) == []


@pytest.mark.parametrize("prefix", [b"\xff", b"\xff\xff", b"a\xff", b"", b"\x00"])
def test_prefixes_at_the_end_of_the_alphabet(store, prefix):
    keys = [b"", b"\x00", b"a", b"a\xff", b"a\xff\xff", b"b", b"\xff", b"\xff\xff", b"\xff\xff\x01"]
    store.update(dict.fromkeys(keys, b"v"))
    wanted = sorted(key for key in keys if key.startswith(prefix))
    assert list(store.iterator(prefix=prefix, include_value=False)) == wanted
    assert list(store.prefixed_db(prefix)) == [key[len(prefix) :] for key in wanted]


def test_a_part_of_a_store_is_a_store(store):
    part = store.prefixed_db(b"p-")
    part[b"x"], part[b"y"] = b"1", b"2"
    store[b"q"] = b"3"
    assert dict(part) == {b"x": b"1", b"y": b"2"}
    assert store[b"p-x"] == b"1"
    assert list(part.iterator(start=b"x", include_start=False)) == [(b"y", b"2")]
    assert list(part.iterator(stop=b"x", include_stop=True, reverse=True)) == [(b"x", b"1")]
    assert part.increment(b"n") == 1
    assert part.compare_and_set(b"x", b"1", b"9")
    old = part.snapshot()
    assert part.pop(b"x") == b"9"
    assert part.popitem() == (b"y", b"2")
    assert dict(old) == {b"n": b"1", b"x": b"9", b"y": b"2"}
    assert part.setdefault(b"x", b"5") == b"5"
    with part.write_batch() as batch:
        batch.delete(b"x")
        batch.put(b"z", b"1")
    part.prefixed_db(b"s-")[b"t"] = b"u"
    assert dict(part) == {b"n": b"1", b"s-t": b"u", b"z": b"1"}
    part.clear()
    assert dict(store) == {b"q": b"3"}


def test_the_order_holds_through_all_changes(store):
    import random

    rng, model = random.Random(1), {}
    for step in range(3000):
        key = b"%d" % rng.randrange(500)
        if rng.random() < 0.6:
            store[key] = model[key] = b"%d" % step
        else:
            store.delete(key)
            model.pop(key, None)
        if rng.random() < 0.05:
            assert list(store.items()) == sorted(model.items())
    store.check()


# --- expiry ---


@pytest.fixture
def clock():
    return FakeClock(1_000 * SECOND)


def test_what_is_over_is_nowhere(opened, clock):
    store = opened(clock=clock)
    store[b"stays"] = b"1"
    for key in (b"a", b"b", b"c", b"d", b"e"):
        store.put(key, b"5", ttl=10)
    view, then = store.snapshot(), store.position
    assert len(store) == 6
    clock.advance(11)
    assert dict(store) == {b"stays": b"1"}
    assert (len(store), list(store.items())) == (1, [(b"stays", b"1")])
    assert store.get(b"a") is None
    assert store.setdefault(b"a", b"new") == b"new"
    assert store.compare_and_set(b"b", None, b"new")
    assert store.increment(b"c") == 1
    assert store.pop(b"d", None) is None
    assert store.popitem() == (b"stays", b"1")
    assert len(view) == len(store.at(position=then)) == 6  # then, they were not over
    clock.advance(100)
    assert dict(store) == {b"a": b"new", b"b": b"new", b"c": b"1"}
    store.checkpoint()
    store.check()


def test_a_put_takes_the_expiry_away_and_increment_keeps_it(opened, clock):
    store = opened(clock=clock)
    store.put(b"a", b"1", ttl=10)
    store.put(b"b", b"1", expires_at=1010)
    store.put(b"a", b"2")
    assert store.increment(b"b") == 2
    assert store.increment(b"c", ttl=5) == 1
    assert store.increment(b"c", ttl=5000) == 2
    clock.advance(20)
    assert dict(store) == {b"a": b"2"}


def test_what_was_over_does_not_come_back_when_the_clock_does(opened, clock):
    store, other = opened(clock=clock), opened(clock=clock)
    store.put(b"a", b"1", ttl=10)
    clock.advance(20)
    store[b"later"] = b"1"
    assert b"a" not in store
    clock.jump(-15)
    assert b"a" not in store
    assert b"a" not in other
    store.checkpoint()
    store.close()
    other.close()
    assert dict(opened(clock=clock)) == {b"later": b"1"}


def test_memory_of_what_is_over_is_given_back(opened, clock):
    store = opened(clock=clock)
    for n in range(5000):
        store.put(b"%d" % n, b"session", ttl=1)
        clock.advance(0.01)
    assert len(store._fold.current.items) < 2500


@pytest.mark.parametrize("ttl", [0, -1, "5", True])
def test_a_bad_ttl_is_refused(store, ttl):
    with pytest.raises(UsageError):
        store.put(b"a", b"1", ttl=ttl)
    with pytest.raises(UsageError):
        store.compare_and_set(b"a", None, b"1", ttl=ttl)
    assert len(store) == 0


# --- the past, and changes ---


def test_views_stand_still(store):
    store.update(numbered(0, 10))
    view = store.snapshot()
    store.clear()
    assert dict(view) == numbered(0, 10)
    assert list(view.iterator(start=b"008")) == [(b"008", b"v8"), (b"009", b"v9")]
    assert dict(view.prefixed_db(b"00")) == {b"%d" % n: b"v%d" % n for n in range(10)}
    assert dict(store.at(position=4)) == numbered(0, 4)
    assert view.position == 10
    assert not hasattr(view, "put")


def test_the_past_is_told_until_a_checkpoint_removes_it(opened):
    store = opened()
    for _ in range(4):
        store.update(numbered(0, 100))
        store.checkpoint()
    assert len(store.at(position=300)) == 100
    with pytest.raises(PrunedError):
        store.at(position=5)
    with pytest.raises(PrunedError):
        store.at(time=1)


def test_watching(store, other):
    with store.watch(b"a", timeout=0.01) as watch:
        other[b"a1"] = b"1"
        other[b"b"] = b"2"
        del other[b"a1"]
        other.clear()
        other.prefixed_db(b"c").clear()
        changes = list(watch)
    assert [(c.key, c.value, c.cleared) for c in changes] == [
        (b"a1", b"1", False),
        (b"a1", None, False),
        (b"", None, True),
    ]
    assert [c.position for c in store.watch(position=2, timeout=0)][:1] == [2]


# --- mistakes ---


@pytest.mark.parametrize("key", ["text", 5, None, bytearray(b"a"), ["a"]])
def test_a_key_that_is_not_bytes_is_refused_by_every_call(store, key):
    part = store.prefixed_db(b"p")
    calls = [
        *(lambda s=s: s.get(key) for s in (store, part, store.snapshot())),
        *(lambda s=s: key in s for s in (store, part, store.snapshot())),
        *(lambda s=s: s.put(key, b"v") for s in (store, part, store.write_batch())),
        *(lambda s=s: s.delete(key) for s in (store, part, store.write_batch())),
        *(lambda s=s: s.pop(key, None) for s in (store, part)),
        *(lambda s=s: s.setdefault(key, b"") for s in (store, part)),
        lambda: store.compare_and_set(key, None, b""),
        lambda: store.increment(key),
        lambda: store.watch(key),
        lambda: store.prefixed_db(key),
        lambda: store.iterator().seek(key),
    ]
    for call in calls:
        with pytest.raises(NotBytesError, match="bytes"):
            call()
    assert store.position == 0
    store.check()


def test_a_value_that_is_not_bytes_is_refused(store):
    calls = [
        lambda: store.put(b"a", "text"),
        lambda: store.put(b"a", None),
        lambda: store.setdefault(b"a", "text"),
        lambda: store.compare_and_set(b"a", None, 5),
        lambda: store.compare_and_set(b"a", "x", b""),
        lambda: store.write_batch().put(b"a", 5),
    ]
    for call in calls:
        with pytest.raises(TypeError):
            call()
    store.put(b"a", bytearray(b"fine"))
    store.put(b"b", memoryview(b"fine"), ttl=100)
    assert dict(store) == {b"a": b"fine", b"b": b"fine"}
    with pytest.raises(TooLargeError):
        store.put(b"k" * 65536, b"")


@pytest.mark.parametrize("exclusive", [True, False])
def test_a_closed_store_says_so(opened, exclusive):
    store = opened(exclusive=exclusive)
    store[b"a"] = b"1"
    view = store.snapshot()
    store.close()
    store.close()
    assert store.closed
    calls = [
        lambda: store.get(b"a"),
        lambda: store[b"a"],
        lambda: b"a" in store,
        lambda: len(store),
        lambda: list(store),
        lambda: store.put(b"a", b"1"),
        lambda: store.delete(b"a"),
        lambda: store.pop(b"a"),
        store.clear,
        store.checkpoint,
        store.snapshot,
        store.sync,
        store.check,
        store.watch,
        lambda: store.increment(b"a"),
    ]
    for call in calls:
        with pytest.raises(ClosedError):
            call()
    assert dict(view) == {b"a": b"1"}
    assert "closed" in repr(store)


def test_a_read_only_store_reads_and_follows(store, opened):
    store[b"a"] = b"1"
    reading = opened(read_only=True)
    store[b"b"] = b"2"
    assert dict(reading) == {b"a": b"1", b"b": b"2"}
    calls = [
        lambda: reading.put(b"c", b""),
        lambda: reading.delete(b"a"),
        lambda: reading.pop(b"a"),
        reading.checkpoint,
        reading.clear,
    ]
    for call in calls:
        with pytest.raises(ReadOnlyError):
            call()
    reading.sync()
    reading.check()


def test_retention_is_refused_and_so_is_a_bad_pace(opened):
    with pytest.raises(UsageError, match="retention"):
        opened(retention_records_max=5)
    for name in ("checkpoint_bytes", "checkpoint_records", "checkpoint_seconds"):
        with pytest.raises(UsageError, match=name):
            opened(**{name: 0})


# --- threads and forks ---


def test_threads_that_increment_lose_nothing(tmp_path):
    with (
        KeyValueStore(tmp_path / "kv", **SMALL) as store,
        KeyValueStore(tmp_path / "kv", **{**SMALL, "checkpoint_records": 50}) as other,
    ):

        def work(one):
            for n in range(200):
                one.increment(b"n")
                one[b"k%d" % (n % 7)] = b"%d" % n
                assert len(list(one.items())) <= len(dict(one)) <= 8

        threads = [threading.Thread(target=work, args=(one,)) for one in (store, other) * 2]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert store[b"n"] == other[b"n"] == b"800"
        assert other.stats()["trouble"] == []
        store.check()


def test_a_store_goes_on_in_a_forked_child(tmp_path):
    with KeyValueStore(tmp_path / "kv", **SMALL) as store:
        store[b"a"] = b"1"
        held = threading.Event()
        free = threading.Event()

        def hold():
            with store._fold.lock:
                held.set()
                free.wait(10)

        thread = threading.Thread(target=hold)
        thread.start()
        held.wait(10)
        child = os.fork()
        if child == 0:
            try:
                store[b"b"] = store[b"a"] + b"2"
                store.checkpoint()
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        free.set()
        thread.join()
        assert dict(store) == {b"a": b"1", b"b": b"12"}
        store.check()


def test_an_exclusive_store_belongs_to_the_parent(tmp_path):
    with KeyValueStore(tmp_path / "kv", exclusive=True, **SMALL) as store:
        store[b"a"] = b"1"
        child = os.fork()
        if child == 0:
            try:
                store.get(b"a")
            except UsageError:
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        assert store[b"a"] == b"1"


def test_a_damaged_state_in_memory_is_found(store):
    store.update(numbered(0, 10))
    assert len(store) == 10
    store._fold.current.items[b"003"] = b"other"
    with pytest.raises(DamageError, match="003"):
        store.check()


def test_a_log_that_was_cut_is_followed_back(store, other):
    store.update(numbered(0, 10))
    store[b"x"] = b"1"
    assert len(other) == 11
    with Wal.open("/kv", files=store._fold.wal._config.files, segment_bytes_max=4096) as wal:
        wal.truncate_after(10)
        wal.put(b"y", b"2")  # the same position again
    assert (other.get(b"x"), other.get(b"y")) == (None, b"2")
    assert list(store)[-1] == b"y"


def test_a_snapshot_that_knows_more_than_the_log_is_damage(tmp_path):
    """Durable records were lost; going on would put others in their place."""
    with KeyValueStore(tmp_path / "kv", checkpoint_bytes=None) as store:
        store[b"a"] = b"1"
    shutil.copytree(tmp_path / "kv", tmp_path / "old")
    with KeyValueStore(tmp_path / "kv", checkpoint_bytes=None) as store:
        store[b"b"] = b"2"
        store.checkpoint()
    shutil.copy(tmp_path / "kv" / f"{2:020}.snap", tmp_path / "old")
    with pytest.raises(DamageError, match="snapshot") as caught:
        KeyValueStore(tmp_path / "old")
    assert caught.value.hint
    with KeyValueStore(tmp_path / "old", read_only=True) as store:
        assert dict(store) == {b"a": b"1"}
