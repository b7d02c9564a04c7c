"""Real processes in milliseconds: a nursery has treering imported and forks workers on request.

    with Nursery() as nursery:                       # or Nursery(pure=True)
        worker = nursery.start("hammer", log=path, …)    # runs tests.processes.workers.hammer(…)
        worker.hear("open")                              # wait for a message that it says
        worker.kill()                                    # SIGKILL, and gone at return

The nursery never opens a log, so its children inherit nothing. `run_alone` runs a task in an
interpreter of its own, from start to ordinary exit.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_SECONDS = 60.0


def is_pure() -> bool:
    """Whether this process runs the pure-Python twin."""
    from treering import backend

    return backend == "python"


def has_native() -> bool:
    """Whether the native twin is built, whatever this process runs."""
    return find_spec("treering._core._codec_c") is not None


def environment(pure: bool) -> dict[str, str]:
    """What a process of that twin needs to find treering and these modules."""
    import treering

    source = str(Path(treering.__file__).parents[1])
    known = {name: value for name, value in os.environ.items() if name != "TREERING_PURE"}
    path = os.pathsep.join([source, str(ROOT), *filter(None, [known.get("PYTHONPATH")])])
    known.update(PYTHONPATH=path, PYTHONDONTWRITEBYTECODE="1")
    return known | ({"TREERING_PURE": "1"} if pure else {})


def command(mode: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "tests.processes.workers", mode, *arguments]


def run_alone(task: str, *, pure: bool | None = None, prefix=(), env=(), **options):
    """The task's result, from an interpreter of its own; AssertionError if that failed."""
    pure = is_pure() if pure is None else pure
    process = subprocess.Popen(
        [*prefix, *command("run", task, json.dumps(options))],
        env=environment(pure) | dict(env),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, complaints = process.communicate(timeout=PATIENCE_SECONDS)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # and whatever it left behind
        process.wait()
    assert process.returncode == 0, f"{task}: exit {process.returncode}\n{out}{complaints}"
    return json.loads(out.splitlines()[-1])


def readable(descriptors: list[int], seconds: float) -> bool:
    """Whether one of them can be read (a pidfd: has ended), waiting for at most so long."""
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


class Worker:
    """A process that runs a task."""

    def __init__(self, nursery: Nursery, pid: int) -> None:
        self._nursery = nursery
        self.pid = pid
        self._end = os.pidfd_open(pid)
        self._status: int | None = None

    def signal(self, number: int) -> None:
        if self._status is None:
            signal.pidfd_send_signal(self._end, number)

    def kill(self) -> None:
        """SIGKILL; the process is gone at return."""
        self.signal(signal.SIGKILL)
        assert self.wait() in (-signal.SIGKILL, 0), self._nursery.complaints()

    def wait(self, seconds: float = PATIENCE_SECONDS) -> int:
        """The exit status once it has ended, negative for a signal."""
        if self._status is None:
            self._nursery.wait_until(lambda: self.ended, self._end, seconds, f"end of {self.pid}")
            self._status = self._nursery.reap(self.pid)
            os.close(self._end)
        return self._status

    def finish(self, seconds: float = PATIENCE_SECONDS) -> None:
        """Wait for its end, which must be a good one."""
        status = self.wait(seconds)
        assert status == 0, f"exit {status}: {self._nursery.complaints()}"

    @property
    def ended(self) -> bool:
        return self._status is not None or readable([self._end], 0)

    def hear(self, what: str, seconds: float = PATIENCE_SECONDS) -> dict:
        """The next message of that name from this process."""
        return self._nursery.hear(self, what, seconds)

    def heard_within(self, what: str, seconds: float) -> bool:
        """Whether such a message comes in this time: for what must not come."""
        until = time.monotonic() + seconds
        while not self.heard(what) and time.monotonic() < until:
            time.sleep(0.005)
        return self.heard(what)

    def heard(self, what: str) -> bool:
        """Whether such a message is there already."""
        return self._nursery.heard(self, what)


class Nursery:
    """Forks workers, hears their messages, and takes them all along when it goes."""

    def __init__(self, *, pure: bool | None = None) -> None:
        self.pure = is_pure() if pure is None else pure
        self._folder = tempfile.TemporaryDirectory(prefix="treering-")
        address = os.path.join(self._folder.name, "mail")
        self._mail = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._mail.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self._mail.bind(address)
        self._letters: list[dict] = []
        self._complaints: list[str] = []
        self._process = subprocess.Popen(
            command("nursery", address),
            env=environment(self.pure),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        assert self._ask({}) == {}, "the nursery does not answer"

    def __enter__(self) -> Nursery:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(PATIENCE_SECONDS)
        self._process.stdout.close()
        self._mail.close()
        self._folder.cleanup()

    def start(self, task: str, **options) -> Worker:
        return Worker(self, self._ask({"task": task, "options": options})["pid"])

    def reap(self, pid: int) -> int:
        """The exit status of a process that has ended."""
        status = self._ask({"reap": pid})["status"]
        self._collect()
        return status

    def complaints(self) -> str:
        """What workers died of, as far as they could say."""
        self._collect()
        return "\n".join(self._complaints)

    def hear(self, worker: Worker, what: str, seconds: float) -> dict:
        if not self.heard(worker, what):
            self.wait_until(
                lambda: self.heard(worker, what) or worker.ended,
                worker._end,
                seconds,
                f"{what!r} from {worker.pid}",
            )
        assert self.heard(worker, what), f"{worker.pid} ended: {self.complaints()}"
        found = next(x for x in self._letters if (x["pid"], x["say"]) == (worker.pid, what))
        self._letters.remove(found)
        return found

    def heard(self, worker: Worker, what: str) -> bool:
        self._collect()
        return any((x["pid"], x["say"]) == (worker.pid, what) for x in self._letters)

    def wait_until(self, done, end: int, seconds: float, what: str) -> None:
        """Until done(); looks again at every message, and at the end of the process."""
        until = time.monotonic() + seconds
        while not done():
            left = until - time.monotonic()
            assert left > 0, f"waited {seconds} s for {what}; {self.complaints()}"
            readable([end, self._mail.fileno()], left)

    def _collect(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                letter = json.loads(self._mail.recv(1 << 20, socket.MSG_DONTWAIT))
                if letter["say"] == "complaint":
                    self._complaints.append(f"{letter['pid']}: {letter['text']}")
                else:
                    self._letters.append(letter)

    def _ask(self, question: dict) -> dict:
        self._process.stdin.write(json.dumps(question).encode() + b"\n")
        answer = self._process.stdout.readline()
        assert answer, "the nursery died"
        return json.loads(answer)
