"""Sessions for any ASGI application (Starlette, FastAPI, Litestar, Quart …); needs no library.

    from treering.integrations.asgi import SessionMiddleware
    from treering.stores.sessions import SessionStore

    app = SessionMiddleware(app, SessionStore("sessions"))

In the application `scope["session"]` (Starlette's `request.session`) is a `Visit`: a dict that is
saved when the response begins, with `login`, `logout` and `user`. The cookie has the safe settings
by default. The store is called in the event loop: open it with BATCH (its default) or OS.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import suppress
from typing import Any

from treering import DiskFullError, UsageError
from treering.stores.sessions import Session, SessionGoneError, SessionStore

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")
_STARTS = ("http.response.start", "websocket.accept", "websocket.http.response.start")
_SITES = {"lax": "Lax", "strict": "Strict", "none": "None"}


class SessionMiddleware:
    """Puts a `Visit` into the scope of each request, and its cookie into the response.

    The cookie is `__Host-session`: sent over HTTPS alone, hidden from scripts, not sent along by
    other sites' forms (`samesite`), and not to be planted by other hosts of the domain. For plain
    HTTP on the own machine give `secure=False` and another `cookie` name. With `max_age_seconds`
    the browser keeps it when it is closed; the store decides in any case when a session is over.
    """

    def __init__(
        self,
        app: App,
        store: SessionStore,
        *,
        cookie: str = "__Host-session",
        secure: bool = True,
        samesite: str = "lax",
        max_age_seconds: int | None = None,
    ) -> None:
        if not isinstance(cookie, str) or not _TOKEN.fullmatch(cookie):
            raise UsageError(f"a cookie's name is a short word, not {cookie!r:.60}")
        site = _SITES.get(samesite.lower() if isinstance(samesite, str) else "")
        if site is None:
            raise UsageError(f"samesite is lax, strict or none, not {samesite!r:.60}")
        guarded = cookie.lower().startswith(("__host-", "__secure-"))  # so do browsers compare
        if not secure and (guarded or site == "None"):
            raise UsageError(
                f"browsers refuse the cookie {cookie!r} with SameSite={site} if it is not secure",
                hint='Give cookie="session", samesite="lax", and secure=False only on your machine',
            )
        age = max_age_seconds
        if age is not None and (type(age) is not int or not 0 < age < 1 << 31):
            raise UsageError(f"max_age_seconds is a whole number over 0, not {age!r:.40}")
        self.app, self.store = app, store
        self._name = cookie
        rest = f"; Path=/; HttpOnly; SameSite={site}" + ("; Secure" if secure else "")
        self._set = ("" if age is None else f"; Max-Age={age}") + rest
        self._clear = "; Max-Age=0" + rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        visit = Visit(self.store, _cookie(scope, self._name))
        scope["session"] = visit

        async def send_with_cookie(message: Message) -> None:
            if message["type"] in _STARTS and not visit.begun:
                headers = [*message.get("headers", ()), *self._headers(visit)]
                message = {**message, "headers": headers}
            await send(message)

        await self.app(scope, receive, send_with_cookie)
        return visit.save()  # what came after the response began

    def _headers(self, visit: Visit) -> Iterator[tuple[bytes, bytes]]:
        visit.save()
        visit.begun = True
        if visit.looked_at:
            yield b"vary", b"Cookie"
        if visit.looked_at and visit.id is not None and visit.id != visit.given:
            yield b"set-cookie", f"{self._name}={visit.id}{self._set}".encode()
        elif visit.left:
            yield b"set-cookie", f"{self._name}={self._clear}".encode()


class Visit(MutableMapping[str, Any]):
    """One request's view of the visitor's session: a dict of JSON values. A new visitor gets a
    session, and a cookie, when something is put in. For one task at a time.

    What was changed, also deep inside, is saved when the response begins; key by key, so that
    requests of one visitor at the same time do not undo each other. A session that ended meanwhile
    stays over.
    """

    def __init__(self, store: SessionStore, given: str | None) -> None:
        self._store, self.given = store, given
        self.looked_at = self.begun = self.left = False
        self._session: Session | None = None
        self._data: dict[str, Any] = {}
        self._before: dict[str, bytes] = {}

    def _look(self) -> dict[str, Any]:
        if not self.looked_at:
            session = self._store.load(self.given)
            if session is not None:
                self._take(session)
                with suppress(DiskFullError):  # it is there, though it may end too early
                    self._store.touch(session)
            self.looked_at = True  # what could not be read is not taken for no session
        return self._data

    def _take(self, session: Session) -> None:
        data = {} if session.data is None else session.data
        if not isinstance(data, dict):
            raise UsageError(
                f"the session's data is no dict but {type(data).__name__}",
                hint="Use the store itself for sessions of another kind",
            )
        ours, self._before = self._packed(self._data), self._packed(data)
        self._session = session
        self._data = {  # what the application has in hand stays what is saved
            key: self._data[key] if ours.get(key) == packed else data[key]
            for key, packed in self._before.items()
        }

    def _packed(self, data: dict[str, Any]) -> dict[str, bytes]:
        """Each value as it is kept: equal ones may differ there, 1 and True, say."""
        return {key: self._store._values.encoded(value) for key, value in data.items()}

    @property
    def id(self) -> str | None:
        """The session's id; None if there is none."""
        self._look()
        return None if self._session is None else self._session.id

    @property
    def user(self) -> str | None:
        """Who is logged in; None if nobody is."""
        self._look()
        return None if self._session is None else self._session.user

    def login(self, user: str, *, durable: bool | None = None) -> None:
        """This visitor is that user from now on, under a new id: the old one is over at once, and
        with it whatever somebody else knew of it. What is in the session stays, unless another user
        was logged in: that one's data goes. Raises as `SessionStore.rotate`: SessionGoneError if
        that user was logged in, and was logged out since the request began."""
        self._refuse_if_begun()
        before = self._session
        self.save()  # that may find it over
        session = self._session or before
        if session is None:
            self._take(self._store.create(self._data, user=user, durable=durable))
            return
        try:
            if session.user in (None, user):
                new = self._store.rotate(session, user=user, durable=durable)
            else:
                new = self._store.rotate(session.id or "", user=user, data={}, durable=durable)
        except SessionGoneError:  # over since the request began
            self._session, self._data, self._before = None, {}, {}
            if session.user == user:
                raise
            new = self._store.create({}, user=user, durable=durable)
        self._take(new)

    def logout(self, *, durable: bool | None = None) -> None:
        """End the session, and forget what is in it; the cookie goes with the response.

        A cookie that is worth nothing stays in all other cases: the answer to a request that was
        under way during a login must not take away the new one."""
        self._look()
        self.left = self.given is not None
        if self.left or self._session is not None:
            self._store.delete(self._session or self.given or "", durable=durable)
        self._session, self._data, self._before = None, {}, {}

    def save(self) -> None:
        """Save what was changed now. UsageError if that needs a cookie and the response has begun;
        errors as `SessionStore.save`."""
        if not self.looked_at or self._packed(self._data) == self._before:
            return
        if self._session is None:
            self._refuse_if_begun()
            self._take(self._store.create(self._data))
            return
        try:
            self._take(self._store.update(self._session, self._merged))
        except SessionGoneError:
            self._session, self._data, self._before = None, {}, {}

    def _merged(self, newest: Any) -> dict[str, Any]:
        merged, ours = dict(newest or {}), self._packed(self._data)
        for key in self._before.keys() - ours.keys():
            merged.pop(key, None)
        for key, packed in ours.items():
            if self._before.get(key) != packed:
                merged[key] = self._data[key]
        return merged

    def _refuse_if_begun(self) -> None:
        self._look()
        if self.begun:
            raise UsageError(
                "the response has begun, so no cookie can go with it",
                hint="Change the session before the first byte of the response",
            )

    def __getitem__(self, key: str) -> Any:
        return self._look()[key]

    def __setitem__(self, key: str, value: Any) -> None:
        if not isinstance(key, str):
            raise UsageError(f"a key is text, not {type(key).__name__}", hint="JSON knows no other")
        self._look()[key] = value

    def __delitem__(self, key: str) -> None:
        del self._look()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._look())

    def __len__(self) -> int:
        return len(self._look())

    def __repr__(self) -> str:
        return f"<treering.integrations.asgi.Visit {self._session!r}>"


def _cookie(scope: Scope, name: str) -> str | None:
    """The value of that cookie: what the browser says, so anything."""
    for header, value in scope.get("headers", ()):
        if header.lower() == b"cookie":
            for part in value.decode("latin-1").split(";"):
                # No other blanks: a browser that guards our name's prefix lets those be planted.
                found, _, text = part.strip(" \t").partition("=")
                if found == name:
                    return str(text)
    return None
