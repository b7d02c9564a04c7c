"""Which entries go when the cache is full."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from heapq import nsmallest

from treering import Record, StorageError, UsageError

from .records import gone_record
from .state import State, cost

POLICIES = ("lru", "lfu", "none")


class CacheFullError(StorageError):
    """There is no room, and the policy "none" evicts nothing. Nothing was changed."""


# So much more than needed goes at once, a part of the bound: so that this work is rarely done.
_MORE = 64
# At most so many bytes of keys in one record: the next one names the others.
_RECORD_BYTES_MAX = 1 << 20


def check_policy(policy: object) -> str:
    """The name of a policy."""
    if policy not in POLICIES:
        raise UsageError(f"eviction is one of {', '.join(POLICIES)}, not {policy!r:.40}")
    return str(policy)


def room_records(
    state: State, bound: int, policy: str, used: Mapping[bytes, int], spare: Collection[bytes]
) -> tuple[list[Record], int]:
    """The records that make the cache fit, or begin to; and how many entries they evict. `used` is
    what this process used and has not told, `spare` was set just now: it goes last. First goes what
    is over, whatever the policy."""
    state.mend()
    if state.size <= bound:
        return [], 0
    all_over = state.over()
    over, left = _taken(state, all_over, state.size - bound)
    if left <= 0 or policy == "none" or len(over) < len(all_over):
        return ([gone_record(over, state.age)] if over else []), 0
    skip = {*over, *spare}
    order = _least_used(state, used, skip) if policy == "lfu" else _longest_unused(state, used)
    chosen, _ = _taken(state, (key for key in order if key not in skip), left + bound // _MORE)
    if not chosen:
        chosen, _ = _taken(state, (key for key in spare if key in state.items), left)
    if not over and not chosen:
        return [], 0
    age = state.age
    if policy == "lfu" and chosen:
        age = max(age, _rank(state, chosen[-1]))
    return [gone_record(over + chosen, age)], len(chosen)


def _taken(state: State, keys: Iterable[bytes], need: int) -> tuple[list[bytes], int]:
    """So many of the keys that their entries come to `need` bytes; what is still missing."""
    taken, items = [], state.items
    for key in named(keys):
        if need <= 0:
            break
        need -= cost(key, items[key])
        taken.append(key)
    return taken, need


def named(keys: Iterable[bytes]) -> Iterator[bytes]:
    """The first of the keys: as many as one record may name."""
    size = 0
    for key in keys:
        if size > _RECORD_BYTES_MAX:
            return
        size += len(key)
        yield key


def _longest_unused(state: State, used: Mapping[bytes, int]) -> Iterator[bytes]:
    for key in state.items:
        if key not in used:
            yield key
    yield from (key for key in used if key in state.items)


def _rank(state: State, key: bytes) -> int:
    return state.ranks.get(key, 1)


def _least_used(state: State, used: Mapping[bytes, int], skip: Collection[bytes]) -> list[bytes]:
    """Of the same rank, the longest unused first."""
    ranks = state.ranks
    # So many at most: if they are not enough, the caller comes again.
    many = len(state.items) // (_MORE // 2) + 16
    keys = (key for key in state.items if key not in skip)
    return nsmallest(many, keys, key=lambda key: ranks.get(key, 1) + used.get(key, 0))


def within(state: State, bound: int, records: list[Record]) -> list[Record]:
    """For the policy "none": records that set something, and before them, if it takes that, one
    that removes what is over. CacheFullError if there is no room for them."""
    state.mend()
    keys = {record.key: cost(record.key, bytes(record.value)) for record in records}
    held = {key: cost(key, raw) for key in keys if (raw := state.items.get(key))}
    need = state.size + sum(keys.values()) - sum(held.values()) - bound
    if need <= 0:
        return records
    over = [key for key in state.over() if key not in keys]
    if sum(cost(key, state.items[key]) for key in over) < need:
        raise CacheFullError(
            f"the cache has no room: {bound} bytes are allowed",
            hint="Delete something, give entries a ttl, or open it with eviction='lru'",
        )
    return [gone_record(over, state.age), *records]
