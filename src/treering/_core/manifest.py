"""The manifest: 2 slots of one small file, overwritten in place, so that it needs no new space.

The first slot is written and fsynced, then the second. So at any moment one of them is intact, a
power cut leaves the old or the new content, and a damaged slot has a twin.
"""

from __future__ import annotations

from . import format as fmt
from .errors import StorageError
from .files import CREATE_NEW, WRITE, Directory, no_such_file


def load(directory: Directory) -> tuple[fmt.Manifest | None, list[str]]:
    """The newest intact slot, or None, and what is wrong with the others ("missing" for the file).

    UnknownVersionError when a slot is intact and of a newer version.
    """
    try:
        with directory.open(fmt.MANIFEST_NAME) as file:
            blocks = [
                file.read(fmt.MANIFEST_SLOT.size, offset) for offset in fmt.MANIFEST_SLOT_OFFSETS
            ]
    except StorageError as error:
        if no_such_file(error):
            return None, ["missing"]
        raise
    slots, problems = [], []
    for number, block in enumerate(blocks):
        try:
            slots.append(fmt.Manifest.unpack(block))
        except fmt.UnknownVersionError:
            raise
        except fmt.FormatError as error:
            problems.append(f"slot {number}: {error}")
    return max(slots, key=lambda slot: slot.sequence, default=None), problems


def store(directory: Directory, manifest: fmt.Manifest) -> None:
    """Replace the manifest; durable at return. The file must exist."""
    packed = manifest.pack()
    with directory.open(fmt.MANIFEST_NAME, WRITE) as file:
        for offset in fmt.MANIFEST_SLOT_OFFSETS:
            file.write(packed, offset)
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
