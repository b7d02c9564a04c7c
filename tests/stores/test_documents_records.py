"""Records that no document store has written, and logs of another kind."""

from __future__ import annotations

import json
import random

import pytest

from tests.crash._scale import cases
from tests.stores._opening import opener
from treering import DamageError, Record, UsageError, VersionError, Wal
from treering.stores.documents import DocumentStore
from treering.stores.documents.records import GONE, HEAD, SAVED, TOTALS
from treering.stores.documents.state import State

DEEP = b"[" * 150 + b"]" * 150


@pytest.fixture
def opened(files):
    with opener(DocumentStore, "/documents", files=files) as open_store:
        yield open_store


def key(kind=b"s", more=0, version=2, previous=0, id=b"d", path=b"/a", length=None):
    return (
        HEAD.pack(kind, more, version, previous, len(id) if length is None else length) + id + path
    )


PUT = Record(key(b"p", version=1, previous=-1, path=b""), b'{"a":[1],"b":{}}')

BAD = {
    "a short key": Record(b"s"),
    "half a head": Record(key()[:15]),
    "an id longer than the key": Record(key(length=60_000)),
    "no id": Record(key(id=b"")),
    "an id that is no text": Record(key(id=b"\xff")),
    "a path that is no text": Record(key(path=b"/\xff")),
    "a path that is none": Record(key(path=b"a")),
    "a wrong escape": Record(key(path=b"/~")),
    "a path that is not there": Record(key(path=b"/x/y"), b"1"),
    "a path through a number": Record(key(path=b"/a/0/x"), b"1"),
    "an insert in an object": Record(key(b"i", path=b"/b/0"), b"1"),
    "an insert behind the end": Record(key(b"i", path=b"/a/3"), b"1"),
    "an insert at no place": Record(key(b"i", path=b"/a/-"), b"1"),
    "a set behind the end": Record(key(path=b"/a/1"), b"1"),
    "a remove of nothing": Record(key(b"r", path=b"/c")),
    "a set of the whole": Record(key(path=b""), b"{}"),
    "a put of a list": Record(key(b"p", path=b""), b"[]"),
    "a put with a path": Record(key(b"p"), b"{}"),
    "the same version again": Record(key(version=1), b"1"),
    "a version too far": Record(key(version=3), b"1"),
    "version 0": Record(key(version=0), b"1"),
    "another change before": Record(key(previous=7), b"1"),
    "a position before the log": Record(key(previous=-2), b"1"),
    "a flag that is none": Record(key(more=2), b"1"),
    "a document that is not there": Record(key(id=b"x", version=1, previous=-1), b"1"),
    "no value": Record(key()),
    "no JSON": Record(key(), b"{"),
    "NaN": Record(key(), b"NaN"),
    "Infinity": Record(key(), b"-Infinity"),
    "a number out of range": Record(key(), b"1e999"),
    "a number of too many digits": Record(key(), b"1" * 5000),
    "no UTF-8": Record(key(), b'"\xff"'),
    "half a character": Record(key(), b'"\\ud800"'),
    "half a character in a name": Record(key(), b'{"\\uDfff":1}'),
    "too deep": Record(key(), DEEP),
    "far too deep": Record(key(), b"[" * 100_000),
    "an index without JSON": Record(b"xcity", b"/city"),
    "an index without a path": Record(b"xcity", b"{}"),
    "an index of another shape": Record(b"xcity", b'{"path":"/a","unique":1}'),
    "an index with more": Record(b"xcity", b'{"path":"/a","unique":true,"more":1}'),
    "an index on no path": Record(b"xcity", b'{"path":"a","unique":true}'),
    "an index without a name": Record(b"x", b'{"path":"/a","unique":true}'),
    "more to forget": Record(b"fx"),
}


@pytest.mark.parametrize("record", BAD.values(), ids=BAD)
def test_a_record_that_cannot_be_is_damage_with_its_position(record):
    state = State()
    state.apply(PUT._placed(0, 1))
    with pytest.raises(DamageError) as caught:
        state.apply(record._placed(17, 1))
    assert caught.value.position == 17 and caught.value.hint and len(str(caught.value)) < 700


def test_a_change_is_not_broken_off():
    for second in (
        Record(key(version=3), b"1"),
        Record(key(id=b"other"), b"1"),
        Record(b"f"),
        Record(b"xcity", b'{"path":"/a","unique":true}'),
    ):
        state = State()
        state.apply(PUT._placed(0, 1))
        state.apply(Record(key(more=1), b"1")._placed(1, 1))
        assert state.documents["d"].version == 1  # it does not show yet
        with pytest.raises(DamageError):
            state.apply(second._placed(2, 1))


@pytest.mark.parametrize(
    "record", [Record(b"?"), Record(b""), Record(b"Z" * 100), Record.delete(b"p")]
)
def test_kinds_of_a_newer_version_are_refused(files, opened, record):
    with opened() as store:
        store.put("d", {})
    with Wal.open("/documents", files=files) as wal:
        wal.append(record)
    with pytest.raises(VersionError) as caught:
        opened()
    assert caught.value.position == 1


def test_a_log_of_another_kind_is_refused(files, opened):
    from treering.stores.kv import KeyValueStore

    with KeyValueStore("/documents", files=files) as other:
        other[b"a"] = b"b"
    with pytest.raises(UsageError):
        opened()


@pytest.mark.parametrize(
    "record",
    [
        Record(b"d" + b"x" * 3), Record(b"g"), Record(b"t1"), Record(b"x", b"{"), Record(b""),
        Record(SAVED.pack(b"d", 1, 0, 0, 2) + b"\xff", b"{}"), Record(GONE.pack(b"g", 1, 1) + b"\xff"),
        Record(SAVED.pack(b"d", 1, 0, 0, 2) + b"d", b"{"), Record(TOTALS.pack(b"t", 1, 1) + b"x"),
    ],
)  # fmt: skip
def test_snapshots_that_cannot_be(record):
    with pytest.raises((DamageError, VersionError)):
        State().load(record)


def test_random_bytes_are_refused_cleanly():
    rng = random.Random(3)
    good = [
        PUT,
        Record(key(), b"1"),
        Record(key(b"i", path=b"/a/0"), b"[2]"),
        Record(key(b"r", path=b"/b")),
    ]
    refused = 0
    for _ in range(cases(3000)):
        state = State()
        state.apply(PUT._placed(0, 1))
        model = rng.choice(good)
        data, value = bytearray(model.key), bytearray(model.value)
        for _ in range(rng.randrange(4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
            if value:
                value[rng.randrange(len(value))] = rng.randrange(256)
        try:
            state.apply(Record(bytes(data), bytes(value), position=1))
        except (DamageError, VersionError):
            refused += 1
            continue
        for each in state.dump():  # what was taken in can be written
            State().load(each)
        for entry in state.documents.values():
            json.dumps(entry.root, allow_nan=False)
    assert refused > cases(1000)
