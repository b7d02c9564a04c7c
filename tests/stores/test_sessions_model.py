"""The session store is a dict of sessions, whatever is done to it in whatever order, in two
handles, with clocks that jump."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.crash._scale import cases
from treering import FsyncPolicy
from treering.stores.sessions import LostUpdateError, SessionGoneError, SessionStore
from treering.testing import FakeClock, MemoryFiles

users = st.sampled_from([None, "ada", "alan", "zoë"])
picks = st.integers(0, 30)
SECOND = 1_000_000_000


class Mine:
    """What the model knows of one session."""

    def __init__(self, user, data, now, idle, ends, version=1, created=None):
        self.user, self.data, self.version = user, data, version
        self.seen, self.idle, self.ends = now, idle, ends
        self.created = now if created is None else created
        self.heir = None

    @property
    def expires(self):
        return min(self.ends, self.seen + self.idle)


class Sessions(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.files, self.clock = MemoryFiles(), FakeClock()
        self.model, self.ids, self.newest = {}, [], 0
        self.stores = [self.open(), self.open()]

    def open(self):
        return SessionStore(
            "/sessions",
            files=self.files,
            clock=self.clock,
            idle=50,
            lifetime=200,
            touch_seconds=10,
            sweep_seconds=None,
            fsync_policy=FsyncPolicy.OS,
            segment_bytes_max=2048,
            checkpoint_bytes=None,
        )

    @property
    def now(self):
        return max(self.clock(), self.newest)

    def wrote(self):
        self.newest = self.now

    def alive(self, id):
        while id is not None:
            mine = self.model.get(id)
            if mine is None or mine.expires <= self.now:
                return False
            id = mine.heir
        return True

    def to_change(self, id):
        return self.alive(id) and self.model[id].heir is None

    def pick(self, number):
        return self.ids[number % len(self.ids)] if self.ids else "x" * 43

    @rule(which=st.booleans(), user=users, n=st.integers(0, 9), idle=st.sampled_from([5, 50]))
    def create(self, which, user, n, idle):
        made = self.stores[which].create(n, user=user, idle=idle)
        assert made.id not in self.model
        now = self.now
        self.model[made.id] = Mine(user, n, now, idle * SECOND, now + 200 * SECOND)
        self.ids.append(made.id)
        self.wrote()

    @rule(
        which=st.booleans(),
        number=picks,
        n=st.integers(0, 9),
        version=st.none() | st.integers(1, 3),
    )
    def save(self, which, number, n, version):
        id = self.pick(number)
        try:
            self.stores[which].save(id, n, version=version)
        except SessionGoneError:
            assert not self.to_change(id)
        except LostUpdateError:
            assert self.model[id].version != version
        else:
            assert self.to_change(id) and version in (None, self.model[id].version)
            mine = self.model[id]
            mine.data, mine.version, mine.seen = n, mine.version + 1, self.now
            self.wrote()

    @rule(which=st.booleans(), number=picks)
    def touch(self, which, number):
        id, store = self.pick(number), self.stores[which]
        before = store.position
        assert store.touch(id) == self.alive(id)
        mine = self.model.get(id)
        due = self.to_change(id) and self.now - mine.seen >= min(10 * SECOND, mine.idle // 2)
        assert store.position - before == due
        if due:
            mine.seen = self.now
            self.wrote()

    @rule(which=st.booleans(), number=picks)
    def delete(self, which, number):
        id = self.pick(number)
        alive = self.alive(id)
        assert self.stores[which].delete(id) == alive
        if alive:
            while self.model[id].heir is not None:
                id = self.model[id].heir
            self.wrote()
            del self.model[id]

    @rule(
        which=st.booleans(),
        number=picks,
        user=st.just("same") | users,
        grace=st.sampled_from([0, 7]),
    )
    def rotate(self, which, number, user, grace):
        id = self.pick(number)
        given = {} if user == "same" else {"user": user}
        if not self.to_change(id):
            try:
                self.stores[which].rotate(id, grace=grace, **given)
            except SessionGoneError:
                return
            raise AssertionError("rotated what is over")
        made = self.stores[which].rotate(id, grace=grace, **given)
        old, now = self.model[id], self.now
        created, ends = (now, now + 200 * SECOND) if given else (old.created, old.ends)
        mine = Mine(
            given.get("user", old.user), old.data, now, old.idle, ends, old.version + 1, created
        )
        self.model[made.id] = mine
        self.ids.append(made.id)
        if grace:
            old.ends, old.heir = min(old.ends, now + grace * SECOND), made.id
        else:
            del self.model[id]
        self.wrote()

    @rule(
        which=st.booleans(), user=st.sampled_from(["ada", "alan"]), number=picks, keep=st.booleans()
    )
    def logout_everywhere(self, which, user, number, keep):
        stays = self.pick(number) if keep else None
        count = self.stores[which].logout_everywhere(user, but=stays)
        if stays is not None and self.alive(stays):
            while self.model[stays].heir is not None:
                stays = self.model[stays].heir
        else:
            stays = None
        theirs = [id for id, mine in self.model.items() if mine.user == user and id != stays]
        assert count == sum(self.to_change(id) for id in theirs)
        if any(self.alive(id) for id in theirs):
            self.wrote()
            for id in theirs:
                del self.model[id]

    @rule(seconds=st.sampled_from([1, 4, 11, 60]))
    def time_passes(self, seconds):
        self.clock.advance(seconds)

    @rule(seconds=st.sampled_from([-1000, -30, 30]))
    def the_clock_jumps(self, seconds):
        self.clock.jump(seconds)

    @rule(which=st.booleans())
    def purge(self, which):
        over = any(mine.expires <= self.now for mine in self.model.values())
        self.stores[which].purge()
        if over:
            self.wrote_if_over()

    def wrote_if_over(self):
        """What is over in memory leads to a record of the time; what was dropped before does not.
        Either way the log's time is the newest record's."""
        self.newest = max(self.newest, *(store._fold.state().newest_ns for store in self.stores))

    @rule(which=st.booleans())
    def sweep(self, which):
        self.stores[which]._sweep()
        self.wrote_if_over()

    @rule(which=st.booleans())
    def checkpoint(self, which):
        self.stores[which].checkpoint()

    @rule(which=st.booleans())
    def reopen(self, which):
        self.stores[which].close()
        self.stores[which] = self.open()

    @precondition(lambda self: self.ids)
    @rule()
    def crash(self):
        files, self.files = self.files, self.files.crash()
        for store in self.stores:
            store.close()
        self.stores = [self.open(), self.open()]
        assert files is not self.files

    @invariant()
    def both_are_the_model(self):
        for store in self.stores:
            for id in self.ids[-12:]:
                found = store.load(id)
                assert (found is not None) == self.alive(id)
                if found is not None:
                    mine = self.model[id]
                    said = (
                        found.user,
                        found.data,
                        found.version,
                        found.expires_at,
                        found.created_at,
                    )
                    assert said == (
                        mine.user, mine.data, mine.version, mine.expires / SECOND, mine.created / SECOND
                    )  # fmt: skip
            current = [id for id in self.model if self.to_change(id)]
            assert len(store) == len(current)
            for user in ("ada", "alan"):
                mine = [id for id in current if self.model[id].user == user]
                assert store.count(user) == len(mine)

    def teardown(self):
        for store in self.stores:
            store.check()
            assert store.stats()["trouble"] == []
            store.close()


TestSessions = Sessions.TestCase
TestSessions.settings = settings(max_examples=cases(25), stateful_step_count=30, deadline=None)
