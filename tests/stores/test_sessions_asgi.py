"""The ASGI middleware, driven by hand: what goes into the cookie, and what comes of it."""

from __future__ import annotations

import asyncio

import pytest

from tests.stores._opening import SMALL
from treering import FsyncPolicy, UsageError
from treering.integrations.asgi import SessionMiddleware, Visit
from treering.stores.sessions import SessionStore
from treering.testing import FakeClock


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def store(files, clock):
    with SessionStore("/s", files=files, clock=clock, sweep_seconds=None, **SMALL) as store:
        yield store


class Browser:
    """A visitor with a cookie jar; `act(visit)` is what the application does."""

    def __init__(self, store, **options):
        self.cookies, self.set, self.headers = {}, None, {}
        self.options, self.store = options, store

    def go(self, act=lambda visit: None, late=lambda visit: None, kind="http"):
        async def app(scope, receive, send):
            visit = scope["session"]
            self.result = act(visit)
            start = "http.response.start" if kind == "http" else "websocket.accept"
            await send({"type": start, "status": 200, "headers": [(b"x-mine", b"1")]})
            late(visit)
            await send({"type": "http.response.body", "body": b""})

        async def send(message):
            sent.append(message)

        sent = []
        jar = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        scope = {"type": kind, "headers": [(b"cookie", b"a=b"), (b"Cookie", jar.encode("latin-1"))]}
        asyncio.run(SessionMiddleware(app, self.store, **self.options)(scope, None, send))
        self.headers = dict(sent[0]["headers"])
        assert self.headers[b"x-mine"] == b"1"
        self.set = self.headers.get(b"set-cookie", b"").decode()
        if self.set:
            name, _, value = self.set.partition(";")[0].partition("=")
            self.cookies[name] = value
            if "Max-Age=0" in self.set:
                del self.cookies[name]
        return self.result

    @property
    def id(self):
        return self.cookies.get("__Host-session")


@pytest.fixture
def browser(store):
    return Browser(store)


def put(**data):
    return lambda visit: visit.update(data)


def test_a_visitor_gets_a_cookie_when_there_is_something_to_keep(store, browser):
    browser.go()
    assert browser.set == "" and len(store) == 0 and b"vary" not in browser.headers
    assert browser.go(dict) == {} and browser.set == "" and browser.headers[b"vary"] == b"Cookie"
    browser.go(put(cart=[1]))
    assert browser.set == f"__Host-session={browser.id}; Path=/; HttpOnly; SameSite=Lax; Secure"
    assert store.load(browser.id).data == {"cart": [1]}
    position = store.position
    assert browser.go(dict) == {"cart": [1]}
    assert browser.set == "" and store.position == position
    browser.go(lambda visit: visit["cart"].append(2))  # deep inside
    assert store.load(browser.id).data == {"cart": [1, 2]}
    browser.go(lambda visit: visit.pop("cart"))
    assert store.load(browser.id).data == {} and len(store) == 1


def test_login_gives_a_new_id_and_kills_the_old_one(store, browser):
    browser.go(put(cart=[1]))
    planted = browser.id

    def login(visit):
        visit["seen"] = True
        visit.login("ada", durable=True)
        return visit.user

    assert browser.go(login) == "ada"
    assert browser.id != planted and planted not in store
    assert store.load(browser.id).data == {"cart": [1], "seen": True}
    assert browser.go(lambda visit: visit.user) == "ada"
    stranger = Browser(store)
    stranger.cookies = {"__Host-session": planted}
    assert stranger.go(lambda visit: (visit.user, dict(visit))) == (None, {})
    assert stranger.set == ""


def test_a_request_under_way_during_a_login_takes_no_cookie_away(store, browser):
    browser.go(put(cart=[1]))
    planted = browser.id

    def slow(visit):
        assert visit["cart"] == [1]
        newer.append(store.rotate(planted, user="ada"))  # another request's login
        visit["x"] = 1

    newer = []
    browser.go(slow)
    assert browser.set == "" and store.load(newer[0].id).data == {"cart": [1]}
    browser.go(dict)
    assert browser.set == ""
    browser.go(lambda visit: visit.logout())
    assert "Max-Age=0" in browser.set


def test_an_id_from_outside_is_never_taken_over(store, browser):
    browser.cookies = {"__Host-session": "A" * 43}
    browser.go(put(x=1))
    assert browser.id != "A" * 43 and "A" * 43 not in store
    other = Browser(store)
    other.go(lambda visit: visit.login("ada"))
    assert store.load(other.id).user == "ada"


@pytest.mark.parametrize("text", ["", "\xff" * 43, "=;=", '"' * 43, "x" * 100_000])
def test_hostile_cookies(store, browser, text):
    browser.cookies = {"__Host-session": text}
    assert browser.go(lambda visit: (dict(visit), visit.user)) == ({}, None)


def test_logout_ends_the_session_and_the_cookie(store, browser):
    browser.go(lambda visit: visit.login("ada"))
    old = browser.id
    browser.go(lambda visit: visit.logout(durable=True))
    assert browser.set == "__Host-session=; Max-Age=0; Path=/; HttpOnly; SameSite=Lax; Secure"
    assert browser.id is None and old not in store
    browser.go(lambda visit: visit.logout())
    assert browser.set == ""


def test_requests_at_the_same_time_do_not_undo_each_other(store, browser):
    browser.go(put(a=1, b=1, c=1))

    def while_another_saves(visit):
        visit["a"] = 2
        del visit["c"]
        store.update(browser.id, lambda data: {**data, "b": 2, "d": 2})

    browser.go(while_another_saves)
    assert store.load(browser.id).data == {"a": 2, "b": 2, "d": 2}


def test_a_logout_meanwhile_stays_a_logout(store, browser):
    browser.go(lambda visit: visit.login("ada"))

    def slow(visit):
        visit["x"] = 1
        store.logout_everywhere("ada")

    browser.go(slow)
    assert len(store) == 0 and browser.go(lambda visit: visit.user) is None


def test_requests_keep_the_session_alive(store, browser, clock):
    browser.go(put(x=1))
    for _ in range(10):
        clock.advance(3600)
        assert browser.go(dict) == {"x": 1}
    clock.advance(2 * 3600)
    assert browser.go(dict) == {}


def test_what_comes_after_the_response_began(store, browser):
    with pytest.raises(UsageError, match="has begun"):
        browser.go(late=put(x=1))
    with pytest.raises(UsageError, match="has begun"):
        browser.go(late=lambda visit: visit.login("ada"))
    browser.go(put(x=1))
    browser.go(dict, late=put(y=2))
    assert store.load(browser.id).data == {"x": 1, "y": 2}


def test_websockets_and_other_scopes(store, browser):
    browser.go(put(x=1), kind="websocket")
    assert browser.go(dict, kind="websocket") == {"x": 1}
    seen = []

    async def app(scope, receive, send):
        seen.append(dict(scope))

    asyncio.run(SessionMiddleware(app, store)({"type": "lifespan"}, None, None))
    assert seen == [{"type": "lifespan"}]


def test_data_of_another_kind_is_refused(store, browser):
    browser.cookies = {"__Host-session": store.create([1]).id}
    with pytest.raises(UsageError, match="no dict"):
        browser.go(dict)
    with pytest.raises(UsageError, match="key is text"):
        Visit(store, None)[1] = 2
    assert "ada" not in repr(Visit(store, "ada"))


@pytest.mark.parametrize(
    "options",
    [
        {"cookie": ""}, {"cookie": "a b"}, {"cookie": "a;b"}, {"cookie": None}, {"samesite": "maybe"},
        {"samesite": None}, {"secure": False}, {"max_age_seconds": 0}, {"max_age_seconds": 1.5},
        {"cookie": "s", "secure": False, "samesite": "none"}, {"cookie": "x\r\nset-cookie: y"},
    ],
    ids=str,
)  # fmt: skip
def test_settings_that_cannot_be(store, options):
    with pytest.raises(UsageError):
        SessionMiddleware(None, store, **options)


def test_other_settings(store):
    browser = Browser(store, cookie="s", secure=False, samesite="strict", max_age_seconds=60)
    browser.go(put(x=1))
    assert browser.set.endswith("; Max-Age=60; Path=/; HttpOnly; SameSite=Strict")


def test_on_a_disk(tmp_path):
    with SessionStore(tmp_path / "s", fsync_policy=FsyncPolicy.OS) as store:
        browser = Browser(store)
        browser.go(lambda visit: visit.login("ada"))
    with SessionStore(tmp_path / "s") as store:
        browser.store = store
        assert browser.go(lambda visit: visit.user) == "ada"
