"""How bytes come in: from memory, from a file, piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any

from treering import ClosedError, UsageError

from .refs import BlobRef
from .staging import STEP_BYTES, Staging


class BlobWriter:
    """A blob that is written piece by piece; made by `BlobStore.writer`. At the end of the block it
    is put, and `ref` is its reference; if the block raises, nothing is. For one thread at a time.
    """

    def __init__(self, staging: Staging, commit: Callable[[Staging], BlobRef]) -> None:
        self._staging, self._commit = staging, commit
        self._open = True
        self.ref: BlobRef | None = None

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Add bytes; how many. After an error the blob cannot be put any more."""
        self._check_open()
        try:
            return self._staging.write(data)
        except BaseException:
            self._staging.spoil()
            raise

    def tell(self) -> int:
        """How many bytes were written."""
        return self._staging.size

    def commit(self) -> BlobRef:
        """Put what was written; as `BlobStore.put`. The block's end does it."""
        self._check_open()
        self._open = False
        try:
            self.ref = self._commit(self._staging)
        finally:
            self._staging.close()
        return self.ref

    def abort(self) -> None:
        """Remove what was written; idempotent, and nothing after `commit`."""
        self._open = False
        self._staging.close()

    def _check_open(self) -> None:
        if not self._open:
            raise ClosedError("the blob is finished", hint="Begin another one with writer()")

    def __enter__(self) -> BlobWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None and self._open:
            self.commit()
        else:
            self.abort()


def feed(staging: Staging, data: Any) -> None:
    """Write all that `data` has: bytes, a binary file, or an iterable of bytes."""
    if isinstance(data, bytes):
        staging.take(data)
    elif isinstance(data, bytearray | memoryview):
        staging.write(data)
    elif callable(getattr(data, "read", None)):
        _feed_file(staging, data)
    elif isinstance(data, Iterable) and not isinstance(data, str):
        for piece in data:
            staging.write(piece)
    else:
        raise UsageError(
            f"a blob is bytes, a binary file or an iterable of bytes, not {type(data).__name__}",
            hint='For a path say put(open(path, "rb")); encode a text',
        )


def _feed_file(staging: Staging, file: Any) -> None:
    while True:
        piece = file.read(STEP_BYTES)
        if piece is None:
            raise UsageError("the file has nothing to read yet", hint="Make it a blocking one")
        if not staging.write(piece):
            return
