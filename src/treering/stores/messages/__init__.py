"""A message log: topics that any process appends to, and consumers that remember how far they are.

    from treering.stores.messages import MessageLog

    with MessageLog("events") as log:
        log.publish("orders", b"two apples", key=b"ada")     # durable when it returns
        billing = log.consumer("billing", "orders")           # goes on where it left off
        for order in billing:
            with log.batch() as batch:                         # all or nothing: exactly once
                batch.publish("bills", b"for " + order.value)
                batch.commit(billing)
        workers = log.group("packing", "orders", lease=30)    # processes share a topic
        for order in workers.get(10):
            workers.ack(order)

Records: a message is a record, a commit, a lease, an acknowledgement another. State: where each
topic's messages are in the log, how far consumers are, what members of groups have. Values stay in
the log, except those of compacted topics.
"""

from __future__ import annotations

from .consumer import Consumer
from .group import Delivery, Group, LeaseLostError
from .reading import Messages
from .store import MessageLog
from .topic import Message
from .view import LogView
from .writing import Batch

__all__ = [
    "Batch",
    "Consumer",
    "Delivery",
    "Group",
    "LeaseLostError",
    "LogView",
    "Message",
    "MessageLog",
    "Messages",
]
