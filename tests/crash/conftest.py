import pytest

from treering._core import reader


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """The batteries set how often readers look again; other tests need it as it was."""
    monkeypatch.setattr(reader, "_LOOK_AGAIN", reader._LOOK_AGAIN)
