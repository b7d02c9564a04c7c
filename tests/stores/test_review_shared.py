"""Several stores in one log, and the event store, where others come in between."""

from __future__ import annotations

import itertools
import os
import threading

import pytest

from tests.stores._opening import SMALL
from tests.threads.interrupts import PACKAGE, interrupted
from treering import ConflictError, DamageError, Database, FsyncPolicy, Record, UsageError, Wal
from treering.fold import Fold
from treering.fold._state import difference
from treering.stores.events import Event, EventStore
from treering.stores.events.state import State
from treering.stores.kv import KeyValueStore
from treering.stores.messages import MessageLog
from treering.testing import MemoryFiles


def opened(files, **options):
    return Database("/db", files=files, **{**SMALL, **options})


# --- What a transaction adds has positions that others may take ---


def test_a_transaction_does_not_read_anothers_record_for_its_own_event(files):
    with opened(files) as db, opened(files) as other:
        store = db.events("orders")
        db.kv("one")[b"k"] = b"v"
        store.append("s", Event("e", 0))
        tries = []

        def work():
            store.append("s", Event("e", len(tries)))
            store.save_snapshot("s", store.version("s"), "all")
            tries.append(1)
            if len(tries) == 1:
                other.kv("one").update({b"1": b"x", b"2": b"x", b"3": b"x"})
            with pytest.raises(UsageError, match="transaction"):
                store.read("s")
            return store.load_snapshot("s")

        assert db.run(work) is None
        assert len(tries) == 2
        assert [event.data for event in store.read("s")] == [0, 1]
        db.check()


def test_a_transaction_does_not_read_anothers_record_for_its_own_message(files):
    with opened(files) as db, opened(files) as other:
        log = db.messages("log")
        log.publish("t", b"before")
        consumer = log.consumer("c", "t")
        db.kv("one")[b"k"] = b"v"
        tries, seen = [], []

        def work():
            tries.append(1)
            log.publish("t", b"mine")
            if len(tries) == 1:
                for number in range(5):
                    other.kv("one")[b"%d" % number] = b"x"
            seen.append([message.value for message in log.consume_from("t")])

        db.run(work)
        assert len(tries) == 2
        assert seen == [[b"before"], [b"before"]]
        assert [message.value for message in consumer.poll()] == [b"before", b"mine"]


# --- What did not come to pass has no effect on what the program holds ---


def test_a_consumer_commits_in_a_transaction_that_is_run_again(files):
    with opened(files) as db, opened(files) as other:
        log, one = db.messages("log"), db.kv("one")
        log.publish_many("t", [b"1", b"2"])
        other.kv("one")
        consumer = log.consumer("c", "t")
        (first,) = consumer.poll(1)
        tries = []

        def work():
            tries.append(1)
            one.increment(b"n", int(first.value))
            consumer.commit()
            if len(tries) < 3:
                other.kv("one")[b"other"] = b"x"

        db.run(work)
        assert len(tries) == 3
        assert (one[b"n"], consumer.committed) == (b"1", first.position + 1)
        with pytest.raises(ZeroDivisionError), db.transaction():
            assert [message.value for message in consumer.poll()] == [b"2"]
            consumer.commit()
            raise ZeroDivisionError
        consumer.commit()
        assert consumer.lag == 1
        assert [message.value for message in consumer.poll()] == [b"2"]


@pytest.mark.parametrize("loop", [False, True])
def test_what_a_transaction_read_that_is_run_again_is_read_again(files, loop):
    with opened(files) as db, opened(files) as other:
        log, one = db.messages("log"), db.kv("one")
        log.publish_many("t", [b"1", b"10", b"100"])
        other.kv("one")
        consumer = log.consumer("c", "t")
        tries = []

        def work():
            tries.append(1)
            for message in [next(consumer)] if loop else consumer.poll(1):
                one.increment(b"n", int(message.value))
            consumer.commit()
            if len(tries) < 3:
                other.kv("one")[b"other"] = b"x"

        for _ in range(3):
            db.run(work)
        assert (one[b"n"], consumer.lag) == (b"111", 0)
        with db.transaction():
            assert consumer.poll() == []
            consumer.seek()
            consumer.poll(2)
        assert [message.value for message in consumer.poll()] == [b"100"]


def test_a_batchs_commit_in_a_transaction_that_is_rolled_back(files):
    with opened(files) as db:
        log = db.messages("log")
        log.publish("t", b"1")
        consumer = log.consumer("c", "t")
        consumer.poll()
        with pytest.raises(ZeroDivisionError), db.transaction():
            with log.batch() as batch:
                batch.publish("u", b"1")
                batch.commit(consumer)
            raise ZeroDivisionError
        with log.batch() as batch:
            batch.publish("u", b"1")
            batch.commit(consumer)
        assert (consumer.lag, log.count("u")) == (0, 1)


def test_anothers_commit_is_not_taken_for_one_that_was_rolled_back(files):
    with opened(files) as db, opened(files) as other:
        log = db.messages("log")
        log.publish_many("t", [b"1", b"2"])
        consumer = log.consumer("c", "t")
        consumer.poll(1)
        rival = other.messages("log").consumer("c", "t")
        rival.poll(2)
        with pytest.raises(ZeroDivisionError), db.transaction():
            consumer.commit()
            raise ZeroDivisionError
        rival.commit()  # at the very position that ours would have had
        with pytest.raises(ConflictError):
            consumer.commit()
        assert consumer.committed == rival.committed == rival.position


# --- fork, threads, closing ---


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_of_another_threads_fork_is_in_no_transaction(tmp_path):
    db = Database(tmp_path / "db", **SMALL)
    one = db.kv("one")
    inside, done = threading.Event(), threading.Event()

    def transact():
        with pytest.raises(ConflictError), db.transaction():
            one[b"parent"] = b"yes"
            inside.set()
            done.wait(20)

    thread = threading.Thread(target=transact)
    thread.start()
    inside.wait(20)
    child = os.fork()
    if child == 0:
        try:
            # The system gives new threads the numbers of those that are no more.
            for number in range(8):
                writer = threading.Thread(target=lambda n=number: one.put(b"%d" % n, b"child"))
                writer.start()
                writer.join(5)
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    with Database(tmp_path / "db", **SMALL) as other:
        found = dict(other.kv("one"))
    done.set()
    thread.join()
    db.close()
    assert found == {b"%d" % number: b"child" for number in range(8)}


def test_closing_within_a_transaction_is_refused_and_waits_for_nobody(files):
    with opened(files, checkpoint_records=5) as db:
        one = db.kv("one")
        with db.transaction():
            one[b"k"] = b"v"
            with pytest.raises(UsageError, match="transaction"):
                db.close()
        assert one[b"k"] == b"v"


def test_a_database_closes_the_projections_of_its_event_stores(tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with Database(tmp_path / "db", **SMALL) as db:
            for options in ({}, {"codec": None}):
                projection = db.events("e", **options).projection("n", lambda view, event: None)
            db.events("e").append("s", Event("e"))
            projection.catch_up()
        assert projection.closed
    assert len(os.listdir("/proc/self/fd")) <= before


def test_a_databases_projections_are_locked_and_written_as_its_log(tmp_path):
    with Database(tmp_path / "db", process_lock="file", map_tail=False, **SMALL) as db:
        projection = db.events("e").projection("n", lambda view, event: None)
        config = projection._fold.wal._config
        assert (config.process_lock, config.map_tail) == ("file", False)


# --- Durability ---


def test_what_one_call_of_a_transaction_wants_durable_is_durable_at_its_end(files):
    with opened(files) as db:
        one = db.kv("one")
        with db.transaction():
            one.put(b"a", b"1", sync=True)
            one.put(b"b", b"1")
        assert db._fold.wal.durable_position == db.position


def test_a_repeated_event_in_a_transaction_is_durable_at_its_end(files):
    with opened(files, fsync_policy=FsyncPolicy.ALWAYS) as db:
        store, queue = db.events("e"), db.queue("q")
        first = store.append("s", Event("e", id="1"), durable=False)
        job = queue.put(b"x", key=b"k", durable=False)
        assert db._fold.wal.durable_position <= first.position
        with db.transaction():
            assert store.append("s", Event("e", id="1")) == first
            assert queue.put(b"x", key=b"k") == job
        assert db._fold.wal.durable_position > job


# --- Subscriptions and projections ---


def test_a_subscription_to_a_stream_misses_nothing_that_comes_while_it_looks(files):
    with EventStore("/e", files=files, **SMALL) as store:
        store.append("s", [Event("e", number) for number in range(250)])
        look, late = store._positions_from, [Event("e", number) for number in range(250, 260)]

        def look_late(*arguments):
            if late:
                store.append("s", late)
                late.clear()
            return look(*arguments)

        store._positions_from = look_late
        with store.subscribe(0, stream="s", timeout=0) as events:
            assert [event.data for event in events] == list(range(260))


def test_a_projection_stopped_before_it_begins_to_run_does_not_run(files):
    with EventStore("/e", files=files, **SMALL) as store:
        projection = store.projection("n", lambda view, event: None)
        projection.stop()  # from a thread that was quicker than the one that runs it
        thread = threading.Thread(target=projection.run, daemon=True)
        thread.start()
        thread.join(5)
        stuck = thread.is_alive()
        if stuck:
            projection.stop()
        assert not stuck
        store.append("s", Event("e"))
        assert projection.run(live=False) == 1  # and only that run


# --- Opening and checking while others make checkpoints ---


class Counter:
    label = b"counter 1"

    def __init__(self):
        self.count = 0

    def apply(self, record):
        self.count += 1

    def dump(self):
        return [Record(b"n", b"%d" % self.count)]

    def load(self, record):
        self.count = int(record.value)

    def copy(self):
        other = Counter()
        other.count = self.count
        return other


def filled(fold):
    for _ in range(100):
        fold.wal.put(b"k", bytes(100))
    fold.checkpoint()


def test_opening_while_others_replace_all_the_snapshots(files):
    with Fold("/log", Counter, files=files, **SMALL) as fold:
        filled(fold)
        filled(fold)
        others = [fold] * 2
        original = Wal.snapshots.fget

        class Slow:
            def __init__(self, snapshots):
                self._snapshots = snapshots

            def positions(self):
                found = self._snapshots.positions()
                while others:
                    filled(others.pop())
                return found

            def __getattr__(self, name):
                return getattr(self._snapshots, name)

        with Fold("/log", Counter, files=files, **SMALL) as slow:
            slow.wal.__class__ = type(
                "SlowWal", (Wal,), {"snapshots": property(lambda wal: Slow(original(wal)))}
            )
            slow._reload()
            assert slow.state().count == 400
            assert slow.trouble == []


def test_checking_while_others_replace_the_snapshots(files):
    with Fold("/log", Counter, files=files, **SMALL) as fold:
        filled(fold)
        filled(fold)
        with Fold("/log", Counter, files=files, **SMALL) as other:
            load, others = fold._archive.load_one, [other] * 2

            def load_late(position):
                while others:
                    filled(others.pop())
                return load(position)

            fold._archive.load_one = load_late
            fold.check()


# --- Names ---


def test_a_name_that_is_no_text_is_refused(files):
    with opened(files) as db, pytest.raises(UsageError):
        db.kv("\ud800")


# --- Interrupts that the block survives ---


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_call_that_was_broken_off_in_a_transaction_happened_or_did_not(files, monkeypatch, after):
    with opened(files) as db:
        one, store = db.kv("one"), db.events("e")
        store.append("s", Event("e", 0))
        add, calls = State.add, []

        def interrupted(self, *arguments):
            if len(calls) != after:
                add(self, *arguments)
            calls.append(1)
            if len(calls) == 1 + after:
                raise KeyboardInterrupt

        with db.transaction():
            monkeypatch.setattr(State, "add", interrupted)
            with pytest.raises(KeyboardInterrupt):
                store.append("s", [Event("e", number) for number in (1, 2, 3)])
            monkeypatch.undo()
            assert store.version("s") == 0
            store.append("s", Event("e", 4), expected_version=0)
            one[b"k"] = b"v"
        assert [(event.version, event.data) for event in store.read("s")] == [(0, 0), (1, 4)]
        db.check()
    with opened(files) as db:
        assert db.events("e").version("s") == 1


CALLS = {
    "append": lambda db: db.events("e").append("s", [Event("e", 1), Event("e", 1)]),
    "update": lambda db: db.kv("k").update({b"1": b"x", b"2": b"y"}),
    "publish": lambda db: db.messages("m").publish_many("t", [b"1", b"2"]),
    "put_many": lambda db: db.queue("q").put_many([b"1", b"2"]),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_that_was_broken_off_at_any_step_leaves_a_sound_transaction(name):
    at, call = 1, CALLS[name]
    while at:
        files = MemoryFiles()
        with opened(files) as db:
            for made in CALLS.values():
                made(db)
            with db.transaction():
                if not interrupted(lambda db=db: call(db), at, PACKAGE):
                    at = -1  # it was over before
                db.events("e").append("s", Event("e", 2))
                for made in list(CALLS.values())[1:]:
                    made(db)
            found = db._fold.state()
            with opened(files.crash()) as again:
                assert difference(found, again._fold.state()) is None
            db.check()
        at += 1


def test_checking_a_store_whose_keys_expire_meanwhile(files):
    now = itertools.count(10**18, 10**8)
    with KeyValueStore("/kv", files=files, clock=lambda: next(now), **SMALL) as store:
        for number in range(50):
            store.put(b"%d" % number, b"v", ttl=100)
        for _ in range(100):
            store.check_state()
        store.check()


def test_a_snapshot_with_a_message_of_a_topic_that_is_not_compacted_is_refused(files):
    with MessageLog("/m", files=files, **SMALL) as log:
        log.set_retention("t", compact=True)
        log.publish("t", b"v", key=b"k")
        records = list(log._fold.current.dump())
    again = MessageLog.new_state(lambda: 0)
    again.load(records[0])
    with pytest.raises(DamageError):
        again.load(records[2])
