"""Secondary indexes: what they find, in which order, and that they say what the documents say."""

from __future__ import annotations

import threading

import pytest

from tests.stores._opening import opener
from treering import DamageError, UsageError
from treering.stores.documents import (
    DocumentStore,
    DuplicateError,
    Index,
    NoIndexError,
)

PEOPLE = {
    "ada": {"city": "London", "age": 36, "tags": ["math", "poetry"], "mail": "ada@x"},
    "alan": {"city": "London", "age": 41, "tags": ["math"], "mail": "alan@x"},
    "grace": {"city": "New York", "age": 85.5, "tags": [], "mail": None},
    "kurt": {"city": "Vienna", "age": 71, "mail": None},
    "none": {"city": None, "age": True, "tags": "math"},
    "list": {"city": ["London"], "age": "36"},
    "empty": {},
}
INDEXES = {"city": "/city", "age": "/age", "tag": "/tags/*", "mail": Index("/mail", unique=True)}


@pytest.fixture
def opened(files):
    with opener(DocumentStore, "/documents", files=files) as open_store:
        yield open_store


@pytest.fixture
def people(opened):
    store = opened(indexes=INDEXES)
    store.put_many(PEOPLE)
    return store


def ids(found):
    return [each.id for each in found]


def test_find(people, opened):
    for store in (people, opened(), people.snapshot(), people.at(people.position)):
        assert ids(store.find(city="London")) == ["ada", "alan"]
        assert ids(store.find(city="London", age=41)) == ["alan"]
        assert ids(store.find(city="Paris")) == ids(store.find(city="Vienna", age=36)) == []
        assert ids(store.find(city=None)) == ["none"]
        assert ids(store.find(tag="math")) == ["ada", "alan"]
        assert ids(store.find(mail=None)) == ["grace", "kurt"]
        assert store.find(city="Vienna")[0].content == PEOPLE["kurt"]
        assert store.indexes()["tag"] == Index("/tags/*")


def test_types_are_told_apart(people):
    assert ids(people.find(age=36)) == ids(people.find(age=36.0)) == ["ada"]
    assert ids(people.find(age="36")) == ["list"]
    assert ids(people.find(age=True)) == ["none"]
    assert ids(people.find(age=1)) == ids(people.find(age=False)) == []
    people.put("zero", {"age": 0})
    people.put("blank", {"age": ""})
    assert ids(people.find(age=0)) == ["zero"] and ids(people.find(age="")) == ["blank"]


def test_ranges(people):
    everybody = ["none", "ada", "alan", "kurt", "grace", "list"]
    assert ids(people.find_range("age")) == everybody
    assert ids(people.find_range("age", reverse=True)) == everybody[::-1]
    assert ids(people.find_range("age", 36, 71)) == ["ada", "alan"]
    assert ids(people.find_range("age", 36, 71, include_start=False, include_stop=True)) == [
        "alan",
        "kurt",
    ]
    assert ids(people.find_range("age", 41)) == ["alan", "kurt", "grace", "list"]
    assert ids(people.find_range("age", None, 41)) == ["none", "ada"]
    assert ids(people.find_range("age", 40.5, 10**400)) == ["alan", "kurt", "grace"]
    assert ids(people.find_range("age", 71, 36)) == []
    assert ids(people.find_range("age", limit=2)) == ["none", "ada"]
    assert ids(people.find_range("age", limit=0)) == []
    assert ids(people.find_range("city")) == ["none", "ada", "alan", "grace", "kurt"]
    assert ids(people.find_range("tag", "m", "q")) == ["ada", "alan"]  # each once


def test_indexes_follow_every_change(people, opened):
    other = opened()
    other.find(city="x")
    people.set("kurt", "/city", "Princeton")
    assert ids(other.find(city="Vienna")) == [] and ids(other.find(city="Princeton")) == ["kurt"]
    people.append("kurt", "/tags", "logic") if "tags" in people["kurt"] else people.set(
        "kurt", "/tags", ["logic"]
    )
    assert ids(other.find(tag="logic")) == ["kurt"]
    people.set("kurt", "/tags/0", "math")
    assert ids(other.find(tag="math")) == ["ada", "alan", "kurt"]
    people.remove("ada", "/tags/0")
    assert ids(other.find(tag="math")) == ["alan", "kurt"]
    people.delete("alan")
    assert ids(other.find(tag="math")) == ["kurt"] and ids(other.find(city="London")) == ["ada"]
    people.increment("ada", "/age")
    assert ids(other.find_range("age", 37, 38)) == ["ada"]
    people.set("ada", "/city", {"name": "London"})
    assert other.find(city="London") == []
    for store in (people, other):
        store.check()


def test_an_index_is_made_of_what_is_there_and_dropped_again(people, opened):
    other = opened()
    assert len(other.indexes()) == 4
    people.create_index("first tag", "/tags/0")
    assert ids(other.find(**{"first tag": "math"})) == ["ada", "alan"]
    people.create_index("first tag", "/tags/0")  # is there
    with pytest.raises(UsageError):
        people.create_index("first tag", "/tags/1")
    with pytest.raises(UsageError):
        opened(indexes={"first tag": Index("/tags/0", unique=True)})
    assert other.drop_index("first tag") is True
    assert people.drop_index("first tag") is False
    with pytest.raises(NoIndexError):
        people.find(**{"first tag": "math"})
    with pytest.raises(NoIndexError):
        people.find_range("nothing")
    people.create_index("first tag", "/tags/1")
    assert ids(other.find(**{"first tag": "poetry"})) == ["ada"]


def test_indexes_survive(people, opened):
    people.checkpoint()
    people.close()
    store = opened()
    assert store.indexes() == {
        name: index if isinstance(index, Index) else Index(index) for name, index in INDEXES.items()
    }
    assert ids(store.find(city="London")) == ["ada", "alan"]
    with pytest.raises(DuplicateError):
        store.put("new", {"mail": "ada@x"})
    store.check()


def test_paths_of_indexes(opened):
    store = opened()
    store.put(
        "a", {"rows": [{"x": [1, 2]}, {"x": [2, 3]}, {"y": 1}], "*": {"*": 9}, "a/b": {"": 5}}
    )
    store.create_index("x", "/rows/*/x/*")
    store.create_index("second", "/rows/1/x/0")
    store.create_index("star", "/*/*")
    store.create_index("slash", "/a~1b/")
    assert [ids(store.find(x=value)) for value in (1, 2, 3, 4)] == [["a"], ["a"], ["a"], []]
    assert ids(store.find(second=2)) == ids(store.find(star=9)) == ids(store.find(slash=5)) == ["a"]
    store.check()


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s.put("new", {"mail": "ada@x"}),
        lambda s: s.put("alan", {"mail": "ada@x"}),
        lambda s: s.set("alan", "/mail", "ada@x"),
        lambda s: s.set("kurt", "/mail", "ada@x"),
        lambda s: s.merge("alan", {"mail": "ada@x", "age": 1}),
        lambda s: s.update("alan", lambda d: dict(d, mail="ada@x")),
        lambda s: s.put_many({"x": {}, "new": {"mail": "ada@x"}}),
        lambda s: s.put_many({"one": {"mail": "new@x"}, "two": {"mail": "new@x"}}),
    ],
)
def test_a_unique_index_lets_no_two_have_the_same(people, opened, change):
    end = people.position
    for store in (people, opened()):
        with pytest.raises(DuplicateError) as caught:
            change(store)
        assert caught.value.index == "mail" and caught.value.id in ("ada", "one")
        assert caught.value.value in ("ada@x", "new@x") and caught.value.hint
    assert people.position == end
    people.check()


def test_what_a_unique_index_allows(people):
    people.put("ada", PEOPLE["ada"])  # its own
    people.set("ada", "/age", 37)
    people.put("more", {"mail": None})  # null is not constrained
    people.set("ada", "/mail", "new@x")
    people.put("other", {"mail": "ada@x"})  # free again
    people.delete("alan")
    people.put("other2", {"mail": "alan@x"})
    people.put("number", {"mail": 1})
    people.put("boolean", {"mail": True})
    people.put("text", {"mail": "1"})
    with pytest.raises(DuplicateError):
        people.put("float", {"mail": 1.0})
    people.check()


def test_a_unique_index_is_not_made_over_duplicates(people):
    with pytest.raises(DuplicateError) as caught:
        people.create_index("one city", "/city", unique=True)
    assert caught.value.value == "London" and "one city" not in people.indexes()
    people.set("ada", "/city", "Paris")
    people.create_index("one city", "/city", unique=True)
    with pytest.raises(DuplicateError):
        people.set("ada", "/city", "London")


def test_one_of_many_threads_and_handles_gets_a_unique_value(opened):
    stores = [opened(indexes={"mail": Index("/mail", unique=True)}) for _ in range(4)]
    won = []

    def work(me):
        for n in range(40):
            try:
                stores[me].put(f"{me}/{n}", {"mail": n})
                won.append((n, me))
            except DuplicateError:
                pass

    threads = [threading.Thread(target=work, args=(me,)) for me in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert sorted(n for n, _ in won) == list(range(40))
    assert len(stores[0]) == 40
    stores[0].check()


@pytest.mark.parametrize("value", [[], {}, (), b"x", float("nan"), object()])
def test_what_cannot_be_found_is_refused(people, value):
    with pytest.raises(UsageError):
        people.find(city=value)
    with pytest.raises(UsageError):
        people.find_range("city", value)


@pytest.mark.parametrize(
    "call",
    [
        lambda s: s.find(),
        lambda s: s.find_range("age", limit=-1),
        lambda s: s.find_range("age", limit="1"),
        lambda s: s.create_index("", "/x"),
        lambda s: s.create_index(7, "/x"),
        lambda s: s.create_index("n" * 256, "/x"),
        lambda s: s.create_index("\ud800", "/x"),
        lambda s: s.create_index("x", "/x", unique=1),
        lambda s: s.create_index("x", "x"),
        lambda s: s.drop_index(None),
    ],
)
def test_bad_arguments(people, call):
    end = people.position
    with pytest.raises(UsageError):
        call(people)
    assert people.position == end and len(people.indexes()) == 4


@pytest.mark.parametrize(
    "indexes", [["/city"], {"city": 7}, {7: "/city"}, {"city": "city"}, "city"]
)
def test_bad_indexes_at_the_opening_make_no_store(files, opened, indexes):
    with pytest.raises(UsageError):
        opened(indexes=indexes)
    assert not files.contents()


def test_check_notices_an_index_that_says_something_else(people):
    people.find(city="London")
    people.check()
    people._fold.current.entries("city").discard((3, "London", "ada"))
    with pytest.raises(DamageError):
        people.check()


def test_check_notices_ids_out_of_order(people):
    people.ids()
    people._fold.current.ids().add("nobody")
    with pytest.raises(DamageError):
        people.check()
