"""Ctrl-C or no memory in the middle of a store's call: it happened or did not, and the store, its
locks and its log are as before (D10, G14)."""

from __future__ import annotations

import pytest

from tests.crash._scale import SHARE
from tests.stores._interrupting import broken_off
from tests.stores.test_database_crash import Transfers
from tests.stores.test_kv_crash import KeyValueProgram

# The stores are Python in either build: once is enough.
pytestmark = pytest.mark.slow


def some_keys(store):
    for number in range(8):
        store[b"%d" % number] = b"v" * 200


def put(store):
    store[b"1"] = b"new"


def put_expiring(store):
    store.put(b"1", b"new", ttl=1000)


def increment(store):
    store.increment(b"n")


def batch(store):
    store.update({b"1": b"x", b"2": b"y", b"n": b"7"})


def pop(store):
    store.pop(b"3")


def checkpoint(store):
    store.checkpoint()


def look(store):
    dict(store)


def two_more(store):
    store[b"1"] = b"theirs"
    store.update({b"5": b"theirs", b"n": b"1"})


@pytest.mark.parametrize("call", [put, put_expiring, increment, batch, pop, checkpoint, look])
def test_a_key_value_store(call):
    share = round((9 if call is checkpoint else 1) / SHARE)
    counts = broken_off(KeyValueProgram, some_keys, call, share, two_more)
    assert counts["broken off"] >= 5


def some_money(db):
    with db.transaction():
        pass
    for name in ("from", "to", "log"):
        db.kv(name)
    with db.transaction():
        db.kv("from").increment(b"n", -5)
        db.kv("to").increment(b"n", 5)


def transfer(db):
    with db.transaction():
        db.kv("from").increment(b"n", -7)
        db.kv("log")[b"1"] = b"moved"
        db.kv("to").increment(b"n", 7)


def new_store(db):
    db.kv("another")


@pytest.mark.parametrize("call", [transfer, new_store])
def test_a_transaction(call):
    counts = broken_off(Transfers, some_money, call, round(1 / SHARE))
    assert counts["broken off"] >= 5
