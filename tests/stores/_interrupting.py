"""A store's call broken off at its kth step: afterwards it happened or did not, as a whole.

A step is where Python lets a signal's handler run, and where memory may run out: a call begins, or
has just done its work.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import Counter
from collections.abc import Callable
from inspect import CO_GENERATOR

import treering
from tests.battery.interrupts import KINDS, in_a_del
from tests.stores._crashing import Program
from treering import FsyncPolicy
from treering.testing import MemoryFiles

PACKAGE = os.path.dirname(treering.__file__)
STAND_INS = os.path.join(PACKAGE, "testing")  # files in memory: no part of a program's process
STEPS = ("call", "return", "c_return")


class Breaker:
    """Raises at the kth step of treering's code that the block executes; counts them without `at`."""

    def __init__(self, at: int | None, kind: type[BaseException]) -> None:
        self.count = 0
        self._at, self._kind = at, kind

    def __enter__(self) -> Breaker:
        sys.setprofile(self._step)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _step(self, frame, event: str, arg: object) -> None:
        file = frame.f_code.co_filename
        if event not in STEPS or not file.startswith(PACKAGE) or file.startswith(STAND_INS):
            return
        at_a_yield = event != "c_return" and frame.f_code.co_flags & CO_GENERATOR
        if in_a_del(frame) or at_a_yield:
            return  # there, what is raised by a profiler gets past `with`, as nothing else does
        self.count += 1
        if self.count == self._at:
            raise self._kind


def broken_off(
    kind: type[Program],
    prepare: Callable[..., object],
    call: Callable[..., object],
    share: int,
    ready: Callable[..., object] = lambda store: None,
) -> Counter[str]:
    """Break off `call(store)` at one in `share` of its steps, on a store that `prepare` filled;
    the counts. `ready` is called on the open store before, on a handle of its own."""
    counts: Counter[str] = Counter()
    program = kind(None, None, FsyncPolicy.OS)
    length, before, after = _undisturbed(program, prepare, call, ready)
    for at in range(1 + len(call.__name__) % share, length + 1, share):
        files = MemoryFiles()
        store = _filled(program, files, prepare, ready)
        try:
            with Breaker(at, KINDS[at // share % 2]):
                call(store)
        except KINDS:
            counts["broken off"] += 1
        if store.closed:
            store = program.opened(files)
        found = program.seen(store)
        assert found in (before, after), f"step {at}: {found}"
        counts["done" if found == after else "not done"] += 1
        _use_in_another_thread(program, store)
        goes_on = program.seen(store)
        store.check()
        assert store.stats()["trouble"] == []
        with program.opened(files.crash()) as again:
            assert program.seen(again) == goes_on, f"step {at}: the log has something else"
        store.close()
    print(f"\n{kind.__name__}.{call.__name__}: {length} steps, {dict(counts)}")
    return counts


def _filled(program, files, prepare, ready):
    store = program.opened(files)
    prepare(store)
    with program.opened(files) as other:
        ready(other)
    return store


def _undisturbed(program, prepare, call, ready):
    """How many bytecodes the call has, and what the store shows before and after it."""
    files = MemoryFiles()
    store = _filled(program, files, prepare, ready)
    with Breaker(None, KeyboardInterrupt) as breaker:
        call(store)
    after = program.seen(store)
    store.close()
    with program.opened(files := MemoryFiles()) as store:
        prepare(store)
        ready(store)
        before = program.seen(store)
    return breaker.count, before, after


def _use_in_another_thread(program, store):
    """No lock may have stayed with the thread that was interrupted."""
    thread = threading.Thread(target=program.go_on, args=(store,))
    thread.start()
    thread.join(20)
    assert not thread.is_alive(), "a lock stayed behind"
