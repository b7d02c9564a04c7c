"""Looking at sessions, as they are or as they were."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

from treering import UsageError

from . import records as rec
from .codec import Values
from .session import Session, digest_of, digest_of_key
from .state import State


def shown(values: Values, packed: bytes, digest: bytes, id: str | None) -> Session:
    """The session for people."""
    second = rec.SECOND
    created_ns, seen_ns, idle_ns, ends_ns, version, user, _, data = rec.taken_apart(packed)
    expires = min(ends_ns, seen_ns + idle_ns) if idle_ns else ends_ns
    return Session(
        id,
        digest.hex(),
        values.unpack(data),
        user.decode() if user else None,
        version,
        created_ns / second,
        seen_ns / second,
        expires / second,
        None if ends_ns >= rec.NS_MAX else ends_ns / second,
    )


class Reading:
    """The queries. They read memory, and never write."""

    _values: Values

    def _look(self) -> tuple[State, int]:
        """The state, and the time by which sessions are over."""
        raise NotImplementedError

    def _hold(self) -> Any:
        """What to hold to look at more than one session."""
        raise NotImplementedError

    def load(self, id: Any) -> Session | None:
        """The session with that id; None when it is unknown, over, or no id at all, whatever was
        given. Reads memory; no write, also no touch. O(size).
        DamageError if the data is not what the codec writes."""
        return self._load(digest_of(id), id)

    def find(self, key: Any) -> Session | None:
        """The session with that `key` (see `Session`), without its id; None as `load`."""
        return self._load(digest_of_key(key), None)

    def _load(self, digest: bytes | None, id: str | None) -> Session | None:
        if digest is None:
            return None
        state, now_ns = self._look()
        packed = state.find(digest, now_ns)
        return None if packed is None else shown(self._values, packed, digest, id)

    def __contains__(self, id: object) -> bool:
        state, now_ns = self._look()
        return state.find(digest_of(id), now_ns) is not None

    def sessions(self, user: str) -> list[Session]:
        """A user's sessions, the newest last, without their ids: to show, and to `delete`. O(what
        the user has); the first time O(all sessions)."""
        name = name_of(user)
        with self._hold():
            state, now_ns = self._look()
            found = [
                (digest, state.find_to_change(digest, now_ns)) for digest in state.of_user(name)
            ]
        mine = [shown(self._values, each, key, None) for key, each in found if each is not None]
        return sorted(mine, key=lambda session: (session.created_at, session.key))

    def __iter__(self) -> Iterator[Session]:
        """All sessions, without their ids, as they are now, in no order: O(all)."""
        with self._hold():
            state, now_ns = self._look()
            found = [
                (digest, packed)
                for digest, packed in state.sessions.items()
                if not packed[rec.FLAGS_AT] and state.is_alive(packed, now_ns)
            ]
        return (shown(self._values, packed, key, None) for key, packed in found)

    def count(self, user: str | None = None) -> int:
        """How many sessions there are: O(all), or with a `user` O(what that one has)."""
        if user is not None:
            return len(self.sessions(user))
        with self._hold():
            state, now_ns = self._look()
            return sum(
                not packed[rec.FLAGS_AT] and rec.expires_ns(packed) > now_ns
                for packed in state.sessions.values()
            )

    def __len__(self) -> int:
        return self.count()

    def __bool__(self) -> bool:
        return True  # `if store:` is about the store


class View(Reading):
    """The sessions as they were, by the newest time that the log had seen then; made by
    `SessionStore.at`. For one thread at a time."""

    def __init__(self, state: State, position: int, values: Values) -> None:
        self._state, self.position, self._values = state, position, values

    def _look(self) -> tuple[State, int]:
        return self._state, self._state.newest_ns

    def _hold(self) -> Any:
        return nullcontext()


def name_of(user: Any) -> bytes:
    """A user's name; UsageError for nobody."""
    name = rec.check_user(user)
    if not name:
        raise UsageError("a user is needed", hint="Iterate over the store to see all sessions")
    return name
