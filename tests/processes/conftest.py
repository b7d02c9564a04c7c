"""What the process tests share: nurseries of both twins, and places on disk and in memory."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from tests.processes.nursery import Nursery, has_native, is_pure
from tests.processes.records import Words


@pytest.fixture(scope="session")
def nursery():
    """Workers of the twin under test."""
    with Nursery() as nursery:
        yield nursery


@pytest.fixture(scope="session")
def other_nursery():
    """Workers of the other twin."""
    if is_pure() and not has_native():
        pytest.skip("the native twin is not built: there is nothing to mix")
    with Nursery(pure=not is_pure()) as nursery:
        yield nursery


@pytest.fixture(params=["disk", "memory"])
def place(request, tmp_path):
    """A folder on an ordinary file system, and one on tmpfs."""
    if request.param == "disk":
        yield tmp_path
        return
    if not os.access("/dev/shm", os.W_OK):
        pytest.skip("there is no tmpfs at /dev/shm")
    folder = tempfile.mkdtemp(prefix="treering-", dir="/dev/shm")
    yield Path(folder)
    shutil.rmtree(folder)


@pytest.fixture
def words(tmp_path):
    """Shared numbers: two for each writer."""
    return Words(tmp_path / "words", 4096)
