"""An index over a log: random access, beside writers, truncated at either end, kept on disk."""

from __future__ import annotations

import json
import threading

import pytest

from treering import (
    ClosedError,
    FsyncPolicy,
    LogNotFoundError,
    PrunedError,
    ReadOnlyError,
    Record,
    ReentrantError,
    RewoundError,
    UsageError,
    VersionError,
    Wal,
)
from treering.stores.kv import KeyValueStore
from treering.stores.views import Index
from treering.stores.views.state import Newest
from treering.testing import FakeClock, MemoryFiles

LOG = {"fsync_policy": FsyncPolicy.OS, "segment_bytes_max": 4096}


@pytest.fixture
def opened(files):
    logs = []

    def open_log(path="/log", **options):
        logs.append(Wal.open(path, files=files, **{**LOG, **options}))
        return logs[-1]

    yield open_log
    for log in logs:
        log.close()


@pytest.fixture
def wal(opened):
    return opened()


def by_city(record):
    return json.loads(record.value)["city"].encode()


def test_the_newest_record_of_a_key_counts(wal):
    index = Index(wal)
    wal.put(b"a", b"1")
    wal.put(b"b", b"2", headers={"h": b"x"})
    wal.put(b"a", b"3")
    assert index[b"a"] == index.get(b"a") == b"3"
    assert index.record(b"b").headers == {"h": b"x"}
    assert (index.position(b"a"), index.positions(b"b"), index.position(b"c")) == (2, [1], None)
    assert (len(index), list(index), b"a" in index, b"c" in index) == (2, [b"a", b"b"], True, False)
    assert dict(index) == dict(index.items()) == {b"a": b"3", b"b": b"2"}
    assert list(index.values()) == [b"3", b"2"]
    assert [r.position for r in index.records(b"a")] == [2]
    wal.delete(b"a")
    assert index.get(b"a") is None and index.get(b"a", b"x") == b"x" and list(index) == [b"b"]
    with pytest.raises(KeyError):
        index[b"a"]
    index.check()


def test_keys_between_bounds_and_many_at_once(wal):
    index = Index(wal)
    for number in range(600):
        wal.put(b"%03d" % number, b"v%d" % number)
    wal.put(b"\xff\xff", b"last")
    assert index.keys(b"12") == [b"12%d" % n for n in range(10)]
    assert index.keys(start=b"598", stop=b"\xff") == [b"598", b"599"]
    assert index.keys(b"\xff") == [b"\xff\xff"] and index.keys(reverse=True)[0] == b"\xff\xff"
    assert [v for _, v in index.items(start=b"599")] == [b"v599", b"last"]
    assert index.get_many([b"599", b"x", b"000", b"599"]) == [b"v599", None, b"v0", b"v599"]
    assert index.get_many([], 7) == [] and index.get_many([b"x"], 7) == [7]
    assert len(list(index.items())) == 601


def test_expired_records_are_nowhere_and_do_not_come_back(opened):
    clock = FakeClock()
    wal = opened(clock=clock)
    index, cities = Index(wal, clock=clock), Index(wal, key=lambda r: b"all", clock=clock)
    wal.put(b"a", b"1", ttl=10)
    wal.put(b"b", b"2")
    assert (len(index), index[b"a"], cities.positions(b"all")) == (2, b"1", [0, 1])
    clock.advance(11)
    assert (len(index), index.get(b"a"), list(index), b"a" in index) == (1, None, [b"b"], False)
    assert (cities.positions(b"all"), cities.get(b"all")) == ([1], b"2")
    wal.put(b"c", b"3")
    assert len(index) == 2
    clock.jump(-1000)
    assert b"a" not in index and index.get(b"a") is None  # the newest record knows the time
    wal.put(b"a", b"4")
    assert index[b"a"] == b"4"
    for number in range(3000):
        wal.put(b"%d" % number, b"", ttl=1)
        clock.advance(1)
    index.state()
    assert index.stats()["expiring"] < 2100  # those that are over are forgotten
    index.check()
    cities.check()


def test_a_secondary_index_has_all_records_of_a_key(wal):
    cities = Index(wal, key=by_city)
    people = [(b"ada", "London"), (b"alan", "Paris"), (b"ada", "Paris"), (b"grace", "Paris")]
    for name, city in people:
        wal.put(name, json.dumps({"city": city}).encode())
    wal.delete(b"grace")
    assert cities.keys() == [b"London", b"Paris"]
    assert cities.positions(b"Paris") == [1, 2, 3] and cities.position(b"Paris") == 3
    assert [r.key for r in cities.records(b"Paris")] == [b"alan", b"ada", b"grace"]
    assert cities.record(b"Paris").key == b"grace"
    now = Index(wal, key=by_city, latest=True)
    assert now.keys() == [b"Paris"]  # ada has moved, grace is gone
    assert [r.key for r in now.records(b"Paris")] == [b"alan", b"ada"]
    several = Index(wal, key=lambda r: [r.key, by_city(r)] if r.key != b"alan" else None)
    assert several.keys() == [b"London", b"Paris", b"ada", b"grace"]
    history = Index(wal, key=lambda record: record.key)
    assert history.positions(b"ada") == [0, 2]
    for index in (cities, now, several, history):
        index.check()


@pytest.mark.parametrize("wrong", [5, "text", [b"a", 5], [None]])
def test_a_key_function_that_gives_no_keys(wal, wrong):
    index = Index(wal, key=lambda r: wrong if r.value == b"bad" else r.value)
    wal.put(b"a", b"good")
    wal.put(b"a", b"bad")
    for _ in range(2):
        with pytest.raises((UsageError, TypeError)) as caught:
            index.keys()
        said = [str(caught.value), *getattr(caught.value, "__notes__", [])]
        assert any("at 1" in each or "position 1" in each for each in said)
    assert index.lag == 1 and index.current.table.keys() == {b"good"}


@pytest.mark.parametrize("how", ["wal", "path"])
@pytest.mark.parametrize("kind", ["newest", "all", "latest"])
def test_truncation_at_both_ends(wal, files, how, kind):
    options = {"newest": {}, "all": {"key": lambda r: r.key}}.get(
        kind, {"key": lambda r: r.key, "latest": True}
    )
    index = Index(wal if how == "wal" else "/log", files=files, **options)
    for number in range(300):
        wal.put(b"%d" % (number % 100), b"%d" % number + b"x" * 50)
    assert len(index) == 100
    first = wal.truncate_before(250)
    assert 200 < first <= 250
    assert index.keys() == sorted(b"%d" % (n % 100) for n in range(first, 300))
    assert index.get(b"0") is None and index[b"99"].startswith(b"299x")
    assert index.stats()["first_position"] == first
    wal.truncate_after(280)
    assert b"99" not in index and index[b"79"].startswith(b"279x")
    assert index.reached == 280
    wal.truncate_after(275)
    for number in range(275, 290):  # as long as before, and longer: positions are given again
        wal.put(b"new", b"%d" % number)
    assert index[b"new"] == b"289" and b"79" not in index
    index.check()
    assert index.trouble == []
    index.close()


def test_records_that_go_while_they_are_read(wal):
    index = Index(wal, key=lambda r: b"all")
    for number in range(900):
        wal.put(b"k", b"%d" % number + b"x" * 50)
    records = index.records(b"all")
    assert next(records).position == 0
    wal.truncate_before(400)
    rest = [record.position for record in records]
    assert rest == [*range(1, 256), *range(wal.first_position, 900)]
    records = index.records(b"all")
    next(records)
    wal.truncate_after(890)
    with pytest.raises(RewoundError):
        list(records)
    items = Index(wal).items()
    wal.truncate_after(wal.first_position)
    assert list(items) == []


def test_a_path_is_followed_and_nothing_is_written_there(wal, files):
    wal.put(b"a", b"1")
    before = {path: bytes(data) for path, data in files.contents().items()}
    with Index("/log", files=files) as index:
        assert index[b"a"] == b"1"
        with pytest.raises(ReadOnlyError):
            index.wal.put(b"a", b"2")
        assert {path: bytes(data) for path, data in files.contents().items()} == before
        wal.put(b"a", b"2")
        assert index[b"a"] == b"2"
    assert index.closed and index.wal.closed and not wal.closed
    with pytest.raises(LogNotFoundError):
        Index("/nothing", files=files)


def test_opening_reads_only_what_is_new(wal, files):
    seen = []

    def key(record):
        seen.append(record.position)
        return record.key

    for options in ({}, {"key": key}, {"key": key, "latest": True}):
        path = f"/index{len(options)}"
        for number in range(50):
            wal.put(b"%d" % number, b"x", ttl=1e6 if number % 2 else None)
        with Index(wal, path, files=files, **options) as index:
            assert index.checkpoint() == wal.current_position() == index.stats()["kept"]
            known = dict(index.items())
        wal.put(b"later", b"1")
        del seen[:]
        with Index(wal, path, files=files, **options) as index:
            assert seen == ([wal.current_position() - 1] if options else [])
            assert dict(index.items()) == {**known, b"later": b"1"}
            assert index.trouble == []
            index.check()


def test_a_snapshot_is_kept_in_the_background_and_at_the_end(wal, files):
    for start in range(0, 20_000, 1000):
        wal.append_batch([(b"%d" % n, b"") for n in range(start, start + 1000)])
    with Index(wal, "/index", files=files) as index:
        pass
    with Index(wal, "/index", files=files, checkpoint_records=5) as index:
        assert index.stats()["kept"] == 20_000
        for number in range(20):
            wal.put(b"%d" % number, b"")
            index.state()
        for _ in range(1000):
            if index.stats()["kept"] > 20_000:
                break
            threading.Event().wait(0.01)
        assert index.stats()["kept"] > 20_000


def test_a_kept_index_of_another_log_or_past_is_made_anew(wal, opened, files):
    def told(log, **options):
        with Index(log, "/index", files=files, **options) as index:
            found, trouble = dict(index.items()), index.trouble
            index.check()
            index.checkpoint()
        return found, trouble

    for number in range(30):
        wal.put(b"%d" % number, b"1")
    assert told(wal)[1] == []
    wal.truncate_after(20)  # while nobody looks
    for number in range(40):
        wal.put(b"n%d" % number, b"2")
    found, (why,) = told(wal)
    assert "taken back, from 20" in why and len(found) == 60 and b"25" not in found
    other = opened("/other")
    other.put(b"x", b"y")
    found, (why,) = told(other)
    assert found == {b"x": b"y"} and "another log" in why
    _, (why,) = told(other, key=lambda r: r.key)
    assert "another key function" in why
    assert told(other, key=lambda r: r.key)[1] == []
    assert told(other, key=lambda r: r.key, version=2)[1] != []


def test_a_log_that_lost_its_tail_and_grew_again_is_noticed(wal, files):
    """Not by a cut, which the log itself remembers, but by power failure: then only the
    fingerprint of the last record tells."""
    wal.put(b"a", b"1", durable=True)
    durable = {path: data for path, data in files.contents().items() if path.startswith("/log")}
    wal.put(b"b", b"2")
    with Index("/log", "/index", files=files) as index:
        index.checkpoint()
    kept = {p: data for p, data in files.contents().items() if p.startswith("/index")}
    later = MemoryFiles()
    for path, data in {**durable, **kept}.items():
        if not later.is_directory(path.rpartition("/")[0]):
            later.make_directory(path.rpartition("/")[0])
        later.put_file(path, data)
    with Wal.open("/log", files=later, **LOG) as wal:
        wal.put(b"c", b"2")
        with Index("/log", "/index", files=later) as index:
            assert dict(index) == {b"a": b"1", b"c": b"2"}
            assert "the record at 1 is another one now" in index.trouble[0]


def test_a_past_that_no_fingerprint_tells_is_noticed_when_it_is_read(files):
    """The same record at the same time, but others before it: each look-up compares the keys."""
    clock = FakeClock()
    with Wal.open("/log", files=files, clock=clock, **LOG) as wal:
        wal.put(b"a", b"1", durable=True)
        durable = files.contents()
        wal.append_batch([(b"b", b"2"), (b"z", b"3")])
        with Index("/log", "/index", files=files) as index:
            index.checkpoint()
    kept = {p: data for p, data in files.contents().items() if p.startswith("/index")}
    later = MemoryFiles()
    for path, data in {**durable, **kept}.items():
        if not later.is_directory(path.rpartition("/")[0]):
            later.make_directory(path.rpartition("/")[0])
        later.put_file(path, data)
    with Wal.open("/log", files=later, clock=clock, **LOG) as wal:
        wal.append_batch([(b"c", b"2"), (b"z", b"3")])
        with Index("/log", "/index", files=later) as index:
            assert index.get(b"b") is None and index[b"c"] == b"2"
            assert "another key" in index.trouble[0]
            index.check()


def test_a_damaged_snapshot_costs_only_time(wal, files):
    for number in range(300):
        wal.put(b"%d" % number, b"1")
    with Index(wal, "/index", files=files) as index:
        index.checkpoint()
    for path in [path for path in files.contents() if path.endswith(".snap")]:
        file = files.open(path, 2)
        files.write(file, memoryview(b"\xff" * 50), 200)
        files.close(file)
    with Index(wal, "/index", files=files) as index:
        assert len(index) == 300 and "damaged" in index.trouble[0]
        index.checkpoint()
    with Index(wal, "/index", files=files) as index:
        assert index.trouble == [] and len(index) == 300


def test_progress_limits_and_lag(opened):
    wal, calls = opened(segment_bytes_max=1 << 20), []
    for _ in range(70):
        wal.append_batch([(b"k", b"")] * 1000)
    index = Index(wal, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(65536, 70_000), (70_000, 70_000)] and index.lag == 0
    wal.append_batch([(b"n", b"")] * 10)
    assert (index.lag, index.stats()["lag"]) == (10, 10)
    assert (index.catch_up(limit=4), index.lag, index.catch_up(limit=0)) == (4, 6, 0)
    assert (index.catch_up(), index.lag) == (6, 0)
    assert not index.wait(0.01)
    threading.Timer(0.02, lambda: wal.put(b"x", b"")).start()
    assert index.wait(10) and b"x" in index


def test_compacting_keeps_what_is_alive(opened):
    clock = FakeClock()
    wal = opened(clock=clock)
    index = Index(wal, clock=clock)
    for number in range(400):
        wal.put(b"%d" % (number % 20), b"%d" % number * 20, headers={"n": b"%d" % number})
    wal.put(b"over", b"", ttl=1)
    wal.put(b"later", b"x", ttl=1e6)
    wal.delete(b"3")
    wal.put(b"large", b"L" * 9000)
    clock.advance(5)
    wal.put(b"z", b"")
    before = {key: index.record(key) for key in index}
    end = wal.current_position()
    first = index.compact(wal)
    assert first == wal.first_position > end - 200 and len(before) == 22
    assert wal.durable_position >= wal.current_position() - 1
    for one in (index, Index(wal, clock=clock)):
        after = {key: one.record(key) for key in one}
        assert after.keys() == before.keys()
        for key, record in after.items():
            was = before[key]
            assert (record.value, record.headers) == (was.value, was.headers)
            assert (record.timestamp_ns, record.expires_at_ns) == (
                was.timestamp_ns,
                was.expires_at_ns,
            )
        one.check()
    clock.jump(-1000)  # a clock that went wrong removes nothing for good
    wal.put(b"soon", b"", ttl=10)
    clock.jump(1e9)
    index.compact(wal)
    clock.jump(-1e9)
    assert b"soon" in Index(wal, clock=clock)


def test_compacting_beside_writers_overtakes_nobody(opened):
    wal, theirs, ends = opened(), opened(), threading.Event()
    index = Index(wal)
    for number in range(300):
        wal.put(b"%d" % (number % 100), b"0" * 40)
    counts = [0]

    def write():
        while not ends.is_set():
            counts[0] += 1
            theirs.put(b"%d" % (counts[0] % 100), b"%d" % counts[0])

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(5):
            index.compact(wal)
    finally:
        ends.set()
        thread.join()
    last = counts[0]
    assert last > 100
    for number in range(last, last - 100, -1):
        assert index[b"%d" % (number % 100)] == b"%d" % number
    index.check()


def test_a_copy_never_comes_after_a_newer_record(opened, monkeypatch):
    wal, theirs = opened(), opened()
    index, append = Index(wal), wal.append_batch
    for number in range(100):
        wal.put(b"%d" % number, b"old" * 20)
    tries = []

    def somebody_is_faster(records, **options):
        if len(tries) < 5:
            theirs.put(b"%d" % len(tries), b"new")
            theirs.delete(b"%d" % (50 + len(tries)))
        tries.append(len(records))
        return append(records, **options)

    monkeypatch.setattr(wal, "append_batch", somebody_is_faster)
    index.compact(wal)
    assert len(tries) > 5 and wal.first_position > 0
    assert [index.get(b"%d" % n) for n in range(5)] == [b"new"] * 5
    assert [index.get(b"%d" % n) for n in range(50, 55)] == [None] * 5
    assert len(index) == 95
    index.check()


def test_what_cannot_be_compacted(wal, opened, files):
    wal.put(b"a", b"1")
    other = opened("/other")
    readers = Wal.open("/log", files=files, read_only=True)
    for index, handle, error in (
        (Index(wal), other, UsageError),
        (Index(wal), "/log", UsageError),
        (Index(wal), readers, ReadOnlyError),
        (Index(wal, key=lambda r: r.key), wal, UsageError),
        (Index(wal, stream=0), wal, UsageError),
    ):
        with pytest.raises(error):
            index.compact(handle)
    for until in (-1, True, "x", 99):
        with pytest.raises((UsageError, LookupError)):
            Index(wal).compact(wal, until=until)
    wal.put(b"b", b"", stream=7)
    with pytest.raises(UsageError, match="store"):
        Index(wal).compact(wal)
    with KeyValueStore("/kv", files=files, **LOG) as store:
        store[b"a"] = b"1"
        with pytest.raises(UsageError, match="store"):
            Index(store._fold.wal).compact(store._fold.wal)
    readers.close()


def test_a_stores_log_and_a_stream_of_a_shared_one(wal, files):
    with KeyValueStore("/kv", files=files, **LOG) as store:
        index = Index("/kv", files=files)
        latest = Index("/kv", files=files, key=lambda r: r.value, latest=True)
        store.update({b"a1": b"x", b"a2": b"x", b"b": b"y"})
        store.prefixed_db(b"a").clear()
        store[b"a3"] = b"y"
        assert dict(index) == dict(store) == {b"a3": b"y", b"b": b"y"}
        assert latest.keys() == [b"y"] and len(latest.positions(b"y")) == 2
    for stream in (1, 2):
        wal.put(b"k", b"%d" % stream, stream=stream)
    assert (Index(wal, stream=1)[b"k"], Index(wal)[b"k"]) == (b"1", b"2")
    assert len(Index(wal, stream=3)) == 0


def test_bad_input_changes_nothing(wal, files):
    index = Index(wal)
    wal.put(b"a", b"1")
    for wrong in (
        lambda: index.get("a"),
        lambda: index[5],
        lambda: "a" in index,
        lambda: index.position(None),
        lambda: list(index.records("a")),
        lambda: index.get_many(b"a"),
        lambda: index.get_many([b"a", "b"]),
        lambda: index.keys("a"),
        lambda: index.keys(b"a", start=b"b"),
        lambda: index.keys(stop=5),
        lambda: index.catch_up(limit=1.5),
        lambda: index.wait(-1),
        lambda: index.checkpoint(),
        lambda: Index(wal, key=5),
        lambda: Index(wal, latest=True),
        lambda: Index(wal, version=0),
        lambda: Index(wal, stream=-1),
        lambda: Index(wal, stream=True),
        lambda: Index(wal, progress=5),
        lambda: Index(wal, "/log", files=files),
        lambda: Index(wal, "/x", files=files, checkpoint_records=0),
        lambda: Index(wal, "/x", files=files, nonsense=1),
        lambda: Index(5),
    ):
        with pytest.raises(UsageError):
            wrong()
    assert dict(index) == {b"a": b"1"}
    KeyValueStore("/kv", files=files, **LOG).close()
    with pytest.raises(UsageError, match="another path"):
        Index(wal, "/kv", files=files)


def test_a_closed_index_or_log(wal, files):
    index = Index(wal, "/index", files=files)
    assert "Index of '/log'" in repr(index) and index.name == "/log"
    index.close()
    index.close()
    assert "closed" in repr(index)
    wal.put(b"a", b"1")
    with pytest.raises(ClosedError):
        index.get(b"a")
    with Index(wal) as index:
        assert index[b"a"] == b"1"
    wal.close()
    with pytest.raises(ClosedError):
        Index(wal)


def test_records_of_newer_versions_and_malformed_ones():
    from treering import DamageError

    state = Newest(b"", None)
    with pytest.raises(VersionError):
        state.load(Record(b"x"))
    for record in (Record(b"h", b"short"), Record(b"1k", b"123"), Record(b"e", b"123")):
        with pytest.raises(DamageError):
            state.load(record)


def test_a_signal_handler_that_interrupts_a_query(wal):
    calls = []

    def key(record):
        with pytest.raises(ReentrantError) as caught:
            index.keys()
        calls.append(caught)

    index = Index(wal, key=key)
    wal.put(b"a", b"1")
    assert index.keys() == [] and len(calls) == 1


def test_threads_that_ask_at_once(wal):
    index, wrong = Index(wal), []
    ends = threading.Event()

    def ask():
        while not ends.is_set():
            for key, value in index.items():
                if not value.startswith(key):
                    wrong.append(key)
            index.get(b"3")

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(1500):
        wal.put(b"%d" % (number % 50), b"%d-%d" % (number % 50, number))
        if number % 300 == 299:
            wal.truncate_before(number - 100)
    ends.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    index.check()


class Counting(MemoryFiles):
    reads = 0

    def read_into(self, descriptor, buffer, offset):
        self.reads += 1
        return super().read_into(descriptor, buffer, offset)


@pytest.mark.parametrize("size", [100, 1000, 5000])
def test_a_look_up_takes_at_most_two_reads(size):
    files = Counting()
    with Wal.open(
        "/log", files=files, fsync_policy=FsyncPolicy.OS, segment_bytes_max=1 << 20
    ) as wal:
        for number in range(2000):
            wal.put(b"%d" % number, b"%d" % number * (size // 4))
        index = Index(wal)
        dict(index.items())  # every segment is known now
        most = 0
        for number in range(2000):
            files.reads = 0
            assert index[b"%d" % number] == b"%d" % number * (size // 4)
            most = max(most, files.reads)
        assert most <= 2


def test_pruned_positions_stay_pruned(wal):
    index = Index(wal)
    for number in range(200):
        wal.put(b"%d" % number, b"x" * 90)
    wal.truncate_before(150)
    with pytest.raises(PrunedError):
        wal.read(0)
    assert index.record(b"0") is None
