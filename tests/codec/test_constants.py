"""The twins agree on every number, and the native one keeps no number to itself."""

import re
from pathlib import Path

import pytest

from tests.codec._twins import NAMES, Twin
from treering._core import _codec_py, _tail_py, codec
from treering._core import format as fmt

SOURCE = Path(fmt.__file__).with_name("_codec_c.pyx")

# The numbers that the native source spells in its own way.
ALIASES = {"FRAME_BYTES": "FRAME_HEADER_BYTES", "RECORD_BYTES": "RECORD_HEADER_BYTES"}
ALIASES |= {"UNKNOWN_FLAGS": "UNKNOWN_RECORD_FLAGS"}
ELSEWHERE = {"LEAST_FRAME_BYTES": _codec_py._LEAST_FRAME_BYTES}
ELSEWHERE |= {"CHAINS": 2}  # of no concern to the readable twin, which wakes all at once
ELSEWHERE |= {f"C_{name}": getattr(_codec_py, name) for name in ("BAD", "INCOMPLETE", "UNKNOWN")}


def test_the_table_of_the_native_twin_is_that_of_the_format(twins):
    _, native = twins
    table = native.modules[0].CONSTANTS
    assert table == {name: getattr(fmt, name) for name in table}


def test_every_number_of_the_native_source_is_one_of_the_format(twins):
    block = re.search(r"^cdef enum:\n((?:    .*\n)+)", SOURCE.read_text(encoding="utf-8"), re.M)[1]
    _, native = twins
    for name, value in re.findall(r"^    (\w+) = (.+)$", block, re.M):
        number = eval(value, {}) if "<<" in value else int(value, 0)
        if name in ELSEWHERE:
            assert number == ELSEWHERE[name], name
        else:
            said = ALIASES.get(name, name)
            assert number == getattr(fmt, said), name
            assert said in native.modules[0].CONSTANTS, f"{name} is missing from CONSTANTS"


@pytest.mark.parametrize("name", [name for name in NAMES if name.isupper()])
def test_the_codes_of_results_are_the_same(twins, name):
    python, native = twins
    assert getattr(python, name) == getattr(native, name)


def test_the_least_frame_holds_a_header_and_an_empty_record():
    least = fmt.FRAME_HEADER_BYTES + fmt.RECORD_HEADER_BYTES
    assert least == _codec_py._LEAST_FRAME_BYTES


def test_the_codec_in_use_offers_the_same_names_whichever_it_is():
    used = Twin(codec.backend, codec)
    assert set(NAMES) | {"backend"} == set(codec.__all__)
    where = {_codec_py.Record.__module__, _tail_py.Tail.__module__, _codec_py.__name__}
    assert (used.Record.__module__ in where) == (codec.backend == "python")


def test_both_twins_share_what_a_scan_returns(twins):
    python, native = twins
    assert python.Scan is native.Scan


@pytest.mark.parametrize("start", [0, 1, 0xDEADBEEF, 2**32 - 1])
def test_the_checksum_is_that_of_zlib_at_every_length(twins, start):
    python, native = twins
    data = bytes(i * 37 % 251 for i in range(5000))
    for length in [*range(300), 511, 512, 1023, 1024, 1025, 4095, 4096, 5000]:
        for shift in (0, 1, 7):
            piece = memoryview(data)[shift : shift + length]
            assert native.crc32(piece, start) == python.crc32(piece, start)


def test_the_stub_of_the_native_twin_names_what_it_has(twins):
    _, native = twins
    stub = SOURCE.with_suffix(".pyi").read_text(encoding="utf-8")
    named = re.findall(r"import \w+ as (\w+)$|^def (\w+)|^([A-Z]+):", stub, re.M)
    names = {name for groups in named for name in groups if name}
    assert names >= set(NAMES)
    assert [name for name in names if not hasattr(native.modules[0], name)] == []
