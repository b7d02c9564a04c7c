"""Sessions of web workers, one of which is killed."""

from __future__ import annotations

import time
from pathlib import Path

from story import check, say, start, tell

from treering.stores.sessions import SessionStore


def show(path: Path) -> None:
    """Sessions of web workers, one of which is killed."""
    say("Sessions: a web worker logs visitors in and out; it is killed with -9.")
    with SessionStore(path) as store:
        worker = start(web_worker, path)
        while store.count() < 150:
            time.sleep(0.005)
        worker.kill()
        text = worker.communicate(timeout=60)[0]
        told = [line.split() for line in text[: text.rfind("\n")].splitlines()]
        there = [id for what, id in told if what == "in"]
        over = {id for what, id in told if what == "out"}
        tell(f"it had told of {len(there)} logins and rotations, {len(over)} ids were over")
        alive = [id for id in there if id not in over]
        # Of its last call it could not tell.
        check(all(store.load(id) for id in alive[:-1]), f"{len(alive)} are logged in")
        check(not any(store.load(id) for id in over), "no id that was over came back")
    files = b"".join(file.read_bytes() for file in path.iterdir() if file.is_file())
    check(not any(id.encode() in files for id in there), "none of the ids is in the files")
    with SessionStore(path) as store:
        count = store.logout_everywhere("ada", durable=True)
        check(store.count("ada") == 0, f"ada was logged out everywhere: {count} sessions")
        store.check()


def web_worker(path: str) -> int:
    """Log visitors in, give some a new id, log some out; print what has returned."""
    with SessionStore(path) as store:
        for number in range(1 << 30):
            session = store.create({"visit": number}, user=("ada", "alan", "grace")[number % 3])
            print("in", session.id, flush=True)
            if number % 4 == 0:
                newer = store.rotate(session)
                print(f"out {session.id}\nin {newer.id}", flush=True)
            if number % 4 == 1:
                store.delete(session)
                print("out", session.id, flush=True)
    return 0
