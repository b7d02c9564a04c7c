"""The log of a Raft node that is killed."""

from __future__ import annotations

import time
from pathlib import Path

from story import check, last_words, say, start, tell

from treering.stores.raft import CommittedError, Entry, HardState, RaftLog


def show(path: Path) -> None:
    """The log of a Raft node that is killed."""
    say("A Raft log: a node wins a term, appends, commits, again and again; it is killed with -9.")
    process = start(node, path)
    assert process.stdout is not None
    process.stdout.readline()  # it is at work
    time.sleep(0.5)
    process.kill()
    term, commit = last_words(process)[-1]
    tell(f"it had confirmed term {term} with {commit} committed entries")
    with RaftLog(path) as log:
        found = log.hard_state
        check(term <= found.term <= term + 1, f"the log knows term {found.term}")
        check(commit <= found.commit <= log.last_index, f"{found.commit} committed entries")
        read = log.entries(log.first_index)
        check([e.index for e in read] == list(range(log.first_index, log.last_index + 1)), "no gap")
        try:
            log.append([Entry(found.commit, found.term + 1, b"another")], overwrite=True)
            check(False, "a committed entry was replaced")
        except CommittedError:
            check(True, "a committed entry cannot be replaced")
        log.compact(found.commit, b"the state machine", metadata=b"node")
        log.check()
    with RaftLog(path) as log:
        stored = log.snapshot()
        whole = stored is not None and stored.read() == b"the state machine"
        check(whole and log.hard_state == found, "opened again: the snapshot, and the same state")


def node(path: str) -> int:
    """Lead one term after the other; print each with its commit index, once that is durable."""
    with RaftLog(path) as log:
        for term in range(1, 1 << 30):
            first = log.last_index + 1
            entries = [Entry(i, term, b"set x %d" % i) for i in range(first, first + 10)]
            log.save(hard_state=HardState(term, "me", log.hard_state.commit))
            log.save(entries=entries, hard_state=HardState(term, "me", first + 9))
            print(term, first + 9, flush=True)
    return 0
