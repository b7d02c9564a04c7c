"""What an in-memory file system is made of: files, directories, open descriptors, paths.

Knows nothing of doors, power cuts or faults. Not locked: MemoryFiles holds the lock.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import stat
from collections.abc import Iterator
from typing import NoReturn, TypeVar, cast

from ._storage import Storage

BLOCK_BYTES = 4096
NAME_BYTES_MAX = 255

_ACCESS_MODE = os.O_RDONLY | os.O_WRONLY | os.O_RDWR


class Node:
    """A file or a directory, whatever names it has. Compared by identity, as inodes are."""

    __slots__ = ("locks", "number", "opened", "path")

    def __init__(self, number: int, path: str) -> None:
        self.number = number
        # The path it was last known by; only for reports.
        self.path = path
        # How many descriptors are open on it.
        self.opened = 0
        # Which descriptors hold the whole-file lock; True is an exclusive lock.
        self.locks: dict[int, bool] = {}

    def blank(self) -> Node:
        """An empty node of the same kind and number."""
        return type(self)(self.number, self.path)

    def fill(self, copy: Node, clone: Cloner) -> None:
        """Give `copy` this node's state, without descriptors and locks."""
        raise NotImplementedError


class FileNode(Node):
    """A plain file."""

    __slots__ = ("blocks", "linked", "storage")

    def __init__(self, number: int, path: str) -> None:
        super().__init__(number, path)
        self.storage = Storage()
        # One bit for each block of BLOCK_BYTES that takes up space.
        self.blocks = 0
        self.linked = True

    def fill(self, copy: Node, clone: Cloner) -> None:
        """Give `copy` this file's bytes and space."""
        other = cast(FileNode, copy)
        other.storage = Storage(self.storage.snapshot(), self.storage.size)
        other.blocks = self.blocks
        other.linked = self.linked


class FolderNode(Node):
    """A directory."""

    __slots__ = ("entries",)

    def __init__(self, number: int, path: str) -> None:
        super().__init__(number, path)
        self.entries: dict[str, Node] = {}

    def fill(self, copy: Node, clone: Cloner) -> None:
        """Give `copy` clones of this directory's entries."""
        cast(FolderNode, copy).entries = clone.entries(self.entries)


AnyNode = TypeVar("AnyNode", bound=Node)


class Cloner:
    """Copies a graph of nodes, each node once."""

    def __init__(self) -> None:
        self._done: dict[Node, Node] = {}

    def __call__(self, node: AnyNode) -> AnyNode:
        """The copy of `node`."""
        if node not in self._done:
            copy = self._done[node] = node.blank()
            node.fill(copy, self)
        return cast(AnyNode, self._done[node])

    def entries(self, entries: dict[str, Node]) -> dict[str, Node]:
        """A directory's entries, copied."""
        return {name: self(node) for name, node in entries.items()}

    def place(self, place: Place | None) -> Place | None:
        """A place, in the copied directory."""
        return place and (self(place[0]), place[1])


Place = tuple[FolderNode, str]


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class NameChange:
    """One atomic change of names: `node` leaves the place `old` and takes the place `new`.

    Created when `old` is None, removed when `new` is None, renamed when there are both.
    """

    operation: str
    node: Node
    old: Place | None
    new: Place | None

    def folders(self) -> set[FolderNode]:
        """The directories that the change touches."""
        return {place[0] for place in (self.old, self.new) if place}

    def path(self) -> str:
        """The path that the change is about, for reports."""
        folder, name = self.new or self.old or (None, "")
        return os.path.join(folder.path, name) if folder else name

    def clone(self, clone: Cloner) -> NameChange:
        """The same change to the copied nodes."""
        places = (clone.place(self.old), clone.place(self.new))
        return NameChange(self.operation, clone(self.node), *places)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class OpenFile:
    """An open descriptor."""

    descriptor: int
    node: Node
    path: str
    flags: int

    def file(self) -> FileNode:
        """The file; EISDIR if it is a directory."""
        if not isinstance(self.node, FileNode):
            fail(errno.EISDIR, self.path)
        return self.node

    def readable(self) -> FileNode:
        """The file, if the descriptor may read it."""
        if self.flags & _ACCESS_MODE == os.O_WRONLY:
            fail(errno.EBADF, self.path)
        return self.file()

    def writable(self, otherwise: int = errno.EBADF) -> FileNode:
        """The file, if the descriptor may write it."""
        if not writes(self.flags):
            fail(otherwise, self.path)
        return self.file()


def writes(flags: int) -> bool:
    """Whether the flags of open() ask for writing."""
    return flags & _ACCESS_MODE != os.O_RDONLY


def fail(number: int, path: str) -> NoReturn:
    """Raise the OSError of that number, as the os module would."""
    raise OSError(number, os.strerror(number), path)


def split(path: str) -> list[str]:
    """The names along the path. "." is the root and ".." is resolved by the text alone."""
    tail = os.path.splitdrive(os.path.normpath(os.fspath(path)))[1]
    names = [name for name in tail.split(os.sep) if name not in ("", os.curdir, os.pardir)]
    if not path:
        fail(errno.ENOENT, path)
    if any(len(os.fsencode(name)) > NAME_BYTES_MAX for name in names):
        fail(errno.ENAMETOOLONG, path)
    return names


def look_up(root: FolderNode, path: str) -> Node:
    """The node at `path`; ENOENT or ENOTDIR if there is none."""
    return _descend(root, split(path), path)


def look_up_folder(root: FolderNode, path: str) -> FolderNode:
    """The directory at `path`; ENOENT or ENOTDIR if there is none."""
    return _folder(look_up(root, path), path)


def place_of(root: FolderNode, path: str) -> Place:
    """The directory and the name that `path` means, whether or not something is there.

    The name of the root itself is "", which no entry has.
    """
    names = split(path)
    if not names:
        return root, ""
    return _folder(_descend(root, names[:-1], path), path), names[-1]


def _descend(root: FolderNode, names: list[str], path: str) -> Node:
    node: Node = root
    for name in names:
        found = _folder(node, path).entries.get(name)
        if found is None:
            fail(errno.ENOENT, path)
        node = found
    return node


def _folder(node: Node, path: str) -> FolderNode:
    if not isinstance(node, FolderNode):
        fail(errno.ENOTDIR, path)
    return node


def block_mask(start: int, end: int) -> int:
    """The bits of the blocks that the bytes from `start` to `end` lie in."""
    if end <= start:
        return 0
    first, last = start // BLOCK_BYTES, (end - 1) // BLOCK_BYTES
    return ((1 << (last - first + 1)) - 1) << first


def status_of(node: Node, device: int) -> os.stat_result:
    """What fstat would say."""
    own = os.getuid() if hasattr(os, "getuid") else 0
    group = os.getgid() if hasattr(os, "getgid") else 0
    if isinstance(node, FileNode):
        mode, links, size = stat.S_IFREG | 0o600, int(node.linked), node.storage.size
    else:
        mode, links, size = stat.S_IFDIR | 0o700, 2, BLOCK_BYTES
    return os.stat_result((mode, node.number, device, links, own, group, size, 0, 0, 0))


def walk(folder: FolderNode, prefix: str = os.sep) -> Iterator[tuple[str, FileNode]]:
    """Every file below `folder` with its path, in the order of names."""
    for name, node in sorted(folder.entries.items()):
        path = os.path.join(prefix, name)
        if isinstance(node, FolderNode):
            yield from walk(node, path)
        elif isinstance(node, FileNode):
            yield path, node
