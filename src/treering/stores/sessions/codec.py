"""A session's data as bytes and back."""

from __future__ import annotations

import json
from typing import Any, Protocol

from treering import DamageError, TooLargeError, UsageError

RAW, CODED = b"b", b"c"  # how a session's data begins


class Codec(Protocol):
    """How data becomes bytes. All that use one store have to use codecs that read each other's;
    that of `treering.integrations.msgspec` is one, too."""

    def encode(self, data: Any) -> bytes:
        """`data` as bytes; TypeError or ValueError for what cannot be written."""

    def decode(self, raw: bytes) -> Any:
        """Plain values from bytes; ValueError for others' bytes."""


class JsonCodec:
    """JSON, with the standard library: a tuple comes back as a list, a dict's keys as texts."""

    def __init__(self) -> None:
        # A circle ends as a RecursionError, too, and looking for one costs every save.
        self._encode = json.JSONEncoder(
            ensure_ascii=False, check_circular=False, separators=(",", ":"), allow_nan=False
        ).encode
        self._decode = json.JSONDecoder().decode

    def encode(self, data: Any) -> bytes:
        """See Codec."""
        return self._encode(data).encode()

    def decode(self, raw: bytes) -> Any:
        """See Codec."""
        return self._decode(raw.decode())


class Values:
    """Data to what the log keeps, and back, within a limit."""

    def __init__(self, codec: Codec | None, bytes_max: int) -> None:
        self._codec: Codec = JsonCodec() if codec is None else codec
        self._bytes_max = bytes_max

    def pack(self, data: Any) -> bytes:
        """Bytes as they are, anything else by the codec; UsageError, TooLargeError."""
        if isinstance(data, bytes | bytearray | memoryview):
            packed = RAW + bytes(data)
        else:
            packed = CODED + self.encoded(data)
        if len(packed) - 1 > self._bytes_max:
            raise TooLargeError(
                f"a session's data of {len(packed) - 1} bytes, {self._bytes_max} are allowed",
                hint="Keep large things elsewhere and their names here, or raise session_bytes_max",
            )
        return packed

    def encoded(self, data: Any) -> bytes:
        """What the codec makes of it, however large; UsageError."""
        try:
            return self._codec.encode(data)
        except (TypeError, ValueError, RecursionError) as error:
            raise UsageError(
                f"the data of a session cannot be written: {error}",
                hint="Use JSON values, bytes, or a codec that can",
            ) from error

    def unpack(self, packed: bytes) -> Any:
        """What was packed, anew each time."""
        raw = packed[1:]
        if packed[:1] == RAW:
            return raw
        try:
            return self._codec.decode(raw)
        except (TypeError, ValueError, RecursionError) as error:
            raise DamageError(
                f"the data of a session is not what the codec writes: {error}",
                hint="Open the store with the codec that wrote it",
            ) from error
