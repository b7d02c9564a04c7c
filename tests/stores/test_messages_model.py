"""The message log is lists of messages, whatever is done to it in whatever order, in two handles."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.crash._scale import cases
from treering import ConflictError, FsyncPolicy, PrunedError
from treering.stores.messages import LeaseLostError, MessageLog
from treering.testing import FakeClock, MemoryFiles

TOPICS = ["a", "b", "table"]
topics = st.sampled_from(TOPICS)
keys = st.sampled_from([b"", b"k", b"l", b"m"])
values = st.none() | st.sampled_from([b"", b"1", b"x" * 300])
which = st.booleans()
LEASE = 10


class Logs(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.files, self.clock = MemoryFiles(), FakeClock(1_000_000_000_000_000)
        self.end = 0
        self.messages = {name: [] for name in TOPICS}  # (position, key, value, time)
        self.gone = dict.fromkeys(TOPICS, 0)
        self.committed, self.consumers = {}, {}
        self.state, self.held = {}, []  # of the group: by position, "done" or (lease, expires, n)
        self.frontier = self.missed = 0
        self.rules = {name: {} for name in TOPICS}
        self.logs = [self.open(), self.open()]
        self.logs[0].set_retention("table", compact=True)
        self.rules["table"] = {"compact": True}
        self.logs[0].group("g", "a", lease=LEASE)
        self.tell()

    def open(self):
        return MessageLog(
            "/log",
            files=self.files,
            clock=self.clock,
            fsync_policy=FsyncPolicy.OS,
            segment_bytes_max=1024,
            checkpoint_bytes=None,
        )

    def tell(self):
        """The log's end is nobody's business but the log's."""
        self.end = self.logs[0].position

    def add(self, topic, position, key, value):
        if topic == "table":
            self.messages[topic] = [m for m in self.messages[topic] if m[1] != key]
        self.messages[topic].append((position, key, value, self.clock()))

    @rule(which=which, topic=topics, key=keys, value=values)
    def publish(self, which, topic, key, value):
        key = key or (b"" if topic == "table" else None)
        position = self.logs[which].publish(topic, value, key)
        assert position == self.end
        self.add(topic, position, key, value)
        self.tell()

    @rule(which=which, topic=topics, many=st.lists(st.tuples(keys, values), max_size=6))
    def publish_many(self, which, topic, many):
        positions = self.logs[which].publish_many(topic, many)
        assert list(positions) == list(range(self.end, self.end + len(many)))
        for position, (key, value) in zip(positions, many, strict=True):
            self.add(topic, position, key, value)
        self.tell()

    @rule(which=which, topic=topics, offset=st.integers(-2, 60), near=st.booleans())
    def consume(self, which, topic, offset, near):
        start = max(0, self.gone[topic] * near + offset)
        if start < self.gone[topic]:
            with pytest.raises(PrunedError):
                self.logs[which].consume_from(topic, start)
        else:
            found = [m.position for m in self.logs[which].consume_from(topic, start)]
            assert found == [m[0] for m in self.messages[topic] if m[0] >= start]

    @rule(which=which, topic=topics)
    def consumer(self, which, topic):
        begin = max([self.gone[topic], *(m[0] for m in self.messages[topic][:1])])
        consumer = self.logs[which].consumer("c", topic)
        self.consumers[which, topic] = [consumer, topic not in self.committed]
        if topic not in self.committed:
            assert consumer.committed >= begin
            self.committed[topic] = consumer.committed
        self.consumers[which, topic][1] = True  # it knows the newest commit
        self.tell()

    @rule(which=which, topic=topics, most=st.integers(1, 5), batch=st.booleans())
    def poll_and_commit(self, which, topic, most, batch):
        """Exactly once: the message about it is there if, and only if, it was committed."""
        if (which, topic) not in self.consumers:
            return
        consumer, known = self.consumers[which, topic]
        try:
            found = consumer.poll(most)
        except PrunedError as error:
            consumer.seek(error.oldest)
            return
        before, position = self.committed[topic], consumer.position
        log = self.logs[which]
        try:
            if batch:
                with log.batch() as writing:
                    writing.publish("b", b"did %d" % len(found))
                    writing.commit(consumer)
                self.add("b", log.position - 1, None, b"did %d" % len(found))
            else:
                consumer.commit()
        except ConflictError:
            assert not known
            consumer.resume()
            self.consumers[which, topic][1] = True
            assert consumer.position == before
        else:
            assert known
            self.committed[topic] = position
            if batch or position != before:
                other = self.consumers.get((not which, topic))
                if other:
                    other[1] = False
        self.tell()

    @rule(which=which, most=st.integers(1, 4))
    def get(self, which, most):
        group = self.logs[which].group("g", "a", lease=LEASE)
        if self.missed:
            with pytest.raises(PrunedError):
                group.get(most)
            group.skip_removed()
            self.frontier, self.missed = max(self.frontier, self.missed), 0
        now = self.clock()
        over = sorted(p for p, s in self.state.items() if s != "done" and s[1] <= now)
        new = [m[0] for m in self.messages["a"] if m[0] >= self.frontier]
        wanted = (over + new)[:most]
        found = group.get(most)
        assert [d.position for d in found] == wanted
        for delivery in found:
            before = self.state.get(delivery.position, (0, 0, 0))
            assert before != "done", "an acknowledged message came again"
            assert delivery.deliveries == before[2] + 1
            expires = now + LEASE * 1_000_000_000
            self.state[delivery.position] = (delivery.lease, expires, before[2] + 1)
            self.frontier = max(self.frontier, delivery.position + 1)
            self.held.append(delivery)
        self.tell()

    @rule(which=which, number=st.integers(0, 20), how=st.sampled_from(["ack", "nack", "extend"]))
    def tell_of(self, which, number, how):
        if not self.held:
            return
        delivery = self.held[number % len(self.held)]
        group = self.logs[which].group("g", "a", lease=LEASE)
        state = self.state.get(delivery.position, "done")
        if state == "done" or state[0] != delivery.lease:
            with pytest.raises(LeaseLostError):
                getattr(group, how)(delivery)
            return
        version = self.end
        getattr(group, how)(delivery)
        if how == "ack":
            self.state[delivery.position] = "done"
        elif how == "nack":
            self.state[delivery.position] = (version, self.clock(), state[2])
        else:
            later = self.clock() + LEASE * 1_000_000_000
            self.state[delivery.position] = (state[0], later, state[2])
        self.tell()

    @rule(seconds=st.sampled_from([1, 5, 20]))
    def advance(self, seconds):
        self.clock.advance(seconds)

    @rule(
        which=which,
        topic=topics,
        seconds=st.none() | st.sampled_from([3, 30]),
        size=st.none() | st.sampled_from([5, 400]),
        consumed=st.booleans(),
    )
    def set_retention(self, which, topic, seconds, size, consumed):
        rules = {"seconds": seconds, "bytes": size, "consumed": consumed}
        rules["compact"] = topic == "table"
        self.logs[which].set_retention(topic, **rules)
        self.rules[topic] = rules
        self.tell()

    def bound(self, topic):
        """From where on every rule keeps messages."""
        rules, messages, found = self.rules[topic], self.messages[topic], [0]
        past = messages[-1][0] + 1 if messages else 0
        if rules.get("seconds"):
            since = self.clock() - rules["seconds"] * 1_000_000_000
            found.append(next((m[0] for m in messages if m[3] >= since), past))
        if rules.get("bytes"):
            left, place = rules["bytes"], past
            for position, key, value, _ in reversed(messages):
                left -= len(key or b"") + len(value or b"")
                if left < 0:
                    break
                place = position
            found.append(place)
        if rules.get("consumed"):
            floors = [self.committed[topic]] if topic in self.committed else []
            if topic == "a":
                open_ = [p for p, s in self.state.items() if s != "done"]
                floors.append(min(open_, default=self.frontier))
            found.append(min(floors, default=0))
        return max(found)

    def retain(self):
        for topic in TOPICS:
            bound = self.bound(topic)
            removed = [m[0] for m in self.messages[topic] if m[0] < bound]
            if not removed:
                continue
            self.messages[topic] = [m for m in self.messages[topic] if m[0] >= bound]
            self.gone[topic] = removed[-1] + 1
            if topic == "a":
                lost = [p for p, s in self.state.items() if s != "done" and p in removed]
                for position in lost:
                    self.state[position] = "done"
                if lost or self.frontier < self.gone["a"]:
                    self.missed = self.gone["a"]

    @rule(which=which, checkpoint=st.booleans())
    def apply_retention(self, which, checkpoint):
        if checkpoint:
            self.logs[which].checkpoint()
        else:
            self.logs[which].apply_retention()
        self.retain()
        self.tell()

    @rule(which=which)
    def reopen(self, which):
        self.logs[which].close()
        self.logs[which] = self.open()
        self.forget(which)

    @rule()
    def crash(self):
        files, self.files = self.files, None
        self.files = files.crash()
        for log in self.logs:
            log.close()
        self.logs = [self.open(), self.open()]
        self.forget(False)
        self.forget(True)

    def forget(self, which):
        self.consumers = {k: v for k, v in self.consumers.items() if k[0] != which}

    @invariant()
    def both_are_the_lists(self):
        for log in self.logs:
            for topic in TOPICS:
                wanted = self.messages[topic]
                found = [(m.position, m.key, m.value) for m in log.consume_from(topic)]
                assert found == [m[:3] for m in wanted]
                assert log.count(topic) == len(wanted)
                if self.gone[topic]:
                    with pytest.raises(PrunedError):
                        log.consume_from(topic, self.gone[topic] - 1)
                assert log.consumers(topic) == (
                    {"c": self.committed[topic]} if topic in self.committed else {}
                )

    def teardown(self):
        for log in self.logs:
            log.check()
            assert log.stats()["trouble"] == []
            log.close()


TestLogs = Logs.TestCase
TestLogs.settings = settings(max_examples=cases(50), stateful_step_count=40, deadline=None)
