"""What a session store's records come to: the sessions by the digests of their ids."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, MutableMapping
from heapq import heapify, heappop, heappush, heapreplace

from treering import DamageError, Record
from treering.fold import Overlay

from . import records as rec
from .records import Entry, expires_ns, taken_apart, user_of

# The steps that each new session takes to drop old ones: so memory follows the traffic, also where
# no background thread is at work.
_STEPS_WITH_EACH = 4
# What was rotated so often within its grace is over; no chain of heirs is longer.
_HEIRS_MAX = 64
_STALE_LEAST = 1024


class State:
    """The sessions. Each is one block of bytes that is replaced whole, so that other threads see
    the old one or the new one, and a copy is a copy of the dict.

    What is over by the log's own time (`newest_ns`) may be in memory or not: it shows nowhere, and
    no command is about it. So each process drops it when it likes.
    """

    label = b"treering sessions 1"

    def __init__(self, clock: Callable[[], int] = time.time_ns) -> None:
        self.sessions: MutableMapping[bytes, bytes] = {}
        self.newest_ns = 0  # of all records: no clock that steps back revives a session
        self.clock = clock
        # By time of expiry, each session once: where it was touched since, the time is too early,
        # and is put right when it is its turn. None: this state drops nothing.
        self._due: list[bytes] | None = []
        self._is_heap = False
        self._users: MutableMapping[bytes, set[bytes]] | None = None  # made when somebody asks
        # In a transaction's state: whose sets are its own. Else None.
        self._copied: set[bytes] | None = None

    # --- apply ---

    def apply(self, record: Record) -> None:
        """Take in one record of the log."""
        take = _TAKE.get(record.key[:1])
        if take is None:
            rec.refuse_unknown(record)
        now_ns = min(max(take(self, record), record.timestamp_ns or 0), rec.NS_MAX)
        if now_ns > self.newest_ns:
            self.newest_ns = now_ns

    def _create(self, record: Record) -> int:
        digest, now_ns, idle_ns, ends_ns, user = rec.unpack(rec.CREATE, record, more=True)
        if digest in self.sessions:
            rec.refuse(record, "makes a session that is there")
        data = rec.data_of(record)
        self._add(digest, Entry(now_ns, now_ns, idle_ns, ends_ns, 1, user, b"", data))
        self.reap(_STEPS_WITH_EACH)
        return int(now_ns)

    def _save(self, record: Record) -> int:
        digest, now_ns = rec.unpack(rec.SAVE, record)
        packed = self._known(record, digest)
        if packed[rec.FLAGS_AT]:
            rec.refuse(record, "saves a session that was rotated away")
        self.sessions[digest] = rec.saved(packed, now_ns, rec.data_of(record))
        return int(now_ns)

    def _touch(self, record: Record) -> int:
        digest, now_ns = rec.unpack(rec.TOUCH, record)
        self.sessions[digest] = rec.touched(self._known(record, digest), now_ns)
        return int(now_ns)

    def _delete(self, record: Record) -> int:
        (digest,) = rec.unpack(rec.DELETE, record)
        self._known(record, digest)
        self.drop(digest)
        return 0

    def _rotate(self, record: Record) -> int:
        old, new, now_ns, until_ns, flags, user = rec.unpack(rec.ROTATE, record, more=True)
        entry = taken_apart(self._known(record, old))
        if flags & ~(rec.NEW_USER | rec.NEW_DATA):
            rec.refuse_unknown(record)
        if new in self.sessions or entry.heir:
            rec.refuse(record, "rotates to an id, or from one, that cannot be")
        data = rec.data_of(record) if flags & rec.NEW_DATA else b""
        # The heir first, and the old one in one step: queries of other threads look at any time.
        self._add(new, entry.rotated(now_ns, flags, user, data))
        if until_ns:
            self._add(old, entry._replace(ends_ns=min(entry.ends_ns, until_ns), heir=new))
        else:
            self.drop(old)
        return int(now_ns)

    def _logout(self, record: Record) -> int:
        stays, user = rec.unpack(rec.LOGOUT, record, more=True)
        for digest in self.of_user(user):
            if digest != stays:
                self.drop(digest)
        return 0

    def _time(self, record: Record) -> int:
        return int(rec.unpack(rec.TIME, record)[0])

    def _known(self, record: Record, digest: bytes) -> bytes:
        packed = self.sessions.get(digest)
        if packed is None:
            rec.refuse(record, "is about a session that is not there")
        return packed

    def _add(self, digest: bytes, entry: Entry) -> None:
        packed = entry.packed()
        self.sessions[digest] = packed
        self._remember(digest, packed)
        if self._users is not None and entry.user:
            self._at(entry.user).add(digest)

    def drop(self, digest: bytes) -> None:
        """Forget a session that is there."""
        packed = self.sessions.pop(digest)
        user = user_of(packed)
        if self._users is not None and user:
            others = self._at(user)
            others.discard(digest)
            if not others:
                del self._users[user]

    # --- what is over ---

    def _remember(self, digest: bytes, packed: bytes) -> None:
        due = self._due
        if due is None:
            return
        entry = _due_at(expires_ns(packed), digest)
        if self._is_heap:
            heappush(due, entry)
        else:
            due.append(entry)
        if len(due) > 2 * len(self.sessions) + _STALE_LEAST:  # of sessions that were deleted
            self._due = [_due_at(expires_ns(each), of) for of, each in self.sessions.items()]
            self._is_heap = False

    def overdue(self, until_ns: int, steps: int) -> Iterator[bytes]:
        """Sessions that are over at that time, the first one first; in at most so many steps of
        O(log(sessions)). The caller drops each, or stops."""
        due = self._ordered()
        for _ in range(steps):
            if not due or int.from_bytes(due[0][:8], "big") > until_ns:
                return
            digest = due[0][8:]
            packed = self.sessions.get(digest)
            if packed is None:
                heappop(due)
            elif (later_ns := expires_ns(packed)) > until_ns:
                heapreplace(due, _due_at(later_ns, digest))
            else:
                yield digest

    def reap(self, steps: int) -> bool:
        """Forget what is over by the log's own time, in at most so many steps; whether that may
        not have been all."""
        for digest in self.overdue(self.newest_ns, steps):
            self.drop(digest)
        return self.may_be_overdue(self.newest_ns)

    def may_be_overdue(self, until_ns: int) -> bool:
        """Whether `overdue` has something to do: O(1), but for the first time."""
        due = self._ordered()
        return bool(due) and int.from_bytes(due[0][:8], "big") <= until_ns

    def _ordered(self) -> list[bytes]:
        due = self._due or []
        if not self._is_heap:
            heapify(due)
            self._is_heap = self._due is not None
        return due

    # --- snapshots ---

    def dump(self) -> Iterator[Record]:
        """The log's own time, then the sessions that are not over by it, for a snapshot."""
        newest_ns = self.newest_ns
        if newest_ns:
            yield Record(rec.TIME.pack(b"n", newest_ns), timestamp_ns=newest_ns)
        for digest, packed in self.sessions.items():
            if self.is_alive(packed, newest_ns):
                yield Record(digest, packed, timestamp_ns=newest_ns or None)

    def load(self, record: Record) -> None:
        """Take in one record of a snapshot."""
        if len(record.key) == rec.TIME.size:
            (self.newest_ns,) = rec.unpack(rec.TIME, record)
            return
        packed = bytes(record.value)
        try:
            if len(record.key) != 32:
                raise ValueError("no digest")
            rec.check_packed(packed)
        except ValueError as error:
            raise DamageError(
                f"a snapshot of sessions has no records like {record.key!r:.60}",
                hint="Remove the snapshot if an older one, or the whole log, is there",
            ) from error
        self.sessions[record.key] = packed
        self._remember(record.key, packed)

    def copy(self) -> State:
        """Another state that stays as this one is now: one shallow copy of a dict."""
        return self._with(dict(self.sessions))

    def scratch(self) -> State:
        """This state, to be changed while this one stays: for a transaction."""
        other = self._with(Overlay(self.sessions))
        other._users, other._copied = Overlay(self.users), set()
        return other

    def _with(self, sessions: MutableMapping[bytes, bytes]) -> State:
        other = State(self.clock)
        other.sessions, other.newest_ns, other._due = sessions, self.newest_ns, None
        return other

    # --- queries ---

    def now_ns(self) -> int:
        """The time by which sessions are over."""
        return min(max(self.clock(), self.newest_ns), rec.NS_MAX)

    def is_alive(self, packed: bytes, now_ns: int) -> bool:
        """Whether it is not over; what was rotated away lives no longer than its heir."""
        return self._last_heir(b"", packed, now_ns) is not None

    def _last_heir(self, digest: bytes, packed: bytes, now_ns: int) -> bytes | None:
        """The digest of the session that this one is now; None if any on the way is over."""
        for _ in range(_HEIRS_MAX):
            if expires_ns(packed) <= now_ns:
                return None
            if not packed[rec.FLAGS_AT]:
                return digest
            digest = taken_apart(packed).heir
            heir = self.sessions.get(digest)
            if heir is None:
                return None
            packed = heir
        return None

    def find(self, digest: bytes | None, now_ns: int) -> bytes | None:
        """The session, unless there is none or it is over."""
        packed = None if digest is None else self.sessions.get(digest)
        return packed if packed is not None and self.is_alive(packed, now_ns) else None

    def find_to_change(self, digest: bytes | None, now_ns: int) -> bytes | None:
        """The same; None also if it was rotated away: that one stays as it was."""
        packed = self.find(digest, now_ns)
        return None if packed is None or packed[rec.FLAGS_AT] else packed

    def resolved(self, digest: bytes | None, now_ns: int) -> bytes | None:
        """The digest that the session with this one has now; None if it is over."""
        packed = None if digest is None else self.sessions.get(digest)
        if digest is None or packed is None:
            return None
        return self._last_heir(digest, packed, now_ns)

    @property
    def users(self) -> MutableMapping[bytes, set[bytes]]:
        """The digests of each user's sessions, and perhaps some that are gone: O(sessions) the
        first time."""
        if self._users is None:
            users: dict[bytes, set[bytes]] = {}
            for digest, packed in self.sessions.items():
                user = user_of(packed)
                if user:
                    users.setdefault(user, set()).add(digest)
            self._users = users
        return self._users

    def of_user(self, user: bytes) -> list[bytes]:
        """The digests of a user's sessions that are in memory."""
        return [digest for digest in self.users.get(user, ()) if digest in self.sessions]

    def _at(self, user: bytes) -> set[bytes]:
        """The set of a user's digests, to be changed; in a scratch state a copy of it."""
        users = self.users
        found = users.get(user)
        if found is None or (self._copied is not None and user not in self._copied):
            found = users[user] = set(found or ())
            if self._copied is not None:
                self._copied.add(user)
        return found

    def check(self) -> None:
        """Each session can be read, and is where it has to be; DamageError otherwise."""
        if self._users is not None:
            for digest, packed in self.sessions.items():
                user = user_of(packed)
                if user and digest not in self._users.get(user, ()):
                    raise DamageError("a user's list in memory lacks a session")
        if self._due is not None and not self.sessions.keys() <= {each[8:] for each in self._due}:
            raise DamageError("the order of expiry in memory lacks a session")
        for packed in self.sessions.values():
            try:
                rec.check_packed(packed)
            except ValueError as error:
                raise DamageError(f"a session in memory is none: {error}") from error


def _due_at(at_ns: int, digest: bytes) -> bytes:
    """An entry in the order of expiry, in one piece: smaller than a tuple, and of no interest to
    the collector."""
    return at_ns.to_bytes(8, "big") + digest


_TAKE: dict[bytes, Callable[[State, Record], int]] = {
    b"c": State._create,
    b"s": State._save,
    b"t": State._touch,
    b"d": State._delete,
    b"r": State._rotate,
    b"o": State._logout,
    b"n": State._time,
}
