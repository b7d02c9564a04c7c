"""Documents, and commands that find nothing to do."""

from __future__ import annotations

import sys

import pytest

from tests.stores._opening import SMALL
from treering import DamageError, Database, FsyncPolicy, UsageError, Wal
from treering.stores.cache import Cache
from treering.stores.documents import DocumentStore
from treering.stores.documents.records import change_records
from treering.stores.documents.state import Entry, State
from treering.stores.documents.tree import Edit
from treering.stores.jobs import JobQueue
from treering.stores.kv import KeyValueStore
from treering.stores.messages import MessageLog
from treering.stores.sessions import SessionStore


@pytest.mark.parametrize(
    "store, write, same",
    [
        (KeyValueStore, lambda s: s.put(b"k", b"v"), lambda s: s.setdefault(b"k", b"v")),
        (KeyValueStore, lambda s: s.delete(b"k"), lambda s: s.pop(b"k", None)),
        (
            KeyValueStore,
            lambda s: s.put(b"k", b"v"),
            lambda s: s.compare_and_set(b"k", None, b"v"),
        ),
        (
            KeyValueStore,
            lambda s: s.delete(b"k"),
            lambda s: s.compare_and_set(b"k", None, None),
        ),
        (JobQueue, lambda s: s.cancel(s.put(b"x")), lambda s: s.cancel(1)),
        (MessageLog, lambda s: s.publish("t", b"m"), lambda s: s.delete_consumer("c", "t")),
        (Cache, lambda s: s.set("k", 1), lambda s: s.add("k", 1)),
        (Cache, lambda s: s.set("k", 1), lambda s: s.delete("j")),
        (SessionStore, lambda s: s.create(), lambda s: s.delete("x" * 32)),
    ],
)
def test_what_another_handle_did_already_is_durable_when_the_call_says_so(
    files, store, write, same
):
    options = {**SMALL, "files": files}
    with (
        store("/s", **options) as lazy,
        store("/s", **{**options, "fsync_policy": FsyncPolicy.ALWAYS}) as always,
    ):
        write(lazy)
        fold = getattr(always, "_fold", None) or always._log
        assert fold.wal.durable_position < fold.wal.current_position()
        same(lazy)
        assert fold.wal.durable_position < fold.wal.current_position()
        same(always)
        assert fold.wal.durable_position == fold.wal.current_position()


def test_in_a_transaction_it_is_durable_at_the_end(files):
    options = {**SMALL, "files": files}
    with (
        Database("/d", **options) as lazy,
        Database("/d", **{**options, "fsync_policy": FsyncPolicy.ALWAYS}) as always,
    ):
        lazy.kv("one")[b"k"] = b"v"
        wal, one = always._fold.wal, always.kv("one")
        with always.transaction(durable=False):
            one.setdefault(b"k", b"w")
        assert wal.durable_position < wal.current_position()
        with always.transaction():
            one.setdefault(b"k", b"w")
        assert wal.durable_position == wal.current_position()


def test_a_handle_for_reading_waits_for_no_disk(files):
    options = {**SMALL, "files": files}
    with KeyValueStore("/s", **options) as store:
        store[b"k"] = b"v"
        options["fsync_policy"] = FsyncPolicy.ALWAYS
        with KeyValueStore("/s", read_only=True, **options) as reader:
            assert reader.pop(b"j", None) is None
            assert reader.setdefault(b"k", b"w") == b"v"


# --- Logs that no store left so ---


def test_a_log_that_was_cut_within_a_change_takes_no_other_before_that_is_mended(files):
    options = {**SMALL, "files": files}
    with DocumentStore("/s", **options) as store:
        store.put("a", {"x": 1, "y": 2, "pad": "-" * 500})
        begun = store.position
        store.merge("a", {"x": 5, "y": 6})
        assert store.position == begun + 2
    with Wal.open("/s", files=files) as wal:
        wal.truncate_after(begun + 1)
    with DocumentStore("/s", **options) as store, DocumentStore("/s", **options) as other:
        assert store.get("a", path="/x") == 1
        for command in (
            lambda: store.put("b", {}),
            lambda: store.put_many({"b": {}, "c": {}}),
            lambda: store.set("a", "/x", 7),
            lambda: other.create_index("x", "/x"),
            store.checkpoint,
        ):
            with pytest.raises(DamageError, match=rf"truncate_after\({begun}\)"):
                command()
        assert store.position == begun + 1
        store._fold.wal.truncate_after(begun)
        assert other.set("a", "/x", 7) == 2
        store.check()
    with DocumentStore("/s", **options) as store:
        assert (store.get("a", path="/x"), store.get("a", path="/y")) == (7, 2)
        store.check()


def test_the_versions_of_a_hostile_log_come_to_an_end(files):
    options = {**SMALL, "files": files}
    edit = Edit(b"s", ("x",), b"1", 1)
    with Wal.open("/s", files=files) as wal:
        state = State()
        wal.append_batch(change_records(b"a", 1, 0, [edit]))
        state.documents["a"] = Entry({"x": 1}, 1, 0, 0, 7)
        wal.sync()
        wal.snapshots.write(1, state.label, state.dump())
    with DocumentStore("/s", **options) as store, pytest.raises(DamageError):
        store.history("a")


def test_whole_numbers_are_read_in_a_process_with_the_lowest_limit_for_digits(files):
    options, most = {**SMALL, "files": files}, (1 << 2126) - 1
    limit = sys.get_int_max_str_digits()
    with DocumentStore("/s", **options) as store:
        store.put("a", {"n": most, "m": -most})
        with pytest.raises(UsageError, match="640 digits"):
            store.increment("a", "/n")
    try:
        sys.set_int_max_str_digits(640)
        with DocumentStore("/s", **options) as store:
            assert store.get("a", path="/n") == most
            store.set("a", "/n", most - 1)
            store.checkpoint()
            store.check()
    finally:
        sys.set_int_max_str_digits(limit)
