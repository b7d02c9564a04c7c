"""Programs that fork while they use a log; each runs in an interpreter of its own."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from random import Random

from tests.processes.records import Witness, Words, hammer, make
from treering import ClosedError, ForkedError, FsyncPolicy, TreeringError, Wal
from treering.testing import FaultyFiles

PATIENCE_SECONDS = 30.0
CHILD_WRITERS_FROM = 100


def open_log(log, policy="batch", **options) -> Wal:
    options.setdefault("segment_bytes_max", 64 << 10)
    return Wal.open(log, fsync_policy=FsyncPolicy.parse(policy), **options)


def child(action, *arguments, normal_exit=False) -> int:
    """Fork; the child does the action and exits, all the way through the interpreter's end or at
    once. Its pid."""
    pid = os.fork()
    if pid:
        return pid
    try:
        action(*arguments)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    if normal_exit:
        sys.exit(0)  # runs what the interpreter runs at its end
    os._exit(0)


def wait_for(pids) -> None:
    """Every child ends well, and in time: one that hangs was forked at the wrong moment."""
    until = time.monotonic() + PATIENCE_SECONDS
    for pid in pids:
        while True:
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                assert status == 0, f"child {pid}: {os.waitstatus_to_exitcode(status)}"
                break
            if time.monotonic() > until:
                os.kill(pid, signal.SIGABRT)  # shows where it hangs
                time.sleep(1)
                raise AssertionError(f"child {pid} hangs")
            time.sleep(0.001)


class Crowd:
    """Threads that append, read and sync while the main thread forks."""

    def __init__(self, wal: Wal, words: Words, writers: int) -> None:
        self.wal = wal
        self.stopping = threading.Event()
        self.problems: list[str] = []
        self.threads = [
            threading.Thread(target=self._guard, args=(self._write, words, writer))
            for writer in range(writers)
        ]
        self.threads += [
            threading.Thread(target=self._guard, args=(action,))
            for action in (self._read, self._sync)
        ]
        for thread in self.threads:
            thread.start()

    def _guard(self, action, *arguments) -> None:
        try:
            action(*arguments)
        except BaseException:
            self.problems.append(traceback.format_exc())

    def _write(self, words, writer) -> None:
        begun = 0
        while not self.stopping.is_set():
            hammer(self.wal, words, writer, Random(writer), count=20, start=begun)
            begun += 20
            time.sleep(0.001)

    def _read(self) -> None:
        while not self.stopping.is_set():
            end = self.wal.current_position()
            if end:
                self.wal.read(end // 2)
                next(self.wal.read_backwards())
            time.sleep(0.0005)

    def _sync(self) -> None:
        while not self.stopping.is_set():
            self.wal.sync()
            self.wal.pin("crowd", 0)

    def stop(self) -> None:
        self.stopping.set()
        for thread in self.threads:
            thread.join()
        assert not self.problems, "\n".join(self.problems)


def use(wal: Wal, words: Words, writer: int, reader) -> None:
    """What a child does with the handle it inherited."""
    words[2 * writer] = 2
    wal.put(*make(writer, 0))
    words[2 * writer + 1] = 1
    position = wal.put(*make(writer, 1), durable=writer % 2 == 0)
    words[2 * writer + 1] = 2
    assert wal.read(position).key == b"%d" % writer
    assert wal.durable_position > position or writer % 2
    first = next(wal.read_from(0))
    assert first.position == 0
    try:
        assert next(reader).position == 1  # an inherited reader goes on where it was, …
    except ClosedError:
        pass  # … or says that it belongs to the parent


def fork_in_a_crowd(log, words, forks, writers=2, **options):
    """Fork while other threads append, read, roll and sync; each child uses the handle, and every
    fifth has a child that does so too."""
    counters = Words(words)
    wal = open_log(log, **options)
    wal.put(*make(99, 0))
    wal.put(*make(99, 1))
    counters[2 * 99] = counters[2 * 99 + 1] = 2
    reader = wal.read_from(0)
    assert next(reader).position == 0
    crowd = Crowd(wal, counters, writers)
    pids = []
    used = []

    def family(writer):
        use(wal, counters, writer, reader)
        wait_for([child(use, wal, counters, writer + 1, reader)])
        wal.close()

    for number in range(forks):
        writer = CHILD_WRITERS_FROM + 2 * number
        action = (family, writer) if number % 5 == 0 else (use, wal, counters, writer, reader)
        used += [writer, writer + 1] if number % 5 == 0 else [writer]
        pids.append(child(*action, normal_exit=number % 2 == 1))
        if len(pids) == 8:
            wait_for(pids)
            pids.clear()
    wait_for(pids)
    crowd.stop()
    assert next(reader).position == 1
    witness = Witness().see_all(wal)
    witness.has_all(counters, [*range(writers), *used])
    for writer in used:
        assert witness.next[writer] == 2
    wal.close()
    return {"records": witness.position, "children": len(used)}


def fork_exclusive(log, words, forks):
    """Children of an exclusive handle are refused, and take nothing away from the parent."""
    counters = Words(words)
    wal = open_log(log, exclusive=True)
    crowd = Crowd(wal, counters, 2)

    def refused():
        for call in (lambda: wal.put(b"k", b"v"), wal.sync, wal.current_position, wal.check):
            try:
                call()
            except ForkedError:
                continue
            raise AssertionError("an exclusive handle works in two processes")
        wal.close()

    for number in range(0, forks, 4):
        wait_for(child(refused, normal_exit=n % 2 == 0) for n in range(number, number + 4))
    crowd.stop()
    witness = Witness().see_all(wal)
    witness.has_all(counters, range(2))
    # The children have gone, and the parent's lock is still there.
    says = os.popen(
        f'{sys.executable} -m tests.processes.workers run refusal \'{{"log": "{log}"}}\''
    )
    assert "LockedError" in says.read()
    assert says.close() is None
    wal.close()
    return witness.position


_pool_wal: Wal | None = None


def _append_in_pool(sequence: int) -> int:
    assert _pool_wal is not None
    return _pool_wal.put(b"pool", b"%d" % sequence)


def fork_a_pool(log, count):
    """multiprocessing's fork pool, on a handle that the parent goes on using."""
    global _pool_wal
    _pool_wal = wal = open_log(log)
    with multiprocessing.get_context("fork").Pool(4) as pool:
        pending = pool.map_async(_append_in_pool, range(count), chunksize=7)
        own = {wal.put(b"own", b"%d" % n) for n in range(count)}
        positions = set(pending.get(PATIENCE_SECONDS))
        pool.close()
        pool.join()
    assert not own & positions
    assert own | positions == set(range(2 * count))
    records = list(wal.read_from(0))
    pooled = {record.value for record in records if record.key == b"pool"}
    assert pooled == {b"%d" % n for n in range(count)}
    assert len(records) == 2 * count
    wal.close()


def _stack(frame):
    while frame is not None:
        yield frame.f_code.co_filename
        frame = frame.f_back


def fork_in_a_handler(log, words, forks, seed, exclusive=False):
    """A signal handler forks in the middle of appends. The child either leaves at once, or returns
    into the interrupted append (which is the parent's, and fails in the child) and then appends
    something of its own. Not into a step from one system call to the next: that one would still
    be done."""
    counters = Words(words)
    wal = open_log(log, policy="os", segment_bytes_max=16 << 10, exclusive=exclusive)
    rng = Random(seed)
    state = {"forks": 0, "child": 0, "inside": False, "forking": False, "pids": []}

    def handler(number, frame):
        if not state["inside"] or state["child"] or state["forking"] or len(state["pids"]) >= 4:
            return
        state["forking"] = True
        writer = CHILD_WRITERS_FROM + state["forks"]
        state["forks"] += 1
        in_the_door = any(name.endswith("files.py") for name in _stack(frame))
        kind = "leave" if in_the_door else rng.choice(("leave", "stay", "stay late"))
        pid = os.fork()
        state["forking"] = False
        if pid:
            state["pids"].append(pid)
            return
        if kind == "leave":
            os._exit(0)
        state["child"] = writer
        if kind == "stay late":
            time.sleep(rng.random() * 0.01)

    signal.signal(signal.SIGALRM, handler)
    sequence = 0
    signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
    while state["forks"] < forks:
        length = rng.choice((8, 60, 3000))
        counters[2 * 50] = sequence + 1
        record = make(50, sequence, length=length)
        try:
            # Nothing between the two interrupts: the handler forks within the call or after it.
            state["inside"] = True
            wal.put(*record)
        except (TreeringError, ValueError):  # ValueError: a memory that is no longer there
            if not state["child"]:
                raise
        state["inside"] = False
        if state["child"]:
            break
        sequence += 1
        counters[2 * 50 + 1] = sequence
        with contextlib.suppress(ChildProcessError):  # a child, forked just here
            for pid in list(state["pids"]):
                found, status = os.waitpid(pid, os.WNOHANG)
                assert status == 0, f"child {pid}: {os.waitstatus_to_exitcode(status)}"
                if found:
                    state["pids"].remove(pid)
    signal.setitimer(signal.ITIMER_REAL, 0)
    if state["child"]:
        _own_record(wal, counters, state["child"], exclusive)
    wait_for(state["pids"])
    witness = Witness().see_all(wal)
    witness.has_all(counters, [50, *range(CHILD_WRITERS_FROM, CHILD_WRITERS_FROM + forks)])
    wal.close()
    with open_log(log, create=False) as wal:
        assert wal.recovery.damage == ()
        assert Witness().see_all(wal).digest == witness.digest
    return {"forks": state["forks"], "records": witness.position}


def _own_record(wal, counters, writer, exclusive) -> None:
    """In a child that came back from the handler."""
    code = 1
    try:
        counters[2 * writer] = 1
        wal.put(*make(writer, 0))
        counters[2 * writer + 1] = 1
        code = 0
    except ForkedError:
        code = 0 if exclusive else 2
    except BaseException:
        traceback.print_exc()
    os._exit(code)


def fork_while_opening(log, forks, folder):
    """Fork while another thread opens and closes logs: a child that lives on must not keep the
    locks of a handle that was in the making."""
    stopping = threading.Event()
    problems = []

    def open_and_close():
        try:
            while not stopping.is_set():
                open_log(log).close()
        except BaseException:
            problems.append(traceback.format_exc())

    thread = threading.Thread(target=open_and_close)
    thread.start()
    gate_read, gate_write = os.pipe()

    def linger():
        os.close(gate_write)
        os.read(gate_read, 1)  # until the parent has closed its end

    pids = [child(linger) for _ in range(forks)]
    stopping.set()
    thread.join()
    assert not problems, problems[0]
    with open_log(log, exclusive=True, lock_timeout_seconds=2):
        pass
    os.close(gate_write)
    wait_for(pids)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def _within(step, beside, *, normal_exit=True) -> None:
    """Fork while another thread is held up inside `step`; the child does `beside`."""
    files, inside, go_on = FaultyFiles(), threading.Event(), threading.Event()

    def stall():
        inside.set()
        go_on.wait(2 * PATIENCE_SECONDS)

    thread = step(files, stall)
    assert inside.wait(PATIENCE_SECONDS)
    pid = child(beside, normal_exit=normal_exit)
    go_on.set()
    thread.join()
    wait_for([pid])


def _start(action) -> threading.Thread:
    thread = threading.Thread(target=action)
    thread.start()
    return thread


def fork_while_closing(log):
    """Fork while another thread closes the log: the child's end closes nothing of the parent's."""

    def closing(files, stall):
        wal = open_log(log, policy="os", files=files)
        wal.put(b"k", b"v")
        files.stall("sync", stall, path=".seg")
        return _start(wal.close)

    _within(closing, lambda: None)
    with open_log(log, exclusive=True, lock_timeout_seconds=2) as wal:
        assert wal.current_position() == 1


def fork_while_reopening(log):
    """A forked child forks while another of its threads opens the inherited handle anew."""
    faulty = FaultyFiles()
    wal = open_log(log, policy="os", files=faulty)
    wal.put(b"k", b"v")

    def reopening(_, stall):
        faulty.stall("open", stall, path="control")
        return _start(lambda: wal.put(b"child", b"v"))

    def family():
        _within(reopening, lambda: wal.put(b"grandchild", b"v"), normal_exit=False)

    wait_for([child(family)])
    assert {record.key for record in wal.read_from(0)} == {b"k", b"child", b"grandchild"}
    wal.close()


def fork_beside_a_read_only_handle(log):
    """Fork while another thread is inside a read-only handle: the child's reader says whose it is,
    and the handle opens itself anew."""
    with open_log(log) as wal:
        wal.put(b"k", b"v")
    seen = {}

    def looking(files, stall):
        wal = seen["wal"] = open_log(log, files=files, read_only=True)
        seen["reader"] = wal.read_from(0)
        files.stall("read_into", stall, path="manifest")
        return _start(wal.current_position)

    def use_both():
        with contextlib.suppress(ClosedError):
            raise AssertionError(f"{next(seen['reader'])}, though it is the parent's")
        assert seen["wal"].current_position() == 1
        assert [record.key for record in seen["wal"]] == [b"k"]
        seen["wal"].close()

    _within(looking, use_both)
    assert [record.key for record in seen["reader"]] == [b"k"]
    seen["wal"].close()
