"""LZ4 block compression (extra `lz4`)."""

from __future__ import annotations

import lz4.block


def compress(data: bytes) -> bytes:
    """The raw LZ4 block; its length is kept by the record."""
    packed: bytes = lz4.block.compress(data, store_size=False)
    return packed


def decompress(data: bytes, raw_bytes: int) -> bytes:
    """The block's content, at most `raw_bytes`: liblz4 never writes past the given size."""
    value: bytes = lz4.block.decompress(data, uncompressed_size=raw_bytes)
    return value
