"""Appending: what goes in comes out, under dense positions, and is there at once (D1, D11)."""

import copy
import itertools
import multiprocessing
import pickle

import pytest

from tests._logs import contents, fill, pairs, told
from treering import START, FsyncPolicy, Record, UsageError

POLICIES = [FsyncPolicy.ALWAYS, FsyncPolicy.batch(1000), FsyncPolicy.OS]


def test_positions_are_dense_from_start_on_whatever_call_appends(log):
    """D11."""
    wal = log.open()
    assert wal.current_position() == wal.first_position == START == 0
    assert wal.put(b"a", b"1") == 0
    assert wal.delete(b"a") == 1
    assert wal.append(Record.put(b"b", b"2")) == 2
    assert wal.append_batch([Record.put(b"c", b"3"), Record.delete(b"c")]) == range(3, 5)
    with wal.batch() as batch:
        batch.put(b"d", b"4")
        batch.delete(b"d")
    assert batch.positions == range(5, 7)
    assert wal.current_position() == 7
    assert [record.position for record in wal] == list(range(7))


def test_a_record_comes_back_as_it_was_given(log):
    wal = log.open()
    wal.put(
        b"key",
        b"value",
        expires_at=4_000_000_000.25,
        headers={"kind": b"order", "": b"", "größe": b"\0\xff"},
        stream=7,
    )
    (record,) = wal
    assert (record.position, record.key, record.value) == (0, b"key", b"value")
    assert not record.tombstone
    assert record.expires_at == 4_000_000_000.25
    assert record.headers == {"kind": b"order", "": b"", "größe": b"\0\xff"}
    assert record.stream == 7


def test_a_delete_is_a_record_with_a_key_and_a_tombstone(log):
    wal = log.open()
    wal.delete(b"plain")
    wal.delete(b"with options", headers={"by": b"me"}, stream=1, ttl=60)
    plain, optional = wal
    assert (plain.key, plain.value, plain.tombstone) == (b"plain", b"", True)
    assert (optional.key, optional.value, optional.tombstone) == (b"with options", b"", True)
    assert optional.headers == {"by": b"me"}
    assert optional.expires_at is not None


KEYS = {"empty": b"", "zero": b"\0", "longest": b"k" * 65535}
VALUES = {"none": b"", "zeros": b"\0" * 100, "all": bytes(range(256))}


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_keys_and_values_may_be_any_bytes(few, key, value):
    wal = few.open()
    wal.put(key, value)
    wal.append_batch([(key, value), (value, b"")])
    assert contents(wal) == [(0, key, value), (1, key, value), (2, value, b"")]
    few.kill()
    assert contents(few.open()) == [(0, key, value), (1, key, value), (2, value, b"")]


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_what_was_given_may_change_afterwards(log, kind):
    wal = log.open()
    key, value = bytearray(b"key"), bytearray(b"value")
    record = Record.put(kind(key), kind(value))
    wal.put(kind(key), kind(value))
    wal.delete(kind(key))
    wal.append(record)
    key[:] = value[:3] = b"xxx"
    assert contents(wal) == [(0, b"key", b"value"), (1, b"key", b""), (2, b"key", b"value")]


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_a_returned_append_survives_the_death_of_the_process(log, policy):
    """D1: under every policy, without any sync."""
    wal = log.open(fsync_policy=policy)
    fill(wal, 30)
    wal.append_batch(pairs(30, 35))
    log.kill()
    again = log.open()
    assert contents(again) == told(0, 35)
    again.check()


def test_another_handle_sees_each_record_at_once(shared):
    first, second = shared.open(), shared.open()
    for number in range(60):
        writer, reader = (first, second) if number % 3 else (second, first)
        assert writer.put(b"k", b"%d" % number) == number
        assert reader.current_position() == number + 1
        assert reader.read(number).value == b"%d" % number
    assert contents(first) == contents(second)


def test_an_empty_batch_appends_nothing(log):
    wal = log.open()
    fill(wal, 1)
    before = log.image()
    assert wal.append_batch([]) == range(1, 1)
    assert wal.append_batch(iter(())) == range(1, 1)
    with wal.batch() as batch:
        pass
    assert batch.positions == range(1, 1)
    assert log.image() == before


def test_a_batch_takes_records_pairs_and_any_iterable(log):
    wal = log.open()
    assert wal.append_batch(pairs(0, 2)) == range(2)
    assert wal.append_batch(pair for pair in pairs(2, 4)) == range(2, 4)
    assert wal.append_batch(dict(pairs(4, 6)).items()) == range(4, 6)
    assert wal.append_batch([Record.put(*pair) for pair in pairs(6, 8)]) == range(6, 8)
    assert wal.append_batch([*pairs(8, 9), Record.put(*pairs(9, 10)[0])]) == range(8, 10)
    assert contents(wal) == told(0, 10)


def test_a_batch_larger_than_a_segment_is_one_atomic_frame(log):
    wal = log.open()
    fill(wal, 5)
    assert wal.append_batch(pairs(5, 505)) == range(5, 505)
    fill(wal, 5)
    assert contents(wal) == told(0, 510)
    log.kill()
    assert contents(log.open()) == told(0, 510)


def test_nothing_of_a_batch_is_appended_if_making_it_fails(log):
    wal = log.open()
    fill(wal, 3)

    def broken():
        yield from pairs(3, 5)
        raise RuntimeError("the caller's own trouble")

    with pytest.raises(RuntimeError):
        wal.append_batch(broken())
    with pytest.raises(UsageError):
        wal.append_batch([*pairs(3, 5), "not a record"])
    with pytest.raises(RuntimeError), wal.batch() as batch:
        batch.put(b"a", b"b")
        raise RuntimeError("the caller's own trouble")
    assert batch.positions is None
    assert contents(wal) == told(0, 3)


def test_a_batch_that_was_appended_cannot_be_appended_again(wal):
    with wal.batch() as batch:
        batch.put(b"a", b"1")
        assert len(batch) == 1
    with pytest.raises(UsageError, match="appended already"):
        batch.put(b"b", b"2")
    with pytest.raises(UsageError, match="appended already"), batch:
        pass
    assert wal.current_position() == 1


def test_a_batch_collects_every_kind_of_record(wal):
    with wal.batch() as batch:
        batch.put(b"a", b"1", headers={"x": b"y"}, stream=3)
        batch.delete(b"b", expires_at=4e9)
        batch.append(Record.put(b"c", b"3", timestamp=5))
    a, b, c = wal
    assert (a.key, a.headers, a.stream) == (b"a", {"x": b"y"}, 3)
    assert (b.key, b.tombstone, b.expires_at) == (b"b", True, 4e9)
    assert (c.key, c.timestamp) == (b"c", 5)


def test_durable_waits_for_this_record_whatever_the_policy(log):
    wal = log.open(fsync_policy=FsyncPolicy.OS)
    calls = [
        lambda: wal.put(b"k", b"v", durable=True),
        lambda: wal.delete(b"k", durable=True),
        lambda: wal.put(b"k", b"v", headers={"x": b"y"}, durable=True),
        lambda: wal.append(Record.put(b"k", b"v"), durable=True),
        lambda: wal.append_batch(pairs(0, 3), durable=True)[-1],
    ]
    for call in itertools.chain(calls, calls):
        wal.put(b"before", b"")
        assert wal.durable_position <= wal.current_position() - 1
        position = call()
        assert wal.durable_position == position + 1 == wal.current_position()
    with wal.batch(durable=True) as batch:
        batch.put(b"k", b"v")
    assert wal.durable_position == batch.positions.stop


def test_a_record_keeps_its_timestamp_but_not_its_position(wal):
    fill(wal, 3)
    given = Record.put(b"old", b"news", timestamp=1_000.5, position=99)
    assert wal.append(given) == 3
    found = wal.read(3)
    assert (found.position, found.timestamp, found.timestamp_ns) == (3, 1000.5, 1_000_500_000_000)
    assert wal.append(found) == 4  # what was read may be appended again, elsewhere too
    assert given.position == 99


def test_a_record_is_an_immutable_value():
    record = Record.put(b"k", b"v", headers={"a": b"b"}, stream=1, expires_at=5, timestamp=6)
    with pytest.raises(AttributeError):
        record.key = b"other"
    with pytest.raises(AttributeError):
        del record.value
    record.headers["a"] = b"changed"
    assert record.headers == {"a": b"b"}
    same = Record.put(b"k", b"v", headers={"a": b"b"}, stream=1, expires_at=5, timestamp=6)
    assert record == same
    assert hash(record) == hash(same)
    assert record != Record.put(b"k", b"w")
    assert record != "text"
    assert len({record, same}) == 1


def test_a_record_travels_between_processes(wal):
    wal.put(b"k", b"v", headers={"a": b"b"}, stream=1, expires_at=4e9)
    record = wal.read(0)
    assert pickle.loads(pickle.dumps(record)) == record
    assert copy.deepcopy(record) == record
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(repr, (record,)) == repr(record)


def test_a_record_shows_itself_shortly():
    text = repr(Record.put(b"k" * 1000, b"v" * 1000, expires_at=5, headers={"a": b"b"}, stream=2))
    assert len(text) < 300
    assert "1000 bytes" in text
    assert "expires_at=5" in text
    assert repr(Record.delete(b"k")) == "Record(position=None, key=b'k', tombstone=True)"
