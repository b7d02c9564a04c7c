"""Signal handlers that come to the log while their own thread is inside a read, at every step of it:
nothing hangs, nothing is closed or changed below the read (D10)."""

import sys

import pytest

from tests._logs import contents, fill, told
from treering import ClosedError, ReentrantError

CORE = ("source.py", "quiet.py", "reader.py", "segment.py", "files.py")


class AtStep:
    """Calls a function once, before the given line that the core runs: as a signal would."""

    def __init__(self, step, handler):
        self.left, self.handler = step, handler

    def __call__(self, frame, event, _):
        if not frame.f_code.co_filename.endswith(CORE):
            return None
        if event == "line":
            self.left -= 1
            if self.left == 0:
                sys.settrace(None)
                self.handler()
        return self

    def run(self, call):
        """What the call returned or raised; whether the handler had its turn."""
        before = sys.gettrace()
        sys.settrace(self)
        try:
            outcome = call()
        except Exception as error:
            outcome = error
        finally:
            sys.settrace(before)
        return outcome, self.left <= 0


def at_every_step(prepare, call, handler, step=1, stride=1):
    """The outcomes of calls, each interrupted one step later."""
    while True:
        wal = prepare()
        outcome, interrupted = AtStep(step, lambda wal=wal: handler(wal)).run(lambda: call(wal))
        yield wal, outcome
        if not interrupted:
            return
        step += stride


def read_last(wal):
    return contents([wal.read(55)])


@pytest.mark.parametrize("read_only", [False, True], ids=["live", "read_only"])
def test_a_handler_may_close_what_its_thread_reads(disk, read_only):
    with disk.open(segment_bytes_max=4096) as wal:
        fill(wal, 60)

    def prepare():
        nonlocal files
        wal = disk.open(segment_bytes_max=4096, read_only=read_only)
        files = wal._engine.directory._opened
        return wal

    files = ()
    for wal, outcome in at_every_step(prepare, read_last, lambda wal: wal.close(), stride=7):
        assert isinstance(outcome, ClosedError) or outcome == told(55, 56)
        wal.close()
        del outcome  # and with its traceback what the read had opened
        assert not [file.path for file in files if file.descriptor >= 0]


@pytest.mark.parametrize("read_only", [False, True], ids=["live", "read_only"])
def test_a_handler_may_read_what_its_thread_reads(disk, read_only, monkeypatch):
    monkeypatch.setattr("treering._core.source._SEGMENTS_KEPT_OPEN", 1)
    with disk.open(segment_bytes_max=4096) as wal:
        fill(wal, 120)
    wal = disk.open(segment_bytes_max=4096, read_only=read_only)
    found = []

    def handler(wal):
        try:
            found.append(contents([wal.read(55), wal.read(3), wal.read(100)]))
        except ReentrantError:
            assert read_only

    for _, outcome in at_every_step(lambda: wal, read_last, handler):
        assert outcome == told(55, 56)
    assert found
    assert all(three == [*told(55, 56), *told(3, 4), *told(100, 101)] for three in found)


def test_a_handler_may_ask_a_read_only_handle_that_is_finding_out_what_is_new(disk):
    writer = disk.open(segment_bytes_max=1024)
    wal = disk.open(segment_bytes_max=1024, read_only=True)
    end = 0

    def prepare():
        nonlocal end
        end = fill(writer, 20).stop
        return wal

    def handler(wal):
        try:
            assert wal.current_position() == end
        except ReentrantError:
            pass

    for _, outcome in at_every_step(prepare, lambda wal: wal.current_position(), handler, stride=7):
        assert outcome == end
        assert wal.current_position() == end
    assert contents(wal) == told(0, end)
