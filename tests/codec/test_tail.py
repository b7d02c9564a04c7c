"""Tail: the append itself. Both twins store the same frames and refuse the same calls."""

import mmap

import pytest

from tests.codec._frames import HEADER, POSITION, SEED, TAG
from tests.codec._reading import read
from tests.codec._twins import MAKERS, outcome, plain, pure
from treering import TooLargeError, UsageError
from treering._core import format as fmt

SIZE = 1 << 17
PLAIN_BYTES_MAX = 1000


class Bench:
    """A Tail on a page and a mapping of its own, and everything it calls."""

    def __init__(self, twin, *, plain_bytes_max=PLAIN_BYTES_MAX, limit=SIZE, armed=True, align=8):
        self.twin = twin
        self.calls = []
        self.page = twin.SharedPage(mmap.mmap(-1, fmt.CONTROL_BYTES))
        self.page.initialise_mutexes(private=True)
        self.mapping = mmap.mmap(-1, SIZE)
        self.tail = twin.Tail(
            self.page,
            lambda action, *arguments: action(*arguments),
            self.slow,
            self.make,
            lambda: self.calls.append("chore"),
            None if armed else lambda: self.calls.append("arm"),
            lambda position: self.calls.append(("wait", position)),
            plain_bytes_max,
            None,
        )
        self.tail.chore_offset = SIZE
        self.page.store(fmt.WORD_EPOCH, HEADER.epoch)
        self.tail.attach(self.mapping, POSITION, limit, align, TAG, SEED)
        for word, value in (
            (fmt.WORD_TAIL_BASE, POSITION),
            (fmt.WORD_END, POSITION),
            (fmt.WORD_END_OFFSET, 64),
            (fmt.WORD_DURABLE, 3),
        ):
            self.page.store(word, value)

    def slow(self, records, durable, at=None):
        self.calls.append(("slow", [plain(record) for record in records], durable))
        return 1000

    def make(self, key, value, tombstone, ttl, expires_at, headers, compression, stream):
        self.calls.append(("make", ttl, expires_at, headers, compression, stream))
        options = {"expires_at": expires_at, "headers": headers, "stream": stream}
        return self.twin.Record(key, value, tombstone=tombstone, **options)

    def load(self, word):
        return self.page.load(word)

    def stored(self):
        """What the other twin reads in the mapping, without the times."""
        reader = pure() if self.twin.name != "python" else MAKERS["native"]()
        end = self.load(fmt.WORD_END_OFFSET)
        records, _, _ = read(reader, self.mapping[64:end])
        shown = [(r.position, r.key, r.value, r.tombstone, r.headers, r.stream) for r in records]
        return shown, self.load(fmt.WORD_END), end, self.load(fmt.WORD_DIRTY)

    def told(self, call):
        """Everything that one call on the tail does."""
        return outcome(call, self.tail), self.calls, self.stored()


def same_on(twins, call, **settings):
    """What both twins do when asked the same."""
    python, native = (Bench(twin, **settings).told(call) for twin in twins)
    assert python == native
    return python


APPENDS = {
    "put": lambda tail: tail.put(b"key", b"value"),
    "put nothing": lambda tail: tail.put(b"", b""),
    "put at the limit": lambda tail: tail.put(b"k", bytes(PLAIN_BYTES_MAX)),
    "put with the longest key": lambda tail: tail.put(b"k" * fmt.KEY_BYTES_MAX, b""),
    "put by name": lambda tail: tail.put(key=b"key", value=b"value"),
    "put durably": lambda tail: tail.put(b"key", b"value", durable=True),
    "put with stream 0": lambda tail: tail.put(b"key", b"value", stream=0),
    "delete": lambda tail: tail.delete(b"key"),
    "delete durably": lambda tail: tail.delete(b"key", durable=True),
    "several": lambda tail: [tail.put(b"%d" % i, b"v" * i) for i in range(20)],
}


@pytest.mark.parametrize("align", [8, 512, 4096])
@pytest.mark.parametrize("call", APPENDS.values(), ids=APPENDS)
def test_a_plain_append_is_stored_without_help(twins, call, align):
    result, calls, (records, end, _, dirty) = same_on(twins, call, align=align)
    assert result in (POSITION, list(range(POSITION, POSITION + 20)))
    assert [record[0] for record in records] == list(range(POSITION, end))
    assert dirty == 0
    assert [name for name, *_ in calls] in ([], ["wait"])


@pytest.mark.parametrize("align", [8, 512])
def test_both_twins_store_the_same_bytes_but_for_the_time(twins, align):
    frames = []
    for twin in twins:
        bench = Bench(twin, align=align)
        bench.tail.put(b"key", b"value")
        bench.tail.delete(b"key")
        end = bench.load(fmt.WORD_END_OFFSET)
        stored = bytearray(bench.mapping[:end])
        for start in (64, 64 + (end - 64) // 2):
            stored[start + 4 : start + 8] = bytes(4)  # the checksum
            stored[start + 40 : start + 48] = bytes(8)  # the time
        assert bench.mapping[end:] == bytes(SIZE - end)
        frames.append(bytes(stored))
    assert frames[0] == frames[1]


def test_a_value_over_the_limit_is_left_to_slow(twins):
    result, calls, (records, end, _, _) = same_on(
        twins, lambda tail: tail.put(b"k", bytes(PLAIN_BYTES_MAX + 1))
    )
    assert (result, records, end) == (1000, [], POSITION)
    assert calls[-1][0] == "slow"


UNUSUAL = {
    "put with ttl": lambda tail: tail.put(b"k", b"v", ttl=5),
    "put with expiry": lambda tail: tail.put(b"k", b"v", expires_at=2e9),
    "put with headers": lambda tail: tail.put(b"k", b"v", headers={"a": b"b"}),
    "put with no headers": lambda tail: tail.put(b"k", b"v", headers={}),
    "put with compression": lambda tail: tail.put(b"k", b"v", compression="lz4", durable=True),
    "put with a stream": lambda tail: tail.put(b"k", b"v", stream=7),
    "put with everything": lambda tail: tail.put(
        b"k", b"v", ttl=1, expires_at=2.0, headers={"a": b""}, compression="x", stream=9
    ),
    "delete with ttl": lambda tail: tail.delete(b"k", ttl=5),
    "delete with expiry": lambda tail: tail.delete(b"k", expires_at=2e9),
    "delete with headers": lambda tail: tail.delete(b"k", headers={"a": b"b"}, durable=True),
    "delete with a stream": lambda tail: tail.delete(b"k", stream=2**32 - 1),
}


@pytest.mark.parametrize("call", UNUSUAL.values(), ids=UNUSUAL)
def test_whatever_is_out_of_the_ordinary_is_made_first(twins, call):
    """Then it is stored, or left to slow: the same record either way."""
    made = []
    for twin in twins:
        bench = Bench(twin)
        first = call(bench.tail)
        kinds = [name for name, *_ in bench.calls]
        made.append(bench.calls[0])
        assert kinds[0] == "make"
        if first == 1000:
            assert kinds == ["make", "slow"]
        else:
            assert first == POSITION
            assert bench.load(fmt.WORD_END) == POSITION + 1
    assert made[0] == made[1]


@pytest.mark.parametrize("at", [0, POSITION - 1, POSITION + 1])
def test_a_conditional_append_elsewhere_is_left_to_slow(twins, at):
    for twin in twins:
        bench = Bench(twin)
        assert bench.tail.append_records([twin.Record(b"k", b"v")], False, at) == 1000
        assert bench.load(fmt.WORD_END) == POSITION
        assert [name for name, *_ in bench.calls] == ["slow"]


WRONG = {
    "put a text key": lambda tail: tail.put("k", b"v"),
    "put a text value": lambda tail: tail.put(b"k", "v"),
    "put None": lambda tail: tail.put(b"k", None),
    "put numbers": lambda tail: tail.put(1, 2),
    "put a long key": lambda tail: tail.put(b"k" * 70_000, b"v"),
    "put a long key and value": lambda tail: tail.put(b"k" * 70_000, bytes(5000)),
    "put a text with a header": lambda tail: tail.put(b"k", "v", headers={"a": b"b"}),
    "put a text header": lambda tail: tail.put(b"k", b"v", headers={"a": "b"}),
    "put a late expiry": lambda tail: tail.put(b"k", b"v", expires_at=1e30),
    "put an expiry in words": lambda tail: tail.put(b"k", b"v", expires_at="soon"),
    "put stream -1": lambda tail: tail.put(b"k", b"v", stream=-1),
    "put stream 2**32": lambda tail: tail.put(b"k", b"v", stream=2**32),
    "put stream 2**80": lambda tail: tail.put(b"k", b"v", stream=2**80),
    "put stream in words": lambda tail: tail.put(b"k", b"v", stream="orders"),
    "put stream 1.5": lambda tail: tail.put(b"k", b"v", stream=1.5),
    "put stream None": lambda tail: tail.put(b"k", b"v", stream=None),
    "put stream empty text": lambda tail: tail.put(b"k", b"v", stream=""),
    "delete a text key": lambda tail: tail.delete("k"),
    "delete None": lambda tail: tail.delete(None),
    "delete a long key": lambda tail: tail.delete(b"k" * 70_000),
    "delete stream -1": lambda tail: tail.delete(b"k", stream=-1),
    "delete stream in words": lambda tail: tail.delete(b"k", stream="x"),
    "delete stream None": lambda tail: tail.delete(b"k", stream=None),
}


@pytest.mark.parametrize("call", WRONG.values(), ids=WRONG)
def test_a_wrong_call_is_refused_in_the_same_words_and_appends_nothing(twins, call):
    python, native = (Bench(twin).told(call) for twin in twins)
    assert python[0] == native[0]
    assert python[0].kind in (UsageError, TooLargeError)
    for _, calls, (records, end, offset, dirty) in (python, native):
        assert (records, end, offset, dirty) == ([], POSITION, 64, 0)
        assert "slow" not in [name for name, *_ in calls]


MISCALLED = {
    "put without value": lambda tail: tail.put(b"k"),
    "put three": lambda tail: tail.put(b"k", b"v", 5),
    "put an unknown keyword": lambda tail: tail.put(b"k", b"v", ttd=5),
    "delete nothing": lambda tail: tail.delete(),
    "delete with compression": lambda tail: tail.delete(b"k", compression="lz4"),
}


@pytest.mark.parametrize("call", MISCALLED.values(), ids=MISCALLED)
def test_a_call_with_other_arguments_is_a_type_error(twins, call):
    for twin in twins:
        error, calls, stored = Bench(twin).told(call)
        assert error.kind is TypeError
        assert (calls, stored[0]) == ([], [])


def test_keys_and_values_may_be_any_bytes(twins):
    for twin in twins:
        bench = Bench(twin)
        result, calls, stored = bench.told(lambda tail: tail.put(bytearray(b"k"), memoryview(b"v")))
        appended = stored[0] or [(r.position, r.key, r.value) for r in calls[-1][1]]
        assert result in (POSITION, 1000)
        assert appended[0][1:3] == (b"k", b"v")


@pytest.mark.parametrize("plain_bytes_max", [-1, -65_000])
def test_a_negative_limit_leaves_everything_to_slow(twins, plain_bytes_max):
    """So it is with compression, or with record_bytes_max below the longest key."""
    for call in (APPENDS["put"], APPENDS["put nothing"], APPENDS["delete"]):
        result, calls, _ = same_on(twins, call, plain_bytes_max=plain_bytes_max)
        assert (result, calls[-1][0]) == (1000, "slow")


SPOILERS = {
    "another tail": (fmt.WORD_TAIL_BASE, POSITION + 1),
    "another epoch": (fmt.WORD_EPOCH, HEADER.epoch + 1),
    "a failed log": (fmt.WORD_FAILED, 5),
    "a frame left unfinished": (fmt.WORD_DIRTY, 200),
    "a closed tail": (fmt.WORD_END_OFFSET, fmt.TAIL_CLOSED),
}


@pytest.mark.parametrize("spoiler", SPOILERS.values(), ids=SPOILERS)
def test_a_page_that_says_otherwise_is_left_to_slow(twins, spoiler):
    for twin in twins:
        bench = Bench(twin)
        bench.page.store(*spoiler)
        assert bench.tail.put(b"k", b"v") == 1000
        assert bench.tail.delete(b"k", durable=True) == 1000
        assert [call[0] for call in bench.calls if call[0] != "make"] == ["slow", "slow"]
        assert bench.mapping[:] == bytes(SIZE)


def test_a_full_segment_is_left_to_slow_at_the_very_byte(twins):
    size = 32 + 16 + 8
    for limit, last in ((64 + 2 * size, POSITION + 1), (64 + 2 * size - 1, POSITION)):
        for twin in twins:
            bench = Bench(twin, limit=limit)
            for _ in range(last - POSITION + 1):
                bench.tail.put(b"key", b"value")
            assert bench.load(fmt.WORD_END) == last + 1
            assert bench.tail.put(b"key", b"value") == 1000
            assert bench.mapping[limit:] == bytes(SIZE - limit)


def test_a_limit_beyond_the_mapping_is_never_stored_into(twins):
    for twin in twins:
        bench = Bench(twin, limit=SIZE * 2)
        bench.page.store(fmt.WORD_END_OFFSET, SIZE - 8)
        assert bench.tail.put(b"key", b"value") == 1000
        assert bench.mapping[SIZE - 8 :] == bytes(8)


def test_a_detached_tail_leaves_everything_to_slow_and_lets_go_of_the_mapping(twins):
    for twin in twins:
        bench = Bench(twin)
        bench.tail.detach()
        bench.mapping.close()
        assert bench.tail.put(b"k", b"v") == 1000
        assert bench.tail.delete(b"k") == 1000


def test_the_first_append_arms_and_only_that_one_until_disarmed(twins):
    for twin in twins:
        bench = Bench(twin, armed=False)
        for _ in range(3):
            bench.tail.put(b"k", b"v")
        assert bench.calls == ["arm"]
        bench.tail.disarm()
        bench.tail.put(b"k", b"v")
        assert bench.calls == ["arm", "arm"]


def test_an_append_past_the_mark_asks_for_chores(twins):
    for twin in twins:
        bench = Bench(twin)
        bench.tail.chore_offset = 64 + 48 + 8 + 1
        bench.tail.put(b"key", b"value")
        assert bench.calls == []
        bench.tail.put(b"key", b"value")
        assert bench.calls == ["chore"]


def test_a_group_is_one_frame_or_left_to_slow_whole(twins):
    for twin in twins:
        bench = Bench(twin)
        records = [twin.Record(b"%d" % i, b"v", headers={"n": b"%d" % i}) for i in range(3)]
        first = bench.tail.append_records(records, True)
        if first == 1000:
            assert [len(call[1]) for call in bench.calls] == [3]
        else:
            assert (first, bench.calls) == (POSITION, [("wait", POSITION + 2)])
            assert [record[1] for record in bench.stored()[0]] == [b"0", b"1", b"2"]
            assert bench.mapping[64 + 12] == 3  # one frame


def test_populating_outside_the_mapping_is_harmless(twin):
    bench = Bench(twin)
    for offset, length in ((0, 4096), (SIZE - 4096, 1 << 20), (SIZE, 4096), (SIZE + 4096, 1)):
        bench.tail.populate(bench.mapping, offset, length)
    bench.tail.detach()
    bench.tail.populate(bench.mapping, 0, 4096)
