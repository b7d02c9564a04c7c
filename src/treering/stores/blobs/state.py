"""What a blob store's records come to: blobs with references, names, files nobody wants."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from treering import Record

from . import records as rec
from .records import Blob, Link


class State:
    """The blobs that have references, by digest; what each name stands for; of the blobs whose last
    reference went, since when (ns) and how large the file is that may still lie there.

    Taking in a record puts new tuples into the dicts: who has one can keep it.
    """

    label = b"treering blobs 1"

    def __init__(self, clock: Callable[[], int] = time.time_ns) -> None:
        self.clock = clock
        self.settings: tuple[str, str] | None = None  # algorithm, kind of objects
        self.blobs: dict[bytes, Blob] = {}
        self.links: dict[bytes, Link] = {}
        self.unwanted: dict[bytes, tuple[int, int]] = {}
        self.newest_ns = 0  # of all records: no clock that steps back makes a file young again
        self.bytes = 0  # of all blobs
        self.deduplicated = 0  # bytes that were put while they were there

    # --- apply ---

    def apply(self, record: Record) -> None:
        """Take in one record of the log."""
        change = _CHANGES.get(record.key[:1])
        if change is None:
            raise rec.unknown(record)
        change(self, record)
        self.newest_ns = max(self.newest_ns, record.timestamp_ns or 0)

    def _settings(self, record: Record) -> None:
        fields = bytes(record.value).decode(errors="replace").split(" ")
        if len(fields) != 2 or self.settings is not None:
            raise rec.damaged(record, "its settings are none")
        self.settings = (fields[0], fields[1])

    def _new(self, record: Record) -> None:
        digest, name = rec.reference(record)
        blob, metadata = rec.brought(record)
        if digest in self.blobs:
            raise rec.damaged(record, "the blob is there already")
        self.unwanted.pop(digest, None)
        self._keep(digest, blob)
        self._refer(record, digest, name, metadata)

    def _link(self, record: Record) -> None:
        digest, name = rec.reference(record)
        found, metadata = rec.linked(record)
        blob = self.blobs.get(digest)
        if blob is None:
            raise rec.damaged(record, "there is no such blob")
        self.deduplicated += blob.size * found
        self._refer(record, digest, name, metadata)

    def _unlink(self, record: Record) -> None:
        name = record.key[1:]
        if name not in self.links:
            raise rec.damaged(record, "there is no such name")
        digest = self.links.pop(name).digest
        self._lose(digest, self.blobs[digest].names - 1, self.blobs[digest].held, record)

    def _delete(self, record: Record) -> None:
        digest, name = rec.reference(record)
        blob = self.blobs.get(digest)
        if blob is None or name:
            raise rec.damaged(record, "there is no such blob")
        self._lose(digest, blob.names, False, record)

    def _collected(self, record: Record) -> None:
        for digest in rec.digests(record):
            self.unwanted.pop(digest, None)

    def _keep(self, digest: bytes, blob: Blob) -> None:
        self.blobs[digest] = blob
        self.bytes += blob.size

    def _refer(self, record: Record, digest: bytes, name: bytes, metadata: bytes) -> None:
        """One more reference, or another metadata of one that was there."""
        blob = self.blobs[digest]
        if not name:
            self.blobs[digest] = blob._replace(held=True, metadata=metadata)
            return
        before = self.links.get(name)
        if before is None:
            self.blobs[digest] = blob._replace(names=blob.names + 1)
        elif before.digest != digest:
            raise rec.damaged(record, "the name stands for another blob")
        self.links[name] = Link(digest, metadata)

    def _lose(self, digest: bytes, names: int, held: bool, record: Record) -> None:
        """One reference less; without any, the blob is none any more."""
        blob = self.blobs[digest]
        if names or held:
            metadata = blob.metadata if held else b""
            self.blobs[digest] = blob._replace(names=names, held=held, metadata=metadata)
            return
        since_ns = max(self.newest_ns, record.timestamp_ns or 0)
        self.unwanted[digest] = (since_ns, blob.size)
        del self.blobs[digest]
        self.bytes -= blob.size

    # --- snapshots ---

    def dump(self) -> Iterator[Record]:
        """The state as records, for a snapshot."""
        yield Record(rec.HEADER, rec.PAIR.pack(self.newest_ns, self.deduplicated))
        if self.settings is not None:
            yield rec.settings(*self.settings)
        for digest, blob in self.blobs.items():
            yield rec.dumped(digest, blob)
        for name, link in self.links.items():
            yield rec.link(link.digest, name, link.metadata, False)
        for digest, (since_ns, size) in self.unwanted.items():
            yield Record(rec.UNWANTED + digest, rec.PAIR.pack(since_ns, size))

    def load(self, record: Record) -> None:
        """Take in one record of a snapshot."""
        kind = record.key[:1]
        if kind == rec.HEADER:
            self.newest_ns, self.deduplicated = rec.pair(record)
        elif kind == rec.SETTINGS:
            self._settings(record)
        elif kind == rec.BLOB:
            self._keep(rec.reference(record)[0], rec.loaded(record))
        elif kind == rec.LINK:
            self._link(record)
        elif kind == rec.UNWANTED:
            self.unwanted[rec.reference(record)[0]] = rec.pair(record)
        else:
            raise rec.unknown(record)

    def copy(self) -> State:
        """Another state that stays as this one is now: one shallow copy of the dicts."""
        other = State(self.clock)
        other.settings, other.newest_ns = self.settings, self.newest_ns
        other.blobs, other.links = self.blobs.copy(), self.links.copy()
        other.unwanted = self.unwanted.copy()
        other.bytes, other.deduplicated = self.bytes, self.deduplicated
        return other

    # --- queries ---

    def now_ns(self) -> int:
        """The time by which files grow old."""
        return max(self.clock(), self.newest_ns)

    def names_of(self, digest: bytes) -> list[str]:
        """All names of a blob, sorted; O(names of the store)."""
        found = (name for name, link in self.links.items() if link.digest == digest)
        return sorted(name.decode(errors="replace") for name in found)

    def consistent(self) -> bool:
        """Whether what is counted is what is there."""
        names = dict.fromkeys(self.blobs, 0)
        for link in self.links.values():
            if link.digest not in names:
                return False
            names[link.digest] += 1
        return (
            all(blob.names == names[digest] for digest, blob in self.blobs.items())
            and all(blob.names or blob.held for blob in self.blobs.values())
            and self.bytes == sum(blob.size for blob in self.blobs.values())
            and not self.blobs.keys() & self.unwanted.keys()
        )


_CHANGES: dict[bytes, Callable[[State, Record], None]] = {
    rec.SETTINGS: State._settings,
    rec.NEW: State._new,
    rec.LINK: State._link,
    rec.UNLINK: State._unlink,
    rec.DELETE: State._delete,
    rec.COLLECTED: State._collected,
}
