"""Zstandard compression (extra `zstd`)."""

from __future__ import annotations

import io

import zstandard

# A frame may ask for a window of gigabytes before it yields a byte; our own frames stay below this.
WINDOW_BYTES_MAX = 128 << 20
# Room is made for this much at a time, not for what a record claims.
STEP_BYTES = 1 << 20


def compress(data: bytes) -> bytes:
    """One frame at the library's default level."""
    packed: bytes = zstandard.ZstdCompressor().compress(data)
    return packed


def decompress(data: bytes, raw_bytes: int) -> bytes:
    """The frame's content; reads one byte past `raw_bytes` at most, whatever the frame claims."""
    decompressor = zstandard.ZstdDecompressor(max_window_size=WINDOW_BYTES_MAX)
    with decompressor.stream_reader(io.BytesIO(data)) as reader:
        pieces, left = [], raw_bytes + 1
        while left and (piece := reader.read(min(left, STEP_BYTES))):
            pieces.append(piece)
            left -= len(piece)
    return b"".join(pieces)
