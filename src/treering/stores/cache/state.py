"""What a cache's records come to: the entries, the longest unused first."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from heapq import heapify, heappop, heappush

from treering import DamageError, Record

from .keys import KINDS
from .records import (
    GONE,
    META,
    NEWS,
    Lease,
    lease_record,
    names,
    read_lease,
    refuse,
    refuse_unknown,
    unpack,
    uses,
)
from .values import TAGGED, tags_of

# What an entry takes in memory besides its key and its value, as CPython allocates it, at most;
# and what each of its tags takes besides.
ENTRY_BYTES = 400
TAG_BYTES = 600

_LEASES_LEAST = 1024
_STALE_LEAST = 1024
_COUNT_MAX = 1 << 62


def cost(key: bytes, raw: bytes) -> int:
    """What an entry counts towards the bound."""
    size = len(key) + len(raw) + ENTRY_BYTES
    return size + TAG_BYTES * len(tags_of(raw)) if raw[0] == TAGGED else size


class State:
    """The entries, in the order of their last use; when some expire; which have a tag.

    Every record says what becomes of an entry whatever it was before, and taking one in twice in a
    row is the same as once. Other threads may `get` while one changes it: they find the old value
    or the new one, and never one that is over.
    """

    label = b"treering cache 1"

    def __init__(self, clock: Callable[[], int] = time.time_ns) -> None:
        self.items: OrderedDict[bytes, bytes] = OrderedDict()
        self.expiries: dict[bytes, int] = {}
        self.tags: dict[bytes, set[bytes]] = {}
        self.leases: dict[bytes, Lease] = {}
        # How much an entry was used, on top of the age that it found; only the policy "lfu" counts.
        self.ranks: dict[bytes, int] = {}
        self.age = 0
        self.told: tuple[int, ...] = (0, 0, 0, 0)  # hits, misses, sets, evictions of all processes
        self.newest_ns = 0  # of all records: no clock that steps back brings an entry back
        self.size = 0
        self.clock = clock
        self._due: list[tuple[int, bytes]] = []  # a heap of expiries; some are not true any more
        self._changing = False
        self._step = 0  # who finds another one at the end than at the beginning was interrupted
        self.torn = False  # a `set` was interrupted: count anew before the counts are used
        self._sweep_at = _LEASES_LEAST

    # --- apply ---

    def apply(self, record: Record) -> None:
        """Take in one record of the log."""
        self.mend()
        key = record.key
        if key[:1] in _ENTRY_KINDS:
            self._entry(record)
        else:
            take = _TAKE.get(key[:1])
            if take is None:
                refuse_unknown(record)
            self._changing = True
            take(self, record)
            self._changing = False
        self.pass_time(record.timestamp_ns or 0)

    def _entry(self, record: Record) -> None:
        if record.tombstone:
            self._changing = True
            self.leases.pop(record.key, None)
            self._remove(record.key)
            self._changing = False
            return
        raw = bytes(record.value)
        if not raw:
            refuse(record, "has no value")
        tags_of(raw)
        self.set(record.key, raw, record.expires_at_ns)

    def set(self, key: bytes, raw: bytes, expiry: int | None, now_ns: int = 0) -> None:
        """An entry, used just now. The hot path calls this by itself, with the time."""
        step = self._step = self._step + 1
        if self._changing:
            self.torn = True  # by an interrupt
        self._changing = True
        items, old = self.items, self.items.get(key)
        items[key] = raw
        if old is None:
            self.size += len(key) + len(raw) + ENTRY_BYTES
        else:
            items.move_to_end(key)
            self.size += len(raw) - len(old)
            if old[0] == TAGGED:
                self._untag(key, old)
        if raw[0] == TAGGED:
            self._tag(key, raw)
        if expiry is not None:
            self.expiries[key] = expiry
            heappush(self._due, (expiry, key))
        elif self.expiries:
            self.expiries.pop(key, None)
        if self.age or self.ranks:
            self.ranks[key] = max(self.ranks.get(key, 0), self.age + 1)
        if self.leases:
            self.leases.pop(key, None)
        self._changing = False
        if self._step != step:
            self.torn = True  # a signal's handler came in between
        if now_ns > self.newest_ns:
            self.newest_ns = now_ns
        due = self._due
        if due and (due[0][0] <= now_ns or len(due) > 2 * len(self.expiries) + _STALE_LEAST):
            self.pass_time(now_ns)

    def pass_time(self, now_ns: int) -> None:
        """A record of that time came: what is over by the log's own time leaves memory."""
        if now_ns > self.newest_ns:
            self.newest_ns = now_ns
        due = self._due
        if not due or due[0][0] > self.newest_ns:
            if len(due) > 2 * len(self.expiries) + _STALE_LEAST:
                self._heap_anew()
            return
        step = self._step = self._step + 1
        self.torn |= self._changing
        self._changing = True
        while due and due[0][0] <= self.newest_ns:
            at, key = heappop(due)
            if self.expiries.get(key) == at:
                self._remove(key)
        self._changing = False
        self.torn |= self._step != step

    def _remove(self, key: bytes) -> None:
        raw = self.items.pop(key, None)
        if raw is not None:
            self.size -= len(key) + len(raw) + ENTRY_BYTES
            if raw[0] == TAGGED:
                self._untag(key, raw)
        self.expiries.pop(key, None)
        self.ranks.pop(key, None)

    def _tag(self, key: bytes, raw: bytes) -> None:
        for tag in tags_of(raw):
            self.tags.setdefault(tag, set()).add(key)
            self.size += TAG_BYTES

    def _untag(self, key: bytes, raw: bytes) -> None:
        for tag in tags_of(raw):
            self.size -= TAG_BYTES
            having = self.tags.get(tag)
            if having is not None:
                having.discard(key)
                if not having:
                    del self.tags[tag]

    def _gone(self, record: Record) -> None:
        _, age = unpack(GONE, record.key, record)
        for key in names(record):
            self._remove(key)
        self.age = min(max(self.age, age), _COUNT_MAX)

    def _news(self, record: Record) -> None:
        kind, *counts = unpack(NEWS, record.key, record)
        used = uses(record)
        self.told = tuple(min(a + b, _COUNT_MAX) for a, b in zip(self.told, counts, strict=True))
        for key, times in used:
            if key in self.items:
                self.items.move_to_end(key)
                if kind == b"+":
                    self.ranks[key] = min(self.ranks.get(key, 1) + times, _COUNT_MAX)

    def _lease(self, record: Record) -> None:
        self.leases[record.key[1:]] = read_lease(record)
        if len(self.leases) >= self._sweep_at:
            for key in [k for k, lease in self.leases.items() if lease.until_ns <= self.newest_ns]:
                del self.leases[key]
            self._sweep_at = max(_LEASES_LEAST, 2 * len(self.leases))

    def _unlease(self, record: Record) -> None:
        key = record.key[1:]
        lease = self.leases.get(key)
        if lease is not None and lease.token == bytes(record.value):
            del self.leases[key]

    def _evict_tag(self, record: Record) -> None:
        tag = record.key[1:]
        for key in list(self.tags.get(tag, ())):
            self._remove(key)
        for key in [key for key, lease in self.leases.items() if tag in lease.tags]:
            del self.leases[key]

    def _clear(self, record: Record) -> None:
        # Entries first: who looks at the same time must not find one without its expiry.
        for held in (self.items, self.expiries, self.tags, self.leases, self.ranks, self._due):
            held.clear()
        self.size = 0

    # --- after an interrupt ---

    def mend(self) -> None:
        """Count anew what an interrupted `set` may have left half counted; O(1) if none was."""
        if not self._changing and not self.torn:
            return
        step = self._step = self._step + 1
        self.torn, self._changing = False, True
        self.tags.clear()
        entries = list(self.items.items())
        self.size = sum([len(key) + len(raw) + ENTRY_BYTES for key, raw in entries])
        for key, raw in entries:
            if raw[0] == TAGGED:
                self._tag(key, raw)
        self._heap_anew()
        self._changing = False
        self.torn |= self._step != step

    def _heap_anew(self) -> None:
        # What a signal's handler pushes meanwhile may be there twice, but not be missing.
        self._due.clear()
        self._due.extend(zip(self.expiries.values(), self.expiries.keys(), strict=True))
        heapify(self._due)

    # --- snapshots ---

    def dump(self) -> Iterator[Record]:
        """The numbers, the leases, the entries that are not over by the log's own time."""
        stamp = self.newest_ns or None
        yield Record(b"M", META.pack(self.age, *self.told), timestamp_ns=stamp)
        for key, lease in self.leases.items():
            if lease.until_ns > self.newest_ns:
                yield lease_record(key, lease)
        ranks, expiries, newest_ns = self.ranks, self.expiries, self.newest_ns
        for key, raw in self.items.items():
            expiry = expiries.get(key)
            if expiry is None or expiry > newest_ns:
                # How much it was used is a hint, so it stands where no check compares it.
                yield Record(key, raw, expires_at_ns=expiry, timestamp_ns=1 + ranks.get(key, 0))

    def load(self, record: Record) -> None:
        """Take in one record of a snapshot."""
        key, value = record.key, bytes(record.value)
        if key == b"M":
            self.age, *told = unpack(META, value, record)
            self.told = tuple(told)
            self.newest_ns = record.timestamp_ns or 0
        elif key[:1] == b"L":
            self.leases[key[1:]] = read_lease(record)
        elif key[:1] in _ENTRY_KINDS and value:
            self.set(key, value, record.expires_at_ns)
            rank = (record.timestamp_ns or 0) - 1
            if rank > 0:
                self.ranks[key] = rank
            else:
                self.ranks.pop(key, None)
        else:
            refuse_unknown(record)

    def copy(self) -> State:
        """Another state that stays as this one is now: shallow copies. For a snapshot: what only
        changes need is left out until the copy is changed."""
        other = State(self.clock)
        other.items, other.expiries = self.items.copy(), self.expiries.copy()
        other.leases, other.ranks = self.leases.copy(), self.ranks.copy()
        other.age, other.told, other.newest_ns = self.age, self.told, self.newest_ns
        other.torn = True
        return other

    # --- queries ---

    def now_ns(self) -> int:
        """The time by which entries expire."""
        return max(self.clock(), self.newest_ns)

    def get(self, key: bytes) -> bytes | None:
        """The value, unless there is none or it is over."""
        expiry = self.expiries.get(key)  # first: see above
        raw = self.items.get(key)
        if raw is None or (expiry is not None and expiry <= self.now_ns()):
            return None
        return raw

    def over(self) -> list[bytes]:
        """The keys that are over and still in memory: O(keys with an expiry)."""
        now_ns = self.now_ns()
        return [key for key, at in list(self.expiries.items()) if at <= now_ns]

    def check(self) -> None:
        """All counts and indexes are what the entries say; DamageError otherwise."""
        self.mend()
        found: dict[bytes, set[bytes]] = {}
        for key, raw in self.items.items():
            for tag in tags_of(raw):
                found.setdefault(tag, set()).add(key)
        faults = {
            "the size": self.size == sum(cost(key, raw) for key, raw in self.items.items()),
            "the tags": self.tags == found,
            "the expiries": self.expiries.keys() <= self.items.keys(),
            "the order of the expiries": {(at, key) for key, at in self.expiries.items()}
            <= set(self._due),
            "the ranks": self.ranks.keys() <= self.items.keys(),
        }
        for what, good in faults.items():
            if not good:
                raise DamageError(
                    f"{what} in memory is not what the entries say",
                    hint="Open the cache again: it is made anew from the log",
                )


_ENTRY_KINDS = frozenset(bytes([kind]) for kind in KINDS)
_TAKE: dict[bytes, Callable[[State, Record], None]] = {
    b"-": State._gone,
    b"~": State._news,
    b"+": State._news,
    b"L": State._lease,
    b"U": State._unlease,
    b"#": State._evict_tag,
    b"*": State._clear,
}
