"""Short words for the calls that the kit's tests make most."""

import errno

import pytest

from treering._core.files import CREATE, READ

SECTOR = 512


def put(files, path, data, offset=0):
    """Write into the file, not synced."""
    descriptor = files.open(path, CREATE)
    assert files.write(descriptor, memoryview(data), offset) == len(data)
    files.close(descriptor)


def store(files, path, data, offset=0):
    """Store into a mapping of the file, which no call shows."""
    descriptor = files.open(path, CREATE)
    mapping = files.map(descriptor, files.status(descriptor).st_size, write=True)
    with memoryview(mapping) as view:
        view[offset : offset + len(data)] = data
    mapping.close()
    files.close(descriptor)


def get(files, path):
    """All bytes of the file, through the door into a buffer that was not zeroed."""
    descriptor = files.open(path, READ)
    buffer = bytearray(b"\xff" * files.status(descriptor).st_size)
    assert files.read_into(descriptor, memoryview(buffer), 0) == len(buffer)
    files.close(descriptor)
    return bytes(buffer)


def sync(files, path):
    """Sync the file; its name is another matter."""
    descriptor = files.open(path, READ)
    try:
        files.sync(descriptor)
    finally:
        files.close(descriptor)


def put_durably(files, path, data):
    put(files, path, data)
    sync(files, path)
    files.sync_directory("/")


def sectors(*letters):
    """A content of one letter per sector: `sectors("a", "b")`."""
    return b"".join(letter.encode() * SECTOR for letter in letters)


def letters(content):
    """What the sectors of a content hold, one letter each, "." for zeros, "?" for a mixture."""
    found = ""
    for start in range(0, len(content), SECTOR):
        kinds = set(content[start : start + SECTOR])
        found += "?" if len(kinds) > 1 else "." if kinds == {0} else chr(kinds.pop())
    return found


def outcomes(images, path="/a"):
    """The different contents of the file in these images; None where it is not there."""
    found = set()
    for image in images:
        content = image.contents().get(path)
        found.add(None if content is None else letters(content))
    return found


def refused(number):
    return pytest.raises(OSError, check=lambda error: error.errno == number)


no_space = refused(errno.ENOSPC)
