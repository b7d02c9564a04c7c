"""Streams of events that are never changed, in one order that everybody sees the same.

    from treering.stores.events import Event, EventStore, NO_STREAM

    with EventStore("orders") as store:
        store.append("order-1", Event("created", {"by": "ada"}), expected_version=NO_STREAM)
        store.append("order-1", [Event("added", {"item": "tea"}), Event("paid", {"cents": 450})])
        for event in store.read("order-1"):
            print(event.version, event.type, event.data)
        counts = store.projection("counts", count)  # def count(view, event): view[event.type] = …
        counts.catch_up()

Records: an event is one record, with its stream, version and type in the key; an append is one
atomic frame. State: the positions of each stream's events, so that reading a stream reads just
these. Events stay in the log for ever; checkpoints only make opening quick.
"""

from __future__ import annotations

from treering.fold.kit import ProjectionView

from .codec import Codec, JsonCodec
from .event import ANY, NO_STREAM, Appended, Event, RecordedEvent, Snapshot
from .names import DuplicateEventError, WrongVersionError
from .projecting import Projection
from .reading import Aggregate, EventReader, View
from .store import EventStore
from .subscribing import Subscription

__all__ = [
    "ANY",
    "Aggregate",
    "Appended",
    "Codec",
    "DuplicateEventError",
    "Event",
    "EventReader",
    "EventStore",
    "JsonCodec",
    "NO_STREAM",
    "Projection",
    "ProjectionView",
    "RecordedEvent",
    "Snapshot",
    "Subscription",
    "View",
    "WrongVersionError",
]
