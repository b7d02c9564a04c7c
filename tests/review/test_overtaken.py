"""Reads that a truncation, a take-over or another program's slip overtakes between two steps: they
show what is, or tell what happened."""

import asyncio
import errno

import pytest

from tests._logs import contents, fill, told
from treering import (
    FailedError,
    LockedError,
    PositionError,
    PrunedError,
    RewoundError,
    StorageError,
    UsageError,
    aio,
)
from treering._core import format as fmt
from treering.testing import FaultyFiles, MemoryFiles

KINDS = pytest.mark.parametrize("read_only", [False, True], ids=["live", "read_only"])


# --- Cuts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", [fmt.WORD_REWINDS, fmt.WORD_REWIND_CUT, fmt.WORD_REWIND_CUT + 1])
@pytest.mark.parametrize("more", [[180], [180, 170]], ids=["one", "two"])
def test_a_reader_that_looks_for_cuts_while_there_are_some_misses_none(memory, word, more):
    """A2: between the loads of one look, more cuts may be made; the last one's place alone does
    not tell that this reader had passed the first one's."""
    wal = memory.open()
    fill(wal, 100)
    reader = wal.read_from(0)
    assert len([next(reader) for _ in range(100)]) == 100
    wal.truncate_after(50)
    fill(wal, 150)
    load, cuts = wal._engine.source._control.load, list(more)

    def load_slowly(asked):
        value = load(asked)
        if asked == word:
            ends, cuts[:] = list(cuts), []
            for end in ends:
                wal.truncate_after(end)
        return value

    wal._engine.source._control.load = load_slowly
    with pytest.raises(RewoundError):
        next(reader)


def test_a_look_for_cuts_tells_how_many_and_where_the_last_one_was(memory):
    wal = memory.open()
    fill(wal, 10)
    for number, end in enumerate([7, 5, 5, 3], 1):
        wal.truncate_after(end)
        assert wal._engine.source.rewinds() == (number, end)
        fill(wal, 2)


# --- A dead handle --------------------------------------------------------------------------------


def test_a_dead_handle_shows_nothing_once_another_has_taken_over(disk):
    """F3: what it knows may be cut and written anew by then."""
    files = FaultyFiles()
    dead = disk.open(files=files)
    fill(dead, 10)
    reader = dead.read_from(0)
    files.fail("sync", number=errno.EIO, path=".seg")
    with pytest.raises(FailedError):
        dead.sync()
    assert contents(dead) == told(0, 10)  # it is still the log
    assert dead.read(7).position == 7
    live = disk.open()
    live.truncate_after(5)
    fill(live, 1)
    for read in (
        lambda: dead.read(7),
        lambda: next(dead.read_from(0)),
        lambda: next(dead.read_backwards()),
        lambda: dead.read_from(time=0),
        lambda: next(reader),
    ):
        with pytest.raises(FailedError):
            read()
    assert contents(live) == told(0, 6)


# --- Files that are gone --------------------------------------------------------------------------


def overtake(wal, act):
    """Before the next segment is opened, `act` happens."""
    source, acts = wal._engine.source, [act]
    open_segment = source.open

    def open_later(base):
        while acts:
            acts.pop()()
        return open_segment(base)

    source.open = open_later


@KINDS
@pytest.mark.parametrize("removed", ["oldest", "newest"])
def test_a_read_that_truncation_overtakes_says_so(disk, read_only, removed):
    writer = disk.open()
    fill(writer, 400)
    assert len(disk.segments()) > 8
    reads = {
        "one": lambda wal: wal.read(100),
        "forwards": lambda wal: next(wal.read_from(100)),
        "backwards": lambda wal: next(wal.read_backwards(101)),
    }
    for name, read in reads.items():
        fill(writer, 400 - writer.current_position())
        wal = disk.open(read_only=read_only)
        if removed == "oldest":
            overtake(wal, lambda: writer.truncate_before(350))
            expected = PrunedError
        else:
            overtake(wal, lambda: writer.truncate_after(20))
            expected = PositionError if name == "one" else RewoundError
        with pytest.raises(expected) as caught:
            read(wal)
        assert type(caught.value) is expected
        wal.close()
        if removed == "oldest":
            writer.close()
            disk.path += "+"
            writer = disk.open()


@KINDS
def test_reading_backwards_notices_a_cut_before_its_first_step(disk, read_only):
    writer = disk.open()
    fill(writer, 400)
    wal = disk.open(read_only=read_only)
    for end in (300, 0):
        reader = wal.read_backwards()
        writer.truncate_after(end)
        with pytest.raises(RewoundError):
            next(reader)


def test_a_segment_that_is_gone_for_no_reason_is_an_error_of_storage(disk):
    wal = disk.open()
    fill(wal, 400)
    wal.read(0)
    disk.remove(disk.segment_of(100))
    for read in (lambda: wal.read(100), lambda: next(wal.read_backwards(101))):
        with pytest.raises(StorageError, match="No such file"):
            read()


# --- Readers and their handles --------------------------------------------------------------------


@KINDS
@pytest.mark.parametrize(
    "read",
    [
        lambda wal: wal.read_from(),
        lambda wal: iter(wal.read_from()),
        lambda wal: iter(wal),
        lambda wal: wal.read_backwards(),
    ],
    ids=["reader", "its iterator", "iteration", "backwards"],
)
def test_a_reader_keeps_its_handle_alive_and_lets_it_go(disk, read, read_only):
    with disk.open() as wal:
        fill(wal, 100)
    wal = disk.open(read_only=read_only)
    disk._handles.clear()
    files = wal._engine.directory._opened
    reader = read(wal)
    del wal
    assert sorted(contents(reader)) == told(0, 100)
    del reader
    assert not [file.path for file in files if file.descriptor >= 0]  # at once: there is no cycle


# --- Batches --------------------------------------------------------------------------------------


def test_a_batch_whose_block_failed_leaves_nothing_for_the_next(memory):
    wal = memory.open()
    batch = wal.batch()
    with pytest.raises(ZeroDivisionError), batch:
        batch.put(b"first", b"")
        raise ZeroDivisionError
    with pytest.raises(UsageError), batch:
        batch.put(b"second", b"")
        raise UsageError("no")
    with batch:
        batch.put(b"third", b"")
    assert [record.key for record in wal] == [b"third"]


def test_a_batch_of_tasks_whose_block_failed_leaves_nothing_for_the_next():
    async def story():
        async with await aio.Wal.open("/log", files=MemoryFiles()) as wal:
            batch = wal.batch()
            with pytest.raises(ZeroDivisionError):
                async with batch:
                    batch.put(b"first", b"")
                    raise ZeroDivisionError
            async with batch:
                batch.put(b"second", b"")
            assert [record.key async for record in wal.read_from()] == [b"second"]

    asyncio.run(story())


# --- The control page -----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 4095])
def test_a_control_page_that_is_too_short_is_told_from_a_mistake(disk, size):
    wal = disk.open()
    fill(wal, 3)
    disk.remove("control")
    disk.put("control", bytes(size))
    for options in ({}, {"exclusive": True}):
        with pytest.raises(LockedError) as caught:
            disk.open(**options)
        assert caught.value.hint
    assert contents(disk.open(read_only=True)) == told(0, 3)
    wal.close()
    assert contents(disk.open()) == told(0, 3)
