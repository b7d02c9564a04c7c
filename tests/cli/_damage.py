"""Damage of every kind, done to small logs in memory on purpose."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from tests._logs import Log, in_memory
from treering import Label, Record
from treering._core import format as fmt
from treering._core.codec import crc32

RECORDS = 150


def small_log(count=RECORDS, **options):
    """A log of several segments, with batches, headers and tombstones in it; closed."""
    log = in_memory(None, **options)
    wal = log.open()
    append_records(wal, count)
    wal.close()
    return log


def append_records(wal, count=RECORDS):
    """Records that tell their position, some of them in batches."""
    while wal.current_position() < count:
        n = wal.current_position()
        if n % 10 == 0:
            wal.append_batch([_record(n), _record(n + 1), _record(n + 2)])
        elif n % 7 == 0:
            wal.delete(b"key-%d" % n, headers={"n": b"%d" % n})
        else:
            wal.append(_record(n))


def _record(n):
    headers = {"n": b"%d" % n} if n % 5 == 0 else None
    return Record.put(b"key-%d" % n, b"value-%d" % n * (n % 4), headers=headers, stream=n % 3)


def truth(log):
    """Everything in an undamaged log, by position."""
    with log.open(read_only=True) as wal:
        return {record.position: facts(record) for record in wal.read_from(wal.first_position)}


def facts(record):
    """What must not change in a record, its position apart."""
    headers = {k: v for k, v in record.headers.items() if k != "treering-position"}
    return (
        record.key,
        bytes(record.value),
        record.timestamp_ns,
        record.expires_at_ns,
        headers,
        record.stream,
        record.tombstone,
    )


def base(name):
    """The first position that a segment's name states."""
    return fmt.segment_base(name)


def header(log, name):
    return fmt.SegmentHeader.unpack(log.get(name)[:64])


def frames(log, name):
    """(offset, position, length) of each frame of a segment."""
    data, at, found = log.get(name), header(log, name).frames_start, []
    tag = header(log, name).tag
    while at + fmt.FRAME_HEADER_BYTES <= len(data):
        mark, _, length, _, position, _ = fmt.FRAME_HEADER.unpack_from(data, at)
        if mark != tag:
            break
        found.append((at, position, length))
        at += length
    return found


def frame_in(log, name, number):
    return frames(log, name)[number]


def spoil_frame(log, name, number):
    """Change a byte inside a frame; its (offset, position)."""
    offset, position, _ = frame_in(log, name, number)
    log.flip(name, offset + 40)
    return offset, position


def reseal(log, name, offset, change):
    """Change a frame's bytes and make its checksum right again."""
    data = bytearray(log.get(name))
    length = fmt.FRAME_HEADER.unpack_from(data, offset)[2]
    change(data, offset)
    check = crc32(bytes(data[offset + 8 : offset + length]), header(log, name).seed)
    data[offset + 4 : offset + 8] = check.to_bytes(4, "little")
    log.put(name, data)


def trailer(log, name):
    return fmt.Trailer.unpack(log.get(name)[-fmt.TRAILER_BYTES :])


def change_trailer(log, name, **changes):
    """Another footer, with a right checksum."""
    data = log.get(name)
    log.put(name, data[: -fmt.TRAILER_BYTES] + trailer(log, name)._replace(**changes).pack())


def change_manifest(log, **changes):
    """Another manifest, with right checksums."""
    data = bytearray(log.get("manifest"))
    changed = fmt.Manifest.unpack(data[: fmt.MANIFEST_SLOT.size])._replace(**changes).pack()
    for offset in fmt.MANIFEST_SLOT_OFFSETS:
        data[offset : offset + len(changed)] = changed
    log.put("manifest", data)


def change_header(log, name, **changes):
    """Another header, with a right checksum."""
    log.patch(name, 0, header(log, name)._replace(**changes).pack())


# --- The catalogue -------------------------------------------------------------------------------


def _middle(log):
    return log.segments()[len(log.segments()) // 2]


def _newest(log):
    return log.segments()[-1]


def _spoil_header(name_of):
    return lambda log: log.patch(name_of(log), 8, b"\xff" * 40)


def _remove(name_of):
    return lambda log: log.remove(name_of(log))


def _spoil_everything_of_a_header(log):
    """The header and the first frame, so that nothing tells what the header said."""
    name = _middle(log)
    log.patch(name, 0, bytes(200))
    log.put(name, log.get(name)[: -fmt.TRAILER_BYTES])


def _overlap(log):
    """A copy of the middle segment, cut short and under a name of its own."""
    name = _middle(log)
    _, position, _ = frame_in(log, name, 2)
    other = header(log, name)._replace(base=position)
    log.put(fmt.segment_name(position), other.pack() + bytes(1000))


def _swap(log):
    first, second = log.segments()[1:3]
    one, two = log.get(first), log.get(second)
    log.put(first, two)
    log.put(second, one)


def _foreign_segment(log):
    other = small_log()
    log.put(log.segments()[1], other.get(other.segments()[1]))


def _foreign_manifest(log):
    log.put("manifest", small_log().get("manifest"))


def _old_manifest(log):
    for name in log.segments()[2:]:
        change_header(log, name, epoch=1)
    for name in log.segments()[2:]:
        _resign(log, name)


def _resign(log, name):
    """Frames whose checksums go with the header as it is now."""
    data = bytearray(log.get(name))
    found = header(log, name)
    at = found.frames_start
    while at + 32 <= len(data):
        length, count = fmt.FRAME_HEADER.unpack_from(data, at)[2:4]
        if not length or not count or at + length > len(data):
            break
        data[at : at + 4] = found.tag.to_bytes(4, "little")
        check = crc32(bytes(data[at + 8 : at + length]), found.seed)
        data[at + 4 : at + 8] = check.to_bytes(4, "little")
        at += length
    log.put(name, data)
    if data[-fmt.TRAILER_BYTES :][:8] == fmt.TRAILER_MAGIC:
        change_trailer(log, name, epoch=found.epoch)


@dataclasses.dataclass(frozen=True)
class Damage:
    """What is done to a log, and what `verify` calls it first."""

    do: Callable[[Log], object]
    label: Label
    rebuilt: bool = False  # nothing is lost: it can be made again from the rest


DAMAGES = {
    "header-first": Damage(
        _spoil_header(lambda log: log.segments()[0]), Label.DAMAGED_HEADER, rebuilt=True
    ),
    "header-middle": Damage(_spoil_header(_middle), Label.DAMAGED_HEADER, rebuilt=True),
    "header-newest": Damage(_spoil_header(_newest), Label.DAMAGED_HEADER, rebuilt=True),
    "header-for-good": Damage(_spoil_everything_of_a_header, Label.DAMAGED_HEADER),
    "swapped": Damage(_swap, Label.DAMAGED_HEADER),
    "frame-of-a-full-segment": Damage(
        lambda log: spoil_frame(log, _middle(log), 3), Label.DAMAGED_MIDDLE
    ),
    "frame-of-the-newest": Damage(
        lambda log: spoil_frame(log, _newest(log), 1), Label.DAMAGED_MIDDLE
    ),
    "first-frame": Damage(lambda log: spoil_frame(log, log.segments()[0], 0), Label.DAMAGED_MIDDLE),
    "frames-in-many-places": Damage(
        lambda log: [spoil_frame(log, name, 2) for name in log.segments()], Label.DAMAGED_MIDDLE
    ),
    "overlap": Damage(_overlap, Label.DAMAGED_ORDER),
    "first-missing": Damage(_remove(lambda log: log.segments()[0]), Label.MISSING),
    "middle-missing": Damage(_remove(_middle), Label.MISSING),
    "newest-missing": Damage(_remove(_newest), Label.MISSING),
    "foreign-segment": Damage(_foreign_segment, Label.FOREIGN),
    "foreign-manifest": Damage(_foreign_manifest, Label.FOREIGN, rebuilt=True),
    "old-manifest": Damage(_old_manifest, Label.FOREIGN, rebuilt=True),
    "manifest-missing": Damage(
        lambda log: log.remove("manifest"), Label.MANIFEST_MISSING, rebuilt=True
    ),
    "manifest-damaged": Damage(
        lambda log: [log.flip("manifest", 20), log.flip("manifest", 4116)],
        Label.MANIFEST_DAMAGED,
        rebuilt=True,
    ),
    "footer": Damage(
        lambda log: change_trailer(log, _middle(log), newest_ns=5),
        Label.DAMAGED_FOOTER,
        rebuilt=True,
    ),
    "pins": Damage(
        lambda log: log.put("pins.json", b'{"pins": {"a": 1}}'), Label.DAMAGED_PINS, rebuilt=True
    ),
}
