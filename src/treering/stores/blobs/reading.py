"""Looking at a store: the same for a store and a store as it was."""

from __future__ import annotations

import io
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, BinaryIO, NamedTuple

from treering import NotThereError, TooLargeError, UsageError

from . import records as rec
from .checked import BlobFile, Checked
from .objects import Objects
from .records import Blob
from .refs import BlobRef, Hashing, digest_of, name_bytes
from .state import State

GET_BYTES_MAX = 64 << 20


class BlobInfo(NamedTuple):
    """What the store knows of a blob: how many names it has, whether it was put without one and not
    deleted, the metadata of that put, and when it came (seconds since 1970)."""

    ref: BlobRef
    names: int
    held: bool
    metadata: dict[str, str]
    stored_at: float


class Readable(ABC):
    """Queries. References may be given as text. NotThereError for a blob to which nothing refers;
    DamageError, with file and offset, where bytes are not what was put, and none are returned."""

    _objects: Objects
    _hashing: Hashing

    @abstractmethod
    def _looking(self) -> AbstractContextManager[State]:
        """The state, which stands still meanwhile."""

    @abstractmethod
    def _missing(self, ref: BlobRef) -> Exception:
        """The error for a blob with references but without a file."""

    # --- the bytes ---

    def get(self, ref: BlobRef | str, *, bytes_max: int = GET_BYTES_MAX) -> bytes:
        """All bytes of a blob, checked by its digest. TooLargeError over `bytes_max`: see `open`
        and `chunks`, which take no memory to speak of."""
        _whole_number(bytes_max, "bytes_max")
        with self._opened(ref) as (checked, _):
            if checked.size > bytes_max:
                raise TooLargeError(
                    f"the blob has {checked.size} bytes, bytes_max is {bytes_max}",
                    hint="Raise bytes_max, or use open() or chunks()",
                )
            return checked.whole()

    def read(self, ref: BlobRef | str, offset: int, length: int) -> bytes:
        """`length` bytes from `offset` on; fewer at the end. Reads and checks the chunks of 64 KiB
        (larger ones over 8 GiB) that they lie in."""
        _whole_number(offset, "offset")
        _whole_number(length, "length")
        with self._opened(ref) as (checked, _):
            return checked.part(min(offset, checked.size), min(offset + length, checked.size))

    def chunks(self, ref: BlobRef | str) -> Iterator[bytes]:
        """All bytes in pieces of 1 MiB. Each is checked before it is given, and the digest of all
        before the last is. What was open stays readable, whatever is deleted meanwhile."""
        checked = self._open(ref)[0]
        return _closing(checked)

    def open(self, ref: BlobRef | str) -> BinaryIO:
        """The blob as a binary file to read and to seek in; close it. Each chunk is checked before
        a byte of it is given; and the digest, when all is read in order."""
        checked, blob = self._open(ref)
        return io.BufferedReader(BlobFile(checked, blob.shift), 1 << blob.shift)

    @contextmanager
    def _opened(self, ref: BlobRef | str) -> Iterator[tuple[Checked, Blob]]:
        checked, blob = self._open(ref)
        with checked:
            yield checked, blob

    def _open(self, ref: BlobRef | str) -> tuple[Checked, Blob]:
        """The object. Another process may delete and collect the blob, and put it again, between a
        look at the state and one at the file: then we look once more."""
        seen = -1
        while True:
            full, blob = self._find(ref)
            name = full.digest.hex()
            source = self._objects.open(name)
            if source is not None:
                return Checked(source, blob, full, self._objects.where(name), self._hashing), blob
            if seen == blob.position:
                raise self._missing(full)
            seen = blob.position

    def _find(self, ref: Any) -> tuple[BlobRef, Blob]:
        digest = digest_of(ref, self._hashing.name)
        with self._looking() as state:
            blob = state.blobs.get(digest)
        if blob is None:
            raise not_there(BlobRef(self._hashing.name, digest))
        return self._ref(digest, blob), blob

    def _ref(self, digest: bytes, blob: Blob) -> BlobRef:
        return BlobRef(self._hashing.name, digest, blob.size)

    # --- references ---

    def ref(self, name: str) -> BlobRef:
        """What the name stands for: O(1). NotThereError if it stands for nothing."""
        packed = name_bytes(name)
        with self._looking() as state:
            link = state.links.get(packed)
            if link is None:
                raise no_such_name(name)
            return self._ref(link.digest, state.blobs[link.digest])

    def metadata(self, name: str) -> dict[str, str]:
        """What was said with the name when it was linked: O(1). NotThereError as `ref`."""
        packed = name_bytes(name)
        with self._looking() as state:
            link = state.links.get(packed)
        if link is None:
            raise no_such_name(name)
        return rec.metadata_of(link.metadata)

    def names(self, prefix: str = "") -> dict[str, BlobRef]:
        """All names that begin with `prefix`, sorted, and what they stand for. O(all names)."""
        start = name_bytes(prefix) if prefix or not isinstance(prefix, str) else b""
        with self._looking() as state:
            found = sorted(pair for pair in state.links.items() if pair[0].startswith(start))
            return {
                name.decode(errors="replace"): self._ref(link.digest, state.blobs[link.digest])
                for name, link in found
            }

    def refs(self) -> list[BlobRef]:
        """All blobs that have references, sorted by digest. O(n log n)."""
        with self._looking() as state:
            return [self._ref(digest, blob) for digest, blob in sorted(state.blobs.items())]

    def info(self, ref: BlobRef | str) -> BlobInfo:
        """What the store knows of a blob: O(1)."""
        full, blob = self._find(ref)
        metadata = rec.metadata_of(blob.metadata)
        return BlobInfo(full, blob.names, blob.held, metadata, blob.time_ns / 1e9)

    def count(self, ref: BlobRef | str) -> int:
        """How many references keep the blob: its names, and one more if it is held; 0 if there is
        no such blob. O(1)."""
        with self._looking() as state:
            try:
                blob = state.blobs.get(digest_of(ref, self._hashing.name))
            except NotThereError:  # of another hash
                return 0
        return 0 if blob is None else blob.names + blob.held

    def __contains__(self, ref: object) -> bool:
        return self.count(ref) > 0  # type: ignore[arg-type]

    def __len__(self) -> int:
        with self._looking() as state:
            return len(state.blobs)

    def __iter__(self) -> Iterator[BlobRef]:
        return iter(self.refs())


class View(Readable):
    """A store as it was at a position: read-only, and standing still. The bytes of what was deleted
    since can be read until they are collected: then it is a NotThereError. Thread-safe.
    `position` is that position."""

    def __init__(self, state: State, position: int, objects: Objects, hashing: Hashing) -> None:
        self._state, self.position = state, position
        self._objects, self._hashing = objects, hashing

    @contextmanager
    def _looking(self) -> Iterator[State]:
        yield self._state

    def _missing(self, ref: BlobRef) -> NotThereError:
        return NotThereError(
            f"the file of the blob {ref} is not there any more",
            path=self._objects.where(ref.digest.hex()),
            hint="It was collected, unless the store still refers to it",
        )


def not_there(ref: BlobRef) -> NotThereError:
    """The error for a blob to which nothing refers."""
    return NotThereError(f"the store has no such blob: {ref}", hint="Put the bytes (again)")


def no_such_name(name: str) -> NotThereError:
    """The error for a name that stands for nothing."""
    return NotThereError(f"nothing has the name {name!r:.100}", hint="names() tells all names")


def _closing(checked: Checked) -> Iterator[bytes]:
    with checked:
        yield from checked.blocks()


def _whole_number(value: Any, what: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 63:
        raise UsageError(f"{what} must be a whole number from 0 on, not {value!r:.60}")


def check_seconds(value: Any, what: str) -> float:
    """A time span in seconds, 0 included."""
    known = isinstance(value, int | float) and not isinstance(value, bool)
    if not known or not 0 <= value < 1 << 33 or math.isnan(value):
        raise UsageError(f"{what} must be a number of seconds from 0 on, not {value!r:.60}")
    return float(value)
