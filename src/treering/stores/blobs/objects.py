"""Where the bytes of blobs are: the files of a directory, or whatever else keeps objects."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable
from typing import Protocol

from treering import StorageError, UsageError
from treering.fold import READ, Directory, File, SystemFiles

_DIGITS = frozenset("0123456789abcdef")


class Source(Protocol):
    """An open object. Thread-safe."""

    def size(self) -> int:
        """Its bytes."""

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """Fill `buffer` from `offset` on; fewer bytes only at the end."""

    def close(self) -> None:
        """Let go of it; idempotent."""


class Staged(Protocol):
    """A file with all of a blob's bytes, durable."""

    @property
    def name(self) -> str:
        """Where it lies, from the store's directory on."""

    @property
    def size(self) -> int:
        """Its bytes."""

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """Fill `buffer` from `offset` on; fewer bytes only at the end."""


class Objects(Protocol):
    """What keeps the bytes of blobs. A name is 64 hexadecimal digits. `kind`, one word, is written
    into the log, so that a store is never opened with objects of another kind.

    `place` and the removing calls are made with the store's turn held: while anybody places, nobody
    removes, and the other way round. Errors are StorageErrors."""

    kind: str

    def place(self, staged: Staged, name: str) -> None:
        """Give the object its name, at once and as a whole, whatever had it before: a reader sees
        the old object or the new one. Durable at return. The staged file may be gone then."""

    def open(self, name: str) -> Source | None:
        """The object, to be read; None if there is none."""

    def modified_ns(self, name: str) -> int:
        """When its bytes were written (ns since 1970); 0 if nobody knows."""

    def remove(self, name: str) -> None:
        """Remove it, if it is there. Need not be durable."""

    def names(self) -> Iterable[str]:
        """The names of all objects; of those that come or go meanwhile, some."""

    def sweep(self) -> int:
        """Remove what a `place` that was broken off left; how many."""

    def where(self, name: str) -> str:
        """The object's place, for people."""


class LocalObjects:
    """Files in `objects/<2 digits>/<62 digits>` beside the log: written and fsynced under another
    name, renamed, the directory fsynced."""

    kind = "directory"

    def __init__(self, files: SystemFiles, path: str) -> None:
        self._root = Directory(files, path)
        self._objects = Directory(files, self._root.join("objects"))
        self._known: set[str] | None = None

    def _folder(self, prefix: str) -> Directory:
        return Directory(self._objects.files, self._objects.join(prefix))

    def place(self, staged: Staged, name: str) -> None:
        """Rename it. The blob's directory is made with the first need; its name is durable before
        anything in it is relied on, whoever made it."""
        prefix = name[:2]
        known = self._folders()
        folder = self._folder(prefix)
        if prefix not in known or not folder.exists():  # somebody may clear empty ones away
            folder.make()
            self._objects.sync()
            known.add(prefix)
        self._root.rename(staged.name, f"objects/{prefix}/{name[2:]}")
        folder.sync()

    def _folders(self) -> set[str]:
        """The directories whose names are durable."""
        if self._known is None:
            if not self._objects.exists():
                self._objects.make()
            self._root.sync()
            names = set(self._objects.names())
            self._objects.sync()
            self._known = names
        return self._known

    def open(self, name: str) -> File | None:
        """The file; links, devices and the like are refused."""
        try:
            return self._objects.open(f"{name[:2]}/{name[2:]}", READ)
        except StorageError as error:
            if error.errno != errno.ENOENT:
                raise
            return None

    def modified_ns(self, name: str) -> int:
        """The file's time of modification."""
        file = self.open(name)
        if file is None:
            return 0
        with file:
            try:
                return int(self._objects.files.status(file.descriptor).st_mtime * 1e9)
            except OSError as error:
                text = f"cannot stat: {error.strerror or error}"
                raise StorageError(text, number=error.errno, path=file.path) from error

    def remove(self, name: str) -> None:
        """Remove the file."""
        self._objects.remove(f"{name[:2]}/{name[2:]}")

    def names(self) -> Iterable[str]:
        """Of each directory one listing. What has another kind of name is not ours, and stays."""
        prefixes = self._objects.names() if self._objects.exists() else []
        for prefix in prefixes:
            folder = self._folder(prefix)
            if len(prefix) == 2 and folder.exists():
                yield from filter(is_name, (prefix + name for name in folder.names()))

    def sweep(self) -> int:
        """Nothing: a rename leaves nothing."""
        return 0

    def where(self, name: str) -> str:
        """The path."""
        return self._objects.join(f"{name[:2]}/{name[2:]}")


def kind_of(objects: Objects) -> str:
    """Its kind; UsageError if it has none that can be written into the log."""
    kind = getattr(objects, "kind", None)
    if not isinstance(kind, str) or not re.fullmatch(r"[!-~]{1,64}", kind):
        raise UsageError(
            f"objects must have a kind of 1 to 64 printable ASCII characters, not {kind!r:.60}",
            hint="No spaces: it is one word, such as 'directory'",
        )
    return kind


def is_name(text: str) -> bool:
    """Whether it is what an object is called."""
    return len(text) == 64 and _DIGITS.issuperset(text)
