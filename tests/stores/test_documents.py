"""Documents: what a change does, what it logs, and what is refused."""

from __future__ import annotations

import json
import threading

import pytest

from tests.stores._opening import opener
from treering import (
    ClosedError,
    Database,
    FsyncPolicy,
    MissingExtraError,
    ReadOnlyError,
    TooLargeError,
    UsageError,
)
from treering.stores.documents import (
    DocumentStore,
    DuplicateError,
    JsonCodec,
    NoDocumentError,
    NoPathError,
    VersionConflictError,
)
from treering.stores.documents.content import size_of
from treering.testing import PowerCutFiles

ADA = {"name": "Ada", "address": {"city": "London", "zip": None}, "tags": ["a", "b"], "visits": 1}


@pytest.fixture
def opened(files):
    with opener(DocumentStore, "/documents", files=files) as open_store:
        yield open_store


@pytest.fixture
def ada(store):
    store.put("ada", ADA)
    return store


def logged(store, call):
    """The fields of the records that a call adds, as (kind, path, JSON)."""
    start = store.position
    call()
    found = []
    for record in store._fold.wal.read_from(start):
        length = int.from_bytes(record.key[18:20], "little")
        found.append((record.key[:1], record.key[20 + length :].decode(), bytes(record.value)))
    return found


# --- put, get, delete ---


def test_a_document_comes_back_as_it_was_put(store, other):
    value = {
        "null": None, "yes": True, "no": False, "int": -7, "huge": 10**639, "float": 0.1,
        "zero": -0.0, "whole": 1.0, "text": "žluťoučký \u0000 \U0001f332", "": {"": []},
        "a/b~c": {"~1": "/"}, "deep": [[[{"x": [{}]}]]],
    }  # fmt: skip
    assert store.put("d", value) == 1
    for each in (store, other):
        found = each.get("d")
        assert repr(found) == repr(value)  # types, order of names and the sign of zero too
    assert store["d"] == value and "d" in store and len(store) == 1 and list(store) == ["d"]
    assert store.read("d").timestamp > 1e9


def test_what_get_returns_is_a_copy(ada):
    for found in (ada.get("ada"), ada["ada"], ada.read("ada").content, ada.documents()[0].content):
        found["address"]["city"] = "Paris"
        found["tags"].append("c")
    ada.get("ada", path="/tags").clear()
    ada.read("ada").get("/address").clear()
    assert ada.get("ada") == ADA


def test_what_was_put_may_be_changed_afterwards(store):
    mine = {"list": [1], "dict": {"a": 1}}
    store.put("d", mine)
    store.set("d", "/new", mine["list"])
    mine["list"].append(2)
    mine["dict"].clear()
    assert store["d"] == {"list": [1], "dict": {"a": 1}, "new": [1]}


def test_what_a_function_saw_cannot_be_changed_by_it_later(ada):
    kept = []
    ada.update("ada", lambda document: kept.append(document) or {**document, "visits": 2})
    kept[0]["address"]["city"] = "nowhere"
    ada.history("ada")[0].changes[0].value["tags"].clear()
    ada.diff("ada", 1, 2)
    assert ada["ada"] == {**ADA, "visits": 2}


def test_a_part_is_read_by_its_path(ada):
    assert ada.get("ada", path="/address/city") == "London"
    assert ada.get("ada", path="/tags/1") == "b"
    assert ada.get("ada", path="/tags/2", default=7) == 7
    assert ada.get("ada", 7, path="/name/x") == 7
    assert ada.get("bob", 7) == 7 and ada.get("bob") is None


def test_delete(ada, other):
    assert other.delete("ada") is True
    assert ada.delete("ada") is False
    assert "ada" not in ada and ada.version("ada") == 0 and ada.get("ada") is None
    with pytest.raises(NoDocumentError):
        ada["ada"]
    assert ada.put("ada", {}) == 3  # it goes on, so that no version means two things
    assert other.version("ada") == 3


def test_deleted_ids_begin_anew_once_they_are_forgotten(ada):
    ada.delete("ada")
    assert ada.stats()["deleted"] == 1
    assert ada.forget_deleted() == 1
    assert ada.forget_deleted() == 0
    assert ada.put("ada", {}) == 1
    ada.check()


def test_many_are_put_at_once(store):
    store.put("a", {"n": 0})
    start = store.position
    store.put_many({"a": {"n": 1}, "b": {"n": 2}, "c": {"n": 3}})
    assert [store[id]["n"] for id in store] == [1, 2, 3]
    assert store.position == start + 3
    with pytest.raises(UsageError):
        store.put_many({"d": {}, "e": {"x": float("nan")}})
    assert "d" not in store


def test_ids_are_in_order(store):
    store.put_many({id: {} for id in ("b", "a/2", "a/1", "á", "a", "\U0001f332")})
    assert store.ids() == list(store) == sorted(["b", "a/2", "a/1", "á", "a", "\U0001f332"])
    assert store.ids("a/") == ["a/1", "a/2"]
    assert store.ids("a/", reverse=True) == ["a/2", "a/1"]
    assert store.ids(start="a/2", stop="á") == ["a/2", "b"]
    assert [each.id for each in store.documents("a/")] == ["a/1", "a/2"]
    store.delete("a/1")
    assert store.ids("a") == ["a", "a/2"]
    with pytest.raises(UsageError):
        store.ids("a", start="b")
    with pytest.raises(UsageError):
        store.ids(b"a")


def test_hundreds_of_ids_stay_in_order_while_they_come_and_go(store):
    ids = [f"{n * 7919 % 5003:05}" for n in range(3000)]
    for start in range(0, 3000, 500):
        store.put_many({id: {} for id in ids[start : start + 500]})
        assert store.ids() == sorted(ids[: start + 500])
    then = store.snapshot()
    for id in ids[::3]:
        store.delete(id)
    assert store.ids() == sorted(set(ids) - set(ids[::3]))
    assert then.ids() == sorted(ids)  # the copy stands still
    store.check()


# --- Changes to parts ---


def test_changing_a_title_logs_a_title(store):
    store.put("d", {"title": "old", "body": "x" * 10_000})
    for call in (
        lambda: store.set("d", "/title", "new"),
        lambda: store.put("d", {"title": "newer", "body": "x" * 10_000}),
        lambda: store.merge("d", {"title": "newest"}),
        lambda: store.update("d", lambda d: dict(d, title="by function")),
    ):
        [(kind, path, raw)] = logged(store, call)
        assert (kind, path) == (b"s", "/title") and len(raw) < 15


def test_set(ada, other):
    assert ada.set("ada", "/address/city", "Vienna") == 2
    ada.set("ada", "/address/street", {"name": "Ring", "no": 1})
    ada.set("ada", "/tags/0", "A")
    ada.set("ada", "/tags/-", "c")
    ada.set("ada", "/tags/3", "d")
    expected = {
        **ADA,
        "address": {"city": "Vienna", "zip": None, "street": {"name": "Ring", "no": 1}},
        "tags": ["A", "b", "c", "d"],
    }
    assert ada["ada"] == other["ada"] == expected
    assert ada.set("ada", "", {"all": "new"}) == 7
    assert other["ada"] == {"all": "new"}


def test_remove_append_increment(ada, other):
    assert ada.remove("ada", "/tags/0") == 2
    assert ada.remove("ada", "/address/zip") == 3
    assert ada.append("ada", "/tags", {"x": 1}) == 4
    assert ada.increment("ada", "/visits") == 2
    assert ada.increment("ada", "/visits", 0.5) == 2.5
    assert ada.increment("ada", "/new", -3) == -3
    assert ada.increment("ada", "/tags/1/x", 10**30) == 10**30 + 1
    assert other["ada"] == {
        "name": "Ada",
        "address": {"city": "London"},
        "tags": ["b", {"x": 10**30 + 1}],
        "visits": 2.5,
        "new": -3,
    }


def test_what_changes_nothing_logs_nothing(ada):
    calls = (
        lambda: ada.put("ada", dict(reversed(ADA.items()))),
        lambda: ada.set("ada", "/name", "Ada"),
        lambda: ada.merge("ada", {"address": {"city": "London"}, "missing": None}),
        lambda: ada.update("ada", lambda document: document),
        lambda: ada.increment("ada", "/visits", 0),
        lambda: ada.delete("bob"),
    )
    for call in calls:
        assert logged(ada, call) == []
    assert ada.version("ada") == 1


@pytest.mark.parametrize(
    ("one", "other"), [(1, True), (0, False), (1, 1.0), (0.0, -0.0), ("1", 1), ([], {}), (None, 0)]
)
def test_values_that_python_takes_for_equal_are_told_apart(store, one, other):
    store.put("d", {"v": one, "list": [one], "long": "x" * 200})
    assert store.put("d", {"v": other, "list": [other], "long": "x" * 200}) == 2
    assert repr(store["d"]["v"]) == repr(store["d"]["list"][0]) == repr(other)
    assert store.set("d", "/v", one) == 3
    assert repr(store["d"]["v"]) == repr(one)


# RFC 7396, appendix A, as far as both sides are objects.
@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merge(store, target, patch, result):
    store.put("d", target)
    store.merge("d", patch)
    assert store["d"] == result


# RFC 6901, section 5.
POINTED = {
    "foo": ["bar", "baz"], "": 0, "a/b": 1, "c%d": 2, "e^f": 3, "g|h": 4, "i\\j": 5, 'k"l': 6,
    " ": 7, "m~n": 8,
}  # fmt: skip


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("/foo", ["bar", "baz"]), ("/foo/0", "bar"), ("/", 0), ("/a~1b", 1), ("/c%d", 2),
        ("/e^f", 3), ("/g|h", 4), ("/i\\j", 5), ('/k"l', 6), ("/ ", 7), ("/m~0n", 8),
    ],
)  # fmt: skip
def test_json_pointers(store, other, path, value):
    store.put("d", POINTED)
    assert store.get("d", path=path) == value
    store.set("d", path, "new")
    assert other.get("d", path=path) == "new"
    assert logged(store, lambda: store.set("d", path, "newer"))[0][1] == path
    store.remove("d", path)
    assert other.get("d", path=path, default="gone") == ("baz" if path == "/foo/0" else "gone")


def test_names_that_look_like_something_else(store):
    names = ["~", "~0", "~1", "/", "-", "0", "*", "\0", "a\nb", "日本", "~01"]
    store.put("d", dict.fromkeys(names, 0))
    for name in names:
        path = "/" + name.replace("~", "~0").replace("/", "~1")
        assert store.increment("d", path) == 1
    store.update("d", lambda document: document | dict.fromkeys(names, 2))
    assert store["d"] == dict.fromkeys(names, 2)


@pytest.mark.parametrize(
    "id", ["/", "..", "../../etc/passwd", "\0", "a\nb", "日本", "~", " ", "d" * 1024]
)
def test_hostile_ids_are_text_and_nothing_else(opened, id):
    with opened() as store:
        store.put(id, {"a": {"b": 1}})
        store.set(id, "/a/b", 2)
        store.checkpoint()
    with opened() as store:
        assert store.ids() == [id]
        assert store[id] == {"a": {"b": 2}} and store.version(id) == 2
        assert store.get(id, version=1) == {"a": {"b": 1}}


# --- The changes that are made out ---


@pytest.mark.parametrize(
    ("before", "after", "changes"),
    [
        ({"a": 1, "b": 2}, {"a": 1, "b": 3}, [("set", "/b", 3)]),
        ({"a": 1, "b": 2}, {"b": 2, "c": 3}, [("remove", "/a", None), ("set", "/c", 3)]),
        ({"l": [1, 2, 3]}, {"l": [0, 1, 2, 3]}, [("insert", "/l/0", 0)]),
        ({"l": [1, 2, 3]}, {"l": [1, 3]}, [("remove", "/l/1", None)]),
        ({"l": [1, 2, 3]}, {"l": [1, 2, 3, 4, 5]}, [("insert", "/l/3", 4), ("insert", "/l/4", 5)]),
        ({"l": [1, 2, 3, 4]}, {"l": [4]}, [("remove", f"/l/{n}", None) for n in (2, 1, 0)]),
        ({"l": [1, 1]}, {"l": [1]}, [("remove", "/l/1", None)]),
        ({"l": [{"x": 1, "y": 2}]}, {"l": [{"x": 1, "y": 3}]}, [("set", "/l/0/y", 3)]),
        ({"a": [1]}, {"a": {"0": 1}}, [("set", "/a", {"0": 1})]),
        ({"a": 1}, {"a": 1}, []),
    ],
)  # fmt: skip
def test_differences_are_minimal(store, before, after, changes):
    pad = {"pad": "x" * 2000}
    store.put("d", before | pad)
    store.put("d", after | pad)
    assert store["d"] == after | pad
    assert [tuple(change) for change in store.diff("d", 1, store.version("d"))] == changes
    made = store.history("d")[1:]  # small parts that change a lot are written as a whole
    assert len(made[0].changes if made else []) == min(
        len(changes), 1 if "/l" in str(changes) else 9
    )


def test_a_part_that_is_mostly_new_is_written_as_one(store):
    row = {f"field{n}": n for n in range(20)}
    store.put("d", {"row": row, "pad": "x" * 5000})
    fields = logged(store, lambda: store.set("d", "/row", {name: n + 1 for name, n in row.items()}))
    assert [field[:2] for field in fields] == [(b"s", "/row")]
    many = {"list": list(range(5000)), "pad": "x" * 5000}
    store.put("d", many)
    fields = logged(store, lambda: store.put("d", many | {"list": list(range(1, 9999, 2))}))
    assert [field[:2] for field in fields] == [(b"s", "/list")]


def test_a_name_too_long_for_a_path_is_written_with_what_contains_it(store, other):
    name = "n" * 20_000
    store.put("d", {"a": {name: {"x": 1}}, "b": 2})
    assert [f[1] for f in logged(store, lambda: store.merge("d", {"a": {name: {"x": 2}}}))] == [
        "/a"
    ]
    assert other["d"] == {"a": {name: {"x": 2}}, "b": 2}
    with pytest.raises(TooLargeError):
        store.set("d", f"/a/{name}", 3)
    # One that just fits, and does not with one step more.
    fits = "n" * 16_383
    store.put("e", {fits: []})
    with pytest.raises(TooLargeError):
        store.append("e", f"/{fits}", 1)
    store.set("e", f"/{fits}", [1])
    assert other["e"] == {fits: [1]}


def test_the_size_is_that_of_the_document(store):
    store.put("d", {"a": [1, 2], "b": {"ž": "é"}})
    calls = (
        lambda: store.set("d", "/b/new", [1]),
        lambda: store.set("d", "/b/new", "\n"),
        lambda: store.set("d", "/é", {}),
        lambda: store.set("d", "/é/x", 1.5),
        lambda: store.append("d", "/a", "text"),
        lambda: store.remove("d", "/a/0"),
        lambda: store.set("d", "/a/-", None),
        lambda: store.remove("d", "/b/ž"),
        lambda: store.remove("d", "/b/new"),
        lambda: store.remove("d", "/é/x"),
        lambda: store.put("d", {"a": []}),
        lambda: store.append("d", "/a", 1),
        lambda: store.remove("d", "/a/0"),
        lambda: store.remove("d", "/a"),
    )
    for number, call in enumerate(calls):
        call()
        entry = store._fold.state().documents["d"]
        assert entry.size == size_of(store["d"]), number


def test_stats_show_what_was_saved(store, opened):
    store.put("d", {"title": "a", "body": "x" * 10_000})
    before = store.stats()
    for n in range(10):
        store.set("d", "/title", f"{n}")
    after = store.stats()
    assert after["bytes_logged"] - before["bytes_logged"] < 400
    assert after["bytes_whole"] - before["bytes_whole"] > 100_000
    assert (after["documents"], after["deleted"]) == (1, 0)
    store.checkpoint()
    assert opened().stats()["bytes_whole"] == after["bytes_whole"]


# --- Versions ---


def test_every_command_may_expect_a_version(ada, other):
    commands = (
        lambda expected: ada.put("ada", {}, expected_version=expected),
        lambda expected: ada.set("ada", "/x", 1, expected_version=expected),
        lambda expected: ada.remove("ada", "/name", expected_version=expected),
        lambda expected: ada.increment("ada", "/visits", expected_version=expected),
        lambda expected: ada.append("ada", "/tags", 1, expected_version=expected),
        lambda expected: ada.merge("ada", {"x": 1}, expected_version=expected),
        lambda expected: ada.update("ada", lambda d: {}, expected_version=expected),
        lambda expected: ada.delete("ada", expected_version=expected),
    )
    other.set("ada", "/visits", 5)
    for command in commands:
        for wrong in (0, 1, 3):
            with pytest.raises(VersionConflictError) as caught:
                command(wrong)
            assert (caught.value.expected, caught.value.found) == (wrong, 2)
    assert ada["ada"] == {**ADA, "visits": 5} and ada.version("ada") == 2
    for command in commands:
        other.put("ada", {**ADA, "visits": other.version("ada") + 100})
        command(other.version("ada"))
    with pytest.raises(VersionConflictError):
        ada.delete("ada", expected_version=1)
    assert ada.put("ada", {}, expected_version=0) > 2
    with pytest.raises(VersionConflictError):
        ada.put("ada", {"x": 1}, expected_version=0)


def test_edit_notices_that_somebody_was_faster(ada, other):
    with pytest.raises(VersionConflictError), ada.edit("ada") as document:
        document["name"] = "mine"
        other.set("ada", "/name", "theirs")
    assert ada["ada"]["name"] == "theirs"
    with ada.edit("ada") as document:
        document["name"] = "mine"
        document["tags"].remove("a")
    assert other["ada"] == {**ADA, "name": "mine", "tags": ["b"]}
    assert len(ada.history("ada")[-1].changes) == 2
    with pytest.raises(RuntimeError), ada.edit("ada") as document:
        document.clear()
        raise RuntimeError
    assert ada["ada"]["name"] == "mine"
    with pytest.raises(NoDocumentError), ada.edit("bob"):
        pass


def test_updates_of_many_threads_all_count(store):
    store.put("d", {"n": 0, "list": []})

    def work(me):
        for n in range(50):
            store.update("d", lambda document: dict(document, n=document["n"] + 1))
            store.append("d", "/list", [me, n])

    threads = [threading.Thread(target=work, args=(me,)) for me in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    found = store["d"]
    assert found["n"] == 200 and len(found["list"]) == 200
    for me in range(4):
        assert [n for who, n in found["list"] if who == me] == list(range(50))
    assert store.version("d") == 401


# --- What is refused ---


@pytest.mark.parametrize(
    "value",
    [
        float("nan"), float("inf"), -float("inf"), b"bytes", (1, 2), {1, 2}, object(), 1j,
        {1: 2}, {None: 1}, {"a": {True: 1}}, [[[float("nan")]]], "\ud800", {"\udfff": 1},
        [1 << 15_000], type("Text", (str,), {})("x"), type("Dict", (dict,), {})(),
    ],
)  # fmt: skip
def test_what_json_cannot_say_is_refused(ada, value):
    calls = (
        lambda: ada.put("ada", {"x": value}),
        lambda: ada.put("new", {"x": [value]}),
        lambda: ada.put_many({"new": {"x": value}}),
        lambda: ada.set("ada", "/name", value),
        lambda: ada.append("ada", "/tags", value),
        lambda: ada.merge("ada", {"x": value}),
        lambda: ada.update("ada", lambda document: dict(document, x=value)),
    )
    for call in calls:
        with pytest.raises(UsageError) as caught:
            call()
        assert "{" not in str(caught.value.hint)
        assert logged(ada, lambda: None) == []
    assert ada["ada"] == ADA and ada.version("ada") == 1 and len(ada) == 1
    ada.check()


@pytest.mark.parametrize("document", [None, [], "text", 1, True, b"{}"])
def test_a_document_is_a_dict(ada, document):
    for call in (
        lambda: ada.put("ada", document),
        lambda: ada.set("ada", "", document),
        lambda: ada.merge("ada", document),
    ):
        with pytest.raises(UsageError):
            call()
    with pytest.raises(UsageError, match=r"return|dict"):
        ada.update("ada", lambda _: document)
    assert ada["ada"] == ADA


@pytest.mark.parametrize("id", [None, "", b"ada", 7, ("a",), "x" * 1025, "é" * 513, "\ud800"])
def test_bad_ids(ada, id):
    calls = (
        lambda: ada.put(id, {}), lambda: ada.delete(id), lambda: ada.set(id, "/x", 1),
        lambda: ada.remove(id, "/x"), lambda: ada.increment(id, "/x"), lambda: ada.merge(id, {}),
        lambda: ada.append(id, "/x", 1), lambda: ada.update(id, dict), lambda: ada.get(id),
        lambda: ada.read(id), lambda: ada[id], lambda: ada.history(id), lambda: ada.diff(id, 1, 1),
        lambda: ada.put_many({id: {}}), lambda: ada.get(id, version=1),
    )  # fmt: skip
    for call in calls:
        with pytest.raises(UsageError):
            call()
    assert ada.ids() == ["ada"]


@pytest.mark.parametrize(
    "path",
    ["name", "a/b", "/~", "/a~2b", "/~~0", None, 7, b"/name", ["name"], "/\ud800", "/a" * 101],
)
def test_bad_paths(ada, path):
    for call in (
        lambda: ada.set("ada", path, 1),
        lambda: ada.remove("ada", path),
        lambda: ada.increment("ada", path),
        lambda: ada.append("ada", path, 1),
        lambda: ada.create_index("i", path),
        lambda: ada.read("ada").get(path),
    ):
        with pytest.raises(UsageError):
            call()
    assert ada.version("ada") == 1


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda ada: ada.set("ada", "/no/where", 1), NoPathError),
        (lambda ada: ada.set("ada", "/name/x", 1), NoPathError),
        (lambda ada: ada.set("ada", "/tags/3", 1), NoPathError),
        (lambda ada: ada.set("ada", "/tags/01", 1), NoPathError),
        (lambda ada: ada.set("ada", "/tags/x", 1), NoPathError),
        (lambda ada: ada.set("ada", "/tags/-1", 1), NoPathError),
        (lambda ada: ada.set("ada", "/tags/" + "9" * 5000, 1), NoPathError),
        (lambda ada: ada.set("ada", "/tags/-/x", 1), NoPathError),
        (lambda ada: ada.remove("ada", "/tags/-"), NoPathError),
        (lambda ada: ada.remove("ada", "/tags/2"), NoPathError),
        (lambda ada: ada.remove("ada", "/nobody"), NoPathError),
        (lambda ada: ada.remove("ada", ""), UsageError),
        (lambda ada: ada.increment("ada", "/name"), NoPathError),
        (lambda ada: ada.increment("ada", "/tags/2"), NoPathError),
        (lambda ada: ada.increment("ada", "/visits", True), UsageError),
        (lambda ada: ada.increment("ada", "/visits", "1"), UsageError),
        (lambda ada: ada.increment("ada", "/visits", float("nan")), UsageError),
        (lambda ada: ada.increment("ada", "/visits", 10**4300), UsageError),
        (lambda ada: ada.increment("ada", ""), UsageError),
        (lambda ada: ada.append("ada", "/address", 1), NoPathError),
        (lambda ada: ada.append("ada", "/nobody", 1), NoPathError),
        (lambda ada: ada.set("bob", "/x", 1), NoDocumentError),
        (lambda ada: ada.update("bob", dict), NoDocumentError),
        (lambda ada: ada.update("ada", 7), UsageError),
        (lambda ada: ada.put_many([("a", {})]), UsageError),
        (lambda ada: ada.merge("bob", {}), NoDocumentError),
        (lambda ada: ada.put("ada", {}, expected_version=-1), UsageError),
        (lambda ada: ada.put("ada", {}, expected_version="1"), UsageError),
        (lambda ada: ada.put("ada", {}, expected_version=True), UsageError),
        (lambda ada: ada.put("ada", {}, expected_version=10**18), VersionConflictError),
        (lambda ada: ada.put("ada", {}, expected_version=10**5000), UsageError),
        (lambda ada: ada.get("ada", version=10**5000), UsageError),
        (lambda ada: ada.history("ada", limit=0), UsageError),
        (lambda ada: ada.get("ada", version=0), UsageError),
        (lambda ada: ada.get("ada", version="1"), UsageError),
        (lambda ada: ada.get("ada", version=2), NoDocumentError),
        (lambda ada: ada.diff("ada", 1, 2), NoDocumentError),
        (lambda ada: ada.diff("bob", 1, 1), NoDocumentError),
    ],
)
def test_calls_that_cannot_be_done_say_so_and_change_nothing(ada, call, error):
    end = ada.position
    with pytest.raises(error) as caught:
        call(ada)
    assert caught.value.hint and len(str(caught.value)) < 400
    assert ada.position == end and ada["ada"] == ADA


def nested(levels):
    value = {}
    for _ in range(levels - 1):
        value = {"x": value}
    return value


def test_nesting_has_a_limit(store, other):
    store.put("d", nested(100))
    assert other["d"] == nested(100)
    store.update("d", lambda document: document)
    for call in (
        lambda: store.put("e", nested(101)),
        lambda: store.put("e", nested(100_000)),
        lambda: store.set("d", "/x" * 98 + "/x", nested(2)),
        lambda: store.merge("d", nested(101)),
    ):
        with pytest.raises(UsageError):
            call()
    store.set("d", "/x" * 98 + "/x", [])
    store.append("d", "/x" * 99, 1)
    circle = {}
    circle["me"] = circle
    with pytest.raises(UsageError):
        store.put("c", circle)
    assert other.get("d", path="/x" * 99) == [1]
    store.check()


def test_documents_have_a_limit(opened):
    store = opened(document_bytes_max=1000)
    store.put("d", {"x": "y" * 900, "l": []})
    for call in (
        lambda: store.put("d", {"x": "y" * 1000}),
        lambda: store.put("e", {"x": "y" * 1000}),
        lambda: store.set("d", "/z", "y" * 100),
        lambda: store.append("d", "/l", "y" * 100),
        lambda: store.merge("d", {"z": "y" * 100}),
        lambda: store.update("d", lambda d: dict(d, z="y" * 100)),
        lambda: store.put_many({"e": {"x": "y" * 1000}}),
    ):
        with pytest.raises(TooLargeError):
            call()
    assert store.version("d") == 1 and len(store) == 1
    store.set("d", "/x", "")
    store.set("d", "/z", "y" * 900)
    with pytest.raises(UsageError):
        opened(document_bytes_max=0)


def test_a_function_that_raises_changes_nothing(ada):
    def half(document):
        document.clear()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        ada.update("ada", half)
    assert ada["ada"] == ADA


def test_a_function_writes_to_no_store(ada):
    def greedy(document):
        assert ada["ada"] == ADA  # it may look
        ada.put("other", {})

    with pytest.raises(UsageError, match="no other"):
        ada.update("ada", greedy)
    assert ada.update("ada", lambda document: {}) == 2
    assert ada.ids() == ["ada"]


# --- Handles, codecs, databases ---


def test_what_changes_nothing_is_durable_all_the_same():
    """The one that made the change may not have waited for its fsync yet."""
    for again in (
        lambda store: store.put("d", {"n": 1}, durable=True),
        lambda store: store.put_many({"d": {"n": 1}}, durable=True),
        lambda store: store.set("d", "/n", 1, durable=True),
        lambda store: store.delete("e", durable=True),
    ):
        files = PowerCutFiles()
        with DocumentStore("/d", files=files, fsync_policy=FsyncPolicy.OS) as store:
            store.put("d", {"n": 1})
            again(store)
            for image in files.images(5, 1):
                with DocumentStore("/d", files=image) as after:
                    assert after["d"] == {"n": 1}


def test_a_read_only_store_reads(files, ada, opened):
    store = opened(read_only=True, indexes={"city": "/address/city"})
    assert store["ada"] == ADA
    for call in (
        lambda: store.put("ada", ADA),
        lambda: store.delete("bob"),
        lambda: store.create_index("x", "/x"),
        lambda: store.forget_deleted(),
    ):
        with pytest.raises(ReadOnlyError):
            call()


def test_a_closed_store_says_so(ada):
    ada.close()
    for call in (
        lambda: ada.get("ada"),
        lambda: ada.put("b", {}),
        lambda: len(ada),
        lambda: ada.find(x=1),
        lambda: ada.history("ada"),
    ):
        with pytest.raises((ClosedError, LookupError)):
            call()
    assert "closed" in repr(ada)


def test_codecs_read_each_other(opened):
    try:
        from treering.integrations.msgspec import MsgspecCodec
    except MissingExtraError:
        pytest.skip("msgspec is not installed")
    value = {"huge": 10**400, "f": [1e16, -0.0, 5e-324, 0.1], "t": "\x1f\u2028ž", "n": None}
    one, other = opened(codec=MsgspecCodec()), opened(codec=JsonCodec())
    one.put("d", value)
    other.put("e", value)
    one.append("e", "/f", 1e16)
    other.remove("d", "/f/0")
    for _ in range(2):
        assert repr(one["d"]) == repr(other["d"]) and repr(one["e"]) == repr(other["e"])
        one.checkpoint()
        one.check()
        other.check()
        one, other = opened(codec=MsgspecCodec()), opened()
    for number in (float("nan"), float("inf")):  # of which msgspec makes null
        with pytest.raises(UsageError):
            one.put("x", {"x": number})
    with pytest.raises(UsageError):
        opened(codec=json)
    with pytest.raises(UsageError):
        one.put("x", {"x": "\ud800"})


def test_a_size_that_another_codec_made_too_small_does_no_harm(opened):
    store = opened()
    store.put("d", {"a": [1e16] * 50})

    class Short(JsonCodec):
        def encode(self, data):
            return super().encode(data).replace(b"e+", b"e")

    short = opened(codec=Short())
    short.put("e", {"a": [1e16] * 50})
    store.remove("e", "/a")
    store.checkpoint()
    assert opened()["e"] == {}
    store.check()


def test_in_a_database(files):
    with Database("/db", files=files, fsync_policy=FsyncPolicy.OS) as db:
        people = db.documents("people", indexes={"city": "/city"})
        log = db.kv("log")
        with db.transaction():
            people.put("ada", {"city": "London", "n": 1})
            log[b"1"] = b"ada"
            people.set("ada", "/city", "Vienna")
            assert people.version("ada") == 2
            assert [found.id for found in people.find(city="Vienna")] == ["ada"]
            assert people.find(city="London") == []
            with pytest.raises(UsageError):
                people.history("ada")
        with pytest.raises(RuntimeError), db.transaction():
            people.increment("ada", "/n")
            log[b"2"] = b"more"
            people.put("bob", {"city": "Vienna"})
            assert [found.id for found in people.find(city="Vienna")] == ["ada", "bob"]
            assert people.ids() == ["ada", "bob"]
            raise RuntimeError
        assert people.ids() == ["ada"] and people["ada"]["n"] == 1
        assert [found.id for found in people.find(city="Vienna")] == ["ada"]
        assert dict(log) == {b"1": b"ada"}
        assert [len(v.changes) for v in people.history("ada")] == [1, 1]
        assert people.get("ada", version=1)["city"] == "London"
        db.checkpoint()
        db.check()
    with Database("/db", files=files) as db:
        assert db.documents("people")["ada"] == {"city": "Vienna", "n": 1}
        assert db.stores()["people"] == "documents"


def test_indexes_in_transactions(files):
    with Database("/db", files=files, fsync_policy=FsyncPolicy.OS) as db:
        docs = db.documents("d")
        docs.put_many({"a": {"n": 1}, "b": {"n": 2}})
        with pytest.raises(RuntimeError), db.transaction():
            docs.create_index("n", "/n", unique=True)
            with pytest.raises(DuplicateError):
                docs.set("a", "/n", 2)
            docs.set("a", "/n", 3)
            assert docs.find(n=3)[0].id == "a"
            raise RuntimeError
        assert docs.indexes() == {} and docs["a"] == {"n": 1}
        with db.transaction():
            docs.create_index("n", "/n", unique=True)
            docs.update("b", lambda document: {"n": 4})
            with pytest.raises(VersionConflictError):
                docs.delete("b", expected_version=1)
            docs.delete("a")
        assert [found.id for found in docs.find_range("n")] == ["b"]
        with pytest.raises(TypeError):
            db.documents("d", index={"n": "/n"})
        db.checkpoint()
        db.check()


def test_put_many_in_a_transaction_keeps_the_past(files):
    with Database("/db", files=files, fsync_policy=FsyncPolicy.OS) as db:
        docs, log = db.documents("d"), db.kv("log")
        docs.put("a", {"n": 0, "pad": "x" * 500})
        with db.transaction():
            log[b"x"] = b"1"
            docs.put_many({"a": {"n": 1, "pad": "x" * 500}, "b": {"n": 1}})
            log[b"y"] = b"1"
            docs.increment("a", "/n")
        assert [v.version for v in docs.history("a")] == [1, 2, 3]
        assert docs.get("a", version=2)["n"] == 1
        db.check()
