"""What a call may append: the record that its keywords describe, within the limits."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from . import compression
from . import format as fmt
from .arguments import whole_nanoseconds
from .codec import Record, frame_bytes
from .control import Control
from .errors import TooLargeError, UsageError
from .options import RECORD_BYTES_RECOMMENDED, WalConfig


class LargeRecordWarning(UserWarning):
    """A record over the recommended size (1 MiB): it works, but slows replay for everybody. Said
    once per handle. `treering.stores.blobs` keeps large values."""


class Intake:
    """Turns calls into records. Thread-safe; changes nothing in the log."""

    def __init__(self, config: WalConfig, control: Control) -> None:
        self._config = config
        self._control = control
        self._warned = False
        # Values up to this size take the fast path, which checks nothing else.
        self.plain_bytes_max = min(
            config.record_bytes_max - fmt.KEY_BYTES_MAX - fmt.RECORD_HEADER_BYTES,
            config.batch_bytes_max,
            RECORD_BYTES_RECOMMENDED // 2,
        )
        if config.compression is not None:
            self.plain_bytes_max = -1

    def make(
        self,
        key: bytes,
        value: bytes,
        tombstone: bool,
        ttl: float | None,
        expires_at: float | None,
        headers: Any,
        compression_name: str | None,
        stream: int,
    ) -> Record:
        """The record that a call's keywords describe."""
        record = self.with_ttl(
            Record,
            key,
            value,
            ttl=ttl,
            expires_at=expires_at,
            headers=headers,
            stream=stream,
            tombstone=tombstone,
        )
        return self.compressed(record, compression_name)

    def as_record(self, item: Record | tuple[bytes, bytes]) -> Record:
        """A batch's item as a record."""
        if isinstance(item, tuple) and len(item) == 2:
            item = Record(*item)
        if not isinstance(item, Record):
            raise UsageError(
                f"a batch holds records, not {type(item).__name__}",
                hint="Make them with Record.put(key, value) or Record.delete(key)",
            )
        return item

    def with_ttl(
        self, kind: Callable[..., Record], *fields: Any, ttl: float | None = None, **options: Any
    ) -> Record:
        """kind(*fields, **options), with an expiry `ttl` seconds from now."""
        if ttl is None:
            return kind(*fields, **options)
        if options.pop("expires_at", None) is not None:
            raise UsageError("give ttl or expires_at, not both")
        span_ns = whole_nanoseconds(ttl, "ttl")
        if not 0 < span_ns <= fmt.TIME_NS_MAX // 2:
            raise UsageError(f"ttl must be a number of seconds over 0, not {ttl!r}")
        # A record may claim to be from the end of time; none can expire after that.
        expires_at_ns = min(self.now_ns() + span_ns, fmt.TIME_NS_MAX)
        return kind(*fields, expires_at_ns=expires_at_ns, **options)

    def now_ns(self) -> int:
        """The time for expiry: never before the newest record in the log (clocks step back)."""
        return max(self._config.now_ns(), self._control.load(fmt.WORD_NEWEST))

    def compressed(self, record: Record, name: str | None) -> Record:
        """The record as it will be stored."""
        if name is None:
            name = self._config.compression or "none"
        if name not in ("none", *fmt.COMPRESSIONS):
            raise UsageError(
                f"unknown compression {name!r:.60}",
                hint=f"Known are none, {', '.join(fmt.COMPRESSIONS)}",
            )
        if name == "none" or record.tombstone or not record.value:
            return record
        packed = compression.compress(name, bytes(record.value))
        return record if packed is None else record._packed(fmt.COMPRESSIONS[name], packed)

    def check_sizes(self, records: Sequence[Record]) -> None:
        """TooLargeError for a record or a batch over its limit; a warning, once, for large ones."""
        config = self._config
        total = 0
        for record in records:
            size = frame_bytes((record,), 1) - fmt.FRAME_HEADER_BYTES
            total += size
            if size > config.record_bytes_max:
                raise TooLargeError(
                    f"the record takes {size} bytes, record_bytes_max is {config.record_bytes_max}",
                    hint="Raise the limit, or keep large values in files and log a reference",
                )
            if size > RECORD_BYTES_RECOMMENDED and not self._warned:
                self._warned = True
                warnings.warn(
                    f"a record of {size} bytes: over 1 MiB, keep the value in a file (a blob "
                    "store does: treering.stores.blobs) and log a reference to it. Said once per "
                    "handle; warnings.simplefilter('ignore', treering.LargeRecordWarning) silences "
                    "it",
                    LargeRecordWarning,
                    stacklevel=_callers_level(),
                )
        if len(records) > 1 and total > config.batch_bytes_max:
            raise TooLargeError(
                f"the batch takes {total} bytes, batch_bytes_max is {config.batch_bytes_max}",
                hint="Append it in several batches, or raise the limit",
            )


def _callers_level() -> int:
    """The stack level, for warnings, of the first caller outside of this package."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals["__name__"].startswith("treering."):
        level, frame = level + 1, frame.f_back
    return level
