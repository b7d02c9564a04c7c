"""The document store on disks that fail and lose power."""

from __future__ import annotations

import errno
from copy import deepcopy
from typing import ClassVar

import pytest

from tests.crash._scale import cases
from tests.stores._crashing import OPTIONS, Program, failing_calls, power_cuts
from treering import FsyncPolicy
from treering.stores.documents import DocumentStore, VersionPrunedError

# The stores are Python in either build: once is enough.
pytestmark = pytest.mark.slow

IDS = ["a", "b", "ž/~", "c"]


class DocumentProgram(Program):
    """What it shows: of each document its version and content, and what an index has."""

    start: ClassVar = {}

    def opened(self, files, policy=FsyncPolicy.OS):
        store = DocumentStore("/documents", files=files, fsync_policy=policy, **OPTIONS)
        if not store.indexes():
            store.create_index("n", "/n")
            store.sync()
        return store

    def seen(self, store):
        return {each.id: (each.version, each.content) for each in store.documents()}

    def look_closer(self, store, found):
        """The index, and the versions before of one document, say the same."""
        for id, (_, document) in found.items():
            assert id in [each.id for each in store.find(n=document["n"])]
        for id, (version, _) in list(found.items())[:1]:
            for change in store.history(id)[::3]:
                if change.changes[0].op != "delete":
                    try:
                        store.get(id, version=change.version)
                    except VersionPrunedError as error:
                        assert change.version < error.oldest_version <= version

    def go_on(self, store):
        store.put("after", {"n": 1})
        store.increment("after", "/n")

    def begun(self, changes):
        """Begin with these documents, whose versions rise."""
        model = deepcopy(self.states[-1])
        for id, document in changes.items():
            if document != model.get(id, (0, None))[1]:
                model[id] = (self.last.get(id, 0) + 1, document)
                self.last[id] = model[id][0]
        self.begin(model)

    def open(self):
        super().open()
        self.last = {id: version for id, (version, _) in self.states[-1].items()} | getattr(
            self, "last", {}
        )

    def step(self, chance):
        store, rng = self.store, self.rng
        there = {id: deepcopy(document) for id, (_, document) in self.states[-1].items()}
        id, n = rng.choice(IDS), rng.randrange(1, 1000)
        durable = (rng.random() < 0.2 or None) if not self.always else None
        if chance < 0.25 or (id not in there and chance < 0.8):
            document = {"n": n, "list": [n] * rng.randrange(4), "pad": "p" * rng.choice((0, 200))}
            self.begun({id: document})
            store.put(id, document, durable=durable)
        elif chance < 0.45:
            document = {**there[id], "n": n, "new": {"x": n}}
            document.pop("pad", None)
            self.begun({id: document})
            store.update(id, lambda _: document, durable=durable)
        elif chance < 0.6:
            there[id]["list"].append(n)
            self.begun({id: there[id]})
            store.append(id, "/list", n, durable=durable)
        elif chance < 0.7:
            there[id]["n"] += 1
            self.begun({id: there[id]})
            store.increment(id, "/n", durable=durable)
        elif chance < 0.8:
            model = dict(self.states[-1])
            self.last[id] = model.pop(id)[0] + 1
            self.begin(model)
            store.delete(id, durable=durable)
        elif chance < 0.85:
            documents = {each: {"n": n, "list": []} for each in rng.sample(IDS, 3)}
            self.begun(documents)
            store.put_many(documents)
            durable = None
        elif chance < 0.95:
            store.checkpoint()
            return True
        else:
            self.reopen()
            return True
        return bool(durable) or self.always


@pytest.mark.parametrize("policy", [FsyncPolicy.OS, FsyncPolicy.ALWAYS], ids=["os", "always"])
def test_a_power_cut_after_every_operation(policy, record_property):
    record_property("counts", dict(power_cuts(DocumentProgram, policy, cases(100), steps=10)))


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_every_call_of_the_disk_fails_once(number):
    failing_calls(DocumentProgram, number, step=3 if cases(10) >= 10 else 5)
