"""A document store: JSON documents, of which a change logs the fields that it changes.

    from treering.stores.documents import DocumentStore

    with DocumentStore("people", indexes={"city": "/address/city"}) as people:
        people.put("ada", {"name": "Ada", "address": {"city": "London"}, "visits": 0})
        people.set("ada", "/address/city", "Vienna")   # logs the city; durable when it returns
        people.increment("ada", "/visits")
        with people.edit("ada") as ada:                # logs what differs at the end
            ada["tags"] = ["mathematics"]
        for found in people.find(city="Vienna"):
            print(found.id, found.version, found.content)
        print(people.get("ada", version=1), people.history("ada"))

Records: one for each field that a change changes, all of it one atomic batch, which says the
document's new version and where the change before it is. State: the documents as trees that are
never changed, so that copies share them; ids and indexes in order.
"""

from __future__ import annotations

from .content import Codec, JsonCodec
from .errors import (
    DuplicateError,
    NoDocumentError,
    NoIndexError,
    NoPathError,
    VersionConflictError,
    VersionPrunedError,
)
from .history import Change, Version
from .index import Index
from .reading import Document, View
from .store import DocumentStore

__all__ = [
    "Change",
    "Codec",
    "Document",
    "DocumentStore",
    "DuplicateError",
    "Index",
    "JsonCodec",
    "NoDocumentError",
    "NoIndexError",
    "NoPathError",
    "Version",
    "VersionConflictError",
    "VersionPrunedError",
    "View",
]
