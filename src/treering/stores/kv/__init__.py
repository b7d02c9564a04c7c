"""A key-value store: a mapping over bytes that survives, in as many processes as you like.

    from treering.stores.kv import KeyValueStore

    with KeyValueStore("users") as users:
        users[b"ada"] = b"1815"                       # durable when it returns
        with users.write_batch() as batch:             # all or nothing
            batch.put(b"alan", b"1912")
            batch.delete(b"ada")
        for key, value in users.iterator(prefix=b"a"):
            print(key, value)

Records: a put is a put, a delete a tombstone, a batch one atomic frame. State: a dict, its expiry
times, and its keys in order, sorted when somebody asks for them. Methods and keywords are those of
plyvel (LevelDB), so that code moves over by its import; it is a `MutableMapping` besides.
"""

from __future__ import annotations

from .encoded import Dbm, TextStore, error, open
from .keys import NotBytesError
from .prefixed import PrefixedStore
from .reading import KeyIterator, Prefixed, View
from .store import KeyValueStore
from .watching import Change, Watch
from .writing import WriteBatch

__all__ = [
    "Change",
    "Dbm",
    "KeyIterator",
    "KeyValueStore",
    "NotBytesError",
    "Prefixed",
    "PrefixedStore",
    "TextStore",
    "View",
    "Watch",
    "WriteBatch",
    "error",
    "open",
]
