"""Runs the worker processes; what they do is in the modules of TASKS. `nursery.py` starts them.

python -m tests.processes.workers nursery ADDRESS      fork a worker per line on stdin
python -m tests.processes.workers run TASK OPTIONS     run one task; its result as JSON on stdout
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import json
import os
import signal
import sys
import traceback

from tests.processes import talk

TASKS = [
    importlib.import_module(f"tests.processes.{name}")
    for name in (
        "calls",
        "disks",
        "following",
        "forks",
        "signals",
        "steps",
        "stores",
        "tasks",
        "blobs_tasks",
        "cache_tasks",
        "documents_tasks",
        "events_tasks",
        "jobs_tasks",
        "messages_tasks",
        "metrics_tasks",
        "pages_tasks",
        "raft_tasks",
        "sessions_tasks",
        "views_tasks",
    )
]


def find(task: str):
    """The function of that name, wherever it is."""
    return next(getattr(module, task) for module in TASKS if hasattr(module, task))


def nursery(address: str) -> None:
    """Fork a worker for each question on stdin."""
    children: set[int] = set()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tester and for the workers
    while line := sys.stdin.buffer.readline():
        question = json.loads(line)
        answer = {}
        if "task" in question:
            pid = os.fork()
            if pid == 0:
                talk.connect(address)
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
        find(task)(**options)
    except BaseException:
        talk.say("complaint", text=traceback.format_exc())
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
            result = find(task)(**json.loads(options))
        except Exception:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)  # whatever threads there are
        print(json.dumps(result))


if __name__ == "__main__":
    main()
