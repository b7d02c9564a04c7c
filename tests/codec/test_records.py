"""A Record is the same thing in both twins: what it takes, what it refuses, how it behaves."""

import copy
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.codec._frames import fields
from tests.codec._twins import Told, native, outcome, pure, same
from treering import TooLargeError, UsageError
from treering._core import format as fmt


class Seven:
    """A whole number that is no int, as numpy has them."""

    def __index__(self):
        return 7


RIGHT = {
    "nothing": {"key": b"", "value": b""},
    "bytearray": {"key": bytearray(b"k"), "value": bytearray(b"v")},
    "memoryview": {"key": memoryview(b"k"), "value": memoryview(b"vvvv")[::2]},
    "no value": {"key": b"k"},
    "longest key": {"key": b"k" * fmt.KEY_BYTES_MAX},
    "seconds": {"key": b"k", "timestamp": 1.5, "expires_at": 2},
    "least time": {"key": b"k", "timestamp_ns": 1, "expires_at_ns": 1},
    "greatest time": {"key": b"k", "timestamp_ns": 2**63 - 1, "expires_at_ns": 2**63 - 1},
    "both times": {"key": b"k", "timestamp": 1.0, "timestamp_ns": 7},
    "no headers": {"key": b"k", "headers": {}},
    "headers": {"key": b"k", "headers": {"": b"", "ä": b"\xff", "x" * 300: bytearray(b"y")}},
    "greatest stream": {"key": b"k", "stream": fmt.STREAM_MAX},
    "any whole numbers": {"key": b"k", "stream": Seven(), "timestamp_ns": Seven()},
    "any whole position": {"key": b"k", "position": Seven()},
    "tombstone with value": {"key": b"k", "value": b"v", "tombstone": True},
    "tombstone by truth": {"key": b"k", "tombstone": "yes"},
    "position": {"key": b"k", "position": 0},
    "greatest position": {"key": b"k", "position": fmt.POSITION_MAX},
}

WRONG = {
    "key is text": {"key": "k"},
    "key is a number": {"key": 1},
    "key is None": {"key": None},
    "key is a list": {"key": [1]},
    "value is text": {"key": b"k", "value": "v"},
    "value is None": {"key": b"k", "value": None},
    "key too long": {"key": b"k" * (fmt.KEY_BYTES_MAX + 1)},
    "time zero": {"key": b"k", "timestamp_ns": 0},
    "time negative": {"key": b"k", "timestamp": -1.0},
    "time too large": {"key": b"k", "timestamp_ns": 2**63},
    "time far too large": {"key": b"k", "timestamp_ns": 2**80},
    "time is text": {"key": b"k", "timestamp": "now"},
    "exact time is a float": {"key": b"k", "timestamp_ns": 1.5},
    "time infinite": {"key": b"k", "timestamp": float("inf")},
    "time not a number": {"key": b"k", "timestamp": float("nan")},
    "expiry zero": {"key": b"k", "expires_at_ns": 0},
    "expiry is text": {"key": b"k", "expires_at": "later"},
    "headers are a list": {"key": b"k", "headers": [1]},
    "header is text": {"key": b"k", "headers": {"a": "b"}},
    "header is a number": {"key": b"k", "headers": {"a": 5}},
    "header name is bytes": {"key": b"k", "headers": {b"a": b"b"}},
    "header name too long": {"key": b"k", "headers": {"x" * 65536: b""}},
    "header name has half a letter": {"key": b"k", "headers": {"\ud800": b""}},
    "headers too large": {"key": b"k", "headers": {"a": bytes(fmt.HEADERS_BYTES_MAX)}},
    "stream negative": {"key": b"k", "stream": -1},
    "stream too large": {"key": b"k", "stream": fmt.STREAM_MAX + 1},
    "stream far too large": {"key": b"k", "stream": 2**80},
    "stream is text": {"key": b"k", "stream": "orders"},
    "stream is a float": {"key": b"k", "stream": 1.0},
    "stream is None": {"key": b"k", "stream": None},
    "stream as truth": {"key": b"k", "stream": True},
    "time as truth": {"key": b"k", "timestamp_ns": True},
    "position as truth": {"key": b"k", "position": True},
    "position negative": {"key": b"k", "position": -1},
    "position very negative": {"key": b"k", "position": -(2**80)},
    "position too large": {"key": b"k", "position": fmt.POSITION_MAX + 1},
    "position far too large": {"key": b"k", "position": 2**80},
    "position is text": {"key": b"k", "position": "7"},
    "position is a float": {"key": b"k", "position": 7.0},
    "all but the key": {"key": b"k", "value": 1, "stream": -1, "timestamp": -1, "position": -1},
    "all but key and value": {"key": b"k", "stream": -1, "timestamp": -1, "position": -1},
    "stream, position and size": {"key": b"k" * 70_000, "stream": -1, "position": -1},
    "position and size": {"key": b"k" * 70_000, "position": -1},
}


@pytest.mark.parametrize("arguments", RIGHT.values(), ids=RIGHT)
def test_what_one_twin_takes_the_other_takes_too(twins, arguments):
    found = same(twins, lambda twin: twin.Record(**arguments))
    assert isinstance(found, Told)


@pytest.mark.parametrize("arguments", WRONG.values(), ids=WRONG)
def test_what_one_twin_refuses_the_other_refuses_with_the_same_words(twins, arguments):
    error = same(twins, lambda twin: twin.Record(**arguments))
    assert error.kind in (UsageError, TooLargeError)


@settings(deadline=None, max_examples=200)
@given(fields=fields)
def test_any_right_arguments_make_equal_records(fields):
    twins = pure(), native()
    assert isinstance(same(twins, lambda twin: twin.Record(**fields)), Told)
    put = {name: value for name, value in fields.items() if name != "tombstone"}
    same(twins, lambda twin: twin.Record.put(**put))
    del put["value"]
    same(twins, lambda twin: twin.Record.delete(**put))


@settings(deadline=None, max_examples=200)
@given(one=fields, other=fields)
def test_records_are_equal_if_and_only_if_their_fields_are(one, other):
    for twin in (pure(), native()):
        first, again, second = twin.Record(**one), twin.Record(**one), twin.Record(**other)
        assert first == again
        assert hash(first) == hash(again)
        assert (first == second) == (first._key() == second._key())
        assert first != one
        assert first.__eq__(one) is NotImplemented


FULL = {
    "key": b"key",
    "value": b"value",
    "timestamp_ns": 10**18,
    "expires_at_ns": 2 * 10**18,
    "headers": {"a": b"b"},
    "stream": 7,
    "tombstone": True,
    "position": 3,
}


@pytest.mark.parametrize("arguments", [{"key": b"k"}, FULL], ids=["plain", "full"])
def test_a_record_survives_pickling_and_copying(twin, arguments):
    record = twin.Record(**arguments)
    for again in (pickle.loads(pickle.dumps(record)), copy.copy(record), copy.deepcopy(record)):
        assert again == record
        assert type(again) is type(record)


@pytest.mark.parametrize("name", ["key", "value", "position", "timestamp_ns", "headers", "other"])
def test_a_record_is_immutable_in_the_same_words(twins, name):
    for change in (lambda record: setattr(record, name, 1), lambda record: delattr(record, name)):
        error = same(twins, lambda twin, change=change: change(twin.Record(b"k")))
        assert error.kind is AttributeError


@settings(deadline=None, max_examples=100)
@given(value=st.binary(max_size=60), fields=fields)
def test_a_record_shows_itself_alike(value, fields):
    twins = pure(), native()
    shown = same(twins, lambda twin: repr(twin.Record(**{**fields, "value": value})))
    assert shown.startswith("Record(position=None, key=")


def test_records_of_two_twins_are_never_equal_but_never_an_error(twins):
    python, native = twins
    assert python.Record(b"k") != native.Record(b"k")
    assert outcome(lambda: python.Record(b"k") == native.Record(b"k")) is False
