"""The store: commands, queries, care."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from itertools import islice
from typing import Any

from treering import DamageError, FsyncPolicy, Record, UsageError
from treering.fold import Fold, Follower, Store

from .content import Codec, JsonCodec
from .difference import Differ
from .history import Change, History, Version, as_change
from .index import Index, as_index, check_name
from .order import Sorted
from .planning import Planner, check_count
from .pointer import check_id
from .reading import Document, View
from .records import DROP
from .state import Entry, State, index_record
from .tree import copied
from .writing import Writable

Indexes = Mapping[str, str | Index]

DOCUMENT_BYTES_MAX = 16 << 20


class DocumentStore(Store[State], Writable):
    """JSON documents by id, in memory as a whole; a change logs the fields that it changes.
    Thread-safe; several processes may have it open at once.

    `indexes` are made unless they are there: names and paths (or `Index`). `codec` says how JSON is
    written and read (`JsonCodec`; `treering.integrations.msgspec.MsgspecCodec` is quicker),
    `document_bytes_max` how long the JSON of a document may be. `fsync_policy` (default ALWAYS:
    durable when the call returns), `exclusive`, `checkpoint_bytes` and so on as for the log.

    Every command takes `expected_version` (VersionConflictError if the document is of another one;
    0: there must be none) and `durable` (True: durable at return, False: written is enough, None:
    the policy says). A command that changes nothing logs nothing, and the version stays.

    Every call raises what the log raises: ClosedError, ForkedError, FailedError, StorageError,
    DamageError; every command also DiskFullError, TooLargeError (nothing was changed) and
    ReadOnlyError; UsageError for arguments that cannot be right.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        indexes: Indexes | None = None,
        codec: Codec | None = None,
        document_bytes_max: int = DOCUMENT_BYTES_MAX,
        fsync_policy: FsyncPolicy = FsyncPolicy.ALWAYS,
        exclusive: bool = False,
        read_only: bool = False,
        **options: Any,
    ) -> None:
        codec = codec or JsonCodec()
        planner = Planner(codec, document_bytes_max)
        wanted = _checked_indexes(indexes)
        fold = Fold(
            path,
            partial(State, codec),
            own=True,
            fsync_policy=fsync_policy,
            exclusive=exclusive,
            read_only=read_only,
            **options,
        )
        try:
            self._begin(fold, planner, wanted, read_only)
        except BaseException:
            fold.close()
            raise

    @classmethod
    def on(
        cls,
        fold: Follower[State],
        *,
        indexes: Indexes | None = None,
        document_bytes_max: int = DOCUMENT_BYTES_MAX,
        read_only: bool = False,
        clock: Any = None,
        files: Any = None,
    ) -> DocumentStore:
        """The store as a part of a database; see `treering.Database`."""
        store = cls.__new__(cls)
        planner = Planner(JsonCodec(), document_bytes_max)
        store._begin(fold, planner, _checked_indexes(indexes), read_only)
        return store

    @staticmethod
    def new_state(clock: Callable[[], int]) -> State:
        """An empty state, for a database."""
        return State()

    def _begin(
        self,
        fold: Follower[State],
        planner: Planner,
        indexes: dict[str, Index],
        read_only: bool,
    ) -> None:
        self._stand_on(fold, read_only)
        self._planner = planner
        if not read_only:
            for name, index in indexes.items():
                self.create_index(name, index.path, unique=index.unique)

    def _state(self) -> State:
        return self._fold.state()

    def _locked(self) -> Any:
        return self._fold.lock

    # --- Indexes ---

    def create_index(self, name: str, path: str, *, unique: bool = False) -> None:
        """Make an index on a path, in which `*` means each item of an array; nothing happens if it
        is there. Documents that have null, a boolean, a number or text there are in it. With
        `unique` no two of them may have the same, except null: DuplicateError. O(n log n)."""
        check_name(name)
        index = as_index(Index(path, unique))

        def decide(state: State) -> list[Record]:
            if name in state.indexes:
                if state.indexes[name].index != index:
                    raise UsageError(
                        f"there is another index {name!r:.60}: {state.indexes[name].index}",
                        hint="Choose another name, or drop_index first",
                    )
                return []
            self._planner.check_unique(state, name, index)
            return [index_record(name, index)]

        self._command(decide)

    def drop_index(self, name: str) -> bool:
        """Remove an index; whether there was one."""
        check_name(name)
        record = Record(DROP + name.encode())
        return bool(self._command(lambda state: [record] if name in state.indexes else []))

    # --- The past ---

    def get(
        self, id: str, default: Any = None, *, path: str = "", version: int | None = None
    ) -> Any:
        """A copy of the document, or of what is there at the path; `default` if there is none.

        With `version` as it was then: NoDocumentError if there was none, VersionPrunedError if a
        checkpoint has removed it. That is O(changes since the whole document was put), or if that
        is not in the log any more, as `at`."""
        if version is None:
            return super().get(id, default, path=path)
        root = self._history(id).document(check_count(version, "a version"))
        entry = Entry(root, version, 0, 0, 0)
        return Document(id, entry).get(path, default)

    def history(self, id: str, *, limit: int | None = None) -> list[Version]:
        """The versions of the document that the log has, or the newest so many, the oldest first;
        also of one that was deleted. Empty if the log has none of it. O(changes)."""
        if limit is not None:
            check_count(limit, "limit")
        return list(islice(self._history(id).versions(), limit))[::-1]

    def diff(self, id: str, from_version: int, to_version: int) -> list[Change]:
        """What has to be changed to make one version of the document out of another. Errors and
        costs as of `get` with a version."""
        history = self._history(id)
        before, after = (
            history.document(check_count(version, "a version"))
            for version in (from_version, to_version)
        )
        edits = Differ(JsonCodec(), shortest=False).between(before, after)
        return [as_change(edit._replace(value=copied(edit.value))) for edit in edits]

    def _history(self, id: str) -> History:
        check_id(id)
        if self._fold.transaction is not None:
            raise UsageError(
                "versions are read from the log, where nothing of a transaction is yet",
                hint="Look before the block or after it",
            )
        with self._fold.lock:
            state = self._fold.state()
            known = State(state.codec)  # what is known of this document stands still
            if id in state.documents:
                known.documents[id] = state.documents[id]
            known.gone[id] = state.last(id)
        return History(self._fold, known, id)

    def snapshot(self) -> View:
        """The store as it is now, standing still: O(n) for a copy of the references."""
        return View(*self._fold.copy())

    def at(self, position: int | None = None, time: Any = None) -> View:
        """The store as it was when the log ended at `position` (see `position`), or at a time
        (seconds since 1970 or a datetime). Reads the log from the snapshot before it on.
        PrunedError when a checkpoint has removed what that takes; PositionError beyond the end."""
        return View(*self._past(position, time))

    @property
    def position(self) -> int:
        """How many records the log has: of this moment, for `at`."""
        return self._fold.wal.current_position()

    # --- Care ---

    def check_state(self) -> None:
        """The part of `check` that looks at memory alone: indexes say what the documents say."""
        with self._fold.lock:
            state = self._fold.state()
            wrong = state.ids().between() != sorted(state.documents)
            wrong = wrong or not state.gone.keys().isdisjoint(state.documents)
            for name, entries in state.indexes.items():
                whole = Sorted(
                    (*key, id)
                    for id, entry in state.documents.items()
                    for key in entries.keys(entry.root)
                ).between()
                pairs = [each[:2] for each in whole if each[0]]
                wrong = wrong or state.entries(name).between() != whole
                wrong = wrong or (entries.index.unique and len(set(pairs)) < len(pairs))
            if wrong:
                raise DamageError(
                    "an index says something else than the documents",
                    path=self.name,
                    hint="Open the store again",
                )

    def stats(self) -> dict[str, Any]:
        """Numbers for people and dashboards: the fold's; how many documents there are, and of how
        many deleted ones the version is kept; the bytes of all changes since the store was made
        (`bytes_logged`), and what they had been, had each written its whole document
        (`bytes_whole`)."""
        state = self._fold.current
        return {
            **self._fold.stats(),
            "documents": len(state.documents),
            "deleted": len(state.gone),
            "bytes_logged": state.bytes_logged,
            "bytes_whole": state.bytes_whole,
        }


def _checked_indexes(indexes: Indexes | None) -> dict[str, Index]:
    if indexes is None:
        return {}
    if not isinstance(indexes, Mapping):
        raise UsageError("indexes are names and paths", hint='As {"city": "/address/city"}')
    return {check_name(name): as_index(index) for name, index in indexes.items()}
