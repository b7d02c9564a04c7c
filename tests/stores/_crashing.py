"""A store on disks that fail and lose power, through its own calls.

What a call reported as durable is there after the cut; what no call had begun is not; a call that
was under way happened or did not, as a whole.
"""

from __future__ import annotations

import contextlib
import itertools
import random
from collections import Counter

from tests.battery.harness import abandon, repeatable
from tests.battery.powercut import QUIET
from treering import FailedError, FsyncPolicy, TreeringError
from treering.testing import FaultyFiles, MemoryFiles, PowerCutFiles

OPTIONS = {"segment_bytes_max": 2048, "checkpoint_bytes": None}


class Program:
    """A random program on a store, and the states that a crash may leave: `states` since the one
    that is known to be durable, the newest last. Each kind of store has a subclass."""

    start: object = None
    # Of the newest states, how many a call that fails may leave.
    left = 2
    # Of each moment at most so many images: all is lost, all is kept, then samples between.
    images_each = 2

    def __init__(self, files, rng, policy):
        self.files, self.rng, self.policy = files, rng, policy
        self.states = [self.start]
        self.store = None

    def opened(self, files, policy=FsyncPolicy.OS):
        """The store on these files."""
        raise NotImplementedError

    def seen(self, store):
        """All that the store shows, in a form that compares."""
        raise NotImplementedError

    def step(self, chance):
        """One call: what it will show is `begin`ned first; whether it is durable at return."""
        raise NotImplementedError

    def go_on(self, store):
        """Something that a program does after a restart."""
        raise NotImplementedError

    def begin(self, state):
        self.states.append(state)

    def durable(self):
        del self.states[:-1]

    @property
    def always(self):
        return self.policy == FsyncPolicy.ALWAYS

    def open(self):
        """Open the store, and what the program has besides."""
        self.store = self.opened(self.files, self.policy)

    def abandon(self):
        """Leave the store as a killed process does."""
        abandon(self.store._fold.wal)

    def look_closer(self, store, found):
        """What else has to hold of a store that shows `found`."""

    def run(self, steps):
        self.open()
        for _ in range(steps):
            if self.step(self.rng.random()):
                self.durable()
            assert self.seen(self.store) == self.states[-1]
        self.store.close()
        self.durable()

    def reopen(self):
        self.store.close()
        self.durable()
        self.open()

    def after(self, image):
        """What a restart shows, and shows again after one more checkpoint."""
        with self.opened(image) as store:
            found = self.seen(store)
            self.look_closer(store, found)
            trouble = store.stats()["trouble"]
            store.check()
            self.go_on(store)
            store.checkpoint()
            later = self.seen(store)
        with self.opened(image) as store:
            assert self.seen(store) == later
            self.look_closer(store, later)
            store.check()
        assert trouble == [], "an ordinary crash looks like damage"
        return found


def _is_checkpoint(path: str) -> bool:
    """Whether it is a snapshot, other than the mark that a new store gets."""
    return path.endswith(".snap") and not path.endswith(f"{0:020}.snap")


def power_cuts(
    kind: type[Program], policy, count: int, steps: int = 18, stride: int = 1
) -> Counter[str]:
    """Cut the power after every operation of random programs, or one in `stride`; `count` images in
    all, at most `images_each` of one moment. The counts."""
    counts: Counter[str] = Counter()
    while counts["images"] < count or counts["runs"] < 2:
        files = PowerCutFiles()
        program = kind(files, random.Random(f"{kind.__name__} {policy} {counts['runs']}"), policy)
        shots, moments = [], itertools.count(counts["runs"])

        def look(name, path, shots=shots, program=program, files=files, moments=moments):
            if name not in QUIET and next(moments) % stride == 0:
                # Not random bytes in place of what was lost: where a durable frame ends in zeros at
                # the beginning of a sector, the simulated disk takes that sector for unwritten.
                images = files.images(program.images_each, len(shots), lost="zeros")
                shots.append((f"{name} {path}", list(program.states), images))

        files.on_operation = look
        files.during_sync = lambda path, look=look: look("during sync", path)
        with repeatable(program.rng):
            program.run(steps)
        files.on_operation = files.during_sync = None
        for number, (what, allowed, images) in enumerate(shots):
            for image in images:
                counts["snapshots"] += any(map(_is_checkpoint, image.contents()))
                found = program.after(image)
                where = f"run {counts['runs']}, moment {number}, {what}"
                assert found in allowed, f"{where}: {found}, not one of {allowed}"
                counts["images"] += 1
        counts["moments"] += len(shots)
        counts["runs"] += 1
    print(f"\n{kind.__name__}, {policy}: {dict(counts)}")
    assert counts["snapshots"]
    return counts


def failing_calls(kind: type[Program], number: int, step: int = 1, steps: int = 30) -> Counter[str]:
    """Each call of the disk that modifies fails once, in turn; the store then shows what had been
    acknowledged, at most with the one call under way. The counts."""
    counts: Counter[str] = Counter()
    for nth in range(1, 600, step):
        memory = MemoryFiles()
        files = FaultyFiles(memory)
        program = kind(files, random.Random(5), FsyncPolicy.OS)
        fault = files.fail(lambda call: call.modifies, number=number, nth=nth)
        try:
            with repeatable(program.rng):
                program.run(steps)
        except TreeringError as error:
            counts[type(error).__name__] += 1
            _live_on(program, error)
        files.heal()
        if not fault.hits:
            break
        found = program.after(memory.crash())
        # All that was written survives the process; the call that failed may have got through.
        assert found in program.states[-program.left :], (
            f"call {nth}: {found}, not {program.states[-program.left :]}"
        )
        counts["calls"] += 1
    print(f"\n{kind.__name__}, errno {number}: {dict(counts)}")
    assert counts["calls"] > 10
    return counts


def _live_on(program: Program, error: TreeringError) -> None:
    """What a program does that goes on after the error."""
    store = program.store
    if store is None or store.closed:
        return
    with contextlib.suppress(TreeringError):
        assert program.seen(store) in program.states[-program.left :]
        if not isinstance(error, FailedError):
            assert (
                store.stats()["trouble"] == []
                or program.seen(store) in program.states[-program.left :]
            )
    program.abandon()
