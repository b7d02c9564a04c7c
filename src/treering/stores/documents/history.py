"""The versions of a document, which the log still has: each change says where the one before it
begins."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from treering import DamageError, PrunedError, Record
from treering.fold import Follower

from .content import Codec
from .errors import NoDocumentError, no_document, version_pruned
from .pointer import written
from .records import NONE, Head, damage, read_head
from .state import State
from .tree import DELETE, PUT, REMOVE, WORDS, Edit, changed


class Change(NamedTuple):
    """One change: `op` is "put" (the whole document), "set", "insert" (into an array), "remove" or
    "delete" (the whole document); `path` a JSON Pointer."""

    op: str
    path: str
    value: Any


class Version(NamedTuple):
    """One version of a document, and what made it of the one before. `position` is where that
    begins in the log, `timestamp` when it was, in seconds since 1970."""

    version: int
    position: int
    timestamp: float | None
    changes: list[Change]


class _Step(NamedTuple):
    """A change as the log has it."""

    version: int
    position: int
    previous: int
    timestamp: float | None
    edits: list[Edit]

    @property
    def whole(self) -> bool:
        """Whether it does not matter what the document was before."""
        return self.edits[0].kind in (PUT, DELETE)


def as_change(edit: Edit) -> Change:
    """An edit in words."""
    return Change(WORDS[edit.kind], written(edit.tokens), edit.value)


class History:
    """The past of one document: `state` is that of now."""

    def __init__(self, fold: Follower[State], state: State, id: str) -> None:
        self._fold, self._state, self._id = fold, state, id
        self._codec: Codec = state.codec

    def newest_first(self) -> Iterator[_Step]:
        """The changes, back to where a checkpoint has removed them. O(1) each."""
        position = self._state.last(self._id).position
        while position != NONE:
            try:
                step = self._read(position)
            except PrunedError:
                return
            yield step
            if step.previous >= position:  # or this would never end
                raise DamageError(
                    f"the change to {self._id!r:.60} follows itself",
                    position=position,
                    hint="Restore the log from a backup",
                )
            position = step.previous

    def versions(self) -> Iterator[Version]:
        """What the log has, the newest first."""
        for step in self.newest_first():
            changes = list(map(as_change, step.edits))
            yield Version(step.version, step.position, step.timestamp, changes)

    def document(self, version: int) -> dict[str, Any]:
        """The tree of that version; NoDocumentError if there was none, VersionPrunedError."""
        now = self._state.documents.get(self._id)
        if now is not None and now.version == version:
            root: dict[str, Any] = now.root
            return root
        last = self._state.last(self._id).version
        if not last:
            raise no_document(self._id)
        if not 1 <= version <= last:
            raise NoDocumentError(
                f"{self._id!r:.60} has no version {version}", hint=f"It has 1 to {last}"
            )
        root = self._replayed(version)
        if root is None:
            raise NoDocumentError(
                f"{self._id!r:.60} was deleted in version {version}", hint="Look at the one before"
            )
        return root

    def _replayed(self, version: int) -> Any:
        """From the last change of the whole document on; without one, from a snapshot."""
        steps: list[_Step] = []
        later = None
        for step in self.newest_first():
            if step.version > version:
                later = step.position
                continue
            steps.append(step)
            if step.whole:
                return _made_of(reversed(steps))
        if later is None and steps:
            later = steps[0].position + len(steps[0].edits)  # it is the newest
        try:
            then = None if later is None else self._fold.at(later)
        except PrunedError:
            then = None
        if then is None or then.last(self._id).version != version:
            raise version_pruned(self._id, version, self._oldest())
        entry = then.documents.get(self._id)
        return None if entry is None else entry.root

    def _oldest(self) -> int:
        """The oldest version that can be had."""
        snapshots: list[int] = self._fold.stats()["snapshots"]
        steps: list[_Step] = list(self.newest_first())
        for step in steps[::-1]:
            if snapshots and step.position >= min(snapshots) and step.previous != NONE:
                return step.version - 1
            if step.whole:
                return step.version
        return self._state.last(self._id).version

    def _read(self, position: int) -> _Step:
        """The change that begins there."""
        edits: list[Edit] = []
        first: tuple[Record, Head] | None = None
        with self._fold.wal.read_from(position) as reader:
            for record in reader:
                if record.stream != self._fold.stream:
                    continue
                head = read_head(record)
                first = first or (record, head)
                if head.id != self._id or head.version != first[1].version:
                    raise damage(record, f"is not of the document {self._id!r:.60}")
                raw = bytes(record.value)
                value = self._codec.decode(raw) if head.kind not in (REMOVE, DELETE) else None
                edits.append(Edit(head.kind, head.tokens, raw, value))
                if not head.more:
                    begun, what = first
                    return _Step(what.version, position, what.previous, begun.timestamp, edits)
        raise DamageError(
            f"the change to {self._id!r:.60} has no end", position=position, hint="Run check()"
        )


def _made_of(steps: Iterator[_Step]) -> Any:
    root: Any = None
    for step in steps:
        for edit in step.edits:
            if edit.kind in (PUT, DELETE):
                root = edit.value
            else:
                root, _ = changed(root, edit)
    return root
