"""What treering does, shown on real logs with real processes: run it with `make demo`.

Every part shows one thing: processes work, some are killed with -9, what they had confirmed is
counted. The parts are modules beside this one, each with `show(folder)`, and with functions for the
processes that it starts.
"""

from __future__ import annotations

import importlib
import shutil
import sys
import tempfile
from pathlib import Path

from story import say

import treering

PARTS = {
    "log": "log",
    "key-value": "key_value",
    "events": "events",
    "messages": "messages",
    "jobs": "jobs",
    "database": "database",
    "raft": "raft",
    "sessions": "sessions",
    "cache": "cache",
    "metrics": "metrics",
    "pages": "pages",
    "views": "views",
    "documents": "documents",
    "blobs": "blobs",
}


def main() -> int:
    """Show all parts, or those that are named, in a temporary directory that is removed then."""
    if sys.argv[1:2] == ["--role"]:  # one of the processes that story.start starts
        part, role, *arguments = sys.argv[2:]
        return getattr(importlib.import_module(part), role)(*arguments)
    chosen = sys.argv[1:] or list(PARTS)
    if unknown := set(chosen) - set(PARTS):
        raise SystemExit(
            f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}"
        )
    folder = Path(tempfile.mkdtemp(prefix="treering-demo-"))
    say(f"treering {treering.__version__}, {treering.backend} build.")
    try:
        for name in chosen:
            importlib.import_module(PARTS[name]).show(folder / name)
    finally:
        shutil.rmtree(folder)
    say("Done. What you saw is promised in docs/durability.md and proven by `make test`.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
