"""Logs for asyncio; what a test leaves open is closed by the collector."""

import pytest

from treering import FsyncPolicy, aio


@pytest.fixture
def opened(log):
    """A function that opens an asyncio handle on a log in every mode there is."""

    def open(**options):
        options = log.options | {"fsync_policy": FsyncPolicy.ALWAYS} | options
        if log.files is not None:
            options.setdefault("files", log.files)
        return aio.Wal.open(log.path, **options)

    return open
