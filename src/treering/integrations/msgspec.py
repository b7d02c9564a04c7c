"""msgspec structs as events (extra `msgspec`): a codec for the event store and the document store.

    from treering.integrations.msgspec import MsgspecCodec

    store = EventStore("orders", codec=MsgspecCodec())
    people = DocumentStore("people", codec=MsgspecCodec())

It writes JSON, so what the standard codec wrote it reads, and the other way round.
"""

from __future__ import annotations

from typing import Any

from treering import MissingExtraError

try:
    import msgspec
except ImportError as error:
    raise MissingExtraError(
        "msgspec is not installed", hint="pip install 'treering[msgspec]'"
    ) from error


class MsgspecCodec:
    """JSON by msgspec: structs, dataclasses, and what else it knows (datetime, Decimal, UUID …).
    Registered classes are validated when they are read. Thread-safe."""

    def __init__(self) -> None:
        self._encoder = msgspec.json.Encoder()
        self._decoder = msgspec.json.Decoder()

    def encode(self, data: Any) -> bytes:
        """`data` as JSON; TypeError or ValueError for what msgspec does not write."""
        encoded: bytes = self._encoder.encode(data)
        return encoded

    def decode(self, raw: bytes) -> Any:
        """Plain values; ValueError if it is not JSON."""
        return self._decoder.decode(raw)

    def build(self, value: Any, cls: type[Any]) -> Any:
        """An instance of the class; ValueError if the value does not fit."""
        return msgspec.convert(value, cls)
