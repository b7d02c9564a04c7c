"""Truncation at both ends. Decided in the manifest first, carried out after: so it is atomic, and
whoever finds it half done knows how to finish it."""

from __future__ import annotations

from collections.abc import Iterable

from . import format as fmt
from .errors import DiskFullError, PositionError
from .view import View
from .writer import Writer


def truncate_before(writer: Writer, position: int, pins: Iterable[int]) -> int:
    """Remove whole segments that lie before `position` and all pins; the new first position.
    Under the append lock; durable at return."""
    writer.catch_up()
    load = writer.control.load
    end, first = load(fmt.WORD_END), load(fmt.WORD_FIRST)
    if position > end:
        raise PositionError(
            "cannot truncate before a position not yet reached",
            position=position,
            hint=f"The log ends at {end}",
        )
    position = min([position, *pins])
    if position == end:
        _leave_tail(writer)
    view = View.load(writer.directory)
    target = view.containing(position)
    if target is None or target <= first:
        return first
    # The manifest first: from here on the old segments are leftovers, whatever happens.
    writer.dead_on_error(writer.store_manifest, writer.manifest()._replace(first_position=target))
    writer.control.store(fmt.WORD_FIRST, target)
    writer.control.store(fmt.WORD_CHANGES, load(fmt.WORD_CHANGES) + 1)
    for base in view.bases:
        if base < target:
            writer.directory.remove(fmt.segment_name(base))
    # Once more: who looked in the meantime saw some that are gone now.
    writer.control.store(fmt.WORD_CHANGES, load(fmt.WORD_CHANGES) + 1)
    writer.dead_on_error(writer.directory.sync)
    return target


def _leave_tail(writer: Writer) -> None:
    """Begin a new segment, so that the tail can go too. On a full disk it just stays."""
    bases = View.load(writer.directory).bases
    if not bases or bases[-1] < writer.control.load(fmt.WORD_END):
        try:
            writer.roll()
        except DiskFullError:
            return


def _keep_a_snapshot(writer: Writer, end: int) -> None:
    """Refuse to cut below all snapshots of a log that no longer tells its story without one."""
    known, first = writer.snapshots.positions(), writer.control.load(fmt.WORD_FIRST)
    if first > 0 and known and not any(first <= position <= end for position in known):
        raise PositionError(
            "cannot truncate after a position that only snapshots tell about",
            position=end,
            hint=f"The oldest snapshot is of position {known[-1]}",
        )


def truncate_after(writer: Writer, end: int) -> None:
    """Remove every record from position `end` on. Under the append lock; durable at return."""
    writer.catch_up()
    load = writer.control.load
    if end > load(fmt.WORD_END):
        raise PositionError(
            "cannot truncate after a position not yet reached",
            position=end,
            hint=f"The log ends at {load(fmt.WORD_END)}",
        )
    if end < load(fmt.WORD_FIRST):
        raise PositionError(
            "cannot truncate after a position that was already pruned",
            position=end,
            hint=f"The oldest position is {load(fmt.WORD_FIRST)}",
        )
    if end == load(fmt.WORD_END):
        return
    _keep_a_snapshot(writer, end)
    writer.commit.sync_for_roll()
    # First: a snapshot that knows records which are gone would bring them back.
    writer.snapshots.remove_from(end)
    view = View.load(writer.directory)
    # Below the first position there may still be files that an interrupted truncation left behind.
    oldest = view.containing(load(fmt.WORD_FIRST)) or 0
    kept = [base for base in view.bases if oldest <= base < end]
    manifest = writer.manifest()
    cut = manifest._replace(
        epoch=manifest.epoch + 1,
        cut=end,
        tail_base=kept[-1] if kept else fmt.NO_CUT,
        clean_position=0,
        clean_offset=0,
        newest_ns=load(fmt.WORD_NEWEST),
    )
    writer.control.store(fmt.WORD_DIRTY, fmt.DIRTY_FILES)
    writer.dead_on_error(writer.store_manifest, cut)
    writer.derive_from_files()
    _leave_tail(writer)
