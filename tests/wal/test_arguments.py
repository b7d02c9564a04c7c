"""Bad input gets a clear error of the right kind, names what was wrong, and changes nothing."""

import array
import datetime
import functools
import math

import pytest

from tests._logs import contents, fill, told
from treering import FsyncPolicy, Record, TooLargeError, UsageError, Wal, WalConfig
from treering.testing import MemoryFiles

NOT_BYTES = [None, "text", 5, True, 1.5, [b"x"], object()]
NOT_POSITIONS = ["0", 1.5, True, False, -1, -(2**70), 2**63, 2**70, [1], object()]
NOT_SECONDS = ["5", True, [5], object(), math.nan]
WRONG_TIMES = [*NOT_SECONDS, 0, -5, math.inf, 1e300, 2**63 / 1e9 + 1]

kinds = functools.partial(pytest.mark.parametrize, ids=lambda value: f"{value!r:.12}")


@pytest.fixture
def wal(memory):
    """Three records; they must be all there is after every refusal, now and after a crash."""
    wal = memory.open()
    fill(wal, 3)
    yield wal
    assert contents(wal) == told(0, 3)
    assert (wal.first_position, wal.current_position(), wal.pins()) == (0, 3, {})
    wal.check()
    memory.kill()
    assert contents(memory.open()) == told(0, 3)


def refuses(*words):
    return pytest.raises(UsageError, check=lambda error: all(word in str(error) for word in words))


# --- Records ------------------------------------------------------------------------------------


@kinds("bad", NOT_BYTES)
def test_keys_and_values_must_be_bytes(wal, bad):
    for call in (
        lambda: wal.put(bad, b"v"),
        lambda: wal.delete(bad),
        lambda: wal.put(bad, b"v", stream=1),
        lambda: wal.delete(bad, stream=1),
        lambda: wal.append_batch([(b"k", b"v"), (bad, b"v")]),
        lambda: Record.put(bad, b"v"),
    ):
        with refuses("key must be bytes", type(bad).__name__):
            call()
    for call in (
        lambda: wal.put(b"k", bad),
        lambda: wal.put(b"k", bad, stream=1),
        lambda: wal.append_batch([(b"k", bad)]),
        lambda: Record.put(b"k", bad),
    ):
        with refuses("value must be bytes", type(bad).__name__):
            call()


def test_text_is_refused_with_the_way_to_encode_it(wal):
    with refuses("text.encode()"):
        wal.put("key", b"value")


class Lying(bytes):
    """Bytes that say something else about themselves than what they are."""

    def __len__(self):
        return 0

    def __bytes__(self):
        return self

    def __iter__(self):
        return iter(b"else")


def test_what_bytes_are_counts_and_not_what_they_say(memory):
    wal = memory.open()
    large = Lying(b"x" * 60_000)
    wal.put(Lying(b"k"), large)
    wal.append(Record.put(b"k", large, headers={"h": large}))
    wal.append_batch([(Lying(b"k"), large), (b"k", b"v")])
    wal.delete(Lying(b"k"))
    assert [record.key for record in wal] == [b"k"] * 5
    assert [len(record.value) for record in wal] == [60_000, 60_000, 60_000, 1, 0]
    assert wal.read(1).headers == {"h": bytes(memoryview(large))}
    for record in (Record(Lying(b"k"), large), Record(b"k", memoryview(b"x" * 60_000))):
        assert type(record.key) is type(record.value) is bytes
        assert record == Record(b"k", b"x" * 60_000)
    with pytest.raises(TooLargeError):
        Record(Lying(b"k" * 70_000))


@kinds("bad", [None, "text", b"text", 5, (b"k",), (b"k", b"v", b"x"), [b"k", b"v"]])
def test_only_records_and_pairs_are_appended(wal, bad):
    with refuses("holds records"):
        wal.append(bad)
    with refuses("holds records"):
        wal.append_batch([Record.put(b"k", b"v"), bad])


@kinds("bad", [None, 5, 1.5, object()])
def test_a_batch_must_be_iterable(wal, bad):
    with refuses("a batch", type(bad).__name__):
        wal.append_batch(bad)


@kinds("bad", [*NOT_SECONDS, 0, -5, math.inf, 1e300])
def test_a_ttl_is_a_number_of_seconds_over_0(wal, bad):
    for call in (wal.put, wal.batch().put):
        with refuses("ttl"):
            call(b"k", b"v", ttl=bad)
    for call in (wal.delete, wal.batch().delete):
        with refuses("ttl"):
            call(b"k", ttl=bad)


@kinds("bad", WRONG_TIMES)
def test_an_expiry_is_a_time(wal, bad):
    for call in (wal.put, wal.batch().put, Record.put):
        with refuses("expires_at"):
            call(b"k", b"v", expires_at=bad)
    for call in (wal.delete, wal.batch().delete, Record.delete):
        with refuses("expires_at"):
            call(b"k", expires_at=bad)
    with refuses("timestamp"):
        Record.put(b"k", b"v", timestamp=bad)


@kinds("bad", ["5", 1.5, True, 0, -1, 2**63])
def test_exact_times_are_whole_nanoseconds(bad):
    with refuses("timestamp"):
        Record.put(b"k", b"v", timestamp_ns=bad)
    with refuses("expires_at"):
        Record.put(b"k", b"v", expires_at_ns=bad)


def test_ttl_and_expiry_exclude_one_another(wal):
    for call in (wal.put, wal.batch().put):
        with refuses("not both"):
            call(b"k", b"v", ttl=5, expires_at=4e9)
    for call in (wal.delete, wal.batch().delete):
        with refuses("not both"):
            call(b"k", ttl=5, expires_at=4e9)


WRONG_HEADERS = [
    "text",
    5,
    ["a"],
    {"a": "text"},
    {"a": 5},
    {"a": None},
    {"a": [1, 2]},
    {b"a": b"b"},
    {5: b"b"},
    {"\ud800": b"b"},
    {"n" * 65536: b"b"},
]


@kinds("bad", WRONG_HEADERS)
def test_headers_map_short_texts_to_bytes(wal, bad):
    for call in (wal.put, wal.batch().put, Record.put):
        with refuses("headers must map short texts to bytes"):
            call(b"k", b"v", headers=bad)


def test_headers_take_everything_that_is_bytes_like():
    words = memoryview(array.array("I", [1, 2]))
    record = Record.put(b"k", b"v", headers={"a": words, "b": bytearray(b"c")})
    assert record.headers == {"a": words.tobytes(), "b": b"c"}


@kinds("bad", [None, "1", 1.5, True, -1, 2**32, 2**63, 2**70, [1]])
def test_a_stream_is_a_small_number(wal, bad):
    for call in (wal.put, wal.batch().put, Record.put):
        with refuses("stream must be a number from 0 to 4294967295"):
            call(b"k", b"v", stream=bad)
    for call in (wal.delete, wal.batch().delete, Record.delete):
        with refuses("stream"):
            call(b"k", stream=bad)


@kinds("bad", ["gzip", "", 5, True, ["lz4"]])
@pytest.mark.parametrize("value", [b"v", b""])
def test_a_compression_must_be_known(wal, bad, value):
    if bad == "":
        bad = "LZ4"
    with refuses("compression", "none, lz4, zstd"):
        wal.put(b"k", value, compression=bad)
    with refuses("compression"):
        wal.append(Record.put(b"k", value), compression=bad)
    with refuses("compression"):
        wal.append_batch([Record.delete(b"k")], compression=bad)


@kinds("bad", NOT_POSITIONS)
def test_a_records_position_is_a_position(bad):
    with refuses("position"):
        Record.put(b"k", b"v", position=bad)


# --- Limits -------------------------------------------------------------------------------------


def too_large(*words):
    return pytest.raises(
        TooLargeError, check=lambda error: all(word in str(error) for word in words)
    )


@pytest.fixture
def limited(memory):
    wal = memory.open(record_bytes_max=1000, batch_bytes_max=3000)
    fill(wal, 2)
    yield wal
    assert contents(wal) == told(0, 2)


def test_a_key_over_its_limit_is_refused_with_the_limit(wal):
    key = b"k" * 65536
    for call in (
        lambda: wal.put(key, b""),
        lambda: wal.put(key, b"", stream=1),
        lambda: wal.delete(key),
        lambda: wal.append_batch([(key, b"")]),
        lambda: Record.put(key, b""),
        lambda: Record.delete(key),
    ):
        with too_large("65536", "65535"):
            call()


def test_a_record_over_its_limit_is_refused_with_the_limits_name(limited):
    for call in (
        lambda: limited.put(b"k", b"v" * 1000),
        lambda: limited.put(b"k" * 1000, b""),
        lambda: limited.put(b"k", b"", headers={"h": b"v" * 1000}),
        lambda: limited.delete(b"k" * 1000),
        lambda: limited.delete(b"k" * 1000, stream=1),
        lambda: limited.append(Record.put(b"k", b"v" * 1000)),
        lambda: limited.append_batch([(b"a", b""), (b"k", b"v" * 1000)]),
    ):
        with too_large("record_bytes_max is 1000"):
            call()


@pytest.mark.parametrize("batch_bytes_max", [3000, 300_000])
def test_a_batch_over_its_limit_is_refused_with_the_limits_name(memory, batch_bytes_max):
    wal = memory.open(batch_bytes_max=batch_bytes_max)
    batch = [Record.put(b"k", b"v" * 484)] * (batch_bytes_max // 501 + 1)  # 501 bytes each
    with too_large(f"batch_bytes_max is {batch_bytes_max}"):
        wal.append_batch(batch)
    with too_large("batch_bytes_max"), wal.batch() as collected:
        for record in batch:
            collected.append(record)
    assert wal.current_position() == 0
    assert wal.append_batch(batch[1:]) == range(len(batch) - 1)


def test_headers_over_their_limit_are_refused_with_the_limit(wal):
    headers = {str(number): bytes(65536) for number in range(16)}
    with too_large("1048576"):
        wal.put(b"k", b"v", headers=headers)


def test_a_value_over_the_formats_limit_is_refused_with_the_limit(wal):
    value = bytes((1 << 30) + 1)  # never touched, so it takes no memory
    for call in (lambda: Record.put(b"k", value), lambda: wal.put(b"k", value)):
        with too_large(str(len(value)), str(1 << 30)):
            call()


def test_a_limit_lets_pass_what_is_exactly_at_it(memory):
    wal = memory.open(record_bytes_max=1000, batch_bytes_max=3000)
    assert wal.put(b"k", b"v" * 983) == 0
    with pytest.raises(TooLargeError):
        wal.put(b"k", b"v" * 984)
    assert wal.append_batch([(b"k", b"v" * 983)] * 3) == range(1, 4)


# --- Positions, times, names --------------------------------------------------------------------


@kinds("bad", NOT_POSITIONS)
def test_positions_are_whole_numbers_from_0_on(wal, bad):
    for call in (
        lambda: wal.read(bad),
        lambda: wal.read_from(bad),
        lambda: wal.read_from(0, stop=bad),
        lambda: wal.read_backwards(bad),
        lambda: wal.read_backwards(3, stop=bad),
        lambda: wal.truncate_before(bad),
        lambda: wal.truncate_after(bad),
        lambda: wal.wait_durable(bad),
        lambda: wal.pin("consumer", bad),
    ):
        with refuses("position", repr(bad)):
            call()


@pytest.mark.parametrize("name", ["read", "truncate_before", "truncate_after", "wait_durable"])
def test_a_position_may_not_be_left_out(wal, name):
    with refuses("position", "None"):
        getattr(wal, name)(None)
    with refuses("position", "None"):
        wal.pin("consumer", None)


def test_whatever_is_a_whole_number_is_a_position(wal):
    class Number:
        def __index__(self):
            return 2

    assert wal.read(Number()).position == 2
    assert [record.position for record in wal.read_from(Number())] == [2]


@kinds("bad", ["5", True, [5], object(), math.nan, -1])
def test_a_timeout_is_a_number_of_seconds(wal, bad):
    with refuses("timeout"):
        wal.wait_durable(2, timeout=bad)
    with refuses("timeout"):
        wal.read_from(0, follow=True, timeout=bad)


@kinds("bad", ["now", [5], True, math.nan, math.inf, -math.inf, datetime.date(2026, 1, 1)])
def test_a_time_to_read_from_is_a_number_or_a_datetime(wal, bad):
    with refuses("time"):
        wal.read_from(time=bad)


def test_a_position_and_a_time_exclude_one_another(wal):
    with refuses("not both"):
        wal.read_from(0, time=5)


@kinds("bad", [None, 5, b"x", "", "n" * 201, ["x"]])
def test_a_pins_name_is_a_short_text(wal, bad):
    with refuses("name", "200"):
        wal.pin(bad, 1)
    with refuses("name", "200"):
        wal.unpin(bad)


# --- Opening ------------------------------------------------------------------------------------

NUMBERS = ["segment_bytes_max", "record_bytes_max", "batch_bytes_max"]
RETENTION = ["retention_bytes_max", "retention_records_max"]
WRONG_OPTIONS = [
    *[{name: bad} for name in NUMBERS for bad in (0, -1, "5000", None, 5000.5, True, 2**63)],
    *[{name: bad} for name in RETENTION for bad in (0, -1, "5000", 5000.5, True)],
    *[{"retention_seconds_max": bad} for bad in (0, -1, "60", True, math.nan)],
    *[{"lock_timeout_seconds": bad} for bad in (-1, "60", None, True, math.nan)],
    *[{"frame_align_bytes": bad} for bad in (7, 0, "8", 8.0, True, None, 8192)],
    *[{"compression": bad} for bad in ("gzip", "none", 5, ["lz4"], "")],
    *[{"process_lock": bad} for bad in ("none", None, ["file"])],
    *[{"fsync_policy": bad} for bad in ("always", None, 5, FsyncPolicy)],
    *[{name: bad} for name in ("exclusive", "read_only", "create") for bad in ("no", 1, None)],
    *[{"map_tail": bad} for bad in ("no", 1)],
    *[{"clock": bad} for bad in (5, "now")],
    *[{"files": bad} for bad in (5, "memory", MemoryFiles)],
    {"segment_bytes_max": 1023},
    {"segment_bytes_max": (1 << 40) + 1},
    {"exclusive": True, "read_only": True},
]


@kinds("options", WRONG_OPTIONS, ids=str)
def test_a_wrong_option_is_named_and_nothing_is_made(options):
    with refuses(next(iter(options))):
        WalConfig(**options)
    files = MemoryFiles()
    with refuses(next(iter(options))):
        Wal.open("/log", **({"files": files} | options))
    assert not files.is_directory("/log")


def test_an_unknown_option_is_named_beside_those_there_are():
    for call in (
        lambda: Wal.open("/log", MemoryFiles(), fsync="always"),
        lambda: Wal.open("/log", WalConfig(), fsync="always"),
        lambda: WalConfig().replace(fsync="always"),
    ):
        with pytest.raises(UsageError):
            call()
    with refuses("'fsync'", "fsync_policy"):
        Wal.open("/log", fsync="always")


@kinds("bad", [5, "config", {"exclusive": True}, WalConfig])
def test_a_config_must_be_a_walconfig(path, bad):
    with refuses("WalConfig"):
        Wal.open(path, bad)
    assert not path.exists()


@kinds("bad", [None, 5, b"bytes", ["x"], "", "a\0b"])
def test_a_path_must_be_a_text_that_can_be_one(bad):
    with refuses("path"):
        Wal.open(bad, files=MemoryFiles())


@kinds("bad", [0, -1, 1000.1, "5", None, True, math.nan, math.inf])
def test_a_window_is_over_0_and_at_most_a_second(bad):
    with refuses("window"):
        FsyncPolicy.batch(milliseconds=bad)


@kinds(
    "bad", ["", "never", "batch:", "batch:x", "batch:0", "batch:nan", "os:5", "always:1", 5, None]
)
def test_a_policy_is_parsed_strictly(bad):
    with pytest.raises(UsageError):
        FsyncPolicy.parse(bad)


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("always", FsyncPolicy.ALWAYS),
        (" OS ", FsyncPolicy.OS),
        ("batch", FsyncPolicy.batch()),
        ("batch:20", FsyncPolicy.batch(20)),
        ("batch:0.5", FsyncPolicy.batch(0.5)),
    ],
)
def test_a_policy_can_be_written_as_a_text(text, policy):
    assert FsyncPolicy.parse(text) == policy
    assert FsyncPolicy.parse(str(policy)) == policy
