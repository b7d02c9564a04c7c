"""memoize: of all that want the same result at once, in all threads, tasks and processes, one
computes it.

Who finds nothing asks for a lease, which is a record, so only one gets it. The others wait until
there is a value; if the lease is over, or given back, the next one gets it. The result is set only
if the lease still holds: nobody deleted the entry meanwhile.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from treering import DiskFullError, Record, TooLargeError, TreeringError, UsageError

from .bounded import Bounded
from .keys import Key, encode_arguments, encode_key
from .records import SECOND, Lease, check_ttl, lease_record, unlease_record
from .values import check_tags, decode, encode, fresh, fresh_until, tagged
from .victims import CacheFullError

if TYPE_CHECKING:
    from .state import State

F = TypeVar("F", bound=Callable[..., Any])

_MISSING: Any = object()
Mark = tuple[int, bytes]
# What this thread or task is computing: a function that asks for its own result gets it computed.
# Tasks that it leaves behind have this still when it has ended: the list is empty then.
_computing: ContextVar[Mapping[Mark, list[bool]]] = ContextVar(
    "computing", default=MappingProxyType({})
)

# How long a task sleeps between two looks whether another process is done.
_LOOK_SECONDS_MIN, _LOOK_SECONDS_MAX = 0.001, 0.05


class Memoizing(Bounded):
    """The part of a cache that remembers what functions return."""

    def _begin_memoizing(self) -> None:
        # What tasks of this process wait for: so only one of them asks other processes.
        self._flights: dict[tuple[int, bytes], asyncio.Future[bytes]] = {}

    def memoize(
        self,
        ttl: float | None = None,
        tags: Iterable[str] = (),
        name: str | None = None,
        key: Callable[..., Key] | None = None,
        *,
        stale: float = 0,
        lease: float = 30,
    ) -> Callable[[F], F]:
        """A decorator for functions and coroutine functions: a result is kept for `ttl` seconds
        (None: for ever), and of all that want it at once, in all processes, one computes it.

        Others wait; with `stale`, the old result is given out for so many seconds after its `ttl`
        while one computes anew. Who dies while computing is replaced after `lease` seconds; what
        takes longer may be computed twice. Exceptions are raised and not kept. A deleted entry is
        not set by who began before.

        The key is `name` (default: module and qualified name; a lambda has none) and the arguments,
        which are keys, None, bool or float (given by name they count as given by place); or what
        `key(*args, **kwargs)` returns, with the name. The function gets `cache_key(*args)`, the key
        for `get` and the like, `invalidate(*args)`, which deletes, and `__wrapped__`. What a result
        may be is what `set` takes; one that is too large, or finds the disk full, is returned and
        not kept. UsageError for bad arguments, here and in the call."""
        if callable(ttl):
            raise UsageError("memoize takes options", hint="Write @cache.memoize()")
        terms = _Terms(
            None if ttl is None else check_ttl(ttl),
            check_ttl(stale, "stale") if stale else 0,
            check_ttl(lease, "lease"),
            check_tags(tags),
        )

        def decorate(function: F) -> F:
            keys = _Keys(function, name, key)
            make = _of_coroutine if inspect.iscoroutinefunction(function) else _of_function
            memo = make(self, function, keys, terms)
            memo.cache_key = keys.of
            memo.invalidate = lambda *a, **k: self.delete(keys.of(*a, **k))
            return functools.wraps(function)(memo)  # type: ignore[return-value]

        return decorate

    def delete(self, key: Key) -> bool:
        """As the cache's."""
        raise NotImplementedError

    def get(self, key: Key, default: Any = None) -> Any:
        """As the cache's."""
        raise NotImplementedError

    # --- what it takes from the log ---

    def _fresh(self, key: Key, coded: bytes) -> Any:
        """The value, if it need not be computed anew."""
        state = self._log.state()
        raw = state.get(coded)
        if raw is None or not _is_fresh(state, raw):
            return _MISSING
        return self.get(key, _MISSING)

    def _claim(self, coded: bytes, terms: _Terms, overdue: bytes | None) -> _Claim:
        """A value if there is one, or the right to compute it, or for whom to wait. A lease whose
        token is `overdue` does not count any more."""
        claim = _Claim()

        def decide(state: State) -> list[Record]:
            nonlocal claim
            now_ns, raw = state.now_ns(), state.get(coded)
            held = state.leases.get(coded)
            waits = held is not None and held.until_ns > now_ns and held.token != overdue
            if raw is not None and (waits or _is_fresh(state, raw)):
                claim = _Claim(value=decode(raw, self._codec), raw=raw)
            elif waits and held is not None:
                left = min(held.until_ns - now_ns, terms.lease_ns) / SECOND
                claim = _Claim(wait_for=held.token, seconds=left, position=self._log.position)
            else:
                token = os.urandom(16)
                claim = _Claim(token=token)
                lease = Lease(token, now_ns + terms.lease_ns, tuple(terms.tags))
                return [lease_record(coded, lease)]
            return []

        try:
            self._log.command(decide, durable=False)
        except DiskFullError:
            return _Claim(token=b"none")  # computed without a lease, and not kept
        self._used.misses += bool(claim.token)
        return claim

    def _keep(self, coded: bytes, token: bytes, value: Any, terms: _Terms) -> bytes:
        """Set what was computed, if the lease still holds; it as bytes."""
        raw = b""

        def decide(state: State) -> list[Record]:
            held = state.leases.get(coded)
            if held is None or held.token != token:
                return []
            if terms.ttl_ns is None:
                return [Record(coded, tagged(raw, terms.tags))]
            until_ns = state.now_ns() + terms.ttl_ns
            whole = fresh(raw, until_ns) if terms.stale_ns else raw
            expiry = until_ns + terms.stale_ns
            return [Record(coded, tagged(whole, terms.tags), expires_at_ns=expiry)]

        try:
            raw = encode(value, self._codec)
            self._check_size(coded, tagged(fresh(raw, 0), terms.tags))
            self._command(decide)
        except (TooLargeError, DiskFullError, CacheFullError):
            self._give_back(coded, token)
        except BaseException:
            self._give_back(coded, token)
            raise
        return raw

    def _give_back(self, coded: bytes, token: bytes) -> None:
        """The next one may compute. If that cannot be written the lease will be over in time."""
        try:
            self._log.append([unlease_record(coded, token)], durable=False)
        except TreeringError:
            pass


class _Terms(NamedTuple):
    ttl_ns: int | None
    stale_ns: int
    lease_ns: int
    tags: list[bytes]


class _Claim(NamedTuple):
    """A value; or the token of a lease; or whose lease to wait for, and how long at most."""

    value: Any = _MISSING
    raw: bytes = b""
    token: bytes = b""
    wait_for: bytes = b""
    seconds: float = 0.0
    position: int = 0


class _Patience:
    """How long this caller has waited for whose lease, by a clock that nobody sets."""

    def __init__(self, terms: _Terms) -> None:
        self._seconds = terms.lease_ns / SECOND
        self._token = b""
        self._since = 0.0

    def overdue(self) -> bytes | None:
        """The token that was waited for long enough, whatever the clocks say."""
        late = time.monotonic() - self._since >= self._seconds
        return self._token if self._token and late else None

    def wait_for(self, token: bytes) -> None:
        """Begin to wait, or go on."""
        if token != self._token:
            self._token, self._since = token, time.monotonic()


class _Keys:
    """The key of a call."""

    def __init__(self, function: Any, name: str | None, key: Callable[..., Key] | None) -> None:
        if not callable(function):
            raise UsageError(f"memoize decorates functions, not {type(function).__name__}")
        self._name = name or _name_of(function)
        self._key = key
        self._signature = None if key is not None else _signature_of(function)
        if type(self._name) is not str:
            raise UsageError(f"name must be a text, not {name!r:.40}")
        encode_key(self._name)

    def of(self, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """The key under which the result of that call is."""
        if self._key is not None:
            return self._name, self._key(*args, **kwargs)
        if kwargs and self._signature is not None:
            try:
                bound = self._signature.bind(*args, **kwargs)
            except TypeError as error:
                raise UsageError(f"these are not the function's arguments: {error}") from error
            args, kwargs = bound.args, bound.kwargs
        named = tuple(part for pair in sorted(kwargs.items()) for part in pair)
        return self._name, encode_arguments(args), *((encode_arguments(named),) if named else ())


def _name_of(function: Any) -> str:
    name = getattr(function, "__qualname__", "<lambda>")
    if name.endswith("<lambda>"):  # others at the same place have the same name
        raise UsageError("what has no name of its own needs one", hint="memoize(name=...)")
    return f"{function.__module__}.{name}"


def _signature_of(function: Any) -> inspect.Signature:
    try:
        return inspect.signature(function)
    except (ValueError, TypeError) as error:
        raise UsageError(
            f"nobody knows the arguments of {function!r:.60}",
            hint="Say what the key is: memoize(key=lambda ...: ...)",
        ) from error


def _is_fresh(state: State, raw: bytes) -> bool:
    until_ns = fresh_until(raw)
    return until_ns is None or until_ns > state.now_ns()


@contextmanager
def _marked(mark: Mark) -> Iterator[None]:
    """Within, this thread or task computes that."""
    going = [True]
    before = _computing.set({**_computing.get(), mark: going})
    try:
        yield
    finally:
        going.clear()
        _computing.reset(before)


def _of_function(cache: Memoizing, function: Any, keys: _Keys, terms: _Terms) -> Any:
    def memo(*args: Any, **kwargs: Any) -> Any:
        key = keys.of(*args, **kwargs)
        coded = encode_key(key)
        value = cache._fresh(key, coded)
        if value is not _MISSING:
            return value
        mark = (id(cache), coded)
        if cache.read_only or _computing.get().get(mark):
            return function(*args, **kwargs)
        patience = _Patience(terms)
        while True:
            claim = cache._claim(coded, terms, patience.overdue())
            if claim.value is not _MISSING:
                return claim.value
            if claim.token:
                break
            patience.wait_for(claim.wait_for)
            cache._log.wait(claim.seconds, position=claim.position)
            time.sleep(_LOOK_SECONDS_MIN)  # others may write all the time
        try:
            with _marked(mark):
                value = function(*args, **kwargs)
        except BaseException:
            cache._give_back(coded, claim.token)
            raise
        cache._keep(coded, claim.token, value, terms)
        return value

    return memo


def _of_coroutine(cache: Memoizing, function: Any, keys: _Keys, terms: _Terms) -> Any:
    async def memo(*args: Any, **kwargs: Any) -> Any:
        key = keys.of(*args, **kwargs)
        coded = encode_key(key)
        mark = (id(cache), coded)
        if cache.read_only or _computing.get().get(mark):
            found = cache._fresh(key, coded)
            return await function(*args, **kwargs) if found is _MISSING else found
        loop = asyncio.get_running_loop()
        while True:
            value = cache._fresh(key, coded)
            if value is not _MISSING:
                return value
            flight = cache._flights.get((id(loop), coded))
            if flight is None:
                break
            stale = cache.get(key, _MISSING)
            if stale is not _MISSING:
                return stale
            await asyncio.wait([flight])
            if flight.result():
                return decode(flight.result(), cache._codec)  # one of its own for each
        flight = cache._flights[id(loop), coded] = loop.create_future()
        raw = b""
        try:
            value, raw = await _lead(cache, coded, mark, terms, lambda: function(*args, **kwargs))
        finally:
            del cache._flights[id(loop), coded]
            flight.set_result(raw)
        return value

    return memo


async def _lead(
    cache: Memoizing, coded: bytes, mark: Mark, terms: _Terms, call: Any
) -> tuple[Any, bytes]:
    """Get a result for all tasks of this process, also as bytes."""
    patience, seconds = _Patience(terms), _LOOK_SECONDS_MIN
    while True:
        claim = cache._claim(coded, terms, patience.overdue())
        if claim.value is not _MISSING:
            return claim.value, claim.raw
        if claim.token:
            break
        patience.wait_for(claim.wait_for)
        await asyncio.sleep(min(seconds, max(claim.seconds, _LOOK_SECONDS_MIN)))
        seconds = min(2 * seconds, _LOOK_SECONDS_MAX)
    try:
        with _marked(mark):
            value = await call()
    except BaseException:
        cache._give_back(coded, claim.token)
        raise
    return value, cache._keep(coded, claim.token, value, terms)
