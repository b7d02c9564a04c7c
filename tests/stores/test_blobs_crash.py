"""The blob store on disks that fail and lose power, and its calls broken off: a reference that is in
the log has its whole file, always."""

from __future__ import annotations

import errno
import random
from typing import ClassVar

import pytest

from tests.battery.harness import repeatable
from tests.battery.powercut import QUIET
from tests.crash._scale import SHARE, cases
from tests.stores._crashing import OPTIONS, Program, failing_calls, power_cuts
from tests.stores._interrupting import broken_off
from treering import FsyncPolicy
from treering.stores.blobs import BlobStore
from treering.testing import PowerCutFiles

# The stores are Python in either build: once is enough.
pytestmark = pytest.mark.slow

CONTENTS = [b"%d" % n * size for n, size in enumerate((1, 0, 30, 700, 3000))]
NAMES = ["a", "b", "c"]


class BlobProgram(Program):
    """A state is what each name stands for, and what is held; in full, so that to see one is to read
    every blob."""

    start: ClassVar = ({}, frozenset())
    images_each = 3  # a file may survive its reference, and a reference must not survive its file

    def opened(self, files, policy=FsyncPolicy.OS):
        return BlobStore("/blobs", files=files, fsync_policy=policy, **OPTIONS)

    def seen(self, store):
        names = {name: store.get(ref) for name, ref in store.names().items()}
        held = frozenset(store.get(ref) for ref in store.refs() if store.info(ref).held)
        assert {store.get(ref) for ref in store.refs()} == {*names.values(), *held}
        return names, held

    def go_on(self, store):
        store.put(CONTENTS[2], name="after")
        store.put(CONTENTS[3])

    def look_closer(self, store, found):
        """What no reference keeps goes, and nothing else."""
        store.collect(grace_seconds=0)
        assert store.verify().orphaned == []
        assert self.seen(store) == found
        folder = "/blobs/incoming/"
        assert [p for p in store._incoming._files.contents() if p.startswith(folder)] == []

    def step(self, chance):
        store, rng = self.store, self.rng
        names, held = dict(self.states[-1][0]), set(self.states[-1][1])
        data, name = rng.choice(CONTENTS), rng.choice(NAMES)
        durable = rng.random() < 0.2 or self.always
        if chance < 0.35:
            names[name] = data
            self.begin((names, frozenset(held)))
            if rng.random() < 0.5:
                store.put(data, name=name, durable=durable)
            else:
                with store.writer(name=name, durable=durable) as writer:
                    writer.write(data)
        elif chance < 0.45:
            self.begin((names, frozenset({*held, data})))
            store.put(iter([data]), durable=durable)
        elif chance < 0.6 and names:
            gone = rng.choice(sorted(names))
            del names[gone]
            self.begin((names, frozenset(held)))
            store.unlink(gone, durable=durable)
        elif chance < 0.7 and held - set(names.values()):
            gone = rng.choice(sorted(held - set(names.values())))
            self.begin((names, frozenset(held - {gone})))
            ref = next(ref for ref in store.refs() if store.get(ref) == gone)
            store.delete(ref, durable=durable)
        elif chance < 0.88:
            store.collect(grace_seconds=0)
            return self.always
        elif chance < 0.95:
            store.checkpoint()
            return True
        else:
            self.reopen()
            return True
        return durable


@pytest.mark.parametrize("policy", [FsyncPolicy.OS, FsyncPolicy.ALWAYS], ids=["os", "always"])
def test_a_power_cut_after_every_operation(policy, record_property):
    record_property("counts", dict(power_cuts(BlobProgram, policy, cases(250), steps=8)))


@pytest.mark.parametrize("survivor", ["log", "files"])
def test_only_the_log_or_only_the_files_survive_at_every_moment(survivor):
    """The two extremes of disorder: all that was written to one of them is lost, to the other kept."""
    files = PowerCutFiles()
    keeps_log, images = survivor == "log", []

    def look(name, path):
        if name not in QUIET:
            image = files.cut(lambda thing: ("/log/" in thing.path) == keeps_log)
            images.append((f"{len(images)}: {name} {path}", image))

    program = BlobProgram(files, random.Random(9), FsyncPolicy.OS)
    with repeatable(program.rng), program.opened(files) as store:
        store.put(CONTENTS[3], name="a", durable=True)
        files.on_operation = look
        ref = store.put(CONTENTS[4])
        store.link("b", ref)
        store.unlink("a")
        store.collect(grace_seconds=0)
        store.unlink("b")
        store.delete(ref)
        store.put(CONTENTS[4], name="c")
        store.unlink("c")
        store.collect(grace_seconds=0)
        files.on_operation = None
    for what, image in images:
        with program.opened(image) as store:
            found = program.seen(store)  # which reads every blob
            store.check()
            assert store.stats()["trouble"] == [], what
            program.look_closer(store, found)
    assert len(images) > 5


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_every_call_of_the_disk_fails_once(number):
    failing_calls(BlobProgram, number, step=max(1, round(5 / SHARE)))


def some_blobs(store):
    store.put(b"named", name="n")
    store.put(b"held")
    store.delete(store.put(b"unwanted"))


def put(store):
    store.put(b"new" * 100)


def put_again(store):
    store.put(b"named", name="m")


def put_in_another_ones_place(store):
    with store.writer(name="n") as writer:
        writer.write(b"other")


def link(store):
    store.link("m", store.refs()[0])


def unlink(store):
    store.unlink("n")


def collect(store):
    store.collect(grace_seconds=0)


def checkpoint(store):
    store.checkpoint()


@pytest.mark.parametrize(
    "call", [put, put_again, put_in_another_ones_place, link, unlink, collect, checkpoint]
)
def test_a_call_that_is_broken_off(call):
    share = {checkpoint: 40, collect: 9, link: 8, unlink: 8}.get(call, 30)
    counts = broken_off(BlobProgram, some_blobs, call, max(1, round(share / SHARE)))
    assert counts["broken off"] >= 5
