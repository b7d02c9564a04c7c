"""The page store is a list of pages with snapshots, whatever is done to it, in two handles."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.crash._scale import cases
from tests.stores._opening import SMALL
from tests.stores._paging import BYTES
from treering.stores.pages import PageConflictError, PageStore, SnapshotTooOldError
from treering.testing import MemoryFiles

PAGES, SLOTS = 3, 3
handles, slots = st.integers(0, 1), st.integers(0, SLOTS - 1)
numbers = st.integers(0, PAGES - 1)
contents = st.sampled_from([b"", b"a" * BYTES, b"b" * BYTES]) | st.binary(max_size=40)


class Model:
    """A transaction as it should be."""

    def __init__(self, tx, pages, count, serial, serializable):
        self.tx, self.pages, self.count = tx, dict(pages), count
        self.begun, self.serializable = serial, serializable
        self.written, self.seen, self.count_seen = set(), set(), False
        self.savepoints = []

    def remember(self):
        return dict(self.pages), self.count, set(self.written)


class Stores(RuleBasedStateMachine):
    """Each handle has open transactions all the time."""

    def __init__(self):
        super().__init__()
        self.files = MemoryFiles()
        self.pages, self.count = {}, 0
        self.changed, self.counted, self.serial = {}, 0, 0
        self.start()

    def start(self):
        self.stores = [self.open(), self.open()]
        self.open_ones = [self.begin(slot, slot == 2) for slot in range(SLOTS)]

    def open(self):
        return PageStore(
            "/pages", files=self.files, page_bytes=BYTES, cache_bytes=4 * BYTES, **SMALL
        )

    def begin(self, slot, serializable):
        tx = self.stores[slot % 2].begin(serializable=serializable)
        return Model(tx, self.pages, self.count, self.serial, serializable)

    # --- in a transaction ---

    @rule(slot=slots, page=numbers)
    def read(self, slot, page):
        model = self.open_ones[slot]
        if page not in model.written:
            model.seen.add(page)
        try:
            found = model.tx.read(page)
        except SnapshotTooOldError:
            # Only what was changed since may be gone, and only another handle's checkpoint does it.
            assert self.changed[page] > model.begun
            assert self.checkpoints > 0
            return
        assert found == model.pages.get(page, bytes(BYTES))

    @rule(slot=slots)
    def look_at_the_count(self, slot):
        model = self.open_ones[slot]
        assert model.tx.page_count == model.count
        model.count_seen = True

    @rule(slot=slots, page=numbers, content=contents, start=st.integers(0, BYTES))
    def write(self, slot, page, content, start):
        start = min(start, BYTES - len(content))
        data = bytearray(self.pages.get(page, bytes(BYTES)))
        data[start : start + len(content)] = content
        self.open_ones[slot].tx.write(page, data)
        self.wrote(self.open_ones[slot], page, bytes(data))

    @rule(slot=slots)
    def allocate(self, slot):
        model = self.open_ones[slot]
        if model.count < PAGES:
            assert model.tx.allocate() == model.count
            self.wrote(model, model.count, bytes(BYTES))

    def wrote(self, model, page, data):
        model.pages[page], model.count = data, max(model.count, page + 1)
        model.written.add(page)

    @rule(slot=slots)
    def savepoint(self, slot):
        model = self.open_ones[slot]
        model.savepoints.append((model.tx.savepoint(), model.remember()))

    @rule(slot=slots, back=st.integers(0, 3))
    def roll_back_to(self, slot, back):
        model = self.open_ones[slot]
        if model.savepoints:
            back = back % len(model.savepoints)
            point, (pages, count, written) = model.savepoints[back]
            model.tx.rollback_to(point)
            model.pages, model.count, model.written = dict(pages), count, set(written)
            del model.savepoints[back + 1 :]

    # --- its end ---

    @rule(slot=slots, serializable=st.booleans())
    def roll_back(self, slot, serializable):
        self.open_ones[slot].tx.rollback()
        self.open_ones[slot] = self.begin(slot, serializable)

    @rule(slot=slots, page=numbers, serializable=st.booleans())
    def commit(self, slot, page, serializable):
        """With a change of its own at the end."""
        model = self.open_ones[slot]
        data = bytes([page]) * BYTES
        model.tx.write(page, data)
        self.wrote(model, page, data)
        guarded = model.written | (model.seen if model.serializable else set())
        late = {number for number, serial in self.changed.items() if serial > model.begun}
        conflict = bool(late & guarded) or (
            model.serializable and model.count_seen and self.counted > model.begun
        )
        try:
            model.tx.commit()
        except PageConflictError:
            assert conflict
        else:
            assert not conflict
            self.take_in(model)
        self.open_ones[slot] = self.begin(slot, serializable)

    @rule(which=handles, page=numbers, content=contents)
    def change_at_once(self, which, page, content):
        model = self.begin(which, False)
        data = content.ljust(BYTES, b"\0")
        with model.tx:
            model.tx.write(page, data)
        self.wrote(model, page, data)
        self.take_in(model)

    def take_in(self, model):
        self.serial += 1
        for page in model.written:
            self.pages[page], self.changed[page] = model.pages[page], self.serial
        count = max(self.count, max(model.written) + 1)
        if count != self.count:
            self.count, self.counted = count, self.serial

    # --- care ---

    checkpoints = 0

    @rule(which=handles)
    def checkpoint(self, which):
        self.checkpoints += 1
        self.stores[which].checkpoint()

    @rule(crash=st.booleans())
    def open_again(self, crash):
        files = self.files
        if crash:
            self.files = files.crash()
        for store in self.stores:
            store.close()
        self.start()

    @invariant()
    def both_show_what_was_committed(self):
        for store in self.stores:
            assert store.page_count == self.count
            for page in range(PAGES):
                assert store.read(page) == self.pages.get(page, bytes(BYTES))

    def teardown(self):
        for store in self.stores:
            store.check()
            assert store.stats()["trouble"] == []
            store.close()


TestStores = Stores.TestCase
TestStores.settings = settings(max_examples=cases(30), stateful_step_count=40, deadline=None)
