"""What a hostile review of the session store and its middleware found."""

from __future__ import annotations

import asyncio
import gc

import pytest

from tests.stores._opening import SMALL, opener
from tests.stores.test_sessions_asgi import Browser, put
from treering import (
    DamageError,
    Database,
    DiskFullError,
    FsyncPolicy,
    ReadOnlyError,
    Record,
    UsageError,
    VersionError,
    Wal,
)
from treering.integrations.asgi import SessionMiddleware
from treering.integrations.msgspec import MsgspecCodec
from treering.stores.sessions import SessionGoneError, SessionStore
from treering.stores.sessions import records as rec
from treering.testing import FakeClock

TERMS = {"idle": 100, "lifetime": 1000, "touch_seconds": 10, "sweep_seconds": None}
NOW = 1_700_000_000 * 10**9


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def opened(files, clock):
    with opener(SessionStore, "/sessions", files=files, clock=clock, **TERMS) as open_store:
        yield open_store


@pytest.fixture
def browser(store):
    return Browser(store)


# --- Ends that have to be ends ---


@pytest.mark.parametrize("end", ["delete", "logout_everywhere"])
def test_a_logout_while_the_clock_runs_ahead_holds_when_it_is_put_right(store, other, clock, end):
    """The session is over by the clock, but the log does not know that."""
    made = store.create(user="ada")
    clock.jump(5000)
    assert store.delete(made) is False if end == "delete" else not store.logout_everywhere("ada")
    clock.jump(-5000)
    assert store.load(made.id) is None and other.load(made.id) is None
    store.check()


def test_a_dead_id_ends_nothing_but_itself(store, clock):
    """Its grace is over by the clock, and the session has another id."""
    made = store.create(user="ada")
    newer = store.rotate(made.id, grace=5)
    clock.advance(6)
    assert store.delete(made.id) is False and store.load(newer.id)
    clock.jump(-5)
    assert store.load(made.id) is None and store.load(newer.id)
    store.check()


@pytest.mark.parametrize("end", ["delete", "logout_everywhere"])
@pytest.mark.parametrize("hosted", [False, True])
def test_a_durable_logout_is_one_also_if_somebody_else_was_first(files, clock, end, hosted):
    options = {**SMALL, "files": files, "clock": clock}
    with Database("/db", **options) if hosted else SessionStore("/s", **options) as host:
        store = host.sessions("web") if hosted else host
        made = store.create(user="ada", durable=True)
        assert store.delete(made)  # another request's, not yet durable
        if end == "delete":
            assert store.delete(made, durable=True) is False
        else:
            assert store.logout_everywhere("ada", durable=True) == 0
        assert store._fold.wal.durable_position == host.position


def test_where_there_is_nothing_to_end_only_who_cannot_wait_for_the_disk_is_told(store, opened):
    assert store.delete("x" * 43, durable=True) is False
    assert store.logout_everywhere("ada", durable=True) == 0
    store.create()
    reader = opened(read_only=True)
    assert reader.delete("x" * 43) is False
    with pytest.raises(ReadOnlyError):
        reader.delete("x" * 43, durable=True)


# --- Rotation ---


def test_an_id_that_was_rotated_away_does_not_count_as_a_session(store, clock):
    newer = store.rotate(store.create(), grace=5)
    clock.advance(6)
    assert store.purge() == 0 and store.stats()["sessions"] == 1
    clock.advance(100)
    assert store.purge() == 1 and store.load(newer.id) is None


def test_a_query_during_a_rotation_with_grace_finds_the_old_id(store):
    """Queries hold no lock: each step of taking in the rotation may be seen."""
    made = store.create({"n": 1}, user="ada")
    store.sessions("ada")
    state, now_ns = store._fold.current, store._fold.current.now_ns()
    digest = bytes.fromhex(made.key)
    seen = []

    class Watched(dict):
        def __setitem__(self, key, value):
            super().__setitem__(key, value)
            seen.append(state.find(digest, now_ns))

        def pop(self, *args):
            found = super().pop(*args)
            seen.append(state.find(digest, now_ns))
            return found

    state.sessions = Watched(state.sessions)
    newer = store.rotate(made.id, user="alan", grace=5)
    assert seen and None not in seen
    assert store.load(made.id).user == "ada" and store.load(newer.id).user == "alan"
    assert [each.key for each in store.sessions("alan")] == [newer.key]
    assert store.sessions("ada") == []
    store.check()


# --- Hostile bytes ---


def test_a_session_that_ends_before_it_began_is_no_crash(files, clock):
    options = {**SMALL, "files": files, "clock": clock}
    SessionStore("/s", **options).close()
    digest, new = b"d" * 32, b"n" * 32
    create = rec.CREATE.pack(b"c", digest, NOW, 0, 5)
    rotate = rec.ROTATE.pack(b"r", digest, new, 6, 0, rec.NEW_USER) + b"ada"
    with Wal.open("/s", files=files, fsync_policy=FsyncPolicy.OS) as wal:
        wal.append_batch([Record(each, b"cnull", timestamp_ns=6) for each in (create, rotate)])
    with SessionStore("/s", **options) as store:
        assert len(store) == 0
        store.checkpoint()
        store.check()


def test_unknown_flags_of_a_rotation_are_refused(files, clock):
    options = {**SMALL, "files": files, "clock": clock}
    SessionStore("/s", **options).close()
    create = rec.CREATE.pack(b"c", b"d" * 32, NOW, 0, NOW + 10**12)
    rotate = rec.ROTATE.pack(b"r", b"d" * 32, b"n" * 32, NOW, 0, 4)
    with Wal.open("/s", files=files, fsync_policy=FsyncPolicy.OS) as wal:
        wal.append_batch([Record(create, b"cnull", timestamp_ns=NOW), Record(rotate, b"")])
    with pytest.raises(VersionError, match="newer"):
        SessionStore("/s", **options)


@pytest.mark.parametrize("codec", [None, MsgspecCodec()], ids=["json", "msgspec"])
def test_numbers_too_large_and_data_too_deep_are_usage_errors(opened, codec):
    store, deep = opened(codec=codec), []
    made, position = store.create(), store.position
    for _ in range(100_000):
        deep = [deep]
    for data in (10**5000, deep, {"x": deep}, {"\ud800": 1}):
        with pytest.raises(UsageError, match="cannot be written"):
            store.save(made.id, data)
    assert store.position == position


# --- The middleware: cookies ---


@pytest.mark.parametrize("name", ["__host-s", "__SECURE-s"])
def test_prefixes_that_browsers_guard_in_any_case_of_letters(store, name):
    with pytest.raises(UsageError, match="browsers refuse"):
        SessionMiddleware(None, store, cookie=name, secure=False)


@pytest.mark.parametrize("blank", ["\x85", "\xa0", "\x0b", "\x0c", "\x1c", "\x1f"])
def test_a_name_that_only_looks_like_the_cookies_is_another_cookie(store, browser, blank):
    """Browsers guard the prefix `__Host-`, and let other hosts of the domain plant such a name: if
    it was trimmed as text is, they had a session planted."""
    planted = store.create({"planted": True}).id
    browser.cookies = {f"{blank}__Host-session": planted}
    assert browser.go(dict) == {}
    browser.go(put(x=1))
    browser.cookies = {f"{blank}__Host-session": planted, "__Host-session": browser.id}
    assert browser.go(dict) == {"x": 1}


def test_the_answer_that_denies_a_websocket_carries_the_cookie_too(store):
    async def app(scope, receive, send):
        scope["session"]["tries"] = 1
        await send({"type": "websocket.http.response.start", "status": 403, "headers": []})
        await send({"type": "websocket.http.response.body", "body": b""})

    async def send(message):
        sent.append(message)

    sent = []
    scope = {"type": "websocket", "headers": []}
    asyncio.run(SessionMiddleware(app, store)(scope, None, send))
    (session,) = store
    cookie = dict(sent[0]["headers"])[b"set-cookie"].decode()
    assert store.load(cookie.split("=")[1].split(";")[0]).key == session.key


# --- The middleware: one person's data is not another one's ---


def test_a_login_as_somebody_else_begins_with_nothing(store, browser):
    browser.go(put(cart=[1]))
    browser.go(lambda visit: visit.login("ada"))
    browser.go(put(address="1 Ada Street"))
    browser.go(lambda visit: visit.login("ada"))  # again: it is hers
    assert browser.go(dict) == {"cart": [1], "address": "1 Ada Street"}

    def login(visit):
        visit["note"] = "hers, too"
        visit.login("alan")
        return dict(visit)

    assert browser.go(login) == {}
    assert browser.go(lambda visit: (visit.user, dict(visit))) == ("alan", {})
    assert store.sessions("ada") == [] and len(store) == 1


@pytest.mark.parametrize("changed", [False, True])
def test_a_new_id_for_who_was_logged_out_meanwhile_is_no_login(store, browser, changed):
    """A slow request of a thief, say, for which rights change: `login` as who is logged in."""
    browser.go(lambda visit: visit.login("ada"))

    def act(visit):
        user = visit.user
        if changed:
            visit["x"] = 1
        store.logout_everywhere("ada")
        with pytest.raises(SessionGoneError):
            visit.login(user)
        return visit.user, dict(visit)

    assert browser.go(act) == (None, {})
    assert len(store) == 0 and browser.set == ""
    browser.go(lambda visit: visit.login("ada"))  # with a password, in a request of its own
    assert store.count("ada") == 1


@pytest.mark.parametrize("changed", [False, True])
def test_a_login_in_a_session_that_ended_meanwhile_begins_a_new_one(store, browser, changed):
    browser.go(put(cart=[1]))

    def act(visit):
        if changed:
            visit["x"] = 1
        store.delete(visit.id)
        visit.login("ada")
        return visit.user, dict(visit)

    assert browser.go(act) == ("ada", {})
    assert [each.data for each in store] == [{}] and store.load(browser.id).user == "ada"


# --- The middleware: what is put in is saved ---


@pytest.mark.parametrize(("before", "after"), [(1, True), (False, 0), (1, 1.0), ([0], [False])])
def test_equal_values_of_another_kind_are_a_change(store, browser, before, after):
    browser.go(put(x={"deep": before}))
    browser.go(lambda visit: visit["x"].update(deep=after))
    assert repr(store.load(browser.id).data) == repr({"x": {"deep": after}})


@pytest.mark.parametrize("middle", ["login", "save"])
def test_what_was_taken_out_before_a_login_can_be_changed_after_it(store, browser, middle):
    browser.go(put(cart=[1]))

    def act(visit):
        cart, new = visit["cart"], []
        visit["new"] = new
        visit.login("ada") if middle == "login" else visit.save()
        cart.append(2)
        new.append(3)

    browser.go(act)
    assert store.load(browser.id).data == {"cart": [1, 2], "new": [3]}


def test_data_as_deep_as_the_store_takes_can_be_loaded(store, browser):
    deep = []
    for _ in range(600):
        deep = [deep]
    browser.go(put(deep=deep))
    assert browser.go(lambda visit: visit["deep"]) == deep


# --- The middleware: trouble ---


def test_a_full_disk_logs_nobody_out(store, browser, clock, monkeypatch):
    """A request that changes nothing goes on, though it cannot be noted."""
    browser.go(put(x=1))

    def full(*args, **options):
        raise DiskFullError("no space left")

    clock.advance(60)
    monkeypatch.setattr(store._fold.wal, "append_batch", full)
    assert browser.go(dict) == {"x": 1} and browser.set == ""


def test_a_session_that_could_not_be_read_is_not_taken_for_none(store, browser, monkeypatch):
    """Else whoever shows the error, and puts something in, would give the visitor a new one."""
    browser.go(put(x=1))
    mine = browser.id

    def act(visit):
        with monkeypatch.context() as broken:

            def load(id):
                raise DamageError("not now")

            broken.setattr(store, "load", load)
            with pytest.raises(DamageError):
                assert visit.user
        visit["flash"] = "sorry"

    browser.go(act)
    assert browser.id == mine and store.load(mine).data == {"x": 1, "flash": "sorry"}


def test_a_session_of_another_kind_is_refused_each_time(store, browser):
    made = store.create([1])
    browser.cookies = {"__Host-session": made.id}

    def act(visit):
        for call in (lambda: visit.user, lambda: visit.update(x=1), lambda: visit.login("ada")):
            with pytest.raises(UsageError, match="no dict"):
                call()

    browser.go(act)
    assert browser.set == "" and store.load(made.id).data == [1] and len(store) == 1


def test_a_session_that_is_over_stays_over(store):
    made = store.create()
    store.delete(made)
    with pytest.raises(SessionGoneError):
        store.save(made, {})


def test_a_limit_that_was_lowered_hides_no_session(store, opened, browser):
    browser.go(put(x="y" * 5000))
    browser.store = opened(session_bytes_max=100)
    assert browser.go(dict) == {"x": "y" * 5000}
    browser.go(put(x=""))
    assert store.load(browser.id).data == {"x": ""}


def test_a_durable_logout_in_a_transaction(files, clock):
    with Database("/db", files=files, clock=clock, **SMALL) as db:
        web = db.sessions("web")
        made = web.create(user="ada")
        with db.transaction():
            assert web.delete(made)
            assert web.delete(made, durable=True) is False
        assert db._fold.wal.durable_position == db.position
        with db.transaction():
            assert web.logout_everywhere("ada", durable=True) == 0
        db.check()


# --- Threads ---


def test_a_closed_database_leaves_no_thread_behind(files):
    """Also of stores that were made anew for other terms, and that somebody still holds."""
    with Database("/db", files=files, **SMALL) as db:
        stores = [db.sessions("web", idle=5 + n) for n in range(3)]
        for store in stores:
            store.create()
    assert all(store._sweeping._thread._over.acquire(timeout=0) for store in stores)


@pytest.mark.parametrize("options", [{}, {"checkpoint_records": 1, "checkpoint_seconds": None}])
def test_a_forgotten_store_leaves_no_thread_behind(files, options):
    store = SessionStore("/s", files=files, **{**SMALL, **options})
    store.create()
    threads = [store._sweeping._thread, store._fold.pace._thread]
    assert all(each._started for each in threads)
    del store
    gc.collect()
    assert all(each._over.acquire(timeout=5) for each in threads)


def test_a_logout_by_a_clock_that_runs_ahead_holds_in_the_middleware(store, browser, clock):
    browser.go(lambda visit: visit.login("ada"))
    stolen = browser.id
    clock.jump(5000)
    browser.go(lambda visit: visit.logout())
    clock.jump(-5000)
    assert store.load(stolen) is None and len(store) == 0
