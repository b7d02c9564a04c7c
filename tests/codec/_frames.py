"""Frames to try, whole and spoiled. Every spoiler says what it did, so that a failure reads."""

import random
import struct
import zlib

from hypothesis import strategies as st

from treering._core import format as fmt

POSITION, DURABLE = 7, 5
NOW = 1_700_000_000 * 10**9
HEADER = fmt.SegmentHeader(bytes(range(16)), POSITION, 3, 8, NOW)
TAG, SEED = HEADER.tag, HEADER.seed

# Values at which arithmetic goes wrong.
EDGES = (0, 1, 7, 8, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)

keys = st.binary(max_size=40)
values = st.binary(max_size=200)
times = st.none() | st.integers(1, fmt.TIME_NS_MAX)
headers = st.none() | st.dictionaries(st.text(max_size=8), st.binary(max_size=20), max_size=3)
fields = st.fixed_dictionaries(
    {"key": keys, "value": values},
    optional={
        "timestamp_ns": times,
        "expires_at_ns": times,
        "headers": headers,
        "stream": st.integers(0, fmt.STREAM_MAX),
        "tombstone": st.booleans(),
    },
)
batches = st.lists(fields, min_size=1, max_size=5)
aligns = st.sampled_from([8, 512, 4096])


def record(twin, fields):
    return twin.Record(**fields)


def packed(twin, stored=b"stored", raw=b"the raw value", number=1, **options):
    """A record as the writer hands it on after compressing its value."""
    return twin.Record(b"key", raw, **options)._packed(number, stored)


def encode(twin, records, position=POSITION, durable=DURABLE, align=8):
    return twin.encode_frame(records, position, durable, TAG, SEED, align, NOW)


def sample(twin):
    """Three frames that use every part of the format."""
    plain = [twin.Record(b"key", b"value")]
    every = [
        twin.Record(b"", b""),
        twin.Record(b"k" * 20, b"v" * 30, expires_at_ns=NOW + 5, stream=9, headers={"a": b"bc"}),
        twin.Record.delete(b"gone", timestamp_ns=NOW - 5, headers={"why": b"", "": b"x"}),
        packed(twin, number=1, stream=2),
        packed(twin, number=2, expires_at_ns=1, headers={"h": b"hh"}),
    ]
    last = [twin.Record(b"last", bytes(range(100)))]
    frames = [encode(twin, plain), encode(twin, every, POSITION + 1)]
    return [*frames, encode(twin, last, POSITION + 6)]


def resealed(frame):
    """The frame with the checksum that its bytes deserve; as long as its length field says."""
    length = int.from_bytes(frame[8:12], "little")
    body = frame[8 : length if 8 <= length <= len(frame) else len(frame)]
    return frame[:4] + struct.pack("<I", zlib.crc32(body, SEED)) + frame[8:]


# --- Spoilers: (what was done, bytes) ------------------------------------------------------------


def flips(data):
    """Every single bit."""
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        yield f"bit {bit % 8} of byte {bit // 8}", bytes(changed)


def cuts(data):
    """Every length."""
    for length in range(len(data)):
        yield f"cut to {length} bytes", data[:length]


def field_changes(frame):
    """Every integer of the first frame, frame header and records, at every edge and near `room`."""
    for name, at, size in integers(frame):
        room = len(frame) - at - size
        for value in sorted({*EDGES, room - 1, room, room + 1, len(frame) - 1, len(frame) + 1}):
            if 0 <= value < 1 << 8 * size:
                changed = frame[:at] + value.to_bytes(size, "little") + frame[at + size :]
                yield f"{name} = {value}", changed


def integers(frame):
    """(name, offset, width) of every integer in a frame."""
    found = [("tag", 0, 4), ("checksum", 4, 4), ("length", 8, 4), ("records", 12, 4)]
    found += [("position", 16, 8), ("durable", 24, 8)]
    at = fmt.FRAME_HEADER_BYTES
    for number in range(int.from_bytes(frame[12:16], "little")):
        flags, _, key_bytes, value_bytes, _ = fmt.RECORD_HEADER.unpack_from(frame, at)
        parts = [("flags", 1), ("reserved", 1), ("key_bytes", 2), ("value_bytes", 4), ("time", 8)]
        parts += [("expires_at", 8)] if flags & fmt.HAS_EXPIRY else []
        parts += [("stream", 4)] if flags & fmt.HAS_STREAM else []
        parts += [("raw_bytes", 4)] if flags & fmt.COMPRESSION_MASK else []
        parts += [("headers_bytes", 4)] if flags & fmt.HAS_HEADERS else []
        for name, size in parts:
            found.append((f"record {number} {name}", at, size))
            at += size
        if flags & fmt.HAS_HEADERS:
            wire = int.from_bytes(frame[at - 4 : at], "little")
            found += [(f"record {number} header name_bytes", at, 2)] if wire else []
            found += [(f"record {number} header value_bytes", at + 2, 4)] if wire else []
            at += wire
        at += key_bytes + value_bytes
    return found


def splices(frames, seed, count):
    """Pieces of the frames copied over, inserted into, and removed from one another."""
    rng = random.Random(seed)
    data = b"".join(frames)
    for number in range(count):
        start, at = rng.randrange(len(data)), rng.randrange(len(data))
        length = rng.choice([1, 4, 8, 16, 32, rng.randrange(1, len(data))])
        piece = data[start : start + length]
        done = rng.choice(["overwrite", "insert", "remove", "zero"])
        if done == "overwrite":
            changed = data[:at] + piece + data[at + length :]
        elif done == "insert":
            changed = data[:at] + piece + data[at:]
        elif done == "remove":
            changed = data[:at] + data[at + length :]
        else:
            changed = data[:at] + bytes(length) + data[at + length :]
        yield f"splice {number}: {done} {length} bytes of {start} at {at}", changed
