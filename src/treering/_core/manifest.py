"""The manifest: 2 slots of one small file, overwritten in place, so that it needs no new space.

One slot is written and fsynced, then the other; the worse of the two first. So at any moment one of
them is intact and durable, a power cut leaves the old or the new content, and a damaged slot has a
twin.
"""

from __future__ import annotations

from . import format as fmt
from .errors import DamageError, DiskFullError, StorageError
from .files import CREATE_NEW, WRITE, Directory, File, no_such_file


def load(directory: Directory) -> tuple[fmt.Manifest | None, list[str]]:
    """The newest intact slot, or None, and what is wrong with the others ("missing" for the file).

    UnknownVersionError when a slot is intact and of a newer version.
    """
    try:
        with directory.open(fmt.MANIFEST_NAME) as file:
            slots, problems = _read(file)
    except StorageError as error:
        if no_such_file(error):
            return None, ["missing"]
        raise
    intact = [slot for slot in slots if slot is not None]
    newest = max(intact, key=lambda slot: slot.sequence, default=None)
    for number, slot in enumerate(slots):
        if slot is not None and newest is not None and slot.sequence < newest.sequence:
            problems.append(f"slot {number}: older than the other")
    return newest, problems


def _read(file: File) -> tuple[list[fmt.Manifest | None], list[str]]:
    slots: list[fmt.Manifest | None] = []
    problems = []
    for number, offset in enumerate(fmt.MANIFEST_SLOT_OFFSETS):
        try:
            slots.append(fmt.Manifest.unpack(file.read(fmt.MANIFEST_SLOT.size, offset)))
        except fmt.UnknownVersionError:
            raise
        except fmt.FormatError as error:
            slots.append(None)
            problems.append(f"slot {number}: {error}")
    return slots, problems


def store(directory: Directory, manifest: fmt.Manifest) -> None:
    """Replace the manifest; durable at return. The file must exist, its better slot be durable.

    DiskFullError leaves it as it was.
    """
    packed = _packed(directory, manifest)
    with directory.open(fmt.MANIFEST_NAME, WRITE) as file:
        slots, _ = _read(file)
        worst_first = sorted((slot.sequence if slot else -1, at) for at, slot in enumerate(slots))
        (_, first), (_, second) = worst_first
        file.write(packed, fmt.MANIFEST_SLOT_OFFSETS[first])
        _sync(file)
        try:
            file.write(packed, fmt.MANIFEST_SLOT_OFFSETS[second])
        except DiskFullError:
            return  # the decision is durable, so it stands; the next one to store mends this slot
        _sync(file)


def _packed(directory: Directory, manifest: fmt.Manifest) -> bytes:
    """The slot's bytes, if they can be read again: a damaged log's numbers may leave no room."""
    packed = manifest.pack()
    try:
        fmt.Manifest.unpack(packed)
    except fmt.FormatError as error:
        raise DamageError(
            f"the manifest cannot be replaced: {error}",
            path=directory.join(fmt.MANIFEST_NAME),
            hint="Nothing was changed. `treering repair` copies what is there into a new log",
        ) from error
    return packed


def _sync(file: File) -> None:
    """Make the slot durable. Even if it is for want of space: after a failure nobody knows what
    is, so it is none that one may try again after."""
    try:
        file.sync()
    except DiskFullError as error:
        raise StorageError(error.message, number=error.errno, path=error.path) from error


def settle(directory: Directory) -> None:
    """Make durable what the file shows: whoever stored it may have died, or failed, before its
    fsync. Written again as it is, because after a failed fsync another one alone proves nothing."""
    with directory.open(fmt.MANIFEST_NAME, WRITE) as file:
        for offset in fmt.MANIFEST_SLOT_OFFSETS:
            file.write(file.read(fmt.MANIFEST_SLOT.size, offset), offset)
        file.sync()


def create(directory: Directory, manifest: fmt.Manifest) -> None:
    """Make the file, whole or not at all; durable at return."""
    temporary = fmt.MANIFEST_NAME + fmt.TEMPORARY_SUFFIX
    directory.remove(temporary)
    packed = manifest.pack()
    with directory.open(temporary, CREATE_NEW) as file:
        file.write(bytes(fmt.MANIFEST_BYTES), 0)
        for offset in fmt.MANIFEST_SLOT_OFFSETS:
            file.write(packed, offset)
        file.sync()
    directory.rename(temporary, fmt.MANIFEST_NAME)
    directory.sync()
