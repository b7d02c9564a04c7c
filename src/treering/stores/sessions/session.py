"""A session as people see it, its id, and what can be wrong with one."""

from __future__ import annotations

import hashlib
import secrets
from typing import Any, NamedTuple

from treering import ConflictError, NotThereError

ID_CHARACTERS = 43  # of 32 random bytes in URL-safe base 64
DIGEST_BYTES = 32

_sha256 = hashlib.sha256


class SessionGoneError(NotThereError):
    """The session is unknown, over, deleted, or has another id now."""


class LostUpdateError(ConflictError):
    """Another call saved the session since it was loaded, so nothing was saved."""


class Session(NamedTuple):
    """A session as it was when it was asked for; changing its data changes nothing until `save`.

    `id` is the secret that goes into the cookie: known only when it was given or just made, else
    None. `key` names the session without letting anybody in: it may be shown and logged. `version`
    counts the saves. Times are seconds since 1970; `expires_at` moves with each touch, `ends_at`
    does not, and is None if only idling ends the session.
    """

    id: str | None
    key: str
    data: Any
    user: str | None
    version: int
    created_at: float
    seen_at: float
    expires_at: float
    ends_at: float | None

    def __repr__(self) -> str:
        # Without the id: what is shown ends up in logs.
        return f"<Session {self.key[:8]}… user={self.user!r:.60} version={self.version}>"


def new_id() -> str:
    """256 random bits, fit for a cookie."""
    return secrets.token_urlsafe(DIGEST_BYTES)


def digest_of(id: Any) -> bytes | None:
    """What the store knows of that id: its SHA-256, so that how long a look-up takes tells nothing
    of any id. None for what cannot be one, whatever it is."""
    if type(id) is not str or len(id) != ID_CHARACTERS or not id.isascii():
        return None
    return _sha256(id.encode()).digest()


def digest_of_key(key: Any) -> bytes | None:
    """What a session's `key` stands for; None for what is none."""
    try:
        digest = bytes.fromhex(key)
    except (TypeError, ValueError):
        return None
    return digest if len(digest) == DIGEST_BYTES else None


def digest_of_either(session: Any) -> bytes | None:
    """The same of a session or an id."""
    return digest_of_key(session.key) if isinstance(session, Session) else digest_of(session)


def gone(digest: bytes | None) -> SessionGoneError:
    """The error for a session that is not there."""
    name = "that id" if digest is None else f"the key {digest.hex()[:8]}…"
    return SessionGoneError(
        f"there is no session with {name}: it is unknown, over, deleted, or rotated",
        hint="Let the visitor begin a new one with create()",
    )
