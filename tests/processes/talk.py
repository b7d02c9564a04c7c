"""How a worker process speaks with the tester, and waits for it."""

from __future__ import annotations

import json
import os
import socket
import time

from treering import FsyncPolicy, Wal

_mail: socket.socket | None = None


def connect(address: str) -> None:
    """Send messages there from now on."""
    global _mail
    _mail = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    _mail.connect(address)


def say(what: str, **more) -> None:
    """Send a message to whoever started this worker."""
    if _mail is not None:
        _mail.send(json.dumps({"pid": os.getpid(), "say": what, **more}).encode())


def opened(log: str, policy: str = "batch", **options) -> Wal:
    """The log as the tests open it, told to whoever listens."""
    wal = Wal.open(log, fsync_policy=FsyncPolicy.parse(policy), **options)
    say("open", state=wal.recovery.state, end=wal.current_position())
    return wal


def wait_for_gun(path: str) -> None:
    """Until the tester fires: several processes start at once, or one goes on."""
    while not os.path.exists(path):
        time.sleep(0.0005)


def fire(path: str) -> None:
    """Let all go on that wait for this gun."""
    with open(path, "wb"):
        pass
