"""The session store: a session is there until it is over, for everybody, and its id nowhere."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import secrets
import threading
import time

import pytest

from tests.stores._opening import SMALL, opener
from treering import (
    ClosedError,
    ConflictError,
    DamageError,
    Database,
    FsyncPolicy,
    NotThereError,
    ReadOnlyError,
    Record,
    TooLargeError,
    UsageError,
    VersionError,
    Wal,
)
from treering.fold import CommitConflictError
from treering.integrations.msgspec import MsgspecCodec
from treering.stores.sessions import LostUpdateError, SessionGoneError, SessionStore
from treering.stores.sessions import records as rec
from treering.testing import FakeClock

DAY = 86_400
TERMS = {"idle": 100, "lifetime": 1000, "touch_seconds": 10, "sweep_seconds": None}


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def opened(files, clock):
    with opener(SessionStore, "/sessions", files=files, clock=clock, **TERMS) as open_store:
        yield open_store


def log_of(files):
    """All bytes that there are."""
    return b"".join(files.crash().contents().values())


# --- A session's life ---


def test_a_session_is_created_loaded_saved_deleted(store, other, clock):
    made = store.create({"theme": "dark"}, user="ada")
    assert made.data == {"theme": "dark"} and made.user == "ada" and made.version == 1
    assert made.created_at == made.seen_at == clock() / 1e9
    assert made.expires_at == made.created_at + 100 and made.ends_at == made.created_at + 1000
    assert other.load(made.id) == store.load(made.id) == made
    made.data["theme"] = "light"
    assert other.load(made.id).data == {"theme": "dark"}  # until it is saved
    saved = store.save(made)
    assert saved.version == 2 and saved.id == made.id
    assert other.load(made.id) == saved and made.id in other
    assert other.delete(made.id) is True
    assert store.load(made.id) is None and made.id not in store
    assert store.delete(made.id) is False
    store.check()


def test_ids_are_secret_long_and_new(store):
    ids = {store.create().id for _ in range(200)}
    assert len(ids) == 200 and all(len(id) == 43 for id in ids)
    session = store.load(ids.pop())
    assert session.id not in repr(session) and session.id not in f"{session}"


def test_the_id_is_in_no_file_and_not_in_memory(store, files):
    """Neither the text nor the bytes it stands for, also not in snapshots and after rotation."""
    made = store.create({"n": 1}, user="ada")
    store.touch(made.id)
    newer = store.rotate(made.id, user="alan", grace=5)
    store.save(newer.id, {"n": 2})
    store.checkpoint()
    store.delete(newer.id)
    store.checkpoint()
    bytes_there = log_of(files)
    for id in (made.id, newer.id):
        assert id.encode() not in bytes_there
        assert secrets.base64.urlsafe_b64decode(id + "=") not in bytes_there
    assert (
        hashlib.sha256(made.id.encode()).digest() in bytes_there
    )  # so we looked at the right ones
    assert b"alan" in bytes_there
    kept = store._fold.current
    assert not any(
        id.encode() in bytes(packed)
        for packed in kept.sessions.values()
        for id in (made.id, newer.id)
    )


HOSTILE = [
    "", "x", "x" * 42, "x" * 44, "é" * 43, "\ud800" * 43, "\0" * 43, "../../../../etc/passwd", "x" * 10_000_000,
    "'; drop table sessions; --", None, 7, b"x" * 43, [], {}, object(), float("nan"),
]  # fmt: skip


@pytest.mark.parametrize("id", HOSTILE, ids=lambda id: repr(id)[:20])
def test_hostile_ids_are_no_sessions_and_no_errors(store, id):
    made = store.create()
    position = store.position
    assert store.load(id) is None and store.find(id) is None and id not in store
    assert store.touch(id) is False
    assert store.delete(id) is False
    for call in (
        lambda: store.save(id, 1),
        lambda: store.rotate(id),
        lambda: store.update(id, str),
    ):
        with pytest.raises(SessionGoneError, match="create"):
            call()
    assert store.position == position and store.load(made.id) == made


def test_the_digest_is_no_id(store):
    """What is in the log lets nobody in."""
    made = store.create()
    assert store.load(made.key) is None
    assert store.find(made.key) == made._replace(id=None)
    assert store.find(made.key[:-2]) is None


def test_data_may_be_json_bytes_or_what_a_codec_knows(store, opened, files):
    for data in (None, True, 1.5, "text", [1, "2", None], {"a": {"b": []}}, b"\0raw\xff", ""):
        assert store.load(store.create(data).id).data == data
    assert store.load(store.create((1, 2)).id).data == [1, 2]
    assert store.load(store.create(bytearray(b"x")).id).data == b"x"
    theirs = opened(codec=MsgspecCodec())
    made = theirs.create({"when": [1, 2], "name": "zoë"})
    assert store.load(made.id).data == made.data == {"when": [1, 2], "name": "zoë"}


def test_what_cannot_be_written_changes_nothing(store):
    made, position = store.create({}), store.position
    circle = []
    circle.append(circle)
    for data in ({1, 2}, object(), float("nan"), circle):
        for call in (
            lambda data=data: store.create(data),
            lambda data=data: store.save(made.id, data),
            lambda data=data: store.rotate(made.id, data=data),
        ):
            with pytest.raises(UsageError, match="cannot be written"):
                call()
    assert store.position == position


def test_large_data_is_refused(opened):
    store = opened(session_bytes_max=100)
    made = store.create(b"x" * 100)
    for call in (
        lambda: store.create(b"x" * 101),
        lambda: store.create("x" * 99),  # two quotes more
        lambda: store.save(made, b"x" * 101),
        lambda: store.rotate(made, data=b"x" * 101),
    ):
        with pytest.raises(TooLargeError, match="session_bytes_max"):
            call()
    assert store.load(made.id) == made


# --- Saving ---


def test_no_update_is_lost(store, other):
    made = store.create({"n": 0})
    mine, theirs = store.load(made.id), other.load(made.id)
    store.save(mine._replace(data={"n": 1}))
    with pytest.raises(LostUpdateError, match="version 2 by now, not 1") as caught:
        other.save(theirs, {"n": 2})
    assert isinstance(caught.value, ConflictError)
    assert store.load(made.id).data == {"n": 1}
    assert other.save(made.id, {"n": 3}).version == 3  # an id: whatever is there
    with pytest.raises(LostUpdateError):
        other.save(made.id, {"n": 4}, version=2)
    assert other.save(made.id, {"n": 4}, version=3).version == 4
    with pytest.raises(UsageError, match="nothing to save"):
        store.save(made.id)


def test_updates_of_many_threads_all_count(store, other):
    made = store.create({"n": 0})

    def count(handle):
        for _ in range(50):
            handle.update(made.id, lambda data: {"n": data["n"] + 1})

    threads = [threading.Thread(target=count, args=(each,)) for each in (store, other, store)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.load(made.id).data == {"n": 150}
    assert store.update(made, lambda data: "new").data == "new"


def test_a_session_from_a_list_can_be_changed_and_ended(store):
    store.create({"device": "phone"}, user="ada")
    (listed,) = store.sessions("ada")
    assert listed.id is None
    assert store.save(listed, {"device": "tablet"}).id is None
    assert store.find(listed.key).data == {"device": "tablet"}
    assert store.touch(listed) and store.delete(listed)
    assert store.sessions("ada") == []


# --- Expiry ---


def test_idle_sessions_end_and_touched_ones_live_until_their_end(store, other, clock):
    idle, used = store.create("idle"), store.create("used")
    for _ in range(19):
        clock.advance(50)
        assert other.touch(used.id) is True
        assert store.load(used.id).expires_at == min(clock() / 1e9 + 100, used.ends_at)
    assert store.load(idle.id) is None and not store.touch(idle.id)
    clock.advance(49)
    assert store.touch(used.id)
    clock.advance(1)
    for handle in (store, other):
        assert handle.load(used.id) is None and not handle.touch(used.id)
        assert len(handle) == 0 and list(handle) == []


def test_to_the_nanosecond(store, clock):
    made = store.create()
    clock.set(clock() + 100 * 10**9 - 1)
    assert store.load(made.id)
    clock.set(clock() + 1)
    assert store.load(made.id) is None
    with pytest.raises(SessionGoneError):
        store.save(made)


def test_touches_write_at_most_every_so_often(store, clock):
    made, position = store.create(), store.position
    for _ in range(95):
        assert store.touch(made.id)
        clock.advance(1)
    assert store.position - position == 9
    fast = store.create(idle=8)  # half of a shorter idle time
    position = store.position
    for _ in range(40):
        assert store.touch(fast.id)
        clock.advance(1)
    assert store.position - position == 9


def test_idle_and_lifetime_may_be_chosen_for_one(store, clock):
    never_idle, never_old = store.create(idle=None), store.create(lifetime=None)
    assert never_old.ends_at is None and never_idle.expires_at == never_idle.ends_at
    for _ in range(30):
        clock.advance(50)
        store.touch(never_old.id)
    assert store.load(never_old.id) and not store.load(never_idle.id)
    with pytest.raises(UsageError, match="for ever"):
        store.create(idle=None, lifetime=None)


def test_clocks_that_jump_revive_nothing(store, opened, clock):
    made = store.create()
    clock.advance(101)
    assert store.load(made.id) is None
    newer = store.create()  # the log knows the time now
    clock.jump(-5000)
    assert store.load(made.id) is None
    assert store.load(newer.id).expires_at == newer.expires_at  # not earlier either
    assert opened().load(made.id) is None
    again = store.create()
    assert again.created_at >= newer.created_at
    store.checkpoint()
    store.close()
    store = opened()
    assert store.load(made.id) is None and store.load(newer.id) and store.load(again.id)
    clock.jump(10 * 365 * DAY)
    assert len(store) == 0
    store.check()


@pytest.mark.parametrize("end", ["delete", "logout_everywhere"])
def test_every_record_tells_the_time(store, clock, end):
    made, other = store.create(user="ada"), store.create(user="alan")
    clock.advance(90)
    assert getattr(store, end)(other if end == "delete" else "alan")
    clock.jump(-5000)
    assert store.create().created_at == pytest.approx(made.created_at + 90, rel=0, abs=0.001)


def test_time_survives_in_an_empty_snapshot(store, opened, clock):
    made = store.create()
    clock.advance(5000)
    assert store.purge() == 1
    store.checkpoint()
    store.close()
    clock.jump(-5000)
    store = opened()
    assert store.load(made.id) is None
    assert store.create().created_at == pytest.approx(clock() / 1e9 + 5000, rel=0, abs=0.001)


def test_what_is_over_leaves_memory_and_disk(store, other, files, clock):
    for n in range(300):
        store.create({"secret": f"word-{n}-"}, user=f"user-{n % 7}")
    clock.advance(2000)
    kept = store.create("kept")
    assert len(store) == 1
    assert store.purge() > 0
    for handle in (store, other):
        handle.load(kept.id)
    assert store.stats()["sessions"] == 1
    other._drop_what_is_over()
    assert other.stats()["sessions"] == 1
    for _ in range(
        2
    ):  # a checkpoint keeps the snapshot before it, and the segment that is not full
        for _ in range(40):
            store.create("later")
        store.checkpoint()
    assert b"word-" not in log_of(files) and b"kept" in log_of(files)
    assert store.load(kept.id)
    store.check()
    assert store.purge() == 0


def test_clean_up_spares_what_was_touched(store, other, clock):
    made = store.create("used")
    for _ in range(6):
        clock.advance(60)
        assert store.touch(made.id)
        store.create("idle")
        store.purge()
        other._sweep()
        assert store.load(made.id) and other.load(made.id)
    store.check()


def test_new_sessions_drop_old_ones_without_a_thread(store, clock):
    """Memory follows the traffic, whatever was touched, rotated and deleted meanwhile."""
    most = 0
    for n in range(3000):
        made = store.create(n)
        clock.advance(1)
        if n % 3 == 0:
            store.delete(made.id)
        elif n % 3 == 1:
            store.rotate(made.id, grace=3)
        else:
            clock.advance(10)
            store.touch(made.id)
        state = store._fold.current
        most = max(most, len(state.sessions))
        assert len(state._due) <= 2 * len(state.sessions) + 1030
    assert most < 150
    store.check()


def test_logins_and_logouts_without_end_need_no_memory(store):
    """Also where time stands still, so that nothing is ever due."""
    for _ in range(3000):
        store.delete(store.create())
    assert len(store._fold.current._due) < 1100
    store.check()


def test_the_background_drops_what_is_over(files, clock):
    with SessionStore(
        "/s", files=files, clock=clock, **{**SMALL, **TERMS, "sweep_seconds": 0.01}
    ) as store:
        for n in range(1000):
            store.create(n)
        clock.advance(200)
        until = time.monotonic() + 10
        while store.stats()["sessions"]:
            assert time.monotonic() < until
            time.sleep(0.005)
        position = store.position
        time.sleep(0.05)
        assert store.position == position  # it writes only when somebody is over
        assert store.stats()["trouble"] == []
        store.check()


def test_the_thread_keeps_no_store_alive_and_ends_with_it(files):
    options = {**SMALL, "files": files, "sweep_seconds": 0.01}
    store = SessionStore("/s", **options)
    store.create()
    loop = store._sweeping._loop
    store.close()
    assert loop.ended
    with Database("/db", files=files, **SMALL) as db:
        hosted = db.sessions("web", sweep_seconds=0.01)
        hosted.create()
        loop = hosted._sweeping._loop
        hosted.close()  # does nothing: it is a part
        hosted.create()
        assert not loop.ended
        # Each of these has terms, and a thread, of its own.
        loops = [db.sessions("web", idle=5 + n)._sweeping._loop for n in range(5)]
        gc.collect()
        assert [each.ended for each in loops] == [True] * 4 + [False]
    until = time.monotonic() + 5
    while not loop.ended:
        assert time.monotonic() < until
        time.sleep(0.005)


# --- Rotation ---


def test_rotation_kills_the_old_id(store, other, clock):
    made = store.create({"cart": [1]})
    clock.advance(30)
    newer = store.rotate(made.id, user="ada")
    assert newer.id != made.id and newer.data == {"cart": [1]} and newer.user == "ada"
    assert newer.version == 2 and newer.created_at == made.created_at + 30
    assert newer.ends_at == newer.created_at + 1000  # a login: the lifetime begins anew
    assert other.load(made.id) is None and other.load(newer.id) == newer
    for call in (
        lambda: store.save(made),
        lambda: store.rotate(made),
        lambda: other.rotate(made.id),
    ):
        with pytest.raises(SessionGoneError):
            call()
    clock.advance(30)
    third = store.rotate(newer.id, data={"cart": []})
    assert (third.user, third.created_at, third.ends_at) == ("ada", newer.created_at, newer.ends_at)
    assert third.data == {"cart": []} and store.load(third.id) == third
    assert store.rotate(third, user=None).user is None
    assert len(store) == 1
    store.check()


def test_with_grace_the_old_id_shows_what_was_and_no_more(store, other, clock):
    made = store.create({"n": 1})
    newer = store.rotate(made.id, user="ada", data={"n": 2}, grace=5)
    assert newer.data == {"n": 2}
    seen = other.load(made.id)
    assert seen.user is None and seen.data == {"n": 1}  # nobody's login is given away
    assert seen.expires_at == made.created_at + 5
    assert other.touch(made.id) is True
    for call in (lambda: store.save(made.id, 1), lambda: store.rotate(made.id)):
        with pytest.raises(SessionGoneError):
            call()
    assert len(store) == 1 == len(list(store)) == len(store.sessions("ada"))
    clock.advance(5)
    assert store.load(made.id) is None and store.load(newer.id)
    store.check()


@pytest.mark.parametrize("end", ["delete", "delete by the old id", "rotate", "everywhere", "idle"])
def test_the_old_id_never_outlives_the_new_one(store, other, clock, end):
    made = store.create(user="ada")
    newer = store.rotate(made.id, grace=500)
    newest = store.rotate(newer.id, grace=500)
    assert store.load(made.id) and store.load(newer.id)
    if end == "delete":
        assert store.delete(newest.id)
    elif end == "delete by the old id":
        assert store.delete(made.id)
    elif end == "rotate":
        assert store.rotate(newest.id)
    elif end == "everywhere":
        assert store.logout_everywhere("ada") == 1
    else:
        clock.advance(101)
    for handle in (store, other):
        assert not any(handle.load(each.id) for each in (made, newer, newest))
    store.checkpoint()
    store.check()


def test_no_chain_of_heirs_is_endless(store):
    ids = [store.create().id]
    for _ in range(200):
        ids.append(store.rotate(ids[-1], grace=500).id)
    assert store.load(ids[-1]) and store.load(ids[-30]) and not store.load(ids[0])
    store.checkpoint()
    store.check()


# --- Users ---


def test_a_users_sessions_and_logout_everywhere(store, other, clock):
    mine = []
    for n in range(5):
        mine.append(store.create(n, user="ada"))
        clock.advance(1)
    theirs, nobodys = store.create(user="alan"), store.create()
    assert [each.data for each in other.sessions("ada")] == [0, 1, 2, 3, 4]
    assert store.count("ada") == 5 and store.count() == len(store) == 7
    position = store.position
    assert other.logout_everywhere("ada", but=mine[2].id) == 4
    assert store.position == position + 1  # one record
    assert [each.data for each in store.sessions("ada")] == [2]
    assert store.logout_everywhere("ada", but=mine[2]) == 0
    assert store.logout_everywhere("ada", but="nonsense", durable=True) == 1
    assert store.sessions("ada") == [] and store.logout_everywhere("ada") == 0
    assert store.load(theirs.id) and store.load(nobodys.id)
    assert {each.user for each in store} == {"alan", None}
    assert store.logout_everywhere("nobody knows") == 0
    store.check()


def test_logout_keeps_the_one_that_was_rotated(store):
    made = store.create(user="ada")
    newer = store.rotate(made.id, grace=50)
    assert store.logout_everywhere("ada", but=made.id) == 0
    assert store.load(newer.id) and not store.load(made.id)


@pytest.mark.parametrize("user", ["", "x" * 1025, "\ud800", 7, b"ada", [], True])
def test_names_that_are_none(store, user):
    position = store.position
    for call in (
        lambda: store.create(user=user),
        lambda: store.sessions(user),
        lambda: store.logout_everywhere(user),
        lambda: store.rotate("x" * 43, user=user),
    ):
        with pytest.raises(UsageError, match="user"):
            call()
    assert store.position == position
    with pytest.raises(UsageError, match="a user is needed"):
        store.sessions(None)


# --- Opening, the past, other stores ---


def test_everything_comes_back(store, opened, clock):
    kept = [store.create({"n": n}, user=f"u{n % 3}") for n in range(60)]
    store.checkpoint()
    kept[0] = store.save(kept[0], "saved")
    kept[1] = store.rotate(kept[1])
    kept.append(store.create(b"new"))
    store.delete(kept.pop(2))
    clock.advance(20)
    store.touch(kept[4])
    before = sorted(store)
    store.check()
    store.close()
    store = opened()
    assert sorted(store) == before
    assert store.load(kept[0].id).data == "saved" and store.load(kept[1].id).data == {"n": 1}
    store.check()


def test_the_past(store, clock):
    made = store.create("first", user="ada")
    position = store.position
    clock.advance(5)
    store.save(made.id, "second")
    clock.advance(5)
    store.delete(made.id)
    then = store.at(position=position)
    assert then.load(made.id).data == "first" and then.position == position
    assert [each.data for each in then.sessions("ada")] == ["first"] and len(then) == 1
    assert store.at(time=made.created_at + 6).load(made.id).data == "second"
    assert store.load(made.id) is None and store
    with pytest.raises(NotThereError):
        store.at(position=99)


def test_read_only_and_closed(store, opened):
    made = store.create()
    reader = opened(read_only=True)
    assert reader.load(made.id) == made and reader.touch(made.id)
    for call in (
        reader.create,
        lambda: reader.save(made),
        lambda: reader.delete(made.id),
        lambda: reader.rotate(made.id),
    ):
        with pytest.raises(ReadOnlyError):
            call()
    store.close()
    store.close()
    assert store.closed and "closed" in repr(store)
    for call in (store.create, lambda: store.load(made.id), lambda: store.delete(made.id)):
        with pytest.raises(ClosedError):
            call()


def test_in_a_transaction_beside_a_key_value_store(files, clock):
    with Database("/db", files=files, clock=clock, **SMALL) as db:
        web, users = db.sessions("web", idle=100, sweep_seconds=None), db.kv("users")
        old = [web.create(n, user="ada") for n in range(3)]
        with db.transaction():
            users[b"ada"] = b"new password"
            mine = web.create("mine", user="ada")
            assert web.logout_everywhere("ada", but=mine) == 3
            assert web.load(mine.id).data == "mine" and web.load(old[0].id) is None
            mine = web.rotate(mine)
            assert [each.key for each in web.sessions("ada")] == [mine.key]
        assert [each.key for each in web.sessions("ada")] == [mine.key]
        with pytest.raises(ZeroDivisionError), db.transaction():
            web.logout_everywhere("ada")
            users[b"ada"] = b"x"
            assert web.count("ada") == 0
            raise ZeroDivisionError
        assert web.load(mine.id).user == "ada" and users[b"ada"] == b"new password"
        clock.advance(101)
        with db.transaction():
            assert web.purge() == 1
            lost = web.create()
        web._sweep()
        assert web.stats()["sessions"] == 1 and web.load(lost.id)
        db.checkpoint()
        db.check()
    with Database("/db", files=files, clock=clock, **SMALL) as db:
        assert db.stores() == {"web": "sessions", "users": "key-value"}
        assert db.sessions("web").load(lost.id)
        another = Database("/db", files=files, clock=clock, **SMALL)
        with another, pytest.raises(CommitConflictError), db.transaction():
            dead = db.sessions("web").create()
            another.kv("users")[b"x"] = b"y"
        assert db.sessions("web").load(dead.id) is None
        db.check()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_goes_on(tmp_path):
    with SessionStore(tmp_path / "s", sweep_seconds=0.01) as store:
        made = store.create({"n": 0})
        pid = os.fork()
        if pid == 0:
            try:
                store.update(made.id, lambda data: {"n": 1})
                os._exit(0 if store._sweeping._thread._started else 1)
            finally:
                os._exit(2)
        assert os.waitpid(pid, 0)[1] == 0
        assert store.load(made.id).data == {"n": 1}


def test_the_default_policy_does_not_wait_for_the_disk(tmp_path):
    with SessionStore(tmp_path / "s") as store:
        assert not store._fold.always
        made, until = store.create(), time.monotonic() + 10
        while store._fold.wal.durable_position < store.position:  # by itself
            assert time.monotonic() < until
            time.sleep(0.002)
        store.delete(made.id, durable=True)
        assert store._fold.wal.durable_position == store.position


# --- Bad input, bad bytes ---


@pytest.mark.parametrize(
    "options",
    [
        *({name: value} for name in ("idle", "lifetime", "touch_seconds", "sweep_seconds")
          for value in (-1, float("nan"), float("inf"), 1e300, "1", True)),
        {"idle": 0}, {"lifetime": 0}, {"idle": None, "lifetime": None}, {"touch_seconds": None},
        {"session_bytes_max": 0}, {"session_bytes_max": 1.5}, {"session_bytes_max": 1 << 40},
        {"codec": len}, {"retention_bytes_max": 1}, {"checkpoint_seconds": -1},
    ],
    ids=str,
)  # fmt: skip
def test_options_that_cannot_be(files, options):
    with pytest.raises(UsageError):
        SessionStore("/s", files=files, **options)


def test_arguments_that_cannot_be(store):
    made, position = store.create(), store.position
    for bad in (-1, float("nan"), float("inf"), "1", True, 1e300):
        for name in ("idle", "lifetime"):
            with pytest.raises(UsageError, match=name):
                store.create(**{name: bad})
        with pytest.raises(UsageError, match="grace"):
            store.rotate(made.id, grace=bad)
    for bad in (True, "1", 1.0):
        with pytest.raises(UsageError, match="version"):
            store.save(made.id, 1, version=bad)
    assert store.position == position and store.load(made.id) == made


NOW = 1_700_000_000 * 10**9
OTHER = b"o" * 32


def bad_records():
    d, new = b"d" * 32, b"n" * 32
    create = rec.CREATE.pack(b"c", d, NOW, 10**11, NOW + 10**12)
    yield "short", [(b"c", b"cnull")]
    yield "no text", [(create + b"\xff", b"cnull")]
    yield "long user", [(create + b"x" * 1025, b"cnull")]
    yield "no data", [(create, b"")]
    yield "unknown data", [(create, b"znull")]
    yield "negative time", [(rec.CREATE.pack(b"c", d, -1, 0, NOW), b"cnull")]
    yield "late time", [(rec.TIME.pack(b"n", (1 << 62) + 1), b"")]
    yield "twice", [(create, b"cnull"), (create, b"cnull")]
    yield "saves none", [(rec.SAVE.pack(b"s", OTHER, NOW), b"cnull")]
    yield "touches none", [(rec.TOUCH.pack(b"t", OTHER, NOW), b"")]
    yield "deletes none", [(rec.DELETE.pack(b"d", OTHER), b"")]
    yield "rotates none", [(rec.ROTATE.pack(b"r", OTHER, new, NOW, 0, 0), b"")]
    yield "rotates to itself", [(create, b"cnull"), (rec.ROTATE.pack(b"r", d, d, NOW, 0, 0), b"")]
    twice = rec.ROTATE.pack(b"r", d, new, NOW, NOW + 10**10, 0)
    yield "rotates twice", [(create, b"cnull"), (twice, b""), (twice, b"")]
    yield "trailing", [(rec.DELETE.pack(b"d", OTHER) + b"x", b"")]


@pytest.mark.parametrize(
    ("name", "records"), list(bad_records()), ids=lambda each: each if isinstance(each, str) else ""
)
def test_records_that_no_store_writes_are_damage(files, clock, name, records):
    options = {**SMALL, "files": files, "clock": clock}
    SessionStore("/s", **options).close()
    with Wal.open("/s", files=files, fsync_policy=FsyncPolicy.OS) as wal:
        wal.append_batch([Record(*each, timestamp_ns=NOW) for each in records])
    with pytest.raises(DamageError) as caught:
        SessionStore("/s", **options)
    assert caught.value.position == len(records) - 1


def test_records_of_a_newer_version_are_refused(files):
    SessionStore("/s", files=files, **SMALL).close()
    with Wal.open("/s", files=files, fsync_policy=FsyncPolicy.OS) as wal:
        wal.put(b"z" + b"d" * 32, b"")
    with pytest.raises(VersionError, match="newer"):
        SessionStore("/s", files=files, **SMALL)


@pytest.mark.parametrize(
    "packed",
    [
        b"",
        b"x" * 10,
        rec.HEAD.pack(0, 0, 0, 0, 1, 60000, 0) + b"cnull",
        rec.HEAD.pack(0, 0, 0, 0, 1, 0, 7) + b"cnull",
        rec.HEAD.pack(0, 0, 0, -1, 1, 0, 0) + b"cnull",
        rec.HEAD.pack(0, 1 << 62, 1 + (1 << 62), 1, 1, 0, 0) + b"cnull",
        rec.HEAD.pack(0, 0, 0, 1, 1, 1, 0) + b"\xffcnull",
        rec.HEAD.pack(0, 0, 0, 1, 1, 0, 1) + b"cnull",
        rec.HEAD.pack(0, 0, 0, 1, 1, 0, 0),
        rec.HEAD.pack(0, 0, 0, 1, (1 << 64) - 1, 0, 0) + b"cnull",
    ],
)
def test_a_snapshot_with_other_bytes_is_damage(files, packed):
    SessionStore("/s", files=files, **SMALL).close()
    with Wal.open("/s", files=files, fsync_policy=FsyncPolicy.OS) as wal:
        wal.put(rec.TIME.pack(b"n", 1), b"")
        wal.sync()
        wal.snapshots.write(1, b"treering sessions 1", [Record(b"d" * 32, packed)])
        wal.truncate_before(1)
    with pytest.raises(DamageError, match="no records like"):
        SessionStore("/s", files=files, **SMALL)


def test_a_circle_of_heirs_ends(store):
    """No store writes one; hostile bytes may."""
    state = store._fold.current
    entry = rec.Entry(1, 1, 0, rec.NS_MAX, 1, b"", b"", b"cnull")
    one, two = b"1" * 32, b"2" * 32
    state.sessions[one] = entry._replace(heir=two).packed()
    state.sessions[two] = entry._replace(heir=one).packed()
    assert state.find(one, 2) is None and state.resolved(two, 2) is None
    state.sessions.clear()


def test_data_that_the_codec_cannot_read(store, opened):
    class Hex:
        def encode(self, data):
            return json.dumps(data).encode().hex().encode()

        def decode(self, raw):
            return json.loads(bytes.fromhex(raw.decode()))

    made = opened(codec=Hex()).create({"a": 1})
    with pytest.raises(DamageError, match="codec"):
        store.load(made.id)
    assert made.id in store and store.delete(made.id)


def test_check_finds_a_state_that_is_wrong(store):
    store.create(user="ada")
    store.sessions("ada")
    store._fold.current._users.clear()
    with pytest.raises(DamageError, match="lacks a session"):
        store.check_state()
