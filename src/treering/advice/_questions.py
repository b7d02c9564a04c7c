"""What is asked, and what may be answered."""

from __future__ import annotations

import dataclasses

QUESTIONS: dict[str, tuple[str, dict[str, str]]] = {
    "kind": (
        "What is kept?",
        {
            "log": "records of your own, in the order in which they came",
            "state": "values by key, changed one at a time",
            "events": "things that happened, from which state is derived",
            "jobs": "work that has to be done once",
            "messages": "messages that several consumers read, each at its own pace",
            "pages": "fixed-size blocks of a structure of your own, changed in transactions",
            "raft": "the entries and votes of a consensus protocol",
            "sessions": "who is logged in",
            "cache": "results that could be computed again",
            "metrics": "numbers over time",
            "files": "contents of 1 MiB and more",
            "documents": "JSON documents, changed a field at a time",
        },
    ),
    "durability": (
        "What may be lost?",
        {
            "power": "nothing that was confirmed, not even when the power fails",
            "window": "some milliseconds before a power failure",
            "process": "nothing when the program dies; the last seconds when the power fails",
            "minutes": "the last minutes",
            "none": "everything: it only has to live as long as the program",
        },
    ),
    "queries": (
        "How is it read?",
        {
            "replay": "in order, from a position or a time on",
            "key": "by key, or by ranges of keys",
            "fields": "by the values of some fields",
            "time": "by ranges of time, summed up",
            "sql": "by questions nobody knows yet: joins, groups, reports",
            "text": "by words in texts",
            "graph": "along relations, many steps far",
        },
    ),
    "writes": (
        "How is it written?",
        {
            "append": "new records are added, old ones stay or go as a whole",
            "update": "small parts of large values change all the time",
        },
    ),
    "memory": (
        "Does what is alive fit into memory?",
        {"fits": "yes", "keys": "its keys do, its values do not", "larger": "not even its keys"},
    ),
    "hosts": (
        "Which machines use it at the same time?",
        {"one": "one; any number of processes", "many": "several"},
    ),
}
"""The questions with a choice of answers: for each its words, and the answers with theirs."""

NUMBERS = {
    "record_bytes": "How many bytes has a large record?",
    "writes_per_second": "How many records are written in a second?",
}
"""The questions that a number answers."""

DEFAULTS = {
    "kind": "log",
    "durability": "power",
    "writes": "append",
    "memory": "fits",
    "hosts": "one",
}
# How each kind is usually read.
USUAL_QUERIES = {
    "log": "replay",
    "events": "replay",
    "jobs": "replay",
    "messages": "replay",
    "raft": "replay",
    "metrics": "time",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Answers:
    """What is known of the use; every question has its answer."""

    kind: str
    durability: str
    queries: str
    writes: str
    memory: str
    hosts: str
    record_bytes: int | None
    writes_per_second: float | None
