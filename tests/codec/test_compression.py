"""Compressed values: hostile ones cost no more than what they declare and may have (G21, D12)."""

import subprocess
import sys
import textwrap

import pytest

from treering import DamageError, MissingExtraError
from treering._core import compression
from treering._core import format as fmt

lz4 = pytest.importorskip("lz4.block")
zstandard = pytest.importorskip("zstandard")

LZ4, ZSTD = fmt.COMPRESSIONS["lz4"], fmt.COMPRESSIONS["zstd"]
VALUE = b"a ring for every year. " * 50
ZEROS = bytes(8 << 20)


def packed(name, value=VALUE):
    return compression.compress(name, value)


@pytest.mark.parametrize("name", fmt.COMPRESSIONS)
def test_what_was_compressed_is_expanded(name):
    number = fmt.COMPRESSIONS[name]
    for value in (VALUE, ZEROS, bytes(range(256)) * 9, b"x" * 40):
        stored = packed(name, value)
        assert len(stored) < len(value)
        assert compression.decompress(number, stored, len(value)) == value


@pytest.mark.parametrize("name", fmt.COMPRESSIONS)
def test_a_value_that_would_not_become_smaller_is_left_alone(name):
    for value in (b"", b"short", bytes(range(256))):
        assert packed(name, value) is None


@pytest.mark.parametrize("name", fmt.COMPRESSIONS)
@pytest.mark.parametrize(
    "raw_bytes", [0, 1, len(VALUE) - 1, len(VALUE) + 1, 2**20, 2**30, 2**30 + 1, 2**32 - 1]
)
def test_a_value_that_expands_to_another_size_is_damage(name, raw_bytes):
    with pytest.raises(DamageError):
        compression.decompress(fmt.COMPRESSIONS[name], packed(name), raw_bytes)


@pytest.mark.parametrize("name", fmt.COMPRESSIONS)
def test_every_flipped_bit_and_every_truncation_gives_damage_or_the_right_size(name):
    number, stored = fmt.COMPRESSIONS[name], packed(name)
    changed = [stored[:length] for length in range(len(stored))]
    for bit in range(8 * len(stored)):
        data = bytearray(stored)
        data[bit // 8] ^= 1 << bit % 8
        changed.append(bytes(data))
    for data in changed:
        try:
            assert len(compression.decompress(number, data, len(VALUE))) == len(VALUE)
        except DamageError:
            pass


@pytest.mark.parametrize("stored", [b"", b"\0", bytes(100), b"\xff" * 100])
@pytest.mark.parametrize("number", [LZ4, ZSTD])
def test_garbage_is_damage(number, stored):
    with pytest.raises(DamageError):
        compression.decompress(number, stored, 1000)


def test_a_frame_that_asks_for_a_window_of_gigabytes_is_damage():
    parameters = zstandard.ZstdCompressionParameters(window_log=31, write_content_size=0)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    stored = packer.compress(VALUE) + packer.flush()
    with pytest.raises(DamageError):
        compression.decompress(ZSTD, stored, len(VALUE))


def test_running_out_of_memory_is_not_called_damage(monkeypatch):
    class Poor:
        def decompress(self, *_):
            raise MemoryError

    stored = packed("zstd")
    monkeypatch.setattr(compression, "_library", lambda name: Poor())
    with pytest.raises(MemoryError):
        compression.decompress(ZSTD, stored, len(VALUE))


def test_a_missing_library_is_named_with_its_cure(monkeypatch):
    monkeypatch.setitem(sys.modules, "treering.integrations.lz4", None)
    with pytest.raises(MissingExtraError, match=r"treering\[lz4\]"):
        compression.decompress(LZ4, b"", 1)


BOMBS = """
    import resource, sys, time
    import lz4.block, zstandard
    from treering import DamageError
    from treering._core import compression

    GIB = 1 << 30

    def zstd_zeros(count, **options):
        parameters = zstandard.ZstdCompressionParameters(window_log=20, **options)
        packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj(
            **({"size": count} if options.get("write_content_size") else {})
        )
        piece, parts = bytes(1 << 20), []
        for _ in range(count >> 20):
            parts.append(packer.compress(piece))
        return b"".join([*parts, packer.flush()])

    def lz4_zeros(count):
        # One literal, then a match that goes on for 255 bytes with each byte.
        return b"\\x1f\\x00\\x01\\x00" + b"\\xff" * (count // 255) + b"\\x00" + b"\\x50" + bytes(5)

    silent = zstd_zeros(GIB, write_content_size=0)
    frank = zstd_zeros(GIB, write_content_size=1)
    wide = zstandard.ZstdCompressor(
        compression_params=zstandard.ZstdCompressionParameters(window_log=31, write_content_size=0)
    ).compressobj()
    wide = wide.compress(b"x" * 100) + wide.flush()
    small = lz4.block.compress(b"x" * 1000, store_size=False)
    cases = [
        (2, silent, 100), (2, frank, 100), (2, silent, 1 << 20), (2, frank, GIB + 1),
        (2, frank[:40], GIB), (2, b"", GIB), (2, wide, 100), (2, wide, GIB),
        (1, small, GIB), (1, b"", GIB), (1, lz4_zeros(GIB), 100), (1, lz4_zeros(GIB), 1 << 20),
    ]
    limit = 400 << 20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.monotonic()
    for number, stored, raw_bytes in cases:
        try:
            compression.decompress(number, stored, raw_bytes)
        except DamageError:
            continue
        sys.exit(f"{number} {len(stored)} {raw_bytes} was taken")
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, time.monotonic() - started)
"""


def test_bombs_neither_fill_the_memory_nor_take_long():
    """Values of kilobytes that expand to a gigabyte, and values that only claim to."""
    if sys.platform != "linux":
        pytest.skip("ru_maxrss and RLIMIT_AS mean this on Linux")
    program = [sys.executable, "-c", textwrap.dedent(BOMBS)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    grown_kib, seconds = map(float, done.stdout.split())
    assert grown_kib < 64 * 1024
    assert seconds < 5
