"""A cache that survives: expiry, tags, a bound in bytes, memoize without stampedes.

    from treering.stores.cache import Cache

    with Cache("cache", size_bytes_max=64 << 20) as cache:
        cache.set("page", b"<html>", ttl=60, tags=["shop"])
        print(cache.get("page"), cache.incr("visits"))

        @cache.memoize(ttl=300)                 # one caller computes, in all processes
        def price(article: int) -> float: ...

        cache.evict("shop")                     # whatever has the tag, atomically

Records: a set is a put that carries its own expiry and tags, a delete a tombstone; what is evicted
is decided by the process that writes, and named in a record, so every process drops the same.
State: an ordered dict, the longest unused first. Reading writes nothing, except for short news, now
and then, of what was used (`Cache` says when).
"""

from __future__ import annotations

from .keys import Key
from .store import Cache
from .values import Codec
from .victims import CacheFullError

__all__ = ["Cache", "CacheFullError", "Codec", "Key"]
