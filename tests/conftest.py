"""What all tests share: logs in every mode, and the name of the build that runs."""

import hypothesis
import pytest

import treering
from tests._logs import MODES, SHARED_MODES, in_memory, on_disk

# The same examples in every run, and nothing left on the disk.
hypothesis.settings.register_profile("treering", derandomize=True, database=None, deadline=None)
hypothesis.settings.load_profile("treering")


def pytest_report_header():
    return f"treering {treering.__version__}, {treering.backend} build"


def _kept(log):
    yield log
    log.clean_up()


@pytest.fixture(params=MODES)
def log(request, tmp_path):
    """A log in every mode there is."""
    yield from _kept(MODES[request.param](tmp_path))


@pytest.fixture(params=SHARED_MODES)
def shared(request, tmp_path):
    """A log in every mode in which several handles may have it open."""
    yield from _kept(MODES[request.param](tmp_path))


@pytest.fixture(params=["memory", "untrusted", "aligned"])
def few(request, tmp_path):
    """A log in the modes that lay out its files differently; for stories of many cases."""
    yield from _kept(MODES[request.param](tmp_path))


@pytest.fixture(params=["disk", "memory"])
def either(request, tmp_path):
    """A log on the disk and one in memory."""
    yield from _kept(MODES[request.param](tmp_path))


@pytest.fixture
def disk(tmp_path):
    """A log on the disk."""
    yield from _kept(on_disk(tmp_path))


@pytest.fixture
def memory(tmp_path):
    """A log in memory."""
    yield from _kept(in_memory(tmp_path))


@pytest.fixture
def path(tmp_path):
    """Where a log may be made on the disk."""
    return tmp_path / "log"


@pytest.fixture
def wal(memory):
    """An open log in memory, with tiny segments."""
    return memory.open()
