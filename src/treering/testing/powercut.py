"""A file system in memory whose power can be cut."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Self, cast

from ._durable import DurableDisk, DurableFile, DurableFolder, FailedSync
from ._survival import Choice, Filler, Lost, NameOrder, Picture, Rules, Unsynced
from .memory import MemoryFiles, _new_boot_id


class PowerCutFiles(MemoryFiles):
    """A MemoryFiles that knows what would survive if the power went out now.

    A file's bytes are durable once the file was synced, a name once its directory was. Of all
    that is not, any part may survive: sectors one by one, the file's size, changes of names. A
    rename survives whole or not at all. A new file that was synced can still lose its name; one
    that was removed can come back.

        files = PowerCutFiles()
        program(files)                                  # your program, up to some moment
        for after in files.images(limit=100, seed=1):   # what the disk may hold then
            check(after)                                # start your program on it

    An image is a PowerCutFiles too, restarted (new boot id, no descriptors, no locks) and with
    everything on it durable, so the power can be cut again while the program recovers. Take
    images from `on_operation` to cut after each call, and from `during_sync` too: a program that
    stores into a mapping and syncs makes no other call while its bytes are at stake.

    Models stores to a mapping without seeing them: contents are compared, sector by sector.

    Does not model: content that a sector had only in between (it survives as it is now, or as it
    was when last synced; for a log that only grows, `torn_sectors` covers most of the rest); disks
    that forget what they were told to flush, or damage sectors that nobody wrote; what a file
    system promises beyond POSIX (an fsync of a new file that makes its name durable too, the order
    of data and names), because a program should not need it.

    sector_bytes: what a disk writes whole: 512, or 4096.
    names: "any" subset of the changes of names survives, or only a "prefix" of them in order, as
        on a file system with a journal.
    lost: what is found where sectors were written for the first time and lost: "zeros" (what
        ext4 and XFS give), "random" bytes, or "stale" ones from other sectors and removed files.
        Space counts as never written while it is all zeros, preallocated or not.
    torn_sectors: some sectors survive in part, the first or the last so many bytes of them. (In
        `image` and `images`; never in `cut`.)
    failed_sync: what a sync that fails (FaultyFiles tells by `sync_failed`) does to the file's
        dirty sectors. "clean", as ext4 and XFS: the cache holds them, later syncs do not write
        them, and they reach the disk only if they are stored into again: by any `write()` over
        them, or by a change of their content. (A store of the same bytes through a mapping cannot
        be seen, so it does not count. The kernel goes by pages; this goes by sectors, which is
        harder.) "dirty": they stay dirty, so the next sync writes them.
    during_sync: called with the path inside each `sync` of a file, without any lock: bytes stored
        from then on are not part of that sync. Wait in it for a slow disk.
    kind, capacity_bytes, on_operation: see MemoryFiles.
    """

    _disk: DurableDisk

    def __init__(
        self,
        kind: str = "memory",
        *,
        capacity_bytes: int | None = None,
        on_operation: Callable[[str, str], None] | None = None,
        sector_bytes: int = 512,
        names: NameOrder = "any",
        lost: Lost = "zeros",
        torn_sectors: bool = False,
        failed_sync: FailedSync = "clean",
        during_sync: Callable[[str], None] | None = None,
    ) -> None:
        super().__init__(kind, on_operation=on_operation)
        self.names = names
        self.lost = lost
        self.torn_sectors = torn_sectors
        self.during_sync = during_sync
        self._disk = DurableDisk(capacity_bytes, sector_bytes=sector_bytes, failed_sync=failed_sync)

    # --- the door ----------------------------------------------------------------------------

    def sync(self, descriptor: int) -> None:
        """Make durable what the file held when the call began, or a directory's names."""
        with self._lock:
            opened = self._opened(descriptor)
            begun = None
            if isinstance(opened.node, DurableFile):
                begun = self._disk.begin_sync(opened.node)
        if begun is not None and self.during_sync is not None:
            self.during_sync(opened.path)
        with self._lock:
            if begun is not None:
                self._disk.end_sync(begun)
            else:
                self._disk.sync_folder(cast(DurableFolder, opened.node))
        self._report("sync", opened.path)

    def sync_failed(self, descriptor: int) -> None:
        """A sync of this descriptor failed without reaching here: see `failed_sync`."""
        with self._lock:
            node = self._opened(descriptor).node
            if isinstance(node, DurableFile):
                self._disk.sync_failed(node)

    # --- the power cut -----------------------------------------------------------------------

    def unsynced(self) -> list[Unsynced]:
        """Everything that a power cut now might take away."""
        found: list[Unsynced] = []

        def look(thing: Unsynced) -> bool:
            found.append(thing)
            return True

        self._picture().choose(look)
        return found

    def cut(self, choose: Callable[[Unsynced], bool] | None = None) -> Self:
        """The disk after a power cut now, of which you decide what survives.

        `choose` is asked for each thing that is not durable; without it nothing of that survives.
        """
        picture = self._picture()
        choice = picture.choose(choose) if choose else picture.nothing()
        return self._after(picture, choice, Filler(picture, self.lost, random.Random(0)))

    def image(
        self,
        rng: random.Random,
        *,
        names: NameOrder | None = None,
        lost: Lost | None = None,
        torn_sectors: bool | None = None,
    ) -> Self:
        """The disk after a power cut now, by chance; the keywords override the object's own."""
        picture, rules = self._picture(), self._rules(names, lost, torn_sectors)
        choice = picture.sample(rng, rules)
        return self._after(picture, choice, Filler(picture, rules.lost, rng))

    def images(
        self,
        limit: int,
        seed: int,
        *,
        names: NameOrder | None = None,
        lost: Lost | None = None,
        torn_sectors: bool | None = None,
    ) -> Iterator[Self]:
        """Different disks that a power cut at the moment of this call may leave, at most `limit`.

        Always those where nothing and where everything survives (even with a limit below 2). All
        there are if they are no more than `limit`, otherwise a sample that `seed` determines: few
        lost, few kept, runs, halves. The keywords override the object's own.
        """
        # The picture is taken now; the images of it are made one by one, when asked for.
        rules = self._rules(names, lost, torn_sectors)
        return self._each_image(self._picture(), limit, random.Random(seed), rules)

    def reboot_keep_all(self) -> Self:
        """The disk after a restart that lost nothing: everything is durable."""
        return self.cut(lambda _: True)

    # --- inside ------------------------------------------------------------------------------

    def _each_image(
        self, picture: Picture, limit: int, rng: random.Random, rules: Rules
    ) -> Iterator[Self]:
        fill = Filler(picture, rules.lost, rng)
        for choice in picture.distinct(limit, rng, rules):
            yield self._after(picture, choice, fill)

    def _picture(self) -> Picture:
        with self._lock:
            return Picture(self._disk)

    def _after(self, picture: Picture, choice: Choice, fill: Filler) -> Self:
        return self._with_disk(picture.disk(choice, fill), _new_boot_id())

    def _rules(
        self,
        names: NameOrder | None = None,
        lost: Lost | None = None,
        torn_sectors: bool | None = None,
    ) -> Rules:
        torn = self.torn_sectors if torn_sectors is None else torn_sectors
        return Rules(names or self.names, lost or self.lost, torn)

    def _blank(self) -> Self:
        return type(self)(
            self.kind, names=self.names, lost=self.lost, torn_sectors=self.torn_sectors
        )
