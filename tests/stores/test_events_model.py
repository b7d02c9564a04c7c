"""The event store is a list of events, whatever is done to it in whatever order, in two handles."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.crash._scale import cases
from treering import FsyncPolicy
from treering.stores.events import ANY, DuplicateEventError, Event, EventStore, WrongVersionError
from treering.testing import MemoryFiles

streams = st.sampled_from(["a", "ab", "b", "ü"])
types = st.sampled_from(["t", "u"])
batches = st.lists(
    st.tuples(types, st.integers(0, 9), st.none() | st.sampled_from("123456")),
    min_size=1,
    max_size=3,
    unique_by=lambda event: event[2] if event[2] is not None else object(),
)


def tally(view, event):
    view[event.type] = view.get(event.type, 0) + 1
    view["last"] = event.position


class Stores(RuleBasedStateMachine):
    """`log` has (stream, type, data, id) of every event, or None for another record, by position."""

    def __init__(self):
        super().__init__()
        self.files, self.log, self.snapshots = MemoryFiles(), [], {}
        self.views = []  # those made earlier, and what they have to show
        self.stores = [self.open(), self.open()]

    def open(self):
        store = EventStore(
            "/events",
            files=self.files,
            fsync_policy=FsyncPolicy.OS,
            segment_bytes_max=1024,
            checkpoint_bytes=None,
        )
        store.tally = store.projection("tally", tally)
        return store

    def of(self, stream, end=None):
        return [at for at, each in enumerate(self.log[:end]) if each and each[0] == stream]

    def known(self, stream, batch):
        """The positions of an earlier append of the batch; [] if it is new, None if it is partly
        known."""
        places = self.of(stream)
        ids = [self.log[at][3] for at in places]
        found = {at: ids.index(id) for at, (_, _, id) in enumerate(batch) if id and id in ids}
        if not found:
            return []
        first = {version - at for at, version in found.items()}
        given = sum(1 for _, _, id in batch if id)
        start = min(first)
        if len(first) > 1 or len(found) < given or start < 0 or start + len(batch) > len(places):
            return None
        return places[start : start + len(batch)]

    @rule(which=st.booleans(), stream=streams, batch=batches, off=st.sampled_from([None, 0, 0, 1]))
    def append(self, which, stream, batch, off):
        version = len(self.of(stream)) - 1
        expected = ANY if off is None else version + off
        events = [Event(kind, data, id=id) for kind, data, id in batch]
        known = self.known(stream, batch)
        try:
            result = self.stores[which].append(stream, events, expected_version=expected)
        except DuplicateEventError:
            assert known is None
        except WrongVersionError as error:
            assert known == []
            assert (error.actual, error.expected, off) == (version, expected, 1)
        else:
            if not known:
                assert known == []
                assert off != 1
                known = list(range(len(self.log), len(self.log) + len(batch)))
                self.log += [(stream, *each) for each in batch]
            assert list(result.positions) == known
            assert self.of(stream)[result.first_version] == known[0]

    @rule(which=st.booleans(), stream=streams)
    def snapshot(self, which, stream):
        version = len(self.of(stream)) - 1
        if version < 0:
            return
        at = self.stores[which].save_snapshot(stream, version, len(self.log))
        assert at == len(self.log)
        self.snapshots[stream] = (version, at, at)
        self.log.append(None)

    @rule(which=st.booleans())
    def project(self, which):
        store = self.stores[which]
        store.tally.catch_up()
        expected = {}
        for at, each in enumerate(self.log):
            if each:
                expected[each[1]] = expected.get(each[1], 0) + 1
                expected["last"] = at
        assert dict(store.tally.view) == expected

    @rule(which=st.booleans(), share=st.floats(0, 1))
    def look_back(self, which, share):
        position = round(share * len(self.log))
        self.views.append((self.stores[which].at(position=position), position))

    @rule(which=st.booleans())
    def checkpoint(self, which):
        self.stores[which].checkpoint()

    @rule(which=st.booleans())
    def reopen(self, which):
        self.stores[which].close()
        self.views = []
        self.stores[which] = self.open()

    @rule()
    def crash(self):
        files = self.files
        self.files = files.crash()
        for store in self.stores:
            store.close()
        self.views = []
        self.stores = [self.open(), self.open()]

    @invariant()
    def both_are_the_list(self):
        everything = [(at, *each) for at, each in enumerate(self.log) if each]
        for store in self.stores:
            found = [(e.position, e.stream, e.type, e.data, e.id) for e in store.read_all()]
            assert found == everything
            for stream in ("a", "ab", "b", "ü"):
                places = self.of(stream)
                assert [event.position for event in store.read(stream)] == places
                assert [event.version for event in store.read(stream)] == list(range(len(places)))
                assert store.version(stream) == len(places) - 1
                loaded = store.load_snapshot(stream)
                assert (loaded and tuple(loaded)) == self.snapshots.get(stream)
            assert store.streams() == sorted({each[1] for each in everything})
        for view, position in self.views:
            assert [e.position for e in view.read_all()] == [
                each[0] for each in everything if each[0] < position
            ]
            for stream in ("a", "b"):
                assert [e.position for e in view.read(stream)] == self.of(stream, position)
                assert view.version(stream) == len(self.of(stream, position)) - 1

    def teardown(self):
        for store in self.stores:
            store.check()
            assert store.stats()["trouble"] == []
            store.close()


TestStores = Stores.TestCase
TestStores.settings = settings(max_examples=cases(20), stateful_step_count=25, deadline=None)
