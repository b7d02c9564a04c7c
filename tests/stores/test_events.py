"""The event store, call by call."""

from __future__ import annotations

import asyncio
import dataclasses
import importlib
import os
import sys
import threading
import time
import uuid

import pytest

import treering
from tests.stores._opening import SMALL, opener
from treering import (
    ClosedError,
    ConflictError,
    DamageError,
    FsyncPolicy,
    PositionError,
    ReadOnlyError,
    Record,
    TooLargeError,
    UsageError,
    VersionError,
    Wal,
)
from treering.stores.events import (
    ANY,
    NO_STREAM,
    DuplicateEventError,
    Event,
    EventStore,
    WrongVersionError,
)
from treering.stores.events.event import EVENT, HEAD
from treering.stores.events.state import State
from treering.testing import FakeClock


@pytest.fixture
def opened(files):
    with opener(EventStore, "/events", files=files) as open_store:
        yield open_store


def seen(events):
    return [(event.stream, event.version, event.type, event.data) for event in events]


def fill(store, streams=3, events=5):
    for number in range(events):
        for stream in range(streams):
            store.append(f"s{stream}", Event("e", number))


# --- Appending -----------------------------------------------------------------------------------


def test_an_event_comes_back_in_every_handle_with_its_next_call(store, other):
    result = store.append("order-1", Event("created", {"by": "ada"}))
    assert (result.first_version, result.version, result.position) == (0, 0, 0)
    result = other.append("order-1", [Event("added", [1]), Event("paid")])
    assert (result.first_version, result.version, list(result.positions)) == (1, 2, [1, 2])
    expected = [
        ("order-1", 0, "created", {"by": "ada"}),
        ("order-1", 1, "added", [1]),
        ("order-1", 2, "paid", None),
    ]
    for each in (store, other):
        assert seen(each.read("order-1")) == seen(each.read_all()) == expected
        assert each.version("order-1") == 2
        assert each.position == 3


def test_the_expected_version_lets_one_of_two_win(store, other):
    assert store.version("s") == NO_STREAM
    store.append("s", Event("a"), expected_version=NO_STREAM)
    with pytest.raises(WrongVersionError) as caught:
        other.append("s", Event("b"), expected_version=NO_STREAM)
    assert isinstance(caught.value, ConflictError)
    assert (caught.value.stream, caught.value.actual, caught.value.expected) == ("s", 0, -1)
    other.append("s", Event("b"), expected_version=0)
    with pytest.raises(WrongVersionError, match=r"at version 1.*expected version 0"):
        store.append("s", [Event("c")] * 2, expected_version=0)
    with pytest.raises(WrongVersionError, match="has no events"):
        store.append("t", Event("c"), expected_version=0)
    assert [event.type for event in store.read_all()] == ["a", "b"]
    store.append("s", Event("c"), expected_version=ANY)


def test_a_repeated_append_gives_what_the_first_one_gave(store, other, opened):
    some = [Event("a", 1, id="1"), Event("b", 2), Event("c", 3, id=uuid.UUID(int=7))]
    store.append("s", Event("first"))
    first = store.append("s", some, expected_version=0)
    store.append("s", Event("more"))
    for each in (store, other):
        assert each.append("s", some, expected_version=0) == first
        assert each.append("s", some) == first
    assert store.append("s", Event("c", id=str(uuid.UUID(int=7)))).version == 3
    store.checkpoint()
    store.append("s", Event("d", id="late"))
    third = opened()
    assert third.append("s", some) == first
    assert third.append("s", Event("d", id="late")).version == 5
    assert third.append("other", some).first_version == 0  # ids are the stream's
    assert third.position == 9
    assert [event.id for event in third.read("s")][1:4] == ["1", None, str(uuid.UUID(int=7))]
    third.check()
    assert third.stats()["ids"] == 5


@pytest.mark.parametrize(
    "ids", [["1", "new"], ["new", "1"], ["2", "1"], ["1", "3"], [None, "1"], ["3", None]]
)
def test_a_partly_known_append_is_refused(store, ids):
    store.append("s", [Event("a", id="1"), Event("b", id="2"), Event("c", id="3")])
    with pytest.raises(DuplicateEventError, match="repeats none"):
        store.append("s", [Event("x", id=id) for id in ids])
    with pytest.raises(UsageError, match="same id"):
        store.append("t", [Event("x", id="1"), Event("x", id="1")])
    assert store.position == 3


def test_a_repeated_append_of_what_other_records_parted(store):
    store.append("s", Event("a", id="1"))
    store.append("t", Event("x"))
    store.append("s", Event("b", id="2"))
    again = store.append("s", [Event("a", id="1"), Event("b", id="2")])
    assert (again.first_version, again.positions) == (0, (0, 2))


def test_everything_that_belongs_to_an_event_comes_back(store, other):
    meta = {"user": "ada", "n": [1, None]}
    store.append("s", Event("t", "d", "i", 12.5, meta, "c1", "c2"))
    [event] = other.read("s")
    assert (event.id, event.time, event.metadata) == ("i", 12.5, meta)
    assert (event.correlation, event.causation, event.data) == ("c1", "c2", "d")
    assert (event.raw, event.schema, event.stream, event.type) == (b'"d"', 1, "s", "t")
    assert abs(event.recorded_at - time.time()) < 60
    store.append("s", Event("t", b"\x00\xff", causation="x"))
    store.append("s", Event("t", bytearray(b"raw")))
    found = list(other.read("s"))
    assert [event.data for event in found[1:]] == [b"\x00\xff", b"raw"]
    assert (found[2].metadata, found[2].id, found[2].correlation) == ({}, None, None)
    assert found[2].time == found[2].recorded_at
    assert "'t' 's'@2" in repr(found[2])
    assert repr(Event("t", 1, id="x")) == "Event('t', 1, id='x')"


def test_every_mixture_of_extras(store):
    names = ("id", "time", "metadata", "correlation", "causation")
    values = {"id": "i", "time": 1.5, "metadata": {"m": 1}, "correlation": "co", "causation": "ca"}
    for mask in range(32):
        given = {name: values[name] for at, name in enumerate(names) if mask >> at & 1}
        store.append(f"s{mask}", Event("t", mask, **given))
        [event] = store.read(f"s{mask}")
        for name in names:
            expected = given.get(name, {} if name == "metadata" else None)
            if name != "time" or "time" in given:
                assert getattr(event, name) == expected
        assert event.data == mask


CIRCLE: list = []
CIRCLE.append(CIRCLE)


@pytest.mark.parametrize(
    ("stream", "event", "options"),
    [
        ("s", Event("t", CIRCLE), {}),
        ("s", Event("t", "\ud800"), {}),
        ("", Event("t"), {}),
        (b"s", Event("t"), {}),
        ("s" * 4097, Event("t"), {}),
        ("\ud800", Event("t"), {}),
        ("s", Event(""), {}),
        ("s", Event("t" * 1025), {}),
        ("s", Event(7), {}),
        ("s", Event("t", object()), {}),
        ("s", Event("t", float("nan")), {}),
        ("s", Event("t", id=""), {}),
        ("s", Event("t", id="i" * 256), {}),
        ("s", Event("t", id=5), {}),
        ("s", Event("t", time="now"), {}),
        ("s", Event("t", time=1e300), {}),
        ("s", Event("t", metadata=[1]), {}),
        ("s", Event("t", metadata={"a": object()}), {}),
        ("s", Event("t", correlation=5), {}),
        ("s", [], {}),
        ("s", "text", {}),
        ("s", [Event("t"), 5], {}),
        ("s", Event("t"), {"expected_version": -3}),
        ("s", Event("t"), {"expected_version": "1"}),
        ("s", Event("t"), {"expected_version": True}),
    ],
)
def test_what_cannot_be_appended_is_refused_and_nothing_is(store, stream, event, options):
    with pytest.raises(UsageError):
        store.append(stream, event, **options)
    assert store.position == 0


def test_a_batch_that_is_too_large_changes_nothing(opened):
    store = opened(batch_bytes_max=10_000, record_bytes_max=5_000)
    for events in (Event("big", b"x" * 6_000), [Event("e", b"x" * 1_000)] * 20):
        with pytest.raises(TooLargeError):
            store.append("s", events)
    assert (store.version("s"), store.position, store.streams()) == (-1, 0, [])
    assert store.append("s", Event("e")).version == 0
    store.check()


def test_names_may_be_any_text(store):
    names = ["ä/..\\", "\0", "x" * 4096, "日本"]
    for name in names:
        store.append(name, Event("Ü" + name[:3]))
    assert store.streams() == sorted(names)
    assert [next(store.read(name)).type for name in names] == ["Ü" + n[:3] for n in names]


# --- Reading -------------------------------------------------------------------------------------


def test_a_part_of_a_stream_in_both_directions(store):
    for number in range(700):
        store.append("s", Event("e", number))
        store.append("t", Event("f", number))
    numbers = list(range(700))
    assert [event.data for event in store.read("s")] == numbers
    assert [event.data for event in store.read("s", reverse=True)] == numbers[::-1]
    for start, stop in [(0, 0), (5, 300), (699, None), (700, None), (10, 5), (650, 9999)]:
        found = [event.version for event in store.read("s", start, stop)]
        assert found == numbers[start:stop]
        back = [event.version for event in store.read("s", start, stop, reverse=True)]
        assert back == numbers[start:stop][::-1]
    assert list(store.read("none")) == []
    for wrong in (-1, "0", True):
        with pytest.raises(UsageError):
            store.read("s", wrong)


def test_what_is_read_is_of_one_moment(store):
    store.append("s", [Event("e")] * 3)
    reading = store.read("s")
    next(reading)
    store.append("s", Event("late"))
    assert len(list(reading)) == 2


def test_all_events_in_one_order_some_types_between_positions(store, other):
    fill(store)
    other.append("z", [Event("special"), Event("e", 99), Event("specials")])
    everything = list(store.read_all())
    assert [event.position for event in everything] == list(range(18))
    assert len(list(other.read_all(16))) == 2
    assert [e.type for e in store.read_all(types="special")] == ["special"]
    assert len(list(store.read_all(0, ["special", "specials"], stop=17))) == 1
    assert list(store.read_all(18)) == []
    with pytest.raises(PositionError):
        store.read_all(19)
    with store.read_all() as reader:
        assert next(reader).position == 0
        assert reader.position == 1
        assert next(iter(reader)).position == 1


def test_a_follower_sees_what_comes_and_ends_with_its_time(store, other):
    store.append("s", Event("a"))
    reader = other.read_all(follow=True, timeout=0.05)
    assert [event.type for event in reader] == ["a"]
    store.append("s", Event("b"))
    assert [event.type for event in reader] == ["b"]
    reader.stop()
    assert list(reader) == []
    reader.close()


def test_streams_by_prefix(store):
    for name in ("user-2", "user-1", "order-1", "userx"):
        store.append(name, Event("e"))
    assert store.streams("user-") == ["user-1", "user-2"]
    assert store.streams() == ["order-1", "user-1", "user-2", "userx"]
    assert store.streams("zzz") == []


# --- The past ------------------------------------------------------------------------------------


def test_the_past_shows_what_was_there(opened):
    clock = FakeClock(1_000_000_000_000_000_000)
    store = opened(clock=clock)
    moments = []
    for number in range(40):
        moments.append((store.position, store.streams(), store.version("a"), len(moments)))
        store.append("abc"[number % 3], [Event("e", number)] * (number % 2 + 1))
        clock.advance(1)
    store.checkpoint()
    for position, streams, version, number in moments:
        by_time = 1_000_000_000 + number
        for view in (store.at(position=position), store.at(time=by_time)):
            assert view.position == position
            assert view.streams() == streams
            assert view.version("a") == version
            assert [event.version for event in view.read("a")] == list(range(version + 1))
            assert len(list(view.read_all())) == position
            assert len(list(view.read("a", reverse=True))) == version + 1
    view = store.at(position=5)
    assert list(view.read("nothing")) == []
    assert view.aggregate("a", 0, lambda n, e: n + 1).state == view.version("a") + 1
    with pytest.raises(PositionError):
        view.read_all(6)
    with pytest.raises(UsageError):
        view.read_all(follow=True)
    with pytest.raises(PositionError):
        store.at(position=store.position + 1)
    for wrong in ({}, {"position": 1, "time": 2}, {"position": -1}):
        with pytest.raises(UsageError):
            store.at(**wrong)


# --- Types ---------------------------------------------------------------------------------------


@dataclasses.dataclass
class Line:
    item: str
    count: int


@dataclasses.dataclass(frozen=True)
class Ordered:
    by: str
    lines: list[Line]
    gift: Line | None = None
    pair: tuple[Line, ...] = ()
    named: dict[str, Line] = dataclasses.field(default_factory=dict)


def test_registered_classes_come_back_as_they_were(store, other):
    data = Ordered("ada", [Line("tea", 2)], Line("cup", 1), (Line("a", 1),), {"x": Line("b", 2)})
    for each in (store, other):
        each.register(Ordered, "ordered")
    assert store.append("s", data).version == 0
    store.append("s", [Event("ordered", data), Event("other", {"any": 1})])
    found = list(other.read("s"))
    assert [event.type for event in found] == ["ordered", "ordered", "other"]
    assert found[0].data == found[1].data == data
    with pytest.raises(UsageError, match="registered as Ordered"):
        store.append("s", Event("ordered", {"by": "ada"}))
    with pytest.raises(UsageError, match="register the class"):
        store.append("s", Line("a", 1))

    @store.register
    class Line2:
        pass

    @store.register(name="line3", version=2)
    @dataclasses.dataclass
    class Line3:
        a: int

    store.append("t", Line3(1))
    assert (next(store.read("t")).schema, next(store.read("t")).data) == (2, Line3(1))
    with pytest.raises(UsageError, match="another class"):
        store.register(Line, "line3")
    for wrong in ({"version": 0}, {"version": 1 << 16}, {"version": "1"}, {"name": ""}):
        with pytest.raises(UsageError):
            store.register(Line, **wrong)


def test_old_data_is_brought_up_to_date(opened):
    old = opened()
    old.append("s", Event("paid", {"euros": 3}))
    middle = opened()
    middle.upcast("paid", 1, lambda data: {"cents": data["euros"] * 100})
    middle.append("s", Event("paid", {"cents": 5}))
    assert [event.data for event in middle.read("s")] == [{"cents": 300}, {"cents": 5}]
    assert [event.schema for event in middle.read("s")] == [1, 2]
    new = opened()

    @new.register(name="paid", version=3)
    @dataclasses.dataclass
    class Paid:
        cents: int
        currency: str

    with pytest.raises(UsageError, match=r"from version 1 to 2.*store.upcast"):
        next(new.read("s")).data  # noqa: B018
    new.upcast("paid", 1, lambda data: {"cents": data["euros"] * 100})
    new.upcast("paid", 2, lambda data: {**data, "currency": "EUR"})
    new.append("s", Paid(7, "USD"))
    assert [event.data for event in new.read("s")] == [
        Paid(300, "EUR"),
        Paid(5, "EUR"),
        Paid(7, "USD"),
    ]
    with pytest.raises(VersionError, match="knows up to 2"):
        list(middle.read("s"))[2].data  # noqa: B018
    assert list(old.read("s"))[2].data == {"cents": 7, "currency": "USD"}  # it asks for nothing
    new.upcast("paid", 2, lambda data: {"nonsense": 1})
    with pytest.raises(UsageError, match="does not fit"):
        next(new.read("s")).data  # noqa: B018
    with pytest.raises(UsageError):
        new.upcast("paid", 1, "no function")


def test_data_that_no_codec_wrote_is_damage(store):
    key = HEAD.pack(EVENT, 0, 1, 1, 0) + b"s" + b"t"
    store._fold.append([(key, b"{broken")])
    [event] = store.read("s")
    assert event.raw == b"{broken"
    with pytest.raises(DamageError, match="raw"):
        event.data  # noqa: B018


def test_msgspec_structs(opened):
    msgspec = pytest.importorskip("msgspec")
    from treering.integrations.msgspec import MsgspecCodec

    class Paid(msgspec.Struct):
        cents: int
        tags: set[str] = msgspec.field(default_factory=set)

    plain, store = opened(), opened(codec=MsgspecCodec())
    store.register(Paid)
    store.append("s", Paid(5, {"a"}))
    plain.append("s", Event("Paid", {"cents": 6}))
    plain.append("s", Event("Paid", {"cents": "six"}))
    first, second, third = store.read("s")
    assert (first.data, second.data) == (Paid(5, {"a"}), Paid(6))
    with pytest.raises(UsageError, match="does not fit"):
        third.data  # noqa: B018
    assert next(plain.read("s")).data == {"cents": 5, "tags": ["a"]}
    with pytest.raises(UsageError):
        store.append("s", Event("x", object()))


def test_without_msgspec_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "msgspec", None)
    monkeypatch.delitem(sys.modules, "treering.integrations.msgspec", raising=False)
    with pytest.raises(treering.MissingExtraError, match=r"treering\[msgspec\]"):
        importlib.import_module("treering.integrations.msgspec")


# --- Snapshots and aggregates --------------------------------------------------------------------


def test_an_aggregate_goes_on_from_its_snapshot(store, other):
    store.append("s", [Event("add", n) for n in range(10)])
    applied = []

    def add(total, event):
        applied.append(event.version)
        return total + event.data

    assert store.load_snapshot("s") is None
    assert store.aggregate("s", 0, add) == (45, 9)
    assert store.aggregate("s", 0, add, snapshot_every=11) == (45, 9)
    assert store.load_snapshot("s") is None
    assert store.aggregate("s", 0, add, snapshot_every=10) == (45, 9)
    assert other.load_snapshot("s") == (9, 45, 10)
    applied.clear()
    other.append("s", Event("add", 100))
    assert other.aggregate("s", 0, add, snapshot_every=2) == (145, 10)
    assert applied == [10]
    assert other.aggregate("s", 0, add, schema=2) == (145, 10)
    assert len(applied) == 12
    assert store.aggregate("none", "x", add) == ("x", -1)
    assert len(list(store.read_all())) == 11  # a snapshot is no event
    store.checkpoint()
    store.check()


def test_snapshots_by_hand(store, opened):
    store.append("s", [Event("e")] * 3)
    with pytest.raises(WrongVersionError):
        store.save_snapshot("s", 3, {})
    with pytest.raises(WrongVersionError):
        store.save_snapshot("none", 0, {})
    for wrong in ({"version": -1}, {"version": 0, "schema": 0}):
        with pytest.raises(UsageError):
            store.save_snapshot("s", data={}, **wrong)
    store.register(Line)
    store.save_snapshot("s", 2, {"a": 1})
    store.save_snapshot("s", 1, Line("x", 2), schema=4)
    assert store.load_snapshot("s") is None  # the newest one counts, and it is of schema 4
    assert store.load_snapshot("s", schema=4) == (1, Line("x", 2), 4)
    store.save_snapshot("s", 2, b"bytes")
    store.checkpoint()
    again = opened()
    assert again.load_snapshot("s") == (2, b"bytes", 5)


# --- Subscriptions -------------------------------------------------------------------------------


def test_a_subscription_catches_up_and_goes_on(store, other):
    fill(store, 2, 300)
    with other.subscribe(0, timeout=0.05) as subscription:
        assert [event.position for event in subscription] == list(range(600))
        assert subscription.position == 600
        store.append("s0", Event("late"))
        assert [event.type for event in subscription] == ["late"]
    ours = other.subscribe(10, stream="s1", timeout=0)
    assert [event.version for event in ours] == list(range(5, 300))
    assert other.subscribe(timeout=0).position == 601
    assert list(other.subscribe(0, stream="none", timeout=0.01)) == []
    some = other.subscribe(0, types=["late"], timeout=0)
    assert [event.position for event in some] == [600]
    assert some.position == 601
    half = other.subscribe(0, timeout=0)
    assert [next(half).position for _ in range(7)][-1] == 6
    assert half.position == 7
    assert next(other.subscribe(half.position, timeout=0)).position == 7
    with pytest.raises(UsageError):
        other.subscribe(-1)


def test_a_stream_of_its_own_among_much_else_misses_nothing(store, other):
    got = []
    subscription = other.subscribe(0, stream="s1", timeout=5)

    def follow():
        for event in subscription:
            got.append(event.data)
            if len(got) == 200:
                return

    thread = threading.Thread(target=follow)
    thread.start()
    for number in range(200):
        store.append("s0", [Event("x")] * (number % 3 + 1))
        store.append("s1", Event("y", number))
    thread.join(30)
    assert got == list(range(200))


@pytest.mark.parametrize("stream", [None, "s"])
def test_stopping_and_closing_end_a_waiting_subscription(store, other, stream):
    subscription = store.subscribe(stream=stream)
    threading.Timer(0.05, subscription.stop).start()
    assert list(subscription) == []
    subscription = other.subscribe(stream=stream)
    threading.Timer(0.05, other.close).start()
    with pytest.raises(ClosedError):
        next(subscription)


def test_async_for_over_a_subscription(store, other):
    fill(store, 2, 200)

    async def main():
        found = []
        subscription = other.subscribe(0, timeout=5)
        async for event in subscription:
            found.append(event.position)
            if len(found) == 400:
                await asyncio.to_thread(store.append, "s0", Event("late"))
            if len(found) == 401:
                break
        assert found == list(range(401))
        # A cancelled wait loses nothing.
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(subscription), 0.05)
        store.append("s0", Event("x", 1))
        store.append("s0", Event("x", 2))
        assert [(await anext(subscription)).data, (await anext(subscription)).data] == [1, 2]
        quick = other.subscribe(timeout=0.01)
        assert [event async for event in quick] == []

    asyncio.run(main())


# --- Care ----------------------------------------------------------------------------------------


def test_a_checkpoint_removes_no_event_and_makes_opening_quick(files, opened):
    store = opened()
    for _ in range(3):
        fill(store, 5, 20)
        store.append("s0", Event("given", id=f"id{store.position}"))
        store.checkpoint()
    fill(store, 5, 3)
    expected = seen(store.read_all())
    assert len(expected) == 318
    store.close()
    again = opened()
    assert again._fold.wal.first_position == 0
    assert seen(again.read_all()) == expected
    assert again.append("s0", Event("given", id="id100")).position == 100
    assert again.stats()["trouble"] == []
    assert (again.stats()["streams"], again.stats()["events"]) == (5, 318)
    again.check()


def test_a_long_stream_goes_through_a_snapshot_in_pieces(opened):
    store = opened(segment_bytes_max=1 << 20)
    store.append("long", [Event("e", b"")] * 20_000)
    store.append("short", Event("e"))
    store.append("long", [Event("e", b"", id=f"{n}") for n in range(9_000)])
    store.checkpoint()
    records = list(store._fold.current.dump())
    assert len(records) > 3
    assert max(len(record.value) for record in records) < 1 << 18
    again = opened()
    assert again.version("long") == 28_999
    assert again.append("long", Event("e", id="8999")).version == 28_999
    assert again.append("long", Event("e")).version == 29_000
    again.check()


def test_copies_and_scratches_stay_apart(store):
    fill(store, 2, 3)
    store.append("s0", Event("e", id="a"))
    before = store._fold.state()
    copy, scratch = before.copy(), before.scratch()
    scratch.add(b"s0", 4, 900, b"c")
    scratch.add(b"t", 0, 901, None)
    assert (scratch.version(b"t"), scratch.version(b"s0")) == (0, 4)
    assert scratch.streams[b"s0"].version_of(b"a") == 3
    assert scratch.streams[b"s0"].version_of(b"c") == 4
    assert (store.version("t"), store.version("s0")) == (-1, 3)
    store.append("s0", Event("e", id="b"))
    store.append("new", Event("e"))
    assert copy.version(b"s0") == 3
    assert copy.streams[b"s0"].version_of(b"b") is None
    assert copy.version(b"new") == copy.version(b"t") == -1
    assert store.append("s0", Event("e", id="c")).version == 5
    copy.add(b"s0", 4, 800, b"d")
    assert copy.streams[b"s0"].version_of(b"d") == 4
    assert copy.streams[b"s0"].version_of(b"b") is None
    assert store.append("s0", Event("e", id="d")).version == 6
    store.check()


def test_dumping_a_copy_while_others_append(store):
    fill(store, 3, 5)
    copy = store._fold.copy()[0]
    dump = copy.dump()
    fill(store, 30, 5)
    store.append("s0", Event("e", id="later"))
    loaded = State()
    for record in dump:
        loaded.load(record)
    assert {name: stream.count for name, stream in loaded.streams.items()} == {
        b"s0": 5,
        b"s1": 5,
        b"s2": 5,
    }


def test_taking_in_again_is_the_same_as_once(store):
    store.append("s", [Event("a", id="1"), Event("b")])
    state = store._fold.current
    for record in list(store._fold.wal.read_from(0)) * 2:
        state.apply(record)
    assert store.version("s") == 1
    store.check()


def test_an_interrupt_after_the_append_leaves_a_right_index(store, monkeypatch):
    store.append("s", Event("a"))
    for number, where in enumerate(("add", "add_all")):
        right = getattr(State, where)

        def interrupted(self, *args, right=right):
            monkeypatch.undo()
            right(self, *args)
            raise KeyboardInterrupt

        monkeypatch.setattr(State, where, interrupted)
        with pytest.raises(KeyboardInterrupt):
            store.append("s", [Event("b", id=f"b{number}"), Event("c", id=f"c{number}")])
        monkeypatch.undo()
        assert store.append("s", Event("c", id=f"c{number}")).version == 2 * number + 2
    assert store.version("s") == 4
    store.check()


def test_records_of_others_are_refused_and_not_skipped(files):
    for key, error in [
        (b"", VersionError),
        (b"plain", VersionError),
        (b"plain text key", VersionError),
        (HEAD.pack(0xE3, 0, 1, 1, 0) + b"st", VersionError),
        (HEAD.pack(EVENT, 0x80, 1, 1, 0) + b"st", VersionError),
        (HEAD.pack(EVENT, 0, 2, 1, 0) + b"st", DamageError),
        (HEAD.pack(EVENT, 0, 0, 1, 0) + b"st", DamageError),
        (HEAD.pack(EVENT, 0, 1, 1, 1) + b"st", DamageError),
        (HEAD.pack(0xE2, 0, 1, 1, 0) + b"st", DamageError),
        (HEAD.pack(EVENT, 1, 1, 1, 0) + b"st", DamageError),
    ]:
        path = f"/{key.hex()}x"
        with Wal.open(path, files=files, fsync_policy=FsyncPolicy.OS) as wal:
            wal.put(key, b"\xffvalue")
        with pytest.raises(error):
            EventStore(path, files=files, **SMALL)


def test_a_block_of_nonsense_in_a_snapshot_is_damage():
    for block in (b"x", b"\xff" * 40, b"\x01\x00" + b"\x00" * 20, os.urandom(100)):
        with pytest.raises(DamageError):
            State().load(Record(b"0", block))


def test_a_read_only_store_reads_beside_a_writer(tmp_path):
    with EventStore(tmp_path / "s", **SMALL) as store:
        store.append("s", Event("a"))
        with EventStore(tmp_path / "s", read_only=True) as reader:
            store.append("s", Event("b"))
            assert [event.type for event in reader.read("s")] == ["a", "b"]
            with pytest.raises(ReadOnlyError):
                reader.append("s", Event("c"))
            reader.sync()


def test_closing(store):
    store.append("s", Event("a"))
    assert repr(store) == "<treering.stores.events.EventStore '/events'>"
    store.close()
    store.close()
    assert store.closed
    assert "closed" in repr(store)
    for call in (
        lambda: store.append("s", Event("a")),
        lambda: store.version("s"),
        lambda: list(store.read("s")),
        store.read_all,
    ):
        with pytest.raises(ClosedError):
            call()


def test_durable_when_the_call_says_so(files):
    with EventStore("/d", files=files, fsync_policy=FsyncPolicy.OS) as store:
        store.append("s", Event("a"))
        assert store._fold.wal.durable_position == 0
        store.append("s", Event("a"), durable=True)
        assert store._fold.wal.durable_position == 2
    with EventStore("/e", files=files) as store:
        store.append("s", Event("a", id="1"))
        assert store._fold.wal.durable_position == 1
        store.append("s", Event("b"), durable=False)
        assert store._fold.wal.durable_position == 1


def test_a_repeated_append_is_durable_as_the_first_should_have_been(files):
    with EventStore("/d", files=files, fsync_policy=FsyncPolicy.OS) as store:
        store.append("s", Event("a", id="1"))
        store.append("s", Event("a", id="1"), durable=True)
        assert store._fold.wal.durable_position == 1


def test_threads_get_versions_without_holes(opened):
    stores = [opened(), opened()]
    got = []

    def work(number):
        store = stores[number % 2]
        for turn in range(60):
            while True:
                version = store.version("shared")
                try:
                    event = Event("e", [number, turn], id=f"{number}/{turn}")
                    got.append(store.append("shared", event, expected_version=version).version)
                    break
                except WrongVersionError:
                    continue
            store.append(f"own-{number}", [Event("a"), Event("b")])

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == list(range(240))
    assert [stores[0].version(f"own-{n}") for n in range(4)] == [119] * 4
    for store in stores:
        store.check()


# --- As a part of a database ---------------------------------------------------------------------


def test_a_follower_refuses_what_it_does_not_know(files, store):
    store.append("s", Event("e"))
    reader = store.read_all(types="e")
    assert next(reader).type == "e"
    with Wal.open("/events", files=files, fsync_policy=FsyncPolicy.OS) as wal:
        wal.put(b"\xe1", b"")
    with pytest.raises(VersionError):
        next(reader)
    with pytest.raises(VersionError):
        store.version("s")
