"""Measures treering against raw operations and against its peers: `make bench`.

python bench/run.py [--quick] [--only NAME] [--json FILE] [--large] [--folder DIR]
"""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import blobs
import cache
import core
import documents
import events
import groups
import jobs
import long
import messages
import metrics
import pages
import processes
import queues
import raft
import report
import sessions
import stores
import views
from harness import Context, Group, Progress, remove

MEASUREMENTS: dict[str, Callable[[Context], Group]] = {
    "append": core.append,
    "sustained": core.sustained,
    "processes": processes.together,
    "batch": core.batch,
    "durable": core.durable,
    "group": groups.group_commit,
    "replay": core.replay,
    "verify": core.verify,
    "open": processes.opening,
    "follow": processes.following,
    "memory": processes.memory,
    "pure": processes.pure,
    "latency": core.latency,
    "others": queues.others,
    "key-value": stores.key_value,
    "events": events.event_store,
    "messages": messages.messages,
    "job-queue": jobs.job_queue,
    "raft-log": raft.raft_log,
    "sessions": sessions.sessions,
    "cache": cache.cache,
    "metrics": metrics.metrics,
    "page-store": pages.page_store,
    "views": views.views,
    "documents": documents.documents,
    "blobs": blobs.blobs,
    "long": long.long,
}

# Roughly how many seconds each takes, for the progress bar.
WEIGHTS = {
    "append": 20.0,
    "sustained": 60.0,
    "processes": 40.0,
    "batch": 5.0,
    "durable": 40.0,
    "group": 120.0,
    "replay": 20.0,
    "verify": 5.0,
    "open": 30.0,
    "follow": 20.0,
    "memory": 30.0,
    "pure": 10.0,
    "latency": 20.0,
    "others": 10.0,
    "key-value": 60.0,
    "events": 90.0,
    "messages": 60.0,
    "job-queue": 30.0,
    "raft-log": 30.0,
    "sessions": 40.0,
    "cache": 30.0,
    "metrics": 40.0,
    "page-store": 15.0,
    "views": 40.0,
    "documents": 30.0,
    "blobs": 40.0,
    "long": 120.0,
}


def main() -> int:
    chosen = arguments()
    names = chosen.only or list(MEASUREMENTS)
    started = time.monotonic()
    base = chosen.folder or report.ROOT / ".cache" / "bench"
    base.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=base))
    progress = Progress(names, WEIGHTS)
    context = Context(folder, chosen.quick, chosen.large, progress)
    facts = report.machine(folder)
    measured = []
    try:
        for name in names:
            with progress.group(name):
                measured.append(MEASUREMENTS[name](context))
    finally:
        progress.close()
        remove(folder)
    facts["took"] = f"{time.monotonic() - started:.0f} s"
    facts["command"] = shlex.join(["python", "bench/run.py", *sys.argv[1:]])
    report.to_terminal(measured, facts)
    if chosen.json:
        report.to_json(measured, facts, chosen.json)
    if not chosen.quick and not chosen.only:
        report.to_page(measured, facts)
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a rough picture in under a minute")
    parser.add_argument(
        "--only",
        action="append",
        choices=list(MEASUREMENTS),
        metavar="NAME",
        help=f"only this one (may be repeated): {', '.join(MEASUREMENTS)}",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--large", action="store_true", help="also open a log of 10 GB")
    parser.add_argument(
        "--folder", type=Path, metavar="DIR", help="measure there (default: .cache/bench)"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
