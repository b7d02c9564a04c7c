"""A disk that knows which of its bytes and names would survive a power cut.

Each file remembers its durable content (as of its last sync), each directory its durable entries
(as of its last sync), and the disk the changes of names since then, in order. Stores to a mapping
are no calls, so what is not durable is found by comparing contents, never by watching writes.

Not locked. What may be left after a cut is _survival.py's business.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable
from typing import Literal, Self, cast

from ._disk import Disk
from ._storage import Storage
from ._tree import (
    Cloner,
    FileNode,
    FolderNode,
    NameChange,
    Node,
    block_mask,
    place_of,
)

FailedSync = Literal["clean", "dirty"]

# Old sizes and old contents to choose from; more of them would make no new kind of image.
_SIZES_MAX = 64
_FREED_MAX = 8
_FREED_BYTES_MAX = 1 << 20

_CHUNK_SECTORS = 32


class DurableFile(FileNode):
    """A file with its durable content beside the live one."""

    __slots__ = ("clean", "durable", "durable_blocks", "durable_size", "sizes", "sync_number")

    def __init__(self, number: int, path: str) -> None:
        super().__init__(number, path)
        self.durable = b""
        self.durable_size = 0
        self.durable_blocks = 0
        # The sizes that the file has had since its last sync, each with the time it last had it.
        self.sizes: dict[int, int] = {}
        # Sectors that a failed sync left clean in the cache though they are not on disk.
        self.clean: dict[int, bytes] = {}
        # The sync that made `durable`: of two overlapping syncs the one that began later wins.
        self.sync_number = 0

    def fill(self, copy: Node, clone: Cloner) -> None:
        """Give `copy` both contents."""
        super().fill(copy, clone)
        other = cast(DurableFile, copy)
        other.durable = self.durable
        other.durable_size = self.durable_size
        other.durable_blocks = self.durable_blocks
        other.sizes = dict(self.sizes)
        other.clean = dict(self.clean)
        other.sync_number = self.sync_number

    def become(self, content: bytes, size: int) -> None:
        """Hold this content, all of it durable."""
        mask = block_mask(0, size)
        self.blocks = (self.blocks | self.durable_blocks | block_mask(0, len(content))) & mask
        self.storage = Storage(content, size)
        self.make_durable(content)

    def make_durable(self, content: bytes) -> None:
        """Whatever the file holds now is on disk."""
        self.durable, self.durable_size = content, self.storage.size
        self.durable_blocks = self.blocks
        self.sizes.clear()
        self.clean.clear()


class DurableFolder(FolderNode):
    """A directory with its durable entries beside the live ones."""

    __slots__ = ("durable",)

    def __init__(self, number: int, path: str) -> None:
        super().__init__(number, path)
        self.durable: dict[str, Node] = {}

    def fill(self, copy: Node, clone: Cloner) -> None:
        """Give `copy` clones of both sets of entries."""
        super().fill(copy, clone)
        cast(DurableFolder, copy).durable = clone.entries(self.durable)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class SyncBegun:
    """What a sync will have made durable once it returns: the file as it was at its beginning."""

    file: DurableFile
    content: bytes
    size: int
    blocks: int
    number: int


class DurableDisk(Disk):
    """A disk under a page cache that a power cut empties."""

    def __init__(
        self,
        capacity_bytes: int | None = None,
        *,
        sector_bytes: int = 512,
        failed_sync: FailedSync = "clean",
    ) -> None:
        super().__init__(capacity_bytes)
        self.sector_bytes = sector_bytes
        self.failed_sync = failed_sync
        # Changes of names that no directory sync has made durable, in order.
        self.pending: list[NameChange] = []
        # Contents of files that were removed or cut: what a block may hold before it is written.
        self.freed: collections.deque[bytes] = collections.deque(maxlen=_FREED_MAX)
        self._time = 0

    def new_file(self, path: str) -> DurableFile:
        """A file of which nothing is durable yet."""
        return DurableFile(next(self._numbers), path)

    def new_folder(self, path: str) -> DurableFolder:
        """A directory of which nothing is durable yet."""
        return DurableFolder(next(self._numbers), path)

    # --- changes -----------------------------------------------------------------------------

    def change(self, change: NameChange) -> None:
        """Carry the change out; it is pending until one of its directories is synced."""
        gone = change.new and change.new[0].entries.get(change.new[1])
        for node in (gone, change.node if change.new is None else None):
            if isinstance(node, DurableFile):
                self._keep_freed(node.storage.snapshot())
        super().change(change)
        self.pending.append(change)

    def write(self, file: FileNode, data: memoryview, offset: int) -> None:
        """Put bytes into the file; its sectors are dirty again even if the bytes are the same."""
        super().write(file, data, offset)
        self._note_size(_durable(file))
        if data:
            self._dirty_again(_durable(file), offset, offset + len(data))

    def resize(self, file: FileNode, size: int) -> None:
        """Set the size; until the next sync either size may survive."""
        if size < file.storage.size:
            self._keep_freed(file.storage.snapshot())
            self._dirty_again(_durable(file), size, file.storage.size)
        super().resize(file, size)
        self._note_size(_durable(file))

    def put_file(self, path: str, data: bytes) -> FileNode:
        """Create or overwrite a durable file, on the way of durable directories."""
        file = _durable(super().put_file(path, data))
        file.make_durable(data)
        folder: FolderNode | None = place_of(self.root, path)[0]
        while folder is not None:
            self.sync_folder(folder)
            folder = self._parent(folder)
        return file

    def _parent(self, folder: FolderNode) -> FolderNode | None:
        return None if folder is self.root else place_of(self.root, folder.path)[0]

    def _note_size(self, file: DurableFile) -> None:
        self._time += 1
        file.sizes.pop(file.storage.size, None)
        file.sizes[file.storage.size] = self._time
        if len(file.sizes) > _SIZES_MAX:
            del file.sizes[next(iter(file.sizes))]

    def _dirty_again(self, file: DurableFile, start: int, end: int) -> None:
        if file.clean:
            for sector in range(start // self.sector_bytes, -(-end // self.sector_bytes)):
                file.clean.pop(sector, None)

    def _keep_freed(self, content: bytes) -> None:
        if content:
            self.freed.append(content[:_FREED_BYTES_MAX])

    # --- syncs -------------------------------------------------------------------------------

    def sync_folder(self, folder: FolderNode) -> None:
        """Make the directory's changes of names durable.

        A rename between two directories becomes durable whole, with one of them; so do the
        changes in the other one that came before it.
        """
        touched = {folder}
        done, left = [], []
        for change in reversed(self.pending):
            if touched.isdisjoint(change.folders()):
                left.append(change)
            else:
                touched |= change.folders()
                done.append(change)
        self.pending = left[::-1]
        names = Names(done)
        for change in reversed(done):
            names.apply(change)
        for touched_folder, entries in names.folders():
            touched_folder.durable = entries

    def begin_sync(self, file: DurableFile) -> SyncBegun:
        """Take down what the sync has to write: bytes stored after this are not part of it."""
        self._time += 1
        live = file.storage.snapshot()
        content = live
        if file.clean:
            self._forget_changed(file, live)
            content = self._without_clean(file, live)
        return SyncBegun(file, content, file.storage.size, file.blocks, self._time)

    def end_sync(self, begun: SyncBegun) -> None:
        """The bytes taken down at the beginning are durable."""
        file = begun.file
        if begun.number < file.sync_number:
            return
        file.sync_number = begun.number
        file.durable, file.durable_size = begun.content, begun.size
        file.durable_blocks = begun.blocks
        file.sizes = {size: time for size, time in file.sizes.items() if time > begun.number}

    def sync_failed(self, file: DurableFile) -> None:
        """A sync of the file failed: its dirty sectors are clean now, but not on disk."""
        if self.failed_sync == "clean":
            live = file.storage.snapshot()
            self._forget_changed(file, live)
            for sector in dirty_sectors(live, file.storage.size, file.durable, self.sector_bytes):
                file.clean[sector] = self._sector(live, sector)

    def _forget_changed(self, file: DurableFile, live: bytes) -> None:
        """A clean sector that was stored into since is dirty."""
        for sector, content in list(file.clean.items()):
            if self._sector(live, sector) != content:
                del file.clean[sector]

    def _without_clean(self, file: DurableFile, live: bytes) -> bytes:
        """The live bytes, but the clean sectors as they are on disk: no sync writes them."""
        content = bytearray(live)
        for sector in file.clean:
            start = sector * self.sector_bytes
            length = min(self.sector_bytes, len(content) - start)
            if length > 0:
                content[start : start + length] = self._sector(file.durable, sector)[:length]
        return bytes(content)

    def _sector(self, content: bytes, sector: int) -> bytes:
        start = sector * self.sector_bytes
        return content[start : start + self.sector_bytes].ljust(self.sector_bytes, b"\0")

    # --- copies ------------------------------------------------------------------------------

    def _blank(self) -> Self:
        return type(self)(
            self.capacity_bytes, sector_bytes=self.sector_bytes, failed_sync=self.failed_sync
        )

    def clone(self) -> Self:
        """A copy with the same things durable and the same things not."""
        other, clone = self._blank(), Cloner()
        other.adopt(clone(self.root), next(self._numbers))
        other.pending = [change.clone(clone) for change in self.pending]
        other.freed.extend(self.freed)
        other._time = self._time
        return other

    def restored(self, root: DurableFolder) -> Self:
        """A disk that holds the tree `root`, which survived a power cut of this one."""
        other = self._blank()
        other.adopt(root, next(self._numbers))
        other.freed.extend(self.freed)
        return other


class Names:
    """The entries of the directories that some changes touch: first the durable ones."""

    def __init__(self, changes: Iterable[NameChange]) -> None:
        self._entries: dict[DurableFolder, dict[str, Node]] = {}
        for change in changes:
            for folder in change.folders():
                assert isinstance(folder, DurableFolder)
                self._entries[folder] = dict(folder.durable)

    def entries(self, folder: DurableFolder) -> dict[str, Node]:
        """What the directory holds."""
        return self._entries.get(folder, folder.durable)

    def folders(self) -> Iterable[tuple[DurableFolder, dict[str, Node]]]:
        """The directories that the changes touch, with what they hold."""
        return self._entries.items()

    def apply(self, change: NameChange) -> None:
        """Let the change happen, whether or not the ones before it did.

        It moves the node itself, wherever a lost rename may have left it: no state has two
        names for one file.
        """
        for entries in self._entries.values():
            for name in [name for name, node in entries.items() if node is change.node]:
                del entries[name]
        if change.new:
            folder, name = change.new
            assert isinstance(folder, DurableFolder)
            self._entries[folder][name] = change.node


def dirty_sectors(live: bytes, live_size: int, durable: bytes, sector_bytes: int) -> list[int]:
    """The sectors below the live size whose bytes differ from the durable ones."""
    if live == durable:
        return []
    chunk = sector_bytes * _CHUNK_SECTORS
    end = -(-max(len(live), min(len(durable), live_size)) // chunk) * chunk
    live, durable = live.ljust(end, b"\0"), durable.ljust(end, b"\0")
    sectors: list[int] = []
    for start in range(0, end, chunk):
        if live[start : start + chunk] != durable[start : start + chunk]:
            sectors += [
                offset // sector_bytes
                for offset in range(start, min(start + chunk, live_size), sector_bytes)
                if live[offset : offset + sector_bytes] != durable[offset : offset + sector_bytes]
            ]
    return sectors


def _durable(file: FileNode) -> DurableFile:
    assert isinstance(file, DurableFile)
    return file
