"""Versions, what was before, and what checkpoints leave of it."""

from __future__ import annotations

import pytest

from tests.stores._opening import opener
from treering import PrunedError
from treering.stores.documents import DocumentStore, NoDocumentError, VersionPrunedError
from treering.testing import FakeClock

PAD = "x" * 400


@pytest.fixture
def opened(files):
    with opener(DocumentStore, "/documents", files=files) as open_store:
        yield open_store


def edited(store, count=12):
    """The documents of each version of `d`, version 1 first."""
    states = [{"n": 0, "pad": PAD, "list": []}]
    store.put("d", states[0])
    for n in range(1, count):
        store.put("other", {"n": n})
        if n % 3 == 0:
            store.append("d", "/list", n)
        else:
            store.update("d", lambda d, n=n: dict(d, n=n, **{f"f{n % 2}": n}))
        states.append(store["d"])
    return states


def test_history_and_versions(store, other):
    states = edited(store)
    for each in (store, other):
        history = each.history("d")
        assert [v.version for v in history] == list(range(1, 13))
        assert [tuple(change) for change in history[3].changes] == [("insert", "/list/0", 3)]
        assert [change.op for change in history[0].changes] == ["put"]
        assert sorted(v.timestamp for v in history) == [v.timestamp for v in history]
        assert each.history("d", limit=2) == history[-2:]
        for version, state in enumerate(states, 1):
            assert each.get("d", version=version) == state
            before = history[version - 1].position
            if version > 1:
                assert each.at(position=before)["d"] == states[version - 2]
        assert each.get("d", path="/list/0", version=5) == 3
        assert each.get("d", 7, path="/no", version=5) == 7
    assert store.history("nobody") == []


def test_a_view_in_the_middle_of_a_change_shows_none_of_it(store):
    store.put("d", {"a": 1, "b": 1, "pad": PAD})
    start = store.position
    store.update("d", lambda d: dict(d, a=2, b=2))
    assert store.position == start + 2
    assert store.at(start + 1)["d"] == {"a": 1, "b": 1, "pad": PAD}
    assert store.at(start + 1).version("d") == 1
    assert store.at(start + 2)["d"] == {"a": 2, "b": 2, "pad": PAD}


def test_a_view_stands_still(store):
    store.put("d", {"a": 1, "pad": PAD})
    then, seen = store.snapshot(), store.read("d")
    store.set("d", "/a", 2)
    store.put("e", {})
    assert then["d"]["a"] == seen.content["a"] == seen.get("/a") == 1
    assert then.ids() == ["d"] and then.position == store.position - 2
    then["d"]["a"] = 3
    assert then["d"]["a"] == 1
    assert seen == then.read("d") and seen != store.read("d")


def test_a_view_of_a_time(files, opened):
    now = [1_000_000_000_000_000_000]
    store = opened(clock=lambda: now[0])
    for n in range(5):
        store.put("d", {"n": n})
        now[0] += 10**9
    assert [store.at(time=1_000_000_000 + n)["d"]["n"] for n in range(1, 5)] == list(range(4))
    assert store.read("d").timestamp == 1_000_000_004


def test_diff(store):
    states = edited(store)
    changes = {change.path: change for change in store.diff("d", 2, 12)}
    assert changes["/n"].value == 11 and changes["/f0"].value == 10
    for one in (1, 5, 12):
        for other in (1, 4, 12):
            store.put("copy", states[one - 1])
            for op, path, value in store.diff("d", one, other):
                if op == "insert":
                    assert path == f"/list/{len(store.get('copy', path='/list'))}"
                    store.append("copy", "/list", value)
                else:
                    store.remove("copy", path) if op == "remove" else store.set("copy", path, value)
            assert store["copy"] == states[other - 1]
    assert store.diff("d", 3, 3) == []


def test_the_past_goes_on_through_a_deletion(store):
    store.put("d", {"n": 1})
    store.delete("d")
    assert [v.changes[0].op for v in store.history("d")] == ["put", "delete"]
    store.put("d", {"n": 2})
    store.set("d", "/n", 3)
    assert [v.changes[0].op for v in store.history("d")][:3] == ["put", "delete", "put"]
    assert [store.get("d", version=n) for n in (1, 3, 4)] == [{"n": 1}, {"n": 2}, {"n": 3}]
    with pytest.raises(NoDocumentError, match="deleted"):
        store.get("d", version=2)
    store.delete("d")
    with pytest.raises(NoDocumentError, match="deleted"):
        store.get("d", version=5)
    assert store.get("d", version=4) == {"n": 3}
    store.check()


def test_checkpoints_remove_versions_and_say_which_is_the_oldest(opened):
    store = opened()
    states = edited(store, 40)
    for _ in range(3):
        store.checkpoint()
        states += [store["d"] for n in range(20) if store.increment("d", "/n")]
    store = opened()
    assert store._fold.wal.first_position > 0
    assert store.version("d") == len(states) == 100
    have = 0
    for version, state in enumerate(states, 1):
        try:
            assert store.get("d", version=version) == state
            have += 1
        except VersionPrunedError as error:
            assert have == 0 and error.hint
            oldest = error.oldest_version
    assert 40 <= have < 100 and oldest == 101 - have
    history = store.history("d")
    assert [v.version for v in history] == list(range(history[0].version, 101))
    with pytest.raises(VersionPrunedError):
        store.diff("d", 1, 100)
    with pytest.raises(PrunedError):
        store.at(position=5)
    store.check()


def test_a_whole_document_in_the_log_is_a_start_for_its_versions(opened):
    store = opened()
    for n in range(100):
        store.put("other", {"n": n, "pad": PAD})
    store.checkpoint()
    store.put("d", {"n": 0, "pad": PAD})
    for _ in range(20):
        store.increment("d", "/n")
        store.checkpoint()
    assert store.history("d")[0].version == 1
    assert store.history("d")[0].position < min(store.stats()["snapshots"])
    assert store.get("d", version=1)["n"] == 0  # though no snapshot is that old


def test_a_snapshot_is_a_start_for_the_versions_after_it(opened):
    store = opened()
    store.put("e", {"only": "in a snapshot"})
    store.put("f", {"n": 1})
    store.increment("f", "/n")
    store.checkpoint()
    for n in range(200):
        store.put("other", {"n": n, "pad": PAD})
        if n % 50 == 0:
            store.checkpoint()
    assert store.history("e") == [] and store.get("e", version=1) == {"only": "in a snapshot"}
    store.set("e", "/only", 1)
    assert store.get("e", version=1) == {"only": "in a snapshot"}
    assert [v.version for v in store.history("e")] == [2]
    store.increment("f", "/n")
    assert store.get("f", version=2) == {"n": 2}
    with pytest.raises(VersionPrunedError) as caught:
        store.get("f", version=1)
    assert caught.value.oldest_version == 2


def test_snapshots_hold_whole_documents_with_their_versions(opened):
    store = opened(indexes={"n": "/n"})
    states = edited(store, 30)
    store.delete("other")
    store.checkpoint()
    before = store.stats()
    store.close()
    store = opened()
    assert store["d"] == states[-1] and store.version("d") == 30
    assert store.put("other", {}) == 31  # 29 versions, one deletion
    assert store.stats()["documents"] == 2 and before["deleted"] == 1
    assert [found.id for found in store.find(n=store["d"]["n"])] == ["d"]
    store.check()


@pytest.mark.parametrize("jump", [-(10**7), 10**7])
def test_clocks_decide_nothing(opened, jump):
    clock = FakeClock(jitter_seconds=3600, seed=7)
    store = opened(clock=clock)
    states = edited(store)
    clock.jump(jump)
    store.set("d", "/n", "after")
    states.append(store["d"])
    assert [store.get("d", version=n) for n in range(1, 14)] == states
    assert [v.version for v in store.history("d")] == list(range(1, 14))
    store.checkpoint()
    store.check()
    assert opened()["d"] == states[-1]
