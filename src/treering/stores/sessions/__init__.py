"""Sessions of a web application: who is logged in, and what is known of them, through any crash.

    from treering.stores.sessions import SessionStore

    with SessionStore("sessions") as store:
        session = store.create({"theme": "dark"})         # session.id goes into the cookie
        session = store.rotate(session.id, user="ada")    # at login: a new id, the old one is dead
        session.data["theme"] = "light"
        store.save(session)                               # LostUpdateError if another one was first
        store.touch(session.id)                           # idle time begins anew
        assert store.load(session.id).user == "ada"       # None when unknown, over or nonsense
        store.logout_everywhere("ada")

Records: one for each call that changes something. State: one block of bytes per session under the
SHA-256 of its id, which is nowhere itself: who steals the log or a backup is nobody's session.
Sessions end by absolute times, kept in the log; a background thread drops what is over.
"""

from __future__ import annotations

from .codec import Codec, JsonCodec
from .reading import View
from .session import LostUpdateError, Session, SessionGoneError
from .store import SessionStore

__all__ = [
    "Codec",
    "JsonCodec",
    "LostUpdateError",
    "Session",
    "SessionGoneError",
    "SessionStore",
    "View",
]
