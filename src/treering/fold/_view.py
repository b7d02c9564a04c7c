"""A materialised view: texts to JSON values, as a state of its own log; for readers and writers."""

from __future__ import annotations

import json
import struct
from collections.abc import ItemsView, Iterator, Mapping, MutableMapping, ValuesView
from typing import Any

from .._core.codec import Record
from .._core.errors import DamageError, UsageError, VersionError
from ._fold import Fold
from ._text import as_str, as_text
from ._trail import Mark

_KEY_BYTES_MAX = 65_000

_VALUE, _CLEAR, _PROGRESS = b"v", b"c", b"p"
_VERSION = struct.Struct("<Q")


def progress_record(mark: Mark, version: int) -> Record:
    """How far the view has come, and with which version of its handler."""
    return Record(_PROGRESS, mark.pack() + _VERSION.pack(version))


def clear_view_record() -> Record:
    """The view is empty again."""
    return Record(_CLEAR)


class ViewState:
    """The view's values as JSON, how far it has come in which log, and who made it."""

    label = b"treering projection 1"

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.mark = Mark()
        self.version = 0

    def apply(self, record: Record) -> None:
        """Take in one record of the view's log."""
        kind, name = record.key[:1], record.key[1:]
        if kind == _VALUE and record.tombstone:
            self.values.pop(as_str(name, record.position), None)
        elif kind == _VALUE:
            self.values[as_str(name, record.position)] = bytes(record.value)
        elif kind == _CLEAR:
            self.values = {}
        elif kind != _PROGRESS or not self._progress(bytes(record.value)):
            raise VersionError(
                f"a record that is no projection's: {record.key!r:.40}",
                position=record.position,
                hint="A newer treering wrote it, or another store",
            )

    def _progress(self, value: bytes) -> bool:
        mark, version = Mark.unpack(value), 0
        if mark is None and len(value) > _VERSION.size:
            mark = Mark.unpack(value[: -_VERSION.size])
            (version,) = _VERSION.unpack(value[-_VERSION.size :])
        if mark is None:
            return False
        self.mark, self.version = mark, version
        return True

    def dump(self) -> Iterator[Record]:
        """The values, then how far they go."""
        for name, value in self.values.items():
            yield Record(_VALUE + name.encode(), value)
        yield progress_record(self.mark, self.version)

    load = apply

    def copy(self) -> ViewState:
        """Another state that stays as this one is now."""
        other = ViewState()
        other.values, other.mark, other.version = self.values.copy(), self.mark, self.version
        return other


class ProjectionView(Mapping[str, Any]):
    """What a projection has come to: texts to JSON values, each a copy of its own. Shows what any
    process has committed."""

    def __init__(self, fold: Fold[ViewState]) -> None:
        self._fold = fold

    def __getitem__(self, key: str) -> Any:
        return _decoded(self._fold.state().values[key])

    def __iter__(self) -> Iterator[str]:
        with self._fold.lock:
            return iter(list(self._fold.state().values))

    def __len__(self) -> int:
        return len(self._fold.state().values)

    def copy(self) -> dict[str, Any]:
        """All of it, of one moment."""
        with self._fold.lock:
            found = list(self._fold.state().values.items())
        return {key: _decoded(value) for key, value in found}

    # Python's own views look each key up, and another process may just have removed it.
    def items(self) -> ItemsView[str, Any]:
        """As a dict's, of one moment."""
        return self.copy().items()

    def values(self) -> ValuesView[Any]:
        """As a dict's, of one moment."""
        return self.copy().values()

    def __repr__(self) -> str:
        return f"<view with {len(self)} keys>"


def _decoded(value: bytes) -> Any:
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise DamageError("a view's value is not JSON", hint="Call rebuild()") from error


class WritableView(MutableMapping[str, Any]):
    """The view as a handler sees it. Values are copies: to change one, set it again."""

    def __init__(self, values: Mapping[str, bytes]) -> None:
        self._values = values
        self.changes: dict[str, bytes | None] = {}

    def _stored(self, key: str) -> bytes:
        value = self.changes[key] if key in self.changes else self._values[key]
        if value is None:
            raise KeyError(key)
        return value

    def __getitem__(self, key: str) -> Any:
        return _decoded(self._stored(key))

    def __setitem__(self, key: str, value: Any) -> None:
        as_text(key, "a view's key", _KEY_BYTES_MAX)
        try:
            self.changes[key] = json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise UsageError(f"a view's values are JSON values: {error}") from error

    def __delitem__(self, key: str) -> None:
        self._stored(key)
        self.changes[key] = None

    def __contains__(self, key: object) -> bool:
        if key in self.changes:
            return self.changes[key] is not None
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        for key in [*self._values, *(key for key in self.changes if key not in self._values)]:
            if key in self:
                yield key

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def records(self) -> list[Record]:
        """The changes, for the log."""
        return [
            Record(_VALUE + key.encode(), value or b"", tombstone=value is None)
            for key, value in self.changes.items()
        ]
