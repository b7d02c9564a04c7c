"""The key-value store passes CPython's own tests of mappings, and what dbm modules promise."""

from __future__ import annotations

import itertools
import shelve

import pytest
from test import mapping_tests

from treering.stores import kv


class TestMapping(mapping_tests.BasicTestMappingProtocol):
    """CPython's tests, of a store with text keys."""

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path):
        self.folder, self.numbers, self.open = tmp_path, itertools.count(), []
        yield
        for store in self.open:
            store.close()

    def type2test(self, *args, **kwargs):
        store = kv.open(self.folder / str(next(self.numbers)), "c")
        self.open.append(store)
        store.update(*args, **kwargs)
        return store

    def _empty_mapping(self):
        return self.type2test()

    def _reference(self):
        return {b"1": b"2", b"key1": b"value1", b"key2": b"(1,2,3)"}

    def _full_mapping(self, data):
        store = self._empty_mapping()
        for key, value in data.items():
            store[key] = value
        return store


def test_a_shelf_keeps_objects(tmp_path):
    with shelve.Shelf(kv.open(tmp_path / "shelf", "c"), writeback=True) as shelf:
        shelf["list"] = [1, 2]
        shelf["list"].append(3)
    with shelve.Shelf(kv.open(tmp_path / "shelf", "r")) as shelf:
        assert dict(shelf) == {"list": [1, 2, 3]}


def test_the_flags_of_dbm(tmp_path):
    path = tmp_path / "store"
    with pytest.raises(LookupError):
        kv.open(path, "r")
    with pytest.raises(LookupError):
        kv.open(path, "w")
    with kv.open(path, "c") as db:
        db["a"] = "ä"
        db[b"b"] = b"\xff"
        assert db["a"] == "ä".encode()
        assert db.keys() == [b"a", b"b"]
    with kv.open(path, "w") as db:
        assert db.get("b") == b"\xff"
        del db["a"]
    with kv.open(path) as db:
        assert dict(db) == {b"b": b"\xff"}
        with pytest.raises(TypeError):
            db["c"] = 5
        with pytest.raises(kv.error):
            db["c"] = b"5"
    with kv.open(path, "n") as db:
        assert len(db) == 0
    with pytest.raises(ValueError):
        kv.open(path, "x")


# What CPython's own tests ask of every dbm module (test.test_dbm.AnyDBMTestCase).

DBM = {
    "a": b"Python:",
    "b": b"Programming",
    "c": b"the",
    "d": b"way",
    "f": b"Guido",
    "g": b"intended",
}


def filled(path):
    with kv.open(path, "n") as db:
        for key, value in DBM.items():
            db[key.encode()] = value


def test_dbm_creation_and_modification(tmp_path):
    path = tmp_path / "db"
    filled(path)
    with kv.open(path, "c") as db:
        assert {key.decode(): db[key] for key in db} == DBM
        db["g"] = b"indented"
        assert db["g"] == b"indented"
        assert db.setdefault("x", "new") == b"new"
        assert db.pop("x") == b"new"
        assert db.get(b"xxx", b"default") == b"default"
        with pytest.raises(KeyError):
            db["xxx"]
    with kv.open(path, "r") as db:
        assert len(db) == len(DBM)
        assert sorted(db.keys()) == [key.encode() for key in sorted(DBM)]
        with pytest.raises(kv.error):
            del db["a"]
    with pytest.raises(kv.error):
        db["a"]
    with kv.open(path, "n") as db:
        assert db.keys() == []


def test_dbm_of_a_missing_file(tmp_path):
    with pytest.raises(kv.error):
        kv.open(tmp_path / "none", "r")


def test_text(tmp_path):
    with kv.KeyValueStore(tmp_path / "text") as store:
        text = store.text("utf-16-le")
        text["ä"] = "ö"
        assert (dict(text), text["ä"], store["ä".encode("utf-16-le")]) == (
            {"ä": "ö"},
            "ö",
            "ö".encode("utf-16-le"),
        )
        text.update(b="1")
        assert list(text.iterator("b")) == [("b", "1")]
        assert text.setdefault("b", "2") == "1"
        assert text.pop("b") == "1"
        with pytest.raises(TypeError):
            text[b"a"] = "x"
    with shelve.Shelf(kv.KeyValueStore(tmp_path / "direct")) as shelf:
        shelf["a"] = {"b": 1}
    with shelve.Shelf(kv.KeyValueStore(tmp_path / "direct", read_only=True)) as shelf:
        assert dict(shelf) == {"a": {"b": 1}}
