"""Zstandard compression (extra `zstd`)."""

from __future__ import annotations

import io

import zstandard

# A frame may ask for a window of gigabytes before it yields a byte; our own frames stay below this.
WINDOW_BYTES_MAX = 128 << 20


def compress(data: bytes) -> bytes:
    """One frame at the library's default level."""
    return zstandard.ZstdCompressor().compress(data)


def decompress(data: bytes, raw_bytes: int) -> bytes:
    """The frame's content; reads one byte past `raw_bytes` at most, whatever the frame claims."""
    decompressor = zstandard.ZstdDecompressor(max_window_size=WINDOW_BYTES_MAX)
    with decompressor.stream_reader(io.BytesIO(data)) as reader:
        return reader.read(raw_bytes + 1)
