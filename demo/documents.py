"""Documents that two processes edit until they are killed."""

from __future__ import annotations

import os
import time
from pathlib import Path

from story import check, last_line, say, start, tell

from treering.stores.documents import DocumentStore


def show(path: Path) -> None:
    """Documents that two processes edit until they are killed."""
    say("Documents: two processes edit one document of 20 KB; both are killed with -9.")
    with DocumentStore(path, indexes={"edits": "/edits"}) as store:
        store.put("page", {"edits": 0, "by": {}, "text": ["x" * 100] * 200})
        editors = [start(editor, path) for _ in range(2)]
        while store.get("page", path="/edits") < 100 or len(store.get("page", path="/by")) < 2:
            time.sleep(0.005)
        for process in editors:
            process.kill()
        confirmed = sum(int(last_line(process) or 0) for process in editors)
        page = store["page"]
        edits = page["edits"]
        check(confirmed <= edits <= confirmed + 4, f"{confirmed} edits confirmed, {edits} found")
        check(sum(page["by"].values()) == edits, "each of them whole: both its fields, or none")
        check(store.version("page") == edits + 1, "each made one version")
        check(store.get("page", version=51)["edits"] == 50, "version 51 as it was")
        stats = store.stats()
        each = [stats[name] // (edits + 1) for name in ("bytes_logged", "bytes_whole")]
        tell(f"{each[0]} bytes were logged for each version; whole documents would be {each[1]}")
        store.checkpoint()
        store.check()
    with DocumentStore(path) as store:
        check(store["page"] == page, "opened again, from a snapshot: the same document")
        check([found.id for found in store.find(edits=edits)] == ["page"], "found by its index")


def editor(path: str) -> int:
    """Edit for ever; print how many edits have returned."""
    with DocumentStore(path) as store:
        me = str(os.getpid())

        def edited(page: dict) -> dict:
            page["by"][me] = page["by"].get(me, 0) + 1
            return page | {"edits": page["edits"] + 1}

        for number in range(1, 1 << 30):
            store.update("page", edited)
            print(number, flush=True)
    return 0
