"""Several stores in one log: each is as it would be alone, and transactions change all or none."""

from __future__ import annotations

import threading

import pytest

import treering
from tests.stores._opening import SMALL
from treering import (
    ClosedError,
    ConflictError,
    DamageError,
    Database,
    FsyncPolicy,
    TooLargeError,
    UsageError,
    VersionError,
)
from treering.fold import CommitConflictError
from treering.stores.events import Event, EventStore, WrongVersionError
from treering.stores.jobs import JobQueue, LeaseLostError
from treering.stores.kv import KeyValueStore
from treering.stores.messages import MessageLog
from treering.testing import FaultyFiles, MemoryFiles


def opened(files, **options):
    return Database("/db", files=files, **{**SMALL, **options})


def test_stores_of_one_log_are_apart(files):
    with opened(files) as db:
        one, two = db.kv("one"), db.kv("two")
        one[b"k"] = b"1"
        two[b"k"] = b"2"
        two.clear()
        one.put(b"t", b"x", ttl=100)
        assert (dict(one), dict(two)) == ({b"k": b"1", b"t": b"x"}, {})
        assert db.stores() == {"one": "key-value", "two": "key-value"}
        assert db.kv("one") is one
        db.check()
    with opened(files) as db:
        assert dict(db.kv("one")) == {b"k": b"1", b"t": b"x"}
        assert not db.kv("two")
        assert db.stats()["stores"] == 2


def test_they_come_back_from_a_snapshot_and_the_log_after_it(files):
    with opened(files) as db:
        for name in ("one", "two"):
            for number in range(100):
                db.kv(name)[b"%d" % number] = name.encode()
        db.checkpoint()
        db.kv("two")[b"0"] = b"new"
        db.kv("three")[b"3"] = b"3"
        db.checkpoint()
        db.kv("one").checkpoint()
        assert db.stats()["first_position"] > 0
        db.check()
    with opened(files) as db:
        assert db.kv("one")[b"99"] == b"one"
        assert db.kv("two")[b"0"] == b"new"
        assert db.kv("three")[b"3"] == b"3"
        assert db.stats()["trouble"] == []
        db.check()


def test_a_transaction_changes_all_or_nothing(files):
    with opened(files) as db:
        one, two = db.kv("one"), db.kv("two")
        one[b"n"] = b"5"
        before = db.position
        with db.transaction() as transaction:
            assert one.increment(b"n") == 6
            assert one.increment(b"n") == 7  # it sees its own changes
            two[b"copy"] = one[b"n"]
            assert one.pop(b"n") == b"7"
            assert b"n" not in one
            assert dict(two) == {b"copy": b"7"}
            assert list(two.iterator(prefix=b"c")) == [(b"copy", b"7")]
            assert len(one) == 0
            assert one.compare_and_set(b"n", None, b"8")
        assert transaction.positions == range(before, before + 5)
        assert (dict(one), dict(two)) == ({b"n": b"8"}, {b"copy": b"7"})
        with pytest.raises(ZeroDivisionError), db.transaction():
            one.clear()
            two[b"copy"] = b"gone"
            assert not one
            raise ZeroDivisionError
        assert (dict(one), dict(two)) == ({b"n": b"8"}, {b"copy": b"7"})
        with db.transaction() as transaction:
            pass
        assert not transaction.positions
        db.check()
    with opened(files) as db:
        assert (dict(db.kv("one")), dict(db.kv("two"))) == ({b"n": b"8"}, {b"copy": b"7"})


def test_a_transaction_is_one_frame(files):
    with opened(files) as db:
        one, two = db.kv("one"), db.kv("two")
        ends = set()
        with opened(files) as other:
            with db.transaction():
                for number in range(5):
                    one[b"%d" % number] = b"x"
                    two[b"%d" % number] = b"x"
                    ends.add(other._fold.wal.current_position())
            assert len(ends) == 1
            assert len(other.kv("one")) == len(other.kv("two")) == 5


def test_another_handle_in_between_is_a_conflict(files):
    with opened(files) as db, opened(files) as other:
        one = db.kv("one")
        one[b"n"] = b"1"
        with pytest.raises(CommitConflictError) as caught, db.transaction():
            one.increment(b"n")
            other.kv("one").increment(b"n")
        assert isinstance(caught.value, ConflictError)
        assert caught.value.hint
        assert one[b"n"] == b"2"
        tries = []

        def work():
            tries.append(one.increment(b"n"))
            if len(tries) < 3:
                other.kv("one").increment(b"n")
            return tries[-1]

        assert db.run(work) == 5
        assert tries == [3, 4, 5]
        assert one[b"n"] == other.kv("one")[b"n"] == b"5"


def test_a_transaction_stands_still_whatever_it_asks(files):
    with opened(files) as db, opened(files) as other:
        db.kv("one")[b"k"] = db.kv("two")[b"k"] = b"1"
        with db.transaction():
            assert db.kv("one")[b"k"] == b"1"
            with other.transaction():
                other.kv("one")[b"k"] = other.kv("two")[b"k"] = b"2"
            other.kv("three")
            assert db.kv("two")[b"k"] == b"1"
            assert set(db.stores()) == {"one", "two"}
            assert db.kv("two").at(position=db.position)[b"k"] == b"1"
            assert db.kv("two")[b"k"] == b"1"
        assert db.kv("two")[b"k"] == b"2"


def test_run_hands_on_what_the_work_raises(files):
    with opened(files) as db:
        one = db.kv("one")

        def conflict():
            one[b"k"] = b"v"
            raise ConflictError("of its own", hint="none")

        with pytest.raises(ConflictError, match="of its own"):
            db.run(conflict)
        assert not one


def test_other_threads_wait_with_writes_and_see_nothing_half(files):
    with opened(files) as db:
        one, two = db.kv("one"), db.kv("two")
        one[b"n"] = two[b"n"] = b"0"
        seen, stop = [], threading.Event()

        def write():
            while not stop.is_set():
                one.increment(b"other")

        def look():
            while not stop.is_set():
                with db.transaction():
                    seen.append((one[b"n"], two[b"n"]))

        threads = [threading.Thread(target=work) for work in (write, look)]
        for thread in threads:
            thread.start()
        for _ in range(100):
            with db.transaction():
                one.increment(b"n")
                two.increment(b"n")
        stop.set()
        for thread in threads:
            thread.join()
        assert all(mine == yours for mine, yours in seen)
        assert one[b"n"] == two[b"n"] == b"100"
        db.check()


def test_what_a_transaction_cannot_do_is_said(files):
    with opened(files) as db:
        one = db.kv("one")
        with db.transaction():
            one[b"k"] = b"v"
            for call in (
                db.checkpoint,
                db.check,
                one.checkpoint,
                one.check,
                lambda: db.kv("new"),
                lambda: db.transaction().__enter__(),
            ):
                with pytest.raises(UsageError):
                    call()
        assert dict(one) == {b"k": b"v"}


def test_a_name_has_one_kind_and_is_never_a_path(files):
    with opened(files) as db:
        for name in ("", 5, b"bytes", "x" * 2000):
            with pytest.raises(UsageError):
                db.kv(name)
        names = ["../up", "/etc/passwd", "a\0b", "zoë", "."]
        for name in names:
            db.kv(name)[b"k"] = name.encode()
        assert {path.count("/") for path in files.contents()} == {2}
    with opened(files) as db:
        assert [db.kv(name)[b"k"].decode() for name in names] == names


def test_a_transaction_that_is_too_large_or_cannot_be_written_changes_nothing():
    memory = MemoryFiles()
    files = FaultyFiles(memory)
    with opened(files, batch_bytes_max=1000) as db:
        one, two = db.kv("one"), db.kv("two")
        one[b"k"] = b"v"
        with pytest.raises(TooLargeError), db.transaction():
            one[b"k"] = b"w"
            two[b"k"] = bytes(2000)
        assert (dict(one), dict(two)) == ({b"k": b"v"}, {})
        with db.transaction():
            one[b"k"] = b"x"
        assert one[b"k"] == b"x"


def test_a_closed_database_says_so(files):
    db = opened(files)
    one = db.kv("one")
    one.close()
    one[b"k"] = b"v"  # a store's close does nothing
    db.close()
    db.close()
    assert db.closed
    for call in (lambda: one.put(b"k", b"v"), lambda: one.get(b"k"), db.transaction().__enter__):
        with pytest.raises(ClosedError):
            call()
    assert "closed" in repr(db)


def test_the_past_of_one_store(files):
    with opened(files) as db:
        start = db.position
        one = db.kv("one")
        one[b"k"] = b"1"
        then = one.position
        db.kv("two")[b"k"] = b"2"
        one[b"k"] = b"3"
        assert one.at(position=then)[b"k"] == b"1"
        assert dict(one.at(position=start)) == {}
        assert dict(one.snapshot()) == {b"k": b"3"}


def test_watching_one_store_shows_only_its_own_changes(files):
    with opened(files) as db:
        one, two = db.kv("one"), db.kv("two")
        with one.watch(timeout=0.01) as changes:
            two[b"k"] = b"2"
            one[b"k"] = b"1"
            two.clear()
            one.delete(b"k")
            assert [(change.key, change.value) for change in changes] == [
                (b"k", b"1"),
                (b"k", None),
            ]


KINDS = {
    "database": Database,
    "key-value": KeyValueStore,
    "events": EventStore,
    "messages": MessageLog,
    "jobs": JobQueue,
}


@pytest.mark.parametrize("mine", KINDS)
@pytest.mark.parametrize("yours", KINDS)
def test_a_store_of_one_kind_is_not_opened_as_another(files, mine, yours):
    with KINDS[mine]("/db", files=files, **SMALL) as store:
        position = store.position
    if mine == yours:
        KINDS[yours]("/db", files=files, **SMALL).close()
        return
    for options in ({}, {"read_only": True}):
        with pytest.raises(UsageError) as caught:
            KINDS[yours]("/db", files=files, **SMALL, **options)
        assert caught.value.hint
    with KINDS[mine]("/db", files=files, **SMALL) as store:
        assert store.position == position
        assert store.stats()["trouble"] == []
        store.check()


def test_a_plain_log_is_no_database(files):
    with treering.Wal.open("/db", files=files, fsync_policy=FsyncPolicy.OS) as wal:
        wal.put(b"k", b"v")
    with pytest.raises(DamageError) as caught:
        opened(files)
    assert caught.value.hint


def test_a_kind_of_a_newer_version_is_refused(files):
    with treering.Wal.open("/db", files=files, fsync_policy=FsyncPolicy.OS) as wal:
        wal.put(b"name", b"hologram 1")
    with pytest.raises(VersionError, match="hologram"):
        opened(files)


def test_a_read_only_database(files):
    with opened(files) as db:
        db.kv("one")[b"k"] = b"v"
    with opened(files, read_only=True) as db:
        assert dict(db.kv("one")) == {b"k": b"v"}
        db.sync()
        with pytest.raises(treering.ReadOnlyError):
            db.kv("one")[b"k"] = b"w"
        with pytest.raises(treering.ReadOnlyError):
            db.kv("new")


def test_an_event_store_in_a_database(files):
    with opened(files) as db:
        db.kv("one")[b"k"] = b"v"
        store = db.events("orders")
        assert db.events("orders") is store
        for number in range(20):
            db.kv("one")[b"%d" % number] = b"x"
            store.append("s", Event("e", number, id=f"{number}"))
        first = store.append("s", Event("e", 3, id="3"))
        assert (first.version, first.position) == (3, next(store.read("s", 3)).position)
        assert [event.data for event in store.read("s")] == list(range(20))
        assert [event.data for event in store.read_all()] == list(range(20))
        assert [event.version for event in store.subscribe(0, timeout=0)] == list(range(20))
        store.save_snapshot("s", 4, "five")
        projection = store.projection("n", lambda view, event: view.update(n=view.get("n", 0) + 1))
        assert projection.catch_up() == 20
        db.checkpoint()
        assert db.stats()["first_position"] == 0  # events stay
        db.check()
    with opened(files) as db:
        store = db.events("orders")
        assert store.load_snapshot("s").data == "five"
        assert [event.version for event in store.at(position=first.position).read("s")] == [0, 1, 2]


def test_events_in_a_transaction(files):
    with opened(files) as db:
        one, store = db.kv("one"), db.events("orders")
        store.append("s", Event("e", 1))
        with db.transaction():
            appended = store.append("s", Event("e", 2, id="two"), expected_version=0)
            one[b"version"] = b"%d" % appended.version
            assert store.version("s") == 1
            with pytest.raises(WrongVersionError):
                store.append("s", Event("e"), expected_version=0)
            with pytest.raises(UsageError, match="transaction"):
                store.read("s")
            assert len(list(store.read("s", to_version=1))) == 1
        assert [event.data for event in store.read("s")] == [1, 2]
        assert next(store.read("s", 1)).position == appended.position
        with pytest.raises(ZeroDivisionError), db.transaction():
            store.append("s", Event("e", 3))
            store.append("t", Event("e", 3))
            raise ZeroDivisionError
        assert (store.version("s"), store.streams()) == (1, ["s"])
        assert store.append("s", Event("e", 2, id="two")).version == 1
        db.check()


def test_a_job_and_its_effect_are_one(files):
    with opened(files) as db:
        one, mail = db.kv("one"), db.queue("mail", lease=60, attempts_max=2)
        assert db.queue("mail") is mail
        with db.transaction():
            id = mail.put(b"first")
            one[b"order"] = b"paid"
            with pytest.raises(UsageError, match="transaction"):
                mail.get()
        job = mail.get()
        assert (job.id, job.body) == (id, b"first")
        with pytest.raises(ZeroDivisionError), db.transaction():
            mail.ack(job)
            one[b"mailed"] = b"no"
            assert len(mail) == 0
            raise ZeroDivisionError
        assert (len(mail), dict(one)) == (1, {b"order": b"paid"})
        with db.transaction():
            mail.ack(job)
            with pytest.raises(LeaseLostError):
                mail.ack(job)
            one[b"mailed"] = job.body
        assert (len(mail), one[b"mailed"]) == (0, b"first")
        with db.transaction():
            mail.put(b"a", key=b"k")
            assert mail.put(b"b", key=b"k") == mail.put(b"c", key=b"k")
        assert [job.body for job in mail.jobs()] == [b"a"]
        job = mail.get()
        with db.transaction():
            assert mail.nack(job, 0, error="no")
        job = mail.get()
        assert (job.attempt, job.error) == (2, "no")
        db.checkpoint()
        db.check()
    with opened(files) as db:
        assert [job.body for job in db.queue("mail").jobs("leased")] == [b"a"]


def test_a_waiting_worker_hears_of_a_transaction(files):
    with opened(files) as db, opened(files) as other:
        mail, got = db.queue("mail"), []
        thread = threading.Thread(target=lambda: got.append(mail.get(timeout=30)))
        thread.start()
        theirs = other.queue("mail")
        with other.transaction():
            theirs.put(b"wake up")
        thread.join(30)
        assert [job.body for job in got] == [b"wake up"]


def test_messages_and_their_effect_are_one(files):
    with opened(files) as db:
        one, log = db.kv("one"), db.messages("news")
        for number in range(5):
            log.publish("in", b"%d" % number)
            one[b"between"] = b"%d" % number
        consumer = log.consumer("c", "in")
        group = log.group("g", "in", lease=60)
        for message in consumer.poll(2):
            with db.transaction():
                one[message.value] = b"seen"
                log.publish("out", message.value, b"key")
                consumer.commit(message.position + 1)
        taken = group.get(2)
        with pytest.raises(ZeroDivisionError), db.transaction():
            group.ack(*taken)
            raise ZeroDivisionError
        with db.transaction():
            group.ack(*taken)
            one[b"by the group"] = b"2"
        assert [each.value for each in log.consume_from("out")] == [b"0", b"1"]
        assert (consumer.lag, group.lag) == (3, 3)
        db.check()
    with opened(files) as db:
        log = db.messages("news")
        assert [each.value for each in log.consumer("c", "in").poll()] == [b"2", b"3", b"4"]
        assert [each.value for each in log.group("g", "in").get(9)] == [b"2", b"3", b"4"]
        assert db.kv("one")[b"1"] == b"seen"


def test_retention_of_messages_lets_a_database_shrink(files):
    with opened(files) as db:
        log = db.messages("news")
        log.set_retention("in", bytes=100)
        for _ in range(3):
            for number in range(100):
                log.publish("in", b"%050d" % number)
                db.kv("one")[b"%d" % number] = b"x"
            db.checkpoint()
        assert [int(each.value) for each in log.consume_from("in")] == [98, 99]
        assert db.stats()["first_position"] > 300
        db.check()
