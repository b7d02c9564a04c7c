"""A store's call broken off at its kth point: afterwards it happened or did not, as a whole."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable

from tests.battery.interrupts import KINDS
from tests.stores._crashing import Program
from tests.threads.interrupts import PACKAGE, At, count
from treering import FsyncPolicy
from treering.testing import MemoryFiles


def broken_off(
    kind: type[Program],
    prepare: Callable[..., object],
    call: Callable[..., object],
    share: int,
    ready: Callable[..., object] = lambda store: None,
) -> Counter[str]:
    """Break off `call(store)` at one in `share` of its points, on a store that `prepare` filled;
    the counts. `ready` is called on the open store before, on a handle of its own."""
    counts: Counter[str] = Counter()
    share = max(1, share)  # at a large scale: every point
    program = kind(None, None, FsyncPolicy.OS)
    length, before, after = _undisturbed(program, prepare, call, ready)
    for at in range(1 + len(call.__name__) % share, length + 1, share):
        files = MemoryFiles()
        store = _filled(program, files, prepare, ready)
        try:
            with At(at, _raising(KINDS[at // share % 2]), PACKAGE):
                call(store)
        except KINDS:
            counts["broken off"] += 1
        if store.closed:
            store = program.opened(files)
        found = program.seen(store)
        assert found in (before, after), f"point {at}: {found}"
        counts["done" if found == after else "not done"] += 1
        _use_in_another_thread(program, store)
        goes_on = program.seen(store)
        store.check()
        assert store.stats()["trouble"] == []
        with program.opened(files.crash()) as again:
            assert program.seen(again) == goes_on, f"point {at}: the log has something else"
        store.close()
    print(f"\n{kind.__name__}.{call.__name__}: {length} points, {dict(counts)}")
    return counts


def _raising(kind):
    def act():
        raise kind

    return act


def _filled(program, files, prepare, ready):
    store = program.opened(files)
    prepare(store)
    with program.opened(files) as other:
        ready(other)
    return store


def _undisturbed(program, prepare, call, ready):
    """How many points the call has, and what the store shows before and after it."""
    files = MemoryFiles()
    store = _filled(program, files, prepare, ready)
    length = count(lambda: call(store), PACKAGE)
    after = program.seen(store)
    store.close()
    with program.opened(files := MemoryFiles()) as store:
        prepare(store)
        ready(store)
        before = program.seen(store)
    return length, before, after


def _use_in_another_thread(program, store):
    """No lock may have stayed with the thread that was interrupted."""
    thread = threading.Thread(target=program.go_on, args=(store,))
    thread.start()
    thread.join(20)
    assert not thread.is_alive(), "a lock stayed behind"
