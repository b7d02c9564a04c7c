"""What the stories about a store begin with. A file's own `opened` says which store it is about."""

import pytest

from treering.testing import MemoryFiles


@pytest.fixture
def files():
    return MemoryFiles()


@pytest.fixture
def store(opened):
    return opened()


@pytest.fixture
def other(store, opened):
    """Another handle on the same store, as of another process."""
    return opened()
