"""The disk of an in-memory file system: its tree, its space, and how both change.

Knows nothing of descriptors and locks (memory.py). Not locked itself.
"""

from __future__ import annotations

import errno
import itertools
import os
from typing import Self

from ._tree import (
    BLOCK_BYTES,
    Cloner,
    FileNode,
    FolderNode,
    NameChange,
    Node,
    block_mask,
    fail,
    look_up_folder,
    place_of,
    split,
    walk,
    writes,
)

_O_DIRECTORY = getattr(os, "O_DIRECTORY", 0)


class Disk:
    """Files and directories, and the blocks that they take up."""

    def __init__(self, capacity_bytes: int | None = None) -> None:
        self.capacity_bytes = capacity_bytes
        self.used_blocks = 0
        self._numbers = itertools.count(1)
        self.root = self.new_folder(os.sep)

    # --- nodes: DurableDisk has richer ones ---------------------------------------------------

    def new_file(self, path: str) -> FileNode:
        """A file without a name."""
        return FileNode(next(self._numbers), path)

    def new_folder(self, path: str) -> FolderNode:
        """A directory without a name."""
        return FolderNode(next(self._numbers), path)

    # --- names -------------------------------------------------------------------------------

    def find_or_create(self, path: str, flags: int) -> Node:
        """What open() with these flags opens."""
        folder, name = place_of(self.root, path)
        node = folder.entries.get(name) if name else folder
        if node is None:
            if not flags & os.O_CREAT:
                fail(errno.ENOENT, path)
            node = self.new_file(path)
            self.change(NameChange("create", node, None, (folder, name)))
        elif flags & os.O_CREAT and flags & os.O_EXCL:
            fail(errno.EEXIST, path)
        elif isinstance(node, FolderNode) and (writes(flags) or flags & os.O_CREAT):
            fail(errno.EISDIR, path)
        elif isinstance(node, FileNode) and flags & _O_DIRECTORY:
            fail(errno.ENOTDIR, path)
        return node

    def make_directory(self, path: str) -> None:
        """Create one directory."""
        place = place_of(self.root, path)
        if not place[1] or place[1] in place[0].entries:
            fail(errno.EEXIST, path)
        self.change(NameChange("make_directory", self.new_folder(path), None, place))

    def rename(self, old: str, new: str) -> None:
        """Rename, replacing a file or an empty directory of the same kind."""
        source, target = place_of(self.root, old), place_of(self.root, new)
        node = source[0].entries.get(source[1])
        if node is None:
            fail(errno.ENOENT, old)
        there = target[0].entries.get(target[1])
        if there is node:
            return
        if split(new)[: len(split(old))] == split(old):
            fail(errno.EINVAL, new)
        if there is not None:
            _refuse_to_replace(node, there, new)
        self.change(NameChange("rename", node, source, target))

    def remove(self, path: str) -> None:
        """Remove a file's name."""
        place = place_of(self.root, path)
        node = place[0].entries.get(place[1])
        if isinstance(node, FolderNode) or not place[1]:
            fail(errno.EISDIR, path)
        if node is None:
            fail(errno.ENOENT, path)
        self.change(NameChange("remove", node, place, None))

    def change(self, change: NameChange) -> None:
        """Carry a change of names out."""
        gone: Node | None = change.node
        if change.old:
            del change.old[0].entries[change.old[1]]
        if change.new:
            folder, name = change.new
            gone = folder.entries.get(name)
            folder.entries[name] = change.node
            change.node.path = change.path()
        if isinstance(gone, FileNode):
            gone.linked = False
            self.free_if_unused(gone)

    def free_if_unused(self, file: FileNode) -> None:
        """Give the space back of a file that has neither a name nor a descriptor."""
        if not file.linked and not file.opened:
            self._set_blocks(file, 0)

    def sync_folder(self, folder: FolderNode) -> None:
        """Make the directory's names durable; here they always are."""

    # --- bytes and space ---------------------------------------------------------------------

    def write(self, file: FileNode, data: memoryview, offset: int) -> None:
        """Put bytes into the file, whether or not there is room."""
        if data:
            self._set_blocks(file, file.blocks | block_mask(offset, offset + len(data)))
            file.storage.write(data, offset)

    def resize(self, file: FileNode, size: int) -> None:
        """Set the file's size; space beyond it is given back."""
        if size < file.storage.size:
            self._set_blocks(file, file.blocks & block_mask(0, size))
        file.storage.resize(size)

    def allocate(self, file: FileNode, size: int) -> None:
        """Take up space for the first `size` bytes; the size grows to that."""
        if self.room(file, 0, size) < size:
            fail(errno.ENOSPC, file.path)
        self._set_blocks(file, file.blocks | block_mask(0, size))
        if size > file.storage.size:
            self.resize(file, size)

    def room(self, file: FileNode, offset: int, length: int) -> int:
        """How many of `length` bytes at `offset` fit on the disk."""
        free = self.free_bytes()
        missing = block_mask(offset, offset + length) & ~file.blocks
        if free is None or missing.bit_count() * BLOCK_BYTES <= free:
            return length
        for _ in range(free // BLOCK_BYTES):
            missing &= missing - 1
        first_without = (missing & -missing).bit_length() - 1
        return max(0, first_without * BLOCK_BYTES - offset)

    def free_bytes(self) -> int | None:
        """What is left of the capacity; None without end."""
        if self.capacity_bytes is None:
            return None
        return max(0, self.capacity_bytes - self.used_bytes())

    def used_bytes(self) -> int:
        """What all files take up."""
        return self.used_blocks * BLOCK_BYTES

    def _set_blocks(self, file: FileNode, mask: int) -> None:
        self.used_blocks += mask.bit_count() - file.blocks.bit_count()
        file.blocks = mask

    # --- for tests ---------------------------------------------------------------------------

    def put_file(self, path: str, data: bytes) -> FileNode:
        """Create or overwrite a file, and the directories on the way."""
        names = split(path)
        for depth, name in enumerate(names[:-1], 1):
            parent = os.sep.join(["", *names[:depth]])
            if name not in look_up_folder(self.root, os.path.dirname(parent)).entries:
                self.make_directory(parent)
        file = self.find_or_create(path, os.O_RDWR | os.O_CREAT)
        assert isinstance(file, FileNode)  # a directory is refused above, with EISDIR
        self.resize(file, len(data))
        self.write(file, memoryview(data), 0)
        return file

    def clone(self) -> Self:
        """A copy as a dying process leaves the disk: files without a name are gone."""
        other = self._blank()
        other.adopt(Cloner()(self.root), next(self._numbers))
        return other

    def _blank(self) -> Self:
        return type(self)(self.capacity_bytes)

    def adopt(self, root: FolderNode, next_number: int) -> None:
        """Take over a tree that was made elsewhere."""
        self.root = root
        self._numbers = itertools.count(next_number)
        self.used_blocks = sum(file.blocks.bit_count() for _, file in walk(root))


def _refuse_to_replace(node: Node, there: Node, path: str) -> None:
    """What rename says to a target of another kind."""
    if isinstance(there, FolderNode):
        if not isinstance(node, FolderNode):
            fail(errno.EISDIR, path)
        if there.entries:
            fail(errno.ENOTEMPTY, path)
    elif isinstance(node, FolderNode):
        fail(errno.ENOTDIR, path)
