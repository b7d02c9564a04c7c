"""The store: commands."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from treering import FsyncPolicy, UsageError
from treering.fold import Fold, Follower

from . import records as rec
from .reading import Reading, View, name_of, shown
from .session import (
    LostUpdateError,
    Session,
    digest_of,
    digest_of_either,
    gone,
    new_id,
)
from .state import State
from .sweeping import Sweeping
from .terms import DAY, DEFAULT, Terms, make_terms

# No call waits for the disk; see the docstring.
BATCH = FsyncPolicy.batch(milliseconds=10)


class SessionStore(Sweeping, Reading):
    """The sessions of a web application, in memory as a whole. Thread-safe; several processes may
    have it open at once, and each sees what the others wrote with its next call.

    A session ends `idle` seconds after it was last created, saved or touched, and in any case
    `lifetime` seconds after its creation (None: not so; one of the two is needed). `touch` writes
    at most every `touch_seconds` per session, or every half of its idle time if that is shorter.
    `session_bytes_max` limits the data of one, as encoded; `codec` makes bytes of it (default:
    JSON). Every `sweep_seconds` a background thread drops what is over from memory (None: only
    `purge` and new sessions do), and so from the next snapshots.

    `fsync_policy` (default: BATCH with 10 ms, so that no call waits for the disk; what it loses
    when power fails is the last few ms) and `durable=True` of single calls as for the log;
    `exclusive=True` keeps others out. `checkpoint_seconds` is 3600 and `segment_bytes_max` 16 MiB
    here, so that what is over leaves the disk soon; further options are those of
    `treering.fold.Fold` and `treering.Wal.open`.

    Every call raises what the log raises: ClosedError, ForkedError, FailedError, StorageError,
    DamageError; every command also DiskFullError and TooLargeError (nothing was changed) and
    ReadOnlyError; UsageError for arguments that cannot be right.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        idle: float | None = 2 * 3600.0,
        lifetime: float | None = 14 * DAY,
        touch_seconds: float = 60.0,
        session_bytes_max: int = 64 << 10,
        sweep_seconds: float | None = 60.0,
        codec: Any = None,
        fsync_policy: FsyncPolicy = BATCH,
        exclusive: bool = False,
        read_only: bool = False,
        checkpoint_seconds: float | None = 3600.0,
        segment_bytes_max: int = 16 << 20,
        **options: Any,
    ) -> None:
        terms = make_terms(idle, lifetime, touch_seconds, session_bytes_max, sweep_seconds, codec)
        fold = Fold(
            path,
            partial(State, options.get("clock") or time.time_ns),
            own=True,
            fsync_policy=fsync_policy,
            exclusive=exclusive,
            read_only=read_only,
            checkpoint_seconds=checkpoint_seconds,
            segment_bytes_max=segment_bytes_max,
            **options,
        )
        self._begin(fold, terms, read_only)

    @classmethod
    def on(
        cls,
        fold: Follower[State],
        *,
        read_only: bool = False,
        clock: Any = None,
        files: Any = None,
        **terms: Any,
    ) -> SessionStore:
        """The store as a part of a database, which is what has the `clock` and the `files`.
        `terms` are `idle`, `lifetime`, `touch_seconds`, `session_bytes_max`, `sweep_seconds` and
        `codec`."""
        store = cls.__new__(cls)
        store._begin(fold, make_terms(**terms), read_only)
        return store

    @staticmethod
    def new_state(clock: Callable[[], int]) -> State:
        """An empty state, for a database."""
        return State(clock)

    def _begin(self, fold: Follower[State], terms: Terms, read_only: bool) -> None:
        self._stand_on(fold, read_only)
        self._terms, self._values = terms, terms.values
        self._begin_sweeping(None if read_only else terms.sweep_seconds)

    # --- Queries: see Reading ---

    def _look(self) -> tuple[State, int]:
        state = self._fold.state()
        return state, state.now_ns()

    def _hold(self) -> Any:
        return self._fold.lock

    def at(self, position: int | None = None, time: Any = None) -> View:
        """The sessions as they were when the log ended at `position` (see `position`), or at a time
        (seconds since 1970 or a datetime). Reads the log from the snapshot before it on.
        PrunedError when a checkpoint has removed what that takes; PositionError beyond the end."""
        state, position = self._past(position, time)
        return View(state, position, self._values)

    @property
    def position(self) -> int:
        """How many records the log has: of this moment, for `at`."""
        return self._fold.wal.current_position()

    # --- Commands: written at return; durable as the policy says, or with durable=True ---

    def create(
        self,
        data: Any = None,
        *,
        user: str | None = None,
        idle: float | None = DEFAULT,
        lifetime: float | None = DEFAULT,
        durable: bool | None = None,
    ) -> Session:
        """Begin a session; its `id` is shown only here. `idle` and `lifetime` in seconds (default:
        the store's). O(size)."""
        packed, name = self._values.pack(data), rec.check_user(user)
        idle_ns, lifetime_ns = self._terms.spans(idle, lifetime)
        id, digest = _new()
        made = b""

        def decide(state: State) -> list[tuple[bytes, bytes]]:
            nonlocal made
            now_ns = state.now_ns()
            ends_ns = min(now_ns + lifetime_ns, rec.NS_MAX) if lifetime_ns else rec.NS_MAX
            made = rec.Entry(now_ns, now_ns, idle_ns, ends_ns, 1, name, b"", packed).packed()
            return [(rec.CREATE.pack(b"c", digest, now_ns, idle_ns, ends_ns) + name, packed)]

        self._command(decide, durable)
        return shown(self._values, made, digest, id)

    def save(
        self,
        session: Session | str,
        data: Any = DEFAULT,
        *,
        version: int | None = None,
        durable: bool | None = None,
    ) -> Session:
        """Save a session's data, or other `data`; the session as it is then. Idle time begins anew.

        Of a loaded session only if nobody saved it meanwhile, else LostUpdateError; of an id
        whatever there is, or only if its version is `version`. SessionGoneError if it is over.
        """
        digest = digest_of_either(session)
        if isinstance(session, Session):
            data = session.data if data is DEFAULT else data
            version = session.version if version is None else version
        elif data is DEFAULT:
            raise UsageError("there is nothing to save", hint="Give a session, or an id and data")
        packed = self._values.pack(data)
        expected = None if version is None else rec.check_version(version)
        saved = b""

        def decide(state: State) -> list[tuple[bytes, bytes]]:
            nonlocal saved
            now_ns = state.now_ns()
            saved = rec.saved(_to_change(state, digest, now_ns, expected), now_ns, packed)
            return [(rec.SAVE.pack(b"s", digest, now_ns), packed)]

        self._command(decide, durable)
        return shown(self._values, saved, digest or b"", _id_of(session))

    def update(
        self,
        session: Session | str,
        function: Callable[[Any], Any],
        *,
        durable: bool | None = None,
    ) -> Session:
        """Save `function(data)`, where data is the newest, again and again until nobody saved
        meanwhile; so no update is lost. SessionGoneError if it is over."""
        digest = digest_of_either(session)
        while True:
            found = self._load(digest, None)
            if found is None:
                raise gone(digest)
            try:
                saved = self.save(found, function(found.data), durable=durable)
            except LostUpdateError:
                continue
            return saved._replace(id=_id_of(session))

    def touch(self, session: Session | str, *, durable: bool | None = None) -> bool:
        """Let idle time begin anew; whether the session is there. Writes only if the last time was
        `touch_seconds` ago, else it is a query: so a session may be over that much earlier than
        `idle` after its last touch. Call it with each request."""
        digest = digest_of_either(session)
        state, now_ns = self._look()
        packed = state.find(digest, now_ns)
        if packed is None or digest is None:
            return False
        if not self._is_stale(packed, now_ns):
            return True

        def decide(state: State) -> list[tuple[bytes, bytes]]:
            nonlocal packed
            now_ns = state.now_ns()
            packed = state.find(digest, now_ns)
            if packed is None or not self._is_stale(packed, now_ns):
                return []  # it ended meanwhile, or another process was faster
            return [(rec.TOUCH.pack(b"t", digest, now_ns), b"")]

        self._command(decide, durable)
        return packed is not None

    def _is_stale(self, packed: bytes, now_ns: int) -> bool:
        _, seen_ns, idle_ns, _ = rec.TIMES.unpack_from(packed)
        touch_ns = self._terms.touch_ns
        if idle_ns:
            touch_ns = min(touch_ns, idle_ns // 2)
        # What was rotated away lives through its grace, and no longer.
        return bool(now_ns - seen_ns >= touch_ns) and not packed[rec.FLAGS_AT]

    def delete(self, session: Session | str, *, durable: bool | None = None) -> bool:
        """End a session: a logout; whether it was there. With an id that was rotated, within its
        grace, the session ends too. With durable=True no power cut brings it back."""
        digest = digest_of_either(session)
        found: bytes | None = None

        def decide(state: State) -> list[tuple[bytes, bytes]]:
            nonlocal found
            found = state.resolved(digest, state.now_ns())
            ended = found
            if found is None and state.find(digest, state.newest_ns) is not None:
                ended = digest  # over by the clock alone, which may be put back
            return [] if ended is None else [(rec.DELETE.pack(b"d", ended), b"")]

        self._command(decide, durable)
        return found is not None

    def rotate(
        self,
        session: Session | str,
        *,
        user: str | None = DEFAULT,
        data: Any = DEFAULT,
        grace: float = 0,
        durable: bool | None = None,
    ) -> Session:
        """Give the session a new id, in one record; the old one is over from then on. Do it at
        login, with `user`, and whenever rights change: an id that somebody else knew before is
        worth nothing then. With a new `user` the lifetime begins anew. `data` takes the place of
        the old (of a loaded session only if nobody saved it meanwhile).

        For `grace` seconds the old id still shows the session as it was before, for requests that
        are under way; it cannot be saved or rotated any more. SessionGoneError if it is over.
        """
        digest, expected = digest_of_either(session), None
        name = b"" if user is DEFAULT else rec.check_user(user)
        packed = b"" if data is DEFAULT else self._values.pack(data)
        grace_ns = rec.span_ns(grace, "grace", least=0)
        if packed and isinstance(session, Session):
            expected = session.version
        flags = rec.NEW_USER * (user is not DEFAULT) + rec.NEW_DATA * bool(packed)
        id, new = _new()
        fresh = b""

        def decide(state: State) -> list[tuple[bytes, bytes]]:
            nonlocal fresh
            now_ns = state.now_ns()
            entry = rec.taken_apart(_to_change(state, digest, now_ns, expected))
            fresh = entry.rotated(now_ns, flags, name, packed).packed()
            until_ns = min(now_ns + grace_ns, rec.NS_MAX) if grace_ns else 0
            return [(rec.ROTATE.pack(b"r", digest, new, now_ns, until_ns, flags) + name, packed)]

        self._command(decide, durable)
        return shown(self._values, fresh, new, id)

    def logout_everywhere(
        self, user: str, *, but: Session | str | None = None, durable: bool | None = None
    ) -> int:
        """End all sessions of a user, except perhaps one, in one record; how many. All or none
        survive a crash. O(what the user has); the first time O(all sessions)."""
        name, stays, count = name_of(user), digest_of_either(but), 0

        def decide(state: State) -> list[tuple[bytes, bytes]]:
            nonlocal count
            now_ns = state.now_ns()
            kept = state.resolved(stays, now_ns) or rec.NOBODY
            ended = [digest for digest in state.of_user(name) if digest != kept]
            count = sum(state.find_to_change(digest, now_ns) is not None for digest in ended)
            # Also what is over by the clock alone, which may be put back.
            alive = any(state.find(digest, state.newest_ns) is not None for digest in ended)
            return [(rec.LOGOUT.pack(b"o", kept) + name, b"")] if alive else []

        self._command(decide, durable)
        return count

    # --- Care ---

    def check_state(self) -> None:
        """The part of `check` that looks at memory alone."""
        with self._fold.lock:
            self._fold.state().check()

    def stats(self) -> dict[str, Any]:
        """Numbers for people and dashboards: the fold's, and how many sessions are in memory, also
        those that are over and not yet dropped."""
        stats = self._fold.stats()
        trouble = [*stats["trouble"], *self._trouble]
        return {**stats, "sessions": len(self._fold.state().sessions), "trouble": trouble}


def _new() -> tuple[str, bytes]:
    id = new_id()
    return id, digest_of(id) or b""


def _id_of(session: Session | str) -> str | None:
    return session.id if isinstance(session, Session) else session


def _to_change(state: State, digest: bytes | None, now_ns: int, expected: int | None) -> bytes:
    """The session that a command is about, of that version if one is given."""
    packed = state.find_to_change(digest, now_ns)
    if packed is None:
        raise gone(digest)
    if expected is not None and rec.version_of(packed) != expected:
        raise LostUpdateError(
            f"the session has version {rec.version_of(packed)} by now, not {expected}",
            hint="Load it and save again, or use update()",
        )
    return packed
