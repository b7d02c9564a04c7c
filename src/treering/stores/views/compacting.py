"""Giving back the space of dead records: the live ones are appended again, the rest truncated.

Each copy is appended only if the log still ends where the index has seen it to, so that a copy
never comes after a newer record of its key. A prefix of the log may go at any time: what it leaves
behind comes to the same, once the live records of the prefix lie behind it as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from treering import ConflictError, PositionError, PrunedError, Record, UsageError, Wal
from treering.fold.kit import moment

from .state import Newest

if TYPE_CHECKING:
    from .index import Index

_GROUP_BYTES = 1 << 20
_GROUP_RECORDS = 256


def compact(index: Index, wal: Any, until: int | None) -> int:
    """See `Index.compact`."""
    _refuse_others(index, wal)
    end = wal.current_position()
    until = end if until is None else until
    if isinstance(until, bool) or not isinstance(until, int) or until < 0:
        raise UsageError(f"until must be a position, not {until!r:.40}")
    if until > end:
        raise PositionError("the log has not reached this position", position=until)
    rewinds = moment(wal).rewinds
    known = index.state()
    group, size = list[Record](), 0
    for record in filter(partial(_is_live, index), _records_before(wal, until)):
        size += len(record.key) + len(record.value)
        if size > _GROUP_BYTES or len(group) == _GROUP_RECORDS:
            _append_again(index, wal, group)
            group, size = [], len(record.key) + len(record.value)
        group.append(record)
    _append_again(index, wal, group)
    wal.sync()  # the copies have to be durable before what they are copies of goes
    if moment(wal).rewinds != rewinds or index.current is not known:
        raise ConflictError(
            "records were taken back while the log was compacted, so nothing was removed",
            path=wal.path,
            hint="Call compact again",
        )
    return int(wal.truncate_before(until))


def _records_before(wal: Wal, until: int) -> Iterator[Record]:
    """All records before that position that are still there. Somebody else who compacts removes
    some meanwhile, but only after copying what is alive of them."""
    position = 0
    while position < until:
        position = max(position, wal.first_position)
        try:
            with wal.read_from(position, stop=until) as reader:
                for record in reader:
                    yield record
                    position = reader.position
            return
        except PrunedError:
            continue


def _refuse_others(index: Index, wal: Any) -> None:
    """UsageError for what cannot be compacted without a loss."""
    if not isinstance(wal, Wal) or wal.log_id != index.wal.log_id:
        raise UsageError("compact needs a handle of the log that the index is of")
    state = index.state()
    if not isinstance(state, Newest) or state.stream is not None:
        raise UsageError(
            "only an index of whole records by their own key knows which are dead",
            hint="Make one without key= and stream=",
        )
    if state.mixed or wal.snapshots.positions():
        raise UsageError(
            "the log is a store's, or shared by several",
            path=wal.path,
            hint="Its checkpoints make it small: call checkpoint() of the store",
        )


def _is_live(index: Index, record: Record) -> bool:
    """Whether the record is its key's newest, as far as the index has seen."""
    state = index.current
    expiry = record.expires_at_ns
    over = expiry is not None and expiry <= state.newest_ns
    return not record.tombstone and not over and state.newest(record.key) == record.position


def _append_again(index: Index, wal: Wal, group: list[Record]) -> None:
    """Append those of the group that are still live when nobody came in between."""
    while True:
        index.state()
        with index.lock:
            at = index.reached
            live = [record for record in group if _is_live(index, record)]
        if not live:
            return
        try:
            wal.append_batch(live, at=at)
            return
        except ConflictError:
            # Somebody else wrote: fewer at once are quicker looked through.
            if len(group) > 1:
                half = len(group) // 2
                _append_again(index, wal, group[:half])
                group = group[half:]
