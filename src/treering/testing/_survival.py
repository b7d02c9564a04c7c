"""What a power cut may leave: every choice of what survives, and the disk that it makes.

A picture is a copy of a disk at one moment. A choice says for each thing that was not durable then
(a sector, a file's size, a change of names) whether it survived. Pure: nothing here touches the
live disk, and the same picture, choice and random numbers make the same disk again.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
import random
from collections.abc import Callable, Iterator
from typing import Literal, cast

from ._durable import DurableDisk, DurableFile, DurableFolder, Names, dirty_sectors
from ._tree import Node

Lost = Literal["zeros", "random", "stale"]
NameOrder = Literal["any", "prefix"]

# How likely a thing survives, in one sample or another.
_CHANCES = (0.0, 0.03, 0.2, 0.5, 0.8, 0.97, 1.0)

_NOISE_BYTES = 1 << 16

# Up to this many choices for each image wanted, all are made and shuffled; of more there are
# samples, and so many tries to find one that is new.
_CHOICES_PER_IMAGE = 4
_TRIES_PER_IMAGE = 10


@dataclasses.dataclass(frozen=True, slots=True)
class Unsynced:
    """One thing that is not durable: it may survive a power cut, or not.

    kind: "sector" (a sector of a file's bytes), "size" (the file's length) or "name" (a name that
        was created, renamed or removed).
    path: of the file or directory; the new one of a rename.
    offset: where the sector begins; the live size.
    operation: "create", "make_directory", "rename" or "remove", of a name.
    """

    kind: Literal["sector", "size", "name"]
    path: str
    offset: int = 0
    operation: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Rules:
    """How images are made; PowerCutFiles says what each one means."""

    names: NameOrder = "any"
    lost: Lost = "zeros"
    torn_sectors: bool = False


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class UnsyncedFile:
    """A file of which something is not durable."""

    file: DurableFile
    live: bytes
    live_size: int
    # The live bytes, with zeros up to the end of the last sector that differs.
    live_padded: bytes
    # Sectors that differ, in order, and all sizes that may survive.
    dirty: tuple[int, ...]
    sizes: tuple[int, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Fate:
    """What becomes of one file: its size, the sectors that survive, and those that do in part.

    A torn sector has so many of the new bytes: the first ones, or if negative the last ones.
    """

    size: int
    kept: frozenset[int]
    torn: tuple[tuple[int, int], ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Choice:
    """What survives: of each change of names, and of each file that is not durable."""

    names: tuple[bool, ...]
    fates: tuple[Fate, ...]


class Picture:
    """A disk at one moment: what is durable, and what is not."""

    def __init__(self, disk: DurableDisk) -> None:
        self._disk = disk.clone()
        self.sector_bytes = disk.sector_bytes
        self.changes = tuple(self._disk.pending)
        found = (_unsynced(file, disk.sector_bytes) for file in _files(self._disk))
        self.files = tuple(file for file in found if file.dirty or len(file.sizes) > 1)
        self._index = {unsynced.file: index for index, unsynced in enumerate(self.files)}

    def contents(self) -> Iterator[bytes]:
        """Old and new contents that a stale sector may come from."""
        yield from self._disk.freed
        for unsynced in self.files:
            yield unsynced.live
            yield unsynced.file.durable

    # --- choices -----------------------------------------------------------------------------

    def nothing(self) -> Choice:
        """Only what is durable survives."""
        return self.choose(lambda _: False)

    def everything(self) -> Choice:
        """Nothing is lost."""
        return self.choose(lambda _: True)

    def choose(self, survives: Callable[[Unsynced], bool]) -> Choice:
        """Ask for each thing that is not durable."""
        names = tuple(
            survives(Unsynced("name", change.path(), operation=change.operation))
            for change in self.changes
        )
        return Choice(names, tuple(self._ask(unsynced, survives) for unsynced in self.files))

    def _ask(self, unsynced: UnsyncedFile, survives: Callable[[Unsynced], bool]) -> Fate:
        path, size = unsynced.file.path, unsynced.file.durable_size
        if len(unsynced.sizes) > 1 and survives(Unsynced("size", path, unsynced.live_size)):
            size = unsynced.live_size
        kept = (
            sector
            for sector in unsynced.dirty
            if survives(Unsynced("sector", path, sector * self.sector_bytes))
        )
        return Fate(size, frozenset(kept))

    def count(self, rules: Rules) -> int:
        """How many choices there are, torn sectors aside."""
        of_names = 2 ** len(self.changes) if rules.names == "any" else len(self.changes) + 1
        of_files = (len(file.sizes) * 2 ** len(file.dirty) for file in self.files)
        return functools.reduce(int.__mul__, of_files, of_names)

    def all_choices(self, rules: Rules) -> Iterator[Choice]:
        """Every choice, torn sectors aside."""
        fates = [list(_all_fates(file)) for file in self.files]
        for names in _all_names(len(self.changes), rules):
            yield from (Choice(names, chosen) for chosen in itertools.product(*fates))

    def sample(self, rng: random.Random, rules: Rules) -> Choice:
        """A random choice; nearly nothing and nearly everything are as likely as the rest."""
        names = _sample_names(len(self.changes), rng, rules)
        fates = (_sample_fate(file, rng, rules, self.sector_bytes) for file in self.files)
        return Choice(names, tuple(fates))

    def distinct(self, limit: int, rng: random.Random, rules: Rules) -> Iterator[Choice]:
        """Up to `limit` choices that make different disks; see PowerCutFiles.images."""
        seen = set()
        for choice in self._candidates(limit, rng, rules):
            key = self._key(choice)
            if key not in seen:
                seen.add(key)
                yield choice
            if len(seen) >= max(limit, 2):
                return

    def _candidates(self, limit: int, rng: random.Random, rules: Rules) -> Iterator[Choice]:
        yield self.nothing()
        yield self.everything()
        few = self.count(rules) <= limit * _CHOICES_PER_IMAGE
        if few:
            choices = list(self.all_choices(rules))
            rng.shuffle(choices)
            yield from choices
        if rules.torn_sectors or not few:
            yield from (self.sample(rng, rules) for _ in range(limit * _TRIES_PER_IMAGE))

    def _key(self, choice: Choice) -> object:
        """Equal for choices that make the same disk, because what differs is out of sight."""
        key: list[object] = []
        for path, node in self._layout(choice.names):
            key.append((path, node.number))
            index = self._index.get(cast(DurableFile, node))
            if index is not None:
                key.append(_visible(choice.fates[index], self.sector_bytes))
        return tuple(key)

    # --- disks -------------------------------------------------------------------------------

    def disk(self, choice: Choice, fill: Filler) -> DurableDisk:
        """The disk after the cut: all that is on it is durable."""
        root = DurableFolder(self._disk.root.number, os.sep)
        folders = {os.sep: root}
        for path, node in self._layout(choice.names):
            copy = type(node)(node.number, path)
            folder = folders[os.path.dirname(path)]
            folder.entries[os.path.basename(path)] = copy
            folder.durable[os.path.basename(path)] = copy
            if isinstance(copy, DurableFolder):
                folders[path] = copy
            else:
                self._restore(cast(DurableFile, node), cast(DurableFile, copy), choice, fill)
        return self._disk.restored(root)

    def _layout(self, survived: tuple[bool, ...]) -> Iterator[tuple[str, Node]]:
        """All names that survive, directories before what is in them."""
        names = Names(self.changes)
        for change in itertools.compress(self.changes, survived):
            names.apply(change)
        return _below(names, cast(DurableFolder, self._disk.root), os.sep)

    def _restore(self, file: DurableFile, copy: DurableFile, choice: Choice, fill: Filler) -> None:
        copy.blocks = file.blocks | file.durable_blocks
        index = self._index.get(file)
        if index is None:
            copy.become(file.durable, file.durable_size)
        else:
            fate = choice.fates[index]
            copy.become(self._content(self.files[index], fate, fill), fate.size)

    def _content(self, unsynced: UnsyncedFile, fate: Fate, fill: Filler) -> bytes:
        if len(fate.kept) == len(unsynced.dirty) and fate.size == unsynced.live_size:
            return unsynced.live
        length, live = self.sector_bytes, unsynced.live_padded
        content = bytearray(unsynced.file.durable.ljust(len(live), b"\0"))
        if fill.lost != "zeros" or fate.torn:
            torn = dict(fate.torn)
            for sector in unsynced.dirty:
                if sector in fate.kept:
                    continue
                here = slice(sector * length, (sector + 1) * length)
                old = bytes(content[here])
                cut = torn.get(sector)
                content[here] = fill(sector, old) if cut is None else _torn(old, live[here], cut)
        for start, end in _runs(sorted(fate.kept), length):
            content[start:end] = live[start:end]
        del content[fate.size :]
        return bytes(content)


class Filler:
    """What a sector holds that was lost."""

    def __init__(self, picture: Picture, lost: Lost, rng: random.Random) -> None:
        self.lost = lost
        self._rng = rng
        self._contents = [content for content in picture.contents() if content]
        self._noise = rng.randbytes(_NOISE_BYTES if lost == "random" else 0)

    def __call__(self, sector: int, durable: bytes) -> bytes:
        """The durable bytes; or what is found in space that was never written before."""
        if self.lost == "zeros" or durable != bytes(len(durable)):
            return durable
        if self.lost == "random":
            start = self._rng.randrange(len(self._noise) - len(durable))
            return self._noise[start : start + len(durable)]
        return self._stale(sector, len(durable))

    def _stale(self, sector: int, length: int) -> bytes:
        """Another sector: half of the time from the same offset of another file."""
        # There is one at least: that of the sector that was lost.
        content = self._rng.choice(self._contents)
        if sector * length >= len(content) or self._rng.random() < 0.5:
            sector = self._rng.randrange(-(-len(content) // length))
        return content[sector * length : (sector + 1) * length].ljust(length, b"\0")


def _below(names: Names, folder: DurableFolder, path: str) -> Iterator[tuple[str, Node]]:
    for name, node in names.entries(folder).items():
        below = os.path.join(path, name)
        yield below, node
        if isinstance(node, DurableFolder):
            yield from _below(names, node, below)


def _files(disk: DurableDisk) -> list[DurableFile]:
    """Every file that may be there after a cut, in an order that is always the same."""
    seen: dict[Node, None] = {}
    left: list[Node] = [*(change.node for change in reversed(disk.pending)), disk.root]
    while left:
        node = left.pop()
        if node not in seen:
            seen[node] = None
            if isinstance(node, DurableFolder):
                left += node.durable.values()
    return [node for node in seen if isinstance(node, DurableFile)]


def _unsynced(file: DurableFile, sector_bytes: int) -> UnsyncedFile:
    live, size = file.storage.snapshot(), file.storage.size
    dirty = dirty_sectors(live, size, file.durable, sector_bytes)
    sizes = dict.fromkeys((file.durable_size, *file.sizes, size))
    padded = live.ljust((dirty[-1] + 1) * sector_bytes if dirty else 0, b"\0")
    return UnsyncedFile(file, live, size, padded, tuple(dirty), tuple(sizes))


def _all_names(count: int, rules: Rules) -> Iterator[tuple[bool, ...]]:
    if rules.names == "any":
        yield from itertools.product((False, True), repeat=count)
    else:
        yield from (_first(kept, count) for kept in range(count + 1))


def _first(kept: int, count: int) -> tuple[bool, ...]:
    return (True,) * kept + (False,) * (count - kept)


def _all_fates(unsynced: UnsyncedFile) -> Iterator[Fate]:
    for size in unsynced.sizes:
        for bits in itertools.product((False, True), repeat=len(unsynced.dirty)):
            yield Fate(size, frozenset(itertools.compress(unsynced.dirty, bits)))


def _sample_names(count: int, rng: random.Random, rules: Rules) -> tuple[bool, ...]:
    if rules.names == "prefix":
        return _first(rng.randint(0, count), count)
    chance = rng.choice(_CHANCES)
    return tuple(rng.random() < chance for _ in range(count))


def _sample_fate(
    unsynced: UnsyncedFile, rng: random.Random, rules: Rules, sector_bytes: int
) -> Fate:
    favourites = (unsynced.live_size, unsynced.live_size, unsynced.file.durable_size)
    size = rng.choice((*favourites, rng.choice(unsynced.sizes)))
    kept = _sample_sectors(unsynced.dirty, rng)
    if not rules.torn_sectors:
        return Fate(size, kept)
    chosen = rng.sample(unsynced.dirty, min(len(unsynced.dirty), rng.randint(0, 2)))
    cuts = ((sector, _sample_cut(unsynced, sector, rng, sector_bytes)) for sector in sorted(chosen))
    torn = tuple((sector, cut) for sector, cut in cuts if cut)
    return Fate(size, kept.difference(sector for sector, _ in torn), torn)


def _sample_cut(unsynced: UnsyncedFile, sector: int, rng: random.Random, sector_bytes: int) -> int:
    """Where to tear the sector, between bytes that differ; 0 if only one byte does."""
    here = slice(sector * sector_bytes, (sector + 1) * sector_bytes)
    old = unsynced.file.durable[here].ljust(sector_bytes, b"\0")
    differing = int.from_bytes(old, "big") ^ int.from_bytes(unsynced.live_padded[here], "big")
    first = sector_bytes - -(-differing.bit_length() // 8)
    last = sector_bytes - 1 - ((differing & -differing).bit_length() - 1) // 8
    if first == last:
        return 0
    cut = rng.randint(first + 1, last)
    return rng.choice((cut, cut - sector_bytes))


def _sample_sectors(dirty: tuple[int, ...], rng: random.Random) -> frozenset[int]:
    """Those that survive: one, all but one, a run or all but a run, or each by chance."""
    start, end = sorted((rng.randint(0, len(dirty)), rng.randint(0, len(dirty))))
    style = rng.randrange(10)
    if style < 2:
        end = min(start + 1, len(dirty))
    elif style == 2:
        start = 0
    elif style > 4:
        chance = rng.choice(_CHANCES)
        return frozenset(sector for sector in dirty if rng.random() < chance)
    run = frozenset(dirty[start:end])
    return run if style % 2 else frozenset(dirty) - run


def _visible(fate: Fate, sector_bytes: int) -> Fate:
    """The fate without the sectors beyond the file's end."""
    end = -(-fate.size // sector_bytes)
    kept = frozenset(sector for sector in fate.kept if sector < end)
    return Fate(fate.size, kept, tuple(cut for cut in fate.torn if cut[0] < end))


def _runs(sectors: list[int], sector_bytes: int) -> Iterator[tuple[int, int]]:
    """The stretches of bytes that these sectors, which are in order, make up."""
    start = 0
    for index, sector in enumerate(sectors):
        if index + 1 == len(sectors) or sectors[index + 1] != sector + 1:
            yield sectors[start] * sector_bytes, (sector + 1) * sector_bytes
            start = index + 1


def _torn(old: bytes, new: bytes, cut: int) -> bytes:
    """The first `cut` bytes of the new sector, or its last ones if `cut` is negative."""
    return new[:cut] + old[cut:] if cut > 0 else old[:cut] + new[cut:]
