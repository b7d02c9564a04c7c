"""The store: commands, and how they stand to the files."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext, suppress
from functools import partial
from typing import Any

from treering import (
    DamageError,
    DiskFullError,
    FsyncPolicy,
    NotThereError,
    ReadOnlyError,
    Record,
    TreeringError,
    UsageError,
)
from treering.fold import Fold, Store, SystemFiles

from . import records as rec
from .checked import lost
from .collecting import Collected, Collector
from .objects import LocalObjects, Objects, kind_of
from .reading import Readable, View, check_seconds, no_such_name, not_there
from .records import Content
from .refs import (
    SHA256,
    BlobRef,
    Hashing,
    check_hashing,
    digest_of,
    metadata_bytes,
    name_bytes,
    still_linked,
)
from .staging import Incoming, Staging
from .state import State
from .turns import Turns
from .verifying import Progress, VerifyReport, check, verify
from .writing import BlobWriter, feed

Metadata = Mapping[str, str]

_GRACE_SECONDS = 3600.0


class BlobStore(Store[State], Readable):
    """Bytes by their digest, each in a file of its own beside a log that says which are wanted.
    Thread-safe; several processes may have it open at once, and each sees what the others did with
    its next call.

    A blob stays as long as something refers to it: a name, or the hold that a put without a name
    leaves until `delete`. Then it is not there any more; `collect` removes the file.

    `path` gets the directories `log`, `objects` and `incoming`. `fsync_policy` (default ALWAYS:
    durable when the call returns) and `durable=` of single calls are about references; a blob's
    file is durable before its reference is written, always. `hashing` (default SHA-256) and
    `objects` (default: files in `path`) are chosen when the store is made, and kept.
    `exclusive=True` keeps others out. `checkpoint_bytes`, `checkpoint_records`,
    `checkpoint_seconds`: how much change between two snapshots; further options are those of
    `treering.Wal.open`. `lock_timeout_seconds` is also how long a put waits for a collector that
    was stopped. In memory are about 400 bytes a blob or name, and 4 for each 64 KiB of it.

    Every call raises what the log raises: ClosedError, ForkedError, FailedError, StorageError,
    DamageError; every command also DiskFullError (nothing was changed) and ReadOnlyError.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        fsync_policy: FsyncPolicy = FsyncPolicy.ALWAYS,
        exclusive: bool = False,
        read_only: bool = False,
        hashing: Hashing = SHA256,
        objects: Objects | None = None,
        **options: Any,
    ) -> None:
        self._path, self._hashing = _absolute(path), check_hashing(hashing)
        fold = Fold(
            os.path.join(self._path, "log"),
            partial(State, options.get("clock") or time.time_ns),
            own=True,
            fsync_policy=fsync_policy,
            exclusive=exclusive,
            read_only=read_only,
            **options,
        )
        self._stand_on(fold, read_only)
        files = options.get("files") or SystemFiles()
        self._objects = LocalObjects(files, self._path) if objects is None else objects
        self._incoming = Incoming(files, self._path)
        self._turns = Turns(files, self._path, options.get("lock_timeout_seconds", 30.0))
        try:
            self._settle_on(self._hashing.name, kind_of(self._objects))
        except BaseException:
            self.close()
            raise

    def _settle_on(self, algorithm: str, kind: str) -> None:
        """Refuse to go on with another hash, or with objects of another kind, than before."""
        fold = self._fold
        if fold.state().settings is None and not self.read_only:
            record = rec.settings(algorithm, kind)
            fold.command(lambda state: [] if state.settings else [record], durable=False)
        before = fold.state().settings
        if before not in (None, (algorithm, kind)):
            raise UsageError(
                f"the store was made with {before[0]} and objects of the kind {before[1]!r}, not "
                f"with {algorithm} and {kind!r}",
                path=self._path,
                hint="Give hashing= and objects= as when it was made",
            )

    @contextmanager
    def _looking(self) -> Iterator[State]:
        with self._fold.lock:
            yield self._fold.state()

    def _missing(self, ref: BlobRef) -> Exception:
        return lost(ref, self._objects.where(ref.digest.hex()))

    def at(self, position: int | None = None, time: Any = None) -> View:
        """The store as it was when the log ended at `position` (see `position`), or at a time
        (seconds since 1970 or a datetime). Reads the log from the snapshot before it on.
        PrunedError when a checkpoint has removed what that takes; PositionError beyond the end."""
        state, at = self._past(position, time)
        return View(state, at, self._objects, self._hashing)

    @property
    def position(self) -> int:
        """How many records the log has seen: of this moment, for `at`."""
        return self._fold.wal.current_position()

    @property
    def name(self) -> str:
        """The directory."""
        return self._path

    # --- Putting ---

    def put(
        self,
        data: Any,
        *,
        name: str | None = None,
        metadata: Metadata | None = None,
        durable: bool | None = None,
    ) -> BlobRef:
        """Keep the bytes of `data`: bytes, a binary file (from where it stands), or an iterable of
        bytes; the reference to them. With a `name` that refers to them, or else the store holds
        them until `delete`. A name that stood for others stands for these now. `metadata`, text by
        text, belongs to that reference; None leaves what it had.

        Takes a few MiB of memory at most, besides `data` itself. Bytes that are there already are
        not written again, unless their file is lost or has another size: then it is mended. At
        return the file is durable; its reference as the policy says, or with durable=True. Blocks
        for fsyncs. Disk full or any other error: nothing was changed.
        """
        with self._staging() as staging:
            commit = self._committer(name, metadata, durable)
            feed(staging, data)
            return commit(staging)

    def writer(
        self,
        *,
        name: str | None = None,
        metadata: Metadata | None = None,
        durable: bool | None = None,
    ) -> BlobWriter:
        """A context manager with `write`: what was written is put at the end of the block, as by
        `put`, and nothing if the block raises."""
        commit = self._committer(name, metadata, durable)
        return BlobWriter(self._staging(), commit)

    def _staging(self) -> Staging:
        self._check_writable()
        return Staging(self._incoming, self._hashing)

    def _check_writable(self) -> None:
        self._fold.state()  # raises if it is closed
        if self.read_only:
            raise ReadOnlyError(
                "the store was opened with read_only=True", path=self._path, hint="Open it without"
            )

    def _committer(
        self, name: str | None, metadata: Metadata | None, durable: bool | None
    ) -> Callable[[Staging], BlobRef]:
        packed = b"" if name is None else name_bytes(name)
        said = metadata_bytes(metadata)
        return lambda staging: self._commit(staging, packed, said, durable)

    def _commit(
        self, staging: Staging, name: bytes, metadata: bytes | None, durable: bool | None
    ) -> BlobRef:
        """The file first, then its reference; see collecting.py for the turn."""
        staging.check()
        content = staging.finish()
        if not self._has(content):
            staging.settle()  # which takes long: not with the turn
        came = False  # whether there was no file of these bytes before
        try:
            with self._turns.placing():
                mending = self._incoming.is_mending
                if not self._has(content) or mending(content.digest.hex()):
                    staging.settle()
                    came = self._place(staging, content.digest)
                added = self._fold.command(
                    lambda state: _referring(state, content, name, metadata), durable=False
                )
        except DiskFullError:
            if came:
                self._take_back(content.digest)
            raise
        self._fold.settle(added[-1], durable)
        return BlobRef(self._hashing.name, content.digest, content.size)

    def _take_back(self, digest: bytes) -> None:
        """The log had no room for a reference: the file, too, goes. If that fails, `collect` will
        remove it."""
        with suppress(TreeringError):
            self._collector(0).remove([digest])

    def _place(self, staging: Staging, digest: bytes) -> bool:
        """Give the file its name; whether nothing had it."""
        name = digest.hex()
        free = False
        with suppress(TreeringError):  # a link, say, which is replaced
            if (source := self._objects.open(name)) is not None:
                source.close()
            free = source is None
        with self._looking() as state:
            referred = digest in state.blobs
        with self._incoming.mending(name) if referred else nullcontext():
            self._objects.place(staging, name)
        return free

    def _has(self, content: Content) -> bool:
        """Whether these bytes have a reference, and their file as far as a look can tell."""
        with self._looking() as state:
            if content.digest not in state.blobs:
                return False
        source = self._objects.open(content.digest.hex())
        if source is None:
            return False
        with closing(source):
            return source.size() == content.size

    # --- References ---

    def link(
        self,
        name: str,
        ref: BlobRef | str,
        *,
        metadata: Metadata | None = None,
        durable: bool | None = None,
    ) -> None:
        """Let the name stand for the blob; what it stood for before has one reference less.
        NotThereError if nothing refers to the blob (any more): put it again."""
        digest, packed = digest_of(ref, self._hashing.name), name_bytes(name)
        said = metadata_bytes(metadata)

        def decide(state: State) -> list[Record]:
            if digest not in state.blobs:
                raise not_there(BlobRef(self._hashing.name, digest))
            kept = _metadata(state, digest, packed, said)
            return [*_freeing(state, packed, digest), rec.link(digest, packed, kept, False)]

        self._fold.command(decide, durable=durable)

    def unlink(self, name: str, *, durable: bool | None = None) -> None:
        """Remove the name. If it was the blob's last reference, the blob is gone. NotThereError if
        there is no such name."""
        packed = name_bytes(name)

        def decide(state: State) -> list[Record]:
            if packed not in state.links:
                raise no_such_name(name)
            return [rec.unlink(packed)]

        self._fold.command(decide, durable=durable)

    def release(self, ref: BlobRef | str, *, durable: bool | None = None) -> None:
        """End the hold of a put without a name: from now on only names keep the blob. NotThereError
        if there is no such blob, or it is not held."""
        self._end_hold(ref, False, durable)

    def delete(self, ref: BlobRef | str, *, durable: bool | None = None) -> None:
        """Give a blob up that was put without a name. Its file stays until `collect`.
        StillLinkedError if it has names: unlink those. NotThereError if there is no such blob."""
        self._end_hold(ref, True, durable)

    def _end_hold(self, ref: BlobRef | str, last: bool, durable: bool | None) -> None:
        digest = digest_of(ref, self._hashing.name)

        def decide(state: State) -> list[Record]:
            blob = state.blobs.get(digest)
            if blob is None:
                raise not_there(BlobRef(self._hashing.name, digest))
            if last and blob.names:
                raise still_linked(state.names_of(digest))
            if not blob.held:
                raise NotThereError(
                    "the store does not hold this blob: its names do", hint="Unlink them"
                )
            return [rec.delete(digest)]

        self._fold.command(decide, durable=durable)

    # --- Care ---

    def collect(self, *, grace_seconds: float = _GRACE_SECONDS) -> Collected:
        """Remove the files of blobs whose last reference went `grace_seconds` ago or earlier (until
        then views of the past can read them), those as old that the log does not know (of puts that
        died before they were in it), and what dead processes left half written; what was removed.

        Safe beside all that other threads and processes do; puts wait while a few files go. Reads
        the directories: O(files). LockedError if a put in another process stands still meanwhile.
        """
        self._check_writable()
        grace_ns = round(check_seconds(grace_seconds, "grace_seconds") * 1e9)
        return self._collector(grace_ns).run()

    def _collector(self, grace_ns: int) -> Collector:
        fold = self._own
        assert fold is not None
        return Collector(fold, self._objects, self._incoming, self._turns, grace_ns)

    def verify(self, progress: Progress | None = None) -> VerifyReport:
        """Read every blob and hold it against its digest; what is missing, damaged or orphaned.
        `progress(done, total)` is called after each blob, in bytes. Changes nothing."""
        return verify(self, progress)

    def check_state(self) -> None:
        """The part of `check` that is about blobs: what is counted is what is there, and every blob
        has all its bytes."""
        with self._looking() as state:
            if not state.consistent():
                raise DamageError("the references are miscounted in memory", path=self._path)
        check(self)

    def stats(self) -> dict[str, Any]:
        """Numbers for people and dashboards: the fold's, how many blobs and names there are, their
        bytes, the bytes that were put while they were there, and what waits to be collected."""
        with self._looking() as state:
            unwanted = [size for _, size in state.unwanted.values()]
            return {
                **self._fold.stats(),
                "blobs": len(state.blobs),
                "names": len(state.links),
                "bytes": state.bytes,
                "deduplicated_bytes": state.deduplicated,
                "unwanted_files": len(unwanted),
                "unwanted_bytes": sum(unwanted),
            }


def _referring(state: State, content: Content, name: bytes, metadata: bytes | None) -> list[Record]:
    """The records of a put."""
    digest = content.digest
    said = _metadata(state, digest, name, metadata)
    if digest in state.blobs:
        reference = rec.link(digest, name, said, True)
    else:
        reference = rec.new(content, name, said)
    return [*_freeing(state, name, digest), reference]


def _metadata(state: State, digest: bytes, name: bytes, given: bytes | None) -> bytes:
    """What is given, or what the same reference had."""
    if given is not None:
        return given
    if not name:
        blob = state.blobs.get(digest)
        return blob.metadata if blob else b""
    link = state.links.get(name)
    return link.metadata if link is not None and link.digest == digest else b""


def _freeing(state: State, name: bytes, digest: bytes) -> list[Record]:
    """The record that frees a name which stands for another blob."""
    before = state.links.get(name)
    return [] if before is None or before.digest == digest else [rec.unlink(name)]


def _absolute(path: Any) -> str:
    text = path if isinstance(path, str) else getattr(path, "__fspath__", lambda: None)()
    if not isinstance(text, str) or not text or "\0" in text:
        raise UsageError(f"this is no path: {path!r:.60}", hint="Give the store's directory")
    return os.path.abspath(text)
