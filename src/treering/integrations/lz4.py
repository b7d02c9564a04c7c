"""LZ4 block compression (extra `lz4`)."""

from __future__ import annotations

import lz4.block

# A byte of a block stands for at most so many bytes of content.
GROWTH_MAX = 255


def compress(data: bytes) -> bytes:
    """The raw LZ4 block; its length is kept by the record."""
    packed: bytes = lz4.block.compress(data, store_size=False)
    return packed


def decompress(data: bytes, raw_bytes: int) -> bytes:
    """The block's content, at most `raw_bytes`: liblz4 never writes past the given size."""
    if raw_bytes > GROWTH_MAX * len(data):
        raise ValueError("no LZ4 block grows that much")  # and nobody has to make room for it
    value: bytes = lz4.block.decompress(data, uncompressed_size=raw_bytes)
    return value
