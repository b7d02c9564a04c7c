"""The records of a session store, and what each argument may be.

The first byte of a key is the kind, digests and times (ns since 1970) follow, then the user's name
where there is one. The value is the session's data.
"""

from __future__ import annotations

import math
from struct import Struct
from typing import Any, NamedTuple

from treering import Record, UsageError
from treering.fold.kit import Foreign

from .codec import CODED, RAW

_foreign = Foreign("a session store")
refuse = _foreign.refuse
refuse_unknown = _foreign.refuse_unknown

CREATE = Struct("<c32sqqq")  # digest, now, idle, end; the user follows
SAVE = Struct("<c32sq")  # digest, now
TOUCH = Struct("<c32sq")  # digest, now
DELETE = Struct("<c32s")  # digest
ROTATE = Struct("<c32s32sqqB")  # old and new digest, now, grace until, flags; the user follows
LOGOUT = Struct("<c32s")  # the digest that stays; the user follows
TIME = Struct("<cq")  # now: what was over by then may go

# A session in memory and in snapshots: created, seen, idle, end, version, the user's length, flags;
# the user, the heir's digest if it was rotated away, and the data follow.
HEAD = Struct("<qqqqQHB")
FLAGS_AT = HEAD.size - 1
TIMES = Struct("<qqqq")
SEEN = Struct("<q")
VERSION = Struct("<Q")
VERSION_AND_LENGTH = Struct("<QH")

NEW_USER, NEW_DATA = 1, 2  # flags of a rotation
HAS_HEIR = 1  # flag of a session

NOBODY = bytes(32)
USER_BYTES_MAX = 1024
SECOND = 1_000_000_000
NS_MAX = 1 << 62


class Entry(NamedTuple):
    """A session, taken apart."""

    created_ns: int
    seen_ns: int
    idle_ns: int  # 0: idling does not end it
    ends_ns: int
    version: int
    user: bytes
    heir: bytes
    data: bytes

    def packed(self) -> bytes:
        """As it is kept."""
        *numbers, user, heir, data = self
        flags = HAS_HEIR if heir else 0
        return b"".join((HEAD.pack(*numbers, len(user), flags), user, heir, data))

    def rotated(self, now_ns: int, flags: int, user: bytes, data: bytes) -> Entry:
        """The session under a new id. With a new user its lifetime begins anew."""
        created_ns, ends_ns = self.created_ns, self.ends_ns
        if flags & NEW_USER:
            if ends_ns < NS_MAX:
                # Hostile bytes may have one that ends before it begins.
                ends_ns = min(max(ends_ns - created_ns, 0) + now_ns, NS_MAX)
            created_ns = now_ns
        else:
            user = self.user
        data = data if flags & NEW_DATA else self.data
        version = self.version + 1
        return Entry(created_ns, now_ns, self.idle_ns, ends_ns, version, user, b"", data)


def taken_apart(packed: bytes) -> Entry:
    """The parts of these bytes, which are a session's."""
    created_ns, seen_ns, idle_ns, ends_ns, version, length, flags = HEAD.unpack_from(packed)
    at = HEAD.size + length
    user, heir = packed[HEAD.size : at], b""
    if flags:
        at += 32
        heir = packed[at - 32 : at]
    return Entry(created_ns, seen_ns, idle_ns, ends_ns, version, user, heir, packed[at:])


def check_packed(packed: bytes) -> None:
    """ValueError if these bytes are no session's."""
    if len(packed) <= HEAD.size:
        raise ValueError("too short")
    *numbers, length, flags = HEAD.unpack_from(packed)  # four times and the version
    if min(numbers) < 0 or max(numbers) > NS_MAX:
        raise ValueError("a time that no clock shows")
    if flags > HAS_HEIR or length > USER_BYTES_MAX:
        raise ValueError("an unknown flag, or a name that is too long")
    at = HEAD.size + length
    if length:
        packed[HEAD.size : at].decode()  # UnicodeDecodeError is a ValueError
    if flags:
        at += 32
    if packed[at : at + 1] not in (RAW, CODED):
        raise ValueError("no data")


def touched(packed: bytes, now_ns: int) -> bytes:
    """The session, seen at that time."""
    return b"".join((packed[:8], SEEN.pack(now_ns), packed[16:]))


def saved(packed: bytes, now_ns: int, data: bytes) -> bytes:
    """The session with other data, one version on. It has no heir: that one would be saved."""
    version, length = VERSION_AND_LENGTH.unpack_from(packed, 32)
    head = packed[40 : HEAD.size + length]
    new_version = VERSION.pack(version + 1)
    return b"".join((packed[:8], SEEN.pack(now_ns), packed[16:32], new_version, head, data))


def version_of(packed: bytes) -> int:
    """How often a session was saved, and rotated; the first is 1."""
    return int(VERSION_AND_LENGTH.unpack_from(packed, 32)[0])


def expires_ns(packed: bytes) -> int:
    """When a session is over if nobody touches it."""
    _, seen_ns, idle_ns, ends_ns = TIMES.unpack_from(packed)
    return min(ends_ns, seen_ns + idle_ns) if idle_ns else int(ends_ns)


def user_of(packed: bytes) -> bytes:
    """Whose a session is; empty for nobody's."""
    length = int.from_bytes(packed[HEAD.size - 3 : HEAD.size - 1], "little")
    return packed[HEAD.size : HEAD.size + length]


def unpack(layout: Struct, record: Record, more: bool = False) -> tuple[Any, ...]:
    """The parts of a record's key, and with `more` the user's name after them; DamageError if it
    has not that layout."""
    key, size = record.key, layout.size
    if len(key) < size or len(key) > size + (USER_BYTES_MAX if more else 0):
        refuse(record, "has a key of another length")
    found = layout.unpack_from(key)[1:]
    for part in found:
        if type(part) is int and not 0 <= part <= NS_MAX:
            refuse(record, "has a time that no clock shows")
    if more and not _is_text(key[size:]):
        refuse(record, "has a user's name that is no text")
    return (*found, key[size:]) if more else found


def data_of(record: Record) -> bytes:
    """The data that a record carries."""
    data = bytes(record.value)
    if data[:1] not in (RAW, CODED):
        refuse(record, "carries no session's data")
    return data


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


# --- what people give us ---


def check_user(user: Any) -> bytes:
    """A user's name; empty for nobody (None)."""
    if user is None:
        return b""
    try:
        name = user.encode() if isinstance(user, str) else b""
    except UnicodeEncodeError:
        name = b""
    if not 0 < len(name) <= USER_BYTES_MAX:
        raise UsageError(
            f"a user is text of 1 to {USER_BYTES_MAX} bytes, or None: {user!r:.60}",
            hint="Use the user's number as text, say",
        )
    return name


def span_ns(seconds: Any, name: str, *, least: int = 1) -> int:
    """Nanoseconds of so many seconds, at least `least`."""
    number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if not number or not math.isfinite(seconds) or not least <= seconds * SECOND < NS_MAX:
        raise UsageError(
            f"{name} must be seconds, {'over' if least else 'at least'} 0, not {seconds!r:.40}",
            hint="A day is 86_400",
        )
    return int(seconds * SECOND)


def check_version(version: Any) -> int:
    """A session's version."""
    if isinstance(version, bool) or not isinstance(version, int):
        raise UsageError(f"a version is a whole number, not {version!r:.40}")
    return version
