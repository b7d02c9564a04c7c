"""What the worker processes do. `nursery.py` starts them.

python -m tests.processes.workers nursery ADDRESS      fork a worker per line on stdin
python -m tests.processes.workers run TASK OPTIONS     run one task; its result as JSON on stdout
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import signal
import socket
import sys
import threading
import time
import traceback
from random import Random

import treering
from tests.processes.forks import (  # noqa: F401 - tasks
    fork_a_pool,
    fork_exclusive,
    fork_in_a_crowd,
    fork_in_a_handler,
    fork_while_opening,
)
from tests.processes.records import Witness, Words, hammer, make
from tests.processes.steps import die, die_holding  # noqa: F401 - tasks
from treering import FsyncPolicy, Wal
from treering._core import format as fmt

_mail: socket.socket | None = None


def say(what: str, **more) -> None:
    """Send a message to whoever started this worker."""
    if _mail is not None:
        _mail.send(json.dumps({"pid": os.getpid(), "say": what, **more}).encode())


def opened(log: str, policy: str = "batch", **options) -> Wal:
    """The log as the tests open it, told to whoever listens."""
    wal = Wal.open(log, fsync_policy=FsyncPolicy.parse(policy), **options)
    say("open", state=wal.recovery.state, end=wal.current_position())
    return wal


# --- Writing --------------------------------------------------------------------------------------


def write(log, words, writers, seed, count=1 << 62, batches=0.1, gun="", **options):
    """Append as each of `writers`, a thread each, for ever or `count` records."""
    wal = opened(log, **options)
    if gun:
        _wait_for_gun(gun)
    counters = Words(words)
    jobs = [
        threading.Thread(
            target=_complain_if_it_raises(hammer),
            args=(wal, counters, writer, Random(f"{seed} {writer}")),
            kwargs={"count": count, "batches": batches},
        )
        for writer in writers
    ]
    for job in jobs[1:]:
        job.start()
    jobs[0].run()
    for job in jobs[1:]:
        job.join()
    wal.close()


def write_fast(log, words, writer, count, gun="", **options):
    """`count` small records, one put each, as fast as may be; says how long it took."""
    wal = opened(log, **options)
    counters = Words(words)
    records = [make(writer, sequence, length=8) for sequence in range(count)]
    put = wal.put
    if gun:
        _wait_for_gun(gun)
    started = time.monotonic()
    for key, value in records:
        put(key, value)
    ended = time.monotonic()
    counters[2 * writer] = counters[2 * writer + 1] = count
    say("wrote", started=started, ended=ended)
    wal.close()


def _wait_for_gun(path: str) -> None:
    """Until the tester writes into the FIFO: a starting gun for several processes."""
    gun = os.open(path, os.O_RDONLY)
    os.read(gun, 1)
    os.close(gun)


def _complain_if_it_raises(action):
    def run(*arguments, **options):
        try:
            action(*arguments, **options)
        except BaseException:
            say("complaint", text=traceback.format_exc())
            os._exit(1)

    return run


def seal_late(log, gun):
    """Fill the first segment, but write its footer only when the gun has fired."""
    wal = opened(log, segment_bytes_max=8192)
    chores = wal._engine.writer.chores
    chores._wake = lambda: None
    while wal._engine.control.load(fmt.WORD_TAIL_BASE) == 0:
        wal.put(*make(0, wal.current_position()))
    say("rolled", end=wal.current_position())
    _wait_for_gun(gun)
    chores._do_due()
    wal.close()


def begin_again(log, count, gun):
    """Cut everything away and append as much as there was; and more when the gun has fired."""
    wal = opened(log, policy="os", segment_bytes_max=64 << 10)
    wal.truncate_after(0)
    for sequence in range(count):
        wal.put(*make(1, sequence))
    say("overtaken")
    _wait_for_gun(gun)
    for sequence in range(count, 2 * count):
        wal.put(*make(1, sequence))
    Witness().see_all(wal)
    wal.close()


# --- Reading --------------------------------------------------------------------------------------


def follow(log, words, slot, start=0, until=None, timeout=None, durable_only=False, **options):
    """Follow the log and check every record; words[slot] tells how far we are, words[slot + 1] the
    digest of all that was seen, in order."""
    wal = opened(log, **options)
    counters = Words(words)
    witness = Witness(start)
    reader = wal.read_from(
        start, follow=True, timeout=timeout, stop=until, durable_only=durable_only
    )
    say("following")
    with reader:
        for record in reader:
            witness.see(record)
            counters[slot + 1] = witness.digest
            counters[slot] = witness.position
    say("end", position=witness.position, digest=witness.digest)
    wal.close()


def refusal(log, **options):
    """The name of the error that keeps us from opening the log, with what it says."""
    try:
        Wal.open(log, **options).close()
    except treering.TreeringError as error:
        return f"{type(error).__name__}: {error}"
    return ""


# --- Running them ---------------------------------------------------------------------------------


def nursery(address: str) -> None:
    """Fork a worker for each question on stdin."""
    global _mail
    children: set[int] = set()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tester and for the workers
    while line := sys.stdin.buffer.readline():
        question = json.loads(line)
        answer = {}
        if "task" in question:
            pid = os.fork()
            if pid == 0:
                _mail = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                _mail.connect(address)
                _work(question["task"], question["options"])
            children.add(pid)
            answer = {"pid": pid}
        elif "reap" in question:
            _, status = os.waitpid(question["reap"], 0)
            children.discard(question["reap"])
            answer = {"status": os.waitstatus_to_exitcode(status)}
        sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n")
        sys.stdout.buffer.flush()
    for pid in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _work(task: str, options: dict) -> None:
    """The whole life of a forked worker."""
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        globals()[task](**options)
    except BaseException:
        say("complaint", text=traceback.format_exc())
        os._exit(1)
    os._exit(0)


def main() -> None:
    mode, *arguments = sys.argv[1:]
    if mode == "nursery":
        nursery(*arguments)
    else:
        faulthandler.enable()
        task, options = arguments
        try:
            result = globals()[task](**json.loads(options))
        except Exception:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)  # whatever threads there are
        print(json.dumps(result))


if __name__ == "__main__":
    main()
