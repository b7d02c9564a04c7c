"""`check` says what does not hold, as an error of ours, with and without assertions (D5)."""

import os
import subprocess
import sys

import pytest

from tests._logs import fill, in_memory
from treering import DamageError


@pytest.fixture
def wal():
    with in_memory(None).open() as wal:
        fill(wal, 20)
        yield wal


def refused(wal, position):
    """What `check` says is broken at that position."""
    with pytest.raises(DamageError) as caught:
        wal.check()
    assert (caught.value.path, caught.value.position) == ("/log", position)
    assert "verify" in caught.value.hint
    return str(caught.value)


def test_the_durable_position_lies_within_the_log(wal, monkeypatch):
    monkeypatch.setattr(wal._engine.source, "end", lambda durable: 21 if durable else 20)
    assert "[0, 20)" in refused(wal, 21)


def test_positions_are_dense(wal, monkeypatch):
    records = [record for record in wal if record.position != 7]
    monkeypatch.setattr(type(wal), "read_from", lambda *_, **__: records)
    assert "position 8, not 7" in refused(wal, 7)


def test_no_record_is_missing_at_the_end(wal, monkeypatch):
    records = list(wal)[:15]
    monkeypatch.setattr(type(wal), "read_from", lambda *_, **__: records)
    assert "no record from 15 on, the end is 20" in refused(wal, 15)


def test_what_is_truncated_meanwhile_is_not_missing(wal, monkeypatch):
    monkeypatch.setattr(type(wal), "read_from", lambda *_, **__: [])
    firsts = iter([0, 20])
    monkeypatch.setattr(wal._engine.source, "first", lambda: next(firsts))
    wal.check()


def test_what_others_append_meanwhile_is_no_damage(wal, monkeypatch):
    look = wal._engine.source.end

    def look_and_append(durable):
        found = look(durable)
        wal.put(b"meanwhile", b"", durable=True)
        return found

    monkeypatch.setattr(wal._engine.source, "end", look_and_append)
    wal.check()


STORY = """
import treering
from treering.testing import MemoryFiles

with treering.Wal.open("/log", files=MemoryFiles()) as wal:
    wal.put(b"k", b"v")
    wal.check()
    treering.Wal.read_from = lambda *_, **__: []
    try:
        wal.check()
    except treering.DamageError:
        print("noticed")
"""


def test_it_is_noticed_without_assertions_too():
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-O", "-c", STORY]
    assert subprocess.check_output(command, env=environment, text=True) == "noticed\n"
